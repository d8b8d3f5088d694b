//! A member as the simulator runs it: the core, its store, its clock, and the shell between them.

use std::collections::VecDeque;

use rsm::{ClusterId, Founding, Identity, Input, Micros, Replica, RingMember, Settings, Token, View};

use super::dice::{Dice, MILLION};
use super::invariants::Run;
use super::machine::Replicated;
use super::medium_plan::{Durability, MediumPlan};
use super::mutation::Mutation;
use super::plan::Plan;
use super::ring::Pair;
use super::store::Store;
use super::workload::asking::address_of;
use super::workload::locks::Edge;

/// A local clock: starts anywhere, and runs at its own rate.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started_at: u64,
    offset: Micros,
    rate: u64,
    slept_us: u64,
    /// The last time that the machine slept: from, until.
    sleep: (u64, u64),
}

/// A member.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) store: Store,
    /// In `ring`.
    pub(crate) pair: Option<Pair>,
    /// The process; none while it is down.
    pub(crate) process: Option<Process>,
    pub(crate) flush_is_slow: bool,
    /// A start is due; a second one is not to be asked for.
    pub(crate) starts: bool,
    mutation: Mutation,
}

/// What a process runs.
pub(crate) type Core = Replica<Replicated>;

/// A run of a member's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) replica: Core,
    /// Its part in the ring.
    pub(crate) ring: Option<RingMember>,
    pub(crate) run: Run,
    clock: Clock,
    /// What arrived and was not taken in yet.
    pub(crate) inbox: VecDeque<Input>,
    /// A step is due.
    pub(crate) wakes: bool,
    /// Stands still until then, true time.
    pub(crate) paused_until: u64,
    /// Messages that wait for their record.
    pub(crate) held: Vec<rsm::Send>,
    /// The store is at work.
    pub(crate) flushing: bool,
    pub(crate) serving: bool,
    /// Of the lock service.
    pub(crate) edge: Edge,
}

impl Member {
    pub(crate) fn new(identity: Identity, plan: &MediumPlan, mutation: Mutation, dice: &mut Dice) -> Self {
        Member {
            store: Store::format(identity, plan, mutation),
            pair: (plan.durability == Durability::Ring).then(|| Pair::new(dice)),
            process: None,
            flush_is_slow: false,
            starts: false,
            mutation,
        }
    }

    /// The last decided view that it knows, or is about to; and whether it has entered it.
    pub(crate) fn known_view(&self) -> Option<&View> {
        self.store.asked.control.config.as_ref().map(|config| &config.last)
    }

    /// The view that it has entered, or is about to.
    pub(crate) fn entered(&self) -> Option<&View> {
        let Identity { member, incarnation } = self.store.identity;
        self.known_view().filter(|view| view.lists(member, incarnation))
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.store.asked.control.cluster()
    }

    /// Starts the process from what the store holds.
    ///
    /// # Errors
    /// The core refuses the store.
    pub(crate) fn start(
        &mut self,
        plan: &Plan,
        founding: &Founding,
        dice: &mut Dice,
        run: Run,
        now: u64,
    ) -> Result<(), String> {
        let index = (self.store.identity.member.0 - 1) as usize;
        let settings = Settings {
            founding: founding.clone(),
            address: address_of(index),
            timing: plan.timing,
            snapshot_every_bytes: plan.snapshot_every_bytes,
            log_capacity_bytes: plan.log_capacity_bytes,
        };
        let clock = Clock {
            started_at: now,
            offset: dice.below(MILLION * 1000),
            rate: dice.between(plan.clock_rate),
            slept_us: 0,
            sleep: (0, 0),
        };
        let machine = Replicated::new(plan, plan.ballast_bytes, plan.part_bytes, self.mutation);
        let recovered = self.store.take_found().ok_or("the store was not recovered")?;
        let replica = Replica::new(settings, recovered, machine, dice.number(), clock.read(now))?;
        let mut replica = self.mutation.put_into(replica);
        let ring = self.pair.as_ref().map(|pair| pair.begin(&mut replica, plan.timing, clock.read(now)));
        let ring = ring.map(|ring| self.mutation.put_into_ring(ring));
        self.process = Some(Process {
            replica,
            ring,
            run,
            clock,
            inbox: VecDeque::new(),
            wakes: false,
            paused_until: 0,
            held: Vec::new(),
            flushing: false,
            serving: false,
            edge: Edge::new(self.mutation),
        });
        Ok(())
    }
}

impl Process {
    /// Its own clock's reading at a moment of true time.
    pub(crate) fn read_clock(&self, now: u64) -> Micros {
        self.clock.read(now)
    }

    /// Its machine sleeps from now on until then, and its clock with it.
    pub(crate) fn sleep(&mut self, now: u64, until: u64) {
        let (from, before) = self.clock.sleep;
        if before <= now {
            self.clock.slept_us += before - from;
            self.clock.sleep = (now, until);
        }
    }

    /// Whether its machine sleeps.
    pub(crate) fn is_asleep(&self, now: u64) -> bool {
        now < self.clock.sleep.1
    }

    /// Its clock goes ahead.
    pub(crate) fn jump(&mut self, by: Micros) {
        self.clock.offset += by;
    }

    /// True time that passes while its clock advances by so much, µs.
    pub(crate) fn true_time(&self, local_us: Micros) -> u64 {
        (local_us * MILLION / self.clock.rate).max(1)
    }

    /// Takes the held messages out whose record is durable.
    pub(crate) fn release(&mut self, is_durable: impl Fn(Token) -> bool) -> Vec<rsm::Send> {
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(|send| is_durable(send.after));
        self.held = held;
        free
    }
}

impl Clock {
    fn read(&self, now: u64) -> Micros {
        let (from, until) = self.sleep;
        let slept = self.slept_us + now.min(until).saturating_sub(from);
        self.offset + (now - self.started_at - slept) * self.rate / MILLION
    }
}
