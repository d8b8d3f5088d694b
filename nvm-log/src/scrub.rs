//! The background scrub: reads a piece of what should be durable at each call, and reports what is damaged while peers still have it.
//!
//! Why it is right: it compares the medium with what the process knows of it, the checksum of each frame's header, and changes nothing
//! there. A frame that is not flushed yet is left out, and so is space that may be overwritten. A snapshot is read chunk by chunk; one that is
//! switched to meanwhile is read from its beginning.

use std::ops::RangeInclusive;

use crate::control::Record;
use crate::frame::{Class, HEADER, Header};
use crate::layout::{LINE, checksum, u32_at};
use crate::medium::Medium;
use crate::repair::Damage;
use crate::snapshot;
use crate::superblock::Superblock;
use crate::{Error, Store};

/// Something that was durable and is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Frames of the log. [`Store::repair`] takes the log from the first of these ops on; or write a snapshot and release them.
    Log {
        /// The ops that depend on the damaged frames.
        ops: RangeInclusive<u64>,
    },
    /// The newest snapshot. Write it again, or a later one: it goes where the older one is.
    Snapshot {
        /// Its op.
        op: u64,
    },
    /// A copy of the control record. The next flush writes the record again, elsewhere.
    Control,
    /// A copy of the superblock. Put right at once from the other copy.
    Superblock,
}

/// What one call of [`Store::scrub`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// The end was reached: the next call begins again.
    pub is_round: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// Where the scrub goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrubber {
    /// The next frame to read; before the head means at the head.
    position: u64,
    /// The next chunk of a snapshot; none while the log is being read.
    chunk: Option<Chunk>,
    buffer: Vec<u8>,
}

/// A place in the newest snapshot.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    generation: u64,
    index: u64,
}

/// A stretch of the ring that holds whole frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) position: u64,
    pub(crate) end: u64,
    /// Header checksum of the frame before.
    pub(crate) previous: u32,
    /// Header checksum of its last frame.
    pub(crate) sum: u32,
}

impl<M: Medium> Store<M> {
    /// Reads so many bytes of the log, then of the newest snapshot, and checks them, at least one frame or chunk; at the end of a round also the
    /// control record and the superblock.
    pub fn scrub(&mut self, budget_bytes: u64) -> Result<Scrubbed, Error> {
        self.check()?;
        let mut scrubbed = Scrubbed::default();
        let result = match self.scrubber.chunk {
            None => self.scrub_log(budget_bytes, &mut scrubbed),
            Some(chunk) => self.scrub_snapshot(chunk, budget_bytes, &mut scrubbed),
        };
        self.poison_on_io(result)?;
        if scrubbed.is_round {
            let result = self.scrub_fixed(&mut scrubbed);
            self.poison_on_io(result)?;
        }
        self.counters.scrubbed_bytes += scrubbed.bytes;
        self.counters.scrub_findings += scrubbed.findings.len() as u64;
        Ok(scrubbed)
    }

    fn scrub_log(&mut self, budget_bytes: u64, scrubbed: &mut Scrubbed) -> Result<(), Error> {
        while scrubbed.bytes < budget_bytes.max(1) {
            let Some(stretch) = self.ring.stretch_at(self.scrubber.position) else {
                self.scrubber.position = 0;
                self.scrubber.chunk = Some(Chunk::default());
                return Ok(());
            };
            let is_whole = self.is_whole(stretch)?;
            if !is_whole {
                let first_op = self.ring.lowest_from(stretch.position) + 1;
                let last_op = self.last_op().max(first_op);
                scrubbed.findings.push(Finding::Log { ops: first_op..=last_op });
                // The first damage in the log is what a repair leads around; all others lie behind it.
                let position = Some(stretch.position);
                if self.damage.is_none_or(|known| known.position > position) {
                    self.damage = Some(Damage { first_op, last_op, position });
                }
            }
            scrubbed.bytes += stretch.end - stretch.position;
            self.scrubber.position = stretch.end;
        }
        Ok(())
    }

    /// The newest snapshot: the other one may have been written over in part already.
    fn scrub_snapshot(&mut self, chunk: Chunk, budget_bytes: u64, scrubbed: &mut Scrubbed) -> Result<(), Error> {
        let newest = self.newest().and_then(|area| Some((area, self.record.snapshots[area]?)));
        let Some((area, stored)) = newest else {
            self.end_round(scrubbed);
            return Ok(());
        };
        let mut index = if stored.generation == chunk.generation { chunk.index } else { 0 };
        while scrubbed.bytes < budget_bytes.max(1) {
            if index > snapshot::chunks(stored.bytes) {
                self.end_round(scrubbed);
                break;
            }
            let (salt, buffer) = (self.superblock.salt, &mut self.scrubber.buffer);
            let (bytes, is_whole) = snapshot::check(&self.media.areas[area], salt, &stored, index, buffer)?;
            scrubbed.bytes += bytes;
            if !is_whole {
                scrubbed.findings.push(Finding::Snapshot { op: stored.meta.op });
                self.end_round(scrubbed);
                break;
            }
            index += 1;
            self.scrubber.chunk = Some(Chunk { generation: stored.generation, index });
        }
        Ok(())
    }

    fn end_round(&mut self, scrubbed: &mut Scrubbed) {
        self.scrubber.chunk = None;
        scrubbed.is_round = true;
    }

    /// Whether the frames of a stretch are those that were written.
    fn is_whole(&mut self, stretch: Stretch) -> Result<bool, Error> {
        let geometry = self.superblock.geometry;
        let (mut position, mut previous) = (stretch.position, stretch.previous);
        while position < stretch.end {
            if let Some(bridge) = self.record.bridges.iter().find(|bridge| bridge.from == position) {
                (position, previous) = (bridge.to, bridge.previous);
                continue;
            }
            let Some((header, sum)) = self.frame_at(position, HEADER as u64)? else { return Ok(false) };
            let fits = header.position == position && header.length() <= geometry.bytes_to_end(position);
            if header.previous != previous || !fits {
                return Ok(false);
            }
            if header.class == Class::Batch {
                self.read_ring(position, header.length())?;
                let body = &self.scrubber.buffer[HEADER..HEADER + header.body_len as usize];
                if checksum(self.superblock.salt, body) != header.body_sum {
                    return Ok(false);
                }
            }
            (position, previous) = (position + header.length(), sum);
        }
        Ok(position == stretch.end && previous == stretch.sum)
    }

    fn frame_at(&mut self, position: u64, len: u64) -> Result<Option<(Header, u32)>, Error> {
        self.read_ring(position, len)?;
        let header = Header::decode(self.superblock.salt, self.superblock.geometry, &self.scrubber.buffer[..HEADER]);
        Ok(header.map(|header| (header, u32_at(&self.scrubber.buffer, 0))))
    }

    fn read_ring(&mut self, position: u64, len: u64) -> Result<(), Error> {
        self.scrubber.buffer.resize(len.max(LINE) as usize, 0);
        let offset = self.superblock.geometry.offset(position);
        self.media.store.read(offset, &mut self.scrubber.buffer).map_err(Error::io("scrubbing the log"))
    }

    fn scrub_fixed(&mut self, scrubbed: &mut Scrubbed) -> Result<(), Error> {
        let copies = Record::whole_copies(&self.media.store, self.superblock.salt, self.record.sequence)?;
        if copies < 2 {
            scrubbed.findings.push(Finding::Control);
            self.control_pending = true;
        }
        if Superblock::read(&mut self.media.store)?.1 {
            scrubbed.findings.push(Finding::Superblock);
        }
        Ok(())
    }
}
