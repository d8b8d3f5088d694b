//! The witness line: how far the log and the control record were certainly durable.
//!
//! A torn tail and a damaged one look the same: the bytes do not match the checksum. Only a word from elsewhere, that
//! those bytes had once been durable, tells them apart. The line is stored after each flush and becomes durable with the next one, so it costs
//! no flush of its own; with [`crate::Witness::Sync`] it is flushed at once and then leaves no doubt. Two lines are written in turn, in
//! different pages. At most one is ever unflushed, so the other one is whole.

use crate::Error;
use crate::layout::{WITNESSES, checksum, put, u32_at, u64_at};
use crate::medium::Medium;

const BYTES: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counts lines since the store was formatted.
    pub(crate) sequence: u64,
    pub(crate) epoch: u32,
    pub(crate) durable_position: u64,
    pub(crate) durable_op: u64,
    pub(crate) control_sequence: u64,
}

impl Line {
    /// Stores the line over the older of the two.
    pub(crate) fn write(&self, medium: &mut impl Medium, salt: u64) -> Result<(), Error> {
        let mut bytes = [0; BYTES];
        put(&mut bytes, 4, &self.epoch.to_le_bytes());
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.durable_position.to_le_bytes());
        put(&mut bytes, 24, &self.durable_op.to_le_bytes());
        put(&mut bytes, 32, &self.control_sequence.to_le_bytes());
        let sum = checksum(salt, &bytes[4..]);
        put(&mut bytes, 0, &sum.to_le_bytes());
        medium.write(WITNESSES[(self.sequence & 1) as usize], &bytes).map_err(Error::io("writing the witness line"))
    }

    /// The newest whole line; all zero if there is none, which says nothing and so is always true.
    pub(crate) fn read(medium: &impl Medium, salt: u64) -> Result<Line, Error> {
        let mut newest = Line::default();
        for at in WITNESSES {
            let mut bytes = [0; BYTES];
            medium.read(at, &mut bytes).map_err(Error::io("reading the witness line"))?;
            let line = Line {
                sequence: u64_at(&bytes, 8),
                epoch: u32_at(&bytes, 4),
                durable_position: u64_at(&bytes, 16),
                durable_op: u64_at(&bytes, 24),
                control_sequence: u64_at(&bytes, 32),
            };
            if u32_at(&bytes, 0) == checksum(salt, &bytes[4..]) && line.sequence >= newest.sequence {
                newest = line;
            }
        }
        Ok(newest)
    }
}
