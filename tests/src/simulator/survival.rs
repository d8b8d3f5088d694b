//! What a loss of power leaves of what was not flushed: each piece (a word, a line, a sector) is kept or lost for itself.
//!
//! Even chances for each piece seldom leave a whole frame, or lose a single word; so the share is drawn first, and the
//! corners have cases of their own.

use super::dice::{Dice, MILLION};

/// How the pieces fare.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Survival {
    /// Each is kept with this chance.
    Share(u64),
    /// The first ones stay.
    First(usize),
    /// All but one stay.
    AllBut(usize),
    /// One stays.
    Only(usize),
}

impl Survival {
    pub(crate) fn draw(dice: &mut Dice, pieces: usize) -> Survival {
        let some = dice.index(pieces + 1);
        match dice.index(8) {
            0 => Survival::Share(0),
            1 => Survival::Share(MILLION),
            2 => Survival::First(some),
            3 => Survival::AllBut(some),
            4 => Survival::Only(some),
            _ => Survival::Share(dice.below(MILLION)),
        }
    }

    /// Whether the piece of this number is kept.
    pub(crate) fn keeps(self, piece: usize, dice: &mut Dice) -> bool {
        match self {
            Survival::Share(share) => dice.chance(share),
            Survival::First(count) => piece < count,
            Survival::AllBut(lost) => piece != lost,
            Survival::Only(kept) => piece == kept,
        }
    }
}
