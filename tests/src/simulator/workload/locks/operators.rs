//! Operators: they look at the locks, and end tenures by force, of which they have just read or have read long ago.

use lock_protocol::{Answer, FencingToken, ForceRelease, LockName, Query};
use lock_server::machine::Op;

use super::LockEvent;
use super::calls::{Asking, Caller};
use crate::simulator::world::{Event, World};

/// Tenures that an operator remembers.
const REMEMBERED_MAX: usize = 8;
/// Chance that it acts at once on what it has read, per million.
const AT_ONCE: u64 = 500_000;

/// What the operators know.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    tenures: Vec<(LockName, FencingToken)>,
    /// The last name of the page that was read last, where there are more.
    after: Option<LockName>,
}

impl World {
    /// An operator does something, and comes back later.
    pub(crate) fn on_operator(&mut self) {
        let Some(every_us) = self.plan.locks.others.operators_every_us.filter(|_| self.unsafe_now) else { return };
        let wait = self.lock_dice.spread(every_us);
        self.schedule(wait, Event::Lock(LockEvent::Operator));
        let force = self.plan.locks.others.force;
        if self.lock_dice.chance(force) {
            return self.operator_forces();
        }
        let query = match self.lock_dice.below(10) {
            _ if self.meddles() => Query::Kept { after: None, limit: *self.wish_dice.pick(&[1, 2, 1_000]) },
            0..5 => self.draw_page(),
            5..9 => Query::Inspect { name: self.draw_name() },
            _ => Query::Forced { name: self.draw_name() },
        };
        self.call(Caller::Operator, Asking::Op(Op::Read(query)));
    }

    fn draw_name(&mut self) -> LockName {
        self.lock_dice.pick(&self.locks.names).clone()
    }

    fn draw_page(&mut self) -> Query {
        let too_long = "x".repeat(LockName::MAX_BYTES + 1);
        let prefix = *self.lock_dice.pick(&["", "", "lock/", "lock/1", "stranger/", "none/", "\n", &too_long]);
        let after = self.locks.operators.after.take().filter(|_| prefix.is_empty());
        let after = if self.lock_dice.chance(200_000) { Some(self.draw_name()) } else { after };
        Query::Locks { prefix: prefix.to_owned(), after, limit: *self.lock_dice.pick(&[0, 1, 2, 1_000]) }
    }

    pub(super) fn operator_reads(&mut self, answer: Answer) {
        let entries = match answer {
            Answer::Locks { entries, more } => {
                self.locks.operators.after = entries.last().filter(|_| more).map(|entry| entry.name.clone());
                entries
            }
            Answer::Inspect(entry) => vec![entry],
            Answer::Forced(_) | Answer::Kept { .. } => return,
        };
        let tenures = entries
            .into_iter()
            .flat_map(|entry| entry.holders.into_iter().map(move |holder| (entry.name.clone(), holder.token)));
        let known = &mut self.locks.operators.tenures;
        known.extend(tenures);
        known.drain(..known.len().saturating_sub(REMEMBERED_MAX));
        let force = self.plan.locks.others.force;
        if self.unsafe_now && self.lock_dice.chance(force) && self.lock_dice.chance(AT_ONCE) {
            self.operator_forces();
        }
    }

    /// Repeats what it asked for now and then, and gets a token wrong.
    fn operator_forces(&mut self) {
        let known = &self.locks.operators.tenures;
        let Some((name, token)) = self.lock_dice.pick_or_none(known).cloned() else { return };
        let wrong = u64::from(self.lock_dice.chance(50_000));
        let now = self.plan.locks.others.force_now;
        let now = self.lock_dice.chance(now);
        if self.meddles() {
            let token = FencingToken(token.0 + wrong);
            return self.call(Caller::Operator, Asking::Op(Op::ForceKept { name, token }));
        }
        let force = ForceRelease { name, token: FencingToken(token.0 + wrong), now };
        self.call(Caller::Operator, Asking::Op(Op::ForceRelease(force)));
    }
}
