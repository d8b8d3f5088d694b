//! What the checks of the lock service remember: they see each op once, when it is committed first, with the state after it.
//!
//! Why it is right: the state is that of a machine beside the cluster that executes what is committed and nothing else. The
//! checks keep their own small notes of it (who waits, who was granted what), so that a machine that is wrong on all
//! members alike is seen, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lock_protocol::{
    Command, FencingToken, LockName, LockSet, Mode, OpenWith, Outcome, RequestNumber, Requeued, SessionId,
};
use lock_server::machine::{Effect, Machine, Op, Reply};

use super::lock_kept::Kept;
use super::lock_leases::Leases;
use super::lock_recovery::HooksEnded;
use super::lock_tenures::Tenures;
use super::{Check, Invariants, Run, Violation};

/// An op that was committed, and what it did.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) view: u64,
    pub(crate) op: u64,
    pub(crate) command: &'a [u8],
    pub(crate) reply: &'a [u8],
    pub(crate) machine: &'a Machine,
    pub(crate) effects: Vec<Effect>,
}

/// A grant that an op made.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) session: SessionId,
    pub(super) acquire: RequestNumber,
    pub(super) name: LockName,
    pub(super) token: FencingToken,
    pub(super) mode: Mode,
}

/// One who waits for a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) session: SessionId,
    pub(super) acquire: RequestNumber,
    pub(super) mode: Mode,
    /// It waits for other locks too, and is granted all at once.
    pub(super) is_set: bool,
}

impl Waiting {
    pub(super) fn is_of(&self, grant: &Granted) -> bool {
        (self.session, self.acquire) == (grant.session, grant.acquire)
    }
}

/// The notes.
#[derive(Debug, Default)]
pub(crate) struct LockTruth {
    /// The greatest rate of any clock, millionths.
    pub(crate) rate_max: u64,
    /// Sessions that live, with their nonces.
    pub(super) sessions: BTreeMap<SessionId, u128>,
    /// Sessions that ended since the world looked.
    pub(crate) ended: Vec<SessionId>,
    /// Who waits, in the order of the log.
    pub(super) queues: BTreeMap<LockName, Vec<Waiting>>,
    /// Sets that wait.
    pub(super) sets: BTreeMap<(SessionId, RequestNumber), LockSet>,
    pub(super) last_token: BTreeMap<LockName, FencingToken>,
    /// What was granted for which request.
    pub(super) granted: BTreeMap<(SessionId, RequestNumber), FencingToken>,
    pub(super) cancelled: BTreeSet<(SessionId, RequestNumber)>,
    /// Ticks that primaries made: when, and their bytes.
    pub(super) ticks: BTreeMap<Run, VecDeque<(u64, Vec<u8>)>>,
    /// Service time ahead of true time at the last tick, millionths of µs.
    pub(super) ahead: Option<i128>,
    /// Grants in the name's log, and to how many sessions in a row.
    pub(super) last_holder: BTreeMap<LockName, SessionId>,
    pub(crate) tenures: Tenures,
    pub(crate) kept: Kept,
    pub(super) hooks_ended: HooksEnded,
    pub(crate) leases: Leases,
}

impl LockTruth {
    /// Who waits for a lock by this request.
    fn waiting(&self, name: &LockName, session: SessionId, acquire: RequestNumber) -> Option<&Waiting> {
        self.queues.get(name)?.iter().find(|it| (it.session, it.acquire) == (session, acquire))
    }

    /// It waits no longer for any lock.
    pub(super) fn leaves_all_queues(&mut self, session: SessionId, acquire: RequestNumber) {
        self.sets.remove(&(session, acquire));
        for queue in self.queues.values_mut() {
            queue.retain(|it| (it.session, it.acquire) != (session, acquire));
        }
    }
}

impl Invariants {
    /// An op was committed.
    pub(crate) fn seen(&mut self, seen: &Seen<'_>) -> Check {
        let (Ok(op), Ok(reply)) = (Op::decode(seen.command), Reply::decode(seen.reply)) else {
            return Err(Violation::new("ops and replies decode", format!("op {}: {:?}", seen.op, seen.command)));
        };
        let mut granted = Vec::new();
        match (&op, &reply) {
            (Op::Open(open) | Op::OpenWith(OpenWith { open, .. }), Reply::Opened(opened)) => {
                if opened.session.0 == seen.op {
                    if let Op::OpenWith(with) = &op {
                        self.locks.kept.options.insert(opened.session, with.options.clone());
                    }
                    self.nonce_is_new(open.nonce)?;
                    self.locks.sessions.insert(opened.session, open.nonce);
                    self.locks.leases.opened(opened.session, opened.lease_ms * 1_000);
                } else {
                    self.counters.hit("opens repeated");
                }
            }
            (Op::Request { session, request, .. }, Reply::Outcome(outcome)) => {
                self.gives_back(seen, *session, request.number, &request.command, outcome)?;
                self.note_set(seen, *session, request.number, &request.command, outcome, &mut granted)?;
                self.note_request(seen, *session, request.number, &request.command, outcome, &mut granted);
            }
            (
                Op::Tick { keep_alives, .. },
                Reply::Ticked { gone, expired } | Reply::TickedForced { gone, expired, .. },
            ) => {
                self.ticked(seen)?;
                self.leases_at_tick(seen, keep_alives, gone)?;
                self.counters.add("expiries", *expired);
                if *expired >= 3 {
                    self.counters.hit("mass expiries");
                }
            }
            (Op::Sweep, Reply::Swept { more }) => {
                self.swept(seen);
                if !more {
                    self.nothing_of_the_dead(seen)?;
                    self.locks.kept.forget_swept(seen.machine.service_time_us());
                }
            }
            (Op::Read(query), Reply::Answer(answer)) => self.query_answered(seen, query, answer)?,
            (Op::ForceRelease(force), Reply::Forced(ended)) => {
                self.force_refused(&force.name, force.token, false)?;
                self.forced(seen, force, ended)?;
            }
            (Op::ForceRelease(force), Reply::Refused(_)) => self.force_refused(&force.name, force.token, true)?,
            (Op::ForceKept { name, token }, Reply::Forced(ended)) => self.kept_forced(name, *token, ended)?,
            (Op::Recovery(report), Reply::Recovery(answer)) => self.recovery_reported(seen, report, *answer)?,
            _ => {}
        }
        self.note_ends(seen.machine, &op);
        if let Op::Tick { keep_alives, .. } = &op {
            let told = if let Reply::TickedForced { forced, .. } = &reply { forced.as_slice() } else { &[] };
            self.told_of_force(keep_alives, told)?;
        }
        self.note_effects(seen, &op, &mut granted)?;
        self.check_grants(seen, &granted)?;
        self.revokes_name_tenures(seen)
    }

    /// What was granted to waiters, and who has to recover somebody.
    fn note_effects(&mut self, seen: &Seen<'_>, op: &Op, granted: &mut Vec<Granted>) -> Check {
        for effect in &seen.effects {
            if let Effect::Recover { session, dead } = effect {
                self.recovery_assigned(seen, op, *session, dead)?;
            }
            if let Effect::Granted { session, name, acquire, token, .. } = effect {
                let (session, acquire, token) = (*session, *acquire, *token);
                let waiting = self.locks.waiting(name, session, acquire);
                let mode = waiting.map_or(Mode::Exclusive, |waiting| waiting.mode);
                let is_first = waiting.is_some_and(|it| it.is_set && !granted.iter().any(|other| it.is_of(other)));
                self.counters.add("sets granted to waiters", u64::from(is_first));
                granted.push(Granted { session, acquire, name: name.clone(), token, mode });
                self.counters.hit("grants to waiters");
            }
        }
        Ok(())
    }

    /// A nonce opens one session: an open that is repeated finds it.
    fn nonce_is_new(&self, nonce: u128) -> Check {
        match self.locks.sessions.iter().find(|(_, known)| **known == nonce) {
            Some((session, _)) => {
                let detail = format!("session {session} was opened with nonce {nonce:x}, and lives");
                Err(Violation::new("a nonce opens one session", detail))
            }
            None => Ok(()),
        }
    }

    fn check_grants(&mut self, seen: &Seen<'_>, granted: &[Granted]) -> Check {
        self.in_order_of_arrival(granted)?;
        self.sets_are_whole(granted)?;
        for grant in granted {
            self.counters.hit("grants");
            self.grant_has_a_new_token(seen, grant)?;
            self.grant_is_the_first_for_its_request(grant)?;
            self.grant_was_not_cancelled(grant)?;
            self.grant_is_to_the_living(grant)?;
            self.grant_fits(grant)?;
            self.grant_waits_for_what_the_dead_left(seen, grant)?;
            self.holders_agree(seen, &grant.name)?;
            let before = self.locks.last_holder.insert(grant.name.clone(), grant.session);
            if before.is_some_and(|before| before != grant.session) {
                self.counters.hit("hand-overs of locks");
            }
        }
        Ok(())
    }

    fn note_request(
        &mut self,
        seen: &Seen<'_>,
        session: SessionId,
        number: RequestNumber,
        command: &Command,
        outcome: &Outcome,
        granted: &mut Vec<Granted>,
    ) {
        let name = command.name().clone();
        let mode = match command {
            Command::Acquire { mode, .. } | Command::Release { requeue: Some(mode), .. } => *mode,
            _ => Mode::Exclusive,
        };
        let place = match (command, outcome) {
            (Command::Acquire { .. }, Outcome::Granted { token, .. })
            | (Command::Upgrade { .. }, Outcome::Upgraded { token })
            | (Command::Release { .. }, Outcome::Released { requeued: Some(Requeued::Granted { token, .. }) }) => {
                Some(Some(*token))
            }
            (Command::Acquire { .. }, Outcome::Queued)
            | (Command::Release { .. }, Outcome::Released { requeued: Some(Requeued::Queued) }) => Some(None),
            _ => None,
        };
        match place {
            Some(Some(token)) if token.0 == seen.op => {
                let upgrades = matches!(command, Command::Upgrade { .. });
                self.counters.add("upgrades granted", u64::from(upgrades));
                granted.push(Granted { session, acquire: number, name, token, mode })
            }
            Some(Some(_)) => self.counters.hit("grants asked for again"),
            Some(None) => {
                if self.locks.waiting(&name, session, number).is_some() {
                    self.counters.hit("queued acquires asked for again");
                } else {
                    let queue = self.locks.queues.entry(name).or_default();
                    queue.push(Waiting { session, acquire: number, mode, is_set: false });
                }
            }
            None => {}
        }
        if let (Command::Cancel { name, acquire }, Outcome::Cancelled) = (command, outcome) {
            if self.locks.granted.contains_key(&(session, *acquire)) {
                self.counters.hit("cancels that met their grant");
            }
            self.locks.cancelled.insert((session, *acquire));
            if self.locks.waiting(name, session, *acquire).is_some() {
                self.locks.leaves_all_queues(session, *acquire);
            }
        }
        if matches!(command, Command::Acquire { .. }) && self.locks.cancelled.contains(&(session, number)) {
            self.counters.hit("acquires that came after their cancel");
        }
        self.counters.add("upgrades refused", u64::from(*outcome == Outcome::NotUpgraded));
        if *outcome == Outcome::Gone || *outcome == Outcome::BelowFloor {
            self.counters.hit("requests repeated too late");
        }
    }

    /// Sessions that this op ended wait no longer.
    fn note_ends(&mut self, machine: &Machine, op: &Op) {
        let ended =
            |(session, nonce): (&SessionId, &u128)| (!machine.is_opened_by(*session, *nonce)).then_some(*session);
        let ended: Vec<SessionId> = self.locks.sessions.iter().filter_map(ended).collect();
        for session in &ended {
            self.locks.sessions.remove(session);
            let times = (machine.service_time_us(), self.locks.leases.lease_us(*session));
            if let Some(exclusive) = self.locks.tenures.exclusive_of(*session) {
                self.note_kept(op, *session, exclusive, times);
            }
            self.locks.kept.options.remove(session);
            self.turns_end_with(*session);
            self.locks.leases.ended(*session);
            self.locks.tenures.session_ended(*session);
            for queue in self.locks.queues.values_mut() {
                queue.retain(|waiter| waiter.session != *session);
            }
            self.locks.sets.retain(|(of, _), _| of != session);
        }
        self.locks.ended.extend(ended);
    }
}
