//! Every decoder by itself, with bytes whose checksums are right and whose numbers are any: it takes them for something that it would write again as the same,
//! or leaves them.

use std::cell::RefCell;

use super::canvas::Canvas;
use super::forging::{Dice, Part};
use super::fuzz::{SEEDS_MIN, for_a_while};
use super::options;
use super::run::SALT;
use crate::SnapshotMeta;
use crate::control::Record;
use crate::frame::{Class, Header};
use crate::layout::{CONTROLS, Geometry, LINE, PAGE, SUPERBLOCKS, VERSION, WITNESSES, put};
use crate::sim::Images;
use crate::snapshot::{self, Stored};
use crate::superblock::Superblock;
use crate::witness::Lines;

fn geometry() -> Geometry {
    Geometry::for_ring(options().ring_bytes).expect("the ring is possible")
}

/// An empty store but for these bytes.
fn store_with(at: u64, bytes: &[u8]) -> Canvas {
    let mut images = Images::default();
    images[0].resize(geometry().medium_bytes() as usize, 0);
    put(&mut images[0], at as usize, bytes);
    Canvas::new(images)
}

/// Zeros for the most part: of random numbers, nearly none is possible.
fn sparse(len: usize, dice: &mut Dice) -> Vec<u8> {
    (0..len).map(|_| if dice.one_in(6) { dice.next() as u8 } else { 0 }).collect()
}

// Each of these says whether the bytes were taken.

fn superblock(dice: &mut Dice) -> bool {
    let mut bytes = sparse(256, dice);
    put(&mut bytes, 0, b"NVM-LOG\n");
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    let ring = geometry();
    if dice.one_in(2) {
        put(&mut bytes, 64, &ring.ring_offset.to_le_bytes());
        put(&mut bytes, 72, &ring.ring_bytes.to_le_bytes());
        bytes[80] = 1 + dice.below(2) as u8;
    }
    Part::Superblock.sum(SALT, &mut bytes);
    let mut medium = store_with(SUPERBLOCKS[dice.below(2)], &bytes).media().store;
    let Ok((found, _)) = Superblock::read(&mut medium) else { return false };
    found.write(&mut medium).expect("the medium is sound");
    assert_eq!(Superblock::read(&mut medium).expect("it was just written"), (found, false));
    true
}

fn control(dice: &mut Dice) -> bool {
    let mut bytes = sparse(512 + dice.below(90), dice);
    let blob_len = (bytes.len() - 512) as u32;
    put(&mut bytes, 0, b"CTL1");
    put(&mut bytes, 16, &blob_len.to_le_bytes());
    // Positions are in lines, and not too high.
    for at in [48, 56, 88, 232, 264].into_iter().chain((296..488).step_by(8)).filter(|_| !dice.one_in(40)) {
        (bytes[at], bytes[at + 7]) = (bytes[at] & 0xc0, 0);
    }
    Part::Control.sum(SALT, &mut bytes);
    let mut medium = store_with(CONTROLS.concat()[dice.below(4)], &bytes).media().store;
    let Ok(found) = Record::read(&medium, SALT) else { return false };
    found.write(&mut medium, SALT, &mut Vec::new()).expect("the medium is sound");
    assert_eq!(Record::read(&medium, SALT).expect("it was just written"), found);
    true
}

fn witness(dice: &mut Dice) -> bool {
    let mut bytes = sparse(64, dice);
    put(&mut bytes, 48, b"WITNESS\n");
    let is_spoilt = dice.one_in(10);
    Part::Witness.sum(SALT, &mut bytes);
    bytes[5] ^= u8::from(is_spoilt);
    let mut medium = store_with(WITNESSES[dice.below(2)], &bytes).media().store;
    let lines = Lines::read(&medium, SALT).expect("the medium is sound");
    let Some(found) = lines.newest() else { return false };
    assert!(!is_spoilt && lines.reach() == u64::MAX, "one line alone tells nothing of the reach: {found:?}");
    found.write(&mut medium, SALT).expect("the medium is sound");
    assert_eq!(Lines::read(&medium, SALT).expect("the medium is sound").newest(), Some(found));
    true
}

fn frame(dice: &mut Dice) -> bool {
    let mut bytes = sparse(64, dice);
    bytes[12] = 1 + dice.below(3) as u8;
    put(&mut bytes, 24, &(LINE * (dice.next() % 1000)).to_le_bytes());
    put(&mut bytes, 8, &(dice.next() as u32 % 5000).to_le_bytes());
    Part::Frame.sum(SALT, &mut bytes);
    let Some(found) = Header::decode(SALT, geometry(), &bytes) else { return false };
    let fits = found.length() <= geometry().bytes_to_end(found.position);
    assert!(fits && found.last_op() < u64::MAX && (found.class == Class::Padding || found.first_op > 0), "{found:?}");
    assert_eq!(Header::decode(SALT, geometry(), &found.encode(SALT).0), Some(found));
    true
}

/// A snapshot as a forged record names it, in an area of any bytes.
fn area(dice: &mut Dice) -> bool {
    let size = dice.below(4 * PAGE as usize);
    let area = Canvas::new([Vec::new(), sparse(size, dice), Vec::new()]);
    let [area, _] = area.media().areas;
    let meta = SnapshotMeta { view: dice.next(), op: dice.next(), tag: dice.next() };
    let bytes = dice.other(size as u64);
    let stored = Stored { generation: dice.next(), meta, bytes, manifest_sum: dice.next() as u32 };
    assert_eq!(Stored::decode(&Stored::encode(Some(&stored))), Some(stored));
    let read = snapshot::read(&area, SALT, &stored).expect("the medium is sound");
    let (_, is_whole) = snapshot::check(&area, SALT, &stored, 0, &mut Vec::new()).expect("the medium is sound");
    assert!(read.is_none() && !is_whole, "nobody wrote it");
    true
}

#[test]
fn what_a_decoder_takes_it_would_write_again_and_the_rest_it_leaves() {
    let decoders = [superblock, control, witness, frame, area];
    let taken = RefCell::new([0u64; 5]);
    let seeds = for_a_while(|dice| {
        let which = dice.below(decoders.len());
        taken.borrow_mut()[which] += u64::from(decoders[which](dice));
        Ok(())
    });
    println!("{:?} of {seeds} were taken", taken.borrow());
    assert!(seeds < SEEDS_MIN || taken.borrow().iter().all(|taken| *taken > 0), "{:?}", taken.borrow());
}
