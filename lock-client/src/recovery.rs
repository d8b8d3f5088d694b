//! The recoveries that fell to this session: a core without clock or IO.
//!
//! Why it is right: the right to recover is the server's to give and to take. A notice with a newer token takes the place of an older one;
//! an answer "not assigned" ends the hook; what was said with the answer lost is said again. While a hook runs its progress is reported, so that
//! nobody else is asked, but only for a limited time: a hook that hangs must not keep the dead one's locks for ever. What has ended is
//! remembered for a while, since a notice may be late.

use std::collections::BTreeMap;

use lock_protocol::{
    DeadSession, RECOVERIES_MAX, RECOVERY_TIMEOUT, RecoveryAnswer, RecoveryReport, RecoveryStep, RecoveryToken,
    SessionId,
};

use crate::session::nanoseconds;

/// Recoveries under way at most; the server tells of the others again.
const JOBS_MAX: usize = RECOVERIES_MAX;
/// Recoveries that have ended and are remembered.
const ENDED_MAX: usize = 1024;
/// Between two reports of progress.
const PROGRESS_NS: u64 = 10_000_000_000;
/// Between two reports of an end, where the first came to nothing: the server was busy.
const AGAIN_NS: u64 = 100_000_000;
const _: () = assert!(2 * PROGRESS_NS < RECOVERY_TIMEOUT.as_nanos() as u64);

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryEffect {
    /// Run the owner's hook; then [`Recoveries::on_hook_ended`].
    Start(DeadSession),
    /// The hook's work is of no use any longer: drop it.
    Stop(SessionId, RecoveryToken),
}

#[derive(Debug)]
struct Job {
    token: RecoveryToken,
    /// How it has ended, to be reported until that is answered.
    ended: Option<RecoveryStep>,
    /// A report is under way.
    is_asking: bool,
    /// The next report is due, boot time, ns.
    due_ns: u64,
    /// The hook is given up, boot time, ns.
    limit_ns: u64,
}

impl Job {
    fn ends(&mut self, step: RecoveryStep) {
        self.ended = Some(step);
        self.due_ns = 0;
    }
}

/// The recoveries of one session.
#[derive(Debug)]
pub struct Recoveries {
    limit_ns: u64,
    jobs: BTreeMap<SessionId, Job>,
    /// By dead session: the newest right that has ended.
    ended: BTreeMap<SessionId, RecoveryToken>,
    effects: Vec<RecoveryEffect>,
}

impl Recoveries {
    /// None; a hook may take `limit_ns`.
    pub fn new(limit_ns: u64) -> Self {
        Recoveries { limit_ns, jobs: BTreeMap::new(), ended: BTreeMap::new(), effects: Vec::new() }
    }

    /// What is to be done since the last call, in this order.
    pub fn take_effects(&mut self) -> Vec<RecoveryEffect> {
        std::mem::take(&mut self.effects)
    }

    /// The server tells that this session is to recover a dead one; maybe once more.
    pub fn on_notice(&mut self, now_ns: u64, dead: DeadSession) {
        let (session, token) = (dead.session, dead.token);
        let newest = self.jobs.get(&session).map(|job| job.token).max(self.ended.get(&session).copied());
        if newest >= Some(token) {
            return;
        }
        self.stop(session);
        if self.jobs.len() < JOBS_MAX {
            let (due_ns, limit_ns) = (now_ns.saturating_add(PROGRESS_NS), now_ns.saturating_add(self.limit_ns));
            self.jobs.insert(session, Job { token, ended: None, is_asking: false, due_ns, limit_ns });
            self.effects.push(RecoveryEffect::Start(dead));
        }
    }

    /// The owner's hook has ended: it has recovered the dead session, or cannot.
    pub fn on_hook_ended(&mut self, dead: SessionId, token: RecoveryToken, is_recovered: bool) {
        let job = self.jobs.get_mut(&dead).filter(|job| job.token == token && job.ended.is_none());
        if let Some(job) = job {
            job.ends(if is_recovered { RecoveryStep::Recovered } else { RecoveryStep::Declined });
        }
    }

    /// The next report to be sent now by this session; its answer goes to [`Recoveries::on_answer`].
    pub fn report(&mut self, now_ns: u64, session: SessionId) -> Option<RecoveryReport> {
        for (&dead, job) in &mut self.jobs {
            if job.ended.is_none() && now_ns >= job.limit_ns {
                job.ends(RecoveryStep::Declined);
                self.effects.push(RecoveryEffect::Stop(dead, job.token));
            }
        }
        let (&dead, job) = self.jobs.iter_mut().find(|(_, job)| !job.is_asking && now_ns >= job.due_ns)?;
        job.is_asking = true;
        job.due_ns = now_ns.saturating_add(if job.ended.is_some() { AGAIN_NS } else { PROGRESS_NS });
        let step = job.ended.unwrap_or(RecoveryStep::Progress);
        Some(RecoveryReport { session, dead, token: job.token, step })
    }

    /// The answer to a report; none where it is not known whether it was executed.
    pub fn on_answer(&mut self, report: &RecoveryReport, answer: Option<RecoveryAnswer>) {
        let Some(job) = self.jobs.get_mut(&report.dead).filter(|job| job.token == report.token) else { return };
        job.is_asking = false;
        match answer {
            None => {}
            Some(RecoveryAnswer::Accepted) if report.step == RecoveryStep::Progress => {}
            Some(RecoveryAnswer::Accepted | RecoveryAnswer::NotAssigned) => self.stop(report.dead),
        }
    }

    /// A new connection: what was said on the old one may not have been heard.
    pub fn on_connected(&mut self) {
        for job in self.jobs.values_mut() {
            job.is_asking = false;
            job.due_ns = 0;
        }
    }

    /// The session is over: all hooks end.
    pub fn on_over(&mut self) {
        while let Some(&dead) = self.jobs.keys().next() {
            self.stop(dead);
        }
    }

    /// When [`Recoveries::report`] has something though nothing happens, boot time, ns.
    pub fn next_ns(&self) -> Option<u64> {
        let next_ns = |job: &Job| match job.ended {
            _ if job.is_asking => None,
            Some(_) => Some(job.due_ns),
            None => Some(job.due_ns.min(job.limit_ns)),
        };
        self.jobs.values().filter_map(next_ns).min()
    }

    fn stop(&mut self, dead: SessionId) {
        let Some(job) = self.jobs.remove(&dead) else { return };
        if job.ended.is_none() {
            self.effects.push(RecoveryEffect::Stop(dead, job.token));
        }
        self.ended.insert(dead, job.token);
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_first();
        }
    }
}

impl Default for Recoveries {
    /// With the limit that [`crate::Builder::recovery_limit`] begins with.
    fn default() -> Self {
        Recoveries::new(nanoseconds(crate::recoverer::RECOVERY_LIMIT))
    }
}

#[cfg(test)]
mod tests {
    use RecoveryEffect::{Start, Stop};
    use lock_protocol::{ClientIdentity, GroupName};

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const OWN: SessionId = SessionId(9);
    const DEAD: SessionId = SessionId(3);

    fn dead(token: u64) -> DeadSession {
        let group = GroupName::new("volume-7").expect("a name");
        DeadSession { session: DEAD, token: RecoveryToken(token), group, identity: ClientIdentity::default() }
    }

    fn report(token: u64, step: RecoveryStep) -> RecoveryReport {
        RecoveryReport { session: OWN, dead: DEAD, token: RecoveryToken(token), step }
    }

    fn recoveries() -> Recoveries {
        let mut recoveries = Recoveries::new(100 * SECOND);
        recoveries.on_notice(0, dead(20));
        assert_eq!(recoveries.take_effects(), [Start(dead(20))]);
        recoveries
    }

    #[test]
    fn a_recovery_is_begun_once_and_reported_when_the_hook_has_ended() {
        let mut recoveries = recoveries();
        recoveries.on_notice(1, dead(20));
        assert_eq!((recoveries.take_effects(), recoveries.report(1, OWN)), (vec![], None));
        recoveries.on_hook_ended(DEAD, RecoveryToken(20), true);
        assert_eq!(recoveries.next_ns(), Some(0));
        let recovered = report(20, RecoveryStep::Recovered);
        assert_eq!((recoveries.report(2, OWN), recoveries.report(2, OWN)), (Some(recovered), None));
        recoveries.on_answer(&recovered, Some(RecoveryAnswer::Accepted));
        recoveries.on_notice(3, dead(20));
        assert_eq!((recoveries.take_effects(), recoveries.next_ns()), (vec![], None), "a late notice");
    }

    #[test]
    fn progress_is_reported_while_the_hook_runs_and_a_hook_that_hangs_is_given_up() {
        let mut recoveries = recoveries();
        for round in 1..10 {
            assert_eq!(recoveries.next_ns(), Some(10 * round * SECOND));
            let progress = report(20, RecoveryStep::Progress);
            assert_eq!(recoveries.report(10 * round * SECOND, OWN), Some(progress));
            recoveries.on_answer(&progress, Some(RecoveryAnswer::Accepted));
        }
        assert_eq!(recoveries.report(100 * SECOND, OWN), Some(report(20, RecoveryStep::Declined)));
        assert_eq!(recoveries.take_effects(), [Stop(DEAD, RecoveryToken(20))]);
        recoveries.on_hook_ended(DEAD, RecoveryToken(20), true);
        recoveries.on_connected();
        assert_eq!(recoveries.report(101 * SECOND, OWN), Some(report(20, RecoveryStep::Declined)), "too late");
    }

    #[test]
    fn a_hook_whose_right_is_over_is_stopped_and_a_newer_right_begins_anew() {
        let mut recoveries = recoveries();
        let progress = recoveries.report(10 * SECOND, OWN).expect("it is due");
        recoveries.on_answer(&progress, Some(RecoveryAnswer::NotAssigned));
        assert_eq!(recoveries.take_effects(), [Stop(DEAD, RecoveryToken(20))]);
        recoveries.on_notice(11 * SECOND, dead(20));
        assert_eq!(recoveries.take_effects(), []);
        recoveries.on_notice(11 * SECOND, dead(30));
        recoveries.on_notice(11 * SECOND, dead(40));
        recoveries.on_notice(11 * SECOND, dead(30));
        let effects = [Start(dead(30)), Stop(DEAD, RecoveryToken(30)), Start(dead(40))];
        assert_eq!(recoveries.take_effects(), effects);
        recoveries.on_hook_ended(DEAD, RecoveryToken(30), true);
        assert_eq!(recoveries.report(12 * SECOND, OWN), None, "the hook of an older right");
        recoveries.on_over();
        assert_eq!(recoveries.take_effects(), [Stop(DEAD, RecoveryToken(40))]);
    }

    #[test]
    fn a_report_of_an_end_is_sent_again_at_once_on_the_next_connection_and_after_a_pause_to_a_busy_server() {
        let mut recoveries = recoveries();
        recoveries.on_hook_ended(DEAD, RecoveryToken(20), false);
        let declined = report(20, RecoveryStep::Declined);
        assert_eq!(recoveries.report(1, OWN), Some(declined));
        recoveries.on_connected();
        assert_eq!(recoveries.report(2, OWN), Some(declined));
        recoveries.on_answer(&declined, None);
        let again_ns = 2 + AGAIN_NS;
        assert_eq!((recoveries.report(3, OWN), recoveries.next_ns()), (None, Some(again_ns)), "the server was busy");
        assert_eq!(recoveries.report(again_ns, OWN), Some(declined));
        recoveries.on_answer(&declined, Some(RecoveryAnswer::NotAssigned));
        assert_eq!((recoveries.report(u64::MAX, OWN), recoveries.take_effects()), (None, vec![]));
    }
}
