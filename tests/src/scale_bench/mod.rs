//! The scale benchmark: many sessions that hold many locks, and what that costs the service.
//!
//! # Chapter
//!
//! A cluster of three is founded, and a crowd of sessions (`crowd.rs`), each a [`lock_client::LockClient`], fills it with held locks. At each
//! stage what a member uses is read from the system (`usage.rs`): memory before and after, CPU while nobody does anything but keep
//! his session. Then one client acquires one lock after the other and times each (`probe.rs`), while snapshots are taken, while a session with
//! very many locks expires (`expiry.rs`), and while the primary is changed by command, by restart and by SIGKILL (`outage.rs`). `run.rs` is
//! the order of it all. Each figure is a [`Row`], and rows are all that is printed and put into the guide (`table.rs`).
//!
//! # Limits of this implementation
//!
//! - All members, clients and the driver share one machine. The crowd's threads give way to all others, but where a thousand clients look for
//!   the new primary at once they are heard, too: times until all are served again are upper bounds.
//! - Memory of a member is what it has in anonymous pages: its tables, its copies of log and snapshot, and what its allocator keeps.
#![expect(clippy::disallowed_methods, reason = "real processes live in real time; the bans are for the simulator")]

mod crowd;
mod expiry;
mod outage;
mod probe;
mod run;
mod table;
mod usage;

pub use run::{Scale, run_scale};
pub use table::{Row, page_with, table};
