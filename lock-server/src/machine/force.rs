//! Ending a tenure by force.
//!
//! Why it is right: the holder may believe in its tenure until its lease would have ended, counted from a keep-alive sent before the op.
//! So the tenure stays where it is, in the way of all others, until the holder confirms that it knows, or service time has advanced
//! by the lease and a cap; the cap because the next tick's elapsed time began before the op. The holder hears of it with *every*
//! keep-alive from the op on, also when it was out of reach while the lock was withheld: otherwise a client that comes back would go
//! on with a tenure that is somebody else's now. What is to be told is therefore kept until the confirmation, beyond the tenure itself.
//!
//! A release of the tenure is the confirmation, so a client that knows nothing of force confirms by giving the lock back.

use lock_protocol::{
    Answer, FencingToken, ForceRelease, ForcedTenure, LockName, Mode, Notice, PAGE_MAX_ENTRIES, RequestNumber,
    SessionId,
};

use super::effects::Effect;
use super::lock::Tenure;
use super::op::Reply;
use super::sessions::Session;
use super::sweep::SWEEP_MAX_STEPS;
use super::{Machine, time::ServiceTime};
use crate::mutant::Mutant;

/// Tenures of one session that were ended by force and are not confirmed, at most: so that all of them fit into one reply to a
/// keep-alive, and leave room for revokes.
pub const FORCED_MAX: usize = lock_protocol::NOTICES_MAX / 2;

/// A tenure that was ended by force and is not confirmed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forced {
    pub(super) token: FencingToken,
    pub(super) mode: Mode,
    /// The acquire that was granted, or the release that requeued.
    pub(super) acquire: RequestNumber,
    /// Service time until which the tenure is in the way of others, µs; none where it is no longer.
    pub(super) withheld_until_us: Option<u64>,
}

impl Machine {
    pub(super) fn on_force(&mut self, force: &ForceRelease) -> Reply {
        let ForceRelease { name, token, now } = force;
        if self.kept_tenures(name, *token).next().is_some() {
            return Reply::Refused("a dead session keeps it, for its recovery or its lock delay".into());
        }
        let holders = self.table.get(name).into_iter().flat_map(|lock| lock.holders());
        // What dead sessions hold is the sweep's.
        let is_meant = |tenure: &&Tenure| tenure.token() == *token && self.sessions.live(tenure.session).is_some();
        let tenures: Vec<_> = holders.filter(is_meant).copied().collect();
        let new: Vec<_> =
            tenures.iter().filter(|tenure| self.forced(tenure.session, name).is_none()).copied().collect();
        let is_full =
            |tenure: &Tenure| self.sessions.live(tenure.session).is_some_and(|entry| entry.forced.len() >= FORCED_MAX);
        if new.iter().any(is_full) {
            return Reply::Busy(format!(
                "at most {FORCED_MAX} tenures of a session are ended by force and not confirmed"
            ));
        }
        for tenure in new {
            self.end_by_force(name, &tenure);
        }
        let mut ended = Vec::new();
        for tenure in tenures {
            if *now || self.mutation.is(Mutant::ForcesAtOnce) {
                self.end_withholding(tenure.session, name);
            }
            ended.extend(self.forced_tenure(tenure.session, name));
        }
        ended.truncate(PAGE_MAX_ENTRIES);
        Reply::Forced(ended)
    }

    /// Frees a lock that a dead session keeps.
    pub(super) fn on_force_kept(&mut self, name: &LockName, token: FencingToken) -> Reply {
        let sessions: Vec<SessionId> = self.kept_tenures(name, token).collect();
        for &session in &sessions {
            self.statistics.forced += 1;
            let (table, mut around) = self.table_and_around();
            table.release(&mut around, session, name, None);
            let is_done = |entry: &Session| entry.is_swept() && entry.held.is_empty();
            if self.sessions.get(session).is_some_and(is_done) {
                self.sessions.free(self.applied, session);
                self.clean_up(session, SWEEP_MAX_STEPS);
            }
        }
        Reply::Forced(sessions.into_iter().map(|session| ForcedTenure { session, withheld_ms: None }).collect())
    }

    /// The dead session that keeps this tenure, if one does.
    fn kept_tenures(&self, name: &LockName, token: FencingToken) -> impl Iterator<Item = SessionId> {
        let holders = self.table.get(name).into_iter().flat_map(|lock| lock.holders());
        let holders = holders.filter(move |tenure| tenure.token() == token).map(|tenure| tenure.session);
        holders.filter(move |&session| self.is_kept(session, name))
    }

    fn end_by_force(&mut self, name: &LockName, tenure: &Tenure) {
        let (session, token) = (tenure.session, tenure.token());
        let withheld_until_us = self.sessions.live(session).map(|entry| self.time.opened_until(entry.lease));
        let forced = Forced { token, mode: tenure.mode(), acquire: tenure.acquire, withheld_until_us };
        self.statistics.forced += 1;
        self.sessions.force(self.applied, session, name.clone(), forced);
        self.effects.tell(|| Effect::Forced { session, name: name.clone(), token });
    }

    /// What there is to confirm: this session's tenure of this lock that was ended by force.
    pub(super) fn forced(&self, session: SessionId, name: &LockName) -> Option<Forced> {
        self.sessions.live(session)?.forced.get(name).copied()
    }

    /// Whether tenures are withheld for long enough.
    pub(super) fn has_withheld_enough(&self) -> bool {
        self.sessions.first_withheld().is_some_and(|(until_us, ..)| *until_us <= self.time.0)
    }

    /// Takes up to `steps` steps with tenures that are withheld for long enough; returns how many are left.
    pub(super) fn end_due_withholdings(&mut self, mut steps: usize) -> usize {
        while steps > 0
            && self.has_withheld_enough()
            && let Some((_, session, name)) = self.sessions.first_withheld().cloned()
        {
            steps -= 1;
            self.end_withholding(session, &name);
        }
        steps
    }

    /// Frees what is withheld; the session still has to confirm.
    fn end_withholding(&mut self, session: SessionId, name: &LockName) {
        if self.sessions.end_withholding(self.applied, session, name) {
            let (table, mut around) = self.table_and_around();
            table.release(&mut around, session, name, None);
        }
    }

    /// The notices of one session; all of them, because a keep-alive must leave none out.
    pub(super) fn forced_notices(&self, session: SessionId) -> impl Iterator<Item = Notice> {
        let forced = self.sessions.live(session).filter(|_| !self.mutation.is(Mutant::ForcesSilently));
        let forced = forced.into_iter().flat_map(|entry| &entry.forced);
        forced.map(|(name, forced)| Notice::Forced { name: name.clone(), token: forced.token })
    }

    pub(super) fn on_read_forced(&self, name: &LockName) -> Answer {
        let holders = self.table.get(name).into_iter().flat_map(|lock| lock.holders());
        let forced = holders.filter_map(|tenure| self.forced_tenure(tenure.session, name));
        Answer::Forced(forced.take(PAGE_MAX_ENTRIES).collect())
    }

    fn forced_tenure(&self, session: SessionId, name: &LockName) -> Option<ForcedTenure> {
        let forced = self.forced(session, name)?;
        let withheld_ms = forced.withheld_until_us.map(|until_us| ServiceTime(until_us).ms_since(self.time.0));
        Some(ForcedTenure { session, withheld_ms })
    }
}
