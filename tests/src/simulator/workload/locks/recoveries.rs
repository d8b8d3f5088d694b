//! What is done about the dead: sessions recover those of their group; operators and strangers meddle.

use lock_client::cores::RecoveryEffect;
use lock_protocol::{RecoveryReport, RecoveryStep, RecoveryToken, SessionEnd, SessionId};
use lock_server::machine::Op;

use super::calls::{Asking, Caller};
use super::{ClientRun, LockEvent};
use crate::simulator::invariants::Check;
use crate::simulator::world::{Event, World};

impl World {
    /// The owner's hook begins, or is dropped.
    pub(super) fn on_recovery_effect(&mut self, client: usize, effect: RecoveryEffect) {
        let it = &mut self.locks.clients[client];
        let run = it.run;
        let Some(opened) = it.opened_mut() else { return };
        match effect {
            RecoveryEffect::Start(dead) => {
                let (dead, token) = (dead.session, dead.token);
                opened.hooks.insert((dead, token));
                let wait = self.wish_dice.spread(self.plan.locks.wishes.hook_us);
                self.schedule(wait, Event::Lock(LockEvent::Recovered { client, run, dead, token }));
                self.invariants.counters.hit("recoveries begun");
            }
            RecoveryEffect::Stop(dead, token) => {
                if opened.hooks.remove(&(dead, token)) {
                    self.invariants.counters.hit("recoveries stopped");
                }
            }
        }
    }

    /// It has recovered the dead one, or cannot.
    pub(crate) fn on_recovery_hook_returned(
        &mut self,
        client: usize,
        run: ClientRun,
        dead: SessionId,
        token: RecoveryToken,
    ) -> Check {
        let now = self.now;
        let fails = self.unsafe_now && self.wish_dice.chance(self.plan.locks.wishes.declines);
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        let is_the_same = it.run == run;
        let Some(opened) = it.opened_mut().filter(|_| is_the_same) else { return Ok(()) };
        if !opened.hooks.remove(&(dead, token)) {
            return Ok(());
        }
        opened.session.on_hook_ended(clocks, dead, token, !fails);
        let session = opened.session.id();
        self.trace.note(self.now, [33, dead.0, token.0], || {
            format!("  client {client}: the hook for session {dead} (right {token}) ends, fails {fails}")
        });
        if !fails {
            self.invariants.hook_ended(session, dead, token);
        }
        self.client_goes_on(client)
    }

    /// Whether somebody meddles now with what the dead left.
    pub(super) fn meddles(&mut self) -> bool {
        self.wish_dice.chance(self.plan.locks.wishes.meddles)
    }

    /// A stranger reports what is not its affair, or is, without having done anything; or it ends its session in one way or the other.
    pub(super) fn stranger_meddles(&mut self, stranger: usize, session: SessionId) {
        let caller = Caller::Stranger(stranger, self.locks.strangers[stranger].life());
        let rights = self.invariants.locks.kept.rights();
        let op = match self.wish_dice.pick_or_none(&rights).copied() {
            Some((dead, token)) => {
                let steps =
                    [RecoveryStep::Recovered, RecoveryStep::Recovered, RecoveryStep::Declined, RecoveryStep::Progress];
                let step = *self.wish_dice.pick(&steps);
                if step == RecoveryStep::Recovered {
                    // It has no log from which anything could be made good.
                    self.invariants.hook_ended(session, dead, token);
                }
                Op::Recovery(RecoveryReport { session, dead, token, step })
            }
            None => {
                let end = *self.wish_dice.pick(&[SessionEnd::Flushed, SessionEnd::Abandoned]);
                Op::End { session, end }
            }
        };
        self.call(caller, Asking::Op(op));
    }
}
