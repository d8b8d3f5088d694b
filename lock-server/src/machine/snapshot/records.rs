//! The records of a snapshot, and what is checked of each when it is read.
//!
//! Why it is right: postcard puts the fields of a struct one behind the other and nothing around them, so a record that begins with a
//! record of the former format has its bytes, and then more. Whoever reads the former format takes for what is missing what
//! everything was before there was anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lock_protocol::{
    ClientIdentity, FencingToken, LEASE_MAX, LEASE_MIN, LOCK_DELAY_MAX, LockName, Mode, RequestNumber, SessionId,
    SessionOptions,
};
use serde::{Deserialize, Serialize};

use super::{HeaderRecord, SnapshotError, check};
use crate::machine::force::{FORCED_MAX, Forced};
use crate::machine::kept::Kept;
use crate::machine::lock::{Lock, Many, Tenure};
use crate::machine::queue::{Queue, Waiter};
use crate::machine::recovery::Turn;
use crate::machine::sessions::{Session, Sessions};
use crate::machine::table::Table;
use crate::machine::window::{Done, Window};

#[derive(Serialize, Deserialize)]
pub(super) struct FormerSession {
    pub(super) id: SessionId,
    nonce: u128,
    lease_ms: u64,
    deadline_us: u64,
    dead: bool,
    identity: ClientIdentity,
    changed: u64,
    floor: RequestNumber,
    pub(super) done: Vec<(RequestNumber, Done)>,
    pub(super) forced: Vec<ForcedRecord>,
}

/// Its bytes begin with those of the former format.
#[derive(Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) former: FormerSession,
    options: SessionOptions,
    kept: Option<Kept>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LockRecord<W> {
    pub(super) name: LockName,
    changed: u64,
    holders: Vec<HolderRecord>,
    waiters: Vec<W>,
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
pub(super) struct FormerWaiter {
    place: u64,
    session: SessionId,
    mode: Mode,
    acquire: RequestNumber,
    since_us: u64,
}

/// Its bytes begin with those of the former format.
#[derive(Serialize, Deserialize)]
pub(super) struct WaiterRecord {
    former: FormerWaiter,
    is_set: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ForcedRecord {
    pub(super) name: LockName,
    token: FencingToken,
    mode: Mode,
    acquire: RequestNumber,
    withheld_until_us: Option<u64>,
}

impl From<FormerSession> for SessionRecord {
    fn from(former: FormerSession) -> SessionRecord {
        SessionRecord { former, options: SessionOptions::default(), kept: None }
    }
}

impl From<FormerWaiter> for WaiterRecord {
    fn from(former: FormerWaiter) -> WaiterRecord {
        WaiterRecord { former, is_set: false }
    }
}

impl FormerSession {
    pub(super) fn of(id: SessionId, session: &Session) -> FormerSession {
        FormerSession {
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
        }
    }
}

impl SessionRecord {
    pub(super) fn of(former: FormerSession, session: &Session) -> SessionRecord {
        SessionRecord { former, options: session.options.clone(), kept: session.kept.clone() }
    }

    pub(super) fn check(self, header: &HeaderRecord) -> Result<(SessionId, Session), SnapshotError> {
        let SessionRecord { former, options, kept } = self;
        let lease = Duration::from_millis(former.lease_ms);
        check((LEASE_MIN..=LEASE_MAX).contains(&lease), "a lease is out of range")?;
        check((1..=header.applied).contains(&former.id.0), "a session was opened by an op to come")?;
        check(former.changed <= header.applied, "a session was changed by an op to come")?;
        check(former.dead || former.deadline_us > header.time_us, "a session lives beyond its deadline")?;
        let delay = Duration::from_millis(options.lock_delay_ms);
        check(delay <= LOCK_DELAY_MAX, "a lock delay is out of range")?;
        check(former.dead || kept.is_none(), "a session that lives keeps what a dead one does")?;
        let mut window = Window::default();
        window.raise_floor(former.floor);
        let mut last = None;
        for (number, done) in former.done {
            check(number >= former.floor, "an outcome is kept below the floor")?;
            check(last < Some(number), "outcomes are out of order")?;
            last = Some(number);
            window.record(number, done);
        }
        let session = Session {
            nonce: former.nonce,
            lease,
            deadline_us: former.deadline_us,
            dead: former.dead,
            identity: former.identity,
            options,
            kept,
            window,
            changed: former.changed,
            held: BTreeSet::new(),
            waiting: BTreeMap::new(),
            forced: BTreeMap::new(),
        };
        Ok((former.id, session))
    }
}

impl FormerWaiter {
    pub(super) fn of((place, waiter): (u64, &Waiter)) -> FormerWaiter {
        let Waiter { session, acquire, mode, since_us, .. } = *waiter;
        FormerWaiter { place, session, mode, acquire, since_us }
    }
}

impl WaiterRecord {
    pub(super) fn of((place, waiter): (u64, &Waiter)) -> WaiterRecord {
        WaiterRecord { former: FormerWaiter::of((place, waiter)), is_set: waiter.is_set }
    }
}

impl<W> LockRecord<W> {
    pub(super) fn of(name: &LockName, lock: &Lock, waiter: impl Fn((u64, &Waiter)) -> W) -> LockRecord<W> {
        let holders = lock.holders().map(|tenure| HolderRecord {
            session: tenure.session,
            token: tenure.token(),
            mode: tenure.mode(),
            acquire: tenure.acquire,
            since_us: tenure.since_us,
        });
        let queue = lock.queue().into_iter().flat_map(|queue| queue.iter());
        LockRecord {
            name: name.clone(),
            changed: lock.last_changed(),
            holders: holders.collect(),
            waiters: queue.map(waiter).collect(),
        }
    }
}

impl<W: Into<WaiterRecord>> LockRecord<W> {
    /// The lock, with its holders and waiters entered into their sessions' own indexes.
    pub(super) fn check(
        self,
        header: &HeaderRecord,
        sessions: &mut Sessions,
    ) -> Result<(LockName, Lock), SnapshotError> {
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
            let WaiterRecord { former, is_set } = record.into();
            let FormerWaiter { place, session, mode, acquire, since_us } = former;
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
pub(super) fn check_recoveries(header: &HeaderRecord, sessions: &Sessions) -> Result<(), SnapshotError> {
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
    pub(super) fn enter(
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
