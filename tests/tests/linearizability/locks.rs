//! The checker of locks, on right and wrong histories.

use lock_client::Mode;
use plumeria_tests::linearizability::locks::{
    Action, Answer, History, Operation, TenureViolation, View, Violation, check, check_order, check_tenures,
};

const BOTH: [View; 2] = [View::Service, View::Users];

/// A history of one lock, one operation a line: `FROM..TO SESSION ACTION = ANSWER`, without `TO` and answer where the
/// outcome is unknown. A number is a token.
fn history(text: &str) -> History {
    let mut history = History::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (from, to) = words[0].split_once("..").expect("a span");
        let (called, session) = (from.parse().expect("a time"), words[1].parse().expect("a session"));
        let number = |at: usize| words[at].parse().expect("a token");
        let action = match words[2] {
            "exclusive" => Action::Acquire { mode: Mode::Exclusive },
            "shared" => Action::Acquire { mode: Mode::Shared },
            "release" => Action::Release { token: number(3) },
            "downgrade" => Action::Downgrade { token: number(3) },
            "force" => Action::ForceRelease { token: number(3), now: false },
            "force-now" => Action::ForceRelease { token: number(3), now: true },
            "inspect" => Action::Inspect,
            "ends" => {
                history.add_end(session, called, to.parse().ok());
                continue;
            }
            _ => panic!("no action: {line}"),
        };
        let told = words.iter().position(|word| *word == "=").map(|at| &words[at + 1..]);
        let answer = told.map(|told| match told {
            ["ok"] => Answer::Done,
            ["busy"] => Answer::Busy,
            ["withdrawn"] => Answer::Withdrawn,
            ["not-held"] => Answer::NotHeld,
            [token] if action != Action::Inspect => Answer::Granted { token: token.parse().expect("a token") },
            holders => Answer::Holders(holders.iter().map(|text| holder(text)).collect()),
        });
        let returned = answer.map(|answer| (to.parse().expect("an answer comes at a time"), answer));
        history.add("a", Operation { session, action, called, returned });
    }
    history
}

/// `SESSION:TOKEN:MODE`.
fn holder(text: &str) -> (u64, u64, Mode) {
    let parts: Vec<&str> = text.split(':').collect();
    let mode = if parts[2] == "x" { Mode::Exclusive } else { Mode::Shared };
    (parts[0].parse().expect("a session"), parts[1].parse().expect("a token"), mode)
}

#[track_caller]
fn expect_right(view: View, text: &str) {
    assert_eq!(check(&history(text), view), Ok(()), "{view:?}: {text}");
}

/// The search refuses it, whatever the first pass says.
#[track_caller]
fn expect_wrong(view: View, text: &str) {
    let verdict = check_order(&history(text), view);
    assert!(verdict.as_ref().is_err_and(|violation| !violation.is_undecided()), "{view:?} {verdict:?}: {text}");
    assert!(check(&history(text), view).is_err());
}

/// Both refuse it.
#[track_caller]
fn expect_wrong_at_once(view: View, text: &str) {
    expect_wrong(view, text);
    let verdict = check_tenures(&history(text), view);
    assert!(verdict.is_err(), "{view:?}: the first pass sees nothing: {text}");
}

#[test]
fn tenures_that_follow_each_other_are_right() {
    for view in BOTH {
        expect_right(view, "");
        expect_right(
            view,
            "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n 4..5 2 exclusive = 6\n 6..7 2 release 6 = ok",
        );
        expect_right(view, "0..9 1 exclusive = 5\n 1..8 2 exclusive = 6\n 7..8 1 release 5 = ok");
        expect_right(view, "0..1 1 shared = 5\n 2..3 2 shared = 6\n 4..5 1 release 5 = ok\n 5..6 2 release 6 = ok");
        expect_right(
            view,
            "0..9 1 shared = 5\n 0..9 2 shared = 5\n 10..11 1 release 5 = ok\n 12..20 3 exclusive = 7\n 13..14 2 release 5 = ok",
        );
    }
}

#[test]
fn a_double_grant_is_refused() {
    for view in BOTH {
        expect_wrong_at_once(view, "0..1 1 exclusive = 5\n 2..3 2 exclusive = 6\n 4..5 1 release 5 = ok");
        expect_wrong_at_once(view, "0..1 1 exclusive = 5\n 0..1 2 exclusive = 6");
        expect_right(view, "0..1 1 exclusive = 5\n 2..5 2 exclusive = 6\n 4..6 1 release 5 = ok");
    }
}

#[test]
fn shared_beside_exclusive_is_refused() {
    for view in BOTH {
        expect_wrong_at_once(view, "0..1 1 exclusive = 5\n 2..3 2 shared = 6");
        expect_wrong_at_once(view, "0..1 1 shared = 5\n 2..3 2 exclusive = 6");
        expect_wrong_at_once(
            view,
            "0..1 1 shared = 5\n 2..3 2 shared = 6\n 4..5 1 release 5 = ok\n 6..7 3 exclusive = 7",
        );
    }
}

#[test]
fn a_token_that_does_not_rise_is_refused() {
    for view in BOTH {
        let first = "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n";
        expect_wrong_at_once(view, &format!("{first} 4..5 2 exclusive = 4"));
        expect_wrong_at_once(view, &format!("{first} 4..5 2 exclusive = 5"));
        expect_wrong_at_once(view, &format!("{first} 4..5 2 shared = 5"));
    }
    expect_wrong_at_once(View::Service, "0..1 1 shared = 7\n 2..3 2 shared = 5");
    expect_right(View::Users, "0..1 1 shared = 7\n 2..3 2 shared = 5");
    expect_wrong_at_once(View::Users, "0..1 1 shared = 7\n 2..3 1 release 7 = ok\n 4..5 1 shared = 5");
}

#[test]
fn a_session_is_served_again_from_the_tenure_that_it_kept_and_from_no_other() {
    let again = "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n 4..5 1 exclusive = 5\n 6..7 1 release 5 = ok";
    expect_right(View::Users, again);
    expect_wrong_at_once(View::Service, again);
    let between = "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n 4..5 2 exclusive = 6\n 6..7 2 release 6 = ok\n";
    expect_wrong_at_once(View::Users, &format!("{between} 8..9 1 exclusive = 5"));
    let shared = "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n 4..5 2 shared = 6\n";
    expect_right(View::Users, &format!("{shared} 6..7 1 shared = 5"));
    expect_wrong_at_once(View::Users, &format!("{shared} 6..7 2 release 6 = ok\n 8..9 1 exclusive = 5"));
}

#[test]
fn local_users_of_one_session_exclude_each_other_too() {
    expect_right(View::Users, "0..1 1 shared = 5\n 2..3 1 shared = 5\n 4..5 1 release 5 = ok\n 6..7 1 release 5 = ok");
    expect_wrong_at_once(View::Users, "0..1 1 exclusive = 5\n 2..3 1 exclusive = 5");
    expect_wrong_at_once(View::Users, "0..1 1 shared = 5\n 2..3 1 exclusive = 5\n 4..5 1 release 5 = ok");
    expect_wrong(View::Service, "0..1 1 shared = 5\n 2..3 1 shared = 6");
}

#[test]
fn a_group_granted_by_one_op_shares_its_token_and_an_exclusive_one_never_does() {
    for view in BOTH {
        expect_right(view, "0..9 1 shared = 5\n 10..11 2 shared = 5");
        expect_wrong(view, "0..9 1 shared = 5\n 10..11 1 release 5 = ok\n 12..13 2 exclusive = 5");
    }
    // A token is used up by its session.
    expect_wrong_at_once(
        View::Service,
        "0..1 1 shared = 5\n 2..3 2 shared = 5\n 4..5 1 release 5 = ok\n 6..7 1 shared = 5",
    );
}

#[test]
fn a_stale_release_that_is_accepted_is_refused() {
    let first = "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n 4..5 2 exclusive = 6\n";
    expect_wrong_at_once(View::Service, &format!("{first} 6..7 1 release 5 = ok"));
    expect_right(View::Service, &format!("{first} 6..7 1 release 5 = not-held"));
    expect_wrong_at_once(View::Service, &format!("{first} 6..7 1 release 6 = ok"));
    expect_wrong(View::Service, "0..1 1 exclusive = 5\n 2..3 1 release 5 = not-held");
    expect_wrong_at_once(View::Users, "0..1 1 release 5 = ok");
}

#[test]
fn a_lost_release_is_refused_once_somebody_finds_the_lock_busy() {
    let free = "0..1 1 exclusive = 5\n 2..3 1 release 5 = ok\n";
    expect_wrong(View::Service, &format!("{free} 4..5 2 exclusive = busy"));
    expect_wrong(View::Service, &format!("{free} 4..5 2 inspect = 1:5:x"));
    expect_right(View::Service, &format!("{free} 4..5 2 inspect ="));
    expect_right(View::Service, "0..1 1 exclusive = 5\n 2..5 1 release 5 = ok\n 3..4 2 exclusive = busy");
}

#[test]
fn a_waiter_who_gave_up_is_not_granted_anything() {
    let given_up = "0..1 1 exclusive = 5\n 2..3 2 exclusive = withdrawn\n 4..5 1 release 5 = ok\n";
    expect_right(View::Service, &format!("{given_up} 6..7 3 exclusive = 7"));
    expect_wrong(View::Service, &format!("{given_up} 6..7 3 exclusive = busy"));
    expect_wrong(View::Service, &format!("{given_up} 6..7 3 inspect = 2:6:x"));
    expect_wrong_at_once(View::Service, &format!("{given_up} 6..7 2 release 6 = ok"));
    // Of a client's users one gave up; the tenure that came may be kept for the next.
    expect_right(View::Users, &format!("{given_up} 6..7 3 inspect = 2:6:x\n 8..9 2 exclusive = 6"));
}

#[test]
fn an_unknown_acquire_may_hold_the_lock_or_not() {
    for view in BOTH {
        expect_right(view, "0.. 1 exclusive\n 1..2 2 exclusive = 5");
        expect_right(view, "0.. 1 exclusive\n 1..2 2 exclusive = busy");
        expect_right(view, "0.. 1 exclusive\n 5..9 1 ends = ok\n 1..2 2 exclusive = busy\n 10..11 2 exclusive = 7");
    }
    // Once seen, it is there, and stays until its session ends.
    expect_wrong(View::Service, "0.. 1 exclusive\n 1..2 2 inspect = 1:5:x\n 3..4 2 exclusive = 6");
    expect_right(View::Service, "0.. 1 exclusive\n 1..2 2 inspect = 1:5:x\n 2.. 1 ends\n 3..4 2 exclusive = 6");
    expect_right(View::Service, "0.. 1 exclusive\n 1..2 2 shared = 5\n 3..4 2 release 5 = ok\n 9..10 2 shared = busy");
    expect_wrong(View::Service, "1..2 2 exclusive = busy\n 3.. 1 exclusive");
}

#[test]
fn an_unknown_release_may_free_the_lock_at_any_time_or_never() {
    let text = "0..1 1 exclusive = 5\n 2.. 1 release 5\n";
    for view in BOTH {
        expect_right(view, text);
        expect_right(view, &format!("{text} 3..4 2 exclusive = 6"));
        expect_right(view, &format!("{text} 3..4 2 exclusive = busy\n 50..51 2 exclusive = 6"));
        expect_wrong_at_once(view, "0..1 1 exclusive = 5\n 2..3 2 exclusive = 6\n 4.. 1 release 5");
    }
    expect_right(View::Service, &format!("{text} 3..4 2 exclusive = busy\n 5..6 2 exclusive = busy"));
    expect_wrong(
        View::Service,
        &format!("{text} 3..4 2 exclusive = 6\n 5..6 2 release 6 = ok\n 7..8 2 exclusive = busy"),
    );
}

#[test]
fn the_end_of_a_session_frees_its_locks_from_the_end_of_the_clients_own_validity_on() {
    for view in BOTH {
        let held = "0..1 1 exclusive = 5\n 10.. 1 ends\n";
        expect_right(view, &format!("{held} 5..11 2 exclusive = 6"));
        expect_right(view, &format!("{held} 50..51 2 exclusive = 6"));
        expect_right(view, &format!("{held} 50..51 2 exclusive = busy"));
        expect_wrong_at_once(view, &format!("{held} 5..9 2 exclusive = 6"));
        // It was certain at 20.
        let known = "0..1 1 exclusive = 5\n 10..20 1 ends\n";
        expect_right(view, &format!("{known} 21..22 2 exclusive = 6"));
        expect_wrong_at_once(view, &format!("{known} 21..22 1 exclusive = 6"));
    }
    expect_wrong(View::Service, "0..1 1 exclusive = 5\n 10..20 1 ends\n 21..22 2 exclusive = busy");
}

#[test]
fn a_session_that_had_to_end_for_anothers_grant_is_granted_nothing_later() {
    for view in BOTH {
        let ends = "0..1 1 exclusive = 5\n 2.. 1 ends\n 3..4 2 exclusive = 6\n 5..6 2 release 6 = ok\n";
        expect_right(view, &format!("{ends} 7..8 3 exclusive = 7"));
        expect_wrong(view, &format!("{ends} 7..8 1 exclusive = 7"));
    }
}

#[test]
fn a_guard_that_lapsed_while_its_session_lived_on_is_in_nobodys_way() {
    // The lease ran out at 10 by the client's clock; the user dropped its guard at 30.
    let lapsed = "0..1 1 exclusive = 5\n 10..30 1 release 5 = ok\n";
    expect_right(View::Users, &format!("{lapsed} 11..12 2 exclusive = 6"));
    expect_wrong_at_once(View::Users, &format!("{lapsed} 8..9 2 exclusive = 6"));
    expect_right(View::Users, &format!("{lapsed} 11..12 1 exclusive = 9"));
    expect_right(
        View::Users,
        "0..1 1 exclusive = 5\n 10..20 1 ends\n 10..30 1 release 5 = ok\n 25..26 2 exclusive = 6",
    );
}

#[test]
fn a_forced_release_ends_the_holders_guards_before_another_has_the_lock() {
    let forced = "0..1 1 exclusive = 5\n 2..3 0 force 5 = ok\n";
    // The tenure was forced, and is still valid.
    expect_wrong_at_once(View::Users, &format!("{forced} 4..5 2 exclusive = 6\n 6..7 1 release 5 = ok"));
    expect_right(View::Users, &format!("{forced} 4..7 2 exclusive = 6\n 6..9 1 release 5 = ok"));
    expect_right(
        View::Service,
        &format!("{forced} 4..5 2 exclusive = busy\n 6..7 2 exclusive = 6\n 8..9 1 release 5 = not-held"),
    );
    expect_wrong(View::Service, &format!("{forced} 6..7 2 exclusive = 6\n 8..9 1 release 5 = ok"));
    expect_wrong(View::Service, &format!("{forced} 4..5 1 exclusive = 5"));
    expect_wrong(View::Service, &format!("{forced} 4..5 0 force 5 = ok"));
    expect_wrong(View::Service, "0..1 1 exclusive = 5\n 2..3 0 force 4 = ok");
    expect_wrong(View::Service, "0..1 1 exclusive = 5\n 2..3 0 force 5 = not-held");
}

#[test]
fn a_forced_release_without_waiting_leaves_the_holder_with_a_void_guard() {
    let forced = "0..1 1 exclusive = 5\n 2..3 0 force-now 5 = ok\n";
    expect_right(
        View::Users,
        &format!("{forced} 4..5 2 exclusive = 6\n 6..7 1 release 5 = ok\n 8..9 2 release 6 = ok"),
    );
    expect_wrong_at_once(View::Users, &format!("{forced} 4..5 2 exclusive = 6\n 6..7 3 exclusive = 7"));
    expect_right(View::Service, &format!("{forced} 4..5 2 exclusive = 6\n 6..7 1 release 5 = not-held"));
    expect_wrong(View::Service, &format!("{forced} 4..5 2 exclusive = busy"));
    expect_right(View::Service, "0..1 1 exclusive = 5\n 2.. 0 force-now 5\n 4..5 2 exclusive = 6");
}

#[test]
fn a_downgrade_lets_shared_ones_in_and_exclusive_ones_not() {
    let down = "0..1 1 exclusive = 5\n 2..3 1 downgrade 5 = ok\n";
    expect_right(View::Service, &format!("{down} 4..5 2 shared = 6\n 6..7 1 release 5 = ok"));
    expect_wrong_at_once(View::Service, &format!("{down} 4..5 2 exclusive = 6"));
    expect_wrong_at_once(View::Service, "0..1 1 exclusive = 5\n 2..3 2 shared = 6\n 4..5 1 downgrade 5 = ok");
}

#[test]
fn locks_are_told_apart_and_the_wrong_one_is_named() {
    let mut both = history("0..1 1 exclusive = 5");
    let granted = Some((3, Answer::Granted { token: 6 }));
    let operation =
        Operation { session: 2, action: Action::Acquire { mode: Mode::Exclusive }, called: 2, returned: granted };
    both.add("b", operation.clone());
    assert_eq!(check(&both, View::Users), Ok(()));
    both.add("a", operation);
    let verdict = check(&both, View::Users);
    assert!(
        matches!(&verdict, Err(Violation::Tenure(TenureViolation::HeldTwice { lock, .. })) if lock == "a"),
        "{verdict:?}"
    );
    let text = check_order(&both, View::Users).expect_err("wrong").to_string();
    assert!(text.contains("lock \"a\"") && text.contains("2..3 session 2 Acquire"), "{text}");
}

#[test]
fn a_history_is_the_same_after_it_was_written_and_read() {
    let text = "0..1 1 exclusive = 5\n 2.. 1 release 5\n 3..4 2 shared = busy\n 5..6 2 inspect = 1:5:x\n 7.. 1 ends\n 8..9 0 force-now 5 = ok";
    let history = history(text);
    let mut bytes = Vec::new();
    history.write(&mut bytes).expect("written");
    assert_eq!(History::read(bytes.as_slice()).expect("read"), history);
    let first = "{\"lock\":\"a\",\"session\":1,\"action\":{\"acquire\":{\"mode\":\"exclusive\"}},\"called\":0,\"returned\":[1,{\"granted\":{\"token\":5}}]}";
    assert_eq!(String::from_utf8(bytes).expect("text").lines().next(), Some(first));
    let wrong = History::read("{\"session\":1,\"action\":\"inspect\",\"called\":0,\"returned\":null}\n".as_bytes());
    assert!(wrong.expect_err("no lock").to_string().starts_with("line 1: a session ends"));
}
