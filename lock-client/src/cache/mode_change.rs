//! A user that has the lock turns exclusive into shared, or shared into exclusive.
//!
//! The first is always possible, and lets other shared users in: local ones at once, those of other sessions as soon as the server says that
//! one waits. The second is done at once or not at all: two users, here or elsewhere, that kept a shared lock and waited for each other
//! to leave would wait for ever. Who is refused still has its shared lock; it may drop it and acquire exclusively, and must then look again at
//! what it had read.

use lock_protocol::{Command, Mode, Outcome};

use super::{CachedLock, Effect, Grant, State, Step, Tenure, Upgrade, Upgrader};
use crate::mutant::{self, Mutant};

impl<W> CachedLock<W> {
    /// An exclusive user is content with shared; its grant from now on. A dead one stays dead.
    pub fn downgrade(&mut self, grant: Grant, step: &mut Step<'_, W>) -> Grant {
        if grant.mode == Mode::Exclusive && self.counts(grant) {
            self.exclusive = false;
            self.settle(step);
        }
        Grant { mode: Mode::Shared, ..grant }
    }

    /// A shared user wants it exclusively, if it is alone.
    pub fn upgrade(&mut self, grant: Grant, waiter: W, step: &mut Step<'_, W>) -> Upgrade {
        let State::Held { tenure, yielding: None } = self.state else { return Upgrade::Refused };
        let is_alone = self.users == 1 || mutant::is(Mutant::UpgradesBesideReaders);
        if !step.live || !self.counts(grant) || !is_alone || !self.waiters.is_empty() {
            return Upgrade::Refused;
        }
        if tenure.mode == Mode::Exclusive {
            self.exclusive = true;
            return Upgrade::Had(Grant { mode: Mode::Exclusive, ..grant });
        }
        let number = step.outbox.send(Command::Upgrade { name: self.name.clone(), token: tenure.token });
        self.state = State::Upgrading { number, tenure, revoked: false };
        let id = self.next_id();
        self.upgrader = Some(Upgrader { id, grant, waiter });
        Upgrade::Waits(id)
    }

    /// The answer to an upgrade. `revoked` says that the tenure had a live guard when the lease ran out.
    pub(super) fn on_upgrade(&mut self, before: Tenure, revoked: bool, outcome: &Outcome, step: &mut Step<'_, W>) {
        let tenure = match *outcome {
            Outcome::Upgraded { token } => Some(Tenure { token, mode: Mode::Exclusive, used: true }),
            Outcome::NotUpgraded => Some(before),
            _ => None,
        };
        let held = tenure.filter(|tenure| tenure.token > self.forced);
        match held {
            Some(tenure) => self.hold(tenure, revoked, step.now_ns),
            None => self.not_ours(before, step),
        }
        if let Some(Upgrader { grant, waiter, .. }) = self.upgrader.take() {
            let grant = match held {
                Some(Tenure { token, mode, .. }) if self.counts(grant) => Grant { token, mode, ..grant },
                _ => grant,
            };
            self.exclusive = self.users > 0 && grant.mode == Mode::Exclusive;
            step.effects.push(Effect::Serve { waiter, grant });
        }
    }

    fn hold(&mut self, tenure: Tenure, revoked: bool, now_ns: u64) {
        let target = match self.remembered.take() {
            _ if revoked => Some(None),
            Some((token, target)) if token == tenure.token => Some(target),
            _ => None,
        };
        let target = target.filter(|target| !target.is_some_and(|target| target.covers(tenure.mode)));
        let yielding = target.map(|target| self.yielding(target, now_ns, false));
        self.state = State::Held { tenure, yielding };
        self.last_used_ns = now_ns;
    }

    /// The server does not know the tenure: whoever believes to have it is dead. It was ended by force, and the news of it may still come: it
    /// is confirmed at once.
    pub(super) fn not_ours(&mut self, tenure: Tenure, step: &mut Step<'_, W>) {
        if tenure.token > self.forced {
            self.forced = tenure.token;
            self.confirm(tenure.token, step);
        }
        (self.users, self.exclusive) = (0, false);
        self.state = State::Unknown;
    }

    /// Whether the user with this grant is counted among the users.
    fn counts(&self, grant: Grant) -> bool {
        grant.epoch == self.epoch && grant.token > self.forced
    }
}
