//! The simulated world: a heap of events, and what each does.
//!
//! Why it is deterministic: one thread, all chance from one generator, events ordered by time and then by the order in
//! which they were scheduled, and no container whose order depends on addresses or hashes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rsm::{ClusterId, Founding, Identity, Incarnation, Input, MemberId, Message, Rejection, Tag, Token};

use super::Options;
use super::changes::Changes;
use super::dice::Dice;
use super::invariants::{Check, Invariants, Run, Violation};
use super::ledger::Ledger;
use super::medium_plan::MediumPlan;
use super::member::Member;
use super::mutation::Mutation;
use super::network::Network;
use super::plan::{Plan, Workload};
use super::trace::Trace;
use super::workload::asking::{Asking, Client, address_of};
use super::workload::locks::{LockEvent, LockWorld, WishPlan};

/// Something that happens to somebody. Members and clients by index.
#[derive(Debug)]
pub(crate) enum Event {
    /// The shell's timer.
    Tick(usize, Run),
    /// The core takes in what waits.
    Wake(usize, Run),
    /// An input comes from the shell itself.
    Input(usize, Run, Input),
    /// The store has made all up to the token durable.
    Flushed(usize, Run, Token),
    /// A message arrives.
    Arrive { to: usize, cluster: ClusterId, from: Identity, message: Message },
    /// A process starts.
    Start(usize),
    /// A process dies, as planned.
    Stop(usize, Run),
    /// A client asks.
    Ask(usize),
    /// A client's command arrives.
    Request { to: usize, client: usize, tag: Tag },
    /// An answer arrives.
    Answer { client: usize, tag: Tag, answer: Result<Vec<u8>, Rejection> },
    /// A client does not wait any longer.
    Timeout { client: usize, tag: Tag },
    /// Something goes wrong.
    Fault,
    /// Something happens in the lock service.
    Lock(LockEvent),
    /// The next member of a rolling restart.
    Roll(usize),
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    /// For media, and what else came later: a seed's other choices stay what they were.
    pub(crate) media_dice: Dice,
    /// For who uses the lock service beside its clients; likewise.
    pub(crate) lock_dice: Dice,
    /// For what its users and sessions wish for besides single locks; likewise.
    pub(crate) wish_dice: Dice,
    /// True time, µs.
    pub(crate) now: u64,
    pub(crate) events: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    runs: Run,
    pub(crate) members: Vec<Member>,
    /// Of those that found the cluster: lost before any view was in force.
    pub(crate) wiped: Vec<bool>,
    pub(crate) network: Network,
    /// What operators asked for.
    pub(crate) changes: Changes,
    /// Clients of register and map.
    pub(crate) asking: Asking,
    /// Clients of the lock service, and their connections.
    pub(crate) locks: LockWorld,
    /// Clients begin no new commands.
    pub(crate) clients_rest: bool,
    /// Answers that said OK.
    pub(crate) answers_ok: u64,
    pub(crate) invariants: Invariants,
    pub(crate) trace: Trace,
    founding: Founding,
    /// The bug that was put back.
    pub(crate) mutation: Mutation,
    /// Faults happen.
    pub(crate) unsafe_now: bool,
    /// When they end.
    pub(crate) safe_at: u64,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> World {
        let mut dice = Dice::new(seed);
        let plan = Plan::draw(&mut dice, seed, options);
        let mutation = Mutation::named(options.mutant.as_deref());
        let mut media_dice = MediumPlan::dice(!seed);
        let members = (0..plan.machines()).map(|index| {
            let identity = Identity { member: MemberId(index as u64 + 1), incarnation: draw_incarnation(&mut dice) };
            Member::new(identity, &plan.medium, mutation, &mut media_dice)
        });
        let members: Vec<Member> = members.collect();
        let listed =
            (0..plan.members).map(|index| (MemberId(index as u64 + 1), address_of(index), plan.kind_of(index)));
        let mut later = Dice::new(!seed);
        let locks = match plan.workload {
            Workload::Locks => LockWorld::new(&plan.locks, &mut later),
            _ => LockWorld::default(),
        };
        let asking = if plan.workload == Workload::Locks { 0 } else { plan.clients };
        let clients = (0..asking as u64).map(Client::new).collect();
        let mut invariants = Invariants::new(Ledger::new(&plan, mutation));
        invariants.locks.rate_max = plan.clock_rate.1;
        World {
            founding: Founding { name: "simulated".into(), members: listed.collect(), mode: "durable".into() },
            network: Network::new(plan.machines(), plan.network.clone()),
            asking: Asking { clients, ..Asking::default() },
            locks,
            wiped: vec![false; plan.members],
            changes: Changes::default(),
            members,
            dice,
            media_dice,
            lock_dice: Dice::new((!seed).rotate_left(23)),
            wish_dice: WishPlan::dice(!seed),
            now: 0,
            events: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            runs: 0,
            clients_rest: false,
            answers_ok: 0,
            invariants,
            trace: Trace::new(options.trace_lines),
            unsafe_now: false,
            safe_at: 0,
            mutation,
            plan,
        }
    }

    pub(crate) fn schedule(&mut self, delay_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + delay_us, sequence: self.sequence, event }));
    }

    /// Lets time pass until then, or until `done` says so (asked now and then). Returns whether it did.
    pub(crate) fn run_until(&mut self, end: u64, done: impl Fn(&World) -> bool) -> Result<bool, Violation> {
        const ASK_EVERY_US: u64 = 20_000;
        let mut ask_at = self.now;
        loop {
            if self.now >= ask_at {
                if done(self) {
                    return Ok(true);
                }
                ask_at = self.now + ASK_EVERY_US;
            }
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= end => {
                    let Reverse(next) = self.queue.pop().expect("it was just seen");
                    self.now = next.at;
                    self.events += 1;
                    self.happen(next.event)?;
                }
                _ => {
                    self.now = end;
                    return Ok(done(self));
                }
            }
        }
    }

    fn happen(&mut self, event: Event) -> Check {
        match event {
            Event::Tick(index, run) => self.on_tick(index, run),
            Event::Wake(index, run) => return self.on_wake(index, run),
            Event::Input(index, run, input) => {
                if self.is_running(index, run) {
                    self.deliver(index, input);
                }
            }
            Event::Flushed(index, run, token) => return self.on_flushed(index, run, token),
            Event::Arrive { to, cluster, from, message } => {
                self.deliver(to, Input::Message { cluster, from, message });
            }
            Event::Start(index) => return self.on_start(index),
            Event::Stop(index, run) => {
                if self.unsafe_now && self.is_running(index, run) {
                    return self.stop(index);
                }
            }
            Event::Ask(client) => self.on_ask(client),
            Event::Request { to, client, tag } => self.on_request(to, client, tag),
            Event::Answer { client, tag, answer } => return self.on_answer(client, tag, answer),
            Event::Timeout { client, tag } => self.on_timeout(client, tag),
            Event::Fault => return self.on_fault(),
            Event::Lock(event) => return self.on_lock(event),
            Event::Roll(next) => return self.on_roll(next),
        }
        Ok(())
    }

    /// What a process is told of its cluster: an operator sees to it that an empty store finds those who are members now.
    fn configuration(&self, index: usize) -> Founding {
        let mut founding = self.founding.clone();
        if self.members[index].store.durable.view() == 0
            && let Some(view) = self.invariants.last_view()
        {
            founding.members = view.slots.iter().map(|slot| (slot.member, slot.address.clone(), slot.kind)).collect();
        }
        let own = MemberId(index as u64 + 1);
        if let Err(place) = founding.members.binary_search_by_key(&own, |(member, ..)| *member) {
            founding.members.insert(place, (own, address_of(index), self.plan.kind_of(index)));
        }
        founding
    }

    pub(crate) fn is_running(&self, index: usize, run: Run) -> bool {
        self.members[index].process.as_ref().is_some_and(|process| process.run == run)
    }

    /// Puts an input into a process's inbox; it is lost if there is no process.
    pub(crate) fn deliver(&mut self, index: usize, input: Input) {
        let Some(process) = &mut self.members[index].process else { return };
        process.inbox.push_back(input);
        if !process.wakes {
            process.wakes = true;
            let (run, pause) = (process.run, process.paused_until.saturating_sub(self.now));
            let delay = pause + self.dice.between(self.plan.group_us);
            self.schedule(delay, Event::Wake(index, run));
        }
    }

    fn on_tick(&mut self, index: usize, run: Run) {
        if !self.is_running(index, run) {
            return;
        }
        self.look_at_list();
        self.deliver(index, Input::Tick);
        let Some(process) = &self.members[index].process else { return };
        let pause = process.paused_until.saturating_sub(self.now);
        let delay = pause + process.true_time(self.plan.timing.tick);
        self.schedule(delay, Event::Tick(index, run));
    }

    /// Starts a process, unless one runs.
    fn on_start(&mut self, index: usize) -> Check {
        self.members[index].starts = false;
        if self.members[index].process.is_some() || !self.has_memory(index)? {
            return Ok(());
        }
        let founding = self.configuration(index);
        let member = &mut self.members[index];
        self.runs += 1;
        let run = self.runs;
        member
            .start(&self.plan, &founding, &mut self.dice, run, self.now)
            .map_err(|line| Violation::new("a core starts from its own store", line))?;
        let identity = member.store.identity;
        let last = member.store.durable.last();
        self.trace.note(self.now, [1, index as u64, run], || {
            format!("member {} starts (incarnation {}), log to {last}", identity.member, identity.incarnation)
        });
        self.check_start(index)?;
        let first = self.dice.below(self.plan.timing.tick);
        self.schedule(first, Event::Tick(index, run));
        Ok(())
    }
}

pub(crate) fn draw_incarnation(dice: &mut Dice) -> Incarnation {
    Incarnation(u128::from(dice.number()) << 64 | u128::from(dice.number()))
}
