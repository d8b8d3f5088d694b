//! A member's edge: what the server's tasks and threads do around the real cores.
//!
//! It dies with its process. A tick is closed after all packets that had come by then were read, as the server's runtime
//! does it.

use std::collections::BTreeMap;
use std::time::Duration;

use lock_protocol::SessionId;
use lock_server::machine::Op;
use lock_server::primary::{
    Action, Call, RawTime, Retryer, RetryerEvent, Revoker, RevokerEvent, Ticker, news, notices_of, pages,
};
use rsm::{Rejection, Tag};

use super::handlers::{Asked, Parts};
use super::{LineId, LockEvent, Packet};
use crate::simulator::invariants::{Check, Run};
use crate::simulator::member::Process;
use crate::simulator::mutation::Mutation;
use crate::simulator::world::{Event, World};

/// The edge of one process.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    pub(super) ticker: Ticker<LineId>,
    pub(super) revoker: Revoker,
    pub(super) retryer: Retryer,
    pub(super) serving: bool,
    /// Sessions' callback connections, the newest of each.
    pub(super) callbacks: BTreeMap<SessionId, LineId>,
    /// Calls under way: on which connection, and when they are given up.
    pub(super) calls: BTreeMap<(bool, u64), (SessionId, LineId, Duration)>,
    /// Commands that the replica has not answered.
    pub(super) asked: BTreeMap<Tag, Asked>,
    pub(super) submissions: BTreeMap<u64, Parts>,
    pub(super) last_submission: u64,
    pub(super) sweeping: bool,
    /// A look at the clock is due then, true time; none where none is planned.
    looks_at: Option<u64>,
    closing: bool,
    /// This time of serving has derived its revokes.
    derived: bool,
}

impl Edge {
    pub(crate) fn new(mutation: Mutation) -> Self {
        Edge {
            ticker: mutation.put_into_ticker(Ticker::default()),
            revoker: mutation.put_into_revoker(Revoker::default()),
            ..Edge::default()
        }
    }
}

impl Process {
    pub(super) fn local(&self, now: u64) -> Duration {
        Duration::from_micros(self.read_clock(now))
    }

    fn raw(&self, now: u64) -> RawTime {
        RawTime::from_ns(self.read_clock(now) * 1_000)
    }
}

impl World {
    pub(super) fn process(&mut self, index: usize, run: Run) -> Option<&mut Process> {
        self.members[index].process.as_mut().filter(|process| process.run == run)
    }

    // ----- what comes from the replica

    /// The replica took a step: what its ops mean, and whether it serves; in the order of the contract.
    pub(crate) fn edge_after_step(&mut self, index: usize, serving: Option<bool>) {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let (local, raw) = (process.local(now), process.raw(now));
        let Process { replica, edge, .. } = process;
        let Some(machine) = replica.machine_mut().locks_mut() else { return };
        let mut refused = Vec::new();
        if serving.is_some() && edge.serving {
            edge.serving = false;
            machine.set_serving(false);
            refused = edge.ticker.end();
            edge.revoker.on_event(local, RevokerEvent::Stopped);
            edge.retryer.on_event(local, RetryerEvent::Stopped);
        }
        let news = news(machine.take_effects());
        if edge.serving && !news.grants.is_empty() {
            edge.retryer.on_event(local, RetryerEvent::Granted(news.grants));
        }
        if edge.serving && !news.notices.is_empty() {
            edge.revoker.on_event(local, RevokerEvent::Notices(news.notices));
        }
        if edge.serving && !news.revokes.is_empty() {
            edge.revoker.on_event(local, RevokerEvent::Revokes(news.revokes));
        }
        if serving == Some(true) {
            edge.serving = true;
            edge.derived = false;
            machine.set_serving(true);
            edge.ticker.begin(local, raw);
            edge.revoker.on_event(local, RevokerEvent::Serving);
        }
        if !refused.is_empty() {
            let refusal = self.not_serving(index);
            for line in refused {
                self.send_on(line, false, Packet::Renewed(Err(refusal.clone())));
            }
        }
        self.edge_goes_on(index);
    }

    pub(super) fn on_tick_answered(&mut self, index: usize, answer: Result<Vec<u8>, Rejection>) -> Check {
        let Some(process) = self.members[index].process.as_mut() else { return Ok(()) };
        let run = process.run;
        let mut next = None;
        let mut answered = Vec::new();
        match answer {
            Ok(reply) => {
                let (renewals, op) = process.edge.ticker.executed(&reply);
                let machine = process.replica.machine().locks();
                let sessions = renewals.sessions();
                let notices = machine.map(|machine| notices_of(machine, &sessions)).unwrap_or_default();
                let told: Vec<_> = notices.iter().map(|(notices, _)| notices.clone()).collect();
                self.invariants.answers_tell_of_force(&reply, &sessions, &told)?;
                answered = renewals.answers(Some(notices));
                next = op;
            }
            Err(rejection) => {
                let refused = process.edge.ticker.rejected(rejection);
                answered.extend(refused.into_iter().map(|(line, refusal)| (line, Err(refusal))));
            }
        }
        for (line, answer) in answered {
            self.send_on(line, false, Packet::Renewed(answer));
        }
        if let Some(op) = next {
            self.submit_tick(index, run, &op);
        }
        self.edge_goes_on(index);
        Ok(())
    }

    fn submit_tick(&mut self, index: usize, run: Run, op: &Op) {
        let command = op.encode();
        self.invariants.tick_made(run, self.now, &command);
        self.submit_command(index, command, true, Asked::Tick);
    }

    // ----- its own clock

    pub(crate) fn on_edge_time(&mut self, index: usize, run: Run) {
        let now = self.now;
        let Some(process) = self.process(index, run) else { return };
        if process.edge.looks_at.is_some_and(|at| at <= now) {
            process.edge.looks_at = None;
        }
        let local = process.local(now);
        let overdue = process.edge.calls.iter().filter(|(_, (_, _, until))| *until <= local);
        for call in overdue.map(|(call, _)| *call).collect::<Vec<_>>() {
            self.call_ended(index, call, false);
        }
        self.edge_goes_on(index);
    }

    pub(crate) fn on_close_tick(&mut self, index: usize, run: Run) {
        let now = self.now;
        let Some(process) = self.process(index, run) else { return };
        process.edge.closing = false;
        let raw = process.raw(now);
        let op = process.edge.ticker.close(|| raw);
        if let Some(op) = op {
            self.submit_tick(index, run, &op);
        }
        self.edge_goes_on(index);
    }

    pub(crate) fn on_sweep_again(&mut self, index: usize, run: Run) {
        let Some(process) = self.process(index, run) else { return };
        process.edge.sweeping = false;
        self.edge_goes_on(index);
    }

    pub(super) fn call_ended(&mut self, index: usize, call: (bool, u64), acknowledged: bool) {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let local = process.local(now);
        let Some((session, _, _)) = process.edge.calls.remove(&call) else { return };
        let (is_grant, number) = call;
        if is_grant {
            process.edge.retryer.on_event(local, RetryerEvent::Ended { session, number, acknowledged });
        } else {
            process.edge.revoker.on_event(local, RevokerEvent::Ended(session, number));
        }
        if !acknowledged {
            self.invariants.counters.hit("calls to clients that failed");
        }
        self.edge_goes_on(index);
    }

    /// Does all that is to be done now, and plans the next look at the clock.
    pub(super) fn edge_goes_on(&mut self, index: usize) {
        while self.revoker_acts(index) || self.retryer_acts(index) {}
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let (local, raw, run) = (process.local(now), process.raw(now), process.run);
        let Process { replica, edge, .. } = process;
        let Some(machine) = replica.machine().locks() else { return };
        let tick = edge.ticker.due(local, machine.shortest_lease(), || raw);
        let ticks_now = tick.is_some_and(|at| at <= local) && !edge.closing;
        edge.closing |= ticks_now;
        let sweeps = edge.serving && machine.needs_sweep() && !edge.sweeping;
        edge.sweeping |= sweeps;
        let call = edge.calls.values().map(|(_, _, until)| *until).min();
        let next = [tick.filter(|at| *at > local), edge.revoker.due(), edge.retryer.due(), call];
        let next = next.into_iter().flatten().min();
        if let Some(next) = next {
            let left = process.true_time(next.saturating_sub(local).as_micros() as u64) + 1;
            let at = now + left;
            if process.edge.looks_at.is_none_or(|planned| planned > at) {
                process.edge.looks_at = Some(at);
                self.schedule(left, Event::Lock(LockEvent::EdgeTime(index, run)));
            }
        }
        if ticks_now {
            self.schedule(0, Event::Lock(LockEvent::CloseTick(index, run)));
        }
        if sweeps {
            self.submit_command(index, Op::Sweep.encode(), false, Asked::Sweep);
        }
    }

    fn revoker_acts(&mut self, index: usize) -> bool {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return false };
        let local = process.local(now);
        let Process { replica, edge, .. } = process;
        let Some(machine) = replica.machine().locks() else { return false };
        let Some(action) = edge.revoker.next_action(local) else { return false };
        match action {
            Action::CloseConnections => {
                for line in std::mem::take(&mut edge.callbacks).into_values() {
                    self.line_ended_at_member(line, index);
                }
            }
            Action::Call(call) => self.call_client(index, false, call),
            Action::Derive { after, limit } => {
                let revokes = machine.outstanding_revokes(after.as_ref(), limit);
                if !std::mem::replace(&mut edge.derived, true) {
                    self.invariants.counters.add("revokes derived by a new primary", revokes.len() as u64);
                }
                edge.revoker.derived(local, Some(revokes));
            }
            Action::Look(wanted) => {
                let pages = pages(machine, &wanted);
                let count = pages.iter().map(Vec::len).sum::<usize>();
                self.invariants.counters.add("revokes repeated", count as u64);
                edge.revoker.looked(local, wanted, Some(pages));
            }
        }
        true
    }

    fn retryer_acts(&mut self, index: usize) -> bool {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return false };
        let local = process.local(now);
        let Some(call) = process.edge.retryer.next_call(local) else { return false };
        self.call_client(index, true, call);
        true
    }

    fn call_client(&mut self, index: usize, is_grant: bool, Call { session, number, notices }: Call) {
        let now = self.now;
        let Some(process) = self.members[index].process.as_mut() else { return };
        let local = process.local(now);
        let Some(line) = process.edge.callbacks.get(&session).copied() else {
            self.invariants.counters.hit("calls to clients without a connection");
            return match is_grant {
                true => process.edge.retryer.not_connected(local, session),
                false => process.edge.revoker.not_connected(session),
            };
        };
        let until = local + lock_server::primary::CALL_TIMEOUT;
        process.edge.calls.insert((is_grant, number), (session, line, until));
        self.send_on(line, false, Packet::Notify { is_grant, number, notices });
    }
}
