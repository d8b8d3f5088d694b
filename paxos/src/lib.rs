//! Single-decree Paxos for each of a chain of instances, without IO
#![forbid(unsafe_code)]

mod acceptor;
mod ballot;
mod message;
mod node;

pub use acceptor::Durable;
pub use ballot::{Ballot, MAX_ROUND, NodeId, Sender};
pub use message::{Effects, Message, Vote};
pub use node::{Decree, Node, ProposeError};
