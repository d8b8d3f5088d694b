//! Crashes at every event of a workload, with the pieces that each choice keeps; after some of them a second crash in the
//! recovery, and a second life with crashes of its own.
//!
//! Why it is right: the workload runs once and its stores and flushes are kept. What is durable at a moment is painted on a canvas, a choice
//! of the pieces is painted over it, the real recovery runs there, the model judges what it found, and the canvas goes back.

use super::canvas::Canvas;
use super::choices::Choices;
use super::model::{Model, Progress};
use super::options;
use super::run::{Run, Step, Tearing, said};
use crate::sim::{Event, cut};
use crate::{Options, Recovery, Store};

/// What is searched, and how far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    pub(super) tearing: Tearing,
    pub(super) choices: Choices,
    /// Every so many images, a second crash in the recovery and a second life.
    pub(super) deep_every: u64,
}

/// How many images were opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) images: u64,
    pub(super) second_crashes: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.images += other.images;
        self.second_crashes += other.second_crashes;
    }
}

/// Goes through the events on the canvas: what is flushed is painted for good, and before and after each event `visit` is called
/// with the number of events so far and the pieces that are not flushed.
pub(super) fn walk(
    canvas: &Canvas,
    unit_bytes: usize,
    events: &[Event],
    mut visit: impl FnMut(usize, &[Event]) -> Result<(), String>,
) -> Result<(), String> {
    let mut pieces = Vec::new();
    visit(0, &pieces)?;
    for (index, event) in events.iter().enumerate() {
        match event {
            Event::Store { which, offset, bytes } => cut(&mut pieces, unit_bytes, *which, *offset, bytes),
            Event::Resize { .. } => pieces.push(event.clone()),
            Event::Flush { which: flushed } => pieces.retain(|piece| match piece {
                Event::Store { which, .. } | Event::Resize { which, .. } if which == flushed => {
                    canvas.apply(piece);
                    false
                }
                _ => true,
            }),
        }
        visit(index + 1, &pieces)?;
    }
    Ok(())
}

pub(super) fn paint(canvas: &Canvas, pieces: &[Event], keep: &[bool]) {
    pieces.iter().zip(keep).filter(|(_, keep)| **keep).for_each(|(piece, _)| canvas.apply(piece));
}

/// Tries every crash of a workload.
pub(super) fn crash_everywhere(search: Search, steps: &[Step], then: &[Step]) -> Result<Count, String> {
    let mut run = Run::format(search.tearing, &options());
    run.steps(steps)?;
    let (base, events) = run.disk.history();
    let canvas = Canvas::new(base);
    let (mut count, mut visited) = (Count::default(), 0);
    let unit_bytes = search.tearing.unit_bytes();
    walk(&canvas, unit_bytes, &events, |at, pieces| {
        let bounds = run.model.bounds(at);
        search.choices.each(pieces, |keep| {
            visited += 1;
            count.images += 1;
            let mark = canvas.mark();
            paint(&canvas, pieces, keep);
            let deep = visited % search.deep_every == search.choices.seed % search.deep_every;
            let checked = if deep {
                life_after(search, &canvas, &run, bounds, then, &mut count)
            } else {
                open(&canvas).and_then(|found| run.model.explain(&found, bounds).map(drop))
            };
            canvas.go_back(mark);
            checked.map_err(|why| format!("event {at} of {}, kept {}: {why}", events.len(), shown(keep)))
        })
    })?;
    Ok(count)
}

fn shown(keep: &[bool]) -> String {
    keep.iter().map(|keep| if *keep { '1' } else { '0' }).collect()
}

fn open(canvas: &Canvas) -> Result<Recovery, String> {
    Store::open_on(canvas.media(), &options()).map(|(_, found)| found).map_err(said)
}

/// Reading from where the snapshot lets it begin finds the same, but for frames that the snapshot covers.
fn skips_what_the_snapshot_covers(canvas: &Canvas, whole: &Recovery) -> Result<(), String> {
    let mark = canvas.mark();
    let short = Store::open_on(canvas.media(), &Options { skip_covered: true, ..options() });
    canvas.go_back(mark);
    let (_, short) = short.map_err(said)?;
    let left_out = whole.frames.len().checked_sub(short.frames.len()).ok_or("reading less found more")?;
    let snapshot_op = whole.snapshot.as_ref().map_or(0, |(meta, _)| meta.op);
    let is_covered = whole.frames[..left_out].iter().all(|frame| frame.last_op() <= snapshot_op);
    let same = whole.frames[left_out..] == short.frames && whole.last_op == short.last_op;
    if same && is_covered && whole.control == short.control && whole.outcome == short.outcome {
        Ok(())
    } else {
        Err(format!(
            "reading from the snapshot on found {} frames of {}, {:?}",
            short.frames.len(),
            whole.frames.len(),
            short.outcome
        ))
    }
}

/// Recovers what is on the canvas; with a crash at each event of that; and then works on, with crashes.
fn life_after(
    search: Search,
    canvas: &Canvas,
    run: &Run,
    bounds: (Progress, Progress),
    then: &[Step],
    count: &mut Count,
) -> Result<(), String> {
    let before = canvas.mark();
    let (found, events) = canvas.recording(|| open(canvas));
    canvas.go_back(before);
    let found = found?;
    skips_what_the_snapshot_covers(canvas, &found)?;
    let kept = run.model.explain(&found, bounds)?;
    let same = |again: &Recovery| {
        (&again.frames, &again.control, &again.snapshot, again.last_op)
            == (&found.frames, &found.control, &found.snapshot, found.last_op)
    };
    let image = canvas.images();
    walk(canvas, search.tearing.unit_bytes(), &events, |at, pieces| {
        Choices::FEWEST.each(pieces, |keep| {
            count.images += 1;
            count.second_crashes += 1;
            let mark = canvas.mark();
            paint(canvas, pieces, keep);
            // Until an opening has returned, nobody believes what it found; after that it must stay.
            let again = open(canvas);
            canvas.go_back(mark);
            let again = again.map_err(|why| format!("second recovery, event {at}: {why}"))?;
            run.model.explain(&again, bounds).map_err(|why| format!("second recovery, event {at}: {why}"))?;
            if at == events.len() && !same(&again) {
                return Err(format!("recovering twice gives something else: {:?}", again.outcome));
            }
            Ok(())
        })
    })?;
    if then.is_empty() {
        return Ok(());
    }
    let mut model = run.model.clone();
    model.cut_to(kept);
    second_life(search, Run::open(search.tearing, image, model, run.view, &options())?, then, count)
}

fn second_life(search: Search, mut next: Run, then: &[Step], count: &mut Count) -> Result<(), String> {
    next.steps(then)?;
    let (base, events) = next.disk.history();
    let canvas = Canvas::new(base);
    let model: &Model = &next.model;
    walk(&canvas, search.tearing.unit_bytes(), &events, |at, pieces| {
        // Before it was open, a record that was torn may become whole: nobody has been told of either.
        if at < next.opened {
            return Ok(());
        }
        for pattern in [|_: usize| true, |_| false, |piece| piece % 2 == 0, |piece| piece % 2 == 1] {
            count.images += 1;
            let keep: Vec<bool> = (0..pieces.len()).map(pattern).collect();
            let mark = canvas.mark();
            paint(&canvas, pieces, &keep);
            let found = open(&canvas);
            canvas.go_back(mark);
            let explained = found.and_then(|found| model.explain(&found, model.bounds(at)));
            explained.map_err(|why| format!("second life, event {at}: {why}"))?;
        }
        Ok(())
    })
}

/// A process that dies when its frames are stored but not flushed leaves them visible to the next one.
pub(super) fn unflushed_then_reopened(search: Search) -> Result<Count, String> {
    let mut run = Run::format(search.tearing, &options());
    run.steps(&[Step::Append(1, 30), Step::Flush, Step::Append(1, 90), Step::Append(2, 90)])?;
    run.disk.fail_after_flushes(0);
    if run.store.flush().is_ok() {
        return Err("the flush should fail".into());
    }
    run.disk.fail_after_flushes(usize::MAX);
    run.steps(&[Step::Reopen, Step::Append(1, 10), Step::Flush])?;
    let (base, events) = run.disk.history();
    let canvas = Canvas::new(base);
    let mut count = Count::default();
    walk(&canvas, search.tearing.unit_bytes(), &events, |at, pieces| {
        search.choices.each(pieces, |keep| {
            count.images += 1;
            let mark = canvas.mark();
            paint(&canvas, pieces, keep);
            let found = open(&canvas);
            canvas.go_back(mark);
            let explained = found.and_then(|found| run.model.explain(&found, run.model.bounds(at)));
            explained.map(drop).map_err(|why| format!("event {at}: {why}"))
        })
    })?;
    Ok(count)
}
