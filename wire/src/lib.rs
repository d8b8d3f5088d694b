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
//! Message enums are append-only: a variant's number is its place, and both ends may be a version apart.
//!
//! # Limits of this implementation
//!
//! - No encryption and no authentication: a listener belongs on loopback or on a network that is trusted.
//! - One protocol version at a time: a difference in [`VERSION`] is refused with both numbers.
#![forbid(unsafe_code)]

mod codec;
mod connection;
mod endpoint;
mod hello;

pub use codec::{MAX_FRAME_BYTES, Postcard, Transport, innermost, transport};
pub use connection::{Connection, DialError, Listener, dial};
pub use endpoint::{Endpoint, EndpointError};
pub use hello::{HELLO_TIMEOUT, Hello, HelloError, Role, VERSION, Welcome};
