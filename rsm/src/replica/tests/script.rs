//! A cluster of cores on a table: messages are delivered when the script says so, disks may be held, links cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::mutant::Mutant;
use crate::view::Fnv;
use crate::{
    Change, ChangeError, ClusterId, Control, Entry, Founding, Identity, Incarnation, Input, Kind, MemberId, Message,
    Micros, Output, Record, Recovered, Rejection, Replica, Settings, SnapshotImage, SnapshotPart, StateMachine, Tag,
    Timing,
};

/// Remembers every command with its op. Its snapshots come in parts: what is left of one stands last.
#[derive(Debug, Default, Clone)]
pub(super) struct Journal(pub(super) Vec<(u64, Vec<u8>)>, u64, Vec<u8>);

impl PartialEq for Journal {
    fn eq(&self, other: &Self) -> bool {
        (&self.0, self.1) == (&other.0, other.1)
    }
}

impl StateMachine for Journal {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        self.push(op, command);
        command.to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.0).expect("bytes in memory")
    }

    fn begin_snapshot(&mut self, budget_bytes: usize) -> SnapshotPart {
        self.2 = self.snapshot();
        self.next_snapshot_part(budget_bytes)
    }

    fn next_snapshot_part(&mut self, budget_bytes: usize) -> SnapshotPart {
        let later = self.2.split_off(self.2.len().min(budget_bytes));
        let bytes = std::mem::replace(&mut self.2, later);
        SnapshotPart { bytes, is_last: self.2.is_empty() }
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        *self = Journal::default();
        let commands: Vec<(u64, Vec<u8>)> = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        for (op, command) in commands {
            self.push(op, &command);
        }
        Ok(())
    }

    fn hash(&self) -> u64 {
        self.1
    }
}

impl Journal {
    pub(super) fn push(&mut self, op: u64, command: &[u8]) {
        let mut hash = Fnv::new();
        hash.bytes(&self.1.to_le_bytes());
        hash.bytes(&op.to_le_bytes());
        hash.bytes(command);
        self.1 = hash.finish();
        self.0.push((op, command.to_vec()));
    }
}

/// A medium: what was asked for, and how much of it is durable.
#[derive(Debug)]
struct Medium {
    identity: Identity,
    records: Vec<Record>,
    durable: usize,
    is_held: bool,
}

impl Medium {
    fn new(member: u64, incarnation: u128) -> Self {
        let identity = Identity { member: MemberId(member), incarnation: Incarnation(incarnation) };
        Medium { identity, records: Vec::new(), durable: 0, is_held: false }
    }

    fn recovered(&self) -> Recovered {
        let (mut control, mut snapshot, mut entries) = (Control::default(), None, Vec::<Entry>::new());
        for record in &self.records {
            match record {
                Record::Control(new) => control = new.clone(),
                Record::Append(entry) => entries.push(entry.as_ref().clone()),
                Record::TruncateAfter { op } => entries.retain(|entry| entry.viewstamp.op <= *op),
                Record::SnapshotPart { .. } | Record::Repair { .. } => {}
                Record::Snapshot { image, release } => {
                    snapshot = Some(Arc::<SnapshotImage>::clone(image));
                    entries.retain(|entry| entry.viewstamp.op > *release);
                }
                Record::Install { image, keep_suffix, control: new } => {
                    (snapshot, control) = (Some(Arc::clone(image)), new.clone());
                    if !keep_suffix {
                        entries.clear();
                    }
                }
            }
        }
        Recovered { identity: self.identity, control, snapshot, entries, dead_bytes: 0 }
    }
}

/// The table.
pub(super) struct Script {
    pub(super) now: Micros,
    pub(super) settings: Settings,
    pub(super) mutant: Option<Mutant>,
    pub(super) members: BTreeMap<u64, Replica<Journal>>,
    media: BTreeMap<u64, Medium>,
    flight: VecDeque<(Identity, ClusterId, u64, Message)>,
    gated: BTreeMap<u64, Vec<crate::Send>>,
    cut: BTreeSet<(u64, u64)>,
    /// Inputs of members that stand still.
    piles: BTreeMap<u64, Vec<Input>>,
    /// Messages that get lost: from, to, what.
    loses: fn(u64, u64, &Message) -> bool,
    /// What was sent, while it is listened for: from, to, what.
    pub(super) heard: Option<Vec<(u64, u64, Message)>>,
    /// What members outside the founding list store.
    kinds: BTreeMap<u64, Kind>,
    pub(super) answers: BTreeMap<Tag, Result<Vec<u8>, Rejection>>,
    pub(super) changes: BTreeMap<Tag, Result<u64, ChangeError>>,
    pub(super) faults: BTreeMap<u64, String>,
    next_tag: Tag,
}

impl Script {
    /// `count` members with empty stores, none of them started.
    pub(super) fn new(count: u64, mutant: Option<Mutant>) -> Self {
        Script::of(&vec![Kind::Replica; count as usize], mutant)
    }

    /// The same, of these kinds.
    pub(super) fn of(kinds: &[Kind], mutant: Option<Mutant>) -> Self {
        let count = kinds.len() as u64;
        let members = (1..).zip(kinds).map(|(id, kind)| (MemberId(id), format!("m{id}"), *kind)).collect();
        let founding = Founding { name: "test".into(), members, mode: "nvm".into() };
        Script {
            now: 1_000_000,
            settings: Settings {
                founding,
                address: String::new(),
                timing: Timing::default(),
                snapshot_every_bytes: 1 << 20,
                log_capacity_bytes: 8 << 20,
            },
            mutant,
            members: BTreeMap::new(),
            media: (1..=count).map(|id| (id, Medium::new(id, u128::from(id)))).collect(),
            flight: VecDeque::new(),
            gated: BTreeMap::new(),
            cut: BTreeSet::new(),
            piles: BTreeMap::new(),
            loses: |_, _, _| false,
            heard: None,
            kinds: BTreeMap::new(),
            answers: BTreeMap::new(),
            changes: BTreeMap::new(),
            faults: BTreeMap::new(),
            next_tag: 0,
        }
    }

    /// A founded cluster of three that serves, member 1 primary.
    pub(super) fn serving(count: u64, mutant: Option<Mutant>) -> Self {
        let script = Script::new(count, mutant);
        script.founded()
    }

    /// All started, and the cluster founded.
    pub(super) fn founded(mut self) -> Self {
        for id in self.media.keys().copied().collect::<Vec<_>>() {
            self.start(id);
        }
        self.run_until("the cluster is founded", |script| script.primary().is_some());
        self.run(100);
        self
    }

    /// A formatted store for one more member, which the founding list does not name.
    pub(super) fn format(&mut self, id: u64, kind: Kind) {
        self.kinds.insert(id, kind);
        self.media.insert(id, Medium::new(id, u128::from(id)));
    }

    /// From now on these messages get lost.
    pub(super) fn lose(&mut self, loses: fn(u64, u64, &Message) -> bool) {
        self.loses = loses;
    }

    /// Asks a member for a change; the answer comes under the tag.
    pub(super) fn change(&mut self, id: u64, change: Change) -> Tag {
        self.next_tag += 1;
        let tag = self.next_tag;
        self.step(id, Input::Change { tag, change });
        tag
    }

    /// Has the serving primary make a change, and waits for it.
    pub(super) fn make(&mut self, change: Change) -> Result<u64, ChangeError> {
        let primary = self.primary().expect("somebody serves");
        let tag = self.change(primary, change);
        self.run_until("the change is answered", |script| script.changes.contains_key(&tag));
        self.changes[&tag].clone()
    }

    /// Lists a new member, starts it, and waits until it counts.
    pub(super) fn grow(&mut self, id: u64, kind: Kind) {
        self.format(id, kind);
        let change = Change::Add { member: MemberId(id), address: format!("m{id}"), kind };
        self.make(change).expect("it is added");
        self.start(id);
        self.run_until("the new member counts", |script| {
            script
                .primary()
                .is_some_and(|primary| script.view(primary).is_in_sync(MemberId(id), Incarnation(id.into())))
        });
    }

    /// A member proposes the next view on its own account, with this primary.
    pub(super) fn propose(&mut self, id: u64, primary: u64) {
        let mut out = Output::default();
        let now = self.now;
        let replica = self.members.get_mut(&id).expect("it runs");
        assert!(replica.propose(now, MemberId(primary), &[], &[], &mut out), "it may propose that");
        self.carry_out(id, out);
    }

    pub(super) fn start(&mut self, id: u64) {
        self.try_start(id).expect("a sound store");
    }

    pub(super) fn try_start(&mut self, id: u64) -> Result<(), String> {
        let mut settings = Settings { address: format!("m{id}"), ..self.settings.clone() };
        if let Some(kind) = self.kinds.get(&id) {
            settings.founding.members.push((MemberId(id), format!("m{id}"), *kind));
        }
        let recovered = self.media[&id].recovered();
        let seed = id + self.now;
        let replica = Replica::new(settings, recovered, Journal::default(), seed, self.now)?;
        self.members.insert(id, replica.with_mutant(self.mutant));
        Ok(())
    }

    /// kill -9: what was not durable is gone.
    pub(super) fn kill(&mut self, id: u64) {
        self.members.remove(&id);
        self.gated.remove(&id);
        let medium = self.media.get_mut(&id).expect("a member of the script");
        medium.records.truncate(medium.durable);
        medium.is_held = false;
    }

    /// The store is lost with everything in it.
    pub(super) fn lose_store(&mut self, id: u64) {
        self.kill(id);
        let incarnation = self.media[&id].identity.incarnation.0 + 100;
        self.media.insert(id, Medium::new(id, incarnation));
    }

    pub(super) fn hold_disk(&mut self, id: u64, held: bool) {
        self.media.get_mut(&id).expect("a member of the script").is_held = held;
        if !held {
            self.flush();
        }
    }

    pub(super) fn isolate(&mut self, id: u64) {
        for other in self.media.keys() {
            self.cut.insert((id, *other));
            self.cut.insert((*other, id));
        }
    }

    pub(super) fn cut_link(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(super) fn cut_one_way(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.loses = |_, _, _| false;
    }

    pub(super) fn step(&mut self, id: u64, input: Input) {
        match self.piles.get_mut(&id) {
            Some(pile) => pile.push(input),
            None => self.step_all(id, vec![input]),
        }
    }

    /// Takes inputs in as one group.
    fn step_all(&mut self, id: u64, inputs: Vec<Input>) {
        let mut out = Output::default();
        let Some(replica) = self.members.get_mut(&id) else { return };
        for input in inputs {
            replica.step(self.now, input, &mut out);
        }
        replica.settle(self.now, &mut out);
        self.carry_out(id, out);
    }

    /// A member stands still: what comes for it piles up.
    pub(super) fn pause(&mut self, id: u64) {
        self.piles.insert(id, Vec::new());
    }

    /// It goes on, and takes all of that in at once.
    pub(super) fn resume(&mut self, id: u64) {
        let pile = self.piles.remove(&id).expect("it stands still");
        self.step_all(id, pile);
    }

    fn carry_out(&mut self, id: u64, out: Output) {
        if let Some(line) = out.fault {
            self.faults.insert(id, line);
            self.kill(id);
            return;
        }
        let medium = self.media.get_mut(&id).expect("a member of the script");
        medium.records.extend(out.persist);
        self.answers.extend(out.answers);
        self.changes.extend(out.changes);
        self.gated.entry(id).or_default().extend(out.send);
        self.release(id);
    }

    fn release(&mut self, id: u64) {
        let Some(replica) = self.members.get(&id) else { return };
        let medium = &self.media[&id];
        let cluster = replica.control().cluster();
        // Tokens count from the start of the run.
        let offset = self.offsets(id);
        let (go, stay) = self
            .gated
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .partition(|send: &crate::Send| send.after == 0 || send.after + offset <= medium.durable as u64);
        for crate::Send { to, message, .. } in go {
            if let Some(heard) = &mut self.heard {
                heard.push((id, to.0, message.clone()));
            }
            self.flight.push_back((medium.identity, cluster, to.0, message));
        }
        self.gated.insert(id, stay);
    }

    fn offsets(&self, id: u64) -> u64 {
        self.media[&id].records.len() as u64 - self.members[&id].last_token
    }

    /// Everything asked for becomes durable, except on disks that are held.
    pub(super) fn flush(&mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            let medium = self.media.get_mut(&id).expect("a member of the script");
            if !medium.is_held && medium.durable < medium.records.len() {
                medium.durable = medium.records.len();
                let token = self.members[&id].last_token;
                self.step(id, Input::Durable { token });
            }
        }
    }

    /// Delivers all that is on its way, and what that causes, without time passing.
    pub(super) fn deliver(&mut self) {
        for _ in 0..100_000 {
            self.flush();
            let Some((from, cluster, to, message)) = self.flight.pop_front() else { return };
            let lost = (self.loses)(from.member.0, to, &message) || !self.media.contains_key(&to);
            if !lost && !self.cut.contains(&(from.member.0, to)) && self.members.contains_key(&from.member.0) {
                self.step(to, Input::Message { cluster, from, message });
            }
        }
        panic!("the members talk without end");
    }

    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + ms * 1000;
        while self.now < end {
            self.deliver();
            self.now += self.settings.timing.tick;
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.step(id, Input::Tick);
            }
        }
        self.deliver();
    }

    /// Lets time pass until the condition holds; 20 simulated seconds at most.
    pub(super) fn run_until(&mut self, what: &str, condition: impl Fn(&Script) -> bool) {
        for _ in 0..2000 {
            if condition(self) {
                return;
            }
            self.run(10);
        }
        panic!("in 20 s it did not come about that {what}: {:#?}", self.statuses());
    }

    fn statuses(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|(id, replica)| {
                let status = replica.status();
                format!("{id}: view {:?} waits for {:?}", status.view.map(|view| view.number), status.waits_for)
            })
            .collect()
    }

    /// Who serves as primary, in the highest view.
    pub(super) fn primary(&self) -> Option<u64> {
        self.members
            .iter()
            .filter(|(_, replica)| replica.status().is_primary && replica.status().serving)
            .max_by_key(|(_, replica)| replica.status().view.map(|view| view.number))
            .map(|(id, _)| *id)
    }

    pub(super) fn view(&self, id: u64) -> crate::View {
        self.members[&id].status().view.expect("the member knows a view")
    }

    /// Hands a command to a member; the answer comes under the tag.
    pub(super) fn submit(&mut self, id: u64, command: &str) -> Tag {
        self.next_tag += 1;
        let tag = self.next_tag;
        self.step(id, Input::Submit { tag, command: command.as_bytes().to_vec(), urgent: false });
        tag
    }

    /// Submits to the primary and waits for the answer.
    pub(super) fn commit(&mut self, command: &str) {
        let primary = self.primary().expect("somebody serves");
        let tag = self.submit(primary, command);
        self.run_until("the command is answered", |script| script.answers.contains_key(&tag));
        assert_eq!(self.answers[&tag], Ok(command.as_bytes().to_vec()));
    }

    /// What a member has asked its medium for, since it was formatted.
    pub(super) fn records(&self, id: u64) -> &[Record] {
        &self.media[&id].records
    }

    pub(super) fn journal(&self, id: u64) -> Vec<String> {
        let journal = &self.members[&id].machine().0;
        journal.iter().map(|(_, command)| String::from_utf8_lossy(command).into_owned()).collect()
    }

    /// All replicas that run have executed the same.
    pub(super) fn converge(&mut self) {
        self.run_until("all members have executed the same", |script| {
            let replicas = script.members.values().filter(|replica| !replica.is_witness());
            let mut states = replicas.map(|replica| (replica.status().executed_op, replica.machine()));
            let first = states.next();
            states.all(|state| Some(state) == first)
        });
    }
}
