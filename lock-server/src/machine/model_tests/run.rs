//! A run: random ops for a primary, a backup and the model, and what is compared after each.

use std::collections::{BTreeMap, BTreeSet};

use lock_protocol::{
    Answer, ClientIdentity, Command, FencingToken, ForceRelease, GroupName, KeptLocks, LockEntry, LockName, LockSet,
    Mode, Notice, Open, OpenWith, Outcome, Query, RecoveryGroup, RecoveryReport, RecoveryStep, RecoveryToken, Request,
    RequestNumber, SessionEnd, SessionId, SessionOptions,
};
use rsm::StateMachine;

use super::model::{Model, ModelDone, ModelEntry};
use super::{LIMITS, Random};
use crate::machine::{Effect, Machine, Op, Reply, Revoke};

/// The primary, a backup, the model, and what they have been through.
pub(super) struct Run {
    pub(super) random: Random,
    pub(super) primary: Machine,
    /// The op executed last.
    pub(super) last: Op,
    pub(super) backup: Machine,
    pub(super) model: Model,
    pub(super) nonces: u128,
    pub(super) numbers: BTreeMap<u64, u64>,
    pub(super) sent: Vec<Op>,
    pub(super) cancelled: BTreeSet<(u64, u64, LockName)>,
    pub(super) asked: BTreeMap<(SessionId, LockName), Revoke>,
    pub(super) before: Vec<LockEntry>,
    /// Leases are long and ticks as well, so that recoveries time out.
    is_slow: bool,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let mut primary = Machine::new(LIMITS);
        primary.set_serving(true);
        Run {
            random: Random(seed),
            primary,
            last: Op::Sweep,
            backup: Machine::new(LIMITS),
            model: Model::default(),
            nonces: 0,
            numbers: BTreeMap::new(),
            sent: Vec::new(),
            cancelled: BTreeSet::new(),
            asked: BTreeMap::new(),
            before: Vec::new(),
            is_slow: seed % 2 == 1,
        }
    }

    fn any_session(&mut self) -> u64 {
        if self.model.sessions.is_empty() || self.random.one_in(40) {
            return self.random.below(self.model.op + 2);
        }
        let at = self.random.below(self.model.sessions.len() as u64) as usize;
        self.model.sessions[at].id
    }

    pub(super) fn any_op(&mut self) -> Op {
        match self.random.below(100) {
            0..4 => {
                let nonce = if self.random.one_in(3) { self.nonces } else { self.nonces + 1 };
                self.nonces = nonce;
                let lease_ms = [0, 500, 700, 1_500, 30_000][self.random.below(5) as usize];
                let lease_ms = if self.is_slow { 20_000 + lease_ms } else { lease_ms };
                let open = Open { nonce, lease_ms, identity: ClientIdentity::default() };
                if self.random.one_in(4) { Op::Open(open) } else { self.with_options(open) }
            }
            4..14 => {
                let elapsed_us = self.random.below(if self.is_slow { 2_500_000 } else { 150_000 });
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
            19 if self.random.one_in(2) => {
                let end = if self.random.one_in(3) { SessionEnd::Flushed } else { SessionEnd::Abandoned };
                Op::End { session: SessionId(self.any_session()), end }
            }
            19..25 if self.random.one_in(2) && !self.model.kept().is_empty() => self.any_report(),
            19..21 if !self.model.held.is_empty() => {
                let held = &self.model.held[self.random.below(self.model.held.len() as u64) as usize];
                let (name, token) = (held.name.clone(), FencingToken(held.token));
                if self.random.one_in(4) {
                    return Op::ForceKept { name, token };
                }
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

    fn with_options(&mut self, open: Open) -> Op {
        let lock_delay_ms = [0, 0, 400, 5_000][self.random.below(4) as usize];
        let name = GroupName::new(["g", "h"][self.random.below(2) as usize]).expect("a name");
        let group = RecoveryGroup { name, required: !self.random.one_in(3) };
        let recovery = (!self.random.one_in(4)).then_some(group);
        Op::OpenWith(OpenWith { open, options: SessionOptions { lock_delay_ms, recovery } })
    }

    /// About a recovery that is under way, with a wrong right now and then.
    fn any_report(&mut self) -> Op {
        let kept = self.model.kept();
        let of = &kept[self.random.below(kept.len() as u64) as usize];
        let by = of.recovery.as_ref().and_then(|recovery| recovery.by.as_ref());
        let (mut session, mut token) = by.map_or((SessionId(1), 1), |by| (by.session, by.token.0));
        if self.random.one_in(8) {
            session = SessionId(self.any_session());
        }
        if self.random.one_in(8) {
            token = self.random.below(self.model.op + 1);
        }
        let step = match self.random.below(4) {
            0 | 1 => RecoveryStep::Progress,
            2 => RecoveryStep::Declined,
            _ => RecoveryStep::Recovered,
        };
        Op::Recovery(RecoveryReport { session, dead: of.session, token: RecoveryToken(token), step })
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
        let command = match self.random.below(12) {
            0..5 => {
                let name = LockName::new(format!("{}", self.random.below(5))).expect("a name");
                Command::Acquire { name, mode: self.random.mode() }
            }
            5..8 => {
                let requeue = if self.random.one_in(2) { Some(self.random.mode()) } else { None };
                Command::Release { name, token, requeue }
            }
            8 => Command::Downgrade { name, token },
            9 => Command::Upgrade { name, token },
            10 => {
                let mut lock =
                    || (LockName::new(format!("{}", self.random.below(5))).expect("a name"), self.random.mode());
                let locks = [lock(), lock(), lock()];
                let count = 1 + self.random.below(3) as usize;
                Command::AcquireAll { set: LockSet::new(locks.into_iter().take(count)).expect("few locks") }
            }
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

    pub(super) fn step(&mut self) {
        let op = self.any_op();
        self.last = op.clone();
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
        self.check_kept();
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
        let names: BTreeSet<&LockName> =
            self.model.held.iter().chain(&self.model.queue).map(|held| &held.name).collect();
        assert_eq!(now.iter().map(|entry| &entry.name).collect::<BTreeSet<_>>(), names, "a free lock is no entry");
        assert_eq!(self.primary.lock_count(), names.len());
        for entry in now {
            let exclusive = entry.holders.iter().any(|holder| holder.mode == Mode::Exclusive);
            assert!(entry.holders.len() == 1 || !exclusive, "{entry:?}");
            assert!(!entry.holders.is_empty() || !entry.waiters.is_empty(), "{entry:?}");
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

    fn check_kept(&self) {
        let kept = self.model.kept();
        let query = Query::Kept { after: None, limit: 1000 };
        assert_eq!(self.primary.on_read(&query), Answer::Kept { entries: kept.clone(), more: false });
        for session in self.model.sessions.iter().filter(|session| !session.dead) {
            let (notices, _) = self.primary.revokes_of(SessionId(session.id), 1000);
            let told = notices.iter().filter_map(|notice| match notice {
                Notice::Recover(dead) => Some((dead.session, dead.token)),
                _ => None,
            });
            let by = |kept: &KeptLocks| Some((kept.session, kept.recovery.as_ref()?.by.clone()?));
            let own = kept.iter().filter_map(by).filter(|(_, by)| by.session.0 == session.id);
            assert!(told.eq(own.map(|(dead, by)| (dead, by.token))), "each is told what is assigned to it");
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
                    // A set may come to wait behind what its session gives up for it in the same op.
                    let is_set = matches!(&self.last, Op::Request { request, .. } if matches!(request.command, Command::AcquireAll { .. }));
                    assert!(others_waiting == self.model.waits_in_the_way(&name, held.mode) || is_set);
                    let (acquire, token, set) = (acquire.0, token.0, held.set);
                    granted.push(ModelEntry { name, session: session.0, mode: held.mode, acquire, token, set });
                }
                Effect::Revoke { revoke, .. } => {
                    self.asked.insert((revoke.session, revoke.name.clone()), revoke);
                }
                Effect::Forced { session, name, token } => {
                    let forced = self.model.forced(session.0, &name).expect("it was forced");
                    assert_eq!(forced.tenure.token, token.0);
                }
                Effect::Recover { session, dead } => {
                    let recovery = self.primary.revokes_of(session, 1000).0;
                    assert!(recovery.contains(&Notice::Recover(dead)), "it is told again with each keep-alive");
                }
                Effect::RevokeMoot { session, name, token } => {
                    let asked = self.asked.remove(&(session, name));
                    assert_eq!(asked.map(|revoke| revoke.token), Some(token));
                }
            }
        }
        // Where several locks pass on in one op the order is no promise.
        let by_name = |entry: &ModelEntry| (entry.name.clone(), entry.session);
        granted.sort_by_key(by_name);
        self.model.granted.sort_by_key(by_name);
        assert_eq!(granted, self.model.granted);
        let model = &self.model;
        let asked: Vec<Revoke> = self.asked.values().filter(|revoke| model.alive(revoke.session.0)).cloned().collect();
        assert_eq!(asked, model.revokes(), "the effects add up to the revokes that the state implies");
        assert_eq!(self.primary.outstanding_revokes(None, 1000), asked);
    }

    pub(super) fn restart(&mut self) {
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
