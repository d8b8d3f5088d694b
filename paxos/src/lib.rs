//! Single-decree Paxos for each of a chain of instances, without IO
#![forbid(unsafe_code)]

mod acceptor;
mod ballot;
mod decree;
mod message;
#[cfg(any(test, feature = "mutants"))]
pub mod mutant;
#[cfg(not(any(test, feature = "mutants")))]
mod mutant;
mod node;
mod proposer;

pub use acceptor::Durable;
pub use ballot::{Ballot, MAX_ROUND, NodeId, Sender};
pub use decree::{Decree, MAX_ACCEPTORS};
pub use message::{Effects, Message, Vote};
pub use node::{Node, ProposeError};
