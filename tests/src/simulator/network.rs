//! The network: it may lose, double, delay and reorder every message, and cut every link in either direction.

use super::dice::Dice;
use super::plan::{Fault, NetworkPlan};

/// Links between members, by index.
#[derive(Debug)]
pub(crate) struct Network {
    members: usize,
    plan: NetworkPlan,
    /// `blocked[from * members + to]`.
    blocked: Vec<bool>,
    flapping: Option<(usize, usize)>,
    /// No loss, no doubles, nothing late.
    calm: bool,
}

/// When the copies of a message arrive, µs from now; lost if none.
pub(crate) type Fate = [Option<u64>; 2];

impl Network {
    pub(crate) fn new(members: usize, plan: NetworkPlan) -> Self {
        Network { members, plan, blocked: vec![false; members * members], flapping: None, calm: false }
    }

    /// What becomes of a message between two members.
    pub(crate) fn fate(&mut self, dice: &mut Dice, from: usize, to: usize) -> Fate {
        let flaps = self.flapping.is_some_and(|(a, b)| (a, b) == (from, to) || (b, a) == (from, to));
        if self.blocked[from * self.members + to] || (flaps && dice.chance(500_000)) {
            return [None, None];
        }
        self.client_fate(dice)
    }

    /// What becomes of a message from or to a client.
    pub(crate) fn client_fate(&mut self, dice: &mut Dice) -> Fate {
        let plan = &self.plan;
        if self.calm {
            return [Some(dice.between(plan.delay_us)), None];
        }
        let delay = |dice: &mut Dice| {
            dice.between(plan.delay_us) + if dice.chance(plan.late) { dice.spread(plan.late_us) } else { 0 }
        };
        if dice.chance(plan.loss) {
            return [None, None];
        }
        let first = delay(dice);
        let second = dice.chance(plan.duplicate).then(|| delay(dice) + dice.below(first + 1));
        [Some(first), second]
    }

    /// Whether the others hear at once that a process is gone.
    pub(crate) fn tells_of_death(&self, dice: &mut Dice, from: usize, to: usize) -> bool {
        !self.blocked[from * self.members + to] && dice.chance(self.plan.unreachable)
    }

    /// All links whole, and no more chance.
    pub(crate) fn calm(&mut self) {
        self.heal();
        self.calm = true;
    }

    pub(crate) fn heal(&mut self) {
        self.blocked.fill(false);
        self.flapping = None;
    }

    /// Cuts links as the fault says.
    pub(crate) fn cut(&mut self, dice: &mut Dice, fault: Fault) {
        let members = self.members;
        let one = dice.index(members);
        let side = dice.number();
        let in_side = |member: usize| side >> member & 1 == 1;
        for from in 0..members {
            for to in 0..members {
                let cut = match fault {
                    Fault::Isolate => from == one || to == one,
                    Fault::OneWay => dice.chance(300_000),
                    Fault::Split => in_side(from) != in_side(to),
                    // Rotated, so that each member is an end sometimes.
                    Fault::Chain => ((from + one) % members).abs_diff((to + one) % members) > 1,
                    _ => self.blocked[from * members + to],
                };
                self.blocked[from * members + to] = cut && from != to;
            }
        }
        if fault == Fault::Flap && members > 1 {
            self.flapping = Some((one, (one + 1 + dice.index(members - 1)) % members));
        }
    }
}
