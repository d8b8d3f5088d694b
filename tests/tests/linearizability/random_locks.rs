//! Random histories of locks: small ones, judged by brute force too; long ones that are right by construction, and the same
//! with one thing changed that makes them wrong.

use std::time::Instant;

use lock_client::Mode;
use plumeria_tests::linearizability::locks::{
    Action, Answer, History, Operation, View, check, check_order, check_tenures,
};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng;

use super::lock_truth::{Truth, below};

const SMALL_HISTORIES: u64 = 6_000;
const LONG_HISTORIES: u64 = 25;
const LONG_STEPS: u64 = 4_000;
/// Beyond these brute force takes too long.
const SMALL_OPERATIONS: usize = 7;

/// The lock by its definition, without any thrift.
#[derive(Clone, Debug, Default)]
struct Naive {
    /// Session, token (0 is unknown), exclusive; a guard each. In the service's view also: forced.
    held: Vec<(u64, u64, bool, bool)>,
    /// Session, token, exclusive.
    granted: Vec<(u64, u64, bool)>,
    voided: Vec<u64>,
    ended: Vec<u64>,
}

impl Naive {
    fn execute(mut self, operation: &Operation, view: View) -> Option<Naive> {
        let session = operation.session;
        let answer = operation.returned.as_ref().map(|(_, answer)| answer.clone());
        let fits = |token: u64, held: &(u64, u64, bool, bool)| held.1 == token || held.1 == 0;
        match (operation.action, answer) {
            (Action::Acquire { mode }, Some(Answer::Granted { token })) => {
                return self.grant(session, mode, token, view);
            }
            (Action::Acquire { mode }, None) if view == View::Service => return self.grant(session, mode, 0, view),
            (Action::Acquire { .. }, None | Some(Answer::Withdrawn)) => {}
            (Action::Acquire { .. }, Some(Answer::Busy)) => {
                let kept_out = self.held.iter().any(|held| held.0 != session);
                return (view == View::Users || kept_out).then_some(self);
            }
            (Action::Release { token }, answer) => {
                let at = self.held.iter().position(|held| held.0 == session && fits(token, held));
                match (at, answer, view) {
                    (Some(at), Some(Answer::NotHeld), _) if !self.held[at].3 => return None,
                    (Some(at), ..) => drop(self.held.remove(at)),
                    (None, _, View::Users) if self.ended.contains(&session) || self.voided.contains(&token) => {}
                    (None, None | Some(Answer::NotHeld), View::Service) => {}
                    _ => return None,
                }
            }
            (Action::Downgrade { token }, answer) => {
                let held = self.held.iter_mut().find(|held| held.0 == session && fits(token, held) && !held.3);
                match (held, answer) {
                    (Some(held), None | Some(Answer::Done)) => held.2 = false,
                    (None, None | Some(Answer::NotHeld)) => {}
                    _ => return None,
                }
            }
            (Action::Expire, _) => {
                self.held.retain(|held| held.0 != session);
                self.ended.push(session);
            }
            (Action::ForceRelease { token, now }, answer) => return self.force(token, now, answer, view),
            (Action::Inspect, None) => {}
            (Action::Inspect, Some(Answer::Holders(listed))) => {
                let same = |held: &(u64, u64, bool, bool), (session, token, mode): &(u64, u64, Mode)| {
                    let covers = if view == View::Users {
                        *mode == Mode::Exclusive || !held.2
                    } else {
                        held.2 == (*mode == Mode::Exclusive)
                    };
                    held.0 == *session && fits(*token, held) && covers
                };
                let all_listed = self.held.iter().all(|held| held.3 || listed.iter().any(|one| same(held, one)));
                let all_held =
                    view == View::Users || listed.iter().all(|one| self.held.iter().any(|held| same(held, one)));
                return (all_listed && all_held).then_some(self);
            }
            _ => return None,
        }
        Some(self)
    }

    fn grant(mut self, session: u64, mode: Mode, token: u64, view: View) -> Option<Naive> {
        let exclusive = mode == Mode::Exclusive;
        if self.ended.contains(&session) {
            return None;
        }
        if view == View::Users && self.voided.contains(&token) {
            return Some(self);
        }
        let rises = token == 0
            || self.granted.iter().all(|(other, before, was_exclusive)| match view {
                View::Users if *other == session => token >= *before,
                View::Users => token > *before || (!exclusive && !was_exclusive),
                View::Service if exclusive || *was_exclusive || *other == session => token > *before,
                View::Service => token >= *before,
            });
        let in_the_way = self.held.iter().any(|held| {
            let own = held.0 == session
                && match view {
                    View::Service => !held.3,
                    View::Users => held.1 != token,
                };
            own || (!held.3 && (exclusive || held.2) && (view == View::Users || held.0 != session))
        });
        if !rises || in_the_way {
            return None;
        }
        self.held.retain(|held| !held.3);
        self.held.push((session, token, exclusive, false));
        if token != 0 {
            self.granted.push((session, token, exclusive));
        }
        Some(self)
    }

    fn force(mut self, token: u64, now: bool, answer: Option<Answer>, view: View) -> Option<Naive> {
        let meant = |held: &(u64, u64, bool, bool)| !held.3 && (held.1 == token || held.1 == 0);
        let is_held = self.held.iter().any(meant);
        let is_surely_held = self.held.iter().any(|held| meant(held) && held.1 != 0);
        match answer {
            Some(Answer::NotHeld) => return (!is_surely_held).then_some(self),
            Some(Answer::Done) if view == View::Service && !is_held => return None,
            _ => {}
        }
        match (view, now) {
            (View::Users, true) => {
                self.voided.push(token);
                self.held.retain(|held| held.1 != token);
            }
            (View::Users, false) => {}
            (View::Service, true) => self.held.retain(|held| !meant(held)),
            (View::Service, false) => self.held.iter_mut().filter(|held| meant(held)).for_each(|held| held.3 = true),
        }
        Some(self)
    }
}

/// Tries all orders, with each unknown operation in or out.
fn brute_force(left: &[Operation], lock: &Naive, view: View) -> bool {
    left.iter().all(|operation| operation.returned.is_none())
        || (0..left.len()).any(|at| {
            let mut rest = left.to_vec();
            let next = rest.remove(at);
            let too_late =
                |other: &Operation| other.returned.as_ref().is_some_and(|(returned, _)| *returned < next.called);
            !rest.iter().any(too_late)
                && lock.clone().execute(&next, view).is_some_and(|lock| brute_force(&rest, &lock, view))
        })
}

/// The ends of sessions as operations.
fn flat(truth: &Truth) -> Vec<Operation> {
    let sessions: Vec<u64> = truth.operations.iter().map(|operation| operation.session).collect();
    let ends =
        truth.ends.iter().filter(|(session, ..)| sessions.contains(session)).map(|(session, called, returned)| {
            let returned = returned.map(|returned| (returned, Answer::Done));
            Operation { session: *session, action: Action::Expire, called: *called, returned }
        });
    truth.operations.iter().cloned().chain(ends).collect()
}

fn collect(operations: &[Operation]) -> History {
    let mut history = History::default();
    for operation in operations {
        match (operation.action, &operation.returned) {
            (Action::Expire, returned) => {
                history.add_end(operation.session, operation.called, returned.as_ref().map(|(at, _)| *at));
            }
            _ => history.add("a", operation.clone()),
        }
    }
    history
}

/// Changes one thing at random.
fn disturb(operations: &mut [Operation], chance: &mut Pcg64Mcg) {
    let count = operations.len() as u64;
    let other = operations[below(chance, count) as usize].session;
    let operation = &mut operations[below(chance, count) as usize];
    let what = below(chance, 8);
    match (&mut operation.returned, what) {
        (_, 0) if operation.action != Action::Expire && operation.session != 0 => operation.session = other,
        (Some((returned, _)), 1) => *returned = (*returned / 2).max(operation.called),
        (Some((_, Answer::Granted { token })), 2 | 3) => *token = (*token + below(chance, 4)).saturating_sub(2).max(1),
        (Some((_, answer @ Answer::Done)), 2) if operation.action != Action::Expire => *answer = Answer::NotHeld,
        (Some((_, answer @ (Answer::Withdrawn | Answer::Granted { .. }))), 4) => *answer = Answer::Busy,
        (returned, 5) => *returned = None,
        (Some((returned, _)), 6 | 7) => (operation.called, *returned) = (operation.called / 2, *returned / 2),
        _ => {}
    }
}

#[test]
fn small_histories_are_judged_as_by_brute_force() {
    for view in [View::Service, View::Users] {
        let (mut right, mut judged) = (0, 0);
        for seed in 0..SMALL_HISTORIES {
            let chance = &mut Pcg64Mcg::seed_from_u64(seed);
            let mut operations = flat(&Truth::run(seed, view, 16 + below(chance, 26), 1));
            operations.retain(|operation| operation.returned.is_some() || below(chance, 3) == 0);
            if operations.is_empty() || operations.len() > SMALL_OPERATIONS {
                continue;
            }
            (0..below(chance, 10)).for_each(|_| disturb(&mut operations, chance));
            let expected = brute_force(&operations, &Naive::default(), view);
            let history = collect(&operations);
            assert_eq!(check_order(&history, view).is_ok(), expected, "{view:?} seed {seed}: {operations:#?}");
            assert!(check_tenures(&history, view).is_ok() || !expected, "{view:?} seed {seed}: {operations:#?}");
            right += u64::from(expected);
            judged += 1;
        }
        println!("{view:?}: {right} of {judged} are right");
        assert!(judged > SMALL_HISTORIES / 5, "{judged} were small enough");
        assert!((judged / 10..judged * 9 / 10).contains(&right), "{right} of {judged} are right");
    }
}

#[test]
fn long_histories_of_a_right_lock_are_accepted() {
    for view in [View::Service, View::Users] {
        for seed in 0..LONG_HISTORIES {
            let truth = Truth::run(seed, view, LONG_STEPS, 20);
            assert!(truth.operations.len() as u64 > LONG_STEPS / 5, "{} operations", truth.operations.len());
            check(&truth.history(), view).unwrap_or_else(|violation| panic!("{view:?} seed {seed}: {violation}"));
        }
    }
}

/// A grant in the second half, by which the lock was held for certain for a while, and until when.
fn held(operations: &[Operation], exclusive: bool) -> Option<(usize, u64, u64)> {
    (operations.len() / 2..operations.len()).find_map(|at| {
        let Operation { session, action: Action::Acquire { mode }, .. } = operations[at] else { return None };
        let Some((from, Answer::Granted { token })) = operations[at].returned else { return None };
        let ends = |other: &&Operation| match other.action {
            Action::Release { token: ended } | Action::Downgrade { token: ended } => {
                other.session == session && ended == token
            }
            Action::ForceRelease { token: ended, .. } => ended == token,
            Action::Expire => other.session == session,
            _ => false,
        };
        let until = operations.iter().filter(ends).map(|other| other.called).min()?;
        ((mode == Mode::Exclusive) == exclusive && until > from + 2).then_some((at, from, until))
    })
}

/// Each makes a right history wrong; none if it finds no place for it.
type Spoil = fn(&mut Vec<Operation>) -> Option<()>;

const SPOILS: [(&str, Spoil); 5] = [
    ("an exclusive grant beside an exclusive one", |operations| beside(operations, true, Mode::Exclusive)),
    ("a shared grant beside an exclusive one", |operations| beside(operations, true, Mode::Shared)),
    ("an exclusive grant beside a shared one", |operations| beside(operations, false, Mode::Exclusive)),
    ("a token that was there before", |operations| {
        let exclusive = Action::Acquire { mode: Mode::Exclusive };
        let old = operations.iter().find_map(|operation| match operation.returned {
            Some((_, Answer::Granted { token })) if operation.action == exclusive => Some((operation.session, token)),
            _ => None,
        })?;
        let spoiled = operations.iter_mut().rfind(|operation| {
            let granted = matches!(operation.returned, Some((_, Answer::Granted { .. })));
            granted && operation.action == exclusive && operation.session != old.0
        })?;
        let at = spoiled.returned.as_ref()?.0;
        spoiled.returned = Some((at, Answer::Granted { token: old.1 }));
        Some(())
    }),
    ("a holder that nobody knows", |operations| {
        let (_, from, _) = held(operations, true)?;
        let returned = Some((from + 1, Answer::Holders(Vec::new())));
        operations.push(Operation { session: 0, action: Action::Inspect, called: from + 1, returned });
        Some(())
    }),
];

/// A grant to a stranger while somebody holds the lock for certain.
fn beside(operations: &mut Vec<Operation>, exclusive: bool, mode: Mode) -> Option<()> {
    let (_, from, _) = held(operations, exclusive)?;
    let returned = Some((from + 1, Answer::Granted { token: u64::MAX }));
    operations.push(Operation { session: u64::MAX, action: Action::Acquire { mode }, called: from + 1, returned });
    Some(())
}

#[test]
fn long_histories_are_refused_once_one_thing_in_them_is_wrong() {
    for view in [View::Service, View::Users] {
        for (name, spoil) in SPOILS {
            let mut spoiled = 0;
            for seed in 0..LONG_HISTORIES / 5 {
                let mut operations = flat(&Truth::run(seed, view, LONG_STEPS, 20));
                if spoil(&mut operations).is_some() {
                    spoiled += 1;
                    let verdict = check_order(&collect(&operations), view);
                    let wrong = verdict.as_ref().is_err_and(|violation| !violation.is_undecided());
                    assert!(wrong, "{name}, {view:?} seed {seed}: {verdict:?}");
                }
            }
            assert!(spoiled > 0, "{name}, {view:?}: no place for it");
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "it is told how long it took")]
fn a_history_of_a_hundred_thousand_operations_is_judged() {
    let truth = Truth::run(1, View::Users, 480_000, 50);
    let history = truth.history();
    assert!(history.len() >= 100_000, "{} operations", history.len());
    let begin = Instant::now();
    assert_eq!(check_tenures(&history, View::Users), Ok(()));
    let tenures = begin.elapsed();
    assert_eq!(check_order(&history, View::Users), Ok(()));
    println!("{} operations: {tenures:?}, the search {:?}", history.len(), begin.elapsed() - tenures);
}
