//! The shell of a member: threads, clock, store and connections around the core.
//!
//! Nothing here decides anything about the protocol. Why it is right: each piece keeps one promise of
//! [`crate::Output`]'s contract, and no other piece can break it.
//!
//! - [`Node`] opens the store before anything is sent or served, and refuses one that is not whole.
//! - The *replica thread* is the only one that touches the core. It takes what waits, steps, settles once, and carries
//!   the output out in order; a message waits until the record that it names is durable.
//! - The *log writer* makes records durable in the order of their numbers, many with one flush: a thread round a
//!   [`RecordWriter`], which other shells use as it is (the simulator has a simulated medium under it).
//! - *Links* carry messages to the other members, and may lose any of them; so does the queue towards the replica
//!   thread when it is full. Commands are refused as busy instead.
//! - A fault (medium, divergence, panic) ends the member with one line; nothing of the failed step gets out.
//!
//! ```text
//!  submit, accept_peer ──▶ inbox ──▶ replica thread ──▶ log writer ──▶ store
//!                                     │    ▲  └ durable ◀────┘
//!                                     └▶ links ──▶ other members
//! ```
//!
//! # Limits of this implementation
//!
//! - A snapshot is written by the log writer's thread, or inline where there is none; records that come meanwhile wait.
//! - A log tail of which the store cannot tell whether it was torn or damaged ([`nvm_log::Outcome::Uncertain`]) is taken as torn, with a warning.
//! - A member whose log is damaged is down until it is repaired, for votes too, although its promises are whole.
//! - Damage that a scrub finds and that has no room for a repair stays until the next snapshot lets go of it.
//! - A member that was removed stays known to the others until they restart; then it is refused at the door, in one line.

mod answers;
mod assembly;
mod break_point;
mod durability;
mod epoch_store;
mod format;
mod guarding;
mod handle;
mod inbox;
mod incoming;
mod link;
mod log_writer;
mod node;
#[cfg(test)]
mod peer_tests;
mod peers;
mod promotion;
mod record_writer;
mod rejoin;
mod repair_thread;
mod replica_thread;
mod restoration;
mod restored_store;
mod ring_store;
mod stable_control;
mod statistics;
mod store;

pub use break_point::BreakPoint;
pub use durability::Durability;
pub use format::FormatError;
pub use handle::{Answer, Answers, Handle};
pub use incoming::PeerError;
pub use link::MemberService;
pub use node::{Node, NodeSettings, StartError};
pub use nvm_log::Backend;
pub use record_writer::RecordWriter;
pub use restoration::{CopyAnswer, CopyRequest};
pub use restored_store::{highest_op, make_restored_store};
pub use statistics::{Snapshots, Statistics};
pub use store::{Contents, RecordStore, Refusal, contents, identity_of, recovered};
