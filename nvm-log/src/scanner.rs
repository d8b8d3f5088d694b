//! Reads frames off the ring: the next one of a chain, the next whole one after damage, and the signs of a tail.
//!
//! Why a frame found after damage is one of the log: below the durable end every byte was written by the log's own frames, one after the
//! other, padding included. So a whole frame that names the position where it lies is one of them. Only what lies beyond the durable
//! end can be left from a tail that was dropped.

use crate::Error;
use crate::control::{Bridge, Record};
use crate::frame::{Class, HEADER, Header};
use crate::layout::{Geometry, LINE, checksum, u32_at, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};

/// Bytes read at once: few enough to stay in a processor's cache.
const WINDOW_BYTES: u64 = 256 << 10;

pub(crate) struct Scanner<'a, M> {
    window: Window<'a, M>,
    record: &'a Record,
    salt: u64,
    geometry: Geometry,
    /// Where the log's first frame may lie at most one ring before.
    start: u64,
}

/// Where a chain of frames has got to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) position: u64,
    /// Header checksum of the frame before.
    pub(crate) previous: u32,
    /// Epoch of the frame before.
    pub(crate) epoch: u32,
}

/// A whole frame: its header, the header's checksum and the body.
pub(crate) type Whole<'b> = (Header, u32, &'b [u8]);

/// What lies from the end of the chain on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signs {
    /// End of the last sign of a frame.
    pub(crate) end: u64,
    /// A whole header lies beyond the end of the chain.
    pub(crate) has_later: bool,
    /// Before this position all was durable, say the headers.
    pub(crate) durable: u64,
    /// The highest op that a header names.
    pub(crate) last_op: u64,
}

impl<'a, M: Medium> Scanner<'a, M> {
    /// Reads no farther ahead than the log may reach.
    pub(crate) fn new(medium: &'a M, salt: u64, geometry: Geometry, record: &'a Record, reach: u64) -> Self {
        let start = record.head.position;
        Scanner { window: Window::new(medium, geometry, reach), record, salt, geometry, start }
    }

    /// One ring after the head: nothing was written beyond.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.geometry.ring_bytes
    }

    /// The header at a position, if it was written for that position and in an epoch that counts there.
    fn header(&mut self, position: u64) -> Result<Option<(Header, u32)>, Error> {
        let (salt, geometry) = (self.salt, self.geometry);
        let bytes = self.window.bytes(position, HEADER as u64)?;
        if u64_at(bytes, 24) != position && !mutation::active(Mutation::NoLap) {
            return Ok(None);
        }
        let sum = u32_at(bytes, 0);
        let Some(mut header) = Header::decode(salt, geometry, bytes) else { return Ok(None) };
        header.position = position;
        let fits = header.length() <= geometry.bytes_to_end(position) && position + header.length() <= self.end();
        Ok((self.epoch_counts(&header) && fits).then_some((header, sum)))
    }

    fn epoch_counts(&self, header: &Header) -> bool {
        if mutation::active(Mutation::NoChain) || mutation::active(Mutation::SameEpoch) {
            return true;
        }
        if header.position >= self.record.epoch_position {
            header.epoch == self.record.epoch
        } else {
            header.epoch < self.record.epoch
        }
    }

    /// The next frame of a chain, if it is whole.
    pub(crate) fn next(&mut self, link: Link) -> Result<Option<Whole<'_>>, Error> {
        if link.position >= self.end() {
            return Ok(None);
        }
        let Some((header, sum)) = self.header(link.position)? else { return Ok(None) };
        let chained = header.previous == link.previous && header.epoch >= link.epoch;
        if !chained && !mutation::active(Mutation::NoChain) {
            return Ok(None);
        }
        self.with_body(header, sum)
    }

    /// The first whole frame that begins after a position and before another, in this epoch or a later one.
    pub(crate) fn next_whole(&mut self, after: u64, before: u64, epoch: u32) -> Result<Option<Link>, Error> {
        let mut position = after + LINE;
        while position < before.min(self.end()) {
            if let Some((header, sum)) = self.header(position)?
                && header.epoch >= epoch
                && self.with_body(header, sum)?.is_some()
            {
                return Ok(Some(Link { position, previous: header.previous, epoch }));
            }
            position += LINE;
        }
        Ok(None)
    }

    fn with_body(&mut self, header: Header, sum: u32) -> Result<Option<Whole<'_>>, Error> {
        if header.class != Class::Batch {
            return Ok(Some((header, sum, &[])));
        }
        let salt = self.salt;
        let body = &self.window.bytes(header.position, header.length())?[HEADER..HEADER + header.body_len as usize];
        let is_whole = checksum(salt, body) == header.body_sum || mutation::active(Mutation::NoBodyChecksum);
        Ok(is_whole.then_some((header, sum, body)))
    }

    /// Looks for headers from the end of a chain to where nothing can have been written.
    pub(crate) fn signs(&mut self, tail: u64, reach: u64) -> Result<Signs, Error> {
        let mut signs = Signs { end: tail, ..Signs::default() };
        let end = self.end().min(reach.max(tail + LINE));
        if tail < end && self.is_own_debris(tail)? {
            signs.end = tail + LINE;
        }
        let any = mutation::active(Mutation::NoLap);
        let mut position = tail;
        while position < end {
            let lines = self.window.lines(position, end)?;
            let found = lines.chunks_exact(LINE as usize).zip((position..).step_by(LINE as usize));
            let found = found.filter(|(line, at)| u64_at(line, 24) == *at || any).map(|(_, at)| at).next();
            let Some(at) = found else {
                position += lines.len() as u64;
                continue;
            };
            if let Some((header, _)) = self.header(at)? {
                signs.end = signs.end.max(at + header.length());
                signs.has_later |= at > tail;
                signs.durable = signs.durable.max(header.durable_position());
                signs.last_op = signs.last_op.max(header.last_op());
            }
            position = at + LINE;
        }
        Ok(signs)
    }

    /// Whether a line that is no whole header still shows this position: a header of this lap, in part.
    fn is_own_debris(&mut self, position: u64) -> Result<bool, Error> {
        let epoch = self.record.epoch;
        let bytes = self.window.bytes(position, HEADER as u64)?;
        Ok(u64_at(bytes, 24) == position && u32_at(bytes, 32) == epoch)
    }

    /// The bridge that begins at a position.
    pub(crate) fn bridge_at(&self, position: u64) -> Option<Bridge> {
        self.record.bridges.iter().find(|bridge| bridge.from == position).copied()
    }
}

/// A buffer over a stretch of the ring. A frame never crosses the ring's end, so what is asked for lies in one piece.
struct Window<'a, M> {
    medium: &'a M,
    geometry: Geometry,
    reach: u64,
    buffer: Vec<u8>,
    start: u64,
    len: u64,
}

impl<'a, M: Medium> Window<'a, M> {
    fn new(medium: &'a M, geometry: Geometry, reach: u64) -> Self {
        Window { medium, geometry, reach, buffer: Vec::new(), start: 0, len: 0 }
    }

    #[inline]
    fn bytes(&mut self, position: u64, len: u64) -> Result<&[u8], Error> {
        if position < self.start || position + len > self.start + self.len {
            self.fill(position, len)?;
        }
        let at = (position - self.start) as usize;
        Ok(&self.buffer[at..at + len as usize])
    }

    /// Whole lines from a position on, before another: as many as are at hand, one at least.
    fn lines(&mut self, position: u64, before: u64) -> Result<&[u8], Error> {
        self.bytes(position, LINE)?;
        let len = (self.start + self.len).min(before) - position;
        let at = (position - self.start) as usize;
        Ok(&self.buffer[at..at + (len / LINE * LINE) as usize])
    }

    #[cold]
    fn fill(&mut self, position: u64, len: u64) -> Result<(), Error> {
        let ahead = self.reach.saturating_sub(position).min(WINDOW_BYTES);
        let wanted = len.max(ahead).min(self.geometry.bytes_to_end(position));
        self.buffer.resize(self.buffer.len().max(wanted as usize), 0);
        let into = &mut self.buffer[..wanted as usize];
        self.medium.read(self.geometry.offset(position), into).map_err(Error::io("reading the log"))?;
        (self.start, self.len) = (position, wanted);
        Ok(())
    }
}

/// Stores again what lies between two positions, as it is. A flush that failed may have left the kernel's copy ahead of the
/// disk and marked as written; only a new store makes the next flush write it.
pub(crate) fn store_again(medium: &mut impl Medium, geometry: Geometry, from: u64, to: u64) -> Result<(), Error> {
    let mut position = from;
    let mut buffer = Vec::new();
    while position < to {
        let len = (to - position).min(WINDOW_BYTES).min(geometry.bytes_to_end(position));
        buffer.resize(len as usize, 0);
        let offset = geometry.offset(position);
        medium.read(offset, &mut buffer).map_err(Error::io("reading the log"))?;
        medium.write(offset, &buffer).map_err(Error::io("writing the log"))?;
        position += len;
    }
    Ok(())
}
