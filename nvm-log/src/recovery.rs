//! Recovery: what the log holds, and whether something that it once held durably is gone.
//!
//! The scan goes from the head along the chain to the first place that is not the next frame. What lies there is one of:
//!
//! - nothing that was ever written in this lap: the end of the log, [`Outcome::Clean`];
//! - a tail that no flush had made durable: [`Outcome::Torn`], dropped;
//! - the same, but later frames of it are whole: the medium wrote them out of order before the flush ended, or the flush did end
//!   and a frame was damaged since: [`Outcome::Uncertain`];
//! - a place that was durable once: [`Outcome::Corrupt`].
//!
//! Durable once is said by the control record, by the witness line, or by a whole header further on that was made after
//! a flush beyond the place. All three are stored only after that flush succeeded, so none can say it wrongly.
//!
//! A dropped tail cannot come back. The control record that recovery writes before it returns names a new epoch and the tail's
//! position: from that position on, only frames of the new epoch count, whatever the medium later shows there.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::control::Record;
use crate::frame::{Class, HEADER, Header};
use crate::layout::{Geometry, LINE, checksum, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::ring::Ring;
use crate::witness::Line;
use crate::{Error, Frame, Identity};

/// Bytes read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// What recovery made of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is there.
    Clean,
    /// A tail that was never durable, and so never acknowledged, was dropped.
    Torn {
        /// From the end of the log to the last sign of the tail.
        dropped_bytes: u64,
    },
    /// As `Torn`, but the tail may have been durable and damaged since. Do not vote on ops after the log's end until peers settle what they are.
    Uncertain {
        /// From the end of the log to the last sign of the tail.
        dropped_bytes: u64,
    },
    /// Ops that were durable are lost. Fetch them from a peer, by viewstamp; then call [`crate::Store::settle_damage`] or install a
    /// snapshot without the log. Until then every opening says the same. A lost truncation may leave ops at the end of the log
    /// that had been dropped: compare their views with a peer's too.
    Corrupt {
        /// Ops that may be missing.
        ranges: Vec<RangeInclusive<u64>>,
    },
    /// Formatted, and never written to.
    Fresh,
}

/// A place in the history that a snapshot stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// View of the op.
    pub view: u64,
    /// Last op that the snapshot contains.
    pub op: u64,
    /// The caller's own mark.
    pub tag: u64,
}

/// All that a store held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Whose store it is.
    pub identity: Identity,
    /// How whole it is.
    pub outcome: Outcome,
    /// The control blob, or none if it was never set.
    pub control: Option<Vec<u8>>,
    /// The newest whole snapshot.
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    /// The live frames after the log's head, in order, without gaps, truncations applied. May begin at or before the snapshot's op.
    pub frames: Vec<Frame>,
    /// The log's last op: of the last frame, or before the head if there is none. Zero for an empty history.
    pub last_op: u64,
    /// Whether the store survives no more than the end of the process.
    pub volatile: bool,
    /// Time from the lock to the end.
    pub elapsed: Duration,
    /// Frames accepted along the chain, dead ones included.
    pub scanned_frames: u64,
    /// Bytes of those frames.
    pub scanned_bytes: u64,
}

pub(crate) struct Scan {
    pub(crate) ring: Ring,
    pub(crate) frames: Vec<Frame>,
    pub(crate) ending: Ending,
    pub(crate) scanned_frames: u64,
    /// From here to the tail, nothing says that the frames are durable.
    pub(crate) proven: u64,
}

/// What lies after the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Clean,
    Torn(u64),
    Uncertain(u64),
    /// First and last op that may be lost.
    Corrupt(u64, u64),
}

struct Scanner<'a, M> {
    window: Window<'a, M>,
    record: &'a Record,
    salt: u64,
    geometry: Geometry,
}

/// Reads the log of an opened store. The ring is empty and stands at the record's head.
pub(crate) fn scan<M: Medium>(
    medium: &M,
    salt: u64,
    mut ring: Ring,
    record: &Record,
    line: &Line,
) -> Result<Scan, Error> {
    let geometry = ring.geometry();
    let mut scanner = Scanner { window: Window::new(medium, geometry), record, salt, geometry };
    let (mut frames, mut scanned_frames, mut epoch) = (Vec::new(), 0, 0);
    // A line of an earlier epoch speaks of a tail that may have been dropped since; the record then knows better.
    let line = if line.epoch == record.epoch { *line } else { Line::default() };
    let mut proven = record.durable_position.max(line.durable_position).max(ring.tail());
    let believed = proven;
    while let Some((header, sum, body)) = scanner.next(&ring, epoch)? {
        ring.accept(&header, sum);
        epoch = header.epoch;
        proven = proven.max(header.durable_position());
        scanned_frames += 1;
        apply(&mut frames, &header, body);
    }
    let known_op = if record.durable_position >= line.durable_position { record.durable_op } else { line.durable_op };
    let ending = scanner.ending(&ring, (believed > ring.tail()).then_some(known_op))?;
    proven = proven.min(ring.tail());
    Ok(Scan { ring, frames, ending, scanned_frames, proven })
}

/// Brings the live frames up to date with one more frame.
fn apply(frames: &mut Vec<Frame>, header: &Header, body: Vec<u8>) {
    match header.class {
        Class::Padding => {}
        Class::Batch => frames.push(Frame {
            kind: header.kind,
            view: header.view,
            first_op: header.first_op,
            count: header.count,
            previous: (header.previous_view, header.first_op - 1),
            body,
        }),
        Class::Truncation => {
            let last_op = header.first_op - 1;
            while frames.last().is_some_and(|frame| frame.first_op > last_op) {
                frames.pop();
            }
            if let Some(frame) = frames.last_mut()
                && frame.last_op() > last_op
            {
                frame.count = (last_op - frame.first_op + 1) as u32;
            }
        }
    }
}

impl<M: Medium> Scanner<'_, M> {
    /// The header at a position, if it was written for that position and in an epoch that counts there.
    fn header(&mut self, position: u64) -> Result<Option<(Header, u32)>, Error> {
        let (salt, geometry) = (self.salt, self.geometry);
        let bytes = self.window.bytes(position, HEADER as u64)?;
        if u64_at(bytes, 24) != position && !mutation::active(Mutation::NoLap) {
            return Ok(None);
        }
        let sum = crate::layout::u32_at(bytes, 0);
        let Some(mut header) = Header::decode(salt, geometry, bytes) else { return Ok(None) };
        header.position = position;
        Ok((self.epoch_counts(&header) && header.length() <= geometry.bytes_to_end(position)).then_some((header, sum)))
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

    /// The next frame of the chain, if it is whole.
    fn next(&mut self, ring: &Ring, epoch: u32) -> Result<Option<(Header, u32, Vec<u8>)>, Error> {
        let position = ring.tail();
        if position - ring.head().position >= self.geometry.ring_bytes {
            return Ok(None);
        }
        let Some((header, sum)) = self.header(position)? else { return Ok(None) };
        let chained = header.previous == ring.previous() && header.epoch >= epoch;
        let fits = position + header.length() - ring.head().position <= self.geometry.ring_bytes;
        if !(chained || mutation::active(Mutation::NoChain)) || !fits || !ring.continues(&header) {
            return Ok(None);
        }
        if header.class != Class::Batch {
            return Ok(Some((header, sum, Vec::new())));
        }
        let salt = self.salt;
        let body = &self.window.bytes(position, header.length())?[HEADER..HEADER + header.body_len as usize];
        let whole = checksum(salt, body) == header.body_sum || mutation::active(Mutation::NoBodyChecksum);
        Ok(whole.then(|| (header, sum, body.to_vec())))
    }

    /// Judges what lies from the tail to the end of what could have been written.
    fn ending(&mut self, ring: &Ring, known_op: Option<u64>) -> Result<Ending, Error> {
        let (tail, last_op) = (ring.tail(), ring.last().1);
        let end = ring.head().position + self.geometry.ring_bytes;
        let mut signs_end = tail;
        let mut lost = known_op.map(|op| (last_op + 1, op));
        let mut whole_later = false;
        if tail < end && self.is_own_debris(tail)? {
            signs_end = tail + LINE;
        }
        let mut position = tail;
        while position < end {
            if let Some((header, _)) = self.header(position)? {
                signs_end = signs_end.max(position + header.length());
                whole_later |= position > tail;
                if header.durable_position() > tail {
                    let (first, last) = lost.unwrap_or((last_op + 1, 0));
                    let header_first = if header.class == Class::Padding { first } else { header.first_op };
                    lost = Some((first.min(header_first), last.max(header.last_op())));
                }
            }
            position += LINE;
        }
        let dropped = signs_end - tail;
        Ok(match lost {
            Some((first, last)) => Ending::Corrupt(first, last.max(first)),
            None if dropped == 0 => Ending::Clean,
            None if whole_later && !self.record.witness_sync => Ending::Uncertain(dropped),
            None => Ending::Torn(dropped),
        })
    }

    /// Whether a line that is no whole header still shows this position: a header of this lap, in part.
    fn is_own_debris(&mut self, position: u64) -> Result<bool, Error> {
        let epoch = self.record.epoch;
        let bytes = self.window.bytes(position, HEADER as u64)?;
        Ok(u64_at(bytes, 24) == position && crate::layout::u32_at(bytes, 32) == epoch)
    }
}

/// A buffer over a stretch of the ring. A frame never crosses the ring's end, so what is asked for lies in one piece.
struct Window<'a, M> {
    medium: &'a M,
    geometry: Geometry,
    buffer: Vec<u8>,
    start: u64,
    len: u64,
}

impl<'a, M: Medium> Window<'a, M> {
    fn new(medium: &'a M, geometry: Geometry) -> Self {
        Window { medium, geometry, buffer: Vec::new(), start: 0, len: 0 }
    }

    fn bytes(&mut self, position: u64, len: u64) -> Result<&[u8], Error> {
        if position < self.start || position + len > self.start + self.len {
            let wanted = len.max(WINDOW_BYTES).min(self.geometry.bytes_to_end(position));
            self.buffer.resize(self.buffer.len().max(wanted as usize), 0);
            let into = &mut self.buffer[..wanted as usize];
            self.medium.read(self.geometry.offset(position), into).map_err(Error::io("reading the log"))?;
            (self.start, self.len) = (position, wanted);
        }
        let at = (position - self.start) as usize;
        Ok(&self.buffer[at..at + len as usize])
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
