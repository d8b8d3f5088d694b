//! The checker of histories, tested on right and wrong ones; then histories of a real cluster.

#[path = "../../rsm/examples/kv/main.rs"]
#[allow(dead_code, reason = "the example's command line is not used here")]
mod kv;

#[path = "linearizability/cluster.rs"]
mod cluster;
#[path = "linearizability/lock_cluster.rs"]
mod lock_cluster;
#[path = "linearizability/lock_truth.rs"]
mod lock_truth;
#[path = "linearizability/locks.rs"]
mod locks;
#[path = "linearizability/random.rs"]
mod random;
#[path = "linearizability/random_locks.rs"]
mod random_locks;

use plumeria_tests::linearizability::{Action, Answer, History, Operation, Violation, check};

/// A history of registers that hold words, one operation a line: `FROM..TO ACTION KEY WORDS = ANSWER`, without `TO` and
/// answer where the outcome is unknown; `-` is no value.
fn history(text: &str) -> History<String, String> {
    let mut history = History::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |word: &str| (word != "-").then(|| word.to_owned());
        let (from, to) = words[0].split_once("..").expect("a span");
        let (action, answer) = match words[1..] {
            ["get", _, ref answer @ ..] => (Action::Get, answer),
            ["put", _, written, ref answer @ ..] => (Action::Put(value(written)), answer),
            ["cas", _, expected, written, ref answer @ ..] => {
                (Action::Cas { expected: value(expected), value: value(written) }, answer)
            }
            _ => panic!("no operation: {line}"),
        };
        let answer = match (&action, answer) {
            (_, []) => None,
            (Action::Get, ["=", held]) => Some(Answer::Holds(value(held))),
            (_, ["=", "ok"]) => Some(Answer::Done),
            (Action::Cas { .. }, ["=", "differs"]) => Some(Answer::Differs),
            _ => panic!("no answer: {line}"),
        };
        let returned = answer.map(|answer| (to.parse().expect("an answer comes at a time"), answer));
        history.add(words[2].to_owned(), Operation { action, called: from.parse().expect("a time"), returned });
    }
    history
}

fn expect_right(text: &str) {
    assert_eq!(check(&history(text)), Ok(()), "{text}");
}

/// Refused, having explained so many answers.
fn expect_wrong(explains: usize, text: &str) {
    match check(&history(text)) {
        Err(Violation::NotLinearizable { explained, .. }) => assert_eq!(explained, explains, "{text}"),
        other => panic!("{other:?}: {text}"),
    }
}

#[test]
fn a_register_begins_with_nothing_and_holds_what_was_written_last() {
    expect_right("");
    expect_right("0..1 get k = -");
    expect_right("0..1 put k a = ok\n 2..3 put k b = ok\n 4..5 get k = b\n 6..7 put k - = ok\n 8..9 get k = -");
}

#[test]
fn a_read_beside_a_write_may_see_either() {
    expect_right("0..1 put k a = ok\n 2..9 put k b = ok\n 3..4 get k = a\n 5..6 get k = b");
    expect_right("0..1 put k a = ok\n 2..9 put k b = ok\n 3..4 get k = b\n 5..6 get k = b");
    expect_wrong(3, "0..1 put k a = ok\n 2..9 put k b = ok\n 3..4 get k = b\n 5..6 get k = a");
}

#[test]
fn what_returns_as_another_is_called_is_beside_it() {
    expect_right("0..2 put k a = ok\n 2..3 get k = -");
    expect_wrong(1, "0..2 put k a = ok\n 3..4 get k = -");
}

#[test]
fn a_stale_read_is_refused() {
    expect_wrong(2, "0..1 put k a = ok\n 2..3 put k b = ok\n 4..5 get k = a");
    expect_wrong(1, "0..1 put k a = ok\n 2..3 get k = -");
}

#[test]
fn a_lost_update_is_refused() {
    expect_wrong(2, "0..1 put k 0 = ok\n 2..9 cas k 0 1 = ok\n 3..8 cas k 0 2 = ok\n 10..11 get k = 2");
    expect_wrong(2, "0..1 put k a = ok\n 2..3 put k b = ok\n 4..5 get k = -");
}

#[test]
fn of_two_equal_cas_one_succeeds() {
    expect_right("0..9 cas k - a = ok\n 0..9 cas k - b = differs\n 10..11 get k = a");
    expect_wrong(1, "0..9 cas k - a = ok\n 0..9 cas k - b = ok");
}

#[test]
fn a_cas_that_failed_without_a_reason_is_refused() {
    expect_wrong(1, "0..1 put k a = ok\n 2..3 cas k a b = differs");
    expect_right("0..1 put k a = ok\n 2..9 cas k a b = differs\n 3..4 put k c = ok");
}

#[test]
fn a_value_that_was_never_written_is_refused() {
    expect_wrong(1, "0..1 put k a = ok\n 2..3 get k = b");
    expect_wrong(1, "0..1 put k a = ok\n 2..3 get k = b\n 4..5 put k b = ok");
}

#[test]
fn an_unknown_write_takes_effect_at_any_later_time_or_never() {
    expect_right("0.. put k a\n 1..2 get k = -\n 100..101 get k = -");
    expect_right("0.. put k a\n 1..2 get k = -\n 100..101 get k = a");
    expect_right("0.. put k a\n 1..2 put k b = ok\n 3..4 get k = b\n 5..6 get k = a");
    expect_right("0.. cas k b a\n 1..2 put k b = ok\n 3..4 get k = b\n 5..6 cas k a c = ok");
    expect_wrong(0, "0..1 get k = a\n 2.. put k a");
}

#[test]
fn an_unknown_write_that_appears_and_disappears_is_refused() {
    expect_wrong(2, "0..1 put k b = ok\n 2.. put k a\n 3..4 get k = a\n 5..6 get k = b");
    expect_wrong(2, "0.. put k a\n 1..2 get k = a\n 3..4 put k b = ok\n 5..6 get k = a");
    expect_right("0.. put k a\n 0.. put k a\n 1..2 get k = a\n 3..4 put k b = ok\n 5..6 get k = a");
}

#[test]
fn unknown_operations_build_on_each_other() {
    expect_right("0.. put k a\n 0.. cas k a b\n 0.. cas k b c\n 1..2 get k = -\n 3..4 get k = c");
    expect_wrong(1, "0.. put k a\n 0.. cas k b c\n 1..2 get k = -\n 3..4 get k = c");
    expect_right("0.. put k a\n 1..2 cas k - b = differs\n 3..4 get k = a");
}

#[test]
fn registers_are_told_apart_and_the_wrong_one_is_named() {
    let text = "0..1 put good a = ok\n 2..3 get good = a\n 0..1 put wrong b = ok\n 2..3 get wrong = a";
    let violation = check(&history(text)).expect_err("register wrong is wrong").to_string();
    for part in ["register \"wrong\"", "gives 1 of them", "state is Some(\"b\")", "2..3 Get = Holds(Some(\"a\"))"] {
        assert!(violation.contains(part), "{violation}");
    }
}

#[test]
fn what_is_too_hard_is_neither_right_nor_wrong() {
    let mut text = String::new();
    for number in 0..24 {
        text += &format!("0..100 put k {number} = ok\n");
    }
    text += "101..102 get k = none-of-them";
    assert_eq!(check(&history(&text)), Err(Violation::Undecided { object: "register \"k\"".into() }));
}
