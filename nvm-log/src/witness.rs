//! The witness line: how far the log and the control record were certainly durable.
//!
//! A torn tail and a damaged one look the same: the bytes do not match the checksum. Only a word from elsewhere, that
//! those bytes had once been durable, tells them apart. The line is stored after each flush and becomes durable with the next one, so it costs
//! no flush of its own; with [`crate::Witness::Sync`] it is flushed at once and then leaves no doubt. Two lines are written in turn, in
//! different pages. At most one is ever unflushed, so the other one is whole.

use crate::Error;
use crate::layout::{WITNESSES, checksum, is_possible_position, put, u32_at, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};

const BYTES: usize = 64;
/// Sets a line apart from a frame's header, which has its checksum in the same place, over as many bytes.
const MARK: &[u8; 8] = b"WITNESS\n";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counts lines since the store was formatted.
    pub(crate) sequence: u64,
    pub(crate) epoch: u32,
    pub(crate) durable_position: u64,
    pub(crate) durable_op: u64,
    pub(crate) control_sequence: u64,
    /// Until a later line is durable, no frame is stored that ends beyond this position.
    pub(crate) reach: u64,
}

/// What the two lines of a store say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    /// The newest whole line and the other one.
    found: [Option<Line>; 2],
}

impl Lines {
    /// Reads both lines.
    pub(crate) fn read(medium: &impl Medium, salt: u64) -> Result<Lines, Error> {
        let mut found = [None; 2];
        for (line, at) in found.iter_mut().zip(WITNESSES) {
            let mut bytes = [0; BYTES];
            medium.read(at, &mut bytes).map_err(Error::io("reading the witness line"))?;
            let is_line = u32_at(&bytes, 0) == checksum(salt, &bytes[4..]) && &bytes[48..56] == MARK;
            let read = is_line.then(|| Line {
                sequence: u64_at(&bytes, 8),
                epoch: u32_at(&bytes, 4),
                durable_position: u64_at(&bytes, 16),
                durable_op: u64_at(&bytes, 24),
                control_sequence: u64_at(&bytes, 32),
                reach: u64_at(&bytes, 40),
            });
            let positions = |line: &Line| [line.durable_position, line.reach].into_iter().all(is_possible_position);
            *line = read.filter(|line| positions(line) && line.durable_op < u64::MAX);
        }
        found.sort_by_key(|line: &Option<Line>| std::cmp::Reverse(line.map(|line| line.sequence)));
        Ok(Lines { found })
    }

    /// Says nothing, and so is always true, if there is none.
    pub(crate) fn newest(&self) -> Option<Line> {
        self.found[0]
    }

    /// No frame was stored beyond. Only two lines that follow one another tell: the durable one is then among them.
    pub(crate) fn reach(&self) -> u64 {
        match self.found {
            [Some(newest), Some(other)] if newest.sequence == other.sequence.wrapping_add(1) => {
                newest.reach.max(other.reach)
            }
            [Some(newest), _] if mutation::active(Mutation::LoneReach) => newest.reach,
            _ => u64::MAX,
        }
    }
}

impl Line {
    /// How far frames may reach once this line is durable; before the first line, as far as they like.
    pub(crate) fn reach_or_all(&self) -> u64 {
        if self.sequence == 0 { u64::MAX } else { self.reach }
    }

    /// Stores the line over the older of the two.
    pub(crate) fn write(&self, medium: &mut impl Medium, salt: u64) -> Result<(), Error> {
        let mut bytes = [0; BYTES];
        put(&mut bytes, 4, &self.epoch.to_le_bytes());
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.durable_position.to_le_bytes());
        put(&mut bytes, 24, &self.durable_op.to_le_bytes());
        put(&mut bytes, 32, &self.control_sequence.to_le_bytes());
        put(&mut bytes, 40, &self.reach.to_le_bytes());
        put(&mut bytes, 48, MARK);
        let sum = checksum(salt, &bytes[4..]);
        put(&mut bytes, 0, &sum.to_le_bytes());
        medium.write(WITNESSES[(self.sequence & 1) as usize], &bytes).map_err(Error::io("writing the witness line"))
    }
}
