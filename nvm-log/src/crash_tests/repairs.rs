//! Damage that is repaired: what is whole comes back, what is missing is named, and a crash in the repair leaves the damaged log
//! or the repaired one.

use std::ops::RangeInclusive;

use super::canvas::{Canvas, Sheet};
use super::choices::Choices;
use super::enumerator::{Count, paint, walk};
use super::options;
use super::run::{Run, Step, Tearing, said};
use crate::sim::Images;
use crate::{Error, Finding, Frame, Options, Outcome, Recovery, Store};

/// Where the ring of the tests begins.
const RING: usize = 0x1_8000;

/// A closed store, with its frames as a peer has them.
fn closed(tearing: Tearing, steps: &[Step]) -> Result<(Images, Vec<Frame>), String> {
    let mut run = Run::format(tearing, &options());
    run.steps(steps)?;
    let disk = run.disk.clone();
    run.store.close().map_err(said)?;
    let found = open(&Canvas::new(disk.visible()))?.1;
    Ok((disk.visible(), found.frames))
}

fn open(canvas: &Canvas) -> Result<(Store<Sheet>, Recovery), String> {
    Store::open_on(canvas.media(), &options()).map_err(said)
}

fn ranges(found: &Recovery) -> &[RangeInclusive<u64>] {
    match &found.outcome {
        Outcome::Corrupt { ranges } => ranges,
        _ => &[],
    }
}

/// What a peer sends: its log from an op on.
fn from(frames: &[Frame], op: u64) -> Vec<Frame> {
    frames.iter().filter(|frame| frame.first_op >= op).cloned().collect()
}

fn workload() -> Vec<Step> {
    use Step::*;
    vec![
        Append(2, 30),
        Flush,
        Append(1, 100),
        Append(2, 10),
        Flush,
        Append(1, 64),
        Truncate(2),
        Append(3, 70),
        Flush,
        Control,
        Append(1, 130),
        Flush,
        Append(1, 9),
        Append(1, 300),
        Flush,
    ]
}

/// Each line of the log is spoilt in turn; the log is repaired from a peer, with every crash in that.
pub(super) fn crash_in_every_repair(tearing: Tearing) -> Result<Count, String> {
    let (images, frames) = closed(tearing, &workload())?;
    let used = images[0][RING..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut count = Count::default();
    let mut repaired = 0;
    for (line, width) in (0..used / 64).flat_map(|line| [(line, 64), (line, 256)]) {
        let mut damaged = images.clone();
        let end = (RING + line * 64 + width).min(RING + used.next_multiple_of(64));
        damaged[0][RING + line * 64..end].fill(0x55);
        let canvas = Canvas::new(damaged);
        let why = |why| format!("line {line}, {width} bytes: {why}");
        repaired += u64::from(crash_in_repair(&canvas, tearing, &frames, &mut count).map_err(why)?);
    }
    if repaired > 20 { Ok(count) } else { Err(format!("only {repaired} logs had to be repaired")) }
}

/// Says whether there was anything to repair.
fn crash_in_repair(canvas: &Canvas, tearing: Tearing, frames: &[Frame], count: &mut Count) -> Result<bool, String> {
    let (mut store, found) = open(canvas)?;
    let Some(first) = ranges(&found).first().map(|range| *range.start()) else {
        return if found.frames == frames { Ok(false) } else { Err(format!("silent loss: {:?}", found.outcome)) };
    };
    // Ops that a lost truncation dropped may still be there.
    let is_there =
        |frame: &Frame| found.frames.iter().any(|found| found.first_op == frame.first_op && found.body == frame.body);
    let is_missing = |frame: &Frame| ranges(&found).iter().any(|range| frame.last_op() >= *range.start());
    if frames.iter().any(|frame| !is_there(frame) && !is_missing(frame)) {
        return Err(format!("frames are gone that nobody names missing: {:?}", found.outcome));
    }
    let before = canvas.images();
    // The peer's frames do not begin at each op, and ops before the first missing one may have been replaced: then begin earlier.
    let (result, events) = canvas.recording(|| {
        let attempts = (1..=first)
            .rev()
            .map(|op| from(frames, op))
            .filter(|suffix| suffix.first().is_some_and(|frame| frame.first_op <= first));
        let repaired = attempts
            .map(|suffix| store.repair(&suffix))
            .find(|result| !matches!(result, Err(Error::NotContiguous { .. } | Error::OutOfRange { .. })));
        repaired.unwrap_or_else(|| store.repair(&[]))
    });
    result.map_err(said)?;
    drop(store);
    let under_repair = Canvas::new(before);
    walk(&under_repair, tearing.unit_bytes(), &events, |at, pieces| {
        Choices::FEWEST.each(pieces, |keep| {
            count.images += 1;
            let mark = under_repair.mark();
            paint(&under_repair, pieces, keep);
            let again = open(&under_repair).map(|(_, again)| again);
            under_repair.go_back(mark);
            let again = again?;
            let is_repaired = again.outcome == Outcome::Clean && again.frames == frames;
            let is_as_before = again.outcome == found.outcome && again.frames == found.frames;
            let has_returned = at == events.len();
            if is_repaired || (is_as_before && !has_returned) {
                return Ok(());
            }
            Err(format!("event {at}: neither damaged nor repaired: {:?}, last op {}", again.outcome, again.last_op))
        })
    })?;
    Ok(true)
}

#[test]
fn whatever_line_of_the_log_is_lost_the_rest_is_returned_and_a_repair_is_atomic() {
    for tearing in [Tearing::Words, Tearing::Lines, Tearing::Sectors(512)] {
        let count = crash_in_every_repair(tearing).expect("damaged or repaired");
        assert!(count.images > 2_000, "{count:?}");
    }
}

/// A repair that begins before the place from which the snapshot lets reading begin: that place is no longer of the log.
pub(super) fn a_place_to_begin_that_was_led_around_is_not_begun_at() -> Result<(), String> {
    use Step::{Append, Flush, Snapshot};
    let steps = [Append(1, 30), Append(2, 30), Flush, Snapshot(3), Append(1, 30), Append(1, 30), Flush];
    let (mut images, frames) = closed(Tearing::Lines, &steps)?;
    for frame in [1, 2] {
        images[0][RING + 128 * frame + 70] ^= 1;
    }
    let canvas = Canvas::new(images);
    let (mut store, found) = open(&canvas)?;
    if found.outcome != (Outcome::Corrupt { ranges: vec![2..=4] }) {
        return Err(format!("{:?}", found.outcome));
    }
    store.repair(&frames[1..]).map_err(said)?;
    store.close().map_err(said)?;
    let short = Store::open_on(canvas.media(), &Options { skip_covered: true, ..options() }).map_err(said)?.1;
    let same = short.outcome == Outcome::Clean && short.frames == frames;
    if same { Ok(()) } else { Err(format!("{:?}, last op {}", short.outcome, short.last_op)) }
}

#[test]
fn two_holes_are_two_ranges_and_what_lies_between_is_returned() {
    use Step::{Append, Flush};
    let steps = [Append(2, 30), Append(2, 30), Append(2, 30), Flush, Append(2, 30), Append(2, 30), Flush];
    let (mut images, frames) = closed(Tearing::Lines, &steps).expect("sound media");
    for frame in [1, 3] {
        images[0][RING + 128 * frame + 70] ^= 1;
    }
    let canvas = Canvas::new(images);
    let (mut store, found) = open(&canvas).expect("it opens");
    assert_eq!(found.outcome, Outcome::Corrupt { ranges: vec![3..=4, 7..=8] });
    assert_eq!(found.frames, [frames[0].clone(), frames[2].clone(), frames[4].clone()]);
    let stranger = Frame { view: 9, ..frames[1].clone() };
    let refused = store.repair(&[Frame { previous: (9, 2), ..stranger }]);
    assert!(matches!(refused, Err(Error::NotContiguous { .. })), "{refused:?}");
    store.set_control(b"a promise can be made meanwhile").expect("within bounds");
    store.flush().expect("the medium is sound");
    store.repair(&frames[1..]).expect("it fits");
    store.append(&Frame { first_op: 11, previous: (1, 10), ..frames[0].clone() }).expect("it is whole again");
    store.flush().expect("the medium is sound");
    let (_, again) = open(&canvas).expect("it opens");
    assert_eq!((again.outcome, again.frames.len(), again.last_op), (Outcome::Clean, 6, 12));
    assert_eq!(again.control.as_deref(), Some(&b"a promise can be made meanwhile"[..]));
}

#[test]
fn damage_to_padding_loses_nothing_and_is_led_around() {
    use Step::{Append, Control, Flush, Snapshot};
    let mut steps = vec![Append(1, 3000); 5];
    steps.extend([Flush, Snapshot(1), Flush, Append(1, 3500), Flush, Control, Append(1, 20), Flush]);
    let (mut images, frames) = closed(Tearing::Lines, &steps).expect("sound media");
    let padding = RING + 5 * 3072;
    assert_eq!(images[0][padding + 12], 2, "padding lies there");
    images[0][padding..padding + 64].fill(7);
    let canvas = Canvas::new(images);
    for _ in 0..2 {
        let (_, found) = open(&canvas).expect("it opens");
        assert_eq!((found.outcome, &found.frames), (Outcome::Clean, &frames));
    }
}

#[test]
fn damage_before_what_the_snapshot_needs_is_left_behind() {
    use Step::{Append, Flush, Snapshot};
    let steps = [Append(1, 30), Append(1, 30), Flush, Snapshot(2), Append(1, 30), Flush];
    let (mut images, _) = closed(Tearing::Lines, &steps).expect("sound media");
    images[0][RING + 70] ^= 1;
    let (store, found) = open(&Canvas::new(images)).expect("it opens");
    assert_eq!((found.outcome, found.frames.len(), store.head_op()), (Outcome::Clean, 1, 2));
}

/// What a scrub finds, piece by piece.
fn whole_round(run: &mut Run) -> Vec<Finding> {
    let mut findings = Vec::new();
    loop {
        let mut scrubbed = run.store.scrub(200).expect("the medium is sound");
        findings.append(&mut scrubbed.findings);
        if scrubbed.is_round {
            return findings;
        }
    }
}

#[test]
fn a_scrub_finds_damage_in_the_newest_snapshot_wherever_it_is_and_a_new_one_heals_it() {
    use Step::{Append, Flush, Snapshot};
    let steps = [Append(2, 30), Flush, Snapshot(1), Append(2, 30), Flush, Snapshot(3), Flush];
    // Where a snapshot begins, its bytes, its checksums.
    for at in [9, 0x1003, 0x2001] {
        let mut run = Run::format(Tearing::Sectors(512), &options());
        run.steps(&steps).expect("sound media");
        assert_eq!(whole_round(&mut run), []);
        run.disk.damage(1, at..at + 1, |bytes| bytes[0] ^= 1);
        assert_eq!(whole_round(&mut run), [], "the older one may be written over at any time");
        run.disk.damage(2, at..at + 1, |bytes| bytes[0] ^= 1);
        assert_eq!(whole_round(&mut run), [Finding::Snapshot { op: 4 }], "at {at}");
        let meta = run.store.snapshot().expect("there is one");
        run.store.write_snapshot(meta, b"the same state").expect("there is room");
        assert_eq!(whole_round(&mut run), []);
        let (_, found) = Store::open_on(run.disk.media(), &options()).expect("it opens");
        assert_eq!((found.outcome, found.snapshot), (Outcome::Clean, Some((meta, b"the same state".to_vec()))));
    }
}

#[test]
fn a_scrub_finds_damage_in_a_live_log_and_the_repair_from_memory_heals_it() {
    use Step::{Append, Control, Flush};
    let mut run = Run::format(Tearing::Sectors(512), &options());
    run.steps(&[Append(2, 30), Flush, Append(1, 100), Append(2, 10), Control, Flush]).expect("sound media");
    let frames = Store::open_on(Canvas::new(run.disk.visible()).media(), &options()).expect("it opens").1.frames;
    assert_eq!(whole_round(&mut run), []);
    run.disk.damage(0, RING + 128 + 80..RING + 128 + 81, |bytes| bytes[0] ^= 1);
    run.disk.damage(0, 0x4000..0x4100, |bytes| bytes.fill(0));
    run.disk.damage(0, 0x9000..0x9100, |bytes| bytes.fill(0));
    assert_eq!(whole_round(&mut run), [Finding::Log { ops: 3..=5 }, Finding::Control]);
    run.store.append(&Frame { first_op: 6, count: 1, previous: (1, 5), ..frames[0].clone() }).expect("it goes on");
    run.store.flush().expect("the medium is sound");
    let mut suffix = frames[1..].to_vec();
    suffix.push(Frame { first_op: 6, count: 1, previous: (1, 5), ..frames[0].clone() });
    run.store.repair(&suffix).expect("it fits");
    assert_eq!(whole_round(&mut run), []);
    assert_eq!(run.store.statistics().scrub_findings, 2);
    let (_, found) = Store::open_on(run.disk.media(), &options()).expect("it opens");
    assert_eq!((found.outcome, found.last_op, &found.frames[1..]), (Outcome::Clean, 6, &suffix[..]));
}
