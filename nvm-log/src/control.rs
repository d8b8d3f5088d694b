//! The control record: everything that is replaced rather than appended, in one atomic write.
//!
//! Two slots are written in turn, the record with the higher sequence number wins; so a crash while one slot is written
//! leaves the other. Each slot holds the record twice, in pages that do not touch, so that a page that goes bad later costs
//! nothing. What two slots alone cannot tell is a record that was durable and then lost both copies: it looks like one that never
//! was, and the older slot would bring back a promise that had been replaced. The witness line therefore carries the newest sequence number
//! that was certainly durable; a lower one is damage, never an older truth.

use crate::layout::{CONTROL_BYTES, CONTROLS, LINE, checksum, id_at, put, u32_at, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::snapshot::Stored;
use crate::{Error, Part};

/// Largest blob that [`crate::Store::set_control`] takes, in bytes.
pub const CONTROL_MAX_BYTES: usize = 16 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"CTL1");
const HEADER: usize = 256;
const HAS_BLOB: u32 = 1;
const WITNESS_SYNC: u32 = 2;

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
    /// Ops known to be lost and not yet settled, first and last; zero for none.
    pub(crate) lost: (u64, u64),
    pub(crate) boot_id: [u8; 16],
    pub(crate) witness_sync: bool,
    /// What each snapshot area holds; the higher generation counts.
    pub(crate) snapshots: [Option<Stored>; 2],
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
        into.extend_from_slice(blob);
        let sum = checksum(salt, &into[8..]);
        put(into, 4, &sum.to_le_bytes());
    }

    /// `bytes` is a whole copy's space.
    fn decode(salt: u64, bytes: &[u8]) -> Option<Record> {
        let blob_len = u32_at(bytes, 16) as usize;
        if u32_at(bytes, 0) != MAGIC || blob_len > CONTROL_MAX_BYTES {
            return None;
        }
        if u32_at(bytes, 4) != checksum(salt, &bytes[8..HEADER + blob_len]) {
            return None;
        }
        let flags = u32_at(bytes, 20);
        let word = |index: usize| u64_at(bytes, 48 + 8 * index);
        // No store can get as far as this, and arithmetic on what passed cannot overflow.
        let positions = [word(0), word(1), word(5)];
        let ops = [word(2), word(6), word(7), word(8)];
        if positions.iter().any(|&at| at >= 1 << 62 || !at.is_multiple_of(LINE)) || ops.contains(&u64::MAX) {
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
            snapshots: [Stored::decode(&bytes[136..184]), Stored::decode(&bytes[184..232])],
            blob: (flags & HAS_BLOB != 0).then(|| bytes[HEADER..HEADER + blob_len].to_vec()),
        })
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
        let mut bytes = vec![0; CONTROL_BYTES as usize];
        let mut newest: Option<Record> = None;
        for at in CONTROLS.into_iter().flatten() {
            medium.read(at, &mut bytes).map_err(Error::io("reading the control record"))?;
            if let Some(found) = Record::decode(salt, &bytes)
                && newest.as_ref().is_none_or(|newest| newest.sequence < found.sequence)
            {
                newest = Some(found);
            }
        }
        newest.ok_or(Error::Damaged { part: Part::Control, detail: "no copy is whole" })
    }
}
