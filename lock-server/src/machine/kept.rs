//! What dead sessions keep: exclusive locks that stay held after the death of their holder.
//!
//! A session that was closed in order keeps nothing. One that expired, or was abandoned, may have sent something in the name of a lock
//! that has not arrived yet; where it asked for a lock delay, its exclusive locks are withheld from others for so long in service time.
//! One whose death requires a recovery keeps them until that is done (see `recovery.rs`), and until its lock delay has ended.
//!
//! Why it is right: the tenure stays where it is, in the way of all others, and `pass_on` knows nothing of death: so nobody can be granted
//! beside it. It gives no revoke, because who is dead is not asked. What it waited for and what it held shared is cleaned up at once, as behind
//! any dead session; the sweep passes over the exclusive ones and remembers how far it has come, so that a sweep op has bounded
//! work and no lock is looked at twice. When nothing keeps the locks any longer the session is swept a second time, and they go.

use lock_protocol::{Answer, KeptLocks, LockName, Mode, PAGE_MAX_ENTRIES, SessionEnd, SessionId};
use serde::{Deserialize, Serialize};

use super::Machine;
use super::op::Reply;
use super::recovery::{Recovery, Turn};
use super::sessions::{Ending, Session};
use super::time::ServiceTime;

/// Why a dead session's exclusive locks are still held. Its bytes stand in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Its lock delay ends then, service time, µs.
    pub(super) until_us: u64,
    /// None where none is required, or it is done.
    pub(super) recovery: Option<Recovery>,
    /// How far the sweep has come.
    pub(super) swept: Swept,
}

/// Dead sessions that keep exclusive locks, by what these wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptCounts {
    /// The end of the lock delay.
    pub delay: u64,
    /// A live session that is at their recovery.
    pub recovery: u64,
    /// Anybody who would recover them.
    pub recoverer: u64,
}

/// How far the sweep has come in the names that a dead session holds. What it has passed over is exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Swept {
    Nothing,
    /// This name is the last that it passed over.
    UpTo(LockName),
    All,
}

impl Kept {
    /// When the locks are free if nothing else happens; none while a recovery has to be done first.
    pub(super) fn free_at_us(&self) -> Option<u64> {
        self.recovery.is_none().then_some(self.until_us)
    }
}

impl Session {
    /// What it keeps if it ends now.
    pub(super) fn keeps(&self, ending: Ending, now: ServiceTime) -> Option<Kept> {
        let until_us = match ending {
            Ending::Closed => return None,
            Ending::Abandoned if !self.lock_delay().is_zero() => now.delayed_until(self.lock_delay(), self.lease),
            Ending::Abandoned | Ending::Expired => now.renewed_until(self.lock_delay()),
        };
        let recovery = self.is_recovery_required().then(Recovery::new);
        let keeps = recovery.is_some() || !self.lock_delay().is_zero();
        (keeps && !self.held.is_empty()).then_some(Kept { until_us, recovery, swept: Swept::Nothing })
    }

    /// The name that the sweep looks at next, among those that it holds.
    pub(super) fn next_swept(&self) -> Option<&LockName> {
        use std::ops::Bound::{Excluded, Unbounded};
        match self.kept.as_ref().map(|kept| &kept.swept) {
            None | Some(Swept::Nothing) => self.held.first(),
            Some(Swept::UpTo(last)) => self.held.range((Excluded(last.clone()), Unbounded)).next(),
            Some(Swept::All) => None,
        }
    }
}

impl Machine {
    pub(super) fn on_end(&mut self, session: SessionId, end: SessionEnd) -> Reply {
        let ending = match end {
            SessionEnd::Flushed => Ending::Closed,
            SessionEnd::Abandoned => Ending::Abandoned,
        };
        self.end_now(session, ending)
    }

    /// Whether the sweep passes over this lock of a dead session.
    pub(super) fn is_kept(&self, session: SessionId, name: &LockName) -> bool {
        let keeps = self.sessions.get(session).is_some_and(|entry| entry.kept.is_some());
        let tenure = self.table.get(name).and_then(|lock| lock.holder(session));
        keeps && tenure.is_some_and(|tenure| tenure.mode() == Mode::Exclusive)
    }

    /// Whether a lock delay has ended.
    pub(super) fn has_delayed_enough(&self) -> bool {
        self.sessions.first_delayed().is_some_and(|(until_us, _)| until_us <= self.time.0)
    }

    /// Takes up to `steps` steps with sessions whose lock delay has ended; returns how many are left.
    pub(super) fn end_due_delays(&mut self, mut steps: usize) -> usize {
        while steps > 0
            && self.has_delayed_enough()
            && let Some((_, session)) = self.sessions.first_delayed()
        {
            steps -= 1;
            self.sessions.free(self.applied, session);
        }
        steps
    }

    /// Dead sessions that keep exclusive locks.
    pub fn kept_counts(&self) -> KeptCounts {
        let mut counts = KeptCounts::default();
        for (_, _, kept) in self.sessions.kept_after(None) {
            *match kept.recovery.as_ref().map(|recovery| recovery.turn) {
                None => &mut counts.delay,
                Some(Turn::Assigned { .. }) => &mut counts.recovery,
                Some(Turn::Vacant { .. }) => &mut counts.recoverer,
            } += 1;
        }
        counts
    }

    pub(super) fn on_read_kept(&self, after: Option<SessionId>, limit: u32) -> Answer {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, PAGE_MAX_ENTRIES);
        let mut kept = self.sessions.kept_after(after).map(|(id, session, kept)| KeptLocks {
            session: id,
            client: session.identity.client.clone(),
            host: session.identity.host.clone(),
            pid: session.identity.pid,
            locks: session.held.len() as u64,
            delay_left_ms: ServiceTime(kept.until_us).ms_since(self.time.0),
            recovery: self.recovering(session),
        });
        let entries = kept.by_ref().take(limit).collect();
        Answer::Kept { entries, more: kept.next().is_some() }
    }
}
