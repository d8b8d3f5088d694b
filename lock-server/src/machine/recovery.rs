//! Recovery of a dead session by a live one of its group.
//!
//! Why it is right: the exclusive locks of the dead one stay held (see `kept.rs`) until an op says "recovered" in the name of the session
//! that it is assigned to, under the assignment's token. An assignment is state, made by the op in which its reason lies, so all members
//! make the same one; its token is that op's number, so a later assignment of the same dead session has a greater one. Who was assigned
//! before is refused from then on, whatever it believes: at most one session has the right at any op.
//!
//! **Who.** The lowest live session of the group that was not tried in this round. Since they are tried in ascending order, and one that
//! joins is higher than all before it, the last one tried says which were. A round that came to its end because they died or were silent is
//! followed by the next at once; one in which the last declined, after [`RECOVERY_TIMEOUT`], so that a group that cannot do it is
//! not asked in a circle. Without a live session it waits, and the next that joins is assigned. It lasts while there is a lock that waits
//! for it: where an operator has freed the last one, nobody recovers.
//!
//! **When.** A dead session waits for its assignment only within an op: every op ends with [`Machine::assign`]. So nothing else has to be
//! remembered than who has it and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lock_protocol::{
    DeadSession, GroupName, Notice, RECOVERIES_MAX, RECOVERY_TIMEOUT, Recoverer, Recovering, RecoveryAnswer,
    RecoveryReport, RecoveryStep, RecoveryToken, SessionId,
};
use serde::{Deserialize, Serialize};

use super::Machine;
use super::effects::Effect;
use super::op::Reply;
use super::sessions::{Session, Sessions};
use super::sweep::SWEEP_MAX_STEPS;
use super::time::ServiceTime;
use crate::mutant::Mutant;

/// A recovery that is not done. Its bytes stand in snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recovery {
    /// The sessions of the group up to this one were tried in this round.
    pub(super) tried: SessionId,
    pub(super) turn: Turn,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Turn {
    /// Nobody's. Where there are live sessions that have declined, the next round begins at this service time, µs.
    Vacant { again_us: Option<u64> },
    /// This session's, until this service time, µs, unless it is heard of.
    Assigned { to: SessionId, token: RecoveryToken, until_us: u64 },
}

impl Recovery {
    pub(super) fn new() -> Self {
        Recovery { tried: SessionId(0), turn: Turn::Vacant { again_us: None } }
    }

    /// When it is looked at though nothing happens.
    fn due_us(&self) -> Option<u64> {
        match self.turn {
            Turn::Vacant { again_us } => again_us,
            Turn::Assigned { until_us, .. } => Some(until_us),
        }
    }
}

/// Why a recovery is to be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It is new, or whose turn it was is dead or silent, or the time for the next round has come.
    Vacated,
    /// Whose turn it was has declined.
    Declined,
    /// A session has joined the group.
    Joined,
}

/// The orders in which recoveries are looked for. Derived from the sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Recoveries {
    groups: BTreeMap<GroupName, Group>,
    /// What is assigned to whom, by the session that has it; no set is empty.
    tasks: BTreeMap<SessionId, BTreeSet<SessionId>>,
    due: BTreeSet<(u64, SessionId)>,
    /// To be assigned before the op ends.
    pending: BTreeMap<SessionId, Cause>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    live: BTreeSet<SessionId>,
    /// Dead ones whose recovery is nobody's turn.
    vacant: BTreeSet<SessionId>,
}

impl Recoveries {
    /// A session of the group lives from now on.
    pub(super) fn joined(&mut self, group: &GroupName, id: SessionId) {
        let group = self.groups.entry(group.clone()).or_default();
        group.live.insert(id);
        self.pending.extend(group.vacant.iter().map(|&dead| (dead, Cause::Joined)));
    }

    /// It lives no longer: what it recovered falls to others.
    pub(super) fn left(&mut self, group: &GroupName, id: SessionId) {
        if let Some(group) = self.groups.get_mut(group) {
            group.live.remove(&id);
        }
        self.drop_if_empty(group);
        let tasks = self.tasks.get(&id).into_iter().flatten();
        self.pending.extend(tasks.map(|&dead| (dead, Cause::Vacated)));
    }

    /// This session has died, and must be recovered.
    pub(super) fn died(&mut self, dead: SessionId) {
        self.pending.insert(dead, Cause::Vacated);
    }

    /// Enters a recovery into every order.
    pub(super) fn enter(&mut self, group: &GroupName, dead: SessionId, recovery: &Recovery) {
        self.due.extend(recovery.due_us().map(|due_us| (due_us, dead)));
        match recovery.turn {
            Turn::Assigned { to, .. } => {
                self.tasks.entry(to).or_default().insert(dead);
            }
            Turn::Vacant { .. } => {
                self.groups.entry(group.clone()).or_default().vacant.insert(dead);
            }
        }
    }

    /// Takes it out of every order.
    pub(super) fn remove(&mut self, group: &GroupName, dead: SessionId, recovery: &Recovery) {
        if let Some(due_us) = recovery.due_us() {
            self.due.remove(&(due_us, dead));
        }
        if let Turn::Assigned { to, .. } = recovery.turn
            && let Some(tasks) = self.tasks.get_mut(&to)
        {
            tasks.remove(&dead);
            if tasks.is_empty() {
                self.tasks.remove(&to);
            }
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.vacant.remove(&dead);
        }
        self.drop_if_empty(group);
    }

    fn drop_if_empty(&mut self, name: &GroupName) {
        if self.groups.get(name).is_some_and(|group| group.live.is_empty() && group.vacant.is_empty()) {
            self.groups.remove(name);
        }
    }

    /// Whose turn it is next.
    fn next(&self, group: &GroupName, tried: SessionId, cause: Cause) -> Option<SessionId> {
        let live = &self.groups.get(group)?.live;
        let next = live.range((Bound::Excluded(tried), Bound::Unbounded)).next();
        let anew = || live.first().filter(|_| cause == Cause::Vacated);
        next.or_else(anew).copied()
    }

    /// What was entered was assigned before.
    pub(super) fn clear_pending(&mut self) {
        self.pending.clear();
    }

    /// Whether a live session of the group could be asked and is not.
    pub(super) fn is_overlooked(&self, group: &GroupName, recovery: &Recovery) -> bool {
        let is_vacant = matches!(recovery.turn, Turn::Vacant { again_us: None });
        is_vacant && self.groups.get(group).is_some_and(|group| !group.live.is_empty())
    }

    /// Whether the dead of a group wait, and nobody of it lives.
    pub(super) fn awaits(&self, group: &GroupName) -> bool {
        self.groups.get(group).is_some_and(|group| group.live.is_empty() && !group.vacant.is_empty())
    }

    pub(super) fn is_live(&self, group: &GroupName, id: SessionId) -> bool {
        self.groups.get(group).is_some_and(|group| group.live.contains(&id))
    }
}

impl Session {
    /// The group, where it has one.
    pub(super) fn group(&self) -> Option<&GroupName> {
        self.options.recovery.as_ref().map(|group| &group.name)
    }

    /// Its recovery, where it is dead and that is not done.
    pub(super) fn recovery(&self) -> Option<(&GroupName, &Recovery)> {
        Some((self.group()?, self.kept.as_ref()?.recovery.as_ref()?))
    }
}

impl Sessions {
    /// Puts another state in the place of a recovery.
    fn set_recovery(&mut self, op: u64, dead: SessionId, next: Option<Recovery>) {
        let (by_id, recoveries) = self.with_recoveries();
        let Some(session) = by_id.get_mut(&dead) else { return };
        let Some((group, recovery)) = session.recovery() else { return };
        recoveries.remove(group, dead, recovery);
        if let Some(next) = &next {
            recoveries.enter(group, dead, next);
        }
        session.changed = op;
        if let Some(kept) = &mut session.kept {
            kept.recovery = next;
        }
    }
}

impl Machine {
    pub(super) fn on_recovery(&mut self, report: RecoveryReport) -> Reply {
        let RecoveryReport { session, dead, token, step } = report;
        if self.sessions.live(session).is_none() {
            return Reply::SessionGone;
        }
        let recovery = self.sessions.get(dead).and_then(Session::recovery).map(|(_, recovery)| *recovery);
        let Some((recovery, to, right)) = recovery.and_then(|recovery| match recovery.turn {
            Turn::Assigned { to, token, .. } => Some((recovery, to, token)),
            Turn::Vacant { .. } => None,
        }) else {
            return Reply::Recovery(RecoveryAnswer::NotAssigned);
        };
        if (to, right) != (session, token) && !self.mutation.is(Mutant::AnyRecoverer) {
            return Reply::Recovery(RecoveryAnswer::NotAssigned);
        }
        match step {
            RecoveryStep::Progress => {
                let turn = Turn::Assigned { to, token: right, until_us: self.patience_us() };
                self.sessions.set_recovery(self.applied, dead, Some(Recovery { turn, ..recovery }));
            }
            RecoveryStep::Declined => {
                self.sessions.recoveries().pending.insert(dead, Cause::Declined);
            }
            RecoveryStep::Recovered => {
                self.sessions.set_recovery(self.applied, dead, None);
                self.sessions.is_recovered(self.applied, dead, self.time);
                self.clean_up(dead, SWEEP_MAX_STEPS);
            }
        }
        Reply::Recovery(RecoveryAnswer::Accepted)
    }

    fn patience_us(&self) -> u64 {
        self.time.renewed_until(RECOVERY_TIMEOUT)
    }

    /// Time went by: whose turn has been silent for too long loses it, and rounds that were put off begin.
    pub(super) fn on_recovery_time(&mut self) {
        let now = self.time;
        let recoveries = self.sessions.recoveries();
        let due: Vec<SessionId> =
            recoveries.due.iter().take_while(|(due_us, _)| *due_us <= now.0).map(|(_, dead)| *dead).collect();
        for dead in due {
            recoveries.pending.entry(dead).or_insert(Cause::Vacated);
        }
    }

    /// Makes the assignments that this op gives reason for.
    pub(super) fn assign(&mut self) {
        while let Some((dead, cause)) = self.sessions.recoveries().pending.pop_first() {
            self.assign_one(dead, cause);
        }
    }

    fn assign_one(&mut self, dead: SessionId, cause: Cause) {
        let Some((group, recovery)) = self.sessions.get(dead).and_then(Session::recovery) else { return };
        let (group, tried) = (group.clone(), recovery.tried);
        let again_us = self.patience_us();
        let recoveries = self.sessions.recoveries();
        let next = match recoveries.next(&group, tried, cause) {
            Some(to) => {
                let token = RecoveryToken(self.applied);
                Recovery { tried: to, turn: Turn::Assigned { to, token, until_us: again_us } }
            }
            // Nobody is left in this round; a session that joins is, so it was not that.
            None => {
                let is_empty = recoveries.groups.get(&group).is_none_or(|group| group.live.is_empty());
                Recovery { tried, turn: Turn::Vacant { again_us: (!is_empty).then_some(again_us) } }
            }
        };
        self.sessions.set_recovery(self.applied, dead, Some(next));
        if let Turn::Assigned { to, .. } = next.turn
            && let Some(told) = self.dead_session(dead)
        {
            self.effects.tell(|| Effect::Recover { session: to, dead: told });
        }
    }

    /// What is assigned to a session, as it is told; and whether there is more than one reply carries.
    pub(super) fn recoveries_of(&self, session: SessionId) -> (impl Iterator<Item = Notice>, bool) {
        let tasks = self.sessions.recoveries_seen().tasks.get(&session);
        let more = tasks.is_some_and(|tasks| tasks.len() > RECOVERIES_MAX);
        let tasks = tasks.into_iter().flatten().take(RECOVERIES_MAX);
        (tasks.filter_map(|&dead| self.dead_session(dead)).map(Notice::Recover), more)
    }

    fn dead_session(&self, dead: SessionId) -> Option<DeadSession> {
        let session = self.sessions.get(dead)?;
        let (group, recovery) = session.recovery()?;
        let Turn::Assigned { token, .. } = recovery.turn else { return None };
        Some(DeadSession { session: dead, token, group: group.clone(), identity: session.identity.clone() })
    }

    /// For people.
    pub(super) fn recovering(&self, session: &Session) -> Option<Recovering> {
        let (group, recovery) = session.recovery()?;
        let by = match recovery.turn {
            Turn::Vacant { .. } => None,
            Turn::Assigned { to, token, until_us } => {
                let patience_ms = ServiceTime(until_us).ms_since(self.time.0);
                Some(Recoverer { session: to, token, patience_ms })
            }
        };
        Some(Recovering { group: group.clone(), by })
    }
}
