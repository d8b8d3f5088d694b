//! The machine against a model without any cleverness, over long random runs: lists that are searched from the front.

use std::collections::{BTreeMap, BTreeSet};

use lock_protocol::{
    Answer, ClientIdentity, Command, FencingToken, ForceRelease, ForcedTenure, LockEntry, LockName, Mode, Notice, Open,
    Opened, Outcome, Query, Request, RequestNumber, Requeued, SessionId,
};
use rsm::StateMachine;

use super::{Effect, Limits, Machine, Op, Reply, Revoke};

const LIMITS: Limits = Limits { sessions: 6, locks_per_session: 4, waiters_per_session: 2, request_window: 12 };
const RUNS: u64 = 60;
const OPS_PER_RUN: u64 = 1_500;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a seed is all that is needed to repeat a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn mode(&mut self) -> Mode {
        if self.one_in(2) { Mode::Shared } else { Mode::Exclusive }
    }
}

#[derive(Clone)]
struct ModelSession {
    id: u64,
    nonce: u128,
    lease_us: u64,
    deadline_us: u64,
    dead: bool,
    floor: u64,
    /// Number, and its outcome; none where the lock decides, or where it was cancelled ahead.
    done: Vec<(u64, ModelDone)>,
}

#[derive(Clone)]
enum ModelDone {
    AskTheLock { release: bool },
    Outcome(Outcome),
    Cancelled,
}

/// A tenure, or a place in a queue (then the token is 0).
#[derive(Clone, Debug, PartialEq)]
struct ModelEntry {
    name: LockName,
    session: u64,
    mode: Mode,
    acquire: u64,
    token: u64,
}

/// A tenure that was ended by force and is not confirmed.
#[derive(Clone, Debug)]
struct ModelForced {
    tenure: ModelEntry,
    until_us: u64,
    withheld: bool,
}

#[derive(Default)]
struct Model {
    op: u64,
    now_us: u64,
    sessions: Vec<ModelSession>,
    held: Vec<ModelEntry>,
    queue: Vec<ModelEntry>,
    forced: Vec<ModelForced>,
    /// By the current op.
    granted: Vec<ModelEntry>,
}

impl Model {
    fn alive(&self, id: u64) -> bool {
        self.sessions.iter().any(|session| session.id == id && !session.dead)
    }

    fn session(&mut self, id: u64) -> &mut ModelSession {
        self.sessions.iter_mut().find(|session| session.id == id).expect("known")
    }

    fn waits_in_the_way(&self, name: &LockName, mode: Mode) -> bool {
        self.queue.iter().any(|other| other.name == *name && !other.mode.is_compatible_with(mode))
    }

    fn pass_on(&mut self, name: &LockName) {
        while let Some(at) = self.queue.iter().position(|waiter| waiter.name == *name) {
            let mut head = self.queue[at].clone();
            let fits = self.held.iter().all(|held| held.name != *name || held.mode.is_compatible_with(head.mode));
            if self.alive(head.session) && !fits {
                return;
            }
            self.queue.remove(at);
            if self.alive(head.session) {
                head.token = self.op;
                self.granted.push(head.clone());
                self.held.push(head);
            }
        }
    }

    fn drop_held(&mut self, session: u64, name: &LockName) {
        self.held.retain(|held| held.session != session || held.name != *name);
        self.pass_on(name);
    }

    fn drop_waiting(&mut self, session: u64, name: &LockName) {
        self.queue.retain(|waiter| waiter.session != session || waiter.name != *name);
        self.pass_on(name);
    }

    fn step(&mut self, op: &Op) -> Reply {
        self.op += 1;
        self.granted.clear();
        match op {
            Op::Open(open) => self.open(open),
            Op::Request { session, floor, request } => Reply::Outcome(self.request(session.0, floor.0, request)),
            Op::Tick { elapsed_us, keep_alives } => self.tick(*elapsed_us, keep_alives),
            Op::Sweep => {
                self.sweep();
                Reply::Swept { more: false }
            }
            Op::Close { session } => {
                let before: Vec<u64> = self.sessions.iter().filter(|s| s.dead).map(|s| s.id).collect();
                if self.alive(session.0) {
                    self.die(session.0);
                    self.clean(session.0);
                    assert_eq!(before.len(), self.sessions.iter().filter(|s| s.dead).count());
                }
                Reply::Closed
            }
            Op::ForceRelease(force) => self.force(force),
            Op::Read(_) => unreachable!("not generated"),
        }
    }

    fn open(&mut self, open: &Open) -> Reply {
        let lease_ms = open.lease_ms.clamp(500, 3_600_000);
        let known = self.sessions.iter().find(|session| session.nonce == open.nonce && !session.dead);
        if let Some(known) = known {
            return Reply::Opened(Opened { session: SessionId(known.id), lease_ms: known.lease_us / 1000 });
        }
        if self.sessions.len() as u64 == LIMITS.sessions {
            return Reply::Busy(format!("at most {} sessions", LIMITS.sessions));
        }
        let lease_us = lease_ms * 1000;
        let deadline_us = self.now_us + lease_us + cap_us(lease_us);
        let (id, nonce) = (self.op, open.nonce);
        self.sessions.push(ModelSession { id, nonce, lease_us, deadline_us, dead: false, floor: 1, done: vec![] });
        Reply::Opened(Opened { session: SessionId(id), lease_ms })
    }

    fn tick(&mut self, elapsed_us: u64, keep_alives: &[(SessionId, RequestNumber)]) -> Reply {
        let shortest = self.sessions.iter().map(|session| session.lease_us).min().unwrap_or(3_600_000_000);
        self.now_us += elapsed_us.min(cap_us(shortest));
        let due = |session: &&ModelSession| !session.dead && session.deadline_us <= self.now_us;
        let due: Vec<u64> = self.sessions.iter().filter(due).map(|session| session.id).collect();
        let expired = due.len() as u64;
        due.into_iter().for_each(|id| self.die(id));
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

    fn die(&mut self, id: u64) {
        self.session(id).dead = true;
        self.forced.retain(|forced| forced.tenure.session != id);
    }

    fn force(&mut self, force: &ForceRelease) -> Reply {
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

    fn forced(&self, session: u64, name: &LockName) -> Option<ModelForced> {
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

    fn confirm(&mut self, session: u64, name: &LockName) {
        self.forced.retain(|forced| forced.tenure.session != session || forced.tenure.name != *name);
    }

    fn sweep(&mut self) {
        let due = |forced: &&ModelForced| forced.withheld && forced.until_us <= self.now_us;
        let mut due: Vec<ModelForced> = self.forced.iter().filter(due).cloned().collect();
        due.sort_by_key(|forced| (forced.until_us, forced.tenure.session, forced.tenure.name.clone()));
        due.iter().for_each(|forced| self.end_withholding(forced.tenure.session, &forced.tenure.name));
        while let Some(id) = self.sessions.iter().find(|session| session.dead).map(|session| session.id) {
            self.clean(id);
        }
    }

    fn clean(&mut self, id: u64) {
        let names = |entries: &[ModelEntry]| -> BTreeSet<LockName> {
            entries.iter().filter(|entry| entry.session == id).map(|entry| entry.name.clone()).collect()
        };
        for name in names(&self.queue) {
            self.drop_waiting(id, &name);
        }
        for name in names(&self.held) {
            self.drop_held(id, &name);
        }
        self.sessions.retain(|session| session.id != id);
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
                Command::Acquire { .. } => self.ask_the_lock(id, false, request),
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
            (Some(ModelDone::Cancelled), Command::Acquire { .. }) => return Outcome::Gone,
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
        let is_it = |entry: &&ModelEntry| {
            entry.session == id && entry.name == *request.command.name() && entry.acquire == request.number.0
        };
        let is_valid = |held: &&ModelEntry| self.forced(id, &held.name).is_none();
        if let Some(held) = self.held.iter().find(is_it).filter(is_valid) {
            let (token, others_waiting) = (FencingToken(held.token), self.waits_in_the_way(&held.name, held.mode));
            return match release {
                true => Outcome::Released { requeued: Some(Requeued::Granted { token, others_waiting }) },
                false => Outcome::Granted { token, others_waiting },
            };
        }
        match (self.queue.iter().any(|entry| is_it(&entry)), release) {
            (true, true) => Outcome::Released { requeued: Some(Requeued::Queued) },
            (true, false) => Outcome::Queued,
            (false, true) => Outcome::Released { requeued: None },
            (false, false) => Outcome::Gone,
        }
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
        self.queue.push(ModelEntry { name: name.clone(), session: id, mode, acquire: number, token: 0 });
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

    fn revokes(&self) -> Vec<Revoke> {
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

fn cap_us(lease_us: u64) -> u64 {
    2 * (lease_us / 20).clamp(50_000, 1_000_000)
}

fn limit(what: &str, limit: u64) -> Outcome {
    Outcome::LimitReached { limit: format!("{what}: at most {limit}") }
}

/// The primary, a backup, the model, and what they have been through.
struct Run {
    random: Random,
    primary: Machine,
    backup: Machine,
    model: Model,
    nonces: u128,
    numbers: BTreeMap<u64, u64>,
    sent: Vec<Op>,
    cancelled: BTreeSet<(u64, u64, LockName)>,
    asked: BTreeMap<(SessionId, LockName), Revoke>,
    before: Vec<LockEntry>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut primary = Machine::new(LIMITS);
        primary.set_serving(true);
        Run {
            random: Random(seed),
            primary,
            backup: Machine::new(LIMITS),
            model: Model::default(),
            nonces: 0,
            numbers: BTreeMap::new(),
            sent: Vec::new(),
            cancelled: BTreeSet::new(),
            asked: BTreeMap::new(),
            before: Vec::new(),
        }
    }

    fn any_session(&mut self) -> u64 {
        if self.model.sessions.is_empty() || self.random.one_in(40) {
            return self.random.below(self.model.op + 2);
        }
        let at = self.random.below(self.model.sessions.len() as u64) as usize;
        self.model.sessions[at].id
    }

    fn any_op(&mut self) -> Op {
        match self.random.below(100) {
            0..4 => {
                let nonce = if self.random.one_in(3) { self.nonces } else { self.nonces + 1 };
                self.nonces = nonce;
                let lease_ms = [0, 500, 700, 1_500, 30_000][self.random.below(5) as usize];
                Op::Open(Open { nonce, lease_ms, identity: ClientIdentity::default() })
            }
            4..14 => {
                let elapsed_us = self.random.below(150_000);
                let mut keep_alives = Vec::new();
                for _ in 0..self.random.below(5) {
                    let session = self.any_session();
                    let floor = self.any_floor(session);
                    keep_alives.push((SessionId(session), RequestNumber(floor)));
                }
                Op::Tick { elapsed_us, keep_alives }
            }
            14..18 => Op::Sweep,
            18 => Op::Close { session: SessionId(self.any_session()) },
            19..21 if !self.model.held.is_empty() => {
                let held = &self.model.held[self.random.below(self.model.held.len() as u64) as usize];
                let (name, token) = (held.name.clone(), FencingToken(held.token));
                Op::ForceRelease(ForceRelease { name, token, now: self.random.one_in(3) })
            }
            19..30 if !self.sent.is_empty() => {
                let recent = self.sent.len().saturating_sub(30) as u64;
                let at = recent + self.random.below(self.sent.len() as u64 - recent);
                self.sent[at as usize].clone()
            }
            _ => self.any_request(),
        }
    }

    fn any_floor(&mut self, session: u64) -> u64 {
        let next = self.numbers.get(&session).copied().unwrap_or(1);
        next.saturating_sub(self.random.below(LIMITS.request_window + 2)).max(1)
    }

    fn any_request(&mut self) -> Op {
        let session = self.any_session();
        let floor = self.any_floor(session);
        let next = self.numbers.entry(session).or_insert(1);
        let mut number = *next;
        *next += 1;
        if self.random.one_in(30) {
            number = (number + self.random.below(30)).saturating_sub(15);
        }
        let mut name = LockName::new(format!("{}", self.random.below(5))).expect("a name");
        let mut token = self.random.below(self.model.op + 1);
        let held: Vec<&ModelEntry> = self.model.held.iter().filter(|held| held.session == session).collect();
        if !held.is_empty() && !self.random.one_in(10) {
            let held = held[self.random.below(held.len() as u64) as usize];
            (name, token) = (held.name.clone(), held.token);
        }
        let token = FencingToken(token);
        let command = match self.random.below(10) {
            0..5 => {
                let name = LockName::new(format!("{}", self.random.below(5))).expect("a name");
                Command::Acquire { name, mode: self.random.mode() }
            }
            5..8 => {
                let requeue = if self.random.one_in(2) { Some(self.random.mode()) } else { None };
                Command::Release { name, token, requeue }
            }
            8 => Command::Downgrade { name, token },
            _ => self.any_cancel(session, number),
        };
        let request = Request { number: RequestNumber(number), command };
        let op = Op::Request { session: SessionId(session), floor: RequestNumber(floor), request };
        self.sent.push(op.clone());
        op
    }

    /// Of something waiting or held, or of a number near the present one.
    fn any_cancel(&mut self, session: u64, number: u64) -> Command {
        let entries: Vec<&ModelEntry> =
            self.model.queue.iter().chain(&self.model.held).filter(|entry| entry.session == session).collect();
        if entries.is_empty() || self.random.one_in(5) {
            let name = LockName::new(format!("{}", self.random.below(5))).expect("a name");
            let acquire = RequestNumber((number + self.random.below(6)).saturating_sub(3));
            return Command::Cancel { name, acquire };
        }
        let entry = entries[self.random.below(entries.len() as u64) as usize];
        Command::Cancel { name: entry.name.clone(), acquire: RequestNumber(entry.acquire) }
    }

    fn step(&mut self) {
        let op = self.any_op();
        let repeated = self.is_executed(&op);
        let bytes = op.encode();
        assert_eq!(Op::decode(&bytes).as_ref(), Ok(&op));
        let number = self.model.op + 1;
        let expected = self.model.step(&op);
        let reply = self.primary.apply(number, &bytes);
        assert_eq!(Reply::decode(&reply), Ok(expected.clone()), "op {number}: {op:?}");
        assert_eq!(self.backup.apply(number, &bytes), reply);
        assert_eq!(self.backup.hash(), self.primary.hash());
        let now = self.locks();
        if repeated {
            assert_eq!(people(&now), people(&self.before), "op {number} was executed twice: {op:?}");
        }
        if let (Op::Request { session, request, .. }, Reply::Outcome(Outcome::Cancelled)) = (&op, &expected)
            && let Command::Cancel { acquire, .. } = &request.command
            && self.model.session(session.0).done.iter().any(|(number, _)| *number == acquire.0)
            && !repeated
        {
            self.cancelled.insert((session.0, acquire.0, request.command.name().clone()));
        }
        self.check_locks(&now, number);
        self.check_effects();
        self.before = now;
    }

    /// Whether this very request was executed before, so that this is a repetition.
    fn is_executed(&self, op: &Op) -> bool {
        let Op::Request { session, request, .. } = op else { return false };
        let session = self.model.sessions.iter().find(|other| other.id == session.0);
        session.is_some_and(|session| {
            let done = session.done.iter().find(|(number, _)| *number == request.number.0);
            done.is_some_and(|(_, done)| !matches!(done, ModelDone::Cancelled))
        })
    }

    fn locks(&self) -> Vec<LockEntry> {
        match self.primary.on_read(&Query::Locks { prefix: String::new(), after: None, limit: 1000 }) {
            Answer::Locks { entries, more: false } => entries,
            other => panic!("{other:?}"),
        }
    }

    fn check_locks(&self, now: &[LockEntry], op: u64) {
        let names: BTreeSet<&LockName> = self.model.held.iter().map(|held| &held.name).collect();
        assert_eq!(now.iter().map(|entry| &entry.name).collect::<BTreeSet<_>>(), names, "a free lock is no entry");
        assert_eq!(self.primary.lock_count(), names.len());
        for entry in now {
            let exclusive = entry.holders.iter().any(|holder| holder.mode == Mode::Exclusive);
            assert!(entry.holders.len() == 1 || !exclusive && !entry.holders.is_empty(), "{entry:?}");
            let queue: Vec<_> = self.model.queue.iter().filter(|waiter| waiter.name == entry.name).collect();
            assert!(queue.iter().map(|waiter| waiter.session).eq(entry.waiters.iter().map(|w| w.session.0)), "FIFO");
            let people: Vec<u64> = entry.waiters.iter().map(|w| w.session.0).collect();
            let all: BTreeSet<u64> = people.iter().copied().chain(entry.holders.iter().map(|h| h.session.0)).collect();
            assert_eq!(all.len(), people.len() + entry.holders.len(), "a session is there twice: {entry:?}");
            let before = self.before.iter().find(|before| before.name == entry.name);
            let before = before.map_or(&[][..], |before| &before.holders);
            for holder in &entry.holders {
                let old = before.iter().any(|old| old.session == holder.session && old.token == holder.token);
                assert!(old || holder.token.0 == op, "a new tenure bears its op's number: {entry:?}");
                assert!(old || self.model.alive(holder.session.0), "granted to a dead session: {entry:?}");
            }
        }
        for held in self.model.held.iter().filter(|held| held.token == op) {
            let is_cancelled = self.cancelled.contains(&(held.session, held.acquire, held.name.clone()));
            assert!(!is_cancelled, "a cancelled acquire was granted: {held:?}");
        }
    }

    fn check_effects(&mut self) {
        for session in self.model.sessions.iter().filter(|session| !session.dead) {
            let (notices, _) = self.primary.revokes_of(SessionId(session.id), 1000);
            let told = notices.iter().filter_map(|notice| match notice {
                Notice::Forced { name, token } => Some((name, token.0)),
                _ => None,
            });
            let forced = self.model.forced.iter().map(|forced| &forced.tenure);
            let forced = forced.filter(|tenure| tenure.session == session.id);
            let mut forced: Vec<_> = forced.map(|tenure| (&tenure.name, tenure.token)).collect();
            forced.sort();
            assert_eq!(told.collect::<Vec<_>>(), forced, "what is told is what is not confirmed");
        }
        let mut granted = Vec::new();
        for effect in self.primary.take_effects() {
            match effect {
                Effect::Granted { session, name, acquire, token, others_waiting } => {
                    let held = self.model.held.iter().find(|held| held.session == session.0 && held.name == name);
                    let held = held.expect("granted, so held");
                    assert_eq!(others_waiting, self.model.waits_in_the_way(&name, held.mode));
                    let (acquire, token) = (acquire.0, token.0);
                    granted.push(ModelEntry { name, session: session.0, mode: held.mode, acquire, token });
                }
                Effect::Revoke { revoke, .. } => {
                    self.asked.insert((revoke.session, revoke.name.clone()), revoke);
                }
                Effect::Forced { session, name, token } => {
                    let forced = self.model.forced(session.0, &name).expect("it was forced");
                    assert_eq!(forced.tenure.token, token.0);
                }
                Effect::RevokeMoot { session, name, token } => {
                    let asked = self.asked.remove(&(session, name));
                    assert_eq!(asked.map(|revoke| revoke.token), Some(token));
                }
            }
        }
        assert_eq!(granted, self.model.granted);
        let model = &self.model;
        let asked: Vec<Revoke> = self.asked.values().filter(|revoke| model.alive(revoke.session.0)).cloned().collect();
        assert_eq!(asked, model.revokes(), "the effects add up to the revokes that the state implies");
        assert_eq!(self.primary.outstanding_revokes(None, 1000), asked);
    }

    fn restart(&mut self) {
        let mut restored = Machine::default();
        restored.restore(&self.primary.snapshot()).expect("own snapshot");
        assert_eq!(restored.digest(), self.primary.digest());
        assert_eq!(self.backup.digest(), self.primary.digest());
        assert_eq!(restored.outstanding_revokes(None, 1000), self.primary.outstanding_revokes(None, 1000));
        restored.set_serving(true);
        self.primary = restored;
    }
}

/// Who holds and waits, without the time since.
fn people(entries: &[LockEntry]) -> Vec<LockEntry> {
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        entry.holders.iter_mut().for_each(|holder| holder.since_ms = 0);
        entry.waiters.iter_mut().for_each(|waiter| waiter.since_ms = 0);
    }
    entries
}

#[test]
fn over_random_ops_the_machine_does_what_the_plain_model_does() {
    for seed in 0..RUNS {
        let mut run = Run::new(seed);
        for _ in 0..OPS_PER_RUN {
            run.step();
            if run.random.one_in(60) {
                run.restart();
            }
        }
    }
}

#[test]
fn random_bytes_are_answered_and_change_no_state() {
    let mut run = Run::new(1);
    let mut random = Random(2);
    for _ in 0..200 {
        run.step();
    }
    let mut number = run.model.op;
    for _ in 0..50_000 {
        let mut bytes = run.any_op().encode();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        bytes.truncate(bytes.len() - random.below(3).min(bytes.len() as u64) as usize);
        number += 1;
        let reply = Reply::decode(&run.primary.apply(number, &bytes)).expect("a reply");
        assert_eq!(reply == Reply::Malformed, Op::decode(&bytes).is_err());
        let noise: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
        number += 1;
        run.primary.apply(number, &noise);
        assert!(Reply::decode(&noise).is_ok() || Reply::decode(&noise).is_err());
    }
}

#[test]
fn a_snapshot_with_changed_bytes_is_refused_or_is_a_sound_state() {
    let mut random = Random(3);
    let mut accepted = 0;
    for seed in 0..40 {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            run.step();
        }
        let snapshot = run.primary.snapshot();
        for _ in 0..300 {
            let mut bytes = snapshot.clone();
            bytes.truncate(bytes.len() - 8);
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            let mut damaged = bytes.clone();
            damaged.extend([0; 8]);
            assert!(Machine::default().restore(&damaged).is_err());
            let hash = super::running_hash::RunningHash::of(&bytes);
            bytes.extend(hash.to_le_bytes());
            let mut machine = Machine::default();
            if machine.restore(&bytes).is_ok() {
                accepted += 1;
                let mut again = Machine::default();
                assert_eq!(again.restore(&machine.snapshot()), Ok(()));
                assert_eq!(again.digest(), machine.digest());
                for number in 1..60 {
                    machine.apply(machine.applied() + number % 3, &run.any_op().encode());
                }
            }
        }
        for length in 0..snapshot.len() {
            assert!(Machine::default().restore(&snapshot[..length]).is_err());
        }
    }
    assert!(accepted > 100, "only {accepted} reached the machine");
}

#[test]
fn a_count_beyond_all_bytes_is_refused_without_allocating_for_it() {
    let tick = [&[1, 2, 0][..], &[0xff; 9], &[0x01]].concat();
    assert!(Op::decode(&tick).is_err());
    let empty = Machine::default().snapshot();
    let mut bytes = empty[..empty.len() - 8 - 2].to_vec();
    bytes.extend([[0xff; 9].as_slice(), &[0x01]].concat());
    let hash = super::running_hash::RunningHash::of(&bytes);
    bytes.extend(hash.to_le_bytes());
    assert!(Machine::default().restore(&bytes).is_err());
}
