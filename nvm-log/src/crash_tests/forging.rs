//! Bytes that no store wrote: noise, and parts of a whole store with other numbers in them and the right checksum over these.

use crate::frame::{HEADER, Header};
use crate::layout::{CONTROLS, FIXED_END, Geometry, LINE, SUPERBLOCKS, WITNESSES, checksum, put, u32_at, u64_at};
use crate::sim::Images;

/// Numbers that nobody can foresee and that a seed repeats.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(super) fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Another number in the place of one: near it, at a limit, or any.
    pub(super) fn other(&mut self, number: u64) -> u64 {
        match self.below(9) {
            0 => 0,
            1 => u64::MAX - self.next() % 3,
            2 => (1 << 62) - LINE * (self.next() % 3),
            3 => number.wrapping_add(LINE * (1 + self.next() % 300)),
            4 => number.wrapping_sub(LINE * (1 + self.next() % 300)),
            5 => number.wrapping_add(1 + self.next() % 5),
            6 => number.wrapping_sub(1 + self.next() % 5),
            7 => number ^ 1 << self.below(64),
            _ => self.next(),
        }
    }
}

/// A part with a checksum of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Superblock,
    Control,
    Witness,
    Frame,
}

impl Part {
    pub(super) const ALL: [Part; 4] = [Part::Superblock, Part::Control, Part::Witness, Part::Frame];

    /// Where the part's words lie behind its checksum, and where they end.
    fn words(self) -> (usize, usize) {
        match self {
            Part::Superblock => (16, 104),
            Part::Control => (8, 488),
            Part::Witness => (4, 56),
            Part::Frame => (4, HEADER),
        }
    }

    /// Puts the right checksum over what now stands at the beginning of these bytes.
    pub(super) fn sum(self, salt: u64, bytes: &mut [u8]) {
        let (at, sum) = match self {
            Part::Superblock => {
                put(bytes, 12, &[0; 4]);
                (12, checksum(u64_at(bytes, 16), &bytes[..256]))
            }
            Part::Control => {
                let blob_len = (u32_at(bytes, 16) as usize).min(bytes.len().saturating_sub(512));
                (4, checksum(salt, &bytes[8..512 + blob_len]))
            }
            Part::Witness | Part::Frame => (0, checksum(salt, &bytes[4..64])),
        };
        put(bytes, at, &sum.to_le_bytes());
    }

    /// Where such parts lie in the store.
    fn places(self, store: &[u8], salt: u64, geometry: Geometry) -> Vec<usize> {
        let is_header = |at: &usize| Header::decode(salt, geometry, &store[*at..at + HEADER]).is_some();
        let ring = (FIXED_END as usize..store.len()).step_by(LINE as usize);
        match self {
            Part::Superblock => SUPERBLOCKS.map(|at| at as usize).to_vec(),
            Part::Control => CONTROLS.concat().into_iter().map(|at| at as usize).collect(),
            Part::Witness => WITNESSES.map(|at| at as usize).to_vec(),
            Part::Frame => ring.filter(is_header).collect(),
        }
    }

    /// Puts a number there, in every such part, with the right checksums.
    pub(super) fn put_everywhere(self, store: &mut [u8], salt: u64, geometry: Geometry, at: usize, number: u64) {
        for place in self.places(store, salt, geometry) {
            put(store, place + at, &number.to_le_bytes());
            self.sum(salt, &mut store[place..]);
        }
    }

    /// Changes some of the numbers in one such part, or in all of them alike.
    pub(super) fn forge(self, store: &mut [u8], salt: u64, geometry: Geometry, dice: &mut Dice) {
        let places = self.places(store, salt, geometry);
        let (from, to) = self.words();
        let at = from + dice.below((to - from) / 4) * 4;
        let wide = at + 8 <= to && !dice.one_in(3);
        let Some(&chosen) = places.get(dice.below(places.len())) else { return };
        let alike = dice.one_in(3) && !matches!(self, Part::Frame);
        let number = dice.other(if wide { u64_at(store, chosen + at) } else { u64::from(u32_at(store, chosen + at)) });
        for place in places.into_iter().filter(|place| alike || *place == chosen) {
            let width = if wide { 8 } else { 4 };
            put(store, place + at, &number.to_le_bytes()[..width]);
            self.sum(salt, &mut store[place..]);
        }
    }
}

/// Arbitrary bytes, zeros, or bytes from elsewhere in the store, over a stretch of at most so many.
pub(super) fn spoil(images: &Images, max_bytes: usize, dice: &mut Dice) -> (usize, usize, Vec<u8>) {
    let which = if dice.one_in(4) { 1 + dice.below(2) } else { 0 };
    let size = images[which].len();
    let unit = [1, 8, 64, 512, 4096][dice.below(5)];
    let offset = dice.below(size) / unit * unit;
    let len = (unit * (1 + dice.below(8))).min(max_bytes).min(size - offset);
    let mut bytes = images[which][offset..offset + len].to_vec();
    match dice.below(5) {
        0 => bytes.fill(0),
        1 => bytes = dice.bytes(len),
        2 => {
            let from = &images[dice.below(3)];
            let start = dice.below(from.len().saturating_sub(len) / unit + 1) * unit;
            let copied = from.get(start..start + len).unwrap_or_default();
            bytes[..copied.len()].copy_from_slice(copied);
        }
        _ => {
            for _ in 0..1 + dice.below(8) {
                let at = dice.below(len);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
    (which, offset, bytes)
}
