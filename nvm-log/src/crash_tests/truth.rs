//! What a store held while it was whole, and what may be said of a damaged copy of it: the oracle of the tests of damage.
//!
//! Why it is right: a copy may be recovered exactly, or refused, or some of its ops named missing. If nothing is named, all must be there, and must be there
//! still after more work, however often it is opened. If ops are named, everything else must be there, and what a peer sends must put
//! the log right. Whatever is neither is a silent loss.

use super::canvas::{Canvas, Sheet};
use super::options;
use super::run::{Run, Step, Tearing, said};
use crate::sim::{Event, Images};
use crate::{Error, Finding, Frame, Options, Outcome, Recovery, SnapshotMeta, Store};

/// Ops that a store is given after damage that it took for harmless.
const LATER_OPS: u8 = 3;
/// Places, about, to which the log's head is then moved one after the other.
const LATER_HEADS: usize = 3;

type Snapshot = (SnapshotMeta, Vec<u8>);

/// What one damaged copy turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is there.
    Exact,
    /// It does not open, and says that it is damaged.
    Refused,
    /// Lost ops were named, and a peer's put them right.
    Repaired,
}

/// How often each verdict was given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdicts {
    pub(super) exact: u64,
    pub(super) refused: u64,
    pub(super) repaired: u64,
}

impl Verdicts {
    pub(super) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Exact => self.exact += 1,
            Verdict::Refused => self.refused += 1,
            Verdict::Repaired => self.repaired += 1,
        }
    }
}

/// A store that was closed, and what it held.
pub(super) struct Truth {
    pub(super) canvas: Canvas,
    /// What the media held when the store was new, and every store to them since.
    pub(super) history: (Images, Vec<Event>),
    whole: Recovery,
    /// Every snapshot that there ever was, the newest last.
    snapshots: Vec<Snapshot>,
}

impl Truth {
    /// Does the work, closes the store, and takes note of what it holds.
    pub(super) fn of(tearing: Tearing, options: &Options, steps: &[Step]) -> Result<Truth, String> {
        let mut run = Run::format(tearing, options);
        let mut snapshots: Vec<Snapshot> = Vec::new();
        for step in steps {
            run.step(*step)?;
            let newest = run.store.read_snapshot().map_err(said)?;
            if newest.as_ref() != snapshots.last() {
                snapshots.extend(newest);
            }
        }
        let disk = run.disk.clone();
        run.store.close().map_err(said)?;
        let canvas = Canvas::new(disk.visible());
        let mark = canvas.mark();
        let whole = open(&canvas)?.1;
        canvas.go_back(mark);
        if whole.outcome != Outcome::Clean {
            return Err(format!("the store is not whole: {:?}", whole.outcome));
        }
        Ok(Truth { canvas, history: disk.history(), whole, snapshots })
    }

    /// Judges the canvas, and whatever was spoilt on it since the mark, and takes all of it back.
    pub(super) fn judge(&self, spoil: impl FnOnce(&Canvas)) -> Result<Verdict, String> {
        let mark = self.canvas.mark();
        spoil(&self.canvas);
        let spoilt = self.canvas.mark();
        let judged = [false, true].into_iter().try_fold(Verdict::Exact, |_, skip_covered| {
            let verdict = self.judge_opening(skip_covered).map_err(|why| format!("skip_covered {skip_covered}: {why}"));
            self.canvas.go_back(spoilt);
            verdict
        });
        self.canvas.go_back(mark);
        judged
    }

    fn judge_opening(&self, skip_covered: bool) -> Result<Verdict, String> {
        let opened = Store::open_on(self.canvas.media(), &Options { skip_covered, ..options() });
        let (store, found) = match opened {
            Err(Error::Damaged { .. } | Error::Version { .. }) => return Ok(Verdict::Refused),
            opened => opened.map_err(said)?,
        };
        self.check_promises(&found)?;
        let first_named = match &found.outcome {
            Outcome::Corrupt { ranges } => ranges.iter().map(|range| *range.start()).min().ok_or("nothing is named")?,
            _ => u64::MAX,
        };
        self.check_ops(&found, first_named)?;
        if first_named < u64::MAX {
            return self.repair(store, first_named).map(|()| Verdict::Repaired);
        }
        self.check_all_is_there(&found, skip_covered)?;
        self.lives_on(store, found).map_err(|why| format!("later: {why}"))?;
        Ok(Verdict::Exact)
    }

    /// What has to be right whatever the log is like.
    fn check_promises(&self, found: &Recovery) -> Result<(), String> {
        if (found.identity, &found.control) != (self.whole.identity, &self.whole.control) {
            return Err("another identity or control blob".into());
        }
        match &found.snapshot {
            Some(snapshot) if !self.snapshots.contains(snapshot) => Err("a snapshot that never was".into()),
            _ => Ok(()),
        }
    }

    /// Each op that the snapshot does not hold is there as it was, or is named. Where ops are named, those before them may be ones that had been
    /// replaced, if what dropped them is lost: then the repair must see it by their views.
    fn check_ops(&self, found: &Recovery, first_named: u64) -> Result<(), String> {
        let is_named = first_named < u64::MAX;
        let missing = ops_of(&self.whole.frames)
            .filter(|&(op, ..)| op > snapshot_op(found) && op < first_named)
            .find(|op| !ops_of(&found.frames).any(|at| at == *op || (is_named && at.0 == op.0 && at.1 < op.1)));
        let begins = ops_of(&self.whole.frames).next().map_or(self.whole.last_op + 1, |(op, ..)| op);
        let has_gap = snapshot_op(found) + 1 < begins.min(first_named);
        match missing {
            Some((op, ..)) => Err(format!("silent loss of op {op}: {:?}", found.outcome)),
            None if has_gap => Err(format!("silent loss before op {begins}: {:?}", found.outcome)),
            None => Ok(()),
        }
    }

    /// Nothing is named: then the log ends where it ended, and what is left out is held by the snapshot, as was asked for or said.
    fn check_all_is_there(&self, found: &Recovery, skip_covered: bool) -> Result<(), String> {
        let gone = self.whole.frames.len().checked_sub(found.frames.len()).ok_or("more frames than there were")?;
        let same = self.whole.frames[gone..] == found.frames && self.whole.last_op == found.last_op;
        let is_covered = self.whole.frames[..gone].iter().all(|frame| frame.last_op() <= snapshot_op(found));
        let is_said = gone == 0 || skip_covered || found.left_behind_op.is_some();
        let is_used = found.outcome != Outcome::Fresh;
        if same && is_covered && is_said && is_used {
            Ok(())
        } else {
            Err(format!("other frames, {:?}", found.outcome))
        }
    }

    /// Puts right what is missing, with what a peer has: its log where that fits, else its state. Then all is there.
    fn repair(&self, mut store: Store<Sheet>, first_named: u64) -> Result<(), String> {
        if store.damage.is_some() && !self.repair_log(&mut store, first_named)? {
            let last = self.whole.frames.last().map_or((0, self.whole.last_op), |frame| (frame.view, frame.last_op()));
            let control = self.whole.control.as_deref().unwrap_or_default();
            store.begin_snapshot(SnapshotMeta { view: last.0, op: last.1, tag: 0 }).map_err(said)?;
            store.install_snapshot(false, control).map_err(said)?;
        }
        if let (None, Some((meta, data))) = (store.snapshot(), self.snapshots.last()) {
            store.write_snapshot(*meta, data).map_err(said)?;
        }
        drop(store);
        let again = open(&self.canvas)?.1;
        let control = |recovery: &Recovery| recovery.control.clone().unwrap_or_default();
        if again.outcome != Outcome::Clean || control(&again) != control(&self.whole) {
            return Err(format!("repaired, and then {:?}", again.outcome));
        }
        self.check_ops(&again, u64::MAX).map_err(|why| format!("repaired, and then {why}"))
    }

    /// False if no part of a peer's log fits.
    fn repair_log(&self, store: &mut Store<Sheet>, first_named: u64) -> Result<bool, String> {
        for op in (1..=first_named).rev() {
            let suffix: Vec<Frame> = self.whole.frames.iter().filter(|frame| frame.first_op >= op).cloned().collect();
            if suffix.first().is_none_or(|frame| frame.first_op > first_named) {
                continue;
            }
            match store.repair(&suffix) {
                Err(Error::NotContiguous { .. } | Error::OutOfRange { .. }) => {}
                Err(Error::Full { .. }) => return Ok(false),
                repaired => return repaired.map(|()| true).map_err(said),
            }
        }
        Ok(false)
    }

    /// A store that took damage for harmless must bear that out: whatever it takes from then on, and wherever its log begins later, it
    /// opens again with the same ops.
    fn lives_on(&self, store: Store<Sheet>, found: Recovery) -> Result<(), String> {
        let (mut store, mut frames) = (store, found.frames);
        for round in 0..LATER_OPS {
            let (last_view, last_op) = store.last_viewstamp();
            let (first_op, previous, body) = (last_op + 1, (last_view, last_op), vec![round; 20]);
            let frame = Frame { kind: 5, view: last_view + 1, first_op, count: 1, previous, body };
            store.append(&frame).and_then(|()| store.flush()).map_err(said)?;
            frames.push(frame);
            store = self.reopened(&frames)?;
        }
        let snapshot_op = found.snapshot.map_or(0, |(meta, _)| meta.op);
        let ends: Vec<(u64, u64)> = frames.iter().map(|frame| (frame.view, frame.last_op())).collect();
        let beyond = ends.iter().filter(|(_, op)| *op > snapshot_op);
        for &(view, op) in beyond.step_by((ends.len() / LATER_HEADS).max(1)) {
            store.write_snapshot(SnapshotMeta { view, op, tag: 0 }, b"").map_err(said)?;
            store.release_prefix(op).and_then(|()| store.flush()).map_err(said)?;
            frames.retain(|frame| frame.last_op() > op);
            store = self.reopened(&frames)?;
        }
        Ok(())
    }

    /// Opens the store again: at least these frames, the last ones of the log, must be there, and nothing may be amiss in it, for the scrub either.
    fn reopened(&self, frames: &[Frame]) -> Result<Store<Sheet>, String> {
        let (mut store, found) = open(&self.canvas)?;
        let mut is_round = false;
        while !is_round {
            let scrubbed = store.scrub(u64::MAX).map_err(said)?;
            is_round = scrubbed.is_round;
            if scrubbed.findings.iter().any(|finding| matches!(finding, Finding::Log { .. })) {
                return Err(format!("scrubbed: {:?}", scrubbed.findings));
            }
        }
        match found.outcome {
            Outcome::Clean if found.frames.ends_with(frames) => Ok(store),
            Outcome::Clean => Err("opened again: other frames".into()),
            outcome => Err(format!("opened again: {outcome:?}")),
        }
    }
}

fn open(canvas: &Canvas) -> Result<(Store<Sheet>, Recovery), String> {
    Store::open_on(canvas.media(), &options()).map_err(said)
}

fn snapshot_op(found: &Recovery) -> u64 {
    found.snapshot.as_ref().map_or(0, |(meta, _)| meta.op)
}

/// Number, view and body of each op.
fn ops_of(frames: &[Frame]) -> impl Iterator<Item = (u64, u64, &[u8])> {
    frames.iter().flat_map(|frame| (frame.first_op..=frame.last_op()).map(|op| (op, frame.view, frame.body.as_slice())))
}
