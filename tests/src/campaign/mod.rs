//! The campaign: real server processes, each in a network of its own, and a nemesis.
//!
//! # Chapter
//!
//! As Jepsen's tests of etcd's locks do (Kingsbury, "etcd 3.4.3", 2020), clients take locks and guard something outside the service
//! with them, while members are killed, stopped, cut off and starved. What must hold is judged by what is outside:
//!
//! - [`Said`] is a client process's diary, on a clock that all share. `calls.rs` takes it down as a history, guard by guard, and
//!   the checker of [`locks`](crate::linearizability::locks) has to find it linearizable.
//! - Two stores take writes under a lock: one that looks at tokens, one that looks at the time. In neither is an update lost
//!   (`stores.rs`).
//! - When everything is healed all members come in sync, with one state at one op; every client is granted something, finishes what
//!   it began, and closes; no member has ended that was not killed, or logged an error (`round.rs`).
//!
//! Each round is in one of the durability modes ([`rsm::Durability`]), in which the nemesis does what the mode is to survive.
//!
//! [`Fault`] is what is done, `nemesis.rs` does it, one seed for each round. `space.rs` makes namespaces that vanish with the
//! campaign; `network.rs` is the switch between them, on which every link in each direction is cut, slowed, lossy or in disorder as
//! the nemesis likes. `operator.rs` has members added, removed and replaced meanwhile. Where there are no namespaces a campaign on
//! loopback can still kill, stop, and change the list of members.
//!
//! # Limits of this implementation
//!
//! - The same seed draws the same faults, but real processes do not do the same twice.
//! - Members' monotonic clocks differ by a constant that is drawn at each start, and so goes back as often as forth: no such time may
//!   outlive a process, or be compared with another's. Clients find a machine that was suspended for longer each time. No clock jumps
//!   while a process runs: Linux lets nobody set one but CLOCK_REALTIME, which all namespaces share, and that is the machine's. The
//!   nearest to it is a process that is stopped, and goes on; jumps of both clocks are among the client's scripts and the simulator's.
//! - A change that the members refuse for as long as all is well is given up, and counts as a fault but not as a change. A member is
//!   added at an address of its own, and replaced at the one that it had.
//! - A search that gives up leaves a round undecided; the report counts those. What is certain without a search is looked at in all.
//! - A full disk is a small one, filled by another's file; a member on it may stop, and is started again.
//! - Machines do not lose power here: what was written is there after a kill, flushed or not. Lost flushes are the simulator's part. What a
//!   host has in memory is lost where a mode keeps a log there, by the removal of its directory.
//! - Where logs are in memory a member loses its own only while all others are in sync, and three at least. A majority that loses its memory
//!   at once is more than those modes survive; that they then found no second cluster is a test of rsm.

mod calls;
mod client;
mod diary;
mod fault;
mod fleet;
mod ground;
mod nemesis;
mod network;
mod operator;
mod probe;
mod report;
mod round;
mod space;
mod stores;

pub use client::{ClientSettings, run_client};
pub use diary::{Ask, Said, Told, Wish};
pub use fault::Fault;
pub use ground::Ground;
pub use report::Report;
pub use round::{RoundSettings, Violation, run_round};
pub use space::{Entered, Space, enter};
