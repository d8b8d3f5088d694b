//! An append-only log, a control record and snapshots, on a file or in memory, that survive crashes and know damage from a torn write.
//!
//! # The chapter
//!
//! A replica must not forget what it has told others. It writes down three kinds of things: ops, in order ([`Store::append`]);
//! a few numbers that are replaced, such as a promise or a vote ([`Store::set_control`]); and now and then the whole state, so that
//! the ops before it can go ([`Store::begin_snapshot`], [`Store::finish_snapshot`], [`Store::release_prefix`]). Then it calls [`Store::flush`], and when that returns it may speak.
//!
//! This crate knows none of those words. To it an op is a number, a frame's body is bytes, and a view is a number beside the op.
//!
//! **The log** is a ring of [`Frame`]s. A frame commits itself by its checksums, so one flush makes a batch durable and no pointer
//! has to be written after it. Each frame carries its position, counted since the store was formatted, an epoch, and the checksum of the frame before; so what
//! an earlier lap or an earlier life left behind is never taken for part of the log. Nothing ever moves the tail back: dropping a suffix
//! ([`Store::truncate_after`]) appends a frame that says so.
//!
//! **The control record** is replaced atomically, in two slots by turns. It holds the caller's blob and where the log's live part
//! begins and which snapshot counts; so all of these change together or not at all ([`Store::install_snapshot`]).
//!
//! # What a crash leaves
//!
//! - Everything before the last flush that returned.
//! - Of what came after: the frames up to *some* frame, in the order of the calls, each whole or absent; a frame is never there without all before it.
//! - The control record of the last flush that returned, or a later one, whole. If it is a later one, then every frame that was appended before
//!   it was set is there too: a flush writes frames first, and the record only when they are durable. The converse does not hold: frames can be
//!   there and the record not. A caller that needs a record before a frame flushes between the two.
//! - The newest snapshot that was switched to, whole; or the one before, if the crash came first.
//!
//! [`Store::open`] then says in [`Recovery::outcome`] how whole the store is. Read [`Outcome`] before you use the frames.
//!
//! After a failed flush nothing is known, and the store refuses every later call ([`Error::Poisoned`]). Open it again.
//!
//! ```
//! use nvm_log::{Frame, Identity, Options, Outcome, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let dir = temporary.path();
//! let options = Options { ring_bytes: 1 << 20, ..Options::default() };
//! let identity = Identity { cluster: [0; 16], member: 1, incarnation: [7; 16] };
//! let mut store = Store::format(dir, &options, identity)?;
//! store.append(&Frame { view: 1, first_op: 1, count: 1, previous: (0, 0), body: b"first".to_vec(), kind: 0 })?;
//! store.set_control(b"promised view 1")?;
//! store.flush()?;
//! drop(store);
//!
//! let (_store, recovery) = Store::open(dir, &options)?;
//! assert_eq!(recovery.outcome, Outcome::Clean);
//! assert_eq!(recovery.frames[0].body, b"first");
//! assert_eq!(recovery.control.as_deref(), Some(&b"promised view 1"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # The code
//!
//! FORMAT.md is the only description of the bytes. [`Store`] is the whole; `ring` writes frames, `recovery` reads them, `control`, `witness`, `superblock`
//! and `snapshot` each own one part of the medium, [`medium`] is what a back end must be, and [`sim`] is one for tests that crashes at every point.
//!
//! # Limits of this implementation
//!
//! - Persistent memory is mapped through a file system on x86-64 only; elsewhere, and on a raw device, it is a file like any other. No
//!   real one was at hand: the instructions ran in a virtual machine, which keeps what a cache would lose.
//! - An opening reads up to 4 MiB beyond the log's end, to look for evidence of damage; after damage to a witness line, the whole ring.
//! - With [`Witness::Lazy`], damage to the frames of the very last flush before a loss of power can look like a torn tail. `close`, any later flush, or
//!   [`Witness::Sync`] leaves no doubt. On memory the line is stored at every 16th flush only, so the end of the process alone leaves the same doubt there.
//! - After damage that lost ops the log takes nothing but its repair ([`Store::repair`]) or a snapshot that replaces it.
//! - A scrub of a file reads what the kernel has cached of it: damage below shows only once the kernel has forgotten. It reads the newest snapshot
//!   only, for the other one may be written over at any time.
//! - A checksum is no signature. Whoever can write the medium can forge its contents; the worst that forged bytes do is to be believed.
//! - A store is not `Sync`, and one process writes it. Batches are gathered by the caller; frames that one flush covers are the group.
//! - A mapped file that someone shortens, or whose medium fails, ends the process: with a message and exit code 74, for the first 64 of them.

mod control;
mod dax;
mod directory;
mod error;
mod file;
mod frame;
mod layout;
mod mapping;
pub mod medium;
#[cfg(feature = "mutants")]
pub mod mutation;
#[cfg(not(feature = "mutants"))]
mod mutation;
mod opening;
mod options;
mod recovery;
mod repair;
mod ring;
mod scanner;
mod scrub;
mod shm;
pub mod sim;
mod snapshot;
mod statistics;
mod store;
mod superblock;
mod witness;

#[cfg(test)]
mod crash_tests;

pub use control::CONTROL_MAX_BYTES;
pub use dax::DaxMedium;
pub use directory::Native;
pub use error::{Error, Part};
pub use file::FileMedium;
pub use frame::Frame;
pub use options::{Backend, Options, Witness};
pub use recovery::{Outcome, Recovery, SnapshotMeta};
pub use scrub::{Finding, Scrubbed};
pub use shm::ShmMedium;
pub use statistics::Statistics;
pub use store::Store;
pub use superblock::Identity;
