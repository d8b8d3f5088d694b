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
//! **After damage** the scan goes on at the next whole frame. It names the op before its own and that op's view; so either nothing of worth is
//! lost between, or the missing ops are known. Damage that lost no op, to padding say, is bridged at once.
//! Damage before what the snapshot needs is left behind with it.
//!
//! **A dropped tail cannot come back.** The control record that recovery writes before it returns names a new epoch and the tail's
//! position: from that position on, only frames of the new epoch count, whatever the medium later shows there.
//!
//! **How far it looks.** Beyond the reach that the witness lines name no frame was stored, so no sign can lie there. A line is believed in this
//! only beside its whole predecessor: then it is one of the last two, and the durable one is not hidden.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::control::{BRIDGES_MAX, Bridge, Record};
use crate::frame::{Class, Header};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::ring::Ring;
use crate::scanner::{Link, Scanner, Signs};
use crate::witness::Lines;
use crate::{Error, Frame, Identity};

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
    /// Ops that were durable are lost. Fetch them from a peer and hand the log from the first of them on to [`crate::Store::repair`], or install a
    /// snapshot without the log. Until then every opening says the same, and the log takes nothing else. A truncation that is lost
    /// may leave ops before the first range that had been replaced: the repair compares views and refuses what does not fit.
    Corrupt {
        /// Ops that may be missing, in order. [`Recovery::frames`] has what is whole before, between and after them.
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
    /// The live frames after the log's head, in order, truncations applied, and without gaps but for those that [`Outcome::Corrupt`]
    /// names. May begin at or before the snapshot's op; with [`crate::Options::skip_covered`], only where the snapshot needs them.
    pub frames: Vec<Frame>,
    /// The log's last op: of the last frame before any damage, or before the head if there is none. Zero for an empty history.
    pub last_op: u64,
    /// Frames up to this op were damaged and have been left behind: the snapshot holds their ops, and the log begins after them.
    pub left_behind_op: Option<u64>,
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
    pub(crate) scanned_bytes: u64,
    /// From here to the tail, nothing says that the frames are durable.
    pub(crate) proven: u64,
    /// Over damage that lost no op.
    pub(crate) bridges: Vec<Bridge>,
}

/// What lies after the last frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Clean,
    Torn(u64),
    Uncertain(u64),
    /// What may be lost, and the log's last op as far as it is known.
    Corrupt(Vec<RangeInclusive<u64>>, u64),
}

/// A place up to which the log was durable, and its last op there.
#[derive(Clone, Copy, Debug)]
struct Known {
    position: u64,
    op: u64,
}

/// The log as it is being read.
struct Reading<'a, M> {
    scanner: Scanner<'a, M>,
    /// The sound log, up to the first damage that lost an op.
    ring: Ring,
    epoch: u32,
    frames: Vec<Frame>,
    bridges: Vec<Bridge>,
    scanned_frames: u64,
    scanned_bytes: u64,
    proven: u64,
}

/// Reads the log of an opened store. The ring is empty and stands where reading begins.
pub(crate) fn scan<M: Medium>(
    medium: &M,
    salt: u64,
    ring: Ring,
    record: &Record,
    lines: &Lines,
) -> Result<Scan, Error> {
    // A line of an earlier epoch speaks of a tail that may have been dropped since; the record then knows better.
    let line = lines.newest().filter(|line| line.epoch == record.epoch).unwrap_or_default();
    let known = if record.durable_position >= line.durable_position {
        Known { position: record.durable_position, op: record.durable_op }
    } else {
        Known { position: line.durable_position, op: line.durable_op }
    };
    let scanner = Scanner::new(medium, salt, ring.geometry(), record, lines.reach());
    let proven = known.position.max(ring.tail());
    let (frames, bridges) = (Vec::new(), Vec::new());
    let reading = Reading { scanner, ring, epoch: 0, frames, bridges, scanned_frames: 0, scanned_bytes: 0, proven };
    reading.read(known, lines.reach(), record)
}

impl<M: Medium> Reading<'_, M> {
    fn read(mut self, known: Known, reach: u64, record: &Record) -> Result<Scan, Error> {
        loop {
            self.follow()?;
            let tail = self.ring.tail();
            let signs = self.scanner.signs(tail, reach)?;
            let durable = known.position.max(signs.durable).min(self.scanner.end());
            if durable <= tail {
                let ending = ending(tail, &signs, record.witness_sync);
                return Ok(self.done(ending));
            }
            let can_cross = record.bridges.len() + self.bridges.len() < BRIDGES_MAX;
            match self.scanner.next_whole(tail, durable, self.epoch)? {
                Some(link) if can_cross && self.follows_on(link)?.is_some() => self.cross(link)?,
                next => return self.beyond(next, durable, known, &signs),
            }
        }
    }

    /// Along the chain, to the first place that is not the next frame.
    fn follow(&mut self) -> Result<(), Error> {
        loop {
            if let Some(bridge) = self.scanner.bridge_at(self.ring.tail())
                && bridge.to > bridge.from
                && bridge.to <= self.scanner.end()
            {
                self.jump(Link { position: bridge.to, previous: bridge.previous, epoch: self.epoch })?;
            }
            let link = Link { position: self.ring.tail(), previous: self.ring.previous(), epoch: self.epoch };
            let Some((header, sum, body)) = self.scanner.next(link)? else { return Ok(()) };
            if !self.ring.continues(&header) {
                return Ok(());
            }
            apply(&mut self.frames, &header, body);
            self.ring.accept(&header, sum);
            self.took(&header);
        }
    }

    fn took(&mut self, header: &Header) {
        self.epoch = header.epoch;
        self.proven = self.proven.max(header.durable_position());
        self.scanned_frames += 1;
        self.scanned_bytes += header.length();
    }

    /// The op that a batch follows on, if it is one of those that there are, by number and view.
    fn follows_on(&mut self, link: Link) -> Result<Option<u64>, Error> {
        let Some((header, _, _)) = self.scanner.next(link)? else { return Ok(None) };
        let before = (header.previous_view, header.first_op.saturating_sub(1));
        let is_here = header.class == Class::Batch && self.ring.viewstamp_at(before.1) == Some(before);
        Ok(is_here.then_some(before.1))
    }

    /// Goes on over damage that lost no op, and remembers the way.
    fn cross(&mut self, link: Link) -> Result<(), Error> {
        self.bridges.push(Bridge { from: self.ring.tail(), to: link.position, previous: link.previous });
        self.jump(link)
    }

    /// Goes on behind damage, for the first time or on a way that an earlier opening found. What is damaged may have been a truncation: the
    /// first batch behind it tells which ops it dropped, every time anew.
    fn jump(&mut self, link: Link) -> Result<(), Error> {
        if let Some(last_op) = self.follows_on(link)?
            && !(mutation::active(Mutation::BridgeForgetsTruncation)
                && self.scanner.bridge_at(self.ring.tail()).is_some())
        {
            cut(&mut self.frames, last_op);
            self.ring.cut(last_op);
        }
        self.ring.jump(link.position, link.previous);
        Ok(())
    }

    /// Reads on after damage that lost ops. The ring stays where the sound log ends, and its tail moves beyond all that was durable.
    fn beyond(mut self, next: Option<Link>, durable: u64, known: Known, signs: &Signs) -> Result<Scan, Error> {
        let mut far = Far { floor: self.ring.floor(), last_op: self.ring.last().1, is_gap: true, missing: Vec::new() };
        let mut end = self.ring.tail();
        let mut next = next;
        while let Some(mut link) = next {
            while let Some((header, sum, body)) = self.scanner.next(link)? {
                if !far.take(&header, &mut self.frames) {
                    break;
                }
                apply(&mut self.frames, &header, body);
                link = Link { position: link.position + header.length(), previous: sum, epoch: header.epoch };
                self.epoch = header.epoch;
                self.scanned_frames += 1;
                self.scanned_bytes += header.length();
            }
            far.is_gap |= link.position < durable;
            end = link.position.max(end);
            next = self.scanner.next_whole(end, durable, self.epoch)?;
        }
        if far.is_gap {
            let at_end = (known.position == durable).then_some(known.op);
            far.lose_end(at_end, known.op.max(signs.last_op), &mut self.frames);
        }
        self.ring.stop_at(end.max(durable));
        self.proven = self.ring.tail();
        let ending = Ending::Corrupt(far.missing_or_last(), far.last_op);
        Ok(self.done(ending))
    }

    fn done(self, ending: Ending) -> Scan {
        let proven = self.proven.min(self.ring.tail());
        Scan {
            ring: self.ring,
            frames: self.frames,
            ending,
            scanned_frames: self.scanned_frames,
            scanned_bytes: self.scanned_bytes,
            proven,
            bridges: self.bridges,
        }
    }
}

/// What is known of the log beyond damage.
struct Far {
    /// View and op before the log.
    floor: (u64, u64),
    last_op: u64,
    /// Frames before the next one may be missing.
    is_gap: bool,
    missing: Vec<RangeInclusive<u64>>,
}

impl Far {
    /// Takes note of the next whole frame, before it is applied; false if it cannot belong to this log.
    fn take(&mut self, header: &Header, frames: &mut Vec<Frame>) -> bool {
        let before = match header.class {
            Class::Padding => return true,
            _ if header.first_op <= self.floor.1 => return false,
            _ => header.first_op - 1,
        };
        let is_batch = header.class == Class::Batch;
        if before > self.last_op {
            if !self.is_gap {
                return false;
            }
            self.missing.push(self.last_op + 1..=before);
        } else if is_batch && !self.is_gap && before != self.last_op {
            return false;
        } else if is_batch && self.is_gap && view_at(frames, self.floor, before) != Some(header.previous_view) {
            // The op before is another than the one that is here: that one was dropped by what is lost.
            self.cut(before.saturating_sub(1).max(self.floor.1), frames);
            self.missing.push(before.max(self.floor.1 + 1)..=before.max(self.floor.1 + 1));
        } else {
            self.cut(before, frames);
        }
        // A truncation does not say which view the ops before it have: the next batch does.
        self.is_gap &= !is_batch;
        self.last_op = header.last_op();
        true
    }

    fn cut(&mut self, op: u64, frames: &mut Vec<Frame>) {
        cut(frames, op);
        self.missing.retain(|range| *range.start() <= op);
        if let Some(last) = self.missing.last_mut() {
            *last = *last.start()..=op.min(*last.end());
        }
    }

    /// Nothing whole is left up to where the log was durable; it ended there with this op, if that is known, and with no later one
    /// than `highest_op`.
    fn lose_end(&mut self, at_end: Option<u64>, highest_op: u64, frames: &mut Vec<Frame>) {
        if highest_op > self.last_op {
            self.missing.push(self.last_op + 1..=highest_op);
            self.last_op = highest_op;
            return;
        }
        // What is lost dropped ops. The last one left may be another than the one that is here.
        let op = at_end.unwrap_or(self.last_op).clamp(self.floor.1 + 1, self.last_op.max(self.floor.1 + 1));
        self.cut(op - 1, frames);
        self.missing.push(op..=op);
        self.last_op = op;
    }

    /// Never empty, so that the caller replaces something: the frames do not hang together.
    fn missing_or_last(&mut self) -> Vec<RangeInclusive<u64>> {
        if self.missing.is_empty() {
            let op = self.last_op.max(self.floor.1 + 1);
            self.missing.push(op..=op);
        }
        std::mem::take(&mut self.missing)
    }
}

fn view_at(frames: &[Frame], floor: (u64, u64), op: u64) -> Option<u64> {
    let holds = |frame: &&Frame| (frame.first_op..=frame.last_op()).contains(&op);
    let found = frames.iter().rev().find(holds).map(|frame| frame.view);
    found.or((op == floor.1).then_some(floor.0))
}

fn ending(tail: u64, signs: &Signs, witness_sync: bool) -> Ending {
    match signs.end - tail {
        0 => Ending::Clean,
        dropped if signs.has_later && !witness_sync => Ending::Uncertain(dropped),
        dropped => Ending::Torn(dropped),
    }
}

/// Brings the live frames up to date with one more frame.
fn apply(frames: &mut Vec<Frame>, header: &Header, body: &[u8]) {
    match header.class {
        Class::Padding => {}
        Class::Batch => frames.push(Frame {
            kind: header.kind,
            view: header.view,
            first_op: header.first_op,
            count: header.count,
            previous: (header.previous_view, header.first_op - 1),
            body: body.to_vec(),
        }),
        Class::Truncation => cut(frames, header.first_op - 1),
    }
}

/// Drops every op after this one.
fn cut(frames: &mut Vec<Frame>, last_op: u64) {
    while frames.last().is_some_and(|frame| frame.first_op > last_op) {
        frames.pop();
    }
    if let Some(frame) = frames.last_mut()
        && frame.last_op() > last_op
    {
        frame.count = (last_op - frame.first_op + 1) as u32;
    }
}
