//! What the server says to a lock on its own account: revokes, force, grants.

use lock_protocol::{Command, FencingToken, Mode, RequestNumber};

use super::{CachedLock, State, Step};
use crate::mutant::{self, Mutant};

impl<W> CachedLock<W> {
    /// The server wants a tenure back. True where that was news (the caller then knows which way it came).
    pub fn on_revoke(&mut self, token: FencingToken, target: Option<Mode>, step: &mut Step<'_, W>) -> bool {
        let fresh = self.yielding(target, step.now_ns, false);
        let token = self.revoked_token(token);
        let news = match &mut self.state {
            State::Held { tenure, yielding } if tenure.token == token => {
                if target.is_some_and(|target| target.covers(tenure.mode)) {
                    return false;
                }
                match yielding {
                    Some(yielding) => {
                        let lower = yielding.to.is_some() && target.is_none();
                        yielding.to = if lower { None } else { yielding.to };
                        lower
                    }
                    None => {
                        *yielding = Some(fresh);
                        true
                    }
                }
            }
            State::Flushing { tenure, revoked, .. } | State::Downgrading { tenure, revoked, .. }
                if tenure.token == token =>
            {
                let lower = target.is_none() && !*revoked;
                *revoked |= target.is_none();
                lower
            }
            State::Asking { number, mode, queued } => {
                if *queued && self.remembered.is_none_or(|(known, _)| known < token) {
                    // Granted to us, and the notice of it lost or late.
                    step.outbox.ask_again(*number, self.name.clone(), *mode);
                }
                self.remember(token, target)
            }
            State::Releasing { token: released, .. } if *released < token => self.remember(token, target),
            State::Upgrading { tenure, .. } if tenure.token <= token => self.remember(token, target),
            // What is under way for a set is its alone; this can end no tenure of it.
            State::Gathering { .. } => {
                self.confirm(token, step);
                true
            }
            State::Unknown if !mutant::is(Mutant::IgnoresUnknownTenure) => {
                self.release(token, None, step);
                true
            }
            _ => false,
        };
        self.settle(step);
        news
    }

    /// An operator ended a tenure by force (M23): its guards are dead, for the shell by [`CachedLock::forced`], and nothing may be
    /// flushed in its name any more. A release confirms it; the server withholds the lock until then. Said again and again until it is confirmed;
    /// only the first time counts.
    pub fn on_forced(&mut self, token: FencingToken, step: &mut Step<'_, W>) {
        if token <= self.forced {
            return;
        }
        if mutant::is(Mutant::IgnoresForce) {
            return self.confirm(token, step);
        }
        self.forced = token;
        match &self.state {
            State::Held { tenure, .. } | State::Flushing { tenure, .. } if tenure.token <= token => {
                (self.users, self.exclusive) = (0, false);
                self.release(token, self.wish(), step);
            }
            State::Unknown => self.release(token, None, step),
            State::Releasing { token: released, .. } if *released == token => {}
            State::Asking { number, mode, queued } => {
                if *queued {
                    // The tenure may be what this acquire was granted, and the place in the queue gone.
                    step.outbox.ask_again(*number, self.name.clone(), *mode);
                }
                self.confirm(token, step);
            }
            State::Downgrading { tenure, .. } | State::Upgrading { tenure, .. } if tenure.token <= token => {
                (self.users, self.exclusive) = (0, false);
                self.confirm(token, step);
            }
            _ => self.confirm(token, step),
        }
    }

    /// Tenures up to this one are over: a guard of one is invalid. 0 where none was ended by force.
    pub fn forced(&self) -> FencingToken {
        self.forced
    }

    /// Releases a tenure that is over already, beside whatever else is unanswered: no answer to it matters, and it can end
    /// no other tenure (so M13 does not forbid it).
    pub(super) fn confirm(&self, token: FencingToken, step: &mut Step<'_, W>) {
        step.outbox.send(Command::Release { name: self.name.clone(), token, requeue: None });
    }

    /// As the revoke says.
    fn revoked_token(&self, said: FencingToken) -> FencingToken {
        match &self.state {
            State::Held { tenure, .. } if mutant::is(Mutant::RevokeAnyToken) => tenure.token,
            _ => said,
        }
    }

    fn remember(&mut self, token: FencingToken, target: Option<Mode>) -> bool {
        let news = self.remembered.is_none_or(|(known, lowest)| known < token || (known == token && lowest > target));
        if news {
            self.remembered = Some((token, target));
        }
        news
    }

    /// The server says on its own account that a queued acquire (or requeue) was granted.
    pub fn on_granted(
        &mut self,
        acquire: RequestNumber,
        token: FencingToken,
        others_waiting: bool,
        step: &mut Step<'_, W>,
    ) {
        match self.state {
            State::Asking { number, mode, .. } if number == acquire => self.granted(token, mode, others_waiting, step),
            // The notice overtook the answer to the release that carried the requeue.
            State::Releasing { number, requeue: Some(mode), .. } if number == acquire => {
                self.granted(token, mode, others_waiting, step);
            }
            State::Cancelling { .. } if mutant::is(Mutant::KeepsCancelledGrant) => {
                self.granted(token, Mode::Shared, others_waiting, step);
            }
            _ => {}
        }
    }
}
