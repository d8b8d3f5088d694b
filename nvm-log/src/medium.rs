//! What the store needs of a medium, and nothing more: a new back end is a new implementation of this trait.
//!
//! The contract is the weakest that every medium keeps, and the format is right on it:
//!
//! - A store (`write`) is seen at once by `read` of the same process.
//! - After a crash, every 8-byte aligned word of a store that was not followed by a successful `flush` holds either
//!   what was there before or what some later store put there, each word for itself.
//! - After `flush` returned, everything stored before it survives what the medium's [`Guarantee`] says.
//! - After `flush` failed, nothing is known about what was stored since the flush before it.

use std::io;

/// What survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// What was flushed survives loss of power.
    Durable,
    /// What was flushed survives the end of the process, and nothing more.
    Volatile,
}

/// A run of bytes that stays: the main file of a store, or one snapshot area.
pub trait Medium {
    /// Its size, in bytes.
    fn size(&self) -> u64;
    /// Grows or shrinks it. New bytes are zero. Durable with the next flush.
    fn resize(&mut self, size: u64) -> io::Result<()>;
    /// Reads exactly these bytes; an error if they are not all within the medium.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Stores bytes, within the medium's size. May survive a crash, or not, until the next flush.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable all that was stored before. After an error it must not be called again.
    fn flush(&mut self) -> io::Result<()>;
    /// Whether a store costs enough that frames should be gathered into one.
    fn gathers(&self) -> bool;
    /// What a flush is worth.
    fn guarantee(&self) -> Guarantee;
    /// The machine's present boot, or zero if nothing tells: what lay in memory before it is not trusted.
    fn boot_id(&self) -> [u8; 16] {
        crate::directory::boot_id()
    }
    /// The name of the back end, as in "file".
    fn name(&self) -> &'static str;
}

/// The three media of one store.
#[derive(Debug)]
pub struct Media<M> {
    /// Superblocks, witness lines, control slots and the ring.
    pub store: M,
    /// The two snapshot areas, a and b.
    pub areas: [M; 2],
}
