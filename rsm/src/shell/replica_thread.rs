//! The replica thread: the only one that touches the core and the application.
//!
//! Why it is right: a round takes what waits, steps the core with each, settles once, and carries the output out. A fault
//! ends the member before anything of that output gets out. Messages that name a record are held until the log writer says
//! that it is durable; those that name none, or one that is durable, leave at once, before the records are even handed over, for
//! nothing they say rests on them. Records are numbered here as the core numbers them: in the order in which it asked for them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::{oneshot, watch};

use super::answers::Waiters;
use super::break_point::{BreakPoint, BreakPoints};
use super::guarding::RingPart;
use super::inbox::{Ending, Inbox, Request};
use super::link::Links;
use super::log_writer::Writer;
use super::rejoin::Rejoin;
use super::statistics::SnapshotTimer;
use super::store::RecordStore;
use crate::{
    Application, Input, MemberId, Message, Micros, Output, Record, Replica, Send, SnapshotImage, Status, Token,
    Viewstamp,
};

/// Requests taken before their outputs are carried out: one batch's worth, so that the first does not wait long.
const ROUND_MAX_REQUESTS: usize = 1024;
/// Messages held for records; more are dropped. Reached only when the medium stalls.
const HELD_MAX_MESSAGES: usize = 4096;
/// Who waits for a snapshot at a time.
const SNAPSHOT_WAITERS_MAX: usize = 16;
/// How old the published status may be while the member is busy.
const STATUS_MAX_AGE: Micros = 2_000;

/// The member's clock: µs since it started.
#[derive(Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Clock(Instant::now())
    }

    pub(super) fn now(self) -> Micros {
        Micros::try_from(self.0.elapsed().as_micros()).expect("584,000 years have not passed")
    }
}

/// What the replica thread owns.
pub(super) struct ReplicaThread<A, S> {
    pub(super) replica: Replica<A>,
    pub(super) clock: Clock,
    /// The longest time between two ticks of the core.
    pub(super) tick: Micros,
    pub(super) requests: Receiver<Request>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) writer: Writer<S>,
    pub(super) links: Links,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) break_points: Arc<BreakPoints>,
    pub(super) rejoin: Rejoin,
    /// In the mode `ring`.
    pub(super) ring: Option<RingPart>,
    pub(super) state: ThreadState,
}

/// What the replica thread remembers from round to round.
#[derive(Default)]
pub(super) struct ThreadState {
    output: Output,
    waiters: Waiters,
    held: Held,
    /// The last record's number.
    given: Token,
    /// The last record that the core knows to be durable.
    durable: Token,
    next_tick: Micros,
    status_at: Micros,
    /// The last view that it knows to be decided.
    view: u64,
    serving: bool,
    snapshot_timer: SnapshotTimer,
    /// Who waits for a snapshot, and of which entry it has to be at least.
    snapshot_waiters: Vec<(Viewstamp, oneshot::Sender<Arc<SnapshotImage>>)>,
    watch: Watch,
}

/// Messages that wait for records.
#[derive(Default)]
struct Held {
    messages: BTreeMap<Token, Vec<(MemberId, Message)>>,
    count: usize,
}

/// What the break points have to know of the past.
#[derive(Default)]
struct Watch {
    /// The last op appended when a break point was first seen armed.
    armed_at: Option<u64>,
    last: Viewstamp,
    /// Controls under way, with the view that each has entered.
    entering: Vec<(Token, u64)>,
    entered: u64,
    proposed: Option<u64>,
}

impl<A: Application, S: RecordStore> ReplicaThread<A, S> {
    /// Runs until the member is to end, or cannot go on.
    pub(super) fn run(mut self) {
        while self.rounds_in_view() {}
        self.writer.end(&self.inbox);
    }

    /// Rounds until the member learns of another view; false at the end. What is logged meanwhile bears the view's number.
    fn rounds_in_view(&mut self) -> bool {
        let view = self.state.view;
        let _in_view = tracing::info_span!("replica", view).entered();
        if view > 0 {
            tracing::info!(op = self.state.watch.last.op, "goes by this view");
        }
        while self.round() {
            if self.state.view != view {
                return true;
            }
        }
        false
    }

    /// One round; false at the end.
    fn round(&mut self) -> bool {
        let now = self.clock.now();
        self.inbox.counts.begin_round(now);
        let wait = Duration::from_micros(self.state.next_tick.saturating_sub(now));
        match self.requests.recv_timeout(wait) {
            Ok(request) => self.take(request),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.take_durable();
        for _ in 1..ROUND_MAX_REQUESTS {
            match self.requests.try_recv() {
                Ok(request) => self.take(request),
                Err(_) => break,
            }
        }
        let now = self.clock.now();
        if now >= self.state.next_tick {
            self.state.next_tick = now + self.tick;
            self.writer.on_tick(&self.inbox);
            self.step(Input::Tick);
            self.tick_ring();
        }
        for damage in self.inbox.take_damage() {
            self.step(Input::Damaged { damage });
        }
        let ending = self.inbox.ending();
        let goes_on = ending != Ending::Abrupt && self.settle();
        self.hand_out_snapshot();
        goes_on && ending == Ending::Running
    }

    /// Steps the core with a request.
    fn take(&mut self, request: Request) {
        self.inbox.taken(&request);
        match request {
            Request::Message { from, message: Message::Ring(word), .. } => self.on_ring_word(from, word),
            Request::Message { cluster, from, message, .. } => {
                self.watch_incoming(&message);
                self.rejoin.on_heard(&message);
                self.step(Input::Message { cluster, from, message });
            }
            Request::Submit { command, urgent, reply } => {
                self.watch_arming();
                let tag = self.state.waiters.one(reply);
                self.step(Input::Submit { tag, command, urgent });
            }
            Request::SubmitAll { commands, reply } => {
                self.watch_arming();
                let first = self.state.waiters.all(commands.len(), reply);
                for (tag, command) in (first..).zip(commands) {
                    self.step(Input::Submit { tag, command, urgent: false });
                }
            }
            Request::Unreachable(member, incarnation) => {
                self.step(Input::Unreachable { member, incarnation });
                self.on_ring_gone(member, incarnation);
            }
            Request::HandOver(to) => self.step(Input::HandOver { to }),
            Request::Change(change, reply) => {
                let tag = self.state.waiters.change(reply);
                self.step(Input::Change { tag, change });
            }
            Request::Visit(visit) => {
                let application: &mut dyn Any = self.replica.machine_mut();
                visit(application);
            }
            Request::Copy(from, memory, reply) => drop(reply.send(self.copy_for(from, memory))),
            Request::Snapshot(reply) => self.on_snapshot_wanted(reply),
            Request::Wake => {}
        }
    }

    /// Where none can be taken, or too many wait for one, the asker's channel is dropped.
    fn on_snapshot_wanted(&mut self, reply: oneshot::Sender<Arc<SnapshotImage>>) {
        if self.state.snapshot_waiters.len() < SNAPSHOT_WAITERS_MAX
            && let Some(wanted) = self.replica.want_snapshot()
        {
            self.state.snapshot_waiters.push((wanted, reply));
        }
    }

    /// Gives the newest snapshot to those that it is new enough for.
    fn hand_out_snapshot(&mut self) {
        if self.state.snapshot_waiters.is_empty() {
            return;
        }
        let Some(image) = self.replica.newest_snapshot() else { return };
        for (_, reply) in self.state.snapshot_waiters.extract_if(.., |(wanted, _)| *wanted <= image.viewstamp) {
            // Who does not wait any longer does not need it.
            drop(reply.send(Arc::clone(image)));
        }
    }

    /// Tells the core, and those that wait, how far the records are durable.
    fn take_durable(&mut self) {
        let token = self.inbox.durable();
        if token <= self.state.durable {
            return;
        }
        self.state.durable = token;
        self.state.snapshot_timer.on_durable(token, self.clock.now(), &self.inbox.counts);
        self.watch_durable(token);
        for (to, message) in self.state.held.release(token) {
            self.send(to, message);
        }
        self.step(Input::Durable { token });
    }

    pub(super) fn step(&mut self, input: Input) {
        self.replica.step(self.clock.now(), input, &mut self.state.output);
    }

    /// Lets the core settle, and carries out what came of the round; false if the member cannot go on.
    fn settle(&mut self) -> bool {
        loop {
            self.replica.settle(self.clock.now(), &mut self.state.output);
            let output = std::mem::take(&mut self.state.output);
            let durable = self.state.durable;
            if !self.carry_out(output) {
                return false;
            }
            // Only a store that is written inline can have made progress; each turn needs new records, or a new view, so this ends.
            let has_progressed = !matches!(self.writer, Writer::Thread(_)) && self.inbox.durable() != durable;
            if has_progressed {
                self.take_durable();
            } else if !self.tend_ring() {
                return true;
            }
        }
    }

    fn carry_out(&mut self, mut output: Output) -> bool {
        if let Some(line) = output.fault {
            self.inbox.fail(line);
            return false;
        }
        let entered = self.count(&output.persist);
        for Send { to, after, message } in output.send {
            self.watch_proposal(&message);
            match after <= self.state.durable {
                true => self.send(to, message),
                false => self.state.held.hold(after, to, message),
            }
        }
        if !output.persist.is_empty() && !self.writer.take(&mut output.persist, &self.inbox) {
            return false;
        }
        for (tag, answer) in output.answers {
            self.state.waiters.answer(tag, answer);
        }
        for (tag, answer) in output.changes {
            self.state.waiters.answer_change(tag, answer);
        }
        let changed = output.serving.is_some() || entered;
        self.tell_application(output.serving, output.executed_ops);
        self.publish(changed);
        true
    }

    /// Numbers the records; true if the control record is among them.
    fn count(&mut self, records: &[Record]) -> bool {
        let now = self.clock.now();
        let mut control_changed = false;
        for record in records {
            self.state.given += 1;
            self.rejoin.on_record(record);
            self.state.snapshot_timer.on_record(record, self.state.given, now);
            match record {
                Record::Control(control) | Record::Install { control, .. } => {
                    control_changed = true;
                    self.links.set_cluster(control.cluster());
                    let view = control.config.as_ref().map_or(0, |config| config.last.number);
                    if let Some(config) = &control.config {
                        self.links.follow(&config.last);
                    }
                    self.state.view = view;
                    self.state.watch.entering.push((self.state.given, view));
                }
                Record::Append(entry) => self.state.watch.last = entry.viewstamp,
                Record::TruncateAfter { .. }
                | Record::SnapshotPart { .. }
                | Record::Snapshot { .. }
                | Record::Repair { .. } => {}
            }
        }
        control_changed
    }

    fn tell_application(&mut self, serving: Option<bool>, executed_ops: u64) {
        let application = self.replica.machine_mut();
        // Ceasing comes first, and also where the core ceased and began again within this round.
        if serving.is_some() && self.state.serving {
            self.state.serving = false;
            application.stopped_serving();
        }
        if executed_ops > 0 && self.state.serving {
            application.executed();
        }
        if serving == Some(true) {
            self.state.serving = true;
            tracing::info!(view = self.state.view, "primary, and the view has started");
            application.serving();
        }
    }

    /// Publishes the status: at once where it matters to others, else now and then.
    fn publish(&mut self, changed: bool) {
        let now = self.clock.now();
        if changed || now - self.state.status_at >= STATUS_MAX_AGE {
            self.state.status_at = now;
            self.writer.report(&self.inbox);
            let status = self.replica.status();
            self.rejoin.look(&status);
            self.status.send_if_modified(|published| {
                let differs = **published != status;
                if differs {
                    *published = Arc::new(status);
                }
                differs
            });
        }
    }

    pub(super) fn send(&mut self, to: MemberId, message: Message) {
        self.watch_outgoing(&message);
        self.rejoin.on_sent(&message);
        self.links.send(to, message);
    }
}

/// The break points.
impl<A: Application, S: RecordStore> ReplicaThread<A, S> {
    /// Entries above the log's end at this moment were appended after arming.
    fn watch_arming(&mut self) {
        let armed = self.break_points.may_die();
        let watch = &mut self.state.watch;
        watch.armed_at = armed.then(|| watch.armed_at.unwrap_or(watch.last.op));
    }

    fn watch_incoming(&mut self, message: &Message) {
        self.watch_arming();
        if let (Message::Ack { verified, .. }, Some(op)) = (message, self.state.watch.armed_at)
            && verified.op > op
        {
            self.break_points.pass(BreakPoint::AfterFirstAck);
        }
    }

    fn watch_outgoing(&self, message: &Message) {
        match message {
            Message::Ack { verified, .. } if self.state.watch.armed_at.is_some_and(|op| verified.op > op) => {
                self.break_points.pass(BreakPoint::BeforeAck);
            }
            Message::Paxos(paxos::Message::Accept { .. }) => {
                self.break_points.pass(BreakPoint::BetweenPrepareAndAccept);
            }
            _ => {}
        }
    }

    /// Before anything is durable or sent of the step in which the core learnt that its proposal is decided.
    fn watch_proposal(&mut self, message: &Message) {
        match message {
            Message::Paxos(paxos::Message::Accept { instance, .. }) => self.state.watch.proposed = Some(*instance),
            Message::Paxos(paxos::Message::Decided { value }) if self.state.watch.proposed == Some(value.number) => {
                self.break_points.pass(BreakPoint::BetweenAcceptAndDecide);
            }
            _ => {}
        }
    }

    fn watch_durable(&mut self, token: Token) {
        let watch = &mut self.state.watch;
        let entered = watch.entering.iter().filter(|(record, _)| *record <= token).map(|(_, view)| *view).max();
        watch.entering.retain(|(record, _)| *record > token);
        if entered > Some(watch.entered) {
            watch.entered = entered.unwrap_or_default();
            self.break_points.pass(BreakPoint::OnEnterView);
        }
    }
}

impl ThreadState {
    /// For a member that last entered this view, and whose log ends there.
    pub(super) fn new(entered: u64, last: Viewstamp) -> Self {
        ThreadState { view: entered, watch: Watch { entered, last, ..Watch::default() }, ..ThreadState::default() }
    }
}

impl Held {
    fn hold(&mut self, after: Token, to: MemberId, message: Message) {
        if self.count < HELD_MAX_MESSAGES {
            self.count += 1;
            self.messages.entry(after).or_default().push((to, message));
        }
    }

    /// Those whose record is durable, in the order of the records.
    fn release(&mut self, durable: Token) -> Vec<(MemberId, Message)> {
        let later = match durable.checked_add(1) {
            Some(next) => self.messages.split_off(&next),
            None => BTreeMap::new(),
        };
        let released: Vec<_> = std::mem::replace(&mut self.messages, later).into_values().flatten().collect();
        self.count -= released.len();
        released
    }
}

#[cfg(test)]
#[path = "replica_thread_tests.rs"]
mod tests;
