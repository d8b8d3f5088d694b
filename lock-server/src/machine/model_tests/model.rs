//! The model: lists that are searched from the front.

use std::collections::BTreeSet;

use lock_protocol::{
    Command, FencingToken, ForceRelease, ForcedTenure, LockName, Mode, Open, Opened, Outcome, RecoveryGroup, Request,
    RequestNumber, Requeued, SessionEnd, SessionId, SessionOptions,
};

use super::LIMITS;
use super::deaths::ModelKept;
use crate::machine::{Op, Reply, Revoke};

#[derive(Clone)]
pub(super) struct ModelSession {
    pub(super) id: u64,
    pub(super) nonce: u128,
    pub(super) lease_us: u64,
    pub(super) deadline_us: u64,
    pub(super) dead: bool,
    pub(super) floor: u64,
    /// Number, and its outcome; none where the lock decides, or where it was cancelled ahead.
    pub(super) done: Vec<(u64, ModelDone)>,
    pub(super) delay_us: u64,
    pub(super) group: Option<RecoveryGroup>,
    pub(super) kept: Option<ModelKept>,
}

#[derive(Clone)]
pub(super) enum ModelDone {
    AskTheLock { release: bool },
    Outcome(Outcome),
    Cancelled,
}

/// A tenure, or a place in a queue (then the token is 0).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelEntry {
    pub(super) name: LockName,
    pub(super) session: u64,
    pub(super) mode: Mode,
    pub(super) acquire: u64,
    pub(super) token: u64,
    /// The op that joined the queue, where it did so with a set.
    pub(super) set: Option<u64>,
}

/// A tenure that was ended by force and is not confirmed.
#[derive(Clone, Debug)]
pub(super) struct ModelForced {
    pub(super) tenure: ModelEntry,
    pub(super) until_us: u64,
    pub(super) withheld: bool,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) op: u64,
    pub(super) now_us: u64,
    pub(super) sessions: Vec<ModelSession>,
    pub(super) held: Vec<ModelEntry>,
    pub(super) queue: Vec<ModelEntry>,
    pub(super) forced: Vec<ModelForced>,
    /// By the current op.
    pub(super) granted: Vec<ModelEntry>,
    /// The locks whose queues the current op has gone through.
    pub(super) touched: BTreeSet<LockName>,
}

impl Model {
    pub(super) fn alive(&self, id: u64) -> bool {
        self.sessions.iter().any(|session| session.id == id && !session.dead)
    }

    pub(super) fn session(&mut self, id: u64) -> &mut ModelSession {
        self.sessions.iter_mut().find(|session| session.id == id).expect("known")
    }

    pub(super) fn waits_in_the_way(&self, name: &LockName, mode: Mode) -> bool {
        self.queue.iter().any(|other| other.name == *name && !other.mode.is_compatible_with(mode))
    }

    pub(super) fn step(&mut self, op: &Op) -> Reply {
        self.op += 1;
        self.granted.clear();
        self.touched.clear();
        let reply = self.dispatch(op);
        self.assign();
        reply
    }

    fn dispatch(&mut self, op: &Op) -> Reply {
        match op {
            Op::Open(open) => self.open(open, &SessionOptions::default()),
            Op::OpenWith(with) => self.open(&with.open, &with.options),
            Op::Request { session, floor, request } => Reply::Outcome(self.request(session.0, floor.0, request)),
            Op::Tick { elapsed_us, keep_alives } => self.tick(*elapsed_us, keep_alives),
            Op::Sweep => {
                self.sweep();
                Reply::Swept { more: false }
            }
            Op::Close { session } => {
                let holds = self.held.iter().any(|held| held.session == session.0);
                let group = self.sessions.iter().find(|other| other.id == session.0 && !other.dead);
                let group = group.and_then(|session| session.group.as_ref());
                if holds && group.is_some_and(|group| group.required) {
                    let why = "a session whose death requires a recovery ends by saying that its locks were flushed";
                    return Reply::Refused(why.into());
                }
                self.end(session.0, SessionEnd::Flushed)
            }
            Op::End { session, end } => self.end(session.0, *end),
            Op::Recovery(report) => self.report(report),
            Op::ForceKept { name, token } => self.force_kept(name, *token),
            Op::ForceRelease(force) => self.force(force),
            Op::Read(_) => unreachable!("not generated"),
        }
    }

    fn end(&mut self, id: u64, end: SessionEnd) -> Reply {
        if self.alive(id) {
            self.die(id, Some(end));
            self.clean(id);
        }
        Reply::Closed
    }

    fn open(&mut self, open: &Open, options: &SessionOptions) -> Reply {
        let lease_ms = open.lease_ms.clamp(500, 3_600_000);
        let known = self.sessions.iter().find(|session| session.nonce == open.nonce && !session.dead);
        if let Some(known) = known {
            return Reply::Opened(Opened { session: SessionId(known.id), lease_ms: known.lease_us / 1000 });
        }
        let count = self.sessions.len() as u64;
        let is_awaited = options.recovery.as_ref().is_some_and(|group| self.is_awaited(&group.name));
        if count >= LIMITS.sessions && (count >= 2 * LIMITS.sessions || !is_awaited) {
            return Reply::Busy(format!("at most {} sessions", LIMITS.sessions));
        }
        let lease_us = lease_ms * 1000;
        let deadline_us = self.now_us + lease_us + cap_us(lease_us);
        let (id, nonce) = (self.op, open.nonce);
        let (delay_us, group) = (options.lock_delay_ms * 1000, options.recovery.clone());
        let (dead, floor, done, kept) = (false, 1, vec![], None);
        self.sessions.push(ModelSession { id, nonce, lease_us, deadline_us, dead, floor, done, delay_us, group, kept });
        Reply::Opened(Opened { session: SessionId(id), lease_ms })
    }

    fn tick(&mut self, elapsed_us: u64, keep_alives: &[(SessionId, RequestNumber)]) -> Reply {
        let shortest = self.sessions.iter().map(|session| session.lease_us).min().unwrap_or(3_600_000_000);
        self.now_us += elapsed_us.min(cap_us(shortest));
        let due = |session: &&ModelSession| !session.dead && session.deadline_us <= self.now_us;
        let due: Vec<u64> = self.sessions.iter().filter(due).map(|session| session.id).collect();
        let expired = due.len() as u64;
        due.into_iter().for_each(|id| self.die(id, None));
        let mut gone = Vec::new();
        let mut forced = BTreeSet::new();
        for (id, floor) in keep_alives {
            if self.alive(id.0) {
                let now_us = self.now_us;
                let session = self.session(id.0);
                session.deadline_us = session.deadline_us.max(now_us + session.lease_us);
                session.floor = session.floor.max(floor.0);
                forced.extend(self.forced.iter().filter(|forced| forced.tenure.session == id.0).map(|_| *id));
            } else {
                gone.push(*id);
            }
        }
        match forced.is_empty() {
            true => Reply::Ticked { gone, expired },
            false => Reply::TickedForced { gone, expired, forced: forced.into_iter().collect() },
        }
    }

    fn force(&mut self, force: &ForceRelease) -> Reply {
        if self.kept_tenure(&force.name, force.token).is_some() {
            return Reply::Refused("a dead session keeps it, for its recovery or its lock delay".into());
        }
        let is_meant =
            |held: &&ModelEntry| held.name == force.name && held.token == force.token.0 && self.alive(held.session);
        let mut tenures: Vec<ModelEntry> = self.held.iter().filter(is_meant).cloned().collect();
        tenures.sort_by_key(|tenure| tenure.session);
        for tenure in &tenures {
            if self.forced(tenure.session, &tenure.name).is_none() {
                let lease_us = self.session(tenure.session).lease_us;
                let until_us = self.now_us + lease_us + cap_us(lease_us);
                self.forced.push(ModelForced { tenure: tenure.clone(), until_us, withheld: true });
            }
        }
        let mut ended = Vec::new();
        for tenure in tenures {
            if force.now {
                self.end_withholding(tenure.session, &tenure.name);
            }
            let forced = self.forced(tenure.session, &tenure.name).expect("forced above");
            let withheld_ms = forced.withheld.then(|| forced.until_us.saturating_sub(self.now_us) / 1000);
            ended.push(ForcedTenure { session: SessionId(tenure.session), withheld_ms });
        }
        Reply::Forced(ended)
    }

    pub(super) fn forced(&self, session: u64, name: &LockName) -> Option<ModelForced> {
        let is_it = |forced: &&ModelForced| forced.tenure.session == session && forced.tenure.name == *name;
        self.forced.iter().find(is_it).cloned()
    }

    fn end_withholding(&mut self, session: u64, name: &LockName) {
        let is_it = |forced: &&mut ModelForced| forced.tenure.session == session && forced.tenure.name == *name;
        if let Some(forced) = self.forced.iter_mut().find(is_it).filter(|forced| forced.withheld) {
            forced.withheld = false;
            self.drop_held(session, name);
        }
    }

    pub(super) fn confirm(&mut self, session: u64, name: &LockName) {
        self.forced.retain(|forced| forced.tenure.session != session || forced.tenure.name != *name);
    }

    fn sweep(&mut self) {
        let due = |forced: &&ModelForced| forced.withheld && forced.until_us <= self.now_us;
        let mut due: Vec<ModelForced> = self.forced.iter().filter(due).cloned().collect();
        due.sort_by_key(|forced| (forced.until_us, forced.tenure.session, forced.tenure.name.clone()));
        due.iter().for_each(|forced| self.end_withholding(forced.tenure.session, &forced.tenure.name));
        self.end_due_delays();
        let dead: Vec<u64> = self.sessions.iter().filter(|session| session.dead).map(|session| session.id).collect();
        dead.into_iter().for_each(|id| self.clean(id));
    }

    pub(super) fn clean(&mut self, id: u64) {
        let names = |entries: &[ModelEntry]| -> BTreeSet<LockName> {
            entries.iter().filter(|entry| entry.session == id).map(|entry| entry.name.clone()).collect()
        };
        for name in names(&self.queue) {
            self.drop_waiting(id, &name);
        }
        let keeps = self.session(id).kept.is_some();
        for name in names(&self.held) {
            let is_it = |held: &&ModelEntry| held.session == id && held.name == name;
            let mode = self.held.iter().find(is_it).expect("it is held").mode;
            if !keeps || mode == Mode::Shared {
                self.drop_held(id, &name);
            }
        }
        if !self.held.iter().any(|held| held.session == id) {
            return self.sessions.retain(|session| session.id != id);
        }
        self.session(id).kept.as_mut().expect("it keeps locks").is_swept = true;
    }

    fn request(&mut self, id: u64, floor: u64, request: &Request) -> Outcome {
        if !self.alive(id) {
            return Outcome::SessionGone;
        }
        let number = request.number.0;
        let session = self.session(id);
        session.floor = session.floor.max(floor);
        if number < session.floor {
            let place = match request.command {
                Command::Acquire { .. } | Command::AcquireAll { .. } => self.ask_the_lock(id, false, request),
                _ => Outcome::Gone,
            };
            return if place == Outcome::Gone { Outcome::BelowFloor } else { place };
        }
        if number - session.floor >= LIMITS.request_window {
            return limit("request numbers above the session's floor", LIMITS.request_window);
        }
        let done = session.done.iter().find(|(done, _)| *done == number).map(|(_, done)| done.clone());
        let mut command = request.command.clone();
        match (done, &mut command) {
            (Some(ModelDone::Outcome(outcome)), _) => return outcome,
            (Some(ModelDone::AskTheLock { release }), command) => {
                let asks = matches!(command, Command::Acquire { .. });
                return self.ask_the_lock(id, release && !asks, request);
            }
            (Some(ModelDone::Cancelled), Command::Acquire { .. } | Command::AcquireAll { .. }) => return Outcome::Gone,
            (Some(ModelDone::Cancelled), Command::Upgrade { .. }) => return Outcome::NotUpgraded,
            (Some(ModelDone::Cancelled), Command::Release { requeue, .. }) => *requeue = None,
            _ => {}
        }
        let outcome = self.execute(id, number, &command);
        let done = match &outcome {
            Outcome::Granted { .. } | Outcome::Queued => ModelDone::AskTheLock { release: false },
            Outcome::Released { requeued: Some(_) } => ModelDone::AskTheLock { release: true },
            other => ModelDone::Outcome(other.clone()),
        };
        let session = self.session(id);
        session.done.retain(|(done, _)| *done != number);
        session.done.push((number, done));
        outcome
    }

    fn ask_the_lock(&self, id: u64, release: bool, request: &Request) -> Outcome {
        let places: Vec<_> = request.command.names().map(|name| self.place(id, name, request.number.0)).collect();
        let all_queued = places.iter().all(|place| *place == Some(Requeued::Queued));
        let granted: Vec<_> = places
            .iter()
            .filter_map(|place| match place {
                Some(Requeued::Granted { token, others_waiting }) => Some((*token, *others_waiting)),
                _ => None,
            })
            .collect();
        let place = match granted.first() {
            _ if all_queued => Some(Requeued::Queued),
            Some((token, _)) if granted.len() == places.len() => {
                let others_waiting = granted.iter().any(|(_, others_waiting)| *others_waiting);
                Some(Requeued::Granted { token: *token, others_waiting })
            }
            _ => None,
        };
        match release {
            true => Outcome::Released { requeued: place },
            false => place.map_or(Outcome::Gone, Outcome::from),
        }
    }

    fn place(&self, id: u64, name: &LockName, number: u64) -> Option<Requeued> {
        let is_it = |entry: &&ModelEntry| entry.session == id && entry.name == *name && entry.acquire == number;
        let is_valid = |held: &&ModelEntry| self.forced(id, &held.name).is_none();
        if let Some(held) = self.held.iter().find(is_it).filter(is_valid) {
            let (token, others_waiting) = (FencingToken(held.token), self.waits_in_the_way(&held.name, held.mode));
            return Some(Requeued::Granted { token, others_waiting });
        }
        self.queue.iter().any(|entry| is_it(&entry)).then_some(Requeued::Queued)
    }

    fn execute(&mut self, id: u64, number: u64, command: &Command) -> Outcome {
        let name = command.name().clone();
        let held = self.held.iter().find(|held| held.session == id && held.name == name).cloned();
        let waits = self.queue.iter().find(|waiter| waiter.session == id && waiter.name == name).cloned();
        match command {
            Command::Acquire { mode, .. } => {
                let forced = self.forced(id, &name).map(|forced| forced.tenure);
                if let Some(held) = forced.or(held) {
                    return Outcome::AlreadyHeld { token: FencingToken(held.token), mode: held.mode };
                }
                if waits.is_some() {
                    return limit("acquires of a session in one lock's queue", 1);
                }
                self.acquire(id, number, &name, *mode)
            }
            Command::Cancel { acquire, .. } => {
                if self.forced(id, &name).is_some_and(|forced| forced.tenure.acquire == acquire.0) {
                    self.confirm(id, &name);
                }
                if waits.is_some_and(|waiter| waiter.acquire == acquire.0) {
                    self.drop_waiting(id, &name);
                }
                if held.is_some_and(|held| held.acquire == acquire.0) {
                    self.drop_held(id, &name);
                }
                let session = self.session(id);
                let in_window = acquire.0 >= session.floor && acquire.0 < session.floor + LIMITS.request_window;
                if in_window && session.done.iter().all(|(done, _)| *done != acquire.0) {
                    session.done.push((acquire.0, ModelDone::Cancelled));
                }
                Outcome::Cancelled
            }
            Command::Release { token, requeue, .. } => {
                if let Some(forced) = self.forced(id, &name).filter(|forced| forced.tenure.token == token.0) {
                    self.confirm(id, &name);
                    if !forced.withheld {
                        let again = requeue.map(|mode| self.acquire(id, number, &name, mode));
                        return Outcome::Released { requeued: again.and_then(requeued) };
                    }
                }
                if held.is_none_or(|held| held.token != token.0) {
                    return Outcome::NotHeld;
                }
                self.drop_held(id, &name);
                let has_room = self.waiting(id) < LIMITS.waiters_per_session;
                let again = requeue.filter(|_| has_room).map(|mode| self.acquire(id, number, &name, mode));
                Outcome::Released { requeued: again.and_then(requeued) }
            }
            Command::AcquireAll { set } => self.acquire_all(id, number, set),
            Command::Upgrade { .. } if self.forced(id, &name).is_some() => Outcome::NotHeld,
            Command::Upgrade { token, .. } => self.upgrade(held.as_ref(), token.0, number),
            Command::Downgrade { token, .. } => {
                match held {
                    _ if self.forced(id, &name).is_some() => return Outcome::NotHeld,
                    Some(held) if held.token == token.0 && held.mode == Mode::Shared => return Outcome::Downgraded,
                    Some(held) if held.token == token.0 => {}
                    _ => return Outcome::NotHeld,
                }
                for held in self.held.iter_mut().filter(|held| held.session == id && held.name == name) {
                    held.mode = Mode::Shared;
                }
                self.pass_on(&name);
                Outcome::Downgraded
            }
        }
    }

    fn upgrade(&mut self, held: Option<&ModelEntry>, token: u64, number: u64) -> Outcome {
        let Some(held) = held.filter(|held| held.token == token) else { return Outcome::NotHeld };
        if held.mode == Mode::Exclusive {
            return Outcome::Upgraded { token: FencingToken(token) };
        }
        let is_other = |other: &ModelEntry| other.name == held.name && other.session != held.session;
        if self.held.iter().chain(&self.queue).any(is_other) {
            return Outcome::NotUpgraded;
        }
        self.held.retain(|other| other.session != held.session || other.name != held.name);
        self.held.push(ModelEntry {
            mode: Mode::Exclusive,
            acquire: number,
            token: self.op,
            set: None,
            ..held.clone()
        });
        Outcome::Upgraded { token: FencingToken(self.op) }
    }

    fn waiting(&self, id: u64) -> u64 {
        self.queue.iter().filter(|waiter| waiter.session == id).count() as u64
    }

    fn acquire(&mut self, id: u64, number: u64, name: &LockName, mode: Mode) -> Outcome {
        let waiting = self.waiting(id);
        let holding = self.held.iter().filter(|held| held.session == id).count() as u64;
        if holding + waiting >= LIMITS.locks_per_session {
            return limit("locks of a session", LIMITS.locks_per_session);
        }
        let in_the_way = self.queue.iter().any(|other| other.name == *name)
            || self.held.iter().any(|held| held.name == *name && !held.mode.is_compatible_with(mode));
        if in_the_way && waiting >= LIMITS.waiters_per_session {
            return limit("queues in which a session waits", LIMITS.waiters_per_session);
        }
        self.queue.push(ModelEntry { name: name.clone(), session: id, mode, acquire: number, token: 0, set: None });
        self.pass_on(name);
        let own = self.granted.iter().position(|granted| granted.session == id && granted.name == *name);
        match own {
            Some(own) => {
                self.granted.remove(own);
                let others_waiting = self.waits_in_the_way(name, mode);
                Outcome::Granted { token: FencingToken(self.op), others_waiting }
            }
            None => Outcome::Queued,
        }
    }

    pub(super) fn revokes(&self) -> Vec<Revoke> {
        let mut revokes = Vec::new();
        for held in self.held.iter().filter(|held| self.alive(held.session)) {
            let waiters = || self.queue.iter().filter(|waiter| waiter.name == held.name);
            let target = match () {
                () if waiters().any(|waiter| waiter.mode == Mode::Exclusive) => None,
                () if waiters().count() > 0 && held.mode == Mode::Exclusive => Some(Mode::Shared),
                () => continue,
            };
            let (session, token) = (SessionId(held.session), FencingToken(held.token));
            revokes.push(Revoke { session, name: held.name.clone(), token, target });
        }
        revokes.sort_by_key(|revoke| (revoke.session, revoke.name.clone()));
        revokes
    }
}

/// None where there was no room for it.
fn requeued(outcome: Outcome) -> Option<Requeued> {
    match outcome {
        Outcome::Queued => Some(Requeued::Queued),
        Outcome::Granted { token, others_waiting } => Some(Requeued::Granted { token, others_waiting }),
        Outcome::LimitReached { .. } => None,
        other => panic!("{other:?}"),
    }
}

pub(super) fn cap_us(lease_us: u64) -> u64 {
    2 * (lease_us / 20).clamp(50_000, 1_000_000)
}

pub(super) fn limit(what: &str, limit: u64) -> Outcome {
    Outcome::LimitReached { limit: format!("{what}: at most {limit}") }
}
