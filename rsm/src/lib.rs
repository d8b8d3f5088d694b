//! A replicated state machine.

mod control;
mod entry;
mod ids;
mod interface;
pub mod limits;
mod log;
mod message;
#[cfg(any(test, feature = "mutants"))]
pub mod mutant;
mod replica;
mod shell;
mod state_machine;
mod view;

pub use control::{Control, Identity};
pub use entry::{Entry, Payload};
pub use ids::{ClusterId, Incarnation, MemberId, Viewstamp};
pub use interface::{
    Input, Micros, Output, Record, Recovered, Rejection, Send, Settings, SnapshotImage, Status, Tag, Timing, Token,
};
pub use message::{Envelope, Founding, Health, Message};
pub use replica::Replica;
pub use shell::{
    Answer, Answers, Backend, BreakPoint, FormatError, Handle, MemberService, Node, NodeSettings, PeerError, StartError,
};
pub use state_machine::{Application, StateMachine};
pub use view::{Kind, MEMBERS_MAX, Slot, Standing, View};
