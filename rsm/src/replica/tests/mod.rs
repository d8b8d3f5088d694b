//! Scripted scenarios, at least one for each rule, with the order of messages and flushes chosen by hand. Where a rule can
//! be left out (see [`crate::mutant`]) the same scenario shows what then goes wrong.

mod membership;
mod paxos_rules;
mod review;
mod script;
mod witness;

use script::Script;

use crate::mutant::Mutant;
use crate::{Entry, Input, MemberId, Payload, Rejection, Standing};

// ----- S10: founding and rejoining

#[test]
fn s10_three_empty_stores_found_one_cluster_with_the_lowest_id_as_primary() {
    let script = Script::serving(3, None);
    for id in 1..=3 {
        let view = script.view(id);
        assert_eq!((view.number, view.primary), (1, MemberId(1)));
        assert_eq!(view.in_sync().count(), 3);
        assert_eq!(view.cluster, script.view(1).cluster);
    }
}

#[test]
fn s10_nothing_is_founded_while_one_member_is_silent_and_the_others_say_who() {
    let mut script = Script::new(3, None);
    script.start(1);
    script.start(2);
    script.run(5000);
    assert_eq!(script.primary(), None);
    let line = script.members[&1].status().waits_for.expect("it waits");
    assert!(line.contains("member 3 (m3)"), "{line}");
    script.start(3);
    script.run_until("the cluster is founded", |script| script.primary() == Some(1));
}

#[test]
fn s10_a_member_with_another_configuration_keeps_the_cluster_from_being_founded() {
    let mut script = Script::new(3, None);
    script.start(1);
    script.start(2);
    script.settings.founding.name = "another".into();
    script.start(3);
    script.run(3000);
    assert_eq!(script.primary(), None);
    assert!(script.members[&1].status().waits_for.expect("it waits").contains("member 3 was started with another"));
}

#[test]
fn s10_a_store_lost_in_the_middle_of_founding_does_not_count_as_having_stored_view_1() {
    let mut script = Script::new(3, None);
    script.start(1);
    script.start(2);
    script.start(3);
    script.hold_disk(3, true); // it answers, but never gets view 1 onto its medium
    script.run(300);
    assert_eq!(script.primary(), None);
    script.lose_store(3);
    script.start(3);
    script.run_until("it is founded with the new store", |script| script.primary() == Some(1));
    assert!(script.view(1).lists(MemberId(3), crate::Incarnation(103)));
    assert_eq!(script.view(1).number, 1);
}

#[test]
fn s10_an_empty_store_joins_a_running_cluster_as_a_new_incarnation_and_is_promoted_once_it_has_caught_up() {
    let mut script = Script::serving(3, None);
    script.commit("before");
    script.lose_store(3);
    script.run(1500);
    script.commit("meanwhile");
    script.start(3);
    script.run_until("it is listed", |script| script.view(1).lists(MemberId(3), crate::Incarnation(103)));
    script.run_until("it is in sync", |script| script.view(1).is_in_sync(MemberId(3), crate::Incarnation(103)));
    script.commit("after");
    script.converge();
    assert_eq!(script.journal(3), ["before", "meanwhile", "after"]);
}

#[test]
fn s6_a_second_process_with_the_same_id_is_refused_while_the_listed_one_lives() {
    let mut script = Script::serving(3, None);
    let join = crate::Message::Join { address: "m9".into(), kind: crate::Kind::Replica };
    let impostor = crate::Identity { member: MemberId(3), incarnation: crate::Incarnation(999) };
    for _ in 0..20 {
        let input = Input::Message { cluster: script.view(1).cluster, from: impostor, message: join.clone() };
        script.step(1, input);
        script.run(100);
    }
    assert_eq!(script.view(1).number, 1);
    assert!(script.view(1).is_in_sync(MemberId(3), crate::Incarnation(3)));
}

// ----- S3: commit

#[test]
fn s3_what_the_primary_alone_holds_is_neither_committed_nor_answered() {
    let mut script = Script::serving(3, None);
    script.isolate(1);
    let tag = script.submit(1, "alone");
    script.run(150);
    assert!(!script.answers.contains_key(&tag));
    assert!(script.journal(1).is_empty());
}

#[test]
fn s3_the_primary_counts_itself_only_after_its_own_write_is_durable() {
    let mut script = Script::serving(3, None);
    script.hold_disk(1, true);
    script.isolate(3);
    let tag = script.submit(1, "x");
    script.run(150);
    assert!(!script.answers.contains_key(&tag), "member 2 alone is no majority");
    script.hold_disk(1, false);
    script.run(50);
    assert!(script.answers.contains_key(&tag));
}

#[test]
fn s3_two_backups_commit_while_the_primarys_own_disk_is_slow() {
    let mut script = Script::serving(3, None);
    script.hold_disk(1, true);
    let tag = script.submit(1, "x");
    script.run(50);
    assert!(script.answers.contains_key(&tag));
}

/// A newcomer that is not yet promoted acknowledges; the only in-sync backup does not.
fn newcomer_counts(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.lose_store(3);
    script.run(1500);
    script.start(3);
    script.run_until("it is listed", |script| script.view(1).lists(MemberId(3), crate::Incarnation(103)));
    assert!(!script.view(1).is_in_sync(MemberId(3), crate::Incarnation(103)) || mutant == Some(Mutant::NewcomerInSync));
    script.cut_link(1, 2);
    script.cut_link(2, 3);
    let before = script.members[&1].commit();
    script.submit(1, "x");
    script.deliver(); // no time passes, so that nobody is promoted
    script.members[&1].commit() > before
}

#[test]
fn s3_s7_a_syncing_members_acknowledgement_does_not_commit() {
    assert!(!newcomer_counts(None));
    assert!(newcomer_counts(Some(Mutant::SyncingCounts)), "the scenario notices when the rule is left out");
}

/// Review M1. Member 1 sends (1,x), (1,y) to member 2 alone and dies; view 2 starts from members 1 and 3, without them.
/// Does member 2 then acknowledge or execute its old branch?
fn old_branch_is_promised(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.commit("base");
    script.converge();
    script.isolate(3);
    script.hold_disk(1, true);
    script.submit(1, "x");
    script.submit(1, "y");
    script.deliver(); // member 2 holds x and y durably; its acks arrive at 1, whose own write never does
    script.isolate(2);
    script.kill(1);
    script.heal();
    script.isolate(2);
    script.start(1);
    script.run_until("members 1 and 3 serve without member 2", |script| script.primary().is_some());
    script.commit("z");
    script.heal();
    script.run(30);
    script.converge();
    !script.faults.is_empty() || script.journal(2) != ["base", "z"]
}

#[test]
fn m1_a_suffix_that_was_not_matched_in_this_view_is_neither_acknowledged_nor_executed() {
    assert!(!old_branch_is_promised(None));
    assert!(old_branch_is_promised(Some(Mutant::ExecutesUnverified)), "the scenario notices when the rule is left out");
}

// ----- S4, S5: start of a view

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

// ----- S1, S2, S8, S9, S11

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
fn s9_a_backup_executes_only_what_it_knows_to_be_committed() {
    let mut script = Script::serving(3, None);
    script.isolate(3);
    script.hold_disk(1, true);
    script.submit(1, "held by member 2 alone");
    script.run(100);
    assert!(script.journal(2).is_empty(), "it is in its log, and not executed");
    assert_eq!(script.members[&2].log_viewstamps().len(), 2);
}

// ----- S6 and liveness

#[test]
fn s6_a_dead_backup_costs_no_view_change_and_comes_back_in_sync() {
    let mut script = Script::serving(3, None);
    script.kill(3);
    for round in 0..20 {
        script.commit(&format!("without it {round}"));
    }
    script.start(3);
    script.converge();
    assert_eq!(script.view(1).number, 1, "the view has not changed");
    assert_eq!(script.journal(3).len(), 20);
}

#[test]
fn a_backup_that_is_killed_and_restarted_at_once_never_wedges_the_group() {
    let mut script = Script::serving(3, None);
    script.kill(2); // so that member 3 is needed for each commit
    script.commit("a");
    script.kill(3);
    script.start(3);
    script.commit("b");
    assert_eq!(script.view(1).number, 1);
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
fn a_dead_primary_is_replaced_within_half_a_second_without_its_hosts_help_and_at_once_with_it() {
    for (told, bound_ms) in [(false, 500), (true, 120)] {
        let mut script = Script::serving(3, None);
        script.run(500);
        script.kill(1);
        let killed_at = script.now;
        if told {
            script.step(2, Input::Unreachable { member: MemberId(1), incarnation: None });
            script.step(3, Input::Unreachable { member: MemberId(1), incarnation: None });
        }
        script.run_until("a new primary serves", |script| script.primary().is_some());
        let took_ms = (script.now - killed_at) / 1000;
        assert!(took_ms <= bound_ms, "told {told}: {took_ms} ms");
    }
}

#[test]
fn a_member_that_hears_nobody_cannot_depose_a_working_primary() {
    let mut script = Script::serving(3, None);
    script.cut_one_way(1, 3); // member 3 hears member 2, not the primary
    script.run(3000);
    assert_eq!(script.primary(), Some(1));
    assert_eq!(script.view(1).number, 1);
    script.heal();
    script.isolate(3);
    script.run(3000);
    script.heal();
    script.run(500);
    assert_eq!(script.view(1).number, 1, "nor when it comes back");
}

#[test]
fn a_primary_that_loses_its_quorum_steps_down_and_says_so() {
    let mut script = Script::serving(3, None);
    script.isolate(1);
    script.run_until("it no longer serves", |script| !script.members[&1].status().is_primary);
    assert!(script.members[&1].status().waits_for.is_some());
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
fn s1_stores_that_the_view_does_not_list_have_no_vote_however_many_they_are() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    script.kill(1);
    script.lose_store(2);
    script.lose_store(3);
    script.start(2);
    script.start(3);
    script.run(5000);
    assert_eq!(script.primary(), None, "two empty stores must not serve");
    script.start(1);
    script.run(5000);
    assert_eq!(script.primary(), None, "one whole store of three is no majority: only an operator may accept the loss");
    assert!(script.members[&1].status().waits_for.is_some());
}

#[test]
fn m5_a_newcomer_that_has_caught_up_takes_part_in_the_fail_over_that_comes_before_its_promotion() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    script.lose_store(3);
    script.run(1500);
    script.start(3);
    script.run_until("it is listed", |script| script.view(2).lists(MemberId(3), crate::Incarnation(103)));
    script.run_until("it has the barrier", |script| {
        !script.members[&3].log_viewstamps().is_empty() && script.members[&3].status().executed_op > 2
            || script.view(2).is_in_sync(MemberId(3), crate::Incarnation(103))
    });
    script.kill(1);
    script.run_until("members 2 and 3 serve", |script| script.primary().is_some_and(|id| id != 1));
    script.commit("y");
}

// ----- catch-up

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
fn a_command_beyond_the_limit_is_refused_and_harms_nobody() {
    let mut script = Script::serving(3, None);
    let tag = script.submit(1, &"x".repeat(crate::limits::COMMAND_MAX_BYTES + 1));
    assert_eq!(script.answers[&tag], Err(Rejection::Busy));
    script.commit("x");
}

#[test]
fn a_backup_names_the_primary_to_whoever_asks_it() {
    let mut script = Script::serving(3, None);
    let tag = script.submit(2, "x");
    assert_eq!(script.answers[&tag], Err(Rejection::NotPrimary { hint: Some("m1".into()) }));
}

// ----- section 7

#[test]
fn a_member_whose_state_differs_from_the_majoritys_stops_and_the_others_go_on() {
    let mut script = Script::serving(3, None);
    script.members.get_mut(&3).expect("it runs").machine_mut().push(0, b"a flipped bit");
    script.commit("x");
    script.run(500);
    assert!(script.faults[&3].contains("differs"), "{:?}", script.faults);
    script.commit("y");
}

#[test]
fn a_primary_whose_state_differs_from_two_backups_stops() {
    let mut script = Script::serving(3, None);
    script.members.get_mut(&1).expect("it runs").machine_mut().push(0, b"a flipped bit");
    script.commit("x");
    script.run(500);
    assert!(script.faults[&1].contains("differs"), "{:?}", script.faults);
    assert!(!script.faults.contains_key(&2) && !script.faults.contains_key(&3));
    script.run_until("the others go on", |script| script.primary().is_some());
}

// ----- bad input

#[test]
fn entries_that_make_no_sense_are_dropped() {
    let mut script = Script::serving(3, None);
    let view = script.view(2);
    let from = crate::Identity { member: MemberId(1), incarnation: crate::Incarnation(1) };
    let last = script.members[&2].status().last;
    for (viewstamp_op, commands) in [(last.op + 2, 1), (last.op, 0), (u64::MAX, 1)] {
        let entry = Entry {
            viewstamp: crate::Viewstamp { view: 1, op: viewstamp_op },
            previous: last,
            payload: Payload::Batch(vec![vec![]; commands]),
        };
        let message =
            crate::Message::Append { view: 1, previous: last, entries: vec![std::sync::Arc::new(entry)], commit: last };
        script.step(2, Input::Message { cluster: view.cluster, from, message });
    }
    assert_eq!(script.members[&2].status().last, last);
    script.commit("x");
}

#[test]
fn s10_a_store_of_another_cluster_is_refused_in_one_line() {
    let mut script = Script::serving(3, None);
    script.run(100);
    script.kill(2);
    let founding = script.settings.founding.clone();
    script.settings.founding.name = "another".into();
    assert!(script.try_start(2).expect_err("refused").contains("another name than 'another'"));
    script.settings.founding = founding.clone();
    script.settings.founding.members[1].2 = crate::Kind::Witness;
    assert!(script.try_start(2).expect_err("refused").contains("is listed as replica, not as witness"));
    script.settings.founding = founding;
    script.settings.founding.members.pop();
    script.try_start(2).expect("it is its own: who is a member the view says, the list only finds peers");
}

#[test]
fn a_decree_that_cannot_be_one_of_this_cluster_is_not_believed() {
    let mut script = Script::serving(3, None);
    let own = script.view(2);
    let stranger = crate::Identity { member: MemberId(1), incarnation: crate::Incarnation(666) };
    let mut empty = own.clone();
    (empty.number, empty.slots) = (1 << 62, Vec::new());
    let mut foreign = own.clone();
    (foreign.number, foreign.cluster) = (9, crate::ClusterId(77));
    let mut headless = own.clone();
    (headless.number, headless.primary) = (9, MemberId(4));
    let mut unsigned = own.clone();
    unsigned.number = 9;
    for value in [empty, foreign, headless, unsigned] {
        let message = crate::Message::Paxos(paxos::Message::Decided { value });
        for id in 1..=3 {
            script.step(id, Input::Message { cluster: crate::ClusterId(0), from: stranger, message: message.clone() });
        }
    }
    script.commit("x");
    assert_eq!(script.view(2), own);
    assert!(script.faults.is_empty(), "{:?}", script.faults);
}

#[test]
fn the_end_of_a_process_that_borrowed_the_primarys_number_says_nothing_of_the_primary() {
    let mut script = Script::serving(3, None);
    for id in [2, 3] {
        let input = Input::Unreachable { member: MemberId(1), incarnation: Some(crate::Incarnation(666)) };
        script.step(id, input);
    }
    script.run(30);
    assert_eq!(script.view(1).number, 1);
}

#[test]
fn a_message_of_another_cluster_is_dropped() {
    let mut script = Script::serving(3, None);
    let from = crate::Identity { member: MemberId(1), incarnation: crate::Incarnation(1) };
    let message = crate::Message::StepDown { view: 1 };
    script.step(2, Input::Message { cluster: crate::ClusterId(77), from, message });
    script.run(1000);
    assert_eq!(script.view(2).number, 1);
    assert_eq!(script.view(2).slots[0].standing, Standing::InSync);
}
