//! Numbers for things that were seen, and fast maps by number.

#![expect(clippy::disallowed_types, reason = "millions of states: sorted maps are too slow; these are never iterated")]

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};

pub(super) type Fast<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Things that were seen, by the digest of their text.
pub(super) struct Numbered<T> {
    by_digest: Fast<u128, u32>,
    pub(super) things: Vec<T>,
}

impl<T: Debug> Numbered<T> {
    pub(super) fn new() -> Self {
        Numbered { by_digest: Fast::default(), things: Vec::new() }
    }

    pub(super) fn number(&mut self, thing: T) -> u32 {
        let digest = digest(&thing);
        let next = self.things.len() as u32;
        let number = *self.by_digest.entry(digest).or_insert(next);
        if number == next {
            self.things.push(thing);
        }
        number
    }
}

fn digest(thing: &impl Debug) -> u128 {
    let text = format!("{thing:?}");
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(text.as_bytes());
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// SplitMix64's finisher.
pub(super) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A fast hasher for keys that are numbers or digests.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}
