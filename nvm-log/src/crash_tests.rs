//! Crashes at every event of a workload, with every part of what was not flushed, against a model; and the proof that the net
//! holds: each known bug, put back, is caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use crate::mutation::{self, Mutation};
use crate::sim::{Images, Sim, SimDisk};
use crate::{Error, Frame, Identity, Options, Outcome, Recovery, SnapshotMeta, Store, Witness};

const RING_BYTES: u64 = 16 << 10;
const SALT: u64 = 0x5a17;
/// Up to so many pieces, every subset of them is tried.
const EXHAUSTIVE_PIECES: usize = 9;

#[derive(Clone, Debug)]
enum Step {
    /// Ops in the frame, bytes of its body.
    Append(u32, usize),
    /// Ops to drop.
    Truncate(u64),
    Control,
    Flush,
    /// Snapshot of everything, then release all but so many ops.
    Snapshot(u64),
    /// Ops beyond the last one, and whether the suffix is kept.
    Install(u64, bool),
    /// The process ends and starts again; the machine goes on.
    Reopen,
}

#[derive(Clone, Debug)]
enum LogOp {
    Append(Frame),
    Truncate(u64),
    /// The log goes on after this op, if the record of this index counts.
    Drop(u64, usize),
}

/// What one control record stands for.
#[derive(Clone, Debug, Default)]
struct Told {
    blob: Option<Vec<u8>>,
    snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    released: u64,
    /// Log ops issued before it.
    log_ops: usize,
}

/// Numbers of log ops and records.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    log_ops: usize,
    record: usize,
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// View and op before the log, for a model that starts from a recovered store.
    log: Vec<LogOp>,
    told: Vec<Told>,
    /// After each step: events so far, what is durable for certain, what was asked for.
    marks: Vec<(usize, Progress, Progress)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Op {
    op: u64,
    view: u64,
    body: Vec<u8>,
}

fn identity() -> Identity {
    Identity { cluster: [0; 16], member: 3, incarnation: [9; 16] }
}

fn options() -> Options {
    Options { ring_bytes: RING_BYTES, ..Options::default() }
}

fn ops_of(frame: &Frame) -> impl Iterator<Item = Op> + '_ {
    (frame.first_op..=frame.last_op()).map(|op| Op { op, view: frame.view, body: frame.body.clone() })
}

impl Model {
    /// The ops of the log after so many log ops, and the op before the first.
    fn log_after(&self, log_ops: usize) -> (u64, Vec<Op>) {
        let (mut base, mut ops) = (0, Vec::new());
        for log_op in &self.log[..log_ops] {
            match log_op {
                LogOp::Append(frame) => ops.extend(ops_of(frame)),
                LogOp::Truncate(last) => ops.retain(|op: &Op| op.op <= *last),
                LogOp::Drop(op, _) => (base, ops) = (*op, Vec::new()),
            }
        }
        (base, ops)
    }

    /// What a crash after so many events may leave, at least and at most.
    fn bounds(&self, events: usize) -> (Progress, Progress) {
        // What a process that ended had not stored by then is out of the model, and cannot be on the medium.
        let possible = |progress: Progress| Progress {
            log_ops: progress.log_ops.min(self.log.len()),
            record: progress.record.min(self.told.len() - 1),
        };
        let acked = self.marks.iter().rev().find(|mark| mark.0 <= events).map_or(Progress::default(), |mark| mark.1);
        let last = self.marks.last().map_or(Progress::default(), |mark| mark.2);
        let asked = self.marks.iter().find(|mark| mark.0 > events).map_or(last, |mark| mark.2);
        let (acked, asked) = (possible(acked), possible(asked));
        (acked, asked)
    }

    /// Whether the recovered store is one that the crash may have left; says which.
    fn explain(&self, found: &Recovery, (low, high): (Progress, Progress)) -> Result<Progress, String> {
        if matches!(found.outcome, Outcome::Corrupt { .. }) {
            return Err(format!("a crash was taken for damage: {:?}", found.outcome));
        }
        let (mut next, ops): (_, Vec<Op>) =
            (found.frames.first().map(|frame| frame.first_op), found.frames.iter().flat_map(ops_of).collect());
        for frame in &found.frames {
            if next != Some(frame.first_op) {
                return Err("the frames are not contiguous".into());
            }
            next = Some(frame.last_op() + 1);
        }
        for record in (low.record..=high.record).rev() {
            let told = &self.told[record];
            if found.control != told.blob || found.snapshot != told.snapshot {
                continue;
            }
            for log_ops in (low.log_ops.max(told.log_ops)..=high.log_ops).rev() {
                let misdropped = self.log.iter().enumerate().any(|(index, log_op)| match log_op {
                    LogOp::Drop(_, dropper) => (log_ops > index) != (record >= *dropper),
                    _ => false,
                });
                let (base, expected) = self.log_after(log_ops);
                let last_op = expected.last().map_or(base, |op| op.op);
                let first = ops.first().map_or(last_op + 1, |op| op.op);
                let suffix: Vec<&Op> = expected.iter().filter(|op| op.op >= first).collect();
                let kept_enough = first <= told.released.max(base) + 1;
                if !misdropped && found.last_op == last_op && kept_enough && suffix == ops.iter().collect::<Vec<_>>() {
                    return Ok(Progress { log_ops, record });
                }
            }
        }
        Err(format!(
            "not a state between {low:?} and {high:?}: last op {}, first {:?}, control {:?}, {:?}",
            found.last_op,
            ops.first().map(|op| op.op),
            found.control.as_ref().map(Vec::len),
            found.outcome
        ))
    }

    /// Forgets what the recovered store did not keep.
    fn cut_to(&mut self, kept: Progress) {
        self.log.truncate(kept.log_ops);
        self.told.truncate(kept.record + 1);
        for told in &mut self.told {
            told.log_ops = told.log_ops.min(kept.log_ops);
        }
    }
}

/// A store on simulated media, with its model.
struct Run {
    disk: SimDisk,
    store: Store<Sim>,
    model: Model,
    view: u64,
}

impl Run {
    fn format(unit_bytes: usize, options: &Options) -> Run {
        let disk = SimDisk::new(unit_bytes, Images::default());
        let store = Store::format_on(disk.media(), options, identity(), SALT).unwrap();
        let formatted = disk.visible();
        drop(store);
        Run::open(unit_bytes, formatted, Model { told: vec![Told::default()], ..Model::default() }, 1, options).unwrap()
    }

    /// Opens images that the model explains.
    fn open(unit_bytes: usize, images: Images, mut model: Model, view: u64, options: &Options) -> Result<Run, String> {
        let disk = SimDisk::new(unit_bytes, images);
        let (store, _) = Store::open_on(disk.media(), options).map_err(|error| error.to_string())?;
        let progress = Progress { log_ops: model.log.len(), record: model.told.len() - 1 };
        model.marks = vec![(0, progress, progress)];
        Ok(Run { disk, store, model, view })
    }

    fn asked(&self) -> Progress {
        Progress { log_ops: self.model.log.len(), record: self.model.told.len() - 1 }
    }

    fn told(&mut self, change: impl FnOnce(&mut Told)) {
        let mut told = self.model.told.last().cloned().unwrap_or_default();
        change(&mut told);
        told.log_ops = self.model.log.len();
        self.model.told.push(told);
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let acked = match self.model.marks.last() {
            Some(mark) => mark.1,
            None => Progress::default(),
        };
        let flushed = self.apply(step)?;
        let asked = self.asked();
        self.model.marks.push((self.disk.events(), if flushed { asked } else { acked }, asked));
        Ok(())
    }

    /// Says whether everything asked for is now durable.
    fn apply(&mut self, step: &Step) -> Result<bool, String> {
        let said = |error: Error| error.to_string();
        let (last_view, last_op) = self.store.last_viewstamp();
        match *step {
            Step::Append(count, len) => {
                let body = (0..len).map(|at| (at as u64 * 7 + last_op + self.view * 31 + 1) as u8).collect();
                let (first_op, previous) = (last_op + 1, (last_view, last_op));
                let frame = Frame { kind: 5, view: self.view, first_op, count, previous, body };
                match self.store.append(&frame) {
                    Ok(()) => self.model.log.push(LogOp::Append(frame)),
                    Err(Error::Full { .. }) => return self.apply(&Step::Snapshot(1)),
                    Err(error) => return Err(error.to_string()),
                }
                Ok(false)
            }
            Step::Truncate(ops) => {
                let low = self.store.head_op().max(self.store.snapshot().map_or(0, |meta| meta.op));
                let op = last_op.saturating_sub(ops).max(low);
                self.view += 1;
                match self.store.truncate_after(op) {
                    Ok(()) => self.model.log.push(LogOp::Truncate(op)),
                    Err(Error::Full { .. }) => return self.apply(&Step::Snapshot(1)),
                    Err(error) => return Err(error.to_string()),
                }
                Ok(false)
            }
            Step::Control => {
                let blob = vec![self.model.told.len() as u8; 3 + self.model.told.len() * 5 % 90];
                self.store.set_control(&blob).map_err(said)?;
                self.told(|told| told.blob = Some(blob));
                Ok(false)
            }
            Step::Flush => {
                self.store.flush().map_err(said)?;
                Ok(true)
            }
            Step::Snapshot(keep) => {
                let meta = SnapshotMeta { view: last_view, op: last_op, tag: self.model.told.len() as u64 };
                let data = vec![meta.tag as u8; 100 + last_op as usize % 7];
                self.told(|told| told.snapshot = Some((meta, data.clone())));
                self.store.write_snapshot(meta, &data).map_err(said)?;
                let asked = self.asked();
                self.model.marks.push((self.disk.events(), asked, asked));
                let released = last_op.saturating_sub(keep);
                self.store.release_prefix(released).map_err(said)?;
                self.told(|told| told.released = told.released.max(released));
                Ok(false)
            }
            Step::Install(ahead, keep) => {
                let meta = SnapshotMeta { view: self.view, op: last_op + ahead, tag: self.model.told.len() as u64 };
                let (data, blob) = (vec![meta.tag as u8; 70], vec![meta.tag as u8; 9]);
                if !keep || ahead > 0 {
                    self.model.log.push(LogOp::Drop(meta.op, self.model.told.len()));
                }
                self.told(|told| (told.snapshot, told.blob) = (Some((meta, data.clone())), Some(blob.clone())));
                self.store.install_snapshot(meta, &data, keep, &blob).map_err(said)?;
                Ok(true)
            }
            Step::Reopen => {
                let high = self.asked();
                let low = self.model.marks.last().map_or(Progress::default(), |mark| mark.1);
                let (store, found) = Store::open_on(self.disk.media(), &options()).map_err(said)?;
                self.store = store;
                let kept = self.model.explain(&found, (low, high))?;
                self.model.cut_to(kept);
                Ok(true)
            }
        }
    }
}

/// Which pieces a crash keeps, one choice after the other.
fn choices(pieces: usize) -> Vec<Vec<bool>> {
    if pieces <= EXHAUSTIVE_PIECES {
        return (0..1u32 << pieces).map(|bits| (0..pieces).map(|at| bits >> at & 1 == 1).collect()).collect();
    }
    let mut all = vec![vec![true; pieces], vec![false; pieces]];
    for chosen in 0..pieces {
        all.push((0..pieces).map(|at| at <= chosen).collect());
        all.push((0..pieces).map(|at| at != chosen).collect());
        all.push((0..pieces).map(|at| at == chosen).collect());
        all.push((0..pieces).map(|at| at >= chosen).collect());
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..64 {
        all.push(
            (0..pieces)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state >> 40 & 1 == 1
                })
                .collect(),
        );
    }
    all
}

/// Tries every crash of a workload; after some of them, another crash in recovery, and a second workload with its crashes.
fn crash_everywhere(unit_bytes: usize, steps: &[Step], then: &[Step]) -> Result<u64, String> {
    let mut run = Run::format(unit_bytes, &options());
    for step in steps {
        run.step(step)?;
    }
    let mut images = 0;
    for events in 0..=run.disk.events() {
        let point = run.disk.crash_at(events);
        for (index, keep) in choices(point.pieces()).into_iter().enumerate() {
            images += 1;
            let image = point.image(|piece| keep[piece]);
            let deep = index % 16 == 5 % point.pieces().max(1);
            check_image(unit_bytes, &run, events, image, then, deep)
                .map_err(|why| format!("event {events}, kept {keep:?}: {why}"))?;
        }
    }
    Ok(images)
}

fn check_image(
    unit_bytes: usize,
    run: &Run,
    events: usize,
    image: Images,
    then: &[Step],
    deep: bool,
) -> Result<(), String> {
    let disk = SimDisk::new(unit_bytes, image.clone());
    let (_, found) = Store::open_on(disk.media(), &options()).map_err(|error| error.to_string())?;
    let bounds = run.model.bounds(events);
    let kept = run.model.explain(&found, bounds)?;
    let mut model = run.model.clone();
    model.cut_to(kept);
    let same = |again: &Recovery| {
        (&again.frames, &again.control, &again.snapshot, again.last_op)
            == (&found.frames, &found.control, &found.snapshot, found.last_op)
    };
    if !deep {
        return Ok(());
    }
    for events in 0..=disk.events() {
        let point = disk.crash_at(events);
        for keep in choices(point.pieces().min(3)) {
            let image = point.image(|piece| keep[piece % keep.len().max(1)]);
            let media = SimDisk::new(unit_bytes, image).media();
            let (_, again) = Store::open_on(media, &options()).map_err(|error| format!("second recovery: {error}"))?;
            // Until an opening has returned, nobody believes what it found; after that it must stay.
            run.model.explain(&again, bounds).map_err(|why| format!("second recovery: {why}"))?;
            if events == disk.events() && !same(&again) {
                return Err(format!("recovering twice gives something else: {:?}", again.outcome));
            }
        }
    }
    if !then.is_empty() {
        let mut next = Run::open(unit_bytes, image, model, run.view, &options())?;
        for step in then {
            next.step(step)?;
        }
        for events in [next.disk.events() / 2, next.disk.events()] {
            let point = next.disk.crash_at(events);
            for image in [point.image(|_| true), point.image(|_| false), point.image(|piece| piece % 2 == 0)] {
                let media = SimDisk::new(unit_bytes, image).media();
                let (_, found) = Store::open_on(media, &options()).map_err(|error| format!("second life: {error}"))?;
                next.model.explain(&found, next.model.bounds(events)).map_err(|why| format!("second life: {why}"))?;
            }
        }
    }
    Ok(())
}

fn batches_and_control() -> Vec<Step> {
    use Step::*;
    vec![
        Append(1, 16),
        Append(3, 100),
        Flush,
        Control,
        Append(2, 60),
        Flush,
        Append(1, 64),
        Append(1, 0),
        Append(2, 128),
        Flush,
        Control,
        Flush,
        Control,
        Control,
        Append(1, 10),
        Flush,
    ]
}

fn truncations() -> Vec<Step> {
    use Step::*;
    vec![
        Append(2, 40),
        Append(2, 40),
        Append(2, 40),
        Append(2, 40),
        Flush,
        Truncate(3),
        Flush,
        Append(1, 40),
        Flush,
        Append(2, 30),
        Truncate(2),
        Append(2, 40),
        Control,
        Flush,
        Reopen,
        Append(1, 8),
        Truncate(2),
        Append(1, 8),
        Flush,
    ]
}

fn snapshots() -> Vec<Step> {
    use Step::*;
    vec![
        Append(2, 40),
        Control,
        Snapshot(1),
        Append(1, 30),
        Flush,
        Append(3, 10),
        Snapshot(1),
        Flush,
        Append(1, 4),
        Install(0, true),
        Append(1, 9),
        Install(4, false),
        Append(2, 20),
        Flush,
        Append(1, 20),
        Install(3, true),
        Append(1, 1),
        Flush,
    ]
}

fn laps() -> Vec<Step> {
    use Step::*;
    let mut steps = Vec::new();
    for round in 0..8 {
        steps.extend([Append(2, 1500), Append(1, 900), Control, Flush, Append(1, 700 + 64 * round), Flush]);
        if round % 2 == 1 {
            steps.extend([Snapshot(2), Append(1, 64), Flush]);
        }
    }
    steps
}

/// The log is nearly full, its head moves, and the same flush brings more than was free before.
fn full_ring() -> Vec<Step> {
    let mut steps = vec![Step::Append(1, 1500); 9];
    steps.extend([Step::Flush, Step::Snapshot(0)]);
    steps.extend(vec![Step::Append(1, 1500); 4]);
    steps.push(Step::Flush);
    steps
}

fn process_crashes() -> Vec<Step> {
    use Step::*;
    vec![
        Append(1, 20),
        Control,
        Flush,
        Append(1, 20),
        Append(1, 20),
        Control,
        Reopen,
        Append(2, 70),
        Flush,
        Snapshot(0),
        Reopen,
        Append(1, 3),
        Flush,
    ]
}

/// The same frames again, so that what was dropped would fit on if nothing told the lives apart.
fn again() -> Vec<Step> {
    vec![Step::Append(1, 64), Step::Flush, Step::Append(2, 40), Step::Control, Step::Flush]
}

/// Frames that are stored but not flushed, with one flush that ends none of them early: the tail of which a crash keeps any part.
fn equal_frames() -> Vec<Step> {
    vec![Step::Append(1, 64), Step::Flush, Step::Append(1, 64), Step::Append(1, 64), Step::Append(1, 64), Step::Flush]
}

/// A process that dies when its frames are stored but not flushed leaves them visible to the next one.
fn unflushed_then_reopened() -> Result<(), String> {
    let mut run = Run::format(64, &options());
    for step in [Step::Append(1, 30), Step::Flush, Step::Append(1, 90), Step::Append(2, 90)] {
        run.step(&step)?;
    }
    run.disk.fail_after_flushes(0);
    if run.store.flush().is_ok() {
        return Err("the flush should fail".into());
    }
    run.disk.fail_after_flushes(usize::MAX);
    run.step(&Step::Reopen)?;
    run.step(&Step::Append(1, 10))?;
    run.step(&Step::Flush)?;
    for events in 0..=run.disk.events() {
        let point = run.disk.crash_at(events);
        for keep in choices(point.pieces()) {
            let media = SimDisk::new(64, point.image(|piece| keep[piece])).media();
            let (_, found) = Store::open_on(media, &options()).map_err(|error| error.to_string())?;
            run.model.explain(&found, run.model.bounds(events)).map_err(|why| format!("event {events}: {why}"))?;
        }
    }
    Ok(())
}

/// Everything that every bug must get past.
fn the_net() -> Result<u64, String> {
    let mut images = crash_everywhere(64, &equal_frames(), &again())?;
    images += crash_everywhere(512, &full_ring(), &[])?;
    images += crash_everywhere(64, &batches_and_control(), &again())?;
    images += crash_everywhere(64, &truncations(), &again())?;
    images += crash_everywhere(512, &snapshots(), &again())?;
    images += crash_everywhere(64, &process_crashes(), &again())?;
    unflushed_then_reopened()?;
    images += crash_everywhere(512, &laps(), &[])?;
    every_flip()?;
    Ok(images)
}

/// A closed store with a bit of everything, damaged in one bit at a time.
fn every_flip() -> Result<(), String> {
    let steps = [
        Step::Append(1, 30),
        Step::Control,
        Step::Flush,
        Step::Append(2, 90),
        Step::Flush,
        Step::Snapshot(1),
        Step::Append(2, 100),
        Step::Append(1, 5),
        Step::Flush,
        Step::Truncate(1),
        Step::Append(1, 12),
        Step::Control,
        Step::Flush,
    ];
    let mut run = Run::format(512, &options());
    for step in &steps {
        run.step(step)?;
    }
    let disk = run.disk.clone();
    run.store.close().map_err(|error| error.to_string())?;
    let whole = disk.visible();
    let (_, before) =
        Store::open_on(SimDisk::new(512, whole.clone()).media(), &options()).map_err(|error| error.to_string())?;
    let mut seen_corrupt = 0;
    for which in 0..3 {
        for at in (0..whole[which].len()).filter(|&at| whole[which][at] != 0) {
            let mut image = whole.clone();
            image[which][at] ^= 1 << (at % 8);
            match Store::open_on(SimDisk::new(512, image).media(), &options()) {
                Err(Error::Damaged { .. } | Error::Version { .. }) => {}
                Err(error) => return Err(format!("medium {which} byte {at:#x}: {error}")),
                Ok((_, found)) if matches!(found.outcome, Outcome::Corrupt { .. }) => seen_corrupt += 1,
                Ok((_, found)) => {
                    // An older whole snapshot will do if the log goes on from it.
                    let state = |found: &Recovery| (found.last_op, found.frames.clone(), found.control.clone());
                    if state(&found) != state(&before) {
                        return Err(format!("medium {which} byte {at:#x}: silent loss, {:?}", found.outcome));
                    }
                }
            }
        }
    }
    if seen_corrupt > 100 { Ok(()) } else { Err("damage was hardly ever seen".into()) }
}

#[test]
fn every_crash_point_of_every_workload_leaves_a_legal_store() {
    let images = the_net().unwrap();
    assert!(images > 5_000, "only {images} crash images");
}

#[test]
fn words_of_eight_bytes_may_tear_anywhere() {
    let steps = [Step::Append(1, 40), Step::Flush, Step::Append(1, 8), Step::Control, Step::Flush];
    crash_everywhere(8, &steps, &again()).unwrap();
}

#[test]
fn every_known_bug_is_caught() {
    let bugs = [
        Mutation::NoChain,
        Mutation::SameEpoch,
        Mutation::RewindingTruncate,
        Mutation::SingleControlSlot,
        Mutation::ControlBeforeFrames,
        Mutation::NoFlush,
        Mutation::NoBodyChecksum,
        Mutation::NoLap,
        Mutation::EagerReuse,
        Mutation::SwitchBeforeSnapshot,
        Mutation::BelieveUnflushed,
        Mutation::NoWitness,
    ];
    let mut missed = Vec::new();
    for bug in bugs {
        let result = mutation::with(bug, || catch_unwind(AssertUnwindSafe(the_net)));
        match result {
            Ok(Ok(_)) => missed.push(bug),
            Ok(Err(why)) => println!("{bug:?}: {why}"),
            Err(_) => println!("{bug:?}: assertion"),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn a_frame_that_was_durable_and_is_damaged_is_corruption_for_ever_until_settled() {
    let mut run = Run::format(512, &options());
    for step in
        [Step::Append(2, 100), Step::Flush, Step::Append(2, 100), Step::Flush, Step::Append(1, 100), Step::Flush]
    {
        run.step(&step).unwrap();
    }
    let mut image = run.disk.visible();
    image[0][0x1_8000 + 192 + 70] ^= 4;
    let disk = SimDisk::new(512, image);
    let (store, found) = Store::open_on(disk.media(), &options()).unwrap();
    assert_eq!(found.outcome, Outcome::Corrupt { ranges: vec![3..=5] });
    assert_eq!(found.last_op, 2);
    drop(store);
    let (mut store, again) = Store::open_on(disk.media(), &options()).unwrap();
    assert_eq!((again.outcome, again.frames), (found.outcome, found.frames));
    store.append(&Frame { view: 1, first_op: 3, count: 3, previous: (1, 2), ..Frame::default() }).unwrap();
    store.settle_damage().unwrap();
    let (_, settled) = Store::open_on(disk.media(), &options()).unwrap();
    assert_eq!((settled.outcome, settled.last_op), (Outcome::Clean, 5));
}

/// A frame that lost a piece before any flush; with `later`, a whole frame stands after it.
fn torn(options: &Options, later: bool) -> (Recovery, Images) {
    let disk = SimDisk::new(64, Images::default());
    let mut store = Store::format_on(disk.media(), options, identity(), SALT).unwrap();
    for op in 1..=if later { 3 } else { 2 } {
        let frame = Frame { view: 1, first_op: op, count: 1, previous: (1, op - 1), body: vec![7; 100], kind: 0 };
        store.append(&frame).unwrap();
        if op == 1 {
            store.flush().unwrap();
        }
    }
    let before = disk.events();
    disk.fail_after_flushes(0);
    store.flush().unwrap_err();
    assert_eq!(disk.events(), before + 1);
    let point = disk.crash_at(disk.events());
    let first = point.pieces() - if later { 6 } else { 3 };
    let image = point.image(|piece| piece != first + 1);
    (Store::open_on(SimDisk::new(64, image.clone()).media(), options).unwrap().1, image)
}

#[test]
fn a_tail_that_was_never_durable_is_torn_and_with_a_flipped_bit_too() {
    let (found, image) = torn(&options(), false);
    assert_eq!((found.outcome, found.last_op), (Outcome::Torn { dropped_bytes: 192 }, 1));
    for at in 0x1_8000 + 192..0x1_8000 + 384 {
        let mut image = image.clone();
        image[0][at] ^= 1;
        let (_, found) = Store::open_on(SimDisk::new(64, image).media(), &options()).unwrap();
        assert!(matches!(found.outcome, Outcome::Torn { .. } | Outcome::Clean), "{:?}", found.outcome);
        assert_eq!(found.last_op, 1);
    }
}

#[test]
fn a_hole_before_a_whole_frame_is_uncertain_unless_the_witness_is_synchronous() {
    assert_eq!(torn(&options(), true).0.outcome, Outcome::Uncertain { dropped_bytes: 384 });
    let certain = Options { witness: Witness::Sync, ..options() };
    assert_eq!(torn(&certain, true).0.outcome, Outcome::Torn { dropped_bytes: 384 });
}

#[test]
fn a_failed_flush_poisons_every_later_call() {
    let disk = SimDisk::new(512, Images::default());
    let mut store = Store::format_on(disk.media(), &options(), identity(), SALT).unwrap();
    let frame = Frame { view: 1, first_op: 1, count: 1, ..Frame::default() };
    store.append(&frame).unwrap();
    disk.fail_after_flushes(0);
    assert!(matches!(store.flush(), Err(Error::Io { .. })));
    disk.fail_after_flushes(usize::MAX);
    assert!(matches!(store.flush(), Err(Error::Poisoned)));
    assert!(matches!(store.append(&frame), Err(Error::Poisoned)));
    assert!(matches!(store.set_control(b"x"), Err(Error::Poisoned)));
    assert!(matches!(store.write_snapshot(SnapshotMeta::default(), b"x"), Err(Error::Poisoned)));
    assert!(matches!(store.truncate_after(0), Err(Error::Poisoned)));
    assert!(matches!(store.release_prefix(0), Err(Error::Poisoned)));
}

#[test]
fn a_full_log_refuses_the_batch_but_can_be_truncated_and_released() {
    let disk = SimDisk::new(512, Images::default());
    let mut store = Store::format_on(disk.media(), &options(), identity(), SALT).unwrap();
    let mut op = 1;
    let full = loop {
        let frame = Frame { view: 1, first_op: op, count: 1, previous: (1, op - 1), body: vec![1; 1000], kind: 0 };
        match store.append(&frame) {
            Ok(()) => op += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    store.truncate_after(op - 2).unwrap();
    let meta = SnapshotMeta { view: 1, op: op - 2, tag: 0 };
    assert!(matches!(store.release_prefix(1), Err(Error::OutOfRange { .. })), "no snapshot holds op 1");
    store.write_snapshot(meta, b"state").unwrap();
    store.release_prefix(meta.op).unwrap();
    let before = store.free_bytes();
    store.flush().unwrap();
    assert!(store.free_bytes() > before + 10_000, "space comes back only with the flush");
    assert_eq!(store.read_snapshot().unwrap(), Some((meta, b"state".to_vec())));
}

#[test]
fn a_frame_that_does_not_follow_or_is_too_large_is_refused() {
    let disk = SimDisk::new(512, Images::default());
    let mut store = Store::format_on(disk.media(), &options(), identity(), SALT).unwrap();
    let good = Frame { view: 1, first_op: 1, count: 1, ..Frame::default() };
    for bad in [
        Frame { first_op: 2, previous: (0, 1), ..good.clone() },
        Frame { count: 0, ..good.clone() },
        Frame { previous: (0, 7), ..good.clone() },
    ] {
        assert!(matches!(store.append(&bad), Err(Error::NotContiguous { .. })));
    }
    let large = Frame { body: vec![0; store.body_max_bytes() as usize + 1], ..good.clone() };
    assert!(matches!(store.append(&large), Err(Error::TooLarge { .. })));
    assert!(matches!(store.set_control(&[0; 16385]), Err(Error::TooLarge { .. })));
    store.append(&Frame { body: vec![0; store.body_max_bytes() as usize], ..good }).unwrap();
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4u32, 0..2000usize).prop_map(|(count, len)| Step::Append(count, len)),
        2 => (0..5u64).prop_map(Step::Truncate),
        2 => Just(Step::Control),
        4 => Just(Step::Flush),
        1 => (0..4u64).prop_map(Step::Snapshot),
        1 => (0..3u64, any::<bool>()).prop_map(|(ahead, keep)| Step::Install(ahead, keep)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_workload_with_crashes_between_its_lives_agrees_with_the_model(
        lives in prop::collection::vec((prop::collection::vec(any_step(), 1..40), any::<prop::sample::Index>(), any::<u64>()), 1..5),
    ) {
        let mut run = Run::format(64, &options());
        for (steps, when, seed) in lives {
            for step in &steps {
                run.step(step).map_err(TestCaseError::fail)?;
            }
            let events = when.index(run.disk.events() + 1);
            let point = run.disk.crash_at(events);
            let mut state = seed;
            let image = point.image(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 40 & 3 != 0
            });
            let media = SimDisk::new(64, image.clone()).media();
            let (_, found) = Store::open_on(media, &options()).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let kept = run.model.explain(&found, run.model.bounds(events)).map_err(TestCaseError::fail)?;
            let mut model = run.model.clone();
            model.cut_to(kept);
            run = Run::open(64, image, model, run.view + 1, &options()).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        noise in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..200)), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
        from_nothing in any::<bool>(),
    ) {
        let mut run = Run::format(512, &options());
        for step in batches_and_control().iter().chain(&[Step::Snapshot(1), Step::Flush]) {
            run.step(step).map_err(TestCaseError::fail)?;
        }
        let mut images = run.disk.visible();
        if from_nothing {
            images[0].fill(0x5a);
        }
        for (at, bytes) in noise {
            let which = at.index(3);
            let start = at.index(images[which].len().max(1));
            for (to, from) in images[which].iter_mut().skip(start).zip(bytes) {
                *to = from;
            }
        }
        if let Some(cut) = cut {
            let len = cut.index(images[0].len());
            images[0].truncate(len);
        }
        if let Ok((mut store, _)) = Store::open_on(SimDisk::new(512, images).media(), &options()) {
            let (view, op) = store.last_viewstamp();
            if store.append(&Frame { view, first_op: op + 1, count: 1, previous: (view, op), ..Frame::default() }).is_ok() {
                store.flush().unwrap();
            }
        }
    }
}
