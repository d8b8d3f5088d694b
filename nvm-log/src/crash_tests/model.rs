//! What a store must hold, step by step: the oracle of the crash tests.
//!
//! Why it is right: a crash may leave the log after any prefix of the calls that changed it and any record that was set, between
//! what was surely durable and what was asked for; and nothing else. So the model keeps the log after each such call.

use std::rc::Rc;

use crate::{Frame, Outcome, Recovery, SnapshotMeta};

/// A call that changes the log.
#[derive(Clone, Debug)]
pub(super) enum LogOp {
    Append(Frame),
    Truncate(u64),
    /// The log goes on after this op, if the record of this index counts.
    Drop(u64, usize),
}

/// What one control record stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) blob: Option<Vec<u8>>,
    pub(super) snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    pub(super) released: u64,
    /// Log ops issued before it.
    pub(super) log_ops: usize,
}

/// Numbers of log ops and records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) log_ops: usize,
    pub(super) record: usize,
}

#[derive(Clone, Debug)]
struct Op {
    op: u64,
    view: u64,
    body: Rc<[u8]>,
}

/// The log after some number of log ops.
#[derive(Clone, Debug, Default)]
struct Log {
    /// The op before the first.
    base: u64,
    ops: Rc<Vec<Op>>,
}

impl Log {
    fn last_op(&self) -> u64 {
        self.ops.last().map_or(self.base, |op| op.op)
    }

    fn after(&self, log_op: &LogOp) -> Log {
        let mut next = self.clone();
        match log_op {
            LogOp::Append(frame) => {
                let body: Rc<[u8]> = frame.body.as_slice().into();
                let op_of = |op| Op { op, view: frame.view, body: Rc::clone(&body) };
                Rc::make_mut(&mut next.ops).extend((frame.first_op..=frame.last_op()).map(op_of));
            }
            LogOp::Truncate(last) => Rc::make_mut(&mut next.ops).retain(|op| op.op <= *last),
            LogOp::Drop(op, _) => next = Log { base: *op, ops: Rc::default() },
        }
        next
    }

    /// Whether the frames are the end of this log, from `kept_from` on at the latest.
    fn ends_with(&self, found: &Recovery, kept_from: u64) -> bool {
        let first = found.frames.first().map_or(self.last_op() + 1, |frame| frame.first_op);
        if found.last_op != self.last_op() || first > kept_from.max(self.base + 1) || first <= self.base {
            return false;
        }
        let mut expected = self.ops[(first - self.base - 1) as usize..].iter();
        for frame in &found.frames {
            for op in frame.first_op..=frame.last_op() {
                let Some(next) = expected.next() else { return false };
                if next.op != op || next.view != frame.view || *next.body != *frame.body {
                    return false;
                }
            }
        }
        expected.next().is_none()
    }
}

/// A step's end: events so far, what is durable for certain, what was asked for.
type Mark = (usize, Progress, Progress);

#[derive(Clone, Debug)]
pub(super) struct Model {
    log_ops: Vec<LogOp>,
    /// The log before the first log op, and after each.
    logs: Vec<Log>,
    told: Vec<Told>,
    marks: Vec<Mark>,
}

impl Model {
    /// Of a store that was never written to.
    pub(super) fn empty() -> Model {
        Model { log_ops: Vec::new(), logs: vec![Log::default()], told: vec![Told::default()], marks: Vec::new() }
    }

    pub(super) fn push(&mut self, log_op: LogOp) {
        let last = &self.logs[self.log_ops.len()];
        self.logs.push(last.after(&log_op));
        self.log_ops.push(log_op);
    }

    /// The next control record differs from the last one by this.
    pub(super) fn tell(&mut self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.last().cloned().unwrap_or_default();
        change(&mut told);
        told.log_ops = self.log_ops.len();
        self.told.push(told);
    }

    /// The number that the next record will have.
    pub(super) fn records(&self) -> usize {
        self.told.len()
    }

    pub(super) fn asked(&self) -> Progress {
        Progress { log_ops: self.log_ops.len(), record: self.told.len() - 1 }
    }

    pub(super) fn acked(&self) -> Progress {
        self.marks.last().map_or(Progress::default(), |mark| mark.1)
    }

    /// A step has ended after so many events; with `flushed`, all that was asked for is durable.
    pub(super) fn mark(&mut self, events: usize, flushed: bool) {
        let asked = self.asked();
        self.marks.push((events, if flushed { asked } else { self.acked() }, asked));
    }

    /// All that the model holds is durable, and no event is counted yet.
    pub(super) fn start(&mut self) {
        self.marks.clear();
        self.mark(0, true);
    }

    /// What a crash after so many events may leave, at least and at most.
    pub(super) fn bounds(&self, events: usize) -> (Progress, Progress) {
        // What a process that ended had not stored by then is out of the model, and cannot be on the medium.
        let possible = |progress: Progress| Progress {
            log_ops: progress.log_ops.min(self.log_ops.len()),
            record: progress.record.min(self.told.len() - 1),
        };
        let acked = self.marks.iter().rev().find(|mark| mark.0 <= events).map_or(Progress::default(), |mark| mark.1);
        let last = self.marks.last().map_or(Progress::default(), |mark| mark.2);
        let asked = self.marks.iter().find(|mark| mark.0 > events).map_or(last, |mark| mark.2);
        (possible(acked), possible(asked))
    }

    /// Whether the recovered store is one that the crash may have left; says which.
    pub(super) fn explain(&self, found: &Recovery, (low, high): (Progress, Progress)) -> Result<Progress, String> {
        if matches!(found.outcome, Outcome::Corrupt { .. }) {
            return Err(format!("a crash was taken for damage: {:?}", found.outcome));
        }
        if let Some(op) = found.left_behind_op {
            return Err(format!("a crash was taken for damage up to op {op}"));
        }
        if found.frames.windows(2).any(|pair| pair[1].first_op != pair[0].last_op() + 1) {
            return Err("the frames are not contiguous".into());
        }
        for record in (low.record..=high.record).rev() {
            let told = &self.told[record];
            if found.control != told.blob || found.snapshot != told.snapshot {
                continue;
            }
            for log_ops in (low.log_ops.max(told.log_ops)..=high.log_ops).rev() {
                if self.logs[log_ops].ends_with(found, told.released + 1) && self.drops_agree(log_ops, record) {
                    return Ok(Progress { log_ops, record });
                }
            }
        }
        Err(format!(
            "not a state between {low:?} and {high:?}: last op {}, first {:?}, control {:?}, {:?}",
            found.last_op,
            found.frames.first().map(|frame| frame.first_op),
            found.control.as_ref().map(Vec::len),
            found.outcome
        ))
    }

    /// Whether the log was dropped in just those records that drop it.
    fn drops_agree(&self, log_ops: usize, record: usize) -> bool {
        self.log_ops.iter().enumerate().all(|(index, log_op)| match log_op {
            LogOp::Drop(_, dropper) => (log_ops > index) == (record >= *dropper),
            _ => true,
        })
    }

    /// Forgets what the recovered store did not keep.
    pub(super) fn cut_to(&mut self, kept: Progress) {
        self.log_ops.truncate(kept.log_ops);
        self.logs.truncate(kept.log_ops + 1);
        self.told.truncate(kept.record + 1);
        for told in &mut self.told {
            told.log_ops = told.log_ops.min(kept.log_ops);
        }
    }
}
