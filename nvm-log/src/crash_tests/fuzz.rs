//! Stores full of bytes that nobody foresaw, seed after seed, for some seconds; for longer where `NVM_LOG_FUZZ_SECONDS` says so. A failure
//! names the seed, and `NVM_LOG_FUZZ_SEED` tries that one alone.
//!
//! One stretch of bytes that was spoilt loses nothing silently. Bytes that are forged, with right checksums, may be believed: they only must not
//! make the process fail, nor take more memory than there are bytes.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::canvas::Canvas;
use super::forging::{Dice, Part, spoil};
use super::options;
use super::run::Step::{self, *};
use super::run::{SALT, Tearing};
use super::truth::{Truth, Verdicts};
use crate::layout::{Geometry, PAGE};
use crate::sim::{Event, Images};
use crate::{Frame, Options, SnapshotMeta, Store, Witness};

/// For each of the tests here.
const SECONDS: u64 = 2;
/// Tried however long they take, so that a slow machine tries something.
pub(super) const SEEDS_MIN: u64 = 200;
/// One takes less than a millisecond.
const SEED_MAX: Duration = Duration::from_secs(120);

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// Tries one seed after the other until the time is over. Says how many.
pub(super) fn for_a_while(case: impl Fn(&mut Dice) -> Result<(), String>) -> u64 {
    let only = from_environment("NVM_LOG_FUZZ_SEED");
    let end = Instant::now() + Duration::from_secs(from_environment("NVM_LOG_FUZZ_SECONDS").unwrap_or(SECONDS));
    let (mut seed, mut tried) = (only.unwrap_or(0), 0);
    let alive = watchdog();
    loop {
        alive.send(seed).expect("the watchdog lives as long as this");
        let why = match catch_unwind(AssertUnwindSafe(|| case(&mut Dice::of(seed)))) {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some("a panic, above".to_owned()),
        };
        assert!(why.is_none(), "{}; NVM_LOG_FUZZ_SEED={seed} repeats it", why.unwrap_or_default());
        (seed, tried) = (seed + 1, tried + 1);
        if only.is_some() || (Instant::now() >= end && tried >= SEEDS_MIN) {
            println!("{tried} seeds");
            return tried;
        }
    }
}

/// Ends the process where one seed takes too long: a loop without end would name none.
fn watchdog() -> Sender<u64> {
    let (alive, seeds) = channel();
    std::thread::spawn(move || {
        let mut seed = 0;
        loop {
            match seeds.recv_timeout(SEED_MAX) {
                Ok(next) => seed = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("no end in {SEED_MAX:?}; NVM_LOG_FUZZ_SEED={seed} repeats it");
                    std::process::abort();
                }
            }
        }
    });
    alive
}

fn work() -> Vec<Step> {
    let mut steps = vec![Append(1, 30), Control, Flush, Append(2, 90), Flush, Snapshot(1), Append(2, 1000), Flush];
    steps.extend([Truncate(1), Append(1, 12), Control, Flush, Append(3, 3000), Append(1, 3000), Flush, Snapshot(4)]);
    steps.extend([Append(1, 3000), Append(2, 3000), Flush, Append(1, 700), Truncate(2), Append(1, 40), Control, Flush]);
    steps
}

fn truths() -> [Truth; 2] {
    [Tearing::Sectors(512), Tearing::Lines].map(|tearing| Truth::of(tearing, &options(), &work()).expect("sound media"))
}

#[test]
fn whatever_stretch_is_spoilt_all_is_there_or_what_is_missing_is_named() {
    let truths = truths();
    let images = truths.each_ref().map(|truth| truth.canvas.images());
    let verdicts = RefCell::new(Verdicts::default());
    let seeds = for_a_while(|dice| {
        let which_truth = dice.below(truths.len());
        let (which, offset, bytes) = spoil(&images[which_truth], PAGE as usize, dice);
        let place = format!("{} bytes at {offset:#x} of medium {which}", bytes.len());
        let judged = truths[which_truth].judge(|canvas| canvas.apply(&Event::Store { which, offset, bytes }));
        verdicts.borrow_mut().count(judged.map_err(|why| format!("{place}: {why}"))?);
        Ok(())
    });
    println!("{:?}", verdicts.borrow());
    let Verdicts { exact, repaired, .. } = *verdicts.borrow();
    assert!(seeds < SEEDS_MIN || (exact > 20 && repaired > 20), "hardly anything was hit");
}

#[test]
fn no_bytes_whatever_make_an_opening_fail_but_with_an_error() {
    let images = truths().map(|truth| truth.canvas.images());
    let opened = RefCell::new(0);
    let seeds = for_a_while(|dice| {
        let mut images = images[dice.below(images.len())].clone();
        if dice.one_in(20) {
            let len = images[0].len();
            images[0][PAGE as usize..].copy_from_slice(&dice.bytes(len - PAGE as usize));
        }
        let geometry = Geometry::for_ring(options().ring_bytes).ok_or("the ring is possible")?;
        for _ in 0..1 + dice.below(4) {
            Part::ALL[dice.below(4)].forge(&mut images[0], SALT, geometry, dice);
        }
        for _ in 0..dice.below(3) {
            let (which, offset, bytes) = spoil(&images, 64, dice);
            images[which][offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        if dice.one_in(10) {
            let which = dice.below(3);
            let len = dice.below(images[which].len() + 1);
            images[which].truncate(len);
        }
        *opened.borrow_mut() += u64::from(live(images, dice)?);
        Ok(())
    });
    assert!(
        seeds < SEEDS_MIN || *opened.borrow() > seeds / 10,
        "hardly any was opened: {} of {seeds}",
        opened.borrow()
    );
}

/// Forgeries that were once more than an opening could bear, or what came after it.
#[test]
fn counts_at_their_end_and_positions_out_of_reach_are_not_believed() {
    let images = truths().map(|truth| truth.canvas.images());
    let geometry = Geometry::for_ring(options().ring_bytes).expect("the ring is possible");
    let forgeries = [
        ("the record's sequence number", Part::Control, 8, u64::MAX),
        ("a snapshot's generation", Part::Control, 136, u64::MAX),
        ("a snapshot's op", Part::Control, 152, u64::MAX),
        ("where reading may begin with area a", Part::Control, 232, 1 << 40),
        ("where reading may begin with area b", Part::Control, 264, 1 << 40),
        ("a witness line's op", Part::Witness, 24, u64::MAX),
        ("a witness line's reach, within a line", Part::Witness, 40, 64 * 150 + 6),
    ];
    for (what, part, at, number) in forgeries {
        for images in &images {
            let mut images = images.clone();
            part.put_everywhere(&mut images[0], SALT, geometry, at, number);
            for seed in 0..100 {
                live(images.clone(), &mut Dice::of(seed)).unwrap_or_else(|why| panic!("{what}: {why}"));
            }
        }
    }
}

/// Opens a store twice, with everything that one can do between. Whatever of it fails, fails with an error.
fn live(images: Images, dice: &mut Dice) -> Result<bool, String> {
    let bytes: usize = images.iter().map(Vec::len).sum();
    let canvas = Canvas::new(images);
    let witness = if dice.one_in(4) { Witness::Sync } else { Witness::Lazy };
    let options = Options { skip_covered: dice.one_in(2), witness, ..options() };
    let Ok((mut store, found)) = Store::open_on(canvas.media(), &options) else { return Ok(false) };
    let held: usize = found.frames.iter().map(|frame| frame.body.len()).sum();
    let held = held + found.snapshot.map_or(0, |(_, state)| state.len()) + found.control.map_or(0, |blob| blob.len());
    if held > bytes {
        return Err(format!("{held} bytes were made of {bytes}"));
    }
    for _ in 0..dice.below(20) {
        let (view, op) = store.last_viewstamp();
        let op = if dice.one_in(8) { dice.other(op) } else { op };
        let body = vec![3; dice.below(1500)];
        let frame = Frame { kind: 1, view, first_op: op.wrapping_add(1), count: 1, previous: (view, op), body };
        match dice.below(10) {
            0..3 => drop(store.append(&frame)),
            3 => drop(store.truncate_after(op.saturating_sub(1))),
            4 => drop(store.set_control(b"another")),
            5 => drop(store.repair(&found.frames[dice.below(found.frames.len())..])),
            6 => drop(store.release_prefix(op)),
            7 => drop(store.write_snapshot(SnapshotMeta { view, op, tag: 1 }, b"state")),
            8 => drop(store.scrub(dice.next() % 5000)),
            _ => drop(store.flush()),
        }
        drop((store.statistics(), store.free_bytes(), store.read_snapshot()));
    }
    drop(store.close());
    drop(Store::open_on(canvas.media(), &options));
    Ok(true)
}
