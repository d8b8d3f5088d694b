//! A session's requests: each number once, and each command's meaning.

use lock_protocol::{
    Command, FencingToken, LockName, LockSet, Mode, Outcome, Request, RequestNumber, Requeued, SessionId,
};

use super::Machine;
use super::table::{Acquired, Standing};
use super::window::{Admission, Done};
use crate::mutant::Mutant;

impl Machine {
    pub(super) fn on_request(&mut self, session: SessionId, floor: RequestNumber, request: &Request) -> Outcome {
        let op = self.applied;
        let window = self.limits.request_window;
        let Some(entry) = self.sessions.live_mut(session) else { return Outcome::SessionGone };
        entry.changed = op;
        entry.window.raise_floor(floor);
        let admission = match entry.window.admit(request.number, window) {
            Admission::Repeated(_) if self.mutation.is(Mutant::ExecutesTwice) => Admission::New,
            Admission::BelowFloor if self.mutation.is(Mutant::IgnoresFloor) => Admission::New,
            admission => admission,
        };
        match admission {
            Admission::BelowFloor => self.below_floor(session, request),
            Admission::BeyondWindow => limit_reached("request numbers above the session's floor", window),
            Admission::Repeated(Done::CancelledAhead) => self.after_its_cancel(session, request),
            Admission::Repeated(done) => self.repeated(session, request, done),
            Admission::New => {
                let outcome = self.execute(session, request);
                self.record(session, request, &outcome);
                outcome
            }
        }
    }

    fn execute(&mut self, session: SessionId, request: &Request) -> Outcome {
        match &request.command {
            Command::Acquire { name, mode } => self.acquire(session, name, request.number, *mode),
            Command::Cancel { name, acquire } => self.cancel(session, name, *acquire),
            Command::Release { name, token, requeue } => self.release(session, name, *token, request.number, *requeue),
            Command::Downgrade { name, token } => self.downgrade(session, name, *token),
            Command::Upgrade { name, token } => self.upgrade(session, name, *token, request.number),
            Command::AcquireAll { set } => self.acquire_all(session, set, request.number),
        }
    }

    /// Remembers an outcome, or where to look for it.
    fn record(&mut self, session: SessionId, request: &Request, outcome: &Outcome) {
        let done = match (&request.command, outcome) {
            (_, Outcome::Queued) if self.mutation.is(Mutant::StaleQueued) => Done::Outcome(outcome.clone()),
            (Command::Acquire { .. } | Command::AcquireAll { .. }, Outcome::Granted { .. } | Outcome::Queued) => {
                Done::Acquire
            }
            (Command::Release { .. }, Outcome::Released { requeued: Some(_) }) => Done::Requeue,
            _ => Done::Outcome(outcome.clone()),
        };
        if let Some(session) = self.sessions.live_mut(session) {
            session.window.record(request.number, done);
        }
    }

    /// A repetition. What became of an acquire or requeue is read off the lock's entry. A client that waits after a requeue
    /// asks with an acquire under the release's number.
    fn repeated(&self, session: SessionId, request: &Request, done: Done) -> Outcome {
        let place = self.place(session, request);
        let asks = matches!(request.command, Command::Acquire { .. });
        match done {
            Done::Outcome(outcome) => outcome,
            Done::Requeue if !asks => Outcome::Released { requeued: place },
            _ => place.map_or(Outcome::Gone, Outcome::from),
        }
    }

    /// "Queued" is an answer and lets the floor move on, so a waiting client asks below its floor. What its number still
    /// stands for is in the lock's entry; nothing is executed.
    fn below_floor(&self, session: SessionId, request: &Request) -> Outcome {
        match request.command {
            Command::Acquire { .. } | Command::AcquireAll { .. } => {
                self.place(session, request).map_or(Outcome::BelowFloor, Outcome::from)
            }
            _ => Outcome::BelowFloor,
        }
    }

    /// What a number stands for in the lock's entry: a place in the queue, or the tenure that came of it. Of a set all locks must still
    /// stand as they did, since a part of it is of no use.
    fn place(&self, session: SessionId, request: &Request) -> Option<Requeued> {
        let places = request.command.names().map(|name| self.place_at(session, name, request.number));
        let both = |one, other| match (one, other) {
            (Requeued::Granted { token, others_waiting: a }, Requeued::Granted { others_waiting: b, .. }) => {
                Some(Requeued::Granted { token, others_waiting: a || b })
            }
            (Requeued::Queued, Requeued::Queued) => Some(Requeued::Queued),
            _ => None,
        };
        places.reduce(|one, other| both(one?, other?)).flatten()
    }

    fn place_at(&self, session: SessionId, name: &LockName, number: RequestNumber) -> Option<Requeued> {
        match self.standing(session, name) {
            Standing::Waits { acquire, .. } if acquire == number => Some(Requeued::Queued),
            Standing::Holds(tenure) if tenure.acquire == number && self.forced(session, name).is_none() => {
                let others_waiting = self.table.get(name).is_some_and(|lock| lock.others_waiting(tenure.mode()));
                Some(Requeued::Granted { token: tenure.token(), others_waiting })
            }
            _ => None,
        }
    }

    /// The cancel overtook the request that it means: an acquire or upgrade is not executed at all, a release without its
    /// requeue.
    fn after_its_cancel(&mut self, session: SessionId, request: &Request) -> Outcome {
        let outcome = match &request.command {
            Command::Acquire { .. } | Command::AcquireAll { .. } => return Outcome::Gone,
            Command::Upgrade { .. } => return Outcome::NotUpgraded,
            Command::Release { name, token, .. } => self.release(session, name, *token, request.number, None),
            _ => self.execute(session, request),
        };
        self.record(session, request, &outcome);
        outcome
    }

    fn acquire(&mut self, session: SessionId, name: &LockName, number: RequestNumber, mode: Mode) -> Outcome {
        // Ended by force, but its client does not know yet.
        if let Some(forced) = self.forced(session, name) {
            return Outcome::AlreadyHeld { token: forced.token, mode: forced.mode };
        }
        match self.standing(session, name) {
            Standing::Holds(tenure) => Outcome::AlreadyHeld { token: tenure.token(), mode: tenure.mode() },
            Standing::Waits { .. } => limit_reached("acquires of a session in one lock's queue", 1),
            Standing::Neither => match self.no_room(session, name, mode) {
                Some(refusal) => refusal,
                None => self.take(session, name, number, mode).into(),
            },
        }
    }

    /// Whatever the session has of these locks it does not know of, else it would not ask (see [`Command::AcquireAll`]).
    fn acquire_all(&mut self, session: SessionId, set: &LockSet, number: RequestNumber) -> Outcome {
        if let Some(refusal) = self.no_room_for_all(session, set) {
            return refusal;
        }
        for (name, _) in set.iter() {
            self.sessions.confirm(session, name);
            let standing = self.standing(session, name);
            let (table, mut around) = self.table_and_around();
            match standing {
                Standing::Holds(_) => drop(table.release(&mut around, session, name, None)),
                Standing::Waits { .. } => table.leave(&mut around, session, name),
                Standing::Neither => {}
            }
        }
        let (table, mut around) = self.table_and_around();
        table.acquire_all(&mut around, session, number, set).into()
    }

    fn no_room_for_all(&self, session: SessionId, set: &LockSet) -> Option<Outcome> {
        let entry = self.sessions.live(session)?;
        let limits = &self.limits;
        let held = entry.held.len() - set.iter().filter(|(name, _)| entry.held.contains(*name)).count();
        let waiting = entry.waiting.len() - set.iter().filter(|(name, _)| entry.waiting.contains_key(*name)).count();
        if (held + waiting + set.len()) as u64 > limits.locks_per_session {
            return Some(limit_reached("locks of a session", limits.locks_per_session));
        }
        ((waiting + set.len()) as u64 > limits.waiters_per_session)
            .then(|| limit_reached("queues in which a session waits", limits.waiters_per_session))
    }

    /// The limit that an acquire runs into.
    fn no_room(&self, session: SessionId, name: &LockName, mode: Mode) -> Option<Outcome> {
        let entry = self.sessions.live(session)?;
        let limits = &self.limits;
        let (held, waiting) = (entry.held.len() as u64, entry.waiting.len() as u64);
        if held + waiting >= limits.locks_per_session {
            return Some(limit_reached("locks of a session", limits.locks_per_session));
        }
        let must_queue = self.table.get(name).is_some_and(|lock| lock.must_queue(mode));
        (must_queue && waiting >= limits.waiters_per_session)
            .then(|| limit_reached("queues in which a session waits", limits.waiters_per_session))
    }

    fn take(&mut self, session: SessionId, name: &LockName, number: RequestNumber, mode: Mode) -> Acquired {
        let (table, mut around) = self.table_and_around();
        table.acquire(&mut around, session, name.clone(), number, mode)
    }

    /// In a session that waits in as many queues as it may, the requeue is left out; the release stands.
    fn release(
        &mut self,
        session: SessionId,
        name: &LockName,
        token: FencingToken,
        number: RequestNumber,
        requeue: Option<Mode>,
    ) -> Outcome {
        if self.forced(session, name).is_some_and(|forced| forced.token == token) {
            let forced = self.sessions.confirm(session, name);
            if forced.is_some_and(|forced| forced.withheld_until_us.is_none()) {
                return self.requeue(session, name, number, requeue);
            }
        }
        if self.tenure_mode(session, name, token).is_none() {
            return Outcome::NotHeld;
        }
        let waiters = self.limits.waiters_per_session;
        let has_room = self.sessions.live(session).is_some_and(|entry| (entry.waiting.len() as u64) < waiters);
        let requeue = requeue.filter(|_| has_room);
        let (table, mut around) = self.table_and_around();
        let requeued = table.release(&mut around, session, name, requeue.map(|mode| (number, mode)));
        Outcome::Released { requeued: requeued.map(Requeued::from) }
    }

    /// A release of which only the requeue is left to do.
    fn requeue(
        &mut self,
        session: SessionId,
        name: &LockName,
        number: RequestNumber,
        requeue: Option<Mode>,
    ) -> Outcome {
        let requeue = requeue.filter(|&mode| self.no_room(session, name, mode).is_none());
        let requeued = requeue.map(|mode| self.take(session, name, number, mode).into());
        Outcome::Released { requeued }
    }

    fn downgrade(&mut self, session: SessionId, name: &LockName, token: FencingToken) -> Outcome {
        match self.tenure_mode(session, name, token) {
            _ if self.forced(session, name).is_some() => Outcome::NotHeld,
            None => Outcome::NotHeld,
            Some(Mode::Shared) => Outcome::Downgraded,
            Some(Mode::Exclusive) => {
                let (table, mut around) = self.table_and_around();
                table.downgrade(&mut around, session, name);
                Outcome::Downgraded
            }
        }
    }

    fn upgrade(&mut self, session: SessionId, name: &LockName, token: FencingToken, number: RequestNumber) -> Outcome {
        match self.tenure_mode(session, name, token) {
            _ if self.forced(session, name).is_some() => Outcome::NotHeld,
            None => Outcome::NotHeld,
            Some(Mode::Exclusive) => Outcome::Upgraded { token },
            Some(Mode::Shared) => {
                let (table, mut around) = self.table_and_around();
                match table.upgrade(&mut around, session, name, number) {
                    Some(token) => Outcome::Upgraded { token },
                    None => Outcome::NotUpgraded,
                }
            }
        }
    }

    /// Ends whatever the acquire has come to. Where it has not been executed yet, it never will be: otherwise it would be
    /// granted to a client that has already forgotten it.
    fn cancel(&mut self, session: SessionId, name: &LockName, acquire: RequestNumber) -> Outcome {
        let standing = self.standing(session, name);
        let window = self.limits.request_window;
        if self.forced(session, name).is_some_and(|forced| forced.acquire == acquire) {
            self.sessions.confirm(session, name);
        }
        let (table, mut around) = self.table_and_around();
        let keeps = around.mutation.is(Mutant::CancelKeeps);
        match standing {
            Standing::Waits { acquire: waiting, .. } if waiting == acquire => table.leave(&mut around, session, name),
            Standing::Holds(tenure) if tenure.acquire == acquire && !keeps => {
                table.release(&mut around, session, name, None);
            }
            _ => {}
        }
        if let Some(entry) = self.sessions.live_mut(session)
            && entry.window.admit(acquire, window) == Admission::New
            && !self.mutation.is(Mutant::CancelForgotten)
        {
            entry.window.record(acquire, Done::CancelledAhead);
        }
        Outcome::Cancelled
    }

    fn standing(&self, session: SessionId, name: &LockName) -> Standing {
        let place = self.sessions.live(session).and_then(|entry| entry.waiting.get(name).copied());
        self.table.standing(session, name, place)
    }

    /// The mode of the tenure (session, name, token), where it is current.
    fn tenure_mode(&self, session: SessionId, name: &LockName, token: FencingToken) -> Option<Mode> {
        let tenure = self.table.get(name)?.holder(session)?;
        (tenure.token() == token || self.mutation.is(Mutant::ReleaseUnchecked)).then(|| tenure.mode())
    }
}

impl From<Acquired> for Outcome {
    fn from(acquired: Acquired) -> Outcome {
        match acquired {
            Acquired::Granted { token, others_waiting } => Outcome::Granted { token, others_waiting },
            Acquired::Queued => Outcome::Queued,
        }
    }
}

impl From<Acquired> for Requeued {
    fn from(acquired: Acquired) -> Requeued {
        match acquired {
            Acquired::Granted { token, others_waiting } => Requeued::Granted { token, others_waiting },
            Acquired::Queued => Requeued::Queued,
        }
    }
}

fn limit_reached(what: &str, limit: u64) -> Outcome {
    Outcome::LimitReached { limit: format!("{what}: at most {limit}") }
}
