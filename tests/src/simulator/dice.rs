//! All chance in a run comes from here, so that a seed is a run.
//!
//! Only the generator's raw numbers are used, never a library's way to make ranges of them: seeds that once failed are
//! kept, and must mean the same after an update.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// A seeded source of chance.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Pcg64Mcg);

/// Chances are given in parts of this.
pub(crate) const MILLION: u64 = 1_000_000;

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(Pcg64Mcg::seed_from_u64(seed))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// One of 0..bound, evenly; `bound` is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of low..=high, evenly.
    pub(crate) fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of low..=high, each order of magnitude (base 2) about equally often: delays have long tails.
    pub(crate) fn spread(&mut self, (low, high): (u64, u64)) -> u64 {
        let low_bits = u64::from(low.max(1).ilog2());
        let high_bits = u64::from(high.max(1).ilog2());
        let bits = self.between((low_bits, high_bits));
        let value = (1 << bits) + self.below(1 << bits);
        value.clamp(low, high)
    }

    /// True so many times in a million.
    pub(crate) fn chance(&mut self, per_million: u64) -> bool {
        per_million > 0 && self.below(MILLION) < per_million
    }

    pub(crate) fn pick_or_none<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        if among.is_empty() { None } else { Some(self.pick(among)) }
    }

    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.index(among.len())]
    }
}
