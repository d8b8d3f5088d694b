//! Whole members, core and ring, on hosts that crash with and without their memory: what is answered stays, and while the guards' memories
//! last the cluster goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::ring::{Guard, MemoryId, RingMember, RingOutput};
use crate::{
    ClusterId, Control, Entry, Founding, Identity, Incarnation, Input, Kind, MemberId, Message, Micros, Output, Record,
    Recovered, Replica, Send, Settings, SnapshotImage, StateMachine, Timing, Token, View,
};

const MS: Micros = 1000;

/// All ops, in order, and those that are new.
#[derive(Clone, Debug, Default)]
struct Tape {
    ops: Vec<(u64, Vec<u8>)>,
    seen: usize,
}

impl StateMachine for Tape {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        self.ops.push((op, command.to_vec()));
        op.to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.ops).expect("bytes in memory")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.ops = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        self.seen = 0;
        Ok(())
    }

    fn hash(&self) -> u64 {
        self.ops.last().map_or(0, |(op, command)| op ^ command.iter().fold(7, |sum, byte| sum * 31 + u64::from(*byte)))
    }
}

/// On stable storage.
#[derive(Clone, Debug)]
struct Life {
    incarnation: Incarnation,
    guard: Option<Guard>,
    control: Control,
}

/// In shared memory.
#[derive(Clone, Debug)]
struct Memory {
    id: MemoryId,
    snapshot: Option<Arc<SnapshotImage>>,
    entries: Vec<Entry>,
}

struct Process {
    replica: Replica<Tape>,
    ring: RingMember,
    given: Token,
}

#[derive(Default)]
struct Host {
    life: Option<Life>,
    memory: Option<Memory>,
    process: Option<Process>,
    starts_at: Micros,
}

/// A message on its way: when it arrives, from whom, in which cluster, to whom.
type Flight = (Micros, Identity, ClusterId, usize, Message);

pub(super) struct World {
    now: Micros,
    random: Pcg64Mcg,
    hosts: Vec<Host>,
    flight: Vec<Flight>,
    /// One that is cut off from the others.
    apart: Option<usize>,
    /// What any member executed.
    ledger: BTreeMap<u64, Vec<u8>>,
    answered: u64,
    commands: u64,
    /// How often a member was restored, and began anew.
    pub(super) restored: usize,
    pub(super) renewed: usize,
    /// Outputs may be cut short by a crash.
    is_stormy: bool,
}

impl World {
    pub(super) fn new(count: usize, seed: u64) -> World {
        World {
            now: 1_000_000,
            random: Pcg64Mcg::seed_from_u64(seed),
            hosts: (0..count).map(|_| Host::default()).collect(),
            flight: Vec::new(),
            apart: None,
            ledger: BTreeMap::new(),
            answered: 0,
            commands: 0,
            restored: 0,
            renewed: 0,
            is_stormy: false,
        }
    }

    /// Time passes, with a load.
    pub(super) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += MS;
            for index in 0..self.hosts.len() {
                if self.hosts[index].process.is_none() && self.now >= self.hosts[index].starts_at {
                    self.start(index);
                }
                if self.now / MS % 10 == index as u64 {
                    self.step(index, |process, now, out| process.replica.step(now, Input::Tick, out));
                    self.ring_step(index, |process, now, out| process.ring.on_tick(now, out));
                }
            }
            let (due, later) = std::mem::take(&mut self.flight).into_iter().partition(|(at, ..)| *at <= self.now);
            self.flight = later;
            due.into_iter().for_each(|flight| self.deliver(flight));
            if self.random.random_ratio(1, 3) {
                self.submit();
            }
        }
    }

    /// Crashes of processes, of hosts, and cuts, for so long.
    pub(super) fn storm_ms(&mut self, ms: u64) {
        self.is_stormy = true;
        for _ in 0..ms / 50 {
            self.run_ms(50);
            let index = self.random.random_range(0..self.hosts.len());
            match self.random.random_range(0..40) {
                0..=1 => self.crash(index),
                2..=3 => self.crash_hosts(),
                4 => self.apart = Some(index),
                5..=8 => self.apart = None,
                _ => {}
            }
        }
        self.is_stormy = false;
        self.apart = None;
    }

    /// All that was ever answered is there, and the cluster serves.
    pub(super) fn expect_service(&mut self) {
        for _ in 0..200 {
            self.run_ms(100);
            let is_back = |host: &Host| {
                host.process.as_ref().is_some_and(|process| {
                    let status = process.replica.status();
                    status.serving && status.executed_op >= self.answered
                })
            };
            let before = self.answered;
            if self.hosts.iter().all(is_back) {
                self.run_ms(500);
                if self.answered > before {
                    return;
                }
            }
        }
        let look = |host: &Host| host.process.as_ref().map(|process| process.replica.status());
        panic!("no service: {:#?}", self.hosts.iter().map(look).collect::<Vec<_>>());
    }

    fn crash(&mut self, index: usize) {
        let Some(process) = self.hosts[index].process.take() else { return };
        drop(process);
        self.hosts[index].starts_at = self.now + self.random.random_range(1..800) * MS;
        for other in (0..self.hosts.len()).filter(|other| *other != index) {
            if self.random.random() {
                let (member, incarnation) = (member(index), None);
                self.step(other, |process, now, out| {
                    process.replica.step(now, Input::Unreachable { member, incarnation }, out);
                });
                self.ring_step(other, |process, now, out| process.ring.on_gone(now, member, out));
            }
        }
    }

    /// Some hosts lose their memory at once: as many as the claim allows. A majority of in-sync members has its memory, or a guard
    /// that has.
    fn crash_hosts(&mut self) {
        let lives = self.hosts.iter().filter_map(|host| host.life.as_ref()?.control.config.as_ref());
        let Some(view) = lives.map(|config| &config.last).max_by_key(|view| view.number).cloned() else { return };
        let is_listed = |index: usize| {
            let life = self.hosts[index].life.as_ref();
            life.is_some_and(|life| view.is_in_sync(member(index), life.incarnation))
                && self.hosts[index].memory.is_some()
        };
        if !(0..self.hosts.len()).all(is_listed) {
            return;
        }
        let lost: Vec<bool> = self.hosts.iter().map(|_| self.random.random_ratio(2, 5)).collect();
        let keeps = |index: usize| {
            let guard = self.hosts[index].life.as_ref().and_then(|life| life.guard);
            let has = |guard: Guard| {
                let host = (guard.member.0 - 1) as usize;
                !lost[host] && self.hosts[host].memory.as_ref().is_some_and(|memory| memory.id == guard.memory)
            };
            !lost[index] || guard.is_some_and(has)
        };
        if (0..self.hosts.len()).filter(|index| keeps(*index)).count() < view.majority() {
            return;
        }
        for index in (0..self.hosts.len()).filter(|index| lost[*index]) {
            self.hosts[index].memory = None;
            self.crash(index);
        }
    }

    fn start(&mut self, index: usize) {
        let before = self.hosts[index].life.clone();
        if let Some(life) = &before
            && self.hosts[index].memory.is_none()
            && let Some(guard) = life.guard
        {
            let there = &self.hosts[(guard.member.0 - 1) as usize];
            let is_there = there.memory.as_ref().is_some_and(|memory| memory.id == guard.memory);
            let own = Identity { member: member(index), incarnation: life.incarnation };
            match &there.process {
                None if is_there => return, // it is waited for
                Some(process) if is_there && lists(process, own) => {
                    let view = process.replica.view().expect("it lists somebody").clone();
                    let (snapshot, entries) = process.replica.parts();
                    let entries = entries.into_iter().map(Arc::unwrap_or_clone).collect();
                    self.restored += 1;
                    let known = life.control.config.as_ref().map_or(0, |config| config.last.number);
                    let mut life = life.clone();
                    if view.number > known {
                        life.control = Control { founding: None, config: Some(paxos::Durable::after(view)) };
                    }
                    self.hosts[index].life = Some(life);
                    self.hosts[index].memory = Some(Memory { id: MemoryId(self.random.random()), snapshot, entries });
                }
                _ => {}
            }
        }
        if self.hosts[index].memory.is_none() {
            self.renewed += usize::from(before.is_some());
            let view = before.and_then(|life| life.control.config).map(|config| config.last);
            let control = Control { founding: None, config: view.map(paxos::Durable::after) };
            let incarnation = Incarnation(self.random.random());
            self.hosts[index].life = Some(Life { incarnation, guard: None, control });
            let id = MemoryId(self.random.random());
            self.hosts[index].memory = Some(Memory { id, snapshot: None, entries: Vec::new() });
        }
        self.run_process(index);
    }

    fn run_process(&mut self, index: usize) {
        let members = (0..self.hosts.len()).map(|index| (member(index), String::new(), Kind::Replica)).collect();
        let timing = Timing::default();
        let settings = Settings {
            founding: Founding { name: "ring".into(), members, mode: "ring".into() },
            address: String::new(),
            timing,
            snapshot_every_bytes: 8 << 10,
            log_capacity_bytes: 1 << 20,
        };
        let host = &self.hosts[index];
        let (Some(life), Some(memory)) = (host.life.clone(), host.memory.clone()) else { panic!("it has both") };
        let identity = Identity { member: member(index), incarnation: life.incarnation };
        let Memory { id, snapshot, entries } = memory;
        let recovered = Recovered { identity, control: life.control, snapshot, entries, dead_bytes: 0 };
        let seed = self.random.random();
        let mut replica = Replica::new(settings, recovered, Tape::default(), seed, self.now).expect("it fits");
        let ring = RingMember::new(identity, id, life.guard, replica.stored(), timing);
        replica.step(self.now, Input::Guarded { upto: ring.first_bound() }, &mut Output::default());
        self.hosts[index].process = Some(Process { replica, ring, given: 0 });
        self.step(index, |_, _, _| {});
    }

    fn submit(&mut self) {
        let index = self.random.random_range(0..self.hosts.len());
        self.commands += 1;
        let (tag, command) = (self.commands, self.commands.to_le_bytes().to_vec());
        self.step(index, |process, now, out| {
            process.replica.step(now, Input::Submit { tag, command, urgent: false }, out);
        });
    }

    fn deliver(&mut self, (_, from, cluster, to, message): Flight) {
        match message {
            Message::Ring(word) => self.ring_step(to, |process, now, out| {
                if lists(process, from) {
                    process.ring.on_word(now, from.member, word, process.replica.stored(), out);
                }
            }),
            message => self.step(to, |process, now, out| {
                process.replica.step(now, Input::Message { cluster, from, message }, out);
            }),
        }
    }

    fn step(&mut self, index: usize, step: impl FnOnce(&mut Process, Micros, &mut Output)) {
        let Some(mut process) = self.hosts[index].process.take() else { return };
        let mut out = Output::default();
        step(&mut process, self.now, &mut out);
        self.finish(index, process, out);
    }

    fn ring_step(&mut self, index: usize, step: impl FnOnce(&mut Process, Micros, &mut RingOutput)) {
        let Some(mut process) = self.hosts[index].process.take() else { return };
        let (mut out, mut ring) = (Output::default(), RingOutput::default());
        step(&mut process, self.now, &mut ring);
        if self.carry_out_ring(index, &mut process, ring, &mut out).is_some() {
            self.finish(index, process, out);
        }
    }

    /// What the shell does until nothing is left to do; the process stays unless it dies of it.
    fn finish(&mut self, index: usize, mut process: Process, mut out: Output) {
        loop {
            process.replica.settle(self.now, &mut out);
            let given = process.given;
            if self.carry_out(index, &mut process, std::mem::take(&mut out)).is_none() {
                return self.dies(index);
            }
            if process.given > given {
                process.replica.step(self.now, Input::Durable { token: process.given }, &mut out);
                continue;
            }
            let mut ring = RingOutput::default();
            if let Some(view) = process.replica.view() {
                process.ring.enter(self.now, view, &mut ring);
            }
            process.ring.on_stored(self.now, process.replica.stored(), &mut ring);
            match self.carry_out_ring(index, &mut process, ring, &mut out) {
                Some(true) => {}
                Some(false) => break,
                None => return self.dies(index),
            }
        }
        self.check(&mut process);
        self.hosts[index].process = Some(process);
    }

    fn dies(&mut self, index: usize) {
        self.hosts[index].starts_at = self.now + self.random.random_range(1..800) * MS;
    }

    /// Whether a crash comes just now.
    fn is_struck(&mut self) -> bool {
        self.is_stormy && self.random.random_ratio(1, 20_000)
    }

    fn carry_out(&mut self, index: usize, process: &mut Process, out: Output) -> Option<()> {
        assert_eq!(out.fault, None, "member {}", index + 1);
        let durable = process.given;
        let (now, held): (Vec<_>, Vec<_>) = out.send.into_iter().partition(|send| send.after <= durable);
        now.into_iter().try_for_each(|send| self.send(index, process, send))?;
        for record in out.persist {
            if self.is_struck() {
                return None;
            }
            process.given += 1;
            self.hosts[index].persist(record);
        }
        held.into_iter().try_for_each(|send| self.send(index, process, send))?;
        for (_, answer) in out.answers {
            if let Ok(op) = answer {
                self.answered = self.answered.max(u64::from_le_bytes(op.try_into().expect("eight bytes")));
            }
        }
        Some(())
    }

    fn carry_out_ring(
        &mut self,
        index: usize,
        process: &mut Process,
        ring: RingOutput,
        out: &mut Output,
    ) -> Option<bool> {
        let RingOutput { guard, bound, send } = ring;
        if let (Some(guard), Some(life)) = (guard, &mut self.hosts[index].life) {
            life.guard = guard;
        }
        for (to, word) in send {
            self.send(index, process, Send { to, after: 0, message: Message::Ring(word) })?;
        }
        if let Some(upto) = bound {
            process.replica.step(self.now, Input::Guarded { upto }, out);
        }
        Some(bound.is_some())
    }

    fn send(&mut self, from: usize, process: &Process, send: Send) -> Option<()> {
        if self.is_struck() {
            return None;
        }
        let to = (send.to.0 - 1) as usize;
        let is_cut = self.apart.is_some_and(|apart| (apart == from) != (apart == to));
        if is_cut || (self.is_stormy && self.random.random_ratio(1, 100)) {
            return Some(());
        }
        let status = process.replica.status();
        let cluster = status.view.map_or(ClusterId(0), |view| view.cluster);
        let slow = if self.is_stormy && self.random.random_ratio(1, 50) { 300 * MS } else { 3 * MS };
        let at = self.now + self.random.random_range(0..slow);
        self.flight.push((at, status.identity, cluster, to, send.message));
        Some(())
    }

    /// What is executed is what others have executed at this op.
    fn check(&mut self, process: &mut Process) {
        let tape = process.replica.machine_mut();
        for (op, command) in &tape.ops[tape.seen..] {
            let known = self.ledger.entry(*op).or_insert_with(|| command.clone());
            assert_eq!(known, command, "two histories at op {op}");
        }
        tape.seen = tape.ops.len();
    }
}

impl Host {
    fn persist(&mut self, record: Record) {
        let (Some(life), Some(memory)) = (&mut self.life, &mut self.memory) else { panic!("it runs") };
        match record {
            Record::Control(control) => life.control = control,
            Record::Append(entry) => memory.entries.push(Arc::unwrap_or_clone(entry)),
            Record::TruncateAfter { op } => memory.entries.retain(|entry| entry.viewstamp.op <= op),
            Record::SnapshotPart { .. } | Record::Repair { .. } => {}
            Record::Snapshot { image, release } => {
                memory.snapshot = Some(image);
                memory.entries.retain(|entry| entry.viewstamp.op > release);
            }
            Record::Install { image, keep_suffix, control } => {
                life.control = control;
                memory.entries.retain(|entry| keep_suffix && entry.viewstamp.op > image.viewstamp.op);
                memory.snapshot = Some(image);
            }
        }
    }
}

fn member(index: usize) -> MemberId {
    MemberId(index as u64 + 1)
}

fn lists(process: &Process, store: Identity) -> bool {
    process.replica.view().is_some_and(|view: &View| view.lists(store.member, store.incarnation))
}
