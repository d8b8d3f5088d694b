//! What the dead left passes on when its recovery has ended and its lock delay is over, or an operator freed it; and then it does.
//!
//! The notes follow what sessions asked for when they were opened, what they held exclusively when they died, and how they ended.

use std::collections::BTreeMap;

use lock_protocol::{
    FencingToken, ForcedTenure, GroupName, KeptLocks, LockName, RecoveryToken, SessionEnd, SessionId, SessionOptions,
};
use lock_server::machine::Op;

use super::lock_tenures::cap_us;
use super::lock_truth::{Granted, Seen};
use super::{Check, Invariants, Violation};

/// The notes.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Of sessions that live and asked for anything.
    pub(super) options: BTreeMap<SessionId, SessionOptions>,
    pub(super) dead: BTreeMap<SessionId, Dead>,
}

/// A session that died holding locks, and left some of them.
#[derive(Debug)]
pub(super) struct Dead {
    /// The group whose recovery is required and not done.
    pub(super) group: Option<GroupName>,
    /// Its lock delay ends then, service time, µs.
    delay_until_us: u64,
    /// What it held exclusively.
    pub(super) locks: BTreeMap<LockName, FencingToken>,
    /// Who has the right to recover it, of those who live.
    pub(super) turn: Option<(SessionId, RecoveryToken)>,
    /// Rights so far.
    pub(super) last: Option<RecoveryToken>,
}

impl Dead {
    fn is_due(&self, time_us: u64) -> bool {
        self.group.is_none() && self.delay_until_us <= time_us
    }
}

impl Kept {
    /// Whether a dead session keeps the lock, and rightly so after a sweep at this service time.
    pub(super) fn keeps(&self, session: SessionId, name: &LockName, time_us: u64) -> bool {
        self.dead.get(&session).is_some_and(|dead| !dead.is_due(time_us) && dead.locks.contains_key(name))
    }

    /// Whether something is not recovered yet. Where an operator has freed the last lock, nothing is to be recovered any more.
    pub(crate) fn awaits_recovery(&self) -> bool {
        self.dead.values().any(|dead| dead.group.is_some() && !dead.locks.is_empty())
    }

    /// Who is to be recovered, and the newest right to it.
    pub(crate) fn rights(&self) -> Vec<(SessionId, RecoveryToken)> {
        self.dead.iter().filter_map(|(session, dead)| Some((*session, dead.last?))).collect()
    }

    /// Its recovery has ended: what it left is free, unless its lock delay is not over.
    pub(super) fn forget_if_due(&mut self, session: SessionId, time_us: u64) {
        self.dead.retain(|of, dead| *of != session || !dead.is_due(time_us));
    }

    /// The last sweep is done: so are those that left nothing.
    pub(super) fn forget_swept(&mut self, time_us: u64) {
        self.dead.retain(|_, dead| !dead.is_due(time_us) && !dead.locks.is_empty());
    }
}

impl Invariants {
    /// A session ended; it held something, exclusively these.
    pub(super) fn note_kept(
        &mut self,
        op: &Op,
        session: SessionId,
        held: BTreeMap<LockName, FencingToken>,
        (time_us, lease_us): (u64, u64),
    ) {
        let Some(options) = self.locks.kept.options.remove(&session) else { return };
        let delay_us = options.lock_delay_ms * 1_000;
        let cut_us = match op {
            Op::Close { session: closed } | Op::End { session: closed, end: SessionEnd::Flushed }
                if *closed == session =>
            {
                return;
            }
            Op::End { session: ended, end: SessionEnd::Abandoned } if *ended == session && delay_us > 0 => {
                cap_us(lease_us)
            }
            _ => 0,
        };
        let group = options.recovery.filter(|group| group.required).map(|group| group.name);
        let exclusive = held.len() as u64;
        self.counters.add("locks kept for a recovery", if group.is_some() { exclusive } else { 0 });
        self.counters.add("locks kept for a lock delay", if delay_us > 0 { exclusive } else { 0 });
        if group.is_some() || delay_us > 0 {
            let delay_until_us = time_us + delay_us + cut_us;
            let dead = Dead { group, delay_until_us, locks: held, turn: None, last: None };
            self.locks.kept.dead.insert(session, dead);
        }
    }

    /// No dead session keeps the lock.
    pub(super) fn grant_waits_for_what_the_dead_left(&self, seen: &Seen<'_>, grant: &Granted) -> Check {
        let time_us = seen.machine.service_time_us();
        let mut kept = self.locks.kept.dead.iter().filter(|(_, dead)| dead.locks.contains_key(&grant.name));
        match kept.find(|(_, dead)| !dead.is_due(time_us)) {
            Some((session, dead)) => {
                let rule = match dead.group {
                    Some(_) => "a lock of the dead passes on when its recovery has ended",
                    None => "a lock of the dead passes on when its lock delay is over",
                };
                let detail = format!("op {} at {time_us} µs: {grant:?}, session {session} left {dead:?}", seen.op);
                Err(Violation::new(rule, detail))
            }
            None => Ok(()),
        }
    }

    /// An operator frees a lock of the dead: that one, and no other.
    pub(super) fn kept_forced(&mut self, name: &LockName, token: FencingToken, ended: &[ForcedTenure]) -> Check {
        let dead = self.locks.kept.dead.iter_mut().filter(|(_, dead)| dead.locks.get(name) == Some(&token));
        let mut meant = Vec::new();
        for (session, dead) in dead {
            dead.locks.remove(name);
            meant.push(*session);
        }
        self.counters.add("locks of the dead freed by force", meant.len() as u64);
        if ended.iter().map(|tenure| tenure.session).eq(meant.iter().copied()) {
            return Ok(());
        }
        let detail = format!("{name} with {token:?} of {meant:?} is answered {ended:?}");
        Err(Violation::new("force ends the tenures that it names, and no others", detail))
    }

    /// Force that does not say so is refused where a dead session keeps the tenure, and only there.
    pub(super) fn force_refused(&self, name: &LockName, token: FencingToken, is_refused: bool) -> Check {
        let is_kept = self.locks.kept.dead.values().any(|dead| dead.locks.get(name) == Some(&token));
        if is_kept == is_refused {
            return Ok(());
        }
        let detail = format!("{name} with {token:?}: kept {is_kept}, refused {is_refused}");
        Err(Violation::new("what the dead left is freed by force where that is said in so many words", detail))
    }

    /// A page of the dead has each that keeps a lock, in order.
    pub(super) fn is_page_of_the_dead(
        &self,
        after: Option<SessionId>,
        limit: u32,
        entries: &[KeptLocks],
        more: bool,
    ) -> bool {
        let is_covered = |session: &SessionId| !more || entries.last().is_some_and(|last| *session <= last.session);
        let keeps = |(session, dead): &(&SessionId, &Dead)| after < Some(**session) && !dead.locks.is_empty();
        let mut keeping = self.locks.kept.dead.iter().filter(keeps).map(|(session, _)| session);
        entries.is_sorted_by(|one, next| one.session < next.session)
            && entries.len() <= limit.max(1) as usize
            && entries.iter().all(|it| after < Some(it.session) && self.locks.kept.dead.contains_key(&it.session))
            && keeping.all(|session| !is_covered(session) || entries.iter().any(|it| it.session == *session))
    }
}
