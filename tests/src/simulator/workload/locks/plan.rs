//! What a seed's run of the lock service is like.

use lock_server::machine::Limits;

use super::faults::ClientFault;
use super::wishes::WishPlan;
use crate::simulator::dice::{Dice, MILLION};

/// Drawn once a run. Times in µs, chances per million.
#[derive(Clone, Debug)]
pub(crate) struct LockPlan {
    pub(crate) clients: usize,
    /// Local users of each client.
    pub(crate) users: usize,
    pub(crate) names: u64,
    pub(crate) lease_ms: u64,
    /// Clients' and members' clocks run at this.
    pub(crate) clock_rate: (u64, u64),
    pub(crate) delay_us: (u64, u64),
    /// Chance that a packet is sent again by the transport: it, and all behind it, come late.
    pub(crate) late: u64,
    pub(crate) late_us: (u64, u64),
    /// Chance, at each packet, that the connection breaks there.
    pub(crate) breaks: u64,
    pub(crate) think_us: (u64, u64),
    pub(crate) hold_us: (u64, u64),
    pub(crate) shared: u64,
    /// Chance that a user uses what the lock guards.
    pub(crate) uses_vault: u64,
    /// Chance that a user waits for a limited time only.
    pub(crate) gives_up: u64,
    pub(crate) patience_us: (u64, u64),
    pub(crate) flush_us: (u64, u64),
    pub(crate) flush_fails: u64,
    /// Clients have a hook that flushes.
    pub(crate) flushes: bool,
    /// Cached locks of a client, and for how long it keeps an idle one.
    pub(crate) cache_locks: usize,
    pub(crate) fault_every_us: (u64, u64),
    pub(crate) faults: Vec<ClientFault>,
    /// How long a dead client stays away.
    pub(crate) away_us: (u64, u64),
    /// How long a client's process or machine stands still.
    pub(crate) pause_us: (u64, u64),
    pub(crate) others: OthersPlan,
    pub(crate) wishes: WishPlan,
}

/// Who else uses the service, and how it is set up for them. Drawn from dice of its own, so that a seed's other choices stay what
/// they were.
#[derive(Clone, Debug)]
pub(crate) struct OthersPlan {
    /// How often an operator does something; none where there is none.
    pub(crate) operators_every_us: Option<(u64, u64)>,
    /// Chance that it ends a tenure by force, and then that it does not wait for the holder.
    pub(crate) force: u64,
    pub(crate) force_now: u64,
    pub(crate) strangers: usize,
    pub(crate) stranger_think_us: (u64, u64),
    /// Chance, whenever it has held a lock for a while, that a user goes on with it in the other mode.
    pub(crate) changes_mode: u64,
    /// A member's handler reaches the replica after up to so long.
    pub(crate) handler_us: u64,
    pub(crate) limits: Limits,
}

impl OthersPlan {
    fn draw(dice: &mut Dice, clients: usize) -> OthersPlan {
        let mut limits = Limits::default();
        if dice.chance(300_000) {
            // Room for all clients, and for what strangers want not.
            limits.sessions = clients as u64 + 1;
            limits.locks_per_session = 8;
            limits.waiters_per_session = dice.between((1, 2));
        }
        OthersPlan {
            operators_every_us: dice.chance(600_000).then(|| (1_000, dice.spread((20_000, 1_000_000)))),
            force: *dice.pick(&[0, 100_000, 400_000]),
            force_now: *dice.pick(&[0, 0, 300_000, MILLION]),
            strangers: *dice.pick(&[0, 0, 1, 2]),
            stranger_think_us: (500, dice.spread((5_000, 300_000))),
            handler_us: *dice.pick(&[0, 0, 50, 2_000]),
            limits,
            changes_mode: *dice.pick(&[0, 200_000, 500_000]),
        }
    }
}

impl LockPlan {
    pub(crate) fn draw(dice: &mut Dice, seed: u64) -> LockPlan {
        let crowd = dice.chance(60_000);
        let lease_ms = *dice.pick(&[500, 500, 700, 1_000, 1_000, 2_000, 4_000]);
        let faults = Self::draw_faults(dice);
        // A machine that stands still uses the margin up, so the clocks of such runs are right; see `clock.rs`.
        let right = faults.contains(&ClientFault::StopMachine);
        let wrong_by = if right { 0 } else { *dice.pick(&[0, 10_000, 40_000]) };
        let fast = dice.spread((20, 2_000));
        let sometimes = |dice: &mut Dice, most: u64| if dice.chance(500_000) { dice.spread((1_000, most)) } else { 0 };
        let clients = if crowd { dice.between((12, 30)) } else { dice.between((1, 5)) } as usize;
        let others = OthersPlan::draw(&mut Dice::new(seed.rotate_left(23)), clients);
        let wishes = WishPlan::draw(&mut WishPlan::dice(seed), clients);
        LockPlan {
            clients,
            users: if crowd { 1 } else { dice.between((1, 4)) as usize },
            names: dice.between((1, 4)),
            lease_ms,
            clock_rate: (MILLION - wrong_by, MILLION + wrong_by),
            delay_us: (fast, fast * dice.spread((1, 16)) + 1),
            late: sometimes(dice, 100_000),
            late_us: (10_000, dice.spread((20_000, 2_000_000))),
            breaks: if dice.chance(300_000) { dice.spread((100, 10_000)) } else { 0 },
            think_us: (0, dice.spread((1_000, 1_000_000))),
            hold_us: (0, dice.spread((100, 500_000))),
            shared: *dice.pick(&[0, 200_000, 500_000, 900_000]),
            uses_vault: *dice.pick(&[0, 300_000, MILLION]),
            gives_up: *dice.pick(&[0, 100_000, 500_000]),
            patience_us: (100, dice.spread((1_000, 1_000_000))),
            flush_us: (0, dice.spread((10, 200_000))),
            flush_fails: sometimes(dice, 300_000),
            flushes: dice.chance(700_000),
            cache_locks: if dice.chance(200_000) { 1 } else { 100 },
            fault_every_us: (1_000, dice.spread((50_000, 3_000_000))),
            faults,
            away_us: (1_000, dice.spread((20_000, 4_000_000))),
            pause_us: (1_000, dice.spread((20_000, lease_ms * 3_000))),
            others,
            wishes,
        }
    }

    fn draw_faults(dice: &mut Dice) -> Vec<ClientFault> {
        let share = *dice.pick(&[0, 150_000, 350_000, 600_000, MILLION]);
        let mut faults = Vec::new();
        for fault in ClientFault::ALL {
            if dice.chance(share) {
                let times = dice.between((1, 3)) as usize;
                faults.extend(std::iter::repeat_n(fault, times));
            }
        }
        if faults.iter().any(|fault| fault.cuts()) {
            faults.extend([ClientFault::Heal, ClientFault::Heal]);
        }
        faults
    }
}
