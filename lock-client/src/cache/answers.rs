//! What the server answers to a lock's requests.

use lock_protocol::{FencingToken, Mode, Outcome, RequestNumber, Requeued};

use super::{CachedLock, Effect, LocalWaiter, State, Step, Tenure};
use crate::error::AcquireError;
use crate::mutant::{self, Mutant};

impl<W> CachedLock<W> {
    pub(super) fn granted(&mut self, token: FencingToken, mode: Mode, others_waiting: bool, step: &mut Step<'_, W>) {
        if token <= self.forced {
            // What ended it overtook the news of it; settling asks anew.
            self.state = State::Unknown;
            return self.settle(step);
        }
        let target = match self.remembered.take() {
            Some((revoked, target)) if revoked == token && !target.is_some_and(|target| target.covers(mode)) => {
                Some(target)
            }
            _ => others_waiting.then_some(None),
        };
        let yielding = target.map(|target| self.yielding(target, step.now_ns, true));
        self.state = State::Held { tenure: Tenure { token, mode, used: false }, yielding };
        self.last_used_ns = step.now_ns;
        self.settle(step);
    }

    /// The answer to a request, or to a queued acquire that was asked for again.
    pub fn on_outcome(&mut self, answered: RequestNumber, outcome: Outcome, step: &mut Step<'_, W>) {
        match self.state.clone() {
            State::Asking { number, mode, .. } if number == answered => self.on_acquire(number, mode, outcome, step),
            State::Cancelling { acquire, .. }
                if acquire == Some(answered)
                    && matches!(outcome, Outcome::Granted { .. })
                    && mutant::is(Mutant::KeepsCancelledGrant) =>
            {
                self.on_acquire(answered, Mode::Shared, outcome, step);
            }
            State::Cancelling { acquire, cancel } => {
                let acquire = acquire.filter(|number| *number != answered);
                let cancel = cancel.filter(|number| *number != answered);
                self.state = match (acquire, cancel) {
                    (None, None) => State::Unknown,
                    _ => State::Cancelling { acquire, cancel },
                };
            }
            State::Releasing { number, token, requeue } if number == answered => {
                self.on_release(number, token, requeue, outcome, step);
            }
            State::Downgrading { number, tenure, revoked } if number == answered => {
                let tenure = Tenure { mode: Mode::Shared, ..tenure };
                if outcome == Outcome::Downgraded && tenure.token > self.forced {
                    let yielding = revoked.then(|| self.yielding(None, step.now_ns, false));
                    self.state = State::Held { tenure, yielding };
                } else {
                    self.not_ours(tenure, step);
                }
            }
            State::Upgrading { number, tenure, revoked } if number == answered => {
                self.on_upgrade(tenure, revoked, &outcome, step);
            }
            _ => return,
        }
        self.settle(step);
    }

    fn on_acquire(&mut self, number: RequestNumber, mode: Mode, outcome: Outcome, step: &mut Step<'_, W>) {
        match outcome {
            Outcome::Granted { token, others_waiting } => self.granted(token, mode, others_waiting, step),
            Outcome::Queued => {
                self.state = State::Asking { number, mode, queued: true };
                if self.remembered.is_some() {
                    step.outbox.ask_again(number, self.name.clone(), mode);
                }
            }
            // The server knows a tenure that we do not: an orphan. It is not used, but exchanged for one that both know.
            Outcome::AlreadyHeld { token, mode } if mutant::is(Mutant::AcquireDuringRelease) => {
                self.granted(token, mode, false, step);
            }
            Outcome::AlreadyHeld { token, .. } => {
                self.release(token, self.wish(), step);
            }
            Outcome::LimitReached { limit } => {
                self.refuse(&AcquireError::Limit(limit), step);
                self.state = State::Unknown;
            }
            Outcome::Denied { reason } => {
                self.refuse(&AcquireError::Denied(reason), step);
                self.state = State::Unknown;
            }
            // The place in the queue is gone; settling asks for a new one.
            _ => self.state = State::Unknown,
        }
    }

    fn on_release(
        &mut self,
        number: RequestNumber,
        token: FencingToken,
        requeue: Option<Mode>,
        outcome: Outcome,
        step: &mut Step<'_, W>,
    ) {
        match (outcome, requeue) {
            (Outcome::Released { requeued: Some(Requeued::Queued) }, Some(mode)) => {
                self.state = State::Asking { number, mode, queued: true };
                if self.remembered.is_some() {
                    step.outbox.ask_again(number, self.name.clone(), mode);
                }
            }
            (Outcome::Released { requeued: Some(Requeued::Granted { token, others_waiting }) }, Some(mode)) => {
                self.granted(token, mode, others_waiting, step);
            }
            (Outcome::LimitReached { limit }, _) => {
                self.refuse(&AcquireError::Limit(limit), step);
                self.release(token, None, step);
            }
            // Of the release itself nobody is deprived: only the requeue in it was refused.
            (Outcome::Denied { reason }, _) => {
                self.refuse(&AcquireError::Denied(reason), step);
                self.release(token, None, step);
            }
            // Released or not held: in either case not ours. Were it ours after all, a revoke would find Unknown and be
            // answered with a release.
            _ => self.state = State::Unknown,
        }
    }

    fn refuse(&mut self, error: &AcquireError, step: &mut Step<'_, W>) {
        // A set asked for more than those behind it do.
        let refused = if self.assembling.is_some() { 1 } else { self.waiters.len() };
        for LocalWaiter { waiter, .. } in self.waiters.drain(..refused.min(self.waiters.len())) {
            step.effects.push(Effect::Refuse { waiter, error: error.clone() });
        }
    }
}
