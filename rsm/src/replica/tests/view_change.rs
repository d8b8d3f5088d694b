//! S1, S2, S4, S8, S11: a view is decided, entered and started, and nothing is lost on the way.

use super::script::Script;
use crate::mutant::Mutant;
use crate::{Incarnation, Input, MemberId, Message, Rejection};

#[test]
fn s4_a_new_primary_starts_from_the_highest_viewstamp_among_q_reports() {
    let mut script = Script::serving(3, None);
    script.isolate(2);
    script.commit("only on 1 and 3");
    script.kill(1);
    script.heal();
    script.run_until("a new primary serves", |script| script.primary().is_some());
    script.converge();
    assert_eq!(script.journal(2), ["only on 1 and 3"]);
    assert_eq!(script.journal(3), ["only on 1 and 3"]);
}

#[test]
fn s4_without_q_reports_nothing_is_served() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    script.kill(1);
    script.kill(2);
    script.run(5000);
    assert_eq!(script.primary(), None);
    script.start(2);
    script.run_until("two of three serve", |script| script.primary().is_some());
    assert_eq!(script.journal(script.primary().expect("it serves")), ["x"]);
}

/// The one backup that lacks a committed entry becomes primary. Does it serve without it?
fn trusting_primary_forgets(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.isolate(2);
    script.commit("committed on 1 and 3");
    script.heal();
    script.cut_one_way(1, 2);
    script.kill(1);
    // Make member 2 the candidate: member 3 only answers.
    script.step(2, Input::Unreachable { member: MemberId(1), incarnation: None });
    script.step(3, Input::Unreachable { member: MemberId(1), incarnation: None });
    script.run(1000);
    let Some(primary) = script.primary() else { return false };
    script.run(500);
    !script.journal(primary).contains(&"committed on 1 and 3".to_owned())
}

#[test]
fn s4_a_backup_that_lacks_a_committed_entry_fetches_it_before_it_serves() {
    assert!(!trusting_primary_forgets(None));
    assert!(trusting_primary_forgets(Some(Mutant::OwnLogOnly)), "the scenario notices when the rule is left out");
}

#[test]
fn s1_a_member_that_slept_through_a_view_is_told_of_it_and_cannot_have_it_decided_anew() {
    let mut script = Script::serving(3, None);
    script.isolate(3);
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    script.run_until("member 2 serves in view 2", |script| script.primary() == Some(2));
    let decided = script.view(1);
    script.step(3, Input::Unreachable { member: MemberId(1), incarnation: None });
    script.run(500); // member 3 knows view 1 only, and wants to follow it
    assert_eq!(script.view(3).number, 1);
    script.heal();
    script.cut_link(2, 3);
    script.step(3, Input::Unreachable { member: MemberId(1), incarnation: None });
    script.run(500);
    assert_eq!(script.view(3), decided, "the finished instance is not voted on again");
    script.heal();
    script.converge();
    assert_eq!(script.primary(), Some(2));
}

#[test]
fn s11_a_primary_that_proposed_a_view_goes_on_in_its_own_until_it_enters_that_one() {
    let mut script = Script::serving(3, None);
    script.hold_disk(1, true); // its promise to itself is not durable, so nobody hears of the proposal
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    let tag = script.submit(1, "meanwhile");
    script.run(100);
    assert!(script.answers.contains_key(&tag), "members 2 and 3 hold it, in view 1");
    assert_eq!(script.view(2).number, 1);
    script.hold_disk(1, false);
    script.run_until("the proposal is decided after all", |script| script.primary() == Some(2));
    script.converge();
    assert_eq!(script.journal(2), ["meanwhile"]);
}

#[test]
fn s2_a_deposed_primary_that_wakes_up_answers_nothing_of_its_old_view() {
    let mut script = Script::serving(3, None);
    script.isolate(1);
    let tag = script.submit(1, "never committed");
    script.run_until("the others go on", |script| script.primary().is_some_and(|id| id != 1));
    script.commit("x");
    script.heal();
    script.converge();
    assert_eq!(script.answers[&tag], Err(Rejection::Unknown));
    assert_eq!(script.journal(1), ["x"], "its own suffix is replaced");
}

#[test]
fn s2_a_new_primary_says_nothing_in_its_view_before_it_is_durable_that_it_entered_it() {
    let mut script = Script::serving(3, None);
    script.hold_disk(3, true);
    script.step(1, Input::HandOver { to: Some(MemberId(3)) });
    script.deliver();
    script.run(100);
    assert!(script.members[&3].status().is_primary, "it has entered view 2, in memory");
    let of_view_2 = |script: &Script, id| script.members[&id].log_viewstamps().iter().any(|at| at.view == 2);
    assert!(!of_view_2(&script, 1) && !of_view_2(&script, 2), "an entry would be assigned again after a crash");
    script.hold_disk(3, false);
    script.run(100);
    assert!(of_view_2(&script, 1) && of_view_2(&script, 2));
}

#[test]
fn s8_a_restarted_primary_never_resumes_its_view() {
    let mut script = Script::serving(3, None);
    script.hold_disk(1, true);
    script.isolate(1);
    script.submit(1, "sent, but never on its own medium");
    script.kill(1);
    script.heal();
    script.start(1);
    assert!(!script.members[&1].status().is_primary);
    script.run_until("a new view serves", |script| script.primary().is_some());
    assert_eq!(script.view(1).number, 2);
}

#[test]
fn s8_a_primary_that_is_killed_and_restarted_at_once_serves_with_everything_it_had() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    script.kill(1);
    script.start(1);
    script.run_until("somebody serves", |script| script.primary().is_some());
    let primary = script.primary().expect("somebody serves");
    assert_eq!(script.journal(primary), ["x"]);
}

#[test]
fn everybody_killed_and_started_again_remembers_everything() {
    let mut script = Script::serving(3, None);
    for command in ["a", "b", "c"] {
        script.commit(command);
    }
    for id in 1..=3 {
        script.kill(id);
    }
    for id in 1..=3 {
        script.start(id);
    }
    script.run_until("somebody serves", |script| script.primary().is_some());
    script.converge();
    for id in 1..=3 {
        assert_eq!(script.journal(id), ["a", "b", "c"]);
    }
}

#[test]
fn a_planned_hand_over_skips_detection() {
    let mut script = Script::serving(3, None);
    script.run(500);
    script.commit("x");
    let started_at = script.now;
    script.step(1, Input::HandOver { to: Some(MemberId(3)) });
    script.run_until("member 3 serves", |script| script.primary() == Some(3));
    assert!(script.now - started_at <= 30_000, "{} µs", script.now - started_at);
    script.commit("y");
    script.converge();
    assert_eq!(script.journal(1), ["x", "y"]);
}

#[test]
fn m5_a_newcomer_that_has_caught_up_takes_part_in_the_fail_over_that_comes_before_its_promotion() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    script.lose_store(3);
    script.run(1500);
    script.start(3);
    script.run_until("it is listed", |script| script.view(2).lists(MemberId(3), Incarnation(103)));
    script.run_until("it has the barrier", |script| {
        !script.members[&3].log_viewstamps().is_empty() && script.members[&3].status().executed_op > 2
            || script.view(2).is_in_sync(MemberId(3), Incarnation(103))
    });
    script.kill(1);
    script.run_until("members 2 and 3 serve", |script| script.primary().is_some_and(|id| id != 1));
    script.commit("y");
}

#[test]
fn a_member_that_missed_more_than_the_log_holds_gets_a_snapshot_in_pieces() {
    let mut script = Script::serving(3, None);
    script.settings.snapshot_every_bytes = 200 << 10;
    for id in 1..=3 {
        script.kill(id);
        script.start(id);
    }
    script.run_until("somebody serves", |script| script.primary().is_some());
    script.kill(3);
    if script.primary().is_none() {
        script.run_until("somebody serves", |script| script.primary().is_some());
    }
    let block = "x".repeat(40 << 10);
    for _ in 0..40 {
        script.commit(&block);
    }
    let primary = script.primary().expect("somebody serves");
    assert!(script.members[&primary].log_viewstamps()[0].op > 5, "the log's beginning is gone");
    script.start(3);
    script.converge();
    assert_eq!(script.journal(3).len(), 40);
    script.kill(3);
    script.start(3);
    script.converge();
    assert_eq!(script.journal(3).len(), 40, "and it is durable there");
}

#[test]
fn a_new_primary_executes_what_the_reporter_knew_to_be_committed_before_its_view_has_started() {
    // The simulator found it: without that a log full of entries not known to be committed had no room for the rest.
    let mut script = Script::serving(3, None);
    script.commit("a");
    script.run(100);
    script.lose(|_, to, message| to == 3 && matches!(message, Message::Append { .. }));
    script.commit("b");
    script.commit("c");
    script.run(100);
    assert_eq!(script.journal(3), ["a"]);
    script.kill(1);
    script.lose(|from, to, message| (from, to) == (3, 2) && matches!(message, Message::Append { .. }));
    script.propose(3, 3);
    script.run(100);
    assert_eq!(script.journal(3), ["a", "b", "c"]);
    assert_eq!(script.primary(), None, "its barrier is not committed");
}
