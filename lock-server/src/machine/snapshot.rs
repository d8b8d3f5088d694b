//! The whole state in bytes, at once or in parts, and back.
//!
//! ```text
//!   magic and version (8) │ header │ sessions by id │ locks by name
//! ```
//!
//! In front of it stands the wait of a cluster that was restored, while it lasts; see `restored.rs`.
//!
//! Records are postcard, one after the other, so that neither side needs the whole twice; the header says how many there are. Indexes
//! are not stored but derived: what a session holds and waits for, which places belong to one set, deadlines, nonces, revokes.
//! Reading trusts nothing: what it builds keeps the machine's invariants, or it fails, since a machine that asserts its own state must not be given a wrong one. That the
//! bytes are those that were written is the caller's to check, and rsm does: on the medium by checksums, from another member by a digest.
//!
//! In parts: the header is written when the snapshot begins, sessions and locks are frozen then (see `versioned.rs`), and there is nothing
//! else. So the parts joined are what [`Machine::write_snapshot`] would have given at that op.
//!
//! # Replay
//!
//! Entries by op number, each object with the op that last changed it, and replaying twice changes nothing. Since a snapshot is
//! the state at one op, never a mixture, one number for the whole is enough to decide it: an op at or below `applied` is not
//! executed, neither in a batch that begins before it nor over a newer state. The objects' own numbers are what makes
//! the mixture avoidable: they tell, while a snapshot is under way, which of them are newer than it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use lock_protocol::{
    ClientIdentity, FencingToken, LEASE_MAX, LEASE_MIN, LOCK_DELAY_MAX, LockName, Mode, RequestNumber, SessionId,
    SessionOptions,
};
use rsm::SnapshotPart;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Machine;
use super::effects::Effects;
use super::force::{FORCED_MAX, Forced};
use super::kept::Kept;
use super::limits::Limits;
use super::lock::{Lock, Many, Tenure};
use super::queue::{Queue, Waiter};
use super::recovery::Turn;
use super::restored::{may_wait, take_wait};
use super::running_hash::RunningHash;
use super::sessions::{Session, Sessions};
use super::statistics::Statistics;
use super::table::Table;
use super::time::ServiceTime;
use super::versioned::Object;
use super::window::{Done, Window};
use crate::mutant::{Mutant, Mutation};

/// "PLUMLK", then the format's version.
const MAGIC: [u8; 8] = *b"PLUMLK\x00\x06";

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("no snapshot of a lock table, or one of another release")]
    Magic,
    #[error("the snapshot cannot be decoded")]
    Encoding,
    #[error("the snapshot contradicts itself: {0}")]
    Contradiction(&'static str),
}

#[derive(Serialize, Deserialize)]
struct HeaderRecord {
    limits: Limits,
    applied: u64,
    hash: u64,
    time_us: u64,
    sessions: u64,
    locks: u64,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord {
    id: SessionId,
    nonce: u128,
    lease_ms: u64,
    deadline_us: u64,
    dead: bool,
    identity: ClientIdentity,
    changed: u64,
    floor: RequestNumber,
    done: Vec<(RequestNumber, Done)>,
    forced: Vec<ForcedRecord>,
    options: SessionOptions,
    kept: Option<Kept>,
}

#[derive(Serialize, Deserialize)]
struct LockRecord {
    name: LockName,
    changed: u64,
    holders: Vec<HolderRecord>,
    waiters: Vec<WaiterRecord>,
}

#[derive(Serialize, Deserialize)]
struct HolderRecord {
    session: SessionId,
    token: FencingToken,
    mode: Mode,
    acquire: RequestNumber,
    since_us: u64,
}

#[derive(Serialize, Deserialize)]
struct WaiterRecord {
    place: u64,
    session: SessionId,
    mode: Mode,
    acquire: RequestNumber,
    since_us: u64,
    is_set: bool,
}

#[derive(Serialize, Deserialize)]
struct ForcedRecord {
    name: LockName,
    token: FencingToken,
    mode: Mode,
    acquire: RequestNumber,
    withheld_until_us: Option<u64>,
}

/// How far a snapshot in parts has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Walk {
    Sessions,
    Locks,
}

impl Machine {
    pub(super) fn write_snapshot(&self) -> Vec<u8> {
        let mut bytes = self.write_header();
        self.sessions.iter().for_each(|(id, session)| session.write(&id, self.mutation, &mut bytes));
        self.table.from(Bound::Unbounded).for_each(|(name, lock)| lock.write(name, self.mutation, &mut bytes));
        bytes
    }

    fn write_header(&self) -> Vec<u8> {
        let header = HeaderRecord {
            limits: self.limits,
            applied: self.applied,
            hash: self.hash.0,
            time_us: self.time.0,
            sessions: self.sessions.len() as u64,
            locks: self.table.len() as u64,
        };
        let mut bytes = self.write_wait();
        bytes.extend(MAGIC);
        put(&mut bytes, &header);
        bytes
    }

    pub(super) fn begin_walk(&mut self, budget_bytes: usize) -> SnapshotPart {
        let header = self.write_header();
        self.sessions.versioned().freeze(self.applied);
        self.table.versioned().freeze(self.applied);
        self.walk = Some(Walk::Sessions);
        self.walk_on(header, budget_bytes)
    }

    /// Adds records to the bytes of a part.
    pub(super) fn walk_on(&mut self, mut bytes: Vec<u8>, budget_bytes: usize) -> SnapshotPart {
        while let Some(walk) = self.walk {
            let is_done = match walk {
                Walk::Sessions => self.sessions.versioned().write_some(budget_bytes, &mut bytes),
                Walk::Locks => self.table.versioned().write_some(budget_bytes, &mut bytes),
            };
            self.walk = match walk {
                _ if !is_done => return SnapshotPart { bytes, is_last: false },
                Walk::Sessions => Some(Walk::Locks),
                Walk::Locks => None,
            };
        }
        SnapshotPart { bytes, is_last: true }
    }

    pub(super) fn end_walk(&mut self) {
        self.sessions.versioned().thaw();
        self.table.versioned().thaw();
        self.walk = None;
    }

    /// Replaces the state; leaves it alone on error. Not serving afterwards.
    pub(super) fn restore_snapshot(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let (opens_from_us, snapshot) = take_wait(snapshot);
        let (magic, mut rest) = snapshot.split_first_chunk::<8>().ok_or(SnapshotError::Magic)?;
        if *magic != MAGIC {
            return Err(SnapshotError::Magic);
        }
        let header: HeaderRecord = take(&mut rest)?;
        check(header.applied < 1 << 53, "its op number is too large")?;
        let time = ServiceTime(header.time_us);
        check(may_wait(opens_from_us, time, header.sessions), "it waits after a restore, and has sessions")?;
        let mut sessions = Sessions::default();
        sessions.set_mutation(self.mutation);
        let mut forced = Vec::new();
        let mut last = None;
        for _ in 0..header.sessions {
            let mut record: SessionRecord = take(&mut rest)?;
            check(last < Some(record.id), "sessions are out of order")?;
            last = Some(record.id);
            forced.extend(std::mem::take(&mut record.forced).into_iter().map(|forced| (record.id, forced)));
            let (id, session) = record.check(&header)?;
            sessions.insert(id, session);
        }
        check_recoveries(&header, &sessions)?;
        sessions.is_assigned();
        let mut table = Table::default();
        table.versioned().mutation = self.mutation;
        let mut last = None;
        for _ in 0..header.locks {
            let record: LockRecord = take(&mut rest)?;
            check(last.as_ref() < Some(&record.name), "locks are out of order")?;
            last = Some(record.name.clone());
            let (name, lock) = record.check(&header, &mut sessions)?;
            table.insert(name, lock);
        }
        check(rest.is_empty(), "there is something behind its end")?;
        table.derive_sets().map_err(SnapshotError::Contradiction)?;
        let mut last = None;
        for (session, record) in forced {
            let place = (session, record.name.clone());
            check(last.as_ref() < Some(&place), "what was forced is out of order")?;
            last = Some(place);
            record.enter(session, &header, &mut sessions, &table)?;
        }
        let waiters = sessions.iter().map(|(_, session)| session.waiting.len() as u64).sum();
        let mut effects = Effects::default();
        table.derive_revokes(&mut effects);
        *self = Machine {
            limits: header.limits,
            applied: header.applied,
            hash: RunningHash(header.hash),
            time,
            opens_from_us,
            sessions,
            table,
            effects,
            walk: None,
            statistics: Statistics { waiters, ..std::mem::take(&mut self.statistics) },
            mutation: self.mutation,
        };
        Ok(())
    }
}

impl Object<SessionId> for Session {
    fn changed(&self) -> u64 {
        self.changed
    }

    fn write(&self, id: &SessionId, mutation: Mutation, bytes: &mut Vec<u8>) {
        let mut record = SessionRecord::of(*id, self);
        if mutation.is(Mutant::SnapshotForgets) {
            record.done.clear();
        }
        put(bytes, &record);
    }
}

impl Object<LockName> for Lock {
    fn changed(&self) -> u64 {
        self.last_changed()
    }

    fn write(&self, name: &LockName, _: Mutation, bytes: &mut Vec<u8>) {
        put(bytes, &LockRecord::of(name, self));
    }
}

impl SessionRecord {
    fn of(id: SessionId, session: &Session) -> Self {
        SessionRecord {
            id,
            nonce: session.nonce,
            lease_ms: u64::try_from(session.lease.as_millis()).unwrap_or(u64::MAX),
            deadline_us: session.deadline_us,
            dead: session.dead,
            identity: session.identity.clone(),
            changed: session.changed,
            floor: session.window.floor(),
            done: session.window.iter().map(|(number, done)| (number, done.clone())).collect(),
            forced: session.forced.iter().map(ForcedRecord::of).collect(),
            options: session.options.clone(),
            kept: session.kept.clone(),
        }
    }

    fn check(self, header: &HeaderRecord) -> Result<(SessionId, Session), SnapshotError> {
        let lease = Duration::from_millis(self.lease_ms);
        check((LEASE_MIN..=LEASE_MAX).contains(&lease), "a lease is out of range")?;
        check((1..=header.applied).contains(&self.id.0), "a session was opened by an op to come")?;
        check(self.changed <= header.applied, "a session was changed by an op to come")?;
        check(self.dead || self.deadline_us > header.time_us, "a session lives beyond its deadline")?;
        let delay = Duration::from_millis(self.options.lock_delay_ms);
        check(delay <= LOCK_DELAY_MAX, "a lock delay is out of range")?;
        check(self.dead || self.kept.is_none(), "a session that lives keeps what a dead one does")?;
        let mut window = Window::default();
        window.raise_floor(self.floor);
        let mut last = None;
        for (number, done) in self.done {
            check(number >= self.floor, "an outcome is kept below the floor")?;
            check(last < Some(number), "outcomes are out of order")?;
            last = Some(number);
            window.record(number, done);
        }
        let session = Session {
            nonce: self.nonce,
            lease,
            deadline_us: self.deadline_us,
            dead: self.dead,
            identity: self.identity,
            options: self.options,
            kept: self.kept,
            window,
            changed: self.changed,
            held: BTreeSet::new(),
            waiting: BTreeMap::new(),
            forced: BTreeMap::new(),
        };
        Ok((self.id, session))
    }
}

impl LockRecord {
    fn of(name: &LockName, lock: &Lock) -> Self {
        let holders = lock.holders().map(|tenure| HolderRecord {
            session: tenure.session,
            token: tenure.token(),
            mode: tenure.mode(),
            acquire: tenure.acquire,
            since_us: tenure.since_us,
        });
        let queue = lock.queue().into_iter().flat_map(|queue| queue.iter());
        let waiters = queue.map(|(place, waiter)| WaiterRecord {
            place,
            session: waiter.session,
            mode: waiter.mode,
            acquire: waiter.acquire,
            since_us: waiter.since_us,
            is_set: waiter.is_set,
        });
        LockRecord {
            name: name.clone(),
            changed: lock.last_changed(),
            holders: holders.collect(),
            waiters: waiters.collect(),
        }
    }

    /// The lock, with its holders and waiters entered into their sessions' own indexes.
    fn check(self, header: &HeaderRecord, sessions: &mut Sessions) -> Result<(LockName, Lock), SnapshotError> {
        check(self.changed <= header.applied, "a lock was changed by an op to come")?;
        let alone = self.holders.len() == 1;
        let mut holders = BTreeMap::new();
        for record in self.holders {
            let HolderRecord { session, token, mode, acquire, since_us } = record;
            check((1..=self.changed).contains(&token.0), "a lock was granted by an op to come")?;
            check(alone || mode == Mode::Shared, "holders conflict")?;
            check(holders.last_key_value().is_none_or(|(&last, _)| last < session), "holders are out of order")?;
            let owner = sessions.get_mut(session).ok_or(SnapshotError::Contradiction("a holder has no session"))?;
            check(owner.held.insert(self.name.clone()), "a session holds a lock twice")?;
            holders.insert(session, Tenure::new(session, acquire, since_us, token, mode));
        }
        check(!holders.is_empty() || !self.waiters.is_empty(), "a lock has no holder")?;
        let mut queue = Queue::default();
        let mut last = 0;
        for record in self.waiters {
            let WaiterRecord { place, session, mode, acquire, since_us, is_set } = record;
            check(last < place && place <= self.changed, "a queue is out of order")?;
            last = place;
            let owner = sessions.get_mut(session).ok_or(SnapshotError::Contradiction("a waiter has no session"))?;
            check(!owner.held.contains(&self.name), "a session waits for what it holds")?;
            check(owner.waiting.insert(self.name.clone(), place).is_none(), "a session waits twice for a lock")?;
            queue.join(place, Waiter { session, acquire, mode, since_us, is_set });
        }
        let mut lock = Lock::Many(Box::new(Many { holders, queue, changed: self.changed }));
        lock.compact();
        Ok((self.name, lock))
    }
}

/// Recoveries are assigned to live sessions of their groups, or wait because there is none to ask.
fn check_recoveries(header: &HeaderRecord, sessions: &Sessions) -> Result<(), SnapshotError> {
    for (_, session, kept) in sessions.kept_after(None) {
        let Some((group, recovery)) = session.recovery() else {
            check(kept.recovery.is_none(), "a session is recovered without a group")?;
            continue;
        };
        if let Turn::Assigned { to, token, .. } = recovery.turn {
            check(sessions.recoveries_seen().is_live(group, to), "a recovery is assigned to nobody of its group")?;
            check((1..=header.applied).contains(&token.0), "a recovery was assigned by an op to come")?;
        }
        check(!sessions.recoveries_seen().is_overlooked(group, recovery), "a recovery waits though there is somebody")?;
    }
    Ok(())
}

impl ForcedRecord {
    fn of((name, forced): (&LockName, &Forced)) -> ForcedRecord {
        let Forced { token, mode, acquire, withheld_until_us } = *forced;
        ForcedRecord { name: name.clone(), token, mode, acquire, withheld_until_us }
    }

    /// Enters it into its session. A tenure that is withheld is among the holders, one that is not is not.
    fn enter(
        self,
        session: SessionId,
        header: &HeaderRecord,
        sessions: &mut Sessions,
        table: &Table,
    ) -> Result<(), SnapshotError> {
        let ForcedRecord { name, token, mode, acquire, withheld_until_us } = self;
        let entry = sessions.live(session).ok_or(SnapshotError::Contradiction("what was forced has no session"))?;
        let changed = entry.changed;
        check(entry.forced.len() < FORCED_MAX, "too much of a session was forced")?;
        check((1..=header.applied).contains(&token.0), "a tenure that was forced was granted by an op to come")?;
        check(!entry.waiting.contains_key(&name), "a session waits for what it has to confirm")?;
        let tenure = table.get(&name).and_then(|lock| lock.holder(session));
        let is_held =
            tenure.is_some_and(|tenure| (tenure.token(), tenure.mode(), tenure.acquire) == (token, mode, acquire));
        check(is_held == withheld_until_us.is_some(), "a tenure is withheld by nobody")?;
        check(is_held || tenure.is_none(), "a session holds what it has to confirm")?;
        sessions.force(changed, session, name, Forced { token, mode, acquire, withheld_until_us });
        Ok(())
    }
}

fn put(bytes: &mut Vec<u8>, record: &impl Serialize) {
    let start = std::mem::take(bytes);
    *bytes = postcard::to_extend(record, start)
        .expect("postcard fails only on types of unknown length, and these have none");
}

fn take<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, SnapshotError> {
    let (record, behind) = postcard::take_from_bytes(rest).map_err(|_| SnapshotError::Encoding)?;
    *rest = behind;
    Ok(record)
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), SnapshotError> {
    if holds { Ok(()) } else { Err(SnapshotError::Contradiction(otherwise)) }
}
