//! The Plumeria command line: commands under a lock, who holds what, how the cluster is, and what it can do.
//!
//! # Chapter
//!
//! `lockctl run NAME -- CMD` is what most people want of a lock service: a command that runs here and nowhere else. Three
//! things make it more than "take the lock, run, give it back":
//!
//! - **The command ends before the lock can pass on.** The client knows until when its lease is certainly good (the local
//!   deadline, which lies before the server's). If renewals stay away, the command's whole process group gets SIGTERM so long
//!   before that deadline that a grace remains, and SIGKILL a little before it. A wrapper that only notices the
//!   loss lets two commands run at once. The plan is `schedule`, a core without clock or process.
//! - **The lock is given back only when the group is gone**, not when its first process is.
//! - **The command dies with `lockctl`.** It is started through this same program, which asks the kernel for that
//!   (PR_SET_PDEATHSIG) and then becomes the command: see `launch`.
//!
//! What no wrapper can do is stop a machine that was itself stopped from running one instruction more. So the command
//! finds its fencing token in `LOCK_TOKEN`, and a resource that refuses smaller tokens is safe whatever happens.
//!
//! | file | what it knows |
//! |---|---|
//! | `arguments` | what a person can type, and the help |
//! | `failure` | exit statuses, and what a person is told |
//! | `dispatch` | from arguments to an exit status |
//! | `run`, `wish`, `waiting` | the guarded command; getting its locks; what is said meanwhile |
//! | `schedule`, `group`, `launch`, `terminal`, `program`, `signals` | when to end it, and the processes themselves |
//! | `status`, `locks`, `table` | what is shown |
//! | `force` | ending a tenure by force |
//! | `members` | changes of the list of members |
//! | `snapshot` | backups |
//! | `bench` | figures of a running cluster |
//!
//! # Limits of this implementation
//!
//! - Several names are taken one after the other, not in one step: a run that waits for the second holds the first.
//! - Processes that left the command's group are not ended with it, and only the command's first process dies with a
//!   `lockctl` that is killed with SIGKILL.
//! - A stopped `lockctl` guards nothing while it is stopped.
//! - Where a terminal stops background writers (`stty tostop`), a line of `lockctl` stops it while the command has the
//!   terminal.
//! - Linux only.
#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod dispatch;
mod failure;
mod force;
mod generate;
mod group;
mod kept;
mod launch;
mod locks;
mod members;
mod program;
mod run;
mod schedule;
mod signals;
mod snapshot;
mod status;
mod table;
mod terminal;
mod waiting;
mod watch;
mod wish;

pub use dispatch::main;
pub use failure::exit;
