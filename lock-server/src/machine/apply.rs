//! The machine itself: one op in, one reply out.

use std::collections::BTreeSet;
use std::time::Duration;

use lock_protocol::{LEASE_MAX, LockName, Open, Opened, RequestNumber, SessionId, SessionOptions};
use rsm::{SnapshotPart, StateMachine};

use super::effects::Effects;
use super::limits::Limits;
use super::op::{Op, Reply};
use super::running_hash::RunningHash;
use super::sessions::Sessions;
use super::snapshot::Walk;
use super::statistics::Statistics;
use super::table::{Around, Table};
use super::time::ServiceTime;
use crate::mutant::{Mutant, Mutation};

/// Op numbers stay below this, so that a fencing token is exact wherever numbers are floating point (JSON readers).
pub(super) const OP_END: u64 = 1 << 53;

/// The replicated state of the lock service.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub(super) limits: Limits,
    /// The last op executed; a number at or below it is not executed again.
    pub(super) applied: u64,
    pub(super) hash: RunningHash,
    pub(super) time: ServiceTime,
    /// Before this service time no session is opened, µs; see `restored.rs`.
    pub(super) opens_from_us: u64,
    pub(super) sessions: Sessions,
    pub(super) table: Table,
    /// Volatile; see the module.
    pub(super) effects: Effects,
    /// A snapshot in parts that is under way.
    pub(super) walk: Option<Walk>,
    /// For people.
    pub(super) statistics: Statistics,
    pub(super) mutation: Mutation,
}

impl Machine {
    /// An empty machine. All members of a cluster begin with the same limits.
    pub fn new(limits: Limits) -> Self {
        Machine { limits, ..Machine::default() }
    }

    /// The same machine with a known bug; snapshots do not carry it.
    #[cfg(any(test, feature = "mutants"))]
    pub fn with_mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutation = Mutation::new(mutant);
        self.sessions.set_mutation(self.mutation);
        self.table.versioned().mutation = self.mutation;
        self
    }

    /// Whether this rule is left out; never in a normal build.
    pub(crate) fn is_mutant(&self, mutant: Mutant) -> bool {
        self.mutation.is(mutant)
    }

    /// The last op executed; 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The shortest lease of all sessions, from which the tick interval follows; none without sessions. While a restored cluster
    /// waits, time passes without them: as for the longest lease.
    pub fn shortest_lease(&self) -> Option<Duration> {
        self.sessions.shortest_lease().or_else(|| self.waits_after_restore().map(|_| LEASE_MAX))
    }

    /// Whether there is a session, dead ones that are not swept yet included: then time must be ticked.
    pub fn has_sessions(&self) -> bool {
        self.sessions.len() > 0
    }

    /// How many sessions there are, dead ones that are not swept yet included.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Whether this session lives, and this nonce opened it: how a client proves that a session is its own.
    pub fn is_opened_by(&self, session: SessionId, nonce: u128) -> bool {
        self.sessions.live(session).is_some_and(|entry| entry.nonce == nonce)
    }

    /// Whether a caller that shows this nonce may be called back for the session: it opened it, or the session is gone. That it
    /// is gone a client hears by its next keep-alive, and it sends none before it can be called back.
    pub fn admits_callback(&self, session: SessionId, nonce: u128) -> bool {
        self.sessions.live(session).is_none_or(|entry| entry.nonce == nonce)
    }

    /// Whether this session lives.
    pub fn lives(&self, session: SessionId) -> bool {
        self.sessions.live(session).is_some()
    }

    /// Who holds a lock, by session.
    pub fn holders_of(&self, name: &LockName) -> Vec<SessionId> {
        self.table.get(name).map(|lock| lock.holders().map(|tenure| tenure.session).collect()).unwrap_or_default()
    }

    /// Service time, µs since the cluster was founded.
    pub fn service_time_us(&self) -> u64 {
        self.time.0
    }

    /// How many locks are held.
    pub fn lock_count(&self) -> usize {
        self.table.len()
    }

    /// A hash of the whole state, for tests and for comparing members by hand: it costs a snapshot.
    pub fn digest(&self) -> u64 {
        RunningHash::of(&self.snapshot())
    }

    fn dispatch(&mut self, op: Op) -> Reply {
        match op {
            Op::Open(open) => self.on_open(open, SessionOptions::default()),
            Op::OpenWith(with) => self.on_open(with.open, with.options),
            Op::Request { session, floor, request } => Reply::Outcome(self.on_request(session, floor, &request)),
            Op::Tick { elapsed_us, keep_alives } => self.on_tick(elapsed_us, &keep_alives),
            Op::Sweep => self.on_sweep(),
            Op::Close { session } => self.on_close(session),
            Op::End { session, end } => self.on_end(session, end),
            Op::Recovery(report) => self.on_recovery(report),
            Op::ForceKept { name, token } => self.on_force_kept(&name, token),
            Op::Read(query) => Reply::Answer(self.on_read(&query)),
            Op::ForceRelease(force) => self.on_force(&force),
        }
    }

    fn on_open(&mut self, open: Open, options: SessionOptions) -> Reply {
        if let Some(refusal) = self.refusal_after_restore() {
            return refusal;
        }
        if let Some((session, entry)) = self.sessions.by_nonce(open.nonce)
            && !self.mutation.is(Mutant::IgnoresNonce)
        {
            return Reply::Opened(Opened { session, lease_ms: lease_ms(entry.lease) });
        }
        if !self.has_place(&options) {
            return Reply::Busy(format!("at most {} sessions", self.limits.sessions));
        }
        self.statistics.opened += 1;
        let lease = self.sessions.open(self.applied, self.time, open, options).lease;
        Reply::Opened(Opened { session: SessionId(self.applied), lease_ms: lease_ms(lease) })
    }

    /// Whether one more session may be opened. The dead that wait for their recovery have places, too, and could keep out everybody who
    /// would free them: so beyond the limit one is let in that joins a group whose dead wait and of which nobody lives. As
    /// many again as the limit says, at most.
    fn has_place(&self, options: &SessionOptions) -> bool {
        let (count, limit) = (self.sessions.len() as u64, self.limits.sessions);
        let is_awaited = || options.recovery.as_ref().is_some_and(|group| self.sessions.is_awaited(&group.name));
        count < limit || (count < limit.saturating_mul(2) && is_awaited())
    }

    /// The order is the safety argument: time first, then deaths, then renewals. Renewing first would give a lease that
    /// ends earlier than the client counts, and would revive what is over.
    fn on_tick(&mut self, elapsed_us: u64, keep_alives: &[(SessionId, RequestNumber)]) -> Reply {
        match [Mutant::NoCap, Mutant::ClockFirst, Mutant::FormerTerm].iter().any(|&mutant| self.mutation.is(mutant)) {
            true => self.time.0 = self.time.0.saturating_add(elapsed_us),
            false => self.time.advance(elapsed_us, self.sessions.shortest_lease()),
        }
        let expired = self.sessions.expire(self.applied, self.time, &mut self.statistics);
        self.on_recovery_time();
        let mut gone = Vec::new();
        let mut forced = BTreeSet::new();
        for &(session, floor) in keep_alives {
            if !self.sessions.renew(self.applied, session, floor, self.time) {
                gone.push(session);
            } else if self.sessions.live(session).is_some_and(|entry| !entry.forced.is_empty()) {
                forced.insert(session);
            }
        }
        match forced.is_empty() {
            true => Reply::Ticked { gone, expired },
            false => Reply::TickedForced { gone, expired, forced: forced.into_iter().collect() },
        }
    }

    pub(super) fn table_and_around(&mut self) -> (&mut Table, Around<'_>) {
        let Machine { table, sessions, effects, statistics, applied, time, mutation, .. } = self;
        let (op, now_us, mutation, sets) = (*applied, time.0, *mutation, BTreeSet::new());
        let granted = Vec::new();
        (table, Around { sessions, effects, statistics, op, now_us, mutation, own: None, sets, granted })
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        assert!(op < OP_END, "op {op} is not below 2^53");
        if op <= self.applied {
            return Reply::Replayed.encode();
        }
        self.applied = op;
        let reply = match Op::decode(command) {
            Ok(op) => {
                let reply = self.dispatch(op);
                self.assign();
                reply
            }
            Err(_) => Reply::Malformed,
        };
        let reply = reply.encode();
        self.hash.absorb(op, command, &reply);
        reply
    }

    fn snapshot(&self) -> Vec<u8> {
        self.write_snapshot()
    }

    fn begin_snapshot(&mut self, budget_bytes: usize) -> SnapshotPart {
        self.begin_walk(budget_bytes)
    }

    fn next_snapshot_part(&mut self, budget_bytes: usize) -> SnapshotPart {
        self.walk_on(Vec::new(), budget_bytes)
    }

    fn abandon_snapshot(&mut self) {
        self.end_walk();
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.restore_snapshot(snapshot).map_err(|error| error.to_string())
    }

    fn hash(&self) -> u64 {
        self.hash.0
    }
}

fn lease_ms(lease: Duration) -> u64 {
    u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)
}
