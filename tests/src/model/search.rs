//! An explicit-state model checker: breadth first over every schedule within bounds, so that a trace is a shortest one.
//!
//! # What a state is
//!
//! One local state per member, and a *soup*: the set of all messages that were ever sent and may still matter. A message
//! stays in the soup when it is delivered, so it may arrive any number of times, in any order, at any time; one that is
//! lost is one that is never delivered. *Facts* ("decree 2 is this", "member 1 serves view 2") lie in the soup too and are
//! never delivered; the invariants are sentences about sets of facts, so no order of events can hide a violation.
//!
//! # Why it is right
//!
//! - *Local steps are functions.* What a member does depends on its local state and its input alone. So each (local state,
//!   input) is run once, on the real core, and remembered; local states and messages are numbered. A state of the whole is a
//!   few numbers, a transition two look-ups, and the real cores cost nothing beyond their distinct local steps.
//! - *States are merged by a 64-bit hash* of those numbers. With n states the chance that two differing ones were ever merged
//!   is about n² / 2^65: 3 in a million for 10 million states. Local states and messages are numbered by 128 bits of
//!   their whole `Debug` text, so nothing that a core knows is left out.
//! - *Every restriction is a loss or a choice of schedule*: bounds, dead messages dropped, exchanges made at one stroke.
//!   None adds a behaviour; so a violation found is real, and what is bounded is coverage. [`Report`] says which bound cut.
//!
//! The search itself is checked on protocols whose numbers of states are known (`tests/model.rs`).

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "millions of states: a sorted set is too slow; this one is never iterated, and the time is only told"
)]

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Instant;

use super::numbered::{Fast, Mix, Numbered, mix};
use super::protocol::{Event, Item, Protocol, Spent};

/// Where the search stops.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Steps from the start.
    pub depth: usize,
    /// States.
    pub states: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// Steps taken, those to known states included.
    pub transitions: u64,
    /// Distinct local states of all members.
    pub locals: usize,
    /// Distinct messages and facts.
    pub items: usize,
    /// The longest shortest way.
    pub depth: usize,
    /// Whether every state within the model's own bounds was reached.
    pub is_exhaustive: bool,
    /// How long it took.
    pub seconds: f64,
    /// The rule that was broken, and the steps that led there.
    pub violation: Option<(String, Vec<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What<S> {
    Deliver(u32),
    Own(S),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Action<S> {
    actor: u8,
    is_held: bool,
    helpers: u16,
    what: What<S>,
}

#[derive(Clone)]
struct State {
    /// The number by which its parent and its step are found.
    number: u32,
    locals: Box<[u32]>,
    soup: Box<[u32]>,
    spent: Spent,
}

/// A local step that was run.
struct Step {
    locals: Box<[u32]>,
    items: Box<[u32]>,
    cost: Spent,
    violation: Option<String>,
}

/// An action, by the numbers of the local states that it starts from.
type Stroke<S> = (Action<S>, Box<[u32]>);

/// A search under way.
struct Search<'a, P: Protocol> {
    protocol: &'a P,
    limits: Spent,
    locals: Numbered<P::Local>,
    items: Numbered<Item<P::Message, P::Fact>>,
    deliveries: Fast<(u32, u32, bool), Option<u32>>,
    strokes: Fast<Stroke<P::Stimulus>, Option<u32>>,
    steps: Vec<Step>,
    /// How each state was first reached.
    ways: Vec<(u32, Option<Action<P::Stimulus>>)>,
    visited: HashSet<u64, BuildHasherDefault<Mix>>,
    transitions: u64,
}

/// Visits every state that can be reached, nearest first, until one breaks a rule or a bound is reached.
pub fn explore<P: Protocol>(protocol: &P, bounds: Bounds) -> Report {
    let begun = Instant::now();
    let mut search = Search {
        protocol,
        limits: protocol.limits(),
        locals: Numbered::new(),
        items: Numbered::new(),
        deliveries: Fast::default(),
        strokes: Fast::default(),
        steps: Vec::new(),
        ways: Vec::new(),
        visited: HashSet::default(),
        transitions: 0,
    };
    let first = search.first_state();
    let mut frontier = VecDeque::from([first]);
    let (mut depth, mut last_of_depth, mut violation, mut is_exhaustive) = (0, 0, None, true);
    while let Some(state) = frontier.pop_front() {
        if state.number > last_of_depth {
            depth += 1;
            last_of_depth = search.ways.len() as u32 - 1;
        }
        if depth >= bounds.depth || search.ways.len() >= bounds.states {
            is_exhaustive = false;
            break;
        }
        violation = search.expand(&state, &mut frontier);
        if violation.is_some() {
            is_exhaustive = false;
            break;
        }
    }
    Report {
        states: search.ways.len(),
        transitions: search.transitions,
        locals: search.locals.things.len(),
        items: search.items.things.len(),
        depth,
        is_exhaustive,
        seconds: begun.elapsed().as_secs_f64(),
        violation: violation.map(|(rule, way)| (rule, search.tell(&way))),
    }
}

/// A broken rule, and the state and step that broke it.
type Broken<S> = (String, (u32, Action<S>));

impl<P: Protocol> Search<'_, P> {
    fn first_state(&mut self) -> State {
        let (locals, items) = self.protocol.start();
        let locals: Box<[u32]> = locals.into_iter().map(|local| self.locals.number(local)).collect();
        let mut soup: Vec<u32> = items.into_iter().map(|item| self.items.number(item)).collect();
        soup.sort_unstable();
        soup.dedup();
        let state = State { number: 0, locals, soup: soup.into(), spent: Spent::default() };
        self.visited.insert(key(&state));
        self.ways.push((0, None));
        state
    }

    /// All steps from a state; the new states go to the end of the frontier.
    fn expand(&mut self, state: &State, frontier: &mut VecDeque<State>) -> Option<Broken<P::Stimulus>> {
        for action in self.actions(state) {
            let Some(step) = self.step(state, action) else { continue };
            let mut next = state.clone();
            let mut spent_all = true;
            for (spent, (cost, limit)) in next.spent.iter_mut().zip(self.steps[step].cost.iter().zip(&self.limits)) {
                *spent += cost;
                spent_all &= *spent <= *limit;
            }
            if !spent_all {
                continue;
            }
            self.transitions += 1;
            if let Some(rule) = &self.steps[step].violation {
                return Some((rule.clone(), (state.number, action)));
            }
            for (member, local) in members_of(action).zip(&self.steps[step].locals) {
                next.locals[member] = *local;
            }
            let news = self.stir(&mut next, step);
            if !self.visited.insert(key(&next)) {
                continue;
            }
            next.number = self.ways.len() as u32;
            self.ways.push((state.number, Some(action)));
            if news && let Some(rule) = self.conflict(&next) {
                return Some((rule, (state.number, action)));
            }
            frontier.push_back(next);
        }
        None
    }

    fn actions(&self, state: &State) -> Vec<Action<P::Stimulus>> {
        let (mut actions, mut choices) = (Vec::new(), Vec::new());
        for (actor, number) in state.locals.iter().enumerate() {
            let local = &self.locals.things[*number as usize];
            let holds = self.protocol.may_hold(actor, local);
            let mut push = |helpers, what| {
                actions.push(Action { actor: actor as u8, is_held: false, helpers, what });
                if holds {
                    actions.push(Action { actor: actor as u8, is_held: true, helpers, what });
                }
            };
            choices.clear();
            self.protocol.stimuli(actor, local, &state.spent, &mut choices);
            for choice in &choices {
                push(choice.helpers, What::Own(choice.stimulus));
            }
            for item in &state.soup {
                if matches!(self.items.things[*item as usize], Item::Message { to, .. } if to == actor) {
                    push(0, What::Deliver(*item));
                }
            }
        }
        actions
    }

    /// The step's number; `None` where it changes nothing, or leads beyond the bounds.
    fn step(&mut self, state: &State, action: Action<P::Stimulus>) -> Option<usize> {
        let step = if let What::Deliver(item) = action.what {
            let place = (state.locals[action.actor as usize], item, action.is_held);
            match self.deliveries.get(&place) {
                Some(known) => *known,
                None => {
                    let step = self.run(state, action);
                    self.deliveries.insert(place, step);
                    step
                }
            }
        } else {
            let place = (action, members_of(action).map(|member| state.locals[member]).collect());
            match self.strokes.get(&place) {
                Some(known) => *known,
                None => {
                    let step = self.run(state, action);
                    self.strokes.insert(place, step);
                    step
                }
            }
        };
        step.map(|step| step as usize)
    }

    fn run(&mut self, state: &State, action: Action<P::Stimulus>) -> Option<u32> {
        let before: Vec<u32> = members_of(action).map(|member| state.locals[member]).collect();
        let mut locals: Vec<P::Local> =
            before.iter().map(|number| self.locals.things[*number as usize].clone()).collect();
        let event = match action.what {
            What::Own(stimulus) => Event::Own(stimulus),
            What::Deliver(item) => match &self.items.things[item as usize] {
                Item::Message { message, .. } => Event::Message(message),
                Item::Fact(_) => return None,
            },
        };
        let effects = self.protocol.run(&mut locals, event, action.is_held);
        if effects.is_beyond && effects.violation.is_none() {
            return None;
        }
        let locals: Box<[u32]> = locals.into_iter().map(|local| self.locals.number(local)).collect();
        let mut items: Vec<u32> = effects.items.into_iter().map(|item| self.items.number(item)).collect();
        items.sort_unstable();
        items.dedup();
        if *locals == *before && items.is_empty() && effects.violation.is_none() {
            return None;
        }
        self.steps.push(Step { locals, items: items.into(), cost: effects.cost, violation: effects.violation });
        Some(self.steps.len() as u32 - 1)
    }

    /// Puts a step's items into the soup, and takes out what does not matter any more. Says whether there is a new fact.
    fn stir(&self, next: &mut State, step: usize) -> bool {
        let mut soup: Vec<u32> = Vec::with_capacity(next.soup.len() + self.steps[step].items.len());
        soup.extend(next.soup.iter().filter(|item| self.lives(next, **item)));
        let mut news = false;
        for item in &self.steps[step].items {
            if let Err(_absent) = soup.binary_search(item)
                && self.lives(next, *item)
                && self.keep_if_news(&mut soup, *item)
            {
                news |= matches!(self.items.things[*item as usize], Item::Fact(_));
                soup.insert(soup.partition_point(|other| other < item), *item);
            }
        }
        next.soup = soup.into();
        news
    }

    fn lives(&self, next: &State, item: u32) -> bool {
        match &self.items.things[item as usize] {
            Item::Fact(_) => true,
            Item::Message { to, message } => {
                !self.protocol.is_dead(&self.locals.things[next.locals[*to] as usize], message)
            }
        }
    }

    /// Whether an item says anything new; facts that say less than it does go.
    fn keep_if_news(&self, soup: &mut Vec<u32>, item: u32) -> bool {
        let Item::Fact(new) = &self.items.things[item as usize] else { return true };
        let known = |item: &u32| match &self.items.things[*item as usize] {
            Item::Fact(fact) => Some(fact),
            Item::Message { .. } => None,
        };
        if soup.iter().filter_map(known).any(|fact| self.protocol.covers(fact, new)) {
            return false;
        }
        soup.retain(|item| known(item).is_none_or(|fact| !self.protocol.covers(new, fact)));
        true
    }

    fn conflict(&self, state: &State) -> Option<String> {
        let facts: Vec<&P::Fact> = (state.soup.iter())
            .filter_map(|item| match &self.items.things[*item as usize] {
                Item::Fact(fact) => Some(fact),
                Item::Message { .. } => None,
            })
            .collect();
        self.protocol.conflict(&facts)
    }

    /// The way to a broken rule, a line for each step.
    fn tell(&mut self, (state, action): &(u32, Action<P::Stimulus>)) -> Vec<String> {
        let mut actions = vec![*action];
        let mut at = *state;
        while let (parent, Some(action)) = self.ways[at as usize] {
            actions.push(action);
            at = parent;
        }
        actions.reverse();
        let (locals, _) = self.protocol.start();
        let mut locals: Vec<u32> = locals.into_iter().map(|local| self.locals.number(local)).collect();
        let mut lines = Vec::new();
        for (count, action) in actions.into_iter().enumerate() {
            let at = State { number: 0, locals: locals.clone().into(), soup: Box::new([]), spent: Spent::default() };
            let step = self.step(&at, action);
            for (member, local) in members_of(action).zip(step.map_or(&[][..], |step| &self.steps[step].locals)) {
                locals[member] = *local;
            }
            let what = match action.what {
                What::Own(stimulus) => format!("{stimulus:?}"),
                What::Deliver(item) => match &self.items.things[item as usize] {
                    Item::Message { message, .. } => format!("takes {message:?}"),
                    Item::Fact(fact) => format!("{fact:?}"),
                },
            };
            let held = if action.is_held { ", its write is put off" } else { "" };
            lines.push(format!("{:>2}. member {}: {what}{held}", count + 1, action.actor + 1));
            for member in members_of(action) {
                let local = &self.locals.things[locals[member] as usize];
                lines.push(format!("      {}: {}", member + 1, self.protocol.describe(local)));
            }
        }
        lines
    }
}

/// The actor, then its helpers.
fn members_of<S: Copy>(action: Action<S>) -> impl Iterator<Item = usize> {
    let helpers = (0..16).filter(move |bit| action.helpers >> bit & 1 == 1);
    std::iter::once(action.actor as usize).chain(helpers)
}

/// A state's hash: no order matters, so the parts are mixed one by one.
fn key(state: &State) -> u64 {
    let locals = state.locals.iter().enumerate();
    let locals = locals.fold(0, |key, (member, local)| key ^ mix((member as u64 + 1) << 40 | u64::from(*local)));
    let soup = state.soup.iter().fold(locals, |key, item| key ^ mix(1 << 60 | u64::from(*item)));
    soup ^ mix(mix(u64::from_le_bytes(state.spent)) | 1 << 61)
}
