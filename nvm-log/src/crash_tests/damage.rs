//! Damage: a store that was whole is spoilt, and must be recovered exactly, or refused, or say what is missing.

use super::options;
use super::run::{Run, Step, Tearing, said};
use crate::layout::{LINE, u64_at};
use crate::sim::{Sim, SimDisk};
use crate::{Error, Finding, Frame, Outcome, Recovery, SnapshotMeta, Store};

/// A closed store with a bit of everything, damaged in one bit at a time.
pub(super) fn every_flip() -> Result<(), String> {
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
    if flips(&steps, |_| true)? > 100 { Ok(()) } else { Err("damage was hardly ever seen".into()) }
}

/// A log that has gone around the ring's end, with padding there; a bit of each line is damaged, headers of frames among them.
pub(super) fn a_flip_in_every_line_of_a_ring_with_padding() -> Result<(), String> {
    let long = Step::Append(1, 1800);
    let steps = [
        long,
        long,
        long,
        long,
        long,
        long,
        Step::Flush,
        Step::Snapshot(2),
        Step::Flush,
        long,
        long,
        long,
        Step::Flush,
    ];
    if flips(&steps, |at| at % LINE as usize == 0)? > 50 { Ok(()) } else { Err("damage was hardly ever seen".into()) }
}

/// Damages one byte at a time of a closed store. Says how often lost ops were reported.
fn flips(steps: &[Step], hits: impl Fn(usize) -> bool) -> Result<u64, String> {
    let mut run = Run::format(Tearing::Sectors(512), &options());
    run.steps(steps)?;
    let disk = run.disk.clone();
    run.store.close().map_err(said)?;
    let whole = disk.visible();
    let (_, before) = Store::open_on(SimDisk::new(512, whole.clone()).media(), &options()).map_err(said)?;
    let mut seen_corrupt = 0;
    for which in 0..3 {
        for at in (0..whole[which].len()).filter(|&at| whole[which][at] != 0 && hits(at)) {
            let mut image = whole.clone();
            image[which][at] ^= 1 << (at % 8);
            let disk = SimDisk::new(512, image);
            match Store::open_on(disk.media(), &options()) {
                Err(Error::Damaged { .. } | Error::Version { .. }) => {}
                Err(error) => return Err(format!("medium {which} byte {at:#x}: {error}")),
                Ok((_, found)) if matches!(found.outcome, Outcome::Corrupt { .. }) => seen_corrupt += 1,
                Ok((store, found)) if is_as_before(&found, &before) => {
                    lives_on(&disk, store, found)
                        .map_err(|why| format!("medium {which} byte {at:#x}, later: {why}"))?;
                }
                Ok((_, found)) => return Err(format!("medium {which} byte {at:#x}: silent loss, {:?}", found.outcome)),
            }
        }
    }
    Ok(seen_corrupt)
}

/// A store that took damage for harmless must bear that out: whatever it takes from then on, and wherever its log begins later, it
/// opens again with the same ops.
fn lives_on(disk: &SimDisk, mut store: Store<Sim>, found: Recovery) -> Result<(), String> {
    let mut frames = found.frames;
    for round in 0..3 {
        let (last_view, last_op) = store.last_viewstamp();
        let (first_op, previous, body) = (last_op + 1, (last_view, last_op), vec![round; 20]);
        let frame = Frame { kind: 5, view: last_view + 1, first_op, count: 1, previous, body };
        store.append(&frame).and_then(|()| store.flush()).map_err(said)?;
        frames.push(frame);
        (store, _) = reopened(disk, &frames)?;
    }
    let snapshot_op = found.snapshot.map_or(0, |(meta, _)| meta.op);
    let ends: Vec<(u64, u64)> = frames.iter().map(|frame| (frame.view, frame.last_op())).collect();
    for (view, op) in ends.into_iter().filter(|&(_, op)| op > snapshot_op) {
        store.begin_snapshot(SnapshotMeta { view, op, tag: 0 }).and_then(|()| store.finish_snapshot()).map_err(said)?;
        store.release_prefix(op).and_then(|()| store.flush()).map_err(said)?;
        frames.retain(|frame| frame.last_op() > op);
        (store, _) = reopened(disk, &frames)?;
    }
    Ok(())
}

/// Opens the store again: at least these frames, the last ones of the log, must be there, and nothing may be amiss in it, for the scrub either.
fn reopened(disk: &SimDisk, frames: &[Frame]) -> Result<(Store<Sim>, Recovery), String> {
    let (mut store, found) = Store::open_on(disk.media(), &options()).map_err(said)?;
    let mut is_round = false;
    while !is_round {
        let scrubbed = store.scrub(u64::MAX).map_err(said)?;
        is_round = scrubbed.is_round;
        if scrubbed.findings.iter().any(|finding| matches!(finding, Finding::Log { .. })) {
            return Err(format!("scrubbed: {:?}", scrubbed.findings));
        }
    }
    if found.outcome != Outcome::Clean {
        return Err(format!("opened again: {:?}", found.outcome));
    }
    if !found.frames.ends_with(frames) {
        return Err("opened again: other frames".into());
    }
    Ok((store, found))
}

/// An older whole snapshot will do if the log goes on from it, and so will a log without what the snapshot holds, if that is said.
fn is_as_before(found: &Recovery, before: &Recovery) -> bool {
    let snapshot_op = found.snapshot.as_ref().map_or(0, |(meta, _)| meta.op);
    let Some(gone) = before.frames.len().checked_sub(found.frames.len()) else { return false };
    let is_covered = before.frames[..gone].iter().all(|frame| frame.last_op() <= snapshot_op);
    let is_said = gone == 0 || found.left_behind_op.is_some();
    let same = before.frames[gone..] == found.frames && before.last_op == found.last_op;
    same && is_covered && is_said && before.control == found.control
}

/// A frame is lost that was durable, and so is the witness line that let the next ones be stored far away. What shows the damage lies beyond
/// the reach of the line that is left.
pub(super) fn a_lost_witness_line_hides_no_damage() -> Result<(), String> {
    use Step::{Append, Flush};
    let mut run = Run::format(Tearing::Lines, &options());
    run.steps(&[Append(1, 30), Append(1, 30), Append(1, 1800), Append(1, 1800), Flush, Append(1, 30)])?;
    let mut image = run.disk.visible();
    let newest = [0x2000, 0x3000].into_iter().max_by_key(|&line| u64_at(&image[0], line + 8)).unwrap_or_default();
    image[0][newest..newest + 64].fill(0);
    image[0][0x1_8000 + 256 + 100] ^= 1;
    let (_, found) = Store::open_on(SimDisk::new(64, image).media(), &options()).map_err(said)?;
    match found.outcome {
        Outcome::Corrupt { .. } => Ok(()),
        other => Err(format!("damage was taken for {other:?}")),
    }
}
