//! What every Plumeria connection has in common, below any service: where to dial ([`Endpoint`]), who says what first
//! ([`Hello`], [`Welcome`]), and how tarpc messages become bytes ([`transport`]).
//!
//! # Chapter
//!
//! One port of a server takes three kinds of connections, told apart by the [`Role`] in the first frame: another
//! *member* of the cluster, a *client* with requests, and a client's *callback* connection, on which the client serves
//! and the server asks (so that firewalls and NAT never stand between a revoke and the lock's holder).
//!
//! The hello comes before tarpc gets the socket, because tarpc closes a connection without a word at the first frame
//! that it cannot decode: versions, cluster and member are compared here, where a difference can be answered with a
//! sentence. After the welcome, frames are length-delimited (32 bits, big endian) and hold one message in
//! [postcard](https://postcard.jamesmunns.com/wire-format)'s documented format. Frames above the limit that the
//! reader set end the connection.
//!
//! With [`Tls`], all of this is said within TLS, and nothing else is taken on the port: both sides show certificates first (module `tls`
//! says what stands in them). Whether a certificate fits the hello is for the listener to check ([`Connection::bears`]).
//!
//! Message enums are append-only: a variant's number is its place, and both ends may be a version apart.
//!
//! # Limits of this implementation
//!
//! - Without [`Tls`] there is no encryption and no authentication: such a listener belongs on loopback or on a network that is trusted.
//! - Certificates are looked at when a connection is made: one that is open outlives its certificate's end, and there are no
//!   revocation lists.
//! - One protocol version at a time: a difference in [`VERSION`] is refused with both numbers.
#![forbid(unsafe_code)]

mod codec;
mod connection;
mod endpoint;
mod handshake;
mod hello;
mod tls;
#[cfg(test)]
mod tls_tests;

pub use codec::{MAX_FRAME_BYTES, Postcard, Transport, innermost, transport};
pub use connection::{Connection, DialError, Listener, dial, dial_with};
pub use endpoint::{Endpoint, EndpointError};
pub use hello::{HELLO_TIMEOUT, Hello, HelloError, Role, VERSION, Welcome};
pub use tls::{Expected, Tls, TlsError, TlsFiles, any_member_name, member_name};
