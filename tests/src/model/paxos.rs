//! The model of [`paxos::Node`]: proposers, acceptors and learners in one, with a medium that may lag behind.
//!
//! Nodes propose at any moment, messages arrive in any order and any number of times, a write may be put off (then what waits for
//! it waits, and a crash loses it), a node may lose its store and come back under another incarnation, which a later decree
//! may list. Checked: an instance decides one decree, and a medium never takes back a promise, a vote or a decree.

use ::paxos::{Decree as _, Durable, Effects as Asked, Message, Node, NodeId, Sender};

use super::plan::Plan;
use super::protocol::{Choice, Effects, Event, Item, Protocol, Spent};

/// A rule of [`paxos`] to be left out.
#[cfg(feature = "mutants")]
pub type PaxosMutant = ::paxos::mutant::Mutant;

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub struct PaxosBounds {
    /// Acceptors.
    pub nodes: usize,
    /// How many of them propose.
    pub proposers: usize,
    /// The highest round; ballots are (round, proposer).
    pub rounds: u64,
    /// Instances decided.
    pub instances: u64,
    /// Crashes of processes.
    pub crashes: u8,
    /// Losses of stores.
    pub losses: u8,
    /// Writes put off.
    pub holds: u8,
    /// Whether a node's own records are checked, beside what is decided.
    pub is_strict: bool,
    /// A rule to be left out.
    #[cfg(feature = "mutants")]
    pub mutant: Option<PaxosMutant>,
}

impl Default for PaxosBounds {
    fn default() -> Self {
        PaxosBounds {
            nodes: 3,
            proposers: 2,
            rounds: 1,
            instances: 1,
            crashes: 1,
            losses: 0,
            holds: 1,
            is_strict: true,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// The model.
#[derive(Clone, Debug)]
pub struct PaxosModel {
    /// How far it goes.
    pub bounds: PaxosBounds,
}

/// A message with its sender.
#[derive(Clone, Debug)]
pub struct Said {
    from: Sender,
    message: Message<Plan>,
}

/// What an invariant is about: a decree that somebody knows to be decided.
#[derive(Clone, Debug)]
pub struct Decided {
    plan: Plan,
}

/// What a node does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Proposes, perhaps with another's new incarnation in the list.
    Propose {
        /// Whose.
        relists: Option<NodeId>,
    },
    /// Its first waiting write is done.
    Write,
    /// The process dies and starts again; what waits is lost.
    Crash,
    /// So does its store.
    LoseStore,
}

/// A node with its medium.
#[derive(Clone, Debug)]
pub struct Place {
    who: Sender,
    node: Node<Plan>,
    disk: Durable<Plan>,
    /// Writes that wait, each with what is sent and known after it.
    waiting: Vec<(Durable<Plan>, Asked<Plan>)>,
}

/// Writes that wait at a time.
const WAITING_MAX: usize = 2;

/// A counter of [`Spent`].
const CRASHES: usize = 0;
const LOSSES: usize = 1;
const HOLDS: usize = 2;

type Brought = Effects<Said, Decided>;

impl PaxosModel {
    fn make(&self, who: Sender, disk: Durable<Plan>) -> Node<Plan> {
        let node = Node::new(who.node, who.incarnation, disk);
        #[cfg(feature = "mutants")]
        let node = node.with_mutant(self.bounds.mutant);
        node
    }

    fn founding(&self) -> Plan {
        let acceptors = (1..=self.bounds.nodes as u64).map(|node| (node, incarnation(node, 0))).collect();
        Plan { number: 1, parent: 0, acceptors, tag: 0 }
    }

    /// What a node asked for: a write and what comes after it, or what needs none.
    fn carry_out(&self, place: &mut Place, asked: Asked<Plan>, held: bool, out: &mut Brought) {
        if !asked.persist {
            return self.let_go(place, asked, out);
        }
        let was_free = place.waiting.is_empty();
        let write = (place.node.durable().clone(), asked);
        if place.waiting.contains(&write) {
            return; // asked for before: whatever it brings about, the first one does
        }
        place.waiting.push(write);
        out.is_beyond |= place.waiting.len() > WAITING_MAX;
        if held {
            out.cost[HOLDS] += u8::from(was_free);
        } else {
            while !place.waiting.is_empty() {
                self.write(place, out);
            }
        }
    }

    fn write(&self, place: &mut Place, out: &mut Brought) {
        let (record, asked) = place.waiting.remove(0);
        if self.bounds.is_strict {
            out.violation = out.violation.take().or_else(|| goes_back(&place.disk, &record));
        }
        place.disk = record;
        self.let_go(place, asked, out);
    }

    fn let_go(&self, place: &Place, asked: Asked<Plan>, out: &mut Brought) {
        for plan in asked.decided {
            out.items.push(Item::Fact(Decided { plan }));
        }
        for (to, message) in asked.send {
            if self.bounds.is_strict {
                out.violation = out.violation.take().or_else(|| untrue(&place.disk, &message));
            }
            let beyond = message.place().is_some_and(|(instance, _, ballot)| {
                instance > self.bounds.instances + 1 || ballot.round > self.bounds.rounds
            });
            out.is_beyond |= beyond;
            out.items.push(Item::Message { to: to as usize - 1, message: Said { from: place.who, message } });
        }
    }

    fn restart(&self, place: &mut Place) {
        place.waiting.clear();
        place.node = self.make(place.who, place.disk.clone());
    }

    fn propose(&self, place: &mut Place, relists: Option<NodeId>, held: bool, out: &mut Brought) {
        let last = place.node.last();
        let (number, parent, tag) = (last.number + 1, last.hash(), place.who.node);
        let acceptors = last.acceptors.iter().map(|&(node, listed)| match relists {
            Some(lost) if lost == node => (node, incarnation(node, 1)),
            _ => (node, listed),
        });
        let plan = Plan { number, parent, acceptors: acceptors.collect(), tag };
        match place.node.propose(plan) {
            Ok(asked) => self.carry_out(place, asked, held, out),
            Err(_) => out.is_beyond = true,
        }
    }
}

/// A node's store in its first or second life.
fn incarnation(node: NodeId, life: u128) -> u128 {
    u128::from(node) * 100 + life
}

/// A record that takes back what the one before said.
fn goes_back(old: &Durable<Plan>, new: &Durable<Plan>) -> Option<String> {
    if new.last.number < old.last.number || (new.last.number == old.last.number && new.last != old.last) {
        return Some("a decree is taken back".to_owned());
    }
    let same = new.last.number == old.last.number;
    let ballot = |vote: &Option<::paxos::Vote<Plan>>| vote.as_ref().map(|vote| vote.ballot);
    if same && (new.promised < old.promised || ballot(&new.vote) < ballot(&old.vote)) {
        return Some("a promise or a vote is taken back".to_owned());
    }
    if same && ballot(&new.vote) == ballot(&old.vote) && new.vote != old.vote {
        return Some("two votes in one ballot".to_owned());
    }
    (ballot(&new.vote) > new.promised).then(|| "a vote in a ballot that was not promised".to_owned())
}

/// A message that says more than the medium holds.
fn untrue(disk: &Durable<Plan>, message: &Message<Plan>) -> Option<String> {
    let (instance, _, ballot) = message.place()?;
    let finished = disk.last.number >= instance;
    let vote = disk.vote.as_ref().map(|vote| vote.ballot);
    let promised = finished || disk.promised >= Some(ballot);
    match message {
        Message::Prepare { .. } | Message::Promise { .. } if !promised => Some("a promise is told that is not stored"),
        Message::Accepted { .. } if !finished && vote < Some(ballot) => Some("a vote is told that is not stored"),
        _ => None,
    }
    .map(str::to_owned)
}

impl Protocol for PaxosModel {
    type Local = Place;
    type Message = Said;
    type Fact = Decided;
    type Stimulus = Act;

    fn start(&self) -> (Vec<Place>, Vec<Item<Said, Decided>>) {
        let places = (1..=self.bounds.nodes as u64).map(|node| {
            let who = Sender { node, incarnation: incarnation(node, 0) };
            let disk = Node::first(self.founding());
            Place { who, node: self.make(who, disk.clone()), disk, waiting: Vec::new() }
        });
        (places.collect(), Vec::new())
    }

    fn limits(&self) -> Spent {
        let mut limits = Spent::default();
        limits[CRASHES] = self.bounds.crashes;
        limits[LOSSES] = self.bounds.losses;
        limits[HOLDS] = self.bounds.holds;
        limits
    }

    fn stimuli(&self, member: usize, place: &Place, spent: &Spent, out: &mut Vec<Choice<Act>>) {
        let mut offer = |stimulus| out.push(Choice { stimulus, helpers: 0 });
        let disk = place.node.durable();
        if member < self.bounds.proposers
            && disk.last.number <= self.bounds.instances
            && disk.highest_round < self.bounds.rounds
        {
            offer(Act::Propose { relists: None });
            if spent[LOSSES] > 0 && self.bounds.nodes as u64 != place.who.node {
                offer(Act::Propose { relists: Some(self.bounds.nodes as u64) });
            }
        }
        if !place.waiting.is_empty() {
            offer(Act::Write);
        }
        if spent[CRASHES] < self.bounds.crashes && (!place.waiting.is_empty() || place.node.proposing().is_some()) {
            offer(Act::Crash);
        }
        // One slot can be listed anew: the last one loses its store.
        if spent[LOSSES] < self.bounds.losses && member + 1 == self.bounds.nodes {
            offer(Act::LoseStore);
        }
    }

    fn may_hold(&self, _member: usize, place: &Place) -> bool {
        self.bounds.holds > 0 || !place.waiting.is_empty()
    }

    fn run(&self, places: &mut [Place], what: Event<'_, Said, Act>, held: bool) -> Brought {
        let mut out = Brought::default();
        let Some(place) = places.first_mut() else { return out };
        let held = held || !place.waiting.is_empty();
        match what {
            Event::Message(said) => {
                let asked = place.node.on_message(said.from, said.message.clone());
                self.carry_out(place, asked, held, &mut out);
            }
            Event::Own(Act::Propose { relists }) => self.propose(place, relists, held, &mut out),
            Event::Own(Act::Write) => self.write(place, &mut out),
            Event::Own(Act::Crash) => {
                out.cost[CRASHES] = 1;
                self.restart(place);
            }
            Event::Own(Act::LoseStore) => {
                out.cost[LOSSES] = 1;
                place.who.incarnation = incarnation(place.who.node, 1);
                place.disk = Node::first(self.founding());
                self.restart(place);
            }
        }
        out
    }

    /// A message of an instance that its receiver knows to be decided is answered with the decree, which was sent to all
    /// when it was decided. (A store that is lost might have use for it again; then it counts as lost.)
    fn is_dead(&self, place: &Place, said: &Said) -> bool {
        #[cfg(feature = "mutants")]
        if self.bounds.mutant.is_some() {
            return false;
        }
        let last = place.disk.last.number;
        match &said.message {
            Message::Decided { value } => value.number <= last,
            Message::Fetch { .. } | Message::Refused { .. } => self.bounds.instances > 1,
            message => message.place().is_some_and(|(instance, ..)| instance <= last),
        }
    }

    fn conflict(&self, facts: &[&Decided]) -> Option<String> {
        facts.iter().enumerate().find_map(|(at, one)| {
            let other = facts[..at].iter().find(|other| other.plan.number == one.plan.number && other.plan != one.plan);
            other.map(|other| format!("an instance decides one decree: {:?} and {:?}", one.plan, other.plan))
        })
    }

    fn describe(&self, place: &Place) -> String {
        let disk = place.node.durable();
        let ballot = |ballot: ::paxos::Ballot| format!("{}.{}", ballot.round, ballot.proposer);
        format!(
            "decree {}, promised {:?}, voted {:?}, {} writes wait",
            disk.last.number,
            disk.promised.map(ballot),
            disk.vote.as_ref().map(|vote| (ballot(vote.ballot), vote.value.tag)),
            place.waiting.len(),
        )
    }
}
