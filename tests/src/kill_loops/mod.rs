//! Kill loops: a cluster under load whose processes are killed time and again, in one durability mode.
//!
//! # Chapter
//!
//! A loop kills a random replica of three with SIGKILL, starts it again, and waits until all are in sync, as a person would;
//! another kills all three at once, where the mode permits it. What must hold:
//!
//! - Clients fight for locks all the while, and an oracle knows who holds what: tokens rise, nobody holds what another does
//!   ([`Storm`](crate::lab::Storm)).
//! - What was acknowledged is never lost (`ledger`): locks taken before a kill are held after it, by the same session under the
//!   same token; counters that are guarded by nothing but a lock lose no increment.
//! - Each start is told in the member's log: what it found, how much it replayed and skipped, how it caught up, how long both
//!   took; the lines must fit each other, the mode, and the clock ([`Return`](crate::lab::Return)).
//! - At the end all replicas have executed the same ops to the same state, and no log has an error in it.
//!
//! # Limits of this implementation
//!
//! - Processes die, the machine does not: what was written and not flushed is there after a kill. Lost flushes are the simulator's part.
//! - No replica is killed before the last one is in sync again; the campaign's nemesis does that.

mod ledger;
mod run;
mod tally;

pub use run::{LoopSettings, run_loops};
pub use tally::Tally;
