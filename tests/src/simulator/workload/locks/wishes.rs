//! What users and sessions of a run wish for besides single locks.

use lock_protocol::{LockName, LockSet, Mode};

use crate::simulator::dice::Dice;

/// The most locks that are wanted at once.
const SET_MAX: u64 = 4;

/// Drawn once a run, from dice of its own, so that a seed's other choices stay what they were. Chances per million.
#[derive(Clone, Debug)]
pub(crate) struct WishPlan {
    /// Chance that a user, or a stranger, wants several locks at once.
    pub(crate) sets: u64,
}

impl WishPlan {
    pub(crate) fn dice(seed: u64) -> Dice {
        Dice::new(seed.rotate_left(41))
    }

    pub(crate) fn draw(dice: &mut Dice) -> WishPlan {
        WishPlan { sets: if dice.chance(400_000) { *dice.pick(&[100_000, 300_000, 800_000]) } else { 0 } }
    }
}

/// Some of the locks, in any modes.
pub(super) fn draw_set(dice: &mut Dice, names: &[LockName]) -> LockSet {
    let count = dice.between((1, SET_MAX));
    let mode = |dice: &mut Dice| if dice.chance(400_000) { Mode::Shared } else { Mode::Exclusive };
    LockSet::new((0..count).map(|_| (dice.pick(names).clone(), mode(dice)))).expect("one lock at least, and few")
}
