//! What the owner of a store chooses.

use std::fmt;

/// Where the store lives, and what its flush is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Ordinary files, written with `pwrite` and made durable with `fdatasync`. Survives loss of power, where the file system does.
    #[default]
    File,
    /// Files on tmpfs, mapped into memory. Survives the end of the process, and nothing more; never called durable.
    Shm,
}

impl Backend {
    pub(crate) fn code(self) -> u8 {
        match self {
            Backend::File => 1,
            Backend::Shm => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Backend> {
        match code {
            1 => Some(Backend::File),
            2 => Some(Backend::Shm),
            _ => None,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::File => "file",
            Backend::Shm => "shm",
        })
    }
}

/// When it is written down that a flush succeeded, which tells a damaged tail from a torn one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Witness {
    /// With the next flush: costs nothing. Damage to the very last flush before a loss of power may be taken for a torn tail.
    #[default]
    Lazy,
    /// At once: each flush costs a second one, and no doubt is left.
    Sync,
}

/// How to format or open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The back end. A store is opened with the one that it was formatted for.
    pub backend: Backend,
    /// Size of the ring, in bytes, a multiple of 4096 from 16 KiB to 64 GiB. Only for formatting.
    pub ring_bytes: u64,
    /// When the witness line is flushed.
    pub witness: Witness,
    /// Map the file back end's file where it lies on persistent memory. Without, it is written as a file there as well.
    pub may_map: bool,
    /// Begin reading at the first batch that the newest snapshot does not contain, and leave out the frames before it. Only for opening.
    pub skip_covered: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            backend: Backend::File,
            ring_bytes: 64 << 20,
            witness: Witness::Lazy,
            may_map: true,
            skip_covered: false,
        }
    }
}
