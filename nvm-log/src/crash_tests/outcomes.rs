//! What an opening says of each kind of tail, and what a store refuses.

use super::run::{Run, SALT, Step, Tearing};
use super::{identity, options};
use crate::sim::{Images, SimDisk};
use crate::{Error, Frame, Options, Outcome, Recovery, SnapshotMeta, Store, Witness};

#[test]
fn a_frame_that_was_durable_and_is_damaged_is_corruption_for_ever_until_settled() {
    let mut run = Run::format(Tearing::Sectors(512), &options());
    use Step::{Append, Flush};
    run.steps(&[Append(2, 100), Flush, Append(2, 100), Flush, Append(1, 100), Flush]).expect("sound media");
    let mut image = run.disk.visible();
    image[0][0x1_8000 + 192 + 70] ^= 4;
    let disk = SimDisk::new(512, image);
    let (store, found) = Store::open_on(disk.media(), &options()).expect("it opens");
    assert_eq!(found.outcome, Outcome::Corrupt { ranges: vec![3..=4] });
    assert_eq!(found.last_op, 2);
    drop(store);
    let (mut store, again) = Store::open_on(disk.media(), &options()).expect("it opens");
    assert_eq!((again.outcome, &again.frames), (found.outcome, &found.frames));
    let frame = Frame { view: 1, first_op: 3, count: 2, previous: (1, 2), ..Frame::default() };
    assert!(matches!(store.append(&frame), Err(Error::Unrepaired { first_op: 3, last_op: 5 })));
    store.repair(&[frame, found.frames[1].clone()]).expect("it fits");
    let (_, settled) = Store::open_on(disk.media(), &options()).expect("it opens");
    assert_eq!((settled.outcome, settled.last_op), (Outcome::Clean, 5));
}

/// A frame that lost a piece before any flush; with `later`, a whole frame stands after it.
fn torn(options: &Options, later: bool) -> (Recovery, Images) {
    let disk = SimDisk::new(64, Images::default());
    let mut store = Store::format_on(disk.media(), options, identity(), SALT).expect("simulated media have room");
    for op in 1..=if later { 3 } else { 2 } {
        let frame = Frame { view: 1, first_op: op, count: 1, previous: (1, op - 1), body: vec![7; 100], kind: 0 };
        store.append(&frame).expect("the medium is sound");
        if op == 1 {
            store.flush().expect("the medium is sound");
        }
    }
    let before = disk.events();
    disk.fail_after_flushes(0);
    store.flush().expect_err("the medium fails");
    assert_eq!(disk.events(), before + 1);
    let point = disk.crash_at(disk.events());
    let first = point.pieces() - if later { 6 } else { 3 };
    let image = point.image(|piece| piece != first + 1);
    (Store::open_on(SimDisk::new(64, image.clone()).media(), options).expect("it opens").1, image)
}

#[test]
fn a_tail_that_was_never_durable_is_torn_and_with_a_flipped_bit_too() {
    let (found, image) = torn(&options(), false);
    assert_eq!((found.outcome, found.last_op), (Outcome::Torn { dropped_bytes: 192 }, 1));
    for at in 0x1_8000 + 192..0x1_8000 + 384 {
        let mut image = image.clone();
        image[0][at] ^= 1;
        let (_, found) = Store::open_on(SimDisk::new(64, image).media(), &options()).expect("it opens");
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
    let mut store = Store::format_on(disk.media(), &options(), identity(), SALT).expect("simulated media have room");
    let frame = Frame { view: 1, first_op: 1, count: 1, ..Frame::default() };
    store.append(&frame).expect("the medium is sound");
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
    let mut store = Store::format_on(disk.media(), &options(), identity(), SALT).expect("simulated media have room");
    let mut op = 1;
    let full = loop {
        let frame = Frame { view: 1, first_op: op, count: 1, previous: (1, op - 1), body: vec![1; 1000], kind: 0 };
        match store.append(&frame) {
            Ok(()) => op += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    store.truncate_after(op - 2).expect("the medium is sound");
    let meta = SnapshotMeta { view: 1, op: op - 2, tag: 0 };
    assert!(matches!(store.release_prefix(1), Err(Error::OutOfRange { .. })), "no snapshot holds op 1");
    store.write_snapshot(meta, b"state").expect("the medium is sound");
    store.release_prefix(meta.op).expect("the medium is sound");
    let before = store.free_bytes();
    store.flush().expect("the medium is sound");
    assert!(store.free_bytes() > before + 10_000, "space comes back only with the flush");
    assert_eq!(store.read_snapshot().expect("the medium is sound"), Some((meta, b"state".to_vec())));
}

#[test]
fn a_frame_that_does_not_follow_or_is_too_large_is_refused() {
    let disk = SimDisk::new(512, Images::default());
    let mut store = Store::format_on(disk.media(), &options(), identity(), SALT).expect("simulated media have room");
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
    store.append(&Frame { body: vec![0; store.body_max_bytes() as usize], ..good }).expect("the medium is sound");
}
