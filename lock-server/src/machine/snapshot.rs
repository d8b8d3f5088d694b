//! The whole state in bytes, and back.
//!
//! ```text
//!   magic and version (8) │ header │ count, sessions by id │ count, locks by name │ forced │ hash of all before (8, little endian)
//! ```
//!
//! `forced` (count, then what was ended by force, by session and name) is there in version 2 alone. Where there is none, version 1 is
//! written, as before force was known.
//!
//! Records are postcard, one after the other, so that neither side needs the whole twice. Indexes are not stored but
//! derived: what a session holds and waits for, deadlines, nonces, revokes. Reading trusts nothing: what it builds keeps
//! the machine's invariants, or it fails, since a machine that asserts its own state must not be given a wrong one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lock_protocol::{ClientIdentity, FencingToken, LEASE_MAX, LEASE_MIN, LockName, Mode, RequestNumber, SessionId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Machine;
use super::effects::Effects;
use super::force::{FORCED_MAX, Forced};
use super::limits::Limits;
use super::lock::{Lock, Many, Tenure};
use super::queue::{Queue, Waiter};
use super::running_hash::RunningHash;
use super::sessions::{Session, Sessions};
use super::table::Table;
use super::time::ServiceTime;
use super::window::{Done, Window};
use crate::mutant::Mutant;

/// "PLUMLK", then the format's version.
const MAGIC: [u8; 8] = *b"PLUMLK\x00\x01";
const MAGIC_FORCED: [u8; 8] = *b"PLUMLK\x00\x02";
const HASH_BYTES: usize = 8;

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("no snapshot of a lock table, or one of another release")]
    Magic,
    #[error("the snapshot's hash does not match its bytes: it is damaged or cut short")]
    Hash,
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
}

#[derive(Serialize, Deserialize)]
struct ForcedRecord {
    session: SessionId,
    name: LockName,
    token: FencingToken,
    mode: Mode,
    acquire: RequestNumber,
    withheld_until_us: Option<u64>,
}

impl Machine {
    pub(super) fn write_snapshot(&self) -> Vec<u8> {
        let header =
            HeaderRecord { limits: self.limits, applied: self.applied, hash: self.hash.0, time_us: self.time.0 };
        let forced: Vec<_> = self.sessions.iter().flat_map(|(id, session)| ForcedRecord::of(id, session)).collect();
        let magic = if forced.is_empty() { MAGIC } else { MAGIC_FORCED };
        let mut bytes = put(magic.to_vec(), &header);
        bytes = put(bytes, &(self.sessions.len() as u64));
        for (id, session) in self.sessions.iter() {
            let mut record = SessionRecord::of(id, session);
            if self.mutation.is(Mutant::SnapshotForgets) {
                record.done.clear();
            }
            bytes = put(bytes, &record);
        }
        bytes = put(bytes, &(self.table.len() as u64));
        for (name, lock) in self.table.from(std::ops::Bound::Unbounded) {
            bytes = put(bytes, &LockRecord::of(name, lock));
        }
        if !forced.is_empty() {
            bytes = put(bytes, &(forced.len() as u64));
            for record in forced {
                bytes = put(bytes, &record);
            }
        }
        let hash = RunningHash::of(&bytes);
        bytes.extend(hash.to_le_bytes());
        bytes
    }

    /// Replaces the state; leaves it alone on error. Not serving afterwards.
    pub(super) fn restore_snapshot(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let (body, hash) = snapshot.split_last_chunk::<HASH_BYTES>().ok_or(SnapshotError::Magic)?;
        let (magic, mut rest) = body.split_first_chunk::<8>().ok_or(SnapshotError::Magic)?;
        let has_forced = *magic == MAGIC_FORCED;
        if !has_forced && *magic != MAGIC {
            return Err(SnapshotError::Magic);
        }
        if RunningHash::of(body) != u64::from_le_bytes(*hash) {
            return Err(SnapshotError::Hash);
        }
        let header: HeaderRecord = take(&mut rest)?;
        check(header.applied < 1 << 53, "its op number is too large")?;
        let mut sessions = Sessions::default();
        sessions.mutation = self.mutation;
        let mut last = None;
        for _ in 0..take::<u64>(&mut rest)? {
            let record: SessionRecord = take(&mut rest)?;
            check(last < Some(record.id), "sessions are out of order")?;
            last = Some(record.id);
            let (id, session) = record.check(&header)?;
            sessions.insert(id, session);
        }
        let mut table = Table::default();
        let mut last = None;
        for _ in 0..take::<u64>(&mut rest)? {
            let record: LockRecord = take(&mut rest)?;
            check(last.as_ref() < Some(&record.name), "locks are out of order")?;
            last = Some(record.name.clone());
            let (name, lock) = record.check(&header, &mut sessions)?;
            table.insert(name, lock);
        }
        if has_forced {
            let count = take::<u64>(&mut rest)?;
            check(count > 0, "it says that there is force, and there is none")?;
            let mut last = None;
            for _ in 0..count {
                let record: ForcedRecord = take(&mut rest)?;
                let place = (record.session, record.name.clone());
                check(last.as_ref() < Some(&place), "what was forced is out of order")?;
                last = Some(place);
                record.enter(&header, &mut sessions, &table)?;
            }
        }
        check(rest.is_empty(), "there is something behind its end")?;
        let mut effects = Effects::default();
        table.derive_revokes(&mut effects);
        *self = Machine {
            limits: header.limits,
            applied: header.applied,
            hash: RunningHash(header.hash),
            time: ServiceTime(header.time_us),
            sessions,
            table,
            effects,
            mutation: self.mutation,
        };
        Ok(())
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
        }
    }

    fn check(self, header: &HeaderRecord) -> Result<(SessionId, Session), SnapshotError> {
        let lease = Duration::from_millis(self.lease_ms);
        check((LEASE_MIN..=LEASE_MAX).contains(&lease), "a lease is out of range")?;
        check((1..=header.applied).contains(&self.id.0), "a session was opened by an op to come")?;
        check(self.changed <= header.applied, "a session was changed by an op to come")?;
        check(self.dead || self.deadline_us > header.time_us, "a session lives beyond its deadline")?;
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
        });
        LockRecord {
            name: name.clone(),
            changed: lock.changed(),
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
        check(!holders.is_empty(), "a lock has no holder")?;
        let mut queue = Queue::default();
        let mut last = 0;
        for record in self.waiters {
            let WaiterRecord { place, session, mode, acquire, since_us } = record;
            check(last < place && place <= self.changed, "a queue is out of order")?;
            last = place;
            let owner = sessions.get_mut(session).ok_or(SnapshotError::Contradiction("a waiter has no session"))?;
            check(!owner.held.contains(&self.name), "a session waits for what it holds")?;
            check(owner.waiting.insert(self.name.clone(), place).is_none(), "a session waits twice for a lock")?;
            queue.join(place, Waiter { session, acquire, mode, since_us });
        }
        let mut lock = Lock::Many(Box::new(Many { holders, queue, changed: self.changed }));
        lock.compact();
        Ok((self.name, lock))
    }
}

impl ForcedRecord {
    fn of(id: SessionId, session: &Session) -> impl Iterator<Item = ForcedRecord> {
        session.forced.iter().map(move |(name, forced)| {
            let Forced { token, mode, acquire, withheld_until_us } = *forced;
            ForcedRecord { session: id, name: name.clone(), token, mode, acquire, withheld_until_us }
        })
    }

    /// Enters it into its session. A tenure that is withheld is among the holders, one that is not is not.
    fn enter(self, header: &HeaderRecord, sessions: &mut Sessions, table: &Table) -> Result<(), SnapshotError> {
        let ForcedRecord { session, name, token, mode, acquire, withheld_until_us } = self;
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

fn put(bytes: Vec<u8>, record: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(record, bytes).expect("postcard fails only on types of unknown length, and these have none")
}

fn take<T: DeserializeOwned>(rest: &mut &[u8]) -> Result<T, SnapshotError> {
    let (record, behind) = postcard::take_from_bytes(rest).map_err(|_| SnapshotError::Encoding)?;
    *rest = behind;
    Ok(record)
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), SnapshotError> {
    if holds { Ok(()) } else { Err(SnapshotError::Contradiction(otherwise)) }
}
