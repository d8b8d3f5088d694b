//! Real server processes, killed in every way: the labs' scenarios and more.
//!
//! # Chapter
//!
//! The yfs labs (MIT 6.824) come with two testers: `lock_tester`, clients that fight for locks, and `rsm_tester`, seventeen
//! scenarios in which replicas die. Both are known to pass with servers that are wrong: they count members of views and look at
//! one word of output. Here each scenario says exactly what is to come of it, and at its end all live members must have executed the
//! same ops to the same state, a fresh client must be refused what is held, and get what is let go.
//!
//! - [`Cluster`] starts, kills, restarts and asks members. They are the program `lock-server-under-test`: the lock server with break
//!   points, at which a member dies or is cut off.
//! - [`Storm`] is load; its [`Oracle`] knows who holds what without asking the service.
//! - [`Keeper`] holds a lock throughout each scenario.
//! - [`SCENARIOS`] are in `tests/lab/README.md` beside what the labs do.
//!
//! # Limits of this implementation
//!
//! - Messages between processes are neither lost nor reordered, except by a partition; that is the simulator's part.
//! - Linux only: each cluster has a loopback address of its own.
//! - A change of view that nobody asked for fails a scenario unless this process stood still meanwhile; a standstill of one
//!   member alone, by the medium say, can fail one for no fault of the servers.
#![expect(clippy::disallowed_methods, reason = "real processes live in real time; the bans are for the simulator")]

mod address;
mod agreement;
mod beyond;
mod cluster;
mod durability;
mod failure;
mod keeper;
mod load;
mod lock_tests;
mod oracle;
mod quiet;
mod raw;
mod recovery;
mod stage;
mod storm;
mod suite;

pub use agreement::{Agreed, Expected, view, views};
pub use beyond::monotonic;
pub use cluster::{Blow, Cluster, Place, last_words};
pub use durability::has_shared_memory;
pub(crate) use failure::wrong;
pub use failure::{Checked, Failure};
pub use keeper::Keeper;
pub use lock_tests::{LOCK_TESTS, LockTestSettings, run_lock_test};
pub use oracle::{Held, Oracle};
pub(crate) use recovery::outlives_process;
pub use recovery::{CaughtUp, Found, Return};
pub use stage::{Programs, Way};
pub use storm::{Storm, StormReport, StormSettings};
pub use suite::{SCENARIOS, Scenario, Verdict};
