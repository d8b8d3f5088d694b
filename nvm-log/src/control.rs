//! The control record: everything that is replaced rather than appended, in one atomic write.
//!
//! Two slots are written in turn, the record with the higher sequence number wins; so a crash while one slot is written
//! leaves the other. Each slot holds the record twice, in pages that do not touch, so that a page that goes bad later costs
//! nothing. What two slots alone cannot tell is a record that was durable and then lost both copies: it looks like one that never
//! was, and the older slot would bring back a promise that had been replaced. The witness line therefore carries the newest sequence number
//! that was certainly durable; a lower one is damage, never an older truth.

use crate::layout::{CONTROL_BYTES, CONTROLS, COUNT_END, checksum, id_at, is_possible_position, put, u32_at, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::snapshot::Stored;
use crate::{Error, Part};

/// Largest blob that [`crate::Store::set_control`] takes, in bytes.
pub const CONTROL_MAX_BYTES: usize = 16 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"CTL1");
const HEADER: usize = 512;
/// Pieces of damage that one log can lead around.
pub(crate) const BRIDGES_MAX: usize = 8;
const HAS_BLOB: u32 = 1;
const WITNESS_SYNC: u32 = 2;

const _: () = assert!(296 + 24 * BRIDGES_MAX <= HEADER);
const _: () = assert!((HEADER + CONTROL_MAX_BYTES) as u64 <= CONTROL_BYTES);

/// A place in the log: where the live part begins, and what the frame there must chain to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Position of the first live frame.
    pub(crate) position: u64,
    /// The log's last op before that frame.
    pub(crate) op: u64,
    /// The view of that op.
    pub(crate) view: u64,
    /// Header checksum of the frame before.
    pub(crate) previous: u32,
}

/// A way around damage: the log that has come to `from` goes on at `to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The header checksum that the frame there names as the one before it.
    pub(crate) previous: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Counts records since the store was formatted.
    pub(crate) sequence: u64,
    pub(crate) cluster: [u8; 16],
    /// Counts the times that the store was opened. Frames at or after `epoch_position` bear this epoch and no other.
    pub(crate) epoch: u32,
    pub(crate) epoch_position: u64,
    pub(crate) head: Head,
    /// Every frame before this position was durable when the record was written.
    pub(crate) durable_position: u64,
    /// The log's last op at that time.
    pub(crate) durable_op: u64,
    /// Ops before the head that no snapshot holds any more, first and last; zero for none.
    pub(crate) lost: (u64, u64),
    pub(crate) boot_id: [u8; 16],
    pub(crate) witness_sync: bool,
    /// What each snapshot area holds; the higher generation counts.
    pub(crate) snapshots: [Option<Stored>; 2],
    /// Where reading may begin with the snapshot of each area. A hint: what is read there must fit.
    pub(crate) starts: [Head; 2],
    /// At most [`BRIDGES_MAX`], in the order of the log.
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) blob: Option<Vec<u8>>,
}

impl Record {
    fn encode(&self, salt: u64, into: &mut Vec<u8>) {
        let blob = self.blob.as_deref().unwrap_or_default();
        into.clear();
        into.resize(HEADER, 0);
        let flags = u32::from(self.blob.is_some()) * HAS_BLOB + u32::from(self.witness_sync) * WITNESS_SYNC;
        put(into, 0, &MAGIC.to_le_bytes());
        put(into, 8, &self.sequence.to_le_bytes());
        put(into, 16, &(blob.len() as u32).to_le_bytes());
        put(into, 20, &flags.to_le_bytes());
        put(into, 24, &self.cluster);
        put(into, 40, &self.epoch.to_le_bytes());
        let words = [
            self.epoch_position,
            self.head.position,
            self.head.op,
            self.head.view,
            u64::from(self.head.previous),
            self.durable_position,
            self.durable_op,
            self.lost.0,
            self.lost.1,
        ];
        for (index, word) in words.iter().enumerate() {
            put(into, 48 + 8 * index, &word.to_le_bytes());
        }
        put(into, 120, &self.boot_id);
        for (index, stored) in self.snapshots.iter().enumerate() {
            put(into, 136 + 48 * index, &Stored::encode(stored.as_ref()));
        }
        for (index, start) in self.starts.iter().enumerate() {
            let words = [start.position, start.op, start.view, u64::from(start.previous)];
            words
                .iter()
                .enumerate()
                .for_each(|(word, value)| put(into, 232 + 32 * index + 8 * word, &value.to_le_bytes()));
        }
        for (index, bridge) in self.bridges.iter().enumerate() {
            let words = [bridge.from, bridge.to, u64::from(bridge.previous)];
            words
                .iter()
                .enumerate()
                .for_each(|(word, value)| put(into, 296 + 24 * index + 8 * word, &value.to_le_bytes()));
        }
        into.extend_from_slice(blob);
        let sum = checksum(salt, &into[8..]);
        put(into, 4, &sum.to_le_bytes());
    }

    /// `bytes` is header and blob.
    fn decode(salt: u64, bytes: &[u8]) -> Option<Record> {
        if u32_at(bytes, 4) != checksum(salt, &bytes[8..]) {
            return None;
        }
        let flags = u32_at(bytes, 20);
        let word = |index: usize| u64_at(bytes, 48 + 8 * index);
        let start = |at: usize| {
            let word = |index: usize| u64_at(bytes, at + 8 * index);
            Head { position: word(0), op: word(1), view: word(2), previous: word(3) as u32 }
        };
        let starts = [start(232), start(264)];
        let bridge = |index: usize| {
            let word = |word: usize| u64_at(bytes, 296 + 24 * index + 8 * word);
            Bridge { from: word(0), to: word(1), previous: word(2) as u32 }
        };
        let bridges: Vec<Bridge> = (0..BRIDGES_MAX).map(bridge).take_while(|bridge| bridge.from < bridge.to).collect();
        let snapshots = [Stored::decode(&bytes[136..184]), Stored::decode(&bytes[184..232])];
        let positions = [word(0), word(1), word(5), starts[0].position, starts[1].position];
        let ends = bridges.iter().flat_map(|bridge| [bridge.from, bridge.to]);
        let ops = [word(2), word(6), word(7), word(8), starts[0].op, starts[1].op];
        let ops = ops.into_iter().chain(snapshots.iter().flatten().map(|stored| stored.meta.op));
        let counts = snapshots.iter().flatten().map(|stored| stored.generation).chain([u64_at(bytes, 8)]);
        let is_out_of_reach = positions.into_iter().chain(ends).any(|at| !is_possible_position(at))
            || counts.into_iter().any(|count| count >= COUNT_END);
        if is_out_of_reach || ops.into_iter().any(|op| op == u64::MAX) {
            return None;
        }
        Some(Record {
            sequence: u64_at(bytes, 8),
            cluster: id_at(bytes, 24),
            epoch: u32_at(bytes, 40),
            epoch_position: word(0),
            head: Head { position: word(1), op: word(2), view: word(3), previous: word(4) as u32 },
            durable_position: word(5),
            durable_op: word(6),
            lost: (word(7), word(8)),
            boot_id: id_at(bytes, 120),
            witness_sync: flags & WITNESS_SYNC != 0,
            snapshots,
            starts,
            bridges,
            blob: (flags & HAS_BLOB != 0).then(|| bytes[HEADER..].to_vec()),
        })
    }

    /// The area that holds the newest snapshot.
    pub(crate) fn newest_snapshot(&self) -> Option<usize> {
        let generation = |area: usize| self.snapshots[area].map(|stored| stored.generation);
        (0..2).filter(|&area| generation(area).is_some()).max_by_key(|&area| generation(area))
    }

    /// Stores both copies of the record in its slot. The caller flushes before it believes in the record.
    pub(crate) fn write(&self, medium: &mut impl Medium, salt: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        self.encode(salt, buffer);
        let slot = if mutation::active(Mutation::SingleControlSlot) { 0 } else { (self.sequence & 1) as usize };
        for at in CONTROLS[slot] {
            medium.write(at, buffer).map_err(Error::io("writing the control record"))?;
        }
        Ok(())
    }

    /// The newest whole record.
    pub(crate) fn read(medium: &impl Medium, salt: u64) -> Result<Record, Error> {
        let mut newest: Option<Record> = None;
        for at in CONTROLS.into_iter().flatten() {
            if let Some(found) = Record::read_copy(medium, salt, at)?
                && newest.as_ref().is_none_or(|newest| newest.sequence < found.sequence)
            {
                newest = Some(found);
            }
        }
        newest.ok_or(Error::Damaged { part: Part::Control, detail: "no copy is whole" })
    }

    /// How many copies of this record are whole.
    pub(crate) fn whole_copies(medium: &impl Medium, salt: u64, sequence: u64) -> Result<usize, Error> {
        let mut whole = 0;
        for at in CONTROLS[(sequence & 1) as usize] {
            let copy = Record::read_copy(medium, salt, at)?;
            whole += usize::from(copy.is_some_and(|copy| copy.sequence == sequence));
        }
        Ok(whole)
    }

    fn read_copy(medium: &impl Medium, salt: u64, at: u64) -> Result<Option<Record>, Error> {
        let reading = Error::io("reading the control record");
        let mut bytes = vec![0; HEADER];
        medium.read(at, &mut bytes).map_err(&reading)?;
        let blob_len = u32_at(&bytes, 16) as usize;
        if u32_at(&bytes, 0) != MAGIC || blob_len > CONTROL_MAX_BYTES {
            return Ok(None);
        }
        bytes.resize(HEADER + blob_len, 0);
        medium.read(at + HEADER as u64, &mut bytes[HEADER..]).map_err(&reading)?;
        Ok(Record::decode(salt, &bytes))
    }
}
