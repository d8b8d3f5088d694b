//! Two-phase commit, as in Gray and Lamport, "Consensus on Transaction Commit" (2006), and its TLA+ specification
//! `TwoPhase`, whose numbers of states are published: 288 with 3 resource managers, 8,832 with 5.

use plumeria_tests::model::protocol::{Choice, Effects, Event, Item, Protocol, Spent};
use plumeria_tests::model::search::{Bounds, explore};

struct TwoPhase {
    managers: usize,
    /// A wrong one: the transaction manager commits on any prepared message.
    is_hasty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Working,
    Prepared,
    Committed,
    Aborted,
}

/// The last member is the transaction manager, the others are resource managers.
#[derive(Clone, Debug)]
enum Role {
    Resource(Phase),
    Transaction { phase: Phase, prepared: Vec<bool> },
}

#[derive(Clone, Copy, Debug)]
enum Say {
    Prepared(usize),
    Commit,
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    Prepare(usize),
    Decide(bool),
    GiveUp,
}

#[derive(Clone, Debug)]
enum Fact {
    Committed,
    Aborted,
}

impl TwoPhase {
    fn tell_all(&self, message: Say) -> Vec<Item<Say, Fact>> {
        (0..self.managers).map(|to| Item::Message { to, message }).collect()
    }
}

impl Protocol for TwoPhase {
    type Local = Role;
    type Message = Say;
    type Fact = Fact;
    type Stimulus = Act;

    fn start(&self) -> (Vec<Role>, Vec<Item<Say, Fact>>) {
        let mut roles = vec![Role::Resource(Phase::Working); self.managers];
        roles.push(Role::Transaction { phase: Phase::Working, prepared: vec![false; self.managers] });
        (roles, Vec::new())
    }

    fn limits(&self) -> Spent {
        Spent::default()
    }

    fn stimuli(&self, member: usize, role: &Role, _: &Spent, out: &mut Vec<Choice<Act>>) {
        let mut offer = |stimulus| out.push(Choice { stimulus, helpers: 0 });
        match role {
            Role::Resource(Phase::Working) => {
                offer(Act::Prepare(member));
                offer(Act::GiveUp);
            }
            Role::Transaction { phase: Phase::Working, prepared } => {
                let ready = if self.is_hasty { prepared.contains(&true) } else { prepared.iter().all(|yes| *yes) };
                if ready {
                    offer(Act::Decide(true));
                }
                offer(Act::Decide(false));
            }
            _ => {}
        }
    }

    fn may_hold(&self, _: usize, _: &Role) -> bool {
        false
    }

    fn run(&self, roles: &mut [Role], what: Event<'_, Say, Act>, _: bool) -> Effects<Say, Fact> {
        let mut out = Effects::default();
        match (&mut roles[0], what) {
            (Role::Resource(phase), Event::Own(Act::Prepare(me))) => {
                *phase = Phase::Prepared;
                out.items.push(Item::Message { to: self.managers, message: Say::Prepared(me) });
            }
            (Role::Resource(phase), Event::Own(_)) => {
                *phase = Phase::Aborted;
                out.items.push(Item::Fact(Fact::Aborted));
            }
            (Role::Resource(phase), Event::Message(Say::Commit)) => {
                *phase = Phase::Committed;
                out.items.push(Item::Fact(Fact::Committed));
            }
            (Role::Resource(phase), Event::Message(_)) => *phase = Phase::Aborted,
            (Role::Transaction { phase: Phase::Working, prepared }, Event::Message(Say::Prepared(from))) => {
                prepared[*from] = true;
            }
            (Role::Transaction { phase, .. }, Event::Own(Act::Decide(commits))) => {
                *phase = if commits { Phase::Committed } else { Phase::Aborted };
                out.items = self.tell_all(if commits { Say::Commit } else { Say::Abort });
            }
            _ => {}
        }
        out
    }

    fn is_dead(&self, _: &Role, _: &Say) -> bool {
        false
    }

    fn conflict(&self, facts: &[&Fact]) -> Option<String> {
        let both = facts.iter().any(|fact| matches!(fact, Fact::Committed))
            && facts.iter().any(|fact| matches!(fact, Fact::Aborted));
        both.then(|| "one commits and one aborts".to_owned())
    }

    fn describe(&self, role: &Role) -> String {
        format!("{role:?}")
    }
}

const WITHOUT_BOUND: Bounds = Bounds { depth: usize::MAX, states: usize::MAX };

/// The facts that the invariant needs are no part of the published states: they are functions of them but for one, "a
/// resource manager gave up by itself", so these runs are made without them.
struct WithoutFacts(TwoPhase);

impl Protocol for WithoutFacts {
    type Local = Role;
    type Message = Say;
    type Fact = Fact;
    type Stimulus = Act;

    fn start(&self) -> (Vec<Role>, Vec<Item<Say, Fact>>) {
        self.0.start()
    }
    fn limits(&self) -> Spent {
        self.0.limits()
    }
    fn stimuli(&self, member: usize, role: &Role, spent: &Spent, out: &mut Vec<Choice<Act>>) {
        self.0.stimuli(member, role, spent, out);
    }
    fn may_hold(&self, _: usize, _: &Role) -> bool {
        false
    }
    fn run(&self, roles: &mut [Role], what: Event<'_, Say, Act>, held: bool) -> Effects<Say, Fact> {
        let mut effects = self.0.run(roles, what, held);
        effects.items.retain(|item| matches!(item, Item::Message { .. }));
        effects
    }
    fn is_dead(&self, _: &Role, _: &Say) -> bool {
        false
    }
    fn conflict(&self, _: &[&Fact]) -> Option<String> {
        None
    }
    fn describe(&self, role: &Role) -> String {
        format!("{role:?}")
    }
}

#[test]
fn two_phase_commit_has_as_many_states_as_others_have_counted() {
    for (managers, states) in [(3, 288), (5, 8_832)] {
        let report = explore(&WithoutFacts(TwoPhase { managers, is_hasty: false }), WITHOUT_BOUND);
        assert_eq!((report.states, report.is_exhaustive), (states, true), "{managers} resource managers");
    }
}

#[test]
fn two_phase_commit_keeps_its_promise_and_a_hasty_one_is_caught_with_a_shortest_trace() {
    let right = explore(&TwoPhase { managers: 3, is_hasty: false }, WITHOUT_BOUND);
    assert!(right.violation.is_none() && right.is_exhaustive);
    let wrong = explore(&TwoPhase { managers: 3, is_hasty: true }, WITHOUT_BOUND);
    let (rule, trace) = wrong.violation.expect("caught");
    assert_eq!(rule, "one commits and one aborts");
    let steps = trace.iter().filter(|line| line.contains(". member")).count();
    assert_eq!(steps, 5, "prepare, heard, commit, one obeys, one gives up: {trace:#?}");
}
