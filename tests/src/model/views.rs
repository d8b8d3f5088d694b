//! The model of the view changes: whole replicas, with everything that may happen to them.
//!
//! A member may at any moment: feel its timers (short ones, or all of them), believe its primary gone and stand for election,
//! get a command, hand over, crash, lose its store, put a write off. Which of the timers comes first does not matter to the
//! model, because `rsm`'s `abstraction.rs` rewrites every moment to now.
//!
//! # Strokes
//!
//! Some exchanges are made at one stroke by two members (or a quorum), with all others as late as you like: prevotes always,
//! the whole of Paxos with [`Grain::Election`], and entering, reporting and fetching the log too with [`Grain::Start`]. These
//! are schedules that can happen; what they leave out is checked with the finer grain and smaller bounds, and Paxos by itself in `paxos.rs`.
//!
//! Lost always: refusals, requests for what was broadcast anyhow, notices that only save time.

use std::collections::VecDeque;

use rsm::{Change, Identity, Incarnation, Input, MemberId, Message, Micros, Settings};

use super::facts::{Fact, conflict, covers};
use super::member::{Heard, Member, NOW, Rank, Rules, Said};
use super::protocol::{Choice, Effects, Event, Item, Protocol, Spent};
use super::scenes::{Scene, begin};

/// Short timers are due: heartbeat, retransmission, report. No suspicion is.
const BEAT: Micros = 100_000;
/// Only heartbeats are: a primary's retransmissions say nothing that is not in the soup.
const HEARTBEAT: Micros = 60_000;
/// A silent primary is suspected, nothing else is over.
const SILENT: Micros = 300_000;
/// A candidate has waited its turn.
const TURN: Micros = 1_000_000;
/// All timers are due.
const LONG: Micros = 60_000_000;
/// Lives of a store that have names of their own.
const LIVES: u128 = 16;

/// How much is done at one stroke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// Prevotes.
    Fine,
    /// And the decision of a view.
    Election,
    /// And the choice of its log.
    Start,
}

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub struct ViewBounds {
    /// Where it begins.
    pub scene: Scene,
    /// The highest view.
    pub views: u64,
    /// The highest round of a ballot.
    pub rounds: u64,
    /// What is done at one stroke.
    pub grain: Grain,
    /// Commands.
    pub commands: u8,
    /// Crashes of processes.
    pub crashes: u8,
    /// Losses of stores, whosever.
    pub losses: u8,
    /// Writes put off.
    pub holds: u8,
    /// Times that all timers are due at once: primaries step down, proposals are let go.
    pub longs: u8,
    /// Hand-overs that somebody asked for.
    pub hand_overs: u8,
    /// Members taken away by an operator.
    pub removals: u8,
    /// Members whose stores an operator declares lost.
    pub replacements: u8,
    /// Those that may crash, put a write off or lose their store, one bit each.
    pub frail: u16,
    /// Whether heartbeats and retransmissions are sent.
    pub beats: bool,
    /// How members are made and checked.
    pub rules: Rules,
}

impl Default for ViewBounds {
    fn default() -> Self {
        ViewBounds {
            scene: Scene::Serving { members: 3 },
            views: 3,
            rounds: 1,
            grain: Grain::Election,
            commands: 1,
            crashes: 1,
            losses: 0,
            holds: 0,
            longs: 0,
            hand_overs: 0,
            removals: 0,
            replacements: 0,
            frail: u16::MAX,
            beats: true,
            rules: Rules::strict(),
        }
    }
}

const COMMANDS: usize = 0;
const CRASHES: usize = 1;
const LOSSES: usize = 2;
const HOLDS: usize = 3;
const LONGS: usize = 4;
const HAND_OVERS: usize = 5;
const REMOVALS: usize = 6;
const REPLACEMENTS: usize = 7;

/// What a member does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Short timers are due.
    Beat,
    /// All timers are due.
    Long,
    /// It believes that it should be primary, with its helpers' consent.
    Stand,
    /// Short timers are due at a primary that has a change of members to propose, and its helpers answer.
    Change,
    /// It is asked to let another be primary.
    HandOver,
    /// An operator takes this member away.
    Remove(u8),
    /// An operator declares this member's store lost, whatever its process does.
    Replace(u8),
    /// A client's command.
    Command(u8),
    /// Its first waiting record becomes durable.
    Write,
    /// Its process dies and starts again.
    Crash,
    /// Its store is lost; it starts again and asks the helper who it is.
    LoseStore,
}

/// The model.
#[derive(Clone, Debug)]
pub struct ViewModel {
    bounds: ViewBounds,
    settings: Settings,
    first: (Vec<Member>, Vec<Item<Said, Fact>>),
}

type Brought = Effects<Said, Fact>;

impl ViewModel {
    /// The model at its scene.
    pub fn new(bounds: ViewBounds) -> ViewModel {
        let settings = super::member::settings(&bounds.scene.kinds(), bounds.scene == Scene::Witness);
        let first = begin(bounds.scene, &settings, bounds.rules);
        ViewModel { bounds, settings, first }
    }

    /// Runs an event at the actor, the first of the members.
    fn act(
        &self,
        members: &mut [Member],
        what: Event<'_, Said, Act>,
        held: bool,
        heard: &mut Heard,
        out: &mut Brought,
    ) {
        match what {
            Event::Message(said) => {
                let is_join = matches!(said.message, Message::Join { .. });
                // A store is listed when it has asked more than once, long after the one before it was heard.
                for _ in 0..if is_join { 2 } else { 1 } {
                    let now = if is_join { NOW + LONG } else { NOW };
                    members[0].feed(now, input(said), heard);
                }
            }
            Event::Own(Act::Beat | Act::Change) => {
                let is_primary = matches!(members[0].rank, Rank::Primary { .. });
                members[0].feed(NOW + if is_primary { HEARTBEAT } else { BEAT }, Input::Tick, heard);
            }
            Event::Own(Act::Long) => {
                out.cost[LONGS] = 1;
                members[0].feed(NOW + LONG, Input::Tick, heard);
            }
            Event::Own(Act::Stand) => {
                for helper in &mut members[1..] {
                    helper.feed(NOW + SILENT, Input::Tick, heard);
                }
                members[0].feed(NOW + SILENT, Input::Tick, heard);
                members[0].feed(NOW + SILENT + TURN, Input::Tick, heard);
            }
            Event::Own(Act::HandOver) => {
                out.cost[HAND_OVERS] = 1;
                members[0].feed(NOW, Input::HandOver { to: None }, heard);
            }
            Event::Own(Act::Remove(member)) => {
                out.cost[REMOVALS] = 1;
                let change = Change::Remove { member: MemberId(member.into()) };
                members[0].feed(NOW, Input::Change { tag: 0, change }, heard);
            }
            Event::Own(Act::Replace(member)) => {
                out.cost[REPLACEMENTS] = 1;
                let change = Change::Replace { member: MemberId(member.into()), address: format!("m{member}") };
                members[0].feed(NOW, Input::Change { tag: 0, change }, heard);
            }
            Event::Own(Act::Command(tag)) => {
                out.cost[COMMANDS] = 1;
                members[0].feed(NOW, Input::Submit { tag: tag.into(), command: vec![tag], urgent: false }, heard);
            }
            Event::Own(Act::Write) => members[0].write_one(heard),
            Event::Own(Act::Crash) => {
                out.cost[CRASHES] = 1;
                members[0].crash(&self.settings);
            }
            Event::Own(Act::LoseStore) => {
                out.cost[LOSSES] = 1;
                self.lose_store(&mut members[0], heard);
            }
        }
        if !held && !matches!(what, Event::Own(Act::Write)) {
            members[0].write_all(heard);
        }
    }

    fn lose_store(&self, member: &mut Member, heard: &mut Heard) {
        let life = (member.identity.incarnation.0 >> 96) % LIVES;
        let life = if self.bounds.rules.forgets_that_it_forgot() { life } else { life + 1 };
        let identity = incarnation(member.identity.member, life);
        member.lose_store(identity, &self.settings);
        member.feed(NOW + BEAT, Input::Tick, heard);
    }

    /// Hands what the members of a stroke say to each other over, until there is no more; the rest goes into the soup.
    fn exchange(&self, members: &mut [Member], is_join: bool, held: bool, heard: &mut Heard, out: &mut Brought) {
        let mut queue: VecDeque<(MemberId, Said)> = heard.said.drain(..).collect();
        while let Some((to, said)) = queue.pop_front() {
            let here = members.iter().position(|member| member.identity.member == to);
            if let Some(here) = here
                && self.is_within_stroke(&said.message, is_join)
            {
                members[here].feed(NOW + SILENT, input(&said), heard);
                // Only what follows from the decision may be put off: without the records before, there is none.
                if !(held && here == 0 && members[0].has_entered()) {
                    members[here].write_all(heard);
                }
                queue.extend(heard.said.drain(..));
            }
            if !self.is_lost(&said.message) {
                out.is_beyond |= self.is_beyond(&said.message);
                let to = to.0 as usize - 1;
                if to < self.first.0.len() {
                    out.items.push(Item::Message { to, message: said });
                }
            }
        }
    }

    fn is_within_stroke(&self, message: &Message, is_join: bool) -> bool {
        use paxos::Message::{Accept, Accepted, Decided, Prepare, Promise};
        match message {
            Message::PreVote { .. } | Message::PreVoteAnswer { .. } => true,
            Message::Ask(_) => is_join,
            Message::Paxos(Decided { .. }) => is_join || self.bounds.grain >= Grain::Start,
            Message::Paxos(Prepare { .. } | Promise { .. } | Accept { .. } | Accepted { .. }) => {
                self.bounds.grain >= Grain::Election
            }
            Message::Report { .. } | Message::Fetch { .. } | Message::Entries { .. } | Message::Unmatched { .. } => {
                self.bounds.grain >= Grain::Start
            }
            _ => false,
        }
    }

    fn is_lost(&self, message: &Message) -> bool {
        match message {
            Message::Paxos(paxos::Message::Fetch { .. } | paxos::Message::Refused { .. })
            | Message::PreVote { .. }
            | Message::PreVoteAnswer { .. }
            | Message::Ask(_)
            | Message::Standing(_)
            | Message::StepDown { .. }
            | Message::JoinRefused { .. }
            | Message::Diverged { .. } => true,
            Message::Paxos(paxos::Message::Decided { .. }) => false,
            Message::Paxos(_) => self.bounds.grain >= Grain::Election,
            Message::Heartbeat { health, .. } => !health.serving,
            _ => false,
        }
    }

    fn is_beyond(&self, message: &Message) -> bool {
        let Message::Paxos(message) = message else { return false };
        message
            .place()
            .is_some_and(|(instance, _, ballot)| instance > self.bounds.views || ballot.round > self.bounds.rounds)
    }

    /// Whether a stroke led where it should: else it is left out, with no loss of schedules (its parts happen elsewhere).
    fn came_to_something(&self, what: Option<Act>, before: u64, members: &[Member], has_prepared: bool) -> bool {
        let elects = self.bounds.grain >= Grain::Election;
        match what {
            Some(Act::Stand | Act::HandOver | Act::Change | Act::Remove(_) | Act::Replace(_)) if elects => {
                members[0].view > before
            }
            Some(Act::Beat | Act::Long | Act::Command(_)) if elects => !has_prepared,
            _ => true,
        }
    }
}

fn input(said: &Said) -> Input {
    Input::Message { cluster: said.cluster, from: said.from, message: said.message.clone() }
}

/// The name of a member's store in one of its lives; short names, because `Debug` shows an incarnation's first bits only.
pub(super) fn incarnation(member: MemberId, life: u128) -> Identity {
    Identity { member, incarnation: Incarnation((u128::from(member.0) * LIVES + life) << 96) }
}

/// All sets of so many members without this one, a bit each.
fn helpers(members: usize, without: usize, count: u32) -> impl Iterator<Item = u16> {
    (0..1_u16 << members).filter(move |set| set.count_ones() == count && set >> without & 1 == 0)
}

impl Protocol for ViewModel {
    type Local = Member;
    type Message = Said;
    type Fact = Fact;
    type Stimulus = Act;

    fn start(&self) -> (Vec<Member>, Vec<Item<Said, Fact>>) {
        self.first.clone()
    }

    fn limits(&self) -> Spent {
        let bounds = &self.bounds;
        let mut limits = Spent::default();
        limits[COMMANDS] = bounds.commands;
        limits[CRASHES] = bounds.crashes;
        limits[LOSSES] = bounds.losses;
        limits[HOLDS] = bounds.holds;
        limits[LONGS] = bounds.longs;
        limits[HAND_OVERS] = bounds.hand_overs;
        limits[REMOVALS] = bounds.removals;
        limits[REPLACEMENTS] = bounds.replacements;
        limits
    }

    fn stimuli(&self, index: usize, member: &Member, spent: &Spent, out: &mut Vec<Choice<Act>>) {
        let (bounds, count) = (&self.bounds, self.first.0.len());
        let quorum = member.majority;
        let mut offer = |stimulus, helpers| out.push(Choice { stimulus, helpers });
        if member.rank == Rank::Gone {
            return;
        }
        if !member.waiting.is_empty() {
            offer(Act::Write, 0);
        }
        if bounds.beats {
            offer(Act::Beat, 0);
        }
        let can_elect = member.view < bounds.views && member.waiting.is_empty();
        match member.rank {
            Rank::Backup | Rank::Retired if can_elect => {
                helpers(count, index, quorum - 1).for_each(|set| offer(Act::Stand, set));
            }
            Rank::Primary { is_serving } if can_elect => {
                let may_change = bounds.losses > 0 || !matches!(bounds.scene, Scene::Serving { .. } | Scene::Witness);
                if is_serving && may_change && bounds.grain >= Grain::Election {
                    helpers(count, index, quorum - 1).for_each(|set| offer(Act::Change, set));
                }
                for other in (0..count).filter(|other| *other != index) {
                    if spent[REMOVALS] < bounds.removals {
                        helpers(count, index, quorum - 1).for_each(|set| offer(Act::Remove(other as u8 + 1), set));
                    }
                    if spent[REPLACEMENTS] < bounds.replacements {
                        helpers(count, index, quorum - 1).for_each(|set| offer(Act::Replace(other as u8 + 1), set));
                    }
                }
                if spent[HAND_OVERS] < bounds.hand_overs {
                    helpers(count, index, quorum - 1).for_each(|set| offer(Act::HandOver, set));
                }
            }
            _ => {}
        }
        if spent[LONGS] < bounds.longs {
            offer(Act::Long, 0);
        }
        if spent[COMMANDS] < bounds.commands && member.rank == (Rank::Primary { is_serving: true }) {
            offer(Act::Command(spent[COMMANDS]), 0);
        }
        let is_frail = bounds.frail >> index & 1 == 1;
        if spent[CRASHES] < bounds.crashes && is_frail {
            offer(Act::Crash, 0);
        }
        if spent[LOSSES] < bounds.losses && is_frail {
            helpers(count, index, 1).for_each(|set| offer(Act::LoseStore, set));
        }
    }

    fn may_hold(&self, index: usize, member: &Member) -> bool {
        self.bounds.holds > 0
            && self.bounds.frail >> index & 1 == 1
            && member.waiting.is_empty()
            && member.rank != Rank::Gone
    }

    fn run(&self, members: &mut [Member], what: Event<'_, Said, Act>, held: bool) -> Brought {
        let (mut out, mut heard) = (Brought::default(), Heard::default());
        let (before, was_waiting) = (members[0].view, !members[0].waiting.is_empty());
        let act = match &what {
            Event::Own(act) => Some(*act),
            Event::Message(_) => None,
        };
        if members[0].rank == Rank::Gone || members[1..].iter().any(|helper| !helper.waiting.is_empty()) {
            out.is_beyond = true;
            return out;
        }
        let puts_off = was_waiting || (held && members.len() == 1);
        self.act(members, what, puts_off, &mut heard, &mut out);
        let is_prepare =
            |(_, said): &(MemberId, Said)| matches!(said.message, Message::Paxos(paxos::Message::Prepare { .. }));
        let has_prepared = heard.said.iter().any(is_prepare);
        let is_join = act == Some(Act::LoseStore);
        self.exchange(members, is_join, held, &mut heard, &mut out);
        if is_join {
            members[0].feed(NOW + BEAT, Input::Tick, &mut heard);
            self.exchange(members, false, false, &mut heard, &mut out);
        }
        for member in members.iter_mut() {
            member.settle();
            out.is_beyond |= member.view > self.bounds.views;
        }
        if held && !members[0].waiting.is_empty() {
            out.cost[HOLDS] = 1;
        } else if held {
            out.is_beyond = true; // nothing was put off: the same step as without
        }
        out.is_beyond |= !self.came_to_something(act, before, members, has_prepared);
        out.items.extend(heard.facts.into_iter().map(Item::Fact));
        out.violation = heard.violation;
        out
    }

    /// What belongs to a view or an instance that its receiver has left behind is answered with the newer view at most. (A store that
    /// is lost later might have use for it: then it counts as lost.)
    fn is_dead(&self, receiver: &Member, said: &Said) -> bool {
        if receiver.rank == Rank::Gone {
            return true;
        }
        if self.bounds.rules.has_mutant() && self.bounds.losses > 0 {
            return false;
        }
        match &said.message {
            Message::Paxos(paxos::Message::Decided { value }) => value.number <= receiver.view,
            Message::Paxos(message) => message.place().is_some_and(|(instance, ..)| instance <= receiver.view),
            Message::Join { .. } => !matches!(receiver.rank, Rank::Primary { .. }),
            Message::Ack { view, .. } | Message::Mismatch { view, .. } if *view == receiver.view => {
                !matches!(receiver.rank, Rank::Primary { .. })
            }
            Message::Report { view, .. } if *view == receiver.view && !self.bounds.rules.has_mutant() => {
                receiver.rank != Rank::Primary { is_serving: false }
            }
            message => message.view().is_some_and(|view| view < receiver.view),
        }
    }

    fn covers(&self, strong: &Fact, weak: &Fact) -> bool {
        covers(strong, weak)
    }

    fn conflict(&self, facts: &[&Fact]) -> Option<String> {
        let pairs = facts.iter().enumerate().flat_map(|(at, one)| facts[..at].iter().map(move |other| (one, other)));
        pairs.into_iter().find_map(|(one, other)| conflict(one, other))
    }

    fn describe(&self, member: &Member) -> String {
        member.describe()
    }
}
