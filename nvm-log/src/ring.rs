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

use crate::control::{Bridge, Head};
use crate::frame::{Class, HEADER, Header, length_of};
use crate::layout::{Geometry, LINE, checksum};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::scrub::Stretch;
use crate::{Error, Frame};

/// Staged bytes that are written before a flush asks for it: bounds the buffer, and about what a disk writes at full speed.
const STAGED_MAX_BYTES: usize = 1 << 20;
/// Kept free of batches, in bytes, so that a full log can still be truncated.
const RESERVE_BYTES: u64 = 4 * LINE;

/// One frame between head and tail.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u64,
    end: u64,
    /// What it names as the header checksum of the frame before: of a damaged one, where the log was led around damage.
    previous: u32,
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
    /// View and op before the first op that the live frames hold.
    floor: (u64, u64),
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
            floor: (head.view, head.op),
            last: (head.view, head.op),
            entries: VecDeque::new(),
            live: VecDeque::new(),
            staged: Vec::new(),
            staged_at: head.position,
        }
    }

    /// Takes the frames before this place for read: a snapshot holds their ops.
    pub(crate) fn skip_to(&mut self, start: Head) {
        assert!(self.entries.is_empty() && start.position >= self.tail, "reading begins at or after the head");
        let (position, end, after) = (self.tail, start.position, (start.view, start.op));
        if end > position {
            let (previous, sum, last_op) = (self.previous, start.previous, start.op);
            self.entries.push_back(Entry { position, end, previous, sum, last_op, is_boundary: true, after });
        }
        (self.tail, self.previous, self.floor, self.last) = (end, start.previous, after, after);
    }

    /// The chain goes on elsewhere, behind damage.
    pub(crate) fn jump(&mut self, to: u64, previous: u32) {
        assert!(to >= self.tail, "the tail never goes back");
        (self.tail, self.previous) = (to, previous);
    }

    /// What lies up to here is not to be overwritten, although the sound log ends before.
    pub(crate) fn stop_at(&mut self, tail: u64) {
        self.jump(tail, self.previous);
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

    /// View and op before the first op that the live frames hold.
    pub(crate) fn floor(&self) -> (u64, u64) {
        self.floor
    }

    /// View and number of an op that the live frames hold, or of the one before the first.
    pub(crate) fn viewstamp_at(&self, op: u64) -> Option<(u64, u64)> {
        if op == self.floor.1 {
            return Some(self.floor);
        }
        let span = self.live.get(self.live.partition_point(|span| span.last_op < op))?;
        (span.first_op <= op).then_some((span.view, op))
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

    /// Bytes that must not be overwritten.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.tail - self.durable_head
    }

    fn room(&self) -> u64 {
        let used = self.used_bytes();
        assert!(used <= self.geometry.ring_bytes, "the tail never passes the durable head by more than the ring");
        self.geometry.ring_bytes - used
    }

    /// Whether a frame continues the log where it ends now.
    pub(crate) fn continues(&self, header: &Header) -> bool {
        match header.class {
            Class::Padding => true,
            Class::Batch => header.first_op == self.last.1 + 1,
            Class::Truncation => (self.floor.1..=self.last.1).contains(&(header.first_op - 1)),
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
        let previous = std::mem::replace(&mut self.previous, sum);
        let (position, end, last_op) = (header.position, self.tail, header.last_op());
        self.entries.push_back(Entry { position, end, previous, sum, last_op, is_boundary: true, after: self.last });
    }

    /// Every op after this one is dropped.
    pub(crate) fn cut(&mut self, op: u64) {
        while self.live.back().is_some_and(|span| span.first_op > op) {
            self.live.pop_back();
        }
        self.last = match self.live.back_mut() {
            Some(span) => {
                span.last_op = span.last_op.min(op);
                (span.view, span.last_op)
            }
            None => self.floor,
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

    /// Whether a batch can be appended: the bytes that it takes, with padding at the ring's end.
    #[inline]
    pub(crate) fn check(&self, frame: &Frame) -> Result<u64, Error> {
        let last_op = self.last.1;
        let fits = frame.first_op.checked_add(u64::from(frame.count)).is_some();
        if frame.count == 0 || !fits || frame.first_op != last_op + 1 || frame.previous.1 != last_op {
            let (first_op, count, previous_op) = (frame.first_op, frame.count, frame.previous.1);
            return Err(Error::NotContiguous { first_op, count, previous_op, last_op });
        }
        let need_bytes = self.need_at(self.tail, frame)?;
        if need_bytes > self.free_bytes() {
            return Err(Error::Full { need_bytes, free_bytes: self.free_bytes() });
        }
        Ok(need_bytes)
    }

    /// Bytes that a batch takes at a position, with padding at the ring's end.
    pub(crate) fn need_at(&self, position: u64, frame: &Frame) -> Result<u64, Error> {
        let length = length_of(frame.body.len());
        let limit_bytes = self.geometry.frame_max() - LINE;
        if length > self.geometry.frame_max() {
            return Err(Error::TooLarge { what: "frame body", bytes: frame.body.len() as u64, limit_bytes });
        }
        let to_end = self.geometry.bytes_to_end(position);
        Ok(length + if length > to_end { to_end } else { 0 })
    }

    /// Appends a batch that was checked to what the next flush makes durable. Copies it once, into a buffer that is reused.
    pub(crate) fn append(&mut self, medium: &mut impl Medium, frame: &Frame) -> Result<(), Error> {
        let to_end = self.geometry.bytes_to_end(self.tail);
        if length_of(frame.body.len()) > to_end {
            let blank = self.header(Class::Padding);
            self.stage(medium, Header { body_len: (to_end - LINE) as u32, ..blank }, &[])?;
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
        self.staged.extend_from_slice(body);
        // Padding is written too: below the durable end nothing may be left that is not of the log.
        self.staged.resize(self.staged.len() - HEADER - body.len() + header.length() as usize, 0);
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
        let Some((index, head)) = self.head_after(op) else { return false };
        self.entries.drain(..=index);
        self.head = head;
        if self.floor.1 < head.op {
            self.floor = (head.view, head.op);
        }
        while self.live.front().is_some_and(|span| span.last_op <= self.head.op) {
            self.live.pop_front();
        }
        if mutation::active(Mutation::EagerReuse) {
            self.durable_head = self.head.position;
        }
        true
    }

    /// The last place where a log may begin that holds all ops after this one, and the entry before it.
    fn head_after(&self, op: u64) -> Option<(usize, Head)> {
        let done = self.entries.iter().take_while(|entry| entry.last_op <= op);
        let (index, entry) = done.enumerate().filter(|(_, entry)| entry.is_boundary).last()?;
        let next = self.entries.get(index + 1);
        let (position, previous) = next.map_or((self.tail, self.previous), |next| (next.position, next.previous));
        Some((index, Head { position, op: entry.after.1, view: entry.after.0, previous }))
    }

    /// Where reading may begin if a snapshot holds all ops up to this one.
    pub(crate) fn start_after(&self, op: u64) -> Head {
        self.head_after(op).map_or(self.head, |(_, head)| head)
    }

    /// Leads the log around all frames from a position on, keeping the ops up to this one: what is appended now follows the frames before
    /// the position. Says where the way around begins, and which checksum its first frame names.
    pub(crate) fn lead_around(&mut self, position: u64, keep: u64) -> Bridge {
        while self.entries.back().is_some_and(|entry| entry.position >= position) {
            self.entries.pop_back();
        }
        let (from, previous, last) = match self.entries.back() {
            Some(entry) => (entry.end, entry.sum, entry.after),
            None => (self.head.position, self.head.previous, (self.head.view, self.head.op)),
        };
        self.cut(keep);
        if last.1 > keep {
            self.last = last
        }
        self.previous = previous;
        Bridge { from, to: self.tail, previous }
    }

    /// Drops the whole log: it goes on after this op, from the tail.
    pub(crate) fn drop_all(&mut self, view: u64, op: u64) {
        self.entries.clear();
        self.live.clear();
        self.head = Head { position: self.tail, op, view, previous: self.previous };
        self.last = (view, op);
        self.floor = (view, op);
    }

    /// The first durable stretch of frames that begins at a position or after it.
    pub(crate) fn stretch_at(&self, position: u64) -> Option<Stretch> {
        let index = self.entries.partition_point(|entry| entry.position < position);
        let entry = self.entries.get(index).filter(|entry| entry.end <= self.durable)?;
        Some(Stretch { position: entry.position, end: entry.end, previous: entry.previous, sum: entry.sum })
    }

    /// The last op that no frame from this position on holds or drops.
    pub(crate) fn lowest_from(&self, position: u64) -> u64 {
        let index = self.entries.partition_point(|entry| entry.position < position);
        let before = index.checked_sub(1).and_then(|index| self.entries.get(index));
        let before = before.map_or(self.head.op, |before| before.after.1);
        self.entries.range(index..).map(|entry| entry.after.1).fold(before, u64::min)
    }

    /// The head is in a durable control record: the space before it may be overwritten.
    pub(crate) fn head_is_durable(&mut self) {
        self.durable_head = self.head.position;
    }
}
