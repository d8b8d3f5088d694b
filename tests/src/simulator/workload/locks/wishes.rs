//! What users and sessions of a run wish for besides single locks.

use lock_protocol::{GroupName, LockName, LockSet, Mode, RecoveryGroup, SessionOptions};

use crate::simulator::dice::Dice;

/// The most locks that are wanted at once.
const SET_MAX: u64 = 4;

/// Drawn once a run, from dice of its own, so that a seed's other choices stay what they were. Chances per million.
#[derive(Clone, Debug)]
pub(crate) struct WishPlan {
    /// Chance that a user, or a stranger, wants several locks at once.
    pub(crate) sets: u64,
    /// What each client's sessions ask for: the same each time, so that a group is never without somebody who comes back.
    pub(crate) options: Vec<SessionOptions>,
    /// How long the owner's hook for a dead session takes, and the chance that it cannot recover it.
    pub(crate) hook_us: (u64, u64),
    pub(crate) declines: u64,
    /// Chance that an operator, or a stranger, meddles with what the dead left.
    pub(crate) meddles: u64,
}

impl WishPlan {
    pub(crate) fn dice(seed: u64) -> Dice {
        Dice::new(seed.rotate_left(41))
    }

    pub(crate) fn draw(dice: &mut Dice, clients: usize) -> WishPlan {
        let sets = if dice.chance(400_000) { *dice.pick(&[100_000, 300_000, 800_000]) } else { 0 };
        let groups = if dice.chance(400_000) { dice.between((1, 2)) } else { 0 };
        let delay_ms = if dice.chance(350_000) { (10, dice.spread((20, 4_000))) } else { (0, 0) };
        let options: Vec<_> = (0..clients).map(|_| draw_options(dice, groups, delay_ms)).collect();
        let is_kept = options.iter().any(|options| *options != SessionOptions::default());
        WishPlan {
            sets,
            options,
            hook_us: (100, dice.spread((1_000, 8_000_000))),
            declines: *dice.pick(&[0, 0, 100_000, 500_000]),
            meddles: if is_kept { *dice.pick(&[0, 20_000, 200_000]) } else { 0 },
        }
    }
}

fn draw_options(dice: &mut Dice, groups: u64, delay_ms: (u64, u64)) -> SessionOptions {
    let is_delayed = delay_ms.1 > 0 && dice.chance(700_000);
    let lock_delay_ms = if is_delayed { dice.spread(delay_ms) } else { 0 };
    let recovery = (groups > 0 && dice.chance(800_000)).then(|| RecoveryGroup {
        name: GroupName::new(format!("volume-{}", dice.below(groups))).expect("a short text"),
        required: dice.chance(800_000),
    });
    SessionOptions { lock_delay_ms, recovery }
}

/// Some of the locks, in any modes.
pub(super) fn draw_set(dice: &mut Dice, names: &[LockName]) -> LockSet {
    let count = dice.between((1, SET_MAX));
    let mode = |dice: &mut Dice| if dice.chance(400_000) { Mode::Shared } else { Mode::Exclusive };
    LockSet::new((0..count).map(|_| (dice.pick(names).clone(), mode(dice)))).expect("one lock at least, and few")
}
