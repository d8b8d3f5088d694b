//! The recovery benchmark: how long a replica that was killed takes until it acknowledges, and until it has caught up.
//!
//! # Chapter
//!
//! A [`Point`] is one durability mode with a size of the state and of the log. A cluster of three is founded, filled with held locks
//! until its state has that size (`fill.rs`), and put under load. Then a backup is killed, is away for a while, and is started
//! again; so some times (`run.rs`). Each start is a [`Row`] of what the member says of itself
//! ([`Return`](crate::lab::Return)) and what is seen from outside; a [`Timeline`] is what clients were granted meanwhile, second by second.
//! Rows are written as lines of JSON with the date and the machine, and plots and tables are made from those files only.
//!
//! # Limits of this implementation
//!
//! - All members, clients and the driver share one machine and its disk: a snapshot that is sent takes its time from everybody. Ratios
//!   of modes in one run mean more than times.
//! - What a killed process wrote is in the system's page cache when it starts again. After a loss of power files are read from
//!   the disk, which is slower.
//! - Persistent memory is stood in for by tmpfs, for the medium `tmpfs` of a point in the mode `nvm`.

mod fill;
mod row;
mod run;

pub use row::{Machine, Moment, Row, Timeline};
pub use run::{Medium, Outcome, Point, run_point};
