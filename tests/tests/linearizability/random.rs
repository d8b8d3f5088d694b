//! Random histories: small ones, judged by brute force too; and long ones of a register that is right by construction.

use plumeria_tests::linearizability::{Action, Answer, History, Operation, Violation, check};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

const SMALL_HISTORIES: u64 = 4_000;
const LONG_HISTORIES: u64 = 30;
/// In each long one.
const OPERATIONS: u64 = 2_000;
const CLIENTS: usize = 6;
const KEYS: u64 = 3;

fn below(chance: &mut Pcg64Mcg, bound: u64) -> u64 {
    chance.next_u64() % bound
}

/// Few operations on few values, with any answers: about as often right as wrong.
fn small(seed: u64) -> Vec<Operation<u64>> {
    let chance = &mut Pcg64Mcg::seed_from_u64(seed);
    let value = |chance: &mut Pcg64Mcg| Some(below(chance, 3)).filter(|value| *value > 0);
    let draw = |chance: &mut Pcg64Mcg| {
        let called = below(chance, 12);
        let (action, answer) = match below(chance, 4) {
            0 | 1 => (Action::Get, Answer::Holds(value(chance))),
            2 => (Action::Put(value(chance)), Answer::Done),
            _ => {
                let answer = if below(chance, 2) == 0 { Answer::Done } else { Answer::Differs };
                (Action::Cas { expected: value(chance), value: value(chance) }, answer)
            }
        };
        let returned = (below(chance, 4) > 0).then(|| (called + below(chance, 8), answer));
        Operation { action, called, returned }
    };
    (0..1 + below(chance, 6)).map(|_| draw(chance)).collect()
}

/// Tries all orders, with each unknown operation in or out.
fn brute_force(left: &[Operation<u64>], holds: Option<u64>) -> bool {
    left.iter().all(|operation| operation.returned.is_none())
        || (0..left.len()).any(|at| {
            let mut rest = left.to_vec();
            let next = rest.remove(at);
            if rest.iter().any(|other| other.returned.as_ref().is_some_and(|(returned, _)| *returned < next.called)) {
                return false;
            }
            let (after, answer) = match next.action {
                Action::Get => (holds, Answer::Holds(holds)),
                Action::Put(value) => (value, Answer::Done),
                Action::Cas { expected, value } if expected == holds => (value, Answer::Done),
                Action::Cas { .. } => (holds, Answer::Differs),
            };
            next.returned.is_none_or(|(_, told)| told == answer) && brute_force(&rest, after)
        })
}

#[test]
fn small_histories_are_judged_as_by_brute_force() {
    let mut right = 0;
    for seed in 0..SMALL_HISTORIES {
        let operations = small(seed);
        let mut history = History::default();
        operations.iter().for_each(|operation| history.add((), operation.clone()));
        let expected = brute_force(&operations, None);
        assert_eq!(check(&history).is_ok(), expected, "seed {seed}: {operations:#?}");
        right += u64::from(expected);
    }
    assert!((SMALL_HISTORIES / 5..SMALL_HISTORIES * 4 / 5).contains(&right), "{right} of {SMALL_HISTORIES} are right");
}

/// What a client has under way.
struct Call {
    key: u64,
    action: Action<u64>,
    called: u64,
    answer: Option<Answer<u64>>,
}

fn execute(register: &mut Option<u64>, action: &Action<u64>) -> Answer<u64> {
    match action {
        Action::Get => return Answer::Holds(*register),
        Action::Put(value) => *register = *value,
        Action::Cas { expected, value } if expected == register => *register = *value,
        Action::Cas { .. } => return Answer::Differs,
    }
    Answer::Done
}

/// Clients that call, take effect and return one step at a time; some answers are lost, and some operations take effect
/// long after their client has given up.
fn long(seed: u64) -> Vec<(u64, Operation<u64>)> {
    let chance = &mut Pcg64Mcg::seed_from_u64(seed);
    let mut registers = [None; KEYS as usize];
    let mut clients: Vec<Option<Call>> = (0..CLIENTS).map(|_| None).collect();
    let mut late: Vec<(u64, Action<u64>)> = Vec::new();
    let mut operations = Vec::new();
    for now in 0..OPERATIONS * 3 {
        if !late.is_empty() && below(chance, 20) == 0 {
            let (key, action) = late.swap_remove(below(chance, late.len() as u64) as usize);
            execute(&mut registers[key as usize], &action);
        }
        let client = &mut clients[below(chance, CLIENTS as u64) as usize];
        match client.take() {
            None => {
                let key = below(chance, KEYS);
                let action = match below(chance, 3) {
                    0 => Action::Get,
                    1 => Action::Put(Some(now).filter(|now| now % 7 > 0)),
                    _ => Action::Cas { expected: registers[key as usize], value: Some(now) },
                };
                *client = Some(Call { key, action, called: now, answer: None });
            }
            Some(Call { key, action, called, answer }) if below(chance, 25) == 0 => {
                if answer.is_none() {
                    late.push((key, action.clone()));
                }
                operations.push((key, Operation { action, called, returned: None }));
            }
            Some(Call { key, action, called, answer: None }) => {
                let answer = Some(execute(&mut registers[key as usize], &action));
                *client = Some(Call { key, action, called, answer });
            }
            Some(Call { key, action, called, answer: Some(answer) }) => {
                operations.push((key, Operation { action, called, returned: Some((now, answer)) }));
            }
        }
    }
    let under_way = clients.into_iter().flatten();
    operations.extend(under_way.map(|call| {
        let Call { key, action, called, .. } = call;
        (key, Operation { action, called, returned: None })
    }));
    operations
}

fn collect(operations: &[(u64, Operation<u64>)]) -> History<u64, u64> {
    let mut history = History::default();
    operations.iter().for_each(|(key, operation)| history.add(*key, operation.clone()));
    history
}

#[test]
fn long_histories_of_a_right_register_are_accepted_and_refused_once_one_read_is_changed() {
    for seed in 0..LONG_HISTORIES {
        let mut operations = long(seed);
        assert!(operations.len() as u64 > OPERATIONS / 2, "{} operations", operations.len());
        assert_eq!(check(&collect(&operations)), Ok(()), "seed {seed}");
        let reads: Vec<usize> = (operations.len() / 2..operations.len())
            .filter(|at| matches!(operations[*at].1.returned, Some((_, Answer::Holds(Some(_))))))
            .collect();
        let changed = reads[seed as usize % reads.len()];
        let (_, Operation { called, returned: Some((returned, _)), .. }) = operations[changed] else {
            panic!("a read has an answer")
        };
        // What the register held near the beginning, and was overwritten since.
        let stale = operations.iter().find_map(|(key, operation)| match operation.returned {
            Some((_, Answer::Holds(Some(held)))) if *key == operations[changed].0 => Some(held),
            _ => None,
        });
        operations[changed].1 =
            Operation { action: Action::Get, called, returned: Some((returned, Answer::Holds(stale))) };
        let verdict = check(&collect(&operations));
        assert!(matches!(verdict, Err(Violation::NotLinearizable { .. })), "seed {seed}: {verdict:?}");
    }
}
