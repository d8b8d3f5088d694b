//! What can go wrong. Every message is one line that names the cause and says what to do.

use std::io;
use std::path::PathBuf;

use crate::Backend;

/// The part of a store that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Both copies of the superblock.
    Superblock,
    /// The control record: either no copy is whole, or the newest one that was durable is gone.
    Control,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Part::Superblock => "superblock",
            Part::Control => "control record",
        })
    }
}

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory holds no store.
    #[error("no store in {}: format one there, or name the directory that holds it", dir.display())]
    NotFound {
        /// The directory that was asked for.
        dir: PathBuf,
    },
    /// A store, or what remains of one, is in the way of formatting.
    #[error("{} already holds a store: open it, or choose an empty directory (nothing was overwritten)", dir.display())]
    Exists {
        /// The directory that was asked for.
        dir: PathBuf,
    },
    /// Another open store, in this process or another, holds the lock.
    #[error("the store in {} is in use{}: stop that process first", dir.display(), by_process(*pid))]
    Locked {
        /// The directory that was asked for.
        dir: PathBuf,
        /// The process that holds the lock, where the system tells.
        pid: Option<u32>,
    },
    /// The `Shm` back end was asked for on a file system that is not in memory.
    #[error("{} is not on tmpfs: choose a directory under /dev/shm, or the file back end", dir.display())]
    NotTmpfs {
        /// The directory that was asked for.
        dir: PathBuf,
    },
    /// A volatile store that was written before the machine last started.
    #[error(
        "the volatile store was written before this machine last started, and cannot be trusted: remove it and format a new one, as a new incarnation"
    )]
    OtherBoot,
    /// The store was formatted for another back end.
    #[error("the store was formatted for the {stored} back end, not {asked}: open it with {stored}")]
    OtherBackend {
        /// What the superblock says.
        stored: Backend,
        /// What the options say.
        asked: Backend,
    },
    /// The store was written in a version of the format that this program does not know.
    #[error("the store has format version {found}, this program knows {known}: use a program of that version")]
    Version {
        /// The version on the medium.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// What must be whole for the store to be believed at all is not. The promises it held are lost.
    #[error("the {part} is damaged ({detail}): move the directory away and format a new store, as a new incarnation")]
    Damaged {
        /// Which part.
        part: Part,
        /// What was seen.
        detail: &'static str,
    },
    /// The medium failed. The store refuses every later call: a failed flush is never tried again, for the kernel may
    /// have dropped the data and call the next flush a success.
    #[error("{doing} failed: {source}: check the medium, then restart")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file system has no room for a new store. Nothing of it was left there.
    #[error("no room in {} for a store of {bytes} bytes: free some, or choose a smaller log", dir.display())]
    NoRoom {
        /// The directory that was asked for.
        dir: PathBuf,
        /// Size of the store without its snapshots.
        bytes: u64,
    },
    /// The file system has no room for a snapshot. Nothing was switched, and the store still works.
    #[error("no room on the file system to write a snapshot of {bytes} bytes: free some, then try again")]
    NoSpace {
        /// Size of the snapshot.
        bytes: u64,
    },
    /// A call after an earlier [`Error::Io`].
    #[error("the store stopped after an earlier failure of its medium: restart to recover")]
    Poisoned,
    /// The ring has no room for the frame. Nothing was written.
    #[error("the log is full ({need_bytes} bytes needed, {free_bytes} free): write a snapshot and release the prefix")]
    Full {
        /// What the frame takes, with padding at the end of the ring.
        need_bytes: u64,
        /// What is free, see [`crate::Store::free_bytes`].
        free_bytes: u64,
    },
    /// A frame body or a control blob over its limit. Nothing was written.
    #[error("the {what} has {bytes} bytes, over the limit of {limit_bytes}: make it smaller")]
    TooLarge {
        /// Frame body, or control blob.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Ops of the log were found damaged at the opening. Until they are repaired the log takes nothing else.
    #[error("ops {first_op} to {last_op} of the log are damaged: repair them from a peer, or install a snapshot")]
    Unrepaired {
        /// The first op that may be missing.
        first_op: u64,
        /// The log's last op, as far as it is known.
        last_op: u64,
    },
    /// The size of the ring asked for cannot be had.
    #[error("the ring cannot have {bytes} bytes: choose a multiple of 4096 from 16384 to 68719476736")]
    RingSize {
        /// What was asked for.
        bytes: u64,
    },
    /// A frame that does not follow the last op, or holds none. Nothing was written.
    #[error(
        "the frame starts at op {first_op} with {count} ops after op {previous_op}, but the log ends at op {last_op}: append what follows, or truncate first"
    )]
    NotContiguous {
        /// First op of the frame.
        first_op: u64,
        /// Ops in the frame.
        count: u32,
        /// The op that the frame names as its predecessor.
        previous_op: u64,
        /// The log's last op.
        last_op: u64,
    },
    /// A part of a snapshot that was not begun, or is finished. Nothing was written.
    #[error("no snapshot is under way: begin one")]
    NoSnapshot,
    /// An op outside what the call may name. Nothing was written.
    #[error("cannot {doing} op {op}: only ops from {low} to {high} are possible")]
    OutOfRange {
        /// What was asked.
        doing: &'static str,
        /// The op that was named.
        op: u64,
        /// Lowest op possible.
        low: u64,
        /// Highest op possible.
        high: u64,
    },
}

impl Error {
    /// For `map_err`: what was being done when the medium failed.
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Io { doing, source }
    }
}

fn by_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line_that_says_what_to_do() {
        let dir = PathBuf::from("/data/m1");
        let all = [
            Error::NotFound { dir: dir.clone() },
            Error::Exists { dir: dir.clone() },
            Error::Locked { dir: dir.clone(), pid: Some(7) },
            Error::Locked { dir: dir.clone(), pid: None },
            Error::NotTmpfs { dir: dir.clone() },
            Error::NoRoom { dir, bytes: 1 },
            Error::OtherBoot,
            Error::OtherBackend { stored: Backend::Shm, asked: Backend::File },
            Error::Version { found: 9, known: 1 },
            Error::Damaged { part: Part::Control, detail: "no copy is whole" },
            Error::Io { doing: "flush", source: io::Error::other("gone") },
            Error::NoSpace { bytes: 1 },
            Error::Poisoned,
            Error::Full { need_bytes: 2, free_bytes: 1 },
            Error::TooLarge { what: "control blob", bytes: 2, limit_bytes: 1 },
            Error::Unrepaired { first_op: 3, last_op: 5 },
            Error::RingSize { bytes: 3 },
            Error::NotContiguous { first_op: 3, count: 1, previous_op: 2, last_op: 1 },
            Error::NoSnapshot,
            Error::OutOfRange { doing: "release", op: 9, low: 1, high: 2 },
        ];
        for error in all {
            let text = error.to_string();
            assert!(!text.contains('\n') && (text.contains(": ") || text.contains("only ops")), "{text}");
        }
        let locked = Error::Locked { dir: PathBuf::from("/data/m1"), pid: Some(7) }.to_string();
        assert_eq!(locked, "the store in /data/m1 is in use by process 7: stop that process first");
    }
}
