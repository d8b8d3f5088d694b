//! Damage: a store that was whole is spoilt, and must be recovered exactly, or refused, or say what is missing.

use super::options;
use super::run::{Run, Step, Tearing, said};
use crate::layout::u64_at;
use crate::sim::SimDisk;
use crate::{Error, Outcome, Recovery, Store};

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
    let mut run = Run::format(Tearing::Sectors(512), &options());
    run.steps(&steps)?;
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
                Ok((_, found)) if is_as_before(&found, &before) => {}
                Ok((_, found)) => return Err(format!("medium {which} byte {at:#x}: silent loss, {:?}", found.outcome)),
            }
        }
    }
    if seen_corrupt > 100 { Ok(()) } else { Err("damage was hardly ever seen".into()) }
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
