//! A replica with its medium: what it asked for and is not durable yet, and the messages that wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rsm::{
    ClusterId, Control, Entry, Founding, Identity, Input, Kind, MemberId, Message, Micros, Output, Record, Recovered,
    Replica, Send, Settings, SnapshotImage, StateMachine, Timing, Token, View, Viewstamp, timeless,
};

use super::facts::{Fact, History};

/// The moment at which everything in the model happens.
pub(super) const NOW: Micros = 1_000_000_000;

/// A rule of [`rsm`] to be left out.
#[cfg(feature = "mutants")]
pub type ViewMutant = rsm::mutant::Mutant;

/// How members are made and checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Whether a member's own words and records are checked, beside what is true of all.
    pub is_strict: bool,
    /// A rule to be left out.
    #[cfg(feature = "mutants")]
    pub mutant: Option<ViewMutant>,
}

impl Rules {
    /// Nothing is left out, and everything checked.
    pub fn strict() -> Rules {
        Rules {
            is_strict: true,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    /// Whether a store that is lost comes back under its old name.
    pub(super) fn forgets_that_it_forgot(&self) -> bool {
        #[cfg(feature = "mutants")]
        return self.mutant == Some(ViewMutant::Amnesia);
        #[cfg(not(feature = "mutants"))]
        false
    }

    pub(super) fn has_mutant(&self) -> bool {
        #[cfg(feature = "mutants")]
        return self.mutant.is_some();
        #[cfg(not(feature = "mutants"))]
        false
    }
}

/// The machine: a tape of what was executed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape(Vec<u8>);

impl StateMachine for Tape {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        self.0.push(op as u8);
        self.0.extend_from_slice(command);
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        [&[0], self.0.as_slice()].concat()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.0 = snapshot.get(1..).ok_or("an empty tape")?.to_vec();
        Ok(())
    }

    fn hash(&self) -> u64 {
        self.0.iter().fold(7, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) control: Control,
    snapshot: Option<Arc<SnapshotImage>>,
    entries: Vec<Arc<Entry>>,
}

/// A message with its sender.
#[derive(Clone, Debug)]
pub struct Said {
    pub(super) cluster: ClusterId,
    pub(super) from: Identity,
    pub(super) message: Message,
}

/// What a member is at the moment, for the model's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Stopped by itself.
    Gone,
    /// Knows no view, or one that does not list it.
    Outside,
    Backup,
    /// Primary by name only.
    Retired,
    Primary {
        is_serving: bool,
    },
}

/// What came of a step.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) said: Vec<(MemberId, Said)>,
    pub(super) facts: Vec<Fact>,
    pub(super) violation: Option<String>,
}

/// A replica with its medium.
#[derive(Clone, Debug)]
pub struct Member {
    pub(super) identity: Identity,
    pub(super) rank: Rank,
    pub(super) view: u64,
    /// The quorum of that view.
    pub(super) majority: u32,
    pub(super) replica: Option<Replica<Tape>>,
    pub(super) image: Image,
    /// Records asked for and not durable, the first with the token after `written`.
    pub(super) waiting: Vec<Record>,
    gated: Vec<Send>,
    written: Token,
    /// Which run of the process this is.
    run: u8,
    rules: Rules,
}

impl Member {
    /// A member with an empty store, and its process.
    pub(super) fn new(identity: Identity, settings: &Settings, rules: Rules) -> Member {
        let mut member = Member {
            identity,
            rank: Rank::Outside,
            view: 0,
            majority: 1,
            replica: None,
            image: Image::default(),
            waiting: Vec::new(),
            gated: Vec::new(),
            written: 0,
            run: 0,
            rules,
        };
        member.start(settings);
        member
    }

    fn start(&mut self, settings: &Settings) {
        let recovered = Recovered {
            identity: self.identity,
            control: self.image.control.clone(),
            snapshot: self.image.snapshot.clone(),
            entries: self.image.entries.iter().map(|entry| entry.as_ref().clone()).collect(),
            dead_bytes: 0,
        };
        let settings = Settings { address: format!("m{}", self.identity.member), ..settings.clone() };
        let replica = Replica::new(settings, recovered, Tape::default(), 0, NOW).expect("the medium was written by it");
        #[cfg(feature = "mutants")]
        let replica = replica.with_mutant(self.rules.mutant);
        self.replica = Some(replica);
    }

    /// The process dies, with all that was not durable, and starts again.
    pub(super) fn crash(&mut self, settings: &Settings) {
        self.waiting.clear();
        self.gated.clear();
        self.written = 0;
        self.run += 1;
        self.start(settings);
    }

    /// The store goes too; the next one has this name.
    pub(super) fn lose_store(&mut self, identity: Identity, settings: &Settings) {
        self.identity = identity;
        self.image = Image::default();
        self.crash(settings);
    }

    /// Hands the replica an input.
    pub(super) fn feed(&mut self, now: Micros, input: Input, heard: &mut Heard) {
        let Some(replica) = &mut self.replica else { return };
        let commit = replica.commit();
        let mut out = Output::default();
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            replica.step(now, input, &mut out);
            replica.settle(now, &mut out);
        }));
        if let Err(cause) = stepped {
            let said = cause.downcast_ref::<String>().cloned();
            let said = said.or_else(|| cause.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            heard.violation.get_or_insert(format!("nothing panics: {}", said.unwrap_or_default()));
            return;
        }
        if let Some(line) = out.fault {
            return self.stop(&line, heard);
        }
        let (after, status) = (replica.commit(), replica.status());
        let view = status.view.as_ref().map_or(0, |view| view.number);
        if after > commit {
            let mut log = self.history();
            log.viewstamps.retain(|stamp| *stamp <= after);
            heard.facts.push(Fact::Committed { view, log });
        }
        if out.serving == Some(true) {
            let log = self.history();
            heard.facts.push(Fact::Serves { view, who: self.identity, run: self.run, log });
        }
        self.waiting.extend(out.persist);
        self.gated.extend(out.send);
        self.release(heard);
    }

    /// A member that was replaced or removed stops, and says so; for no other reason does one.
    fn stop(&mut self, line: &str, heard: &mut Heard) {
        if !line.contains("was replaced") && !line.contains("it was removed") {
            heard.violation.get_or_insert(format!("no member stops: {line}"));
        }
        self.replica = None;
        self.waiting.clear();
        self.gated.clear();
    }

    fn history(&self) -> History {
        let viewstamps = self.replica.as_ref().map_or_else(Vec::new, Replica::log_viewstamps);
        let base = self.image.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        History { base, viewstamps }
    }

    /// The first waiting record becomes durable.
    pub(super) fn write_one(&mut self, heard: &mut Heard) {
        if self.waiting.is_empty() {
            return;
        }
        let record = self.waiting.remove(0);
        self.apply(&record, heard);
        self.written += 1;
        self.feed(NOW, Input::Durable { token: self.written }, heard);
    }

    /// So do all.
    pub(super) fn write_all(&mut self, heard: &mut Heard) {
        while !self.waiting.is_empty() {
            for record in std::mem::take(&mut self.waiting) {
                self.apply(&record, heard);
                self.written += 1;
            }
            self.feed(NOW, Input::Durable { token: self.written }, heard);
        }
    }

    fn apply(&mut self, record: &Record, heard: &mut Heard) {
        let image = &mut self.image;
        match record {
            Record::Control(control) => self.set_control(control, heard),
            Record::Append(entry) => {
                heard.facts.push(Fact::Entry(entry.as_ref().clone()));
                image.entries.push(Arc::clone(entry));
            }
            Record::TruncateAfter { op } => image.entries.retain(|entry| entry.viewstamp.op <= *op),
            Record::SnapshotPart { .. } | Record::Repair { .. } => {}
            Record::Snapshot { image: new, release } => {
                image.snapshot = Some(Arc::clone(new));
                image.entries.retain(|entry| entry.viewstamp.op > *release);
            }
            Record::Install { image: new, keep_suffix, control } => {
                image.snapshot = Some(Arc::clone(new));
                if !keep_suffix {
                    image.entries.clear();
                }
                self.set_control(control, heard);
            }
        }
    }

    fn set_control(&mut self, control: &Control, heard: &mut Heard) {
        let (old, new) = (self.image.control.config.as_ref(), control.config.as_ref());
        if let (Some(old), Some(new)) = (old, new)
            && let Some(problem) = goes_back(old, new)
        {
            heard.violation.get_or_insert(format!("promise, vote and view are never taken back: {problem}"));
        }
        if let Some(new) = new
            && old.is_none_or(|old| old.last != new.last)
        {
            heard.facts.push(Fact::Decided(new.last.clone()));
        }
        self.image.control = control.clone();
    }

    /// Messages whose record is durable leave.
    fn release(&mut self, heard: &mut Heard) {
        let written = self.written;
        let (go, stay): (Vec<Send>, Vec<Send>) =
            std::mem::take(&mut self.gated).into_iter().partition(|send| send.after <= written);
        self.gated = stay;
        let Some(replica) = &self.replica else { return };
        let cluster = replica.control().cluster();
        for Send { to, message, .. } in go {
            if self.rules.is_strict
                && let Some(problem) = self.untrue(&message)
            {
                heard.violation.get_or_insert(format!("what is said is durable: {problem}"));
            }
            if let Message::Append { entries, .. } | Message::Entries { entries, .. } = &message {
                heard.facts.extend(entries.iter().map(|entry| Fact::Entry(entry.as_ref().clone())));
            }
            heard.said.push((to, Said { cluster, from: self.identity, message: timeless(message) }));
        }
    }

    /// What a message says and the medium does not hold.
    fn untrue(&self, message: &Message) -> Option<String> {
        let config = self.image.control.config.as_ref();
        let entered = config.map_or(0, |config| config.last.number);
        let holds = |stamp: Viewstamp| {
            stamp == Viewstamp::default()
                || self.image.entries.iter().any(|entry| entry.viewstamp == stamp)
                || self.image.snapshot.as_ref().is_some_and(|image| image.viewstamp >= stamp)
        };
        match message {
            Message::Append { view, .. } | Message::Heartbeat { view, .. } if *view > entered => {
                Some(format!("speaks in view {view} before that is stored"))
            }
            Message::Ack { view, verified, .. } if *view > entered || !holds(*verified) => {
                Some(format!("acknowledges {verified} in view {view} before that is stored"))
            }
            Message::Report { view, last } if *view > entered || !holds(*last) => {
                Some(format!("reports {last} in view {view} before that is stored"))
            }
            Message::Paxos(paxos::Message::Promise { instance, ballot, .. }) => {
                let stored = config.and_then(|config| config.promised) >= Some(*ballot);
                (entered < *instance && !stored).then(|| "promises before that is stored".to_owned())
            }
            Message::Paxos(paxos::Message::Accepted { instance, ballot, .. }) => {
                let vote = config.and_then(|config| config.vote.as_ref()).map(|vote| vote.ballot);
                (entered < *instance && vote < Some(*ballot)).then(|| "votes before that is stored".to_owned())
            }
            _ => None,
        }
    }

    /// The step is over: time is forgotten, and what the model's choices need is noted.
    pub(super) fn settle(&mut self) {
        let Some(replica) = &mut self.replica else {
            self.rank = Rank::Gone;
            return;
        };
        let by = replica.forget_time(NOW);
        assert_eq!(by, self.written, "the replica was told of each record");
        self.written = 0;
        for send in &mut self.gated {
            send.after = send.after.saturating_sub(by);
        }
        let status = replica.status();
        let me = self.identity;
        let view = status.view.as_ref();
        self.view = view.map_or(0, |view| view.number);
        self.majority = view.map_or(1, |view| view.majority() as u32);
        self.rank = match view {
            Some(view) if !view.lists(me.member, me.incarnation) => Rank::Outside,
            None => Rank::Outside,
            Some(_) if status.is_primary => Rank::Primary { is_serving: status.serving },
            Some(view) if view.primary == me.member => Rank::Retired,
            Some(_) => Rank::Backup,
        };
    }

    /// From now on it is checked, and goes wrong, by these rules.
    pub(super) fn take_rules(&mut self, rules: Rules) {
        self.rules = rules;
        #[cfg(feature = "mutants")]
        if let Some(replica) = self.replica.take() {
            self.replica = Some(replica.with_mutant(rules.mutant));
        }
    }

    pub(super) fn commit_op(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.commit().op)
    }

    pub(super) fn knows_a_view(&self) -> bool {
        self.image.control.config.is_some()
    }

    /// Whether this step has brought it into another view than the one it began in, written down or not.
    pub(super) fn has_entered(&self) -> bool {
        let entered =
            self.replica.as_ref().and_then(|replica| replica.control().config.map(|config| config.last.number));
        entered.is_some_and(|entered| entered > self.view)
    }

    pub(super) fn knows_view(&self, number: u64) -> bool {
        self.image.control.config.as_ref().is_some_and(|config| config.last.number >= number)
    }

    /// In one line.
    pub(super) fn describe(&self) -> String {
        let stamps = |log: Vec<Viewstamp>| log.iter().map(Viewstamp::to_string).collect::<Vec<_>>().join(" ");
        let (log, commit) = self
            .replica
            .as_ref()
            .map_or_else(Default::default, |replica| (stamps(replica.log_viewstamps()), replica.commit().to_string()));
        let (rank, view, waiting) = (self.rank, self.view, self.waiting.len());
        format!("{rank:?} in view {view}, log {log}, committed {commit}, {waiting} records wait")
    }
}

/// What a new control record takes back of the old one.
fn goes_back(old: &paxos::Durable<View>, new: &paxos::Durable<View>) -> Option<&'static str> {
    let ballot = |vote: &Option<paxos::Vote<View>>| vote.as_ref().map(|vote| vote.ballot);
    if new.last.number != old.last.number {
        return (new.last.number < old.last.number).then_some("an older view");
    }
    if new.last != old.last {
        return Some("another view of the same number");
    }
    if new.promised < old.promised || ballot(&new.vote) < ballot(&old.vote) {
        return Some("a lower promise or vote");
    }
    (ballot(&new.vote) == ballot(&old.vote) && new.vote != old.vote).then_some("two votes in one ballot")
}

/// What each member of a model is told: a snapshot after each entry or none, and the usual timers.
pub(super) fn settings(kinds: &[Kind], has_snapshots: bool) -> Settings {
    let members = kinds.iter().zip(1..).map(|(kind, id)| (MemberId(id), format!("m{id}"), *kind)).collect();
    Settings {
        founding: Founding { name: "model".into(), members, mode: "nvm".into() },
        address: String::new(),
        timing: Timing::default(),
        snapshot_every_bytes: if has_snapshots { 1 } else { 1 << 20 },
        log_capacity_bytes: 8 << 20,
    }
}
