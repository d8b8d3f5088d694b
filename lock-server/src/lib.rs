//! The Plumeria lock server.
//!
//! # Chapter
//!
//! [`machine`] is the replicated lock table: a pure core that executes ops and knows nothing of clients, clocks or threads.
//! Around it, [`Server`] is one member of a cluster:
//!
//! ```text
//!  clients ──▶ edge: hello, LockService ──ops──▶ rsm: replica thread ──▶ machine
//!     ▲          │ keep-alives                        │ pulse   │ effects
//!     │          └──────▶ ticker, sweeper ◀───────────┘         ▼
//!     └── callbacks ◀──────────────────────────── revoker, retryer (threads)
//! ```
//!
//! One socket takes members, clients and clients' callback connections, told apart by their first frame. A handler of a request owns
//! nothing: it submits ops, waits and translates. The **ticker** moves service time and renews leases. The **revoker** tells holders
//! that somebody waits for their lock, and repeats it until an op makes that moot; the **retryer** tells waiters that they were
//! granted. Neither owns a truth: a new primary derives all revokes from the state, and a client asks again for what it waits for.
//! What they decide is in [`primary`], as cores without clock or thread; the tasks and threads here drive them.
//!
//! On a port of its own, where one is asked for, a member tells machines its metrics and its health (module `metrics`).
//!
//! Each part says in its module why it is right.
//!
//! # Limits of this implementation
//!
//! - Without TLS there is no encryption and no authentication: it listens on loopback unless told otherwise.
//! - With it, a client is known by its certificate, but a session is not bound to one: who guesses another's session number can
//!   release its locks. Clients of one CA are to be trusted so far.
//! - Handshakes of TLS run on the thread that serves, some tenths of a millisecond each.
//! - Connections are limited in number, not per client; the memory of one is bounded by its calls under way.
//! - Members and clients share one runtime thread, so a flood of clients' requests delays heartbeats.
//! - A revoke leaves when the acquire that caused it is executed, not while it is still replicated.
//! - The rest: see [`machine`].
#![forbid(unsafe_code)]

pub mod machine;
pub mod mutant;
pub mod primary;

mod access;
mod application;
mod backup;
mod callbacks;
pub mod certificates;
mod clock;
mod collector;
mod command_line;
mod config;
#[cfg(feature = "break-points")]
mod control;
mod credentials;
mod dev;
mod edge;
mod flags;
mod logging;
mod member_list;
mod metrics;
mod restore;
mod retryer;
mod revoker;
#[cfg(test)]
mod scenarios;
mod server;
mod service_manager;
mod settings;
mod spans;
mod status;
mod tick;

pub use application::LockApplication;
pub use command_line::command_line;
pub use server::{ServeError, Server, ServerSettings};
