//! The model of what dead sessions keep, and of their recovery.

use std::collections::BTreeSet;

use lock_protocol::{
    FencingToken, ForcedTenure, GroupName, KeptLocks, LockName, Mode, Recoverer, Recovering, RecoveryAnswer,
    RecoveryReport, RecoveryStep, RecoveryToken, SessionEnd, SessionId,
};

use super::model::{Model, ModelEntry, ModelSession, cap_us};
use crate::machine::Reply;

const TIMEOUT_US: u64 = 30_000_000;

/// What a dead session keeps.
#[derive(Clone, Debug)]
pub(super) struct ModelKept {
    pub(super) until_us: u64,
    pub(super) recovery: Option<ModelRecovery>,
    /// Its places in queues and its shared locks are gone.
    pub(super) is_swept: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ModelRecovery {
    /// In this round.
    tried: BTreeSet<u64>,
    /// Who, since which op, until when.
    turn: Option<(u64, u64, u64)>,
    /// The next round begins.
    again_us: Option<u64>,
    declined: bool,
}

impl Model {
    /// Ends a session; what it keeps is decided here.
    pub(super) fn die(&mut self, id: u64, end: Option<SessionEnd>) {
        let (op_us, holds) = (self.now_us, self.held.iter().any(|held| held.session == id));
        let session = self.session(id);
        session.dead = true;
        let is_required = session.group.as_ref().is_some_and(|group| group.required);
        let late_us = if end.is_some() && session.delay_us > 0 { cap_us(session.lease_us) } else { 0 };
        if end != Some(SessionEnd::Flushed) && holds && (is_required || session.delay_us > 0) {
            let recovery = is_required.then(ModelRecovery::default);
            session.kept = Some(ModelKept { until_us: op_us + session.delay_us + late_us, recovery, is_swept: false });
        }
        self.forced.retain(|forced| forced.tenure.session != id);
    }

    /// What keeps nothing any longer is cleaned up behind like all the dead.
    pub(super) fn end_due_delays(&mut self) {
        let now_us = self.now_us;
        for session in &mut self.sessions {
            let is_free = |kept: &mut ModelKept| kept.recovery.is_none() && kept.until_us <= now_us;
            session.kept.take_if(is_free);
        }
    }

    fn recovery(&mut self, dead: u64) -> Option<&mut ModelRecovery> {
        let session = self.sessions.iter_mut().find(|session| session.id == dead)?;
        session.kept.as_mut()?.recovery.as_mut()
    }

    pub(super) fn report(&mut self, report: &RecoveryReport) -> Reply {
        if !self.alive(report.session.0) {
            return Reply::SessionGone;
        }
        let until_us = self.now_us + TIMEOUT_US;
        let right = (report.session.0, report.token.0);
        let Some(recovery) = self.recovery(report.dead.0) else { return Reply::Recovery(RecoveryAnswer::NotAssigned) };
        if recovery.turn.map(|(to, token, _)| (to, token)) != Some(right) {
            return Reply::Recovery(RecoveryAnswer::NotAssigned);
        }
        match report.step {
            RecoveryStep::Progress => recovery.turn = Some((right.0, right.1, until_us)),
            RecoveryStep::Declined => (recovery.turn, recovery.declined) = (None, true),
            RecoveryStep::Recovered => {
                let now_us = self.now_us;
                let kept = self.session(report.dead.0).kept.as_mut().expect("it is recovered");
                kept.recovery = None;
                if kept.until_us <= now_us {
                    self.session(report.dead.0).kept = None;
                }
                self.clean(report.dead.0);
            }
        }
        Reply::Recovery(RecoveryAnswer::Accepted)
    }

    /// Whether the dead of a group wait, and nobody of it lives.
    pub(super) fn is_awaited(&self, name: &GroupName) -> bool {
        let is_of = |session: &&ModelSession| session.group.as_ref().is_some_and(|group| group.name == *name);
        let waits = |session: &ModelSession| {
            session
                .kept
                .as_ref()
                .and_then(|kept| kept.recovery.as_ref())
                .is_some_and(|recovery| recovery.turn.is_none())
        };
        let mut group = self.sessions.iter().filter(is_of);
        group.clone().all(|session| session.dead) && group.any(waits)
    }

    /// After each op: nobody who could recover is left unasked.
    pub(super) fn assign(&mut self) {
        let live: Vec<ModelSession> = self.sessions.iter().filter(|session| !session.dead).cloned().collect();
        let (op, now_us) = (self.op, self.now_us);
        for dead in &mut self.sessions {
            let group = dead.group.clone();
            let Some(recovery) = dead.kept.as_mut().and_then(|kept| kept.recovery.as_mut()) else { continue };
            let mates =
                live.iter().filter(|mate| mate.group.as_ref().map(|of| &of.name) == group.as_ref().map(|of| &of.name));
            let mates: BTreeSet<u64> = mates.map(|mate| mate.id).collect();
            recovery.turn.take_if(|(to, _, until_us)| !mates.contains(to) || *until_us <= now_us);
            let is_due = recovery.again_us.take_if(|again_us| *again_us <= now_us).is_some();
            if recovery.turn.is_some() {
                continue;
            }
            let is_put_off = (recovery.declined || recovery.again_us.is_some()) && !is_due;
            let mut next = mates.difference(&recovery.tried).next().copied();
            if next.is_none() && !is_put_off {
                recovery.tried.clear();
                next = mates.first().copied();
            }
            if std::mem::take(&mut recovery.declined) && next.is_none() {
                recovery.again_us = (!mates.is_empty()).then_some(now_us + TIMEOUT_US);
            }
            if let Some(to) = next {
                recovery.tried.insert(to);
                (recovery.turn, recovery.again_us) = (Some((to, op, now_us + TIMEOUT_US)), None);
            }
        }
    }

    pub(super) fn force_kept(&mut self, name: &LockName, token: FencingToken) -> Reply {
        let kept = self.kept_tenure(name, token);
        if let Some(tenure) = &kept {
            self.drop_held(tenure.session, name);
            let holds = self.held.iter().any(|held| held.session == tenure.session);
            let session = self.session(tenure.session);
            if !holds && session.kept.as_ref().is_some_and(|kept| kept.is_swept) {
                self.clean(tenure.session);
            }
        }
        let tenures = kept.into_iter().map(|tenure| SessionId(tenure.session));
        Reply::Forced(tenures.map(|session| ForcedTenure { session, withheld_ms: None }).collect())
    }

    pub(super) fn kept_tenure(&self, name: &LockName, token: FencingToken) -> Option<ModelEntry> {
        let keeps = |id| self.sessions.iter().any(|session| session.id == id && session.kept.is_some());
        let is_it = |held: &&ModelEntry| {
            held.name == *name && held.token == token.0 && held.mode == Mode::Exclusive && keeps(held.session)
        };
        self.held.iter().find(is_it).cloned()
    }

    /// As people are shown it.
    pub(super) fn kept(&self) -> Vec<KeptLocks> {
        let kept = self.sessions.iter().filter_map(|session| Some((session, session.kept.as_ref()?)));
        let shown = kept.map(|(session, kept)| KeptLocks {
            session: SessionId(session.id),
            client: String::new(),
            host: String::new(),
            pid: 0,
            locks: self.held.iter().filter(|held| held.session == session.id).count() as u64,
            delay_left_ms: kept.until_us.saturating_sub(self.now_us) / 1000,
            recovery: kept.recovery.as_ref().map(|recovery| Recovering {
                group: session.group.as_ref().expect("it has a group").name.clone(),
                by: recovery.turn.map(|(to, token, until_us)| Recoverer {
                    session: SessionId(to),
                    token: RecoveryToken(token),
                    patience_ms: (until_us - self.now_us) / 1000,
                }),
            }),
        });
        shown.collect()
    }
}
