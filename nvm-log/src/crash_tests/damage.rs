//! Damage: a store that was whole is spoilt, and must be recovered exactly, or refused, or say what is missing.

use super::options;
use super::run::{Run, Step, Tearing, said};
use super::truth::{Truth, Verdict, Verdicts};
use crate::layout::{LINE, u64_at};
use crate::sim::{Event, SimDisk};
use crate::{Outcome, Store};

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

/// Damages one byte at a time of a closed store. Says how often lost ops were named.
fn flips(steps: &[Step], hits: impl Fn(usize) -> bool) -> Result<u64, String> {
    let truth = Truth::of(Tearing::Sectors(512), &options(), steps)?;
    let whole = truth.canvas.images();
    let mut verdicts = Verdicts::default();
    for (which, image) in whole.iter().enumerate() {
        for at in (0..image.len()).filter(|&at| image[at] != 0 && hits(at)) {
            let bytes = vec![image[at] ^ (1 << (at % 8))];
            let judged = truth.judge(|canvas| canvas.apply(&Event::Store { which, offset: at, bytes }));
            verdicts.count(judged.map_err(|why| format!("medium {which} byte {at:#x}: {why}"))?);
        }
    }
    if verdicts.refused == 0 { Ok(verdicts.repaired) } else { Err("a single bit closes a store".into()) }
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

/// Both have a checksum in the same place, over as many bytes. Taken for a line, a header would name a record that never was.
#[test]
fn the_header_of_a_frame_in_the_place_of_a_witness_line_is_none() {
    use Step::{Append, Control, Flush};
    let truth = Truth::of(Tearing::Lines, &options(), &[Append(1, 30), Control, Flush, Append(2, 30), Flush]);
    let truth = truth.expect("sound media");
    let header = truth.canvas.images()[0][0x1_8000..0x1_8000 + 64].to_vec();
    for offset in [0x2000, 0x3000] {
        let bytes = header.clone();
        let judged = truth.judge(|canvas| canvas.apply(&Event::Store { which: 0, offset, bytes }));
        assert_eq!(judged, Ok(Verdict::Exact));
    }
}
