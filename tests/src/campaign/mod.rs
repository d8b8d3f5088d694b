//! The campaign: real server processes, each in a network of its own, and a nemesis.
//!
//! # Chapter
//!
//! As Jepsen's tests of etcd's locks do (Kingsbury, "etcd 3.4.3", 2020), clients take locks and guard something outside the service
//! with them, while members are killed, stopped, cut off and starved. What must hold is judged by what is outside:
//!
//! - [`Said`] is a client process's diary, on a clock that all share. No two guards that exclude each other are valid at a time, and
//!   tokens grow (`tenures.rs`).
//! - Two stores take writes under a lock: one that looks at tokens, one that looks at the time. In neither is an update lost
//!   (`stores.rs`).
//! - When everything is healed all members come in sync, with one state at one op; every client is granted something, finishes what
//!   it began, and closes; no member has ended that was not killed, or logged an error (`round.rs`).
//!
//! [`Fault`] is what is done, `nemesis.rs` does it, one seed for each round. `space.rs` makes namespaces that vanish with the
//! campaign; `network.rs` is the switch between them, on which every link in each direction is cut, slowed or lossy as the nemesis
//! likes. Where there are no namespaces a campaign on loopback can still kill and stop.
//!
//! # Limits of this implementation
//!
//! - The same seed draws the same faults, but real processes do not do the same twice.
//! - Members' clocks differ by a constant that is drawn at each start; none jumps while a process runs, for Linux lets nobody set
//!   them but CLOCK_REALTIME, and that is the machine's.
//! - A full disk is a small one, filled by another's file; a member on it may stop, and is started again.
//! - Machines do not lose power here: what was written is there after a kill, flushed or not. Lost flushes are the simulator's part.

mod client;
mod diary;
mod fault;
mod fleet;
mod ground;
mod nemesis;
mod network;
mod probe;
mod report;
mod round;
mod space;
mod stores;
mod tenures;

pub use client::{ClientSettings, run_client};
pub use diary::{Ask, Said, Told, Wish};
pub use fault::Fault;
pub use ground::Ground;
pub use report::Report;
pub use round::{RoundSettings, Violation, run_round};
pub use space::{Entered, Space, enter};
