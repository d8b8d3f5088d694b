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
//! # Formats
//!
//! A release reads the format of the one before it, too, and writes the oldest that can say what the state is. So as long as nobody has used
//! what only the new release knows, members of both can be in one cluster and send each other snapshots, and the way back
//! is open. Which format that is follows from the state alone, so that members still agree on the bytes.
//!
//! # Replay
//!
//! Entries by op number, each object with the op that last changed it, and replaying twice changes nothing. Since a snapshot is
//! the state at one op, never a mixture, one number for the whole is enough to decide it: an op at or below `applied` is not
//! executed, neither in a batch that begins before it nor over a newer state. The objects' own numbers are what makes
//! the mixture avoidable: they tell, while a snapshot is under way, which of them are newer than it.

mod records;

use std::ops::Bound;

use lock_protocol::{LockName, SessionId, SessionOptions};
use rsm::SnapshotPart;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::records::{FormerSession, FormerWaiter, LockRecord, SessionRecord, WaiterRecord, check_recoveries};
use super::Machine;
use super::effects::Effects;
use super::limits::Limits;
use super::lock::Lock;
use super::restored::{may_wait, take_wait};
use super::running_hash::RunningHash;
use super::sessions::{Session, Sessions};
use super::statistics::Statistics;
use super::table::Table;
use super::time::ServiceTime;
use super::versioned::{Manner, Object};
use crate::mutant::Mutant;

/// "PLUMLK", then the format's version.
const MAGIC_NAME: [u8; 7] = *b"PLUMLK\x00";

/// The format of a snapshot; see the chapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 3: that of the former release.
    Former,
    /// 6: with options of sessions, what dead ones keep, and sets of locks that wait. 4 and 5 were never released.
    Current,
}

impl Format {
    fn magic(self) -> [u8; 8] {
        let number = match self {
            Format::Former => 3,
            Format::Current => 6,
        };
        let mut magic = [number; 8];
        magic[..7].copy_from_slice(&MAGIC_NAME);
        magic
    }

    fn of(magic: [u8; 8]) -> Result<Format, SnapshotError> {
        [Format::Former, Format::Current].into_iter().find(|format| format.magic() == magic).ok_or(SnapshotError::Magic)
    }
}

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

/// How far a snapshot in parts has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Walk {
    Sessions,
    Locks,
}

impl Machine {
    pub(super) fn write_snapshot(&self) -> Vec<u8> {
        let manner = Manner { format: self.snapshot_format(), mutation: self.mutation };
        let mut bytes = self.write_header(manner.format);
        self.sessions.iter().for_each(|(id, session)| session.write(&id, manner, &mut bytes));
        self.table.from(Bound::Unbounded).for_each(|(name, lock)| lock.write(name, manner, &mut bytes));
        bytes
    }

    /// The oldest that can say what the state is.
    fn snapshot_format(&self) -> Format {
        let plain = SessionOptions::default();
        let is_plain = self.table.sets.is_empty()
            && self.sessions.iter().all(|(_, session)| session.kept.is_none() && session.options == plain);
        if is_plain { Format::Former } else { Format::Current }
    }

    fn write_header(&self, format: Format) -> Vec<u8> {
        let header = HeaderRecord {
            limits: self.limits,
            applied: self.applied,
            hash: self.hash.0,
            time_us: self.time.0,
            sessions: self.sessions.len() as u64,
            locks: self.table.len() as u64,
        };
        let mut bytes = self.write_wait();
        bytes.extend(format.magic());
        put(&mut bytes, &header);
        bytes
    }

    pub(super) fn begin_walk(&mut self, budget_bytes: usize) -> SnapshotPart {
        let format = self.snapshot_format();
        let header = self.write_header(format);
        self.sessions.versioned().freeze(self.applied, format);
        self.table.versioned().freeze(self.applied, format);
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
        let format = Format::of(*magic)?;
        let header: HeaderRecord = take(&mut rest)?;
        check(header.applied < 1 << 53, "its op number is too large")?;
        let time = ServiceTime(header.time_us);
        check(may_wait(opens_from_us, time, header.sessions), "it waits after a restore, and has sessions")?;
        let mut sessions = Sessions::default();
        sessions.set_mutation(self.mutation);
        let mut forced = Vec::new();
        let mut last = None;
        for _ in 0..header.sessions {
            let mut record = match format {
                Format::Former => SessionRecord::from(take::<FormerSession>(&mut rest)?),
                Format::Current => take(&mut rest)?,
            };
            let former = &mut record.former;
            check(last < Some(former.id), "sessions are out of order")?;
            last = Some(former.id);
            forced.extend(std::mem::take(&mut former.forced).into_iter().map(|forced| (former.id, forced)));
            let (id, session) = record.check(&header)?;
            sessions.insert(id, session);
        }
        check_recoveries(&header, &sessions)?;
        sessions.is_assigned();
        let mut table = Table::default();
        table.versioned().mutation = self.mutation;
        let mut last = None;
        for _ in 0..header.locks {
            let (name, lock) = match format {
                Format::Former => take::<LockRecord<FormerWaiter>>(&mut rest)?.check(&header, &mut sessions)?,
                Format::Current => take::<LockRecord<WaiterRecord>>(&mut rest)?.check(&header, &mut sessions)?,
            };
            check(last.as_ref() < Some(&name), "locks are out of order")?;
            last = Some(name.clone());
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

    fn write(&self, id: &SessionId, manner: Manner, bytes: &mut Vec<u8>) {
        let mut former = FormerSession::of(*id, self);
        if manner.mutation.is(Mutant::SnapshotForgets) {
            former.done.clear();
        }
        match manner.format {
            Format::Former => put(bytes, &former),
            Format::Current => put(bytes, &SessionRecord::of(former, self)),
        }
    }
}

impl Object<LockName> for Lock {
    fn changed(&self) -> u64 {
        self.last_changed()
    }

    fn write(&self, name: &LockName, manner: Manner, bytes: &mut Vec<u8>) {
        match manner.format {
            Format::Former => put(bytes, &LockRecord::of(name, self, FormerWaiter::of)),
            Format::Current => put(bytes, &LockRecord::of(name, self, WaiterRecord::of)),
        }
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
