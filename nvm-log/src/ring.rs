//! The ring's writer: where the next frame goes, what is live, and what may be overwritten.
//!
//! Why it is right:
//!
//! - The tail never goes back, not even for a truncation, which is a frame like any other. So within one epoch a position is written
//!   once, and what a reader finds there is that frame or nothing.
//! - A frame is written only into space before the *durable* head, one ring further on: a head that moved but is not yet
//!   in a durable control record frees nothing.
//! - A frame says how far everything was durable when it was made. Within one flush, frames may reach the medium in any order, so a whole
//!   frame after a broken one is no evidence of damage; a whole frame that was made after the broken one was durable is.

use std::collections::VecDeque;

use crate::control::Head;
use crate::frame::{Class, Header, length_of};
use crate::layout::{Geometry, LINE, checksum};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::{Error, Frame};

/// Staged bytes that are written before a flush asks for it: bounds the buffer, and about what a disk writes at full speed.
const STAGED_MAX_BYTES: usize = 1 << 20;
/// Kept free of batches, in bytes, so that a full log can still be truncated.
const RESERVE_BYTES: u64 = 4 * LINE;

/// One frame between head and tail.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u64,
    /// Header checksum.
    sum: u32,
    /// Highest live op that the frame holds.
    last_op: u64,
    /// Whether the head may stand after this frame: no later frame truncates to before it.
    is_boundary: bool,
    /// View and op at which the log ended after this frame.
    after: (u64, u64),
}

/// The live ops of one frame.
#[derive(Clone, Copy, Debug)]
struct Span {
    first_op: u64,
    last_op: u64,
    view: u64,
}

#[derive(Debug)]
pub(crate) struct Ring {
    geometry: Geometry,
    salt: u64,
    epoch: u32,
    tail: u64,
    /// Header checksum of the last frame.
    previous: u32,
    /// Every frame before this position is durable.
    durable: u64,
    head: Head,
    /// The head in the last durable control record.
    durable_head: u64,
    /// View and op at which the log ends.
    last: (u64, u64),
    entries: VecDeque<Entry>,
    live: VecDeque<Span>,
    staged: Vec<u8>,
    staged_at: u64,
}

impl Ring {
    /// An empty log that begins at this head, which is durable.
    pub(crate) fn new(geometry: Geometry, salt: u64, head: Head) -> Ring {
        Ring {
            geometry,
            salt,
            epoch: 0,
            tail: head.position,
            previous: head.previous,
            durable: head.position,
            head,
            durable_head: head.position,
            last: (head.view, head.op),
            entries: VecDeque::new(),
            live: VecDeque::new(),
            staged: Vec::new(),
            staged_at: head.position,
        }
    }

    /// Everything that recovery accepted is durable; new frames bear this epoch.
    pub(crate) fn begin_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
        self.durable = self.tail;
        self.staged_at = self.tail;
    }

    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// View and op at which the log ends.
    pub(crate) fn last(&self) -> (u64, u64) {
        self.last
    }

    pub(crate) fn previous(&self) -> u32 {
        self.previous
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes that batches may still take, headers and padding included.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.room().saturating_sub(RESERVE_BYTES)
    }

    fn room(&self) -> u64 {
        let used = self.tail - self.durable_head;
        assert!(used <= self.geometry.ring_bytes, "the tail never passes the durable head by more than the ring");
        self.geometry.ring_bytes - used
    }

    /// Whether a frame continues the log where it ends now.
    pub(crate) fn continues(&self, header: &Header) -> bool {
        match header.class {
            Class::Padding => true,
            Class::Batch => header.first_op == self.last.1 + 1,
            Class::Truncation => (self.head.op..=self.last.1).contains(&(header.first_op - 1)),
        }
    }

    /// Takes note of a frame at the tail, just written or just read.
    pub(crate) fn accept(&mut self, header: &Header, sum: u32) {
        assert_eq!(header.position, self.tail, "frames follow one another without gaps");
        match header.class {
            Class::Padding => {}
            Class::Batch => {
                let (first_op, last_op, view) = (header.first_op, header.last_op(), header.view);
                self.live.push_back(Span { first_op, last_op, view });
                self.last = (view, last_op);
            }
            Class::Truncation => self.cut(header.first_op - 1),
        }
        self.tail += header.length();
        self.previous = sum;
        let (position, last_op) = (header.position, header.last_op());
        self.entries.push_back(Entry { position, sum, last_op, is_boundary: true, after: self.last });
    }

    fn cut(&mut self, op: u64) {
        while self.live.back().is_some_and(|span| span.first_op > op) {
            self.live.pop_back();
        }
        self.last = match self.live.back_mut() {
            Some(span) => {
                span.last_op = span.last_op.min(op);
                (span.view, span.last_op)
            }
            None => (self.head.view, self.head.op),
        };
        // The walk ends at a boundary that stays one: had an earlier frame to change, a truncation between them did it.
        for entry in self.entries.iter_mut().rev() {
            if entry.is_boundary && entry.after.1 <= op && entry.last_op <= op {
                break;
            }
            entry.is_boundary &= entry.after.1 <= op;
            entry.last_op = entry.last_op.min(op);
        }
        assert_eq!(self.last.1, op, "the live frames hold every op from the head to the last");
    }

    /// Appends a batch to what the next flush makes durable. Copies it once, into a buffer that is reused.
    pub(crate) fn append(&mut self, medium: &mut impl Medium, frame: &Frame) -> Result<(), Error> {
        let last_op = self.last.1;
        let fits = frame.first_op.checked_add(u64::from(frame.count)).is_some();
        if frame.count == 0 || !fits || frame.first_op != last_op + 1 || frame.previous.1 != last_op {
            let (first_op, count, previous_op) = (frame.first_op, frame.count, frame.previous.1);
            return Err(Error::NotContiguous { first_op, count, previous_op, last_op });
        }
        let length = length_of(frame.body.len());
        let limit_bytes = self.geometry.frame_max() - LINE;
        if length > self.geometry.frame_max() {
            return Err(Error::TooLarge { what: "frame body", bytes: frame.body.len() as u64, limit_bytes });
        }
        let to_end = self.geometry.bytes_to_end(self.tail);
        let padding = if length > to_end { to_end } else { 0 };
        if padding + length > self.free_bytes() {
            return Err(Error::Full { need_bytes: padding + length, free_bytes: self.free_bytes() });
        }
        if padding > 0 {
            let blank = self.header(Class::Padding);
            self.stage(medium, Header { body_len: (padding - LINE) as u32, ..blank }, &[])?;
        }
        let header = Header {
            kind: frame.kind,
            body_len: frame.body.len() as u32,
            body_sum: checksum(self.salt, &frame.body),
            count: frame.count,
            first_op: frame.first_op,
            view: frame.view,
            previous_view: frame.previous.0,
            ..self.header(Class::Batch)
        };
        self.stage(medium, header, &frame.body)
    }

    /// Drops every op after this one, by appending a frame that says so.
    pub(crate) fn truncate_after(&mut self, medium: &mut impl Medium, op: u64) -> Result<(), Error> {
        if mutation::active(Mutation::RewindingTruncate) {
            return self.rewind(medium, op);
        }
        if self.room() < LINE {
            return Err(Error::Full { need_bytes: LINE, free_bytes: self.room() });
        }
        let header = Header { first_op: op + 1, view: self.last.0, ..self.header(Class::Truncation) };
        self.stage(medium, header, &[])
    }

    /// The bug that the format exists to prevent, for the tests.
    fn rewind(&mut self, medium: &mut impl Medium, op: u64) -> Result<(), Error> {
        self.write_out(medium)?;
        while self.entries.back().is_some_and(|entry| entry.last_op > op) {
            self.tail = self.entries.pop_back().map_or(self.tail, |entry| entry.position);
        }
        self.cut(op);
        self.previous = self.entries.back().map_or(self.head.previous, |entry| entry.sum);
        self.staged_at = self.tail;
        self.durable = self.durable.min(self.tail);
        Ok(())
    }

    fn header(&self, class: Class) -> Header {
        let witnessed = if mutation::active(Mutation::NoWitness) { 0 } else { (self.tail - self.durable) / LINE };
        Header {
            class,
            kind: 0,
            body_len: 0,
            body_sum: 0,
            count: 0,
            previous: self.previous,
            position: self.tail,
            epoch: self.epoch,
            durable_delta: if mutation::active(Mutation::NoWitness) { u32::MAX } else { witnessed as u32 },
            first_op: 0,
            view: 0,
            previous_view: 0,
        }
    }

    fn stage(&mut self, medium: &mut impl Medium, header: Header, body: &[u8]) -> Result<(), Error> {
        let (bytes, sum) = header.encode(self.salt);
        self.staged.extend_from_slice(&bytes);
        if header.class == Class::Batch {
            self.staged.extend_from_slice(body);
            self.staged.resize(self.staged.len().next_multiple_of(LINE as usize), 0);
        }
        self.accept(&header, sum);
        // What is staged lies in one piece: it must not go on past the ring's end.
        let at_end = self.geometry.bytes_to_end(self.tail) == self.geometry.ring_bytes;
        let write_now = !medium.gathers() || at_end || self.staged.len() >= STAGED_MAX_BYTES;
        if write_now { self.write_out(medium) } else { Ok(()) }
    }

    /// Stores what is staged. It may now survive a crash, or not.
    fn write_out(&mut self, medium: &mut impl Medium) -> Result<(), Error> {
        if !self.staged.is_empty() {
            let offset = self.geometry.offset(self.staged_at);
            medium.write(offset, &self.staged).map_err(Error::io("writing the log"))?;
            self.staged.clear();
        }
        self.staged_at = self.tail;
        Ok(())
    }

    /// Whether there are frames that no flush has made durable.
    pub(crate) fn is_dirty(&self) -> bool {
        self.tail != self.durable
    }

    /// Stores every frame and makes them durable.
    pub(crate) fn flush(&mut self, medium: &mut impl Medium) -> Result<(), Error> {
        self.write_out(medium)?;
        if self.is_dirty() && !mutation::active(Mutation::NoFlush) {
            medium.flush().map_err(Error::io("flushing the log"))?;
        }
        self.durable = self.tail;
        Ok(())
    }

    /// Moves the head past frames that hold nothing live above this op, as far as it may stand. Frees nothing until the
    /// head is durable. Says whether the head moved.
    pub(crate) fn release(&mut self, op: u64) -> bool {
        let done = self.entries.iter().take_while(|entry| entry.last_op <= op);
        let Some((index, entry)) = done.copied().enumerate().filter(|(_, entry)| entry.is_boundary).last() else {
            return false;
        };
        self.entries.drain(..=index);
        let position = self.entries.front().map_or(self.tail, |next| next.position);
        self.head = Head { position, op: entry.after.1, view: entry.after.0, previous: entry.sum };
        while self.live.front().is_some_and(|span| span.last_op <= self.head.op) {
            self.live.pop_front();
        }
        if mutation::active(Mutation::EagerReuse) {
            self.durable_head = self.head.position;
        }
        true
    }

    /// Drops the whole log: it goes on after this op, from the tail.
    pub(crate) fn drop_all(&mut self, view: u64, op: u64) {
        self.entries.clear();
        self.live.clear();
        self.head = Head { position: self.tail, op, view, previous: self.previous };
        self.last = (view, op);
    }

    /// The head is in a durable control record: the space before it may be overwritten.
    pub(crate) fn head_is_durable(&mut self) {
        self.durable_head = self.head.position;
    }
}
