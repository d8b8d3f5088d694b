//! What the primary's shell is to tell clients.
//!
//! None of it is state. Revokes are a function of the lock table: [`Machine::outstanding_revokes`] derives all of them, so a
//! new primary needs nothing from the old one. The index behind it (who is asked for which lock) is kept up with each
//! op, on every member, and rebuilt when a snapshot is restored; it is no part of the snapshot or the hash. Effects are its
//! changes, collected only while this member serves. A shell that loses one catches up by going through the index.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lock_protocol::{DeadSession, FencingToken, LockName, Mode, Notice, RequestNumber, SessionId};

use super::Machine;
use super::lock::Tenure;
use crate::mutant::Mutant;

/// Something to tell a client, or not to tell it any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A tenure stands in somebody's way, or is to give up more than it was asked for before.
    Revoke {
        /// Which, and what it may keep.
        revoke: Revoke,
        /// The grant itself said that others are waiting. Sending the revoke as well may wait for the first repetition.
        told_by_grant: bool,
    },
    /// A revoke that was wanted is so no longer: the tenure ended or was downgraded, or nobody waits any more.
    RevokeMoot {
        /// Whose.
        session: SessionId,
        /// The lock.
        name: LockName,
        /// The tenure.
        token: FencingToken,
    },
    /// A queued acquire was granted by somebody else's op. To be sent until acknowledged; not derived anew.
    Granted {
        /// Whose.
        session: SessionId,
        /// The lock.
        name: LockName,
        /// The acquire, or the release that requeued.
        acquire: RequestNumber,
        /// The tenure.
        token: FencingToken,
        /// Conflicting ones are in the queue.
        others_waiting: bool,
    },
    /// A tenure was ended by force. Not derived anew: each keep-alive tells of it.
    Forced {
        /// Whose.
        session: SessionId,
        /// The lock.
        name: LockName,
        /// The tenure.
        token: FencingToken,
    },
    /// A recovery was assigned. Not derived anew: each keep-alive tells of it.
    Recover {
        /// To whom.
        session: SessionId,
        /// Who is to be recovered.
        dead: DeadSession,
    },
}

/// A tenure that is to be given up, or downgraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// Whose.
    pub session: SessionId,
    /// The lock.
    pub name: LockName,
    /// The tenure.
    pub token: FencingToken,
    /// What the holder may keep: nothing, or shared.
    pub target: Option<Mode>,
}

impl From<Revoke> for Notice {
    fn from(revoke: Revoke) -> Notice {
        Notice::Revoke { name: revoke.name, token: revoke.token, target: revoke.target }
    }
}

/// The index of revokes, and the effects collected since they were last taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    serving: bool,
    pending: Vec<Effect>,
    /// Tenures that stand in somebody's way; no set is empty.
    asked: BTreeMap<SessionId, BTreeSet<LockName>>,
}

impl Effects {
    /// A tenure is asked for, or for more than before.
    pub(super) fn revoke(&mut self, revoke: Revoke, told_by_grant: bool) {
        self.asked.entry(revoke.session).or_default().insert(revoke.name.clone());
        if self.serving {
            self.pending.push(Effect::Revoke { revoke, told_by_grant });
        }
    }

    /// A tenure is not asked for (any longer).
    pub(super) fn withdraw(&mut self, session: SessionId, name: &LockName, token: FencingToken) {
        let Some(names) = self.asked.get_mut(&session) else { return };
        let was_asked = names.remove(name);
        if names.is_empty() {
            self.asked.remove(&session);
        }
        if was_asked && self.serving {
            self.pending.push(Effect::RevokeMoot { session, name: name.clone(), token });
        }
    }

    pub(super) fn tell(&mut self, effect: impl FnOnce() -> Effect) {
        if self.serving {
            self.pending.push(effect());
        }
    }
}

impl Machine {
    /// Whether effects are collected. Both ways it forgets what it had collected: who begins to serve goes through
    /// [`Machine::outstanding_revokes`] once.
    pub fn set_serving(&mut self, serving: bool) {
        self.effects.serving = serving;
        self.effects.pending = Vec::new();
    }

    /// The effects of the ops executed since the last call, in their order; nothing unless this member serves.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects.pending)
    }

    /// All revokes that the state implies, by session and name, at most `limit`, behind `after` (the last of the page
    /// before).
    pub fn outstanding_revokes(&self, after: Option<&(SessionId, LockName)>, limit: usize) -> Vec<Revoke> {
        let first = after.map_or(SessionId(0), |(session, _)| *session);
        let asked = self.effects.asked.range(first..).flat_map(|(&session, names)| {
            let start = match after {
                Some((last, name)) if *last == session => Bound::Excluded(name.clone()),
                _ => Bound::Unbounded,
            };
            names.range((start, Bound::Unbounded)).filter_map(move |name| self.revoke_of(session, name))
        });
        asked.take(limit).collect()
    }

    /// What one session is to be told of: recoveries, tenures that were ended by force, then revokes; and whether there is more than
    /// `limit`. For the reply to its keep-alive with [`lock_protocol::NOTICES_MAX`], so that nothing that was ended is left out.
    pub fn revokes_of(&self, session: SessionId, limit: usize) -> (Vec<Notice>, bool) {
        let names = self.effects.asked.get(&session).into_iter().flatten();
        let revokes = names.filter_map(|name| self.revoke_of(session, name)).map(Notice::from);
        let (recoveries, more) = self.recoveries_of(session);
        let mut notices = recoveries.chain(self.forced_notices(session)).chain(revokes);
        let first = notices.by_ref().take(limit).collect();
        (first, more || notices.next().is_some())
    }

    /// Whether this tenure still stands in somebody's way, and what it may keep: none where a revoke of it is moot.
    pub fn is_revoke_due(&self, session: SessionId, name: &LockName, token: FencingToken) -> Option<Option<Mode>> {
        self.revoke_of(session, name).filter(|revoke| revoke.token == token).map(|revoke| revoke.target)
    }

    /// Derived from the lock's entry; none for a dead session, whose locks the sweep takes.
    fn revoke_of(&self, session: SessionId, name: &LockName) -> Option<Revoke> {
        self.sessions.live(session)?;
        let lock = self.table.get(name)?;
        let tenure = lock.holder(session)?;
        let target = lock.demand().target(tenure.mode())?;
        let newest = || lock.holders().map(Tenure::token).max();
        let token = newest().filter(|_| self.mutation.is(Mutant::RevokesNewest)).unwrap_or(tenure.token());
        Some(Revoke { session, name: name.clone(), token, target })
    }
}
