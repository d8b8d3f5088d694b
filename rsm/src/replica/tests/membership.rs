//! S12: members are added, removed and replaced while the cluster serves.

use super::script::Script;
use crate::mutant::Mutant;
use crate::{Change, ChangeError, Identity, Incarnation, Input, Kind, MemberId, Message, Standing};

fn add(id: u64) -> Change {
    Change::Add { member: MemberId(id), address: format!("m{id}"), kind: Kind::Replica }
}

fn remove(id: u64) -> Change {
    Change::Remove { member: MemberId(id) }
}

fn replace(id: u64) -> Change {
    Change::Replace { member: MemberId(id), address: format!("m{id}") }
}

fn refusal(answer: Result<u64, ChangeError>) -> String {
    match answer {
        Err(ChangeError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn standing(script: &Script, id: u64) -> Option<Standing> {
    let view = script.view(script.primary().expect("somebody serves"));
    view.slot(MemberId(id)).map(|slot| slot.standing)
}

#[test]
fn s12_an_added_member_is_a_learner_first_and_counts_once_it_has_caught_up() {
    let mut script = Script::serving(3, None);
    script.commit("before");
    script.format(4, Kind::Replica);
    let number = script.make(add(4)).expect("it is added");
    let view = script.view(1);
    assert_eq!((view.number, standing(&script, 4)), (number, Some(Standing::Learner)));
    assert_eq!((view.majority(), view.voters().count()), (2, 3), "it counts for nothing");
    script.start(4);
    script.run_until("it counts", |script| standing(script, 4) == Some(Standing::InSync));
    assert_eq!(script.view(1).majority(), 3);
    script.commit("after");
    script.converge();
    assert_eq!(script.journal(4), ["before", "after"]);
}

#[test]
fn s12_a_store_that_nobody_added_is_told_to_wait_for_the_operator() {
    let mut script = Script::serving(3, None);
    script.format(4, Kind::Replica);
    script.start(4);
    script.run(1000);
    let line = script.members[&4].status().waits_for.expect("it waits");
    assert!(line.contains("no member 4: an operator has to add it"), "{line}");
    script.make(add(4)).expect("it is added");
    script.run_until("it counts", |script| standing(script, 4) == Some(Standing::InSync));
}

#[test]
fn s12_a_cluster_grows_from_one_member_to_five_and_shrinks_to_one_again() {
    let mut script = Script::serving(1, None);
    let mut expected = Vec::new();
    for id in 2..=5 {
        script.grow(id, Kind::Replica);
        expected.push(format!("with {id}"));
        script.commit(&format!("with {id}"));
    }
    assert_eq!(script.view(1).majority(), 3);
    script.converge();
    for id in (2..=5).rev() {
        script.make(remove(id)).expect("it is removed");
        script.run_until("the others serve", |script| script.primary() == Some(1));
        expected.push(format!("without {id}"));
        script.commit(&format!("without {id}"));
        script.run_until("it stops", |script| script.faults.contains_key(&id));
    }
    assert_eq!(script.journal(1), expected);
    assert!(refusal(script.make(remove(1))).contains("no majority"), "the last member stays");
}

#[test]
fn m4_adding_a_spare_while_a_member_is_down_stops_nobody() {
    let mut script = Script::serving(3, None);
    script.kill(3);
    script.format(4, Kind::Replica);
    script.make(add(4)).expect("it is added");
    script.run(3000);
    script.commit("the spare has not come");
    assert_eq!(standing(&script, 4), Some(Standing::Learner));
    script.start(4);
    script.run_until("it counts", |script| standing(script, 4) == Some(Standing::InSync));
    script.commit("three of four are up");
    script.make(remove(3)).expect("the dead one is removed");
    script.run_until("the others serve", |script| script.primary().is_some());
    assert_eq!(script.view(1).majority(), 2);
    script.commit("three of three");
}

/// The entry is committed on 1, 2 and 3 of five; members 4 and 5 have not got it, and hear from the primary all the same.
fn three_of_five_hold_an_entry(mutant: Option<Mutant>) -> Script {
    let mut script = Script::serving(5, mutant);
    script.lose(|_, to, message| to >= 4 && matches!(message, Message::Append { .. }));
    script.commit("e");
    script
}

/// Members 4 and 5 are all that is left of the view's quorum: have they forgotten?
fn e_is_lost(mut script: Script) -> bool {
    script.heal();
    script.kill(1);
    script.run(3000);
    let Some(primary) = script.primary() else { return false };
    !script.journal(primary).contains(&"e".to_owned())
}

fn five_four_three_without_a_start(mutant: Option<Mutant>) -> bool {
    let mut script = three_of_five_hold_an_entry(mutant);
    script.lose(|_, to, message| {
        to >= 4 && matches!(message, Message::Append { .. }) || matches!(message, Message::Report { .. })
    });
    script.make(remove(2)).expect("n becomes four");
    script.run(100);
    assert_eq!(script.primary(), None, "the view cannot start: nobody's report arrives");
    let tag = script.change(1, remove(3));
    script.run(100);
    if mutant.is_none() {
        assert_eq!(script.changes[&tag], Err(ChangeError::ViewChanging));
    }
    e_is_lost(script)
}

#[test]
fn m4_n_shrinks_from_five_to_three_only_through_views_that_started() {
    assert!(!five_four_three_without_a_start(None));
    assert!(five_four_three_without_a_start(Some(Mutant::ChangesBeforeBarrier)), "the scenario notices");
}

fn two_members_removed_at_once(mutant: Option<Mutant>) -> bool {
    let mut script = three_of_five_hold_an_entry(mutant);
    script.make(remove(2)).expect("n shrinks");
    e_is_lost(script)
}

#[test]
fn m4_one_view_removes_one_member() {
    assert!(!two_members_removed_at_once(None));
    assert!(two_members_removed_at_once(Some(Mutant::TwoSlotsInOneView)), "the scenario notices");
}

fn learner_commits(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.format(4, Kind::Replica);
    script.make(add(4)).expect("it is added");
    script.lose(|from, _, message| from == 4 && matches!(message, Message::Ack { .. }));
    script.start(4);
    script.run_until("its store is listed", |script| script.view(1).lists(MemberId(4), Incarnation(4)));
    script.run_until("the view serves", |script| script.primary() == Some(1));
    script.run(100);
    assert_eq!(standing(&script, 4), Some(Standing::Learner));
    script.heal();
    script.cut_link(1, 2);
    script.cut_link(1, 3);
    let before = script.members[&1].commit();
    script.submit(1, "x");
    script.deliver(); // no time passes, so that nobody is promoted
    script.members[&1].commit() > before
}

#[test]
fn s12_a_learners_acknowledgement_does_not_commit() {
    assert!(!learner_commits(None));
    assert!(learner_commits(Some(Mutant::LearnerCounts)), "the scenario notices");
}

#[test]
fn s12_a_learner_that_dies_stops_nobody_loses_its_store_without_harm_and_can_be_removed() {
    let mut script = Script::serving(3, None);
    script.format(4, Kind::Replica);
    script.make(add(4)).expect("it is added");
    script.hold_disk(4, true); // it gets nothing onto its medium
    script.start(4);
    script.run(1000);
    script.commit("x");
    assert_eq!(standing(&script, 4), Some(Standing::Learner));
    script.lose_store(4);
    script.run(2000);
    script.commit("y");
    script.start(4);
    script.run_until("its new store is listed", |script| script.view(1).lists(MemberId(4), Incarnation(104)));
    script.kill(4);
    script.run_until("the others serve", |script| script.primary().is_some());
    script.run(500);
    if standing(&script, 4) == Some(Standing::Learner) {
        script.make(remove(4)).expect("it is removed");
        assert_eq!(script.view(1).majority(), 2);
    }
    script.run_until("the others serve", |script| script.primary().is_some());
    script.commit("z");
}

#[test]
fn s12_a_learner_has_no_part_in_a_fail_over_and_is_counted_in_by_the_new_primary() {
    let mut script = Script::serving(3, None);
    script.format(4, Kind::Replica);
    script.make(add(4)).expect("it is added");
    script.start(4);
    script.run_until("its store is listed", |script| script.view(1).lists(MemberId(4), Incarnation(4)));
    script.kill(1);
    script.cut_link(2, 3);
    script.run(3000);
    assert_eq!(script.primary(), None, "one voter and a learner are no majority");
    script.heal();
    script.run_until("members 2 and 3 serve", |script| script.primary().is_some());
    script.run_until("it counts", |script| standing(script, 4) == Some(Standing::InSync));
    script.commit("x");
    script.converge();
    assert_eq!(script.journal(4), ["x"]);
}

#[test]
fn s12_a_removed_member_stops_with_one_line_whenever_it_comes_back() {
    let mut script = Script::serving(3, None);
    script.kill(3);
    script.make(remove(3)).expect("it is removed");
    script.run_until("the others serve", |script| script.primary().is_some());
    let number = script.view(1).number;
    for _ in 0..2 {
        script.faults.clear();
        script.start(3);
        script.run_until("it stops", |script| script.faults.contains_key(&3));
        let line = &script.faults[&3];
        assert!(line.contains("lists no member 3 any more") && !line.contains('\n'), "{line}");
    }
    assert_eq!(script.view(1).number, number, "it disturbed nobody");
    script.commit("x");
}

#[test]
fn s12_a_removed_learner_learns_of_it_though_it_never_stands_for_anything() {
    let mut script = Script::serving(3, None);
    script.format(4, Kind::Replica);
    script.make(add(4)).expect("it is added");
    script.hold_disk(4, true);
    script.start(4);
    script.run_until("its store is listed", |script| script.view(1).lists(MemberId(4), Incarnation(4)));
    script.hold_disk(4, false);
    script.deliver();
    script.isolate(4);
    script.make(remove(4)).expect("it is removed");
    script.run(1000);
    script.heal();
    script.run_until("it stops", |script| script.faults.contains_key(&4));
    assert!(script.faults[&4].contains("lists no member 4 any more"), "{:?}", script.faults);
}

#[test]
fn s12_late_messages_of_a_removed_member_count_for_nothing() {
    let mut script = Script::serving(3, None);
    script.kill(3);
    script.make(remove(3)).expect("it is removed");
    script.run_until("the others serve", |script| script.primary().is_some());
    script.isolate(2);
    script.submit(1, "x");
    script.deliver();
    let (view, before) = (script.view(1), script.members[&1].commit());
    let removed = Identity { member: MemberId(3), incarnation: Incarnation(3) };
    let last = script.members[&1].status().last;
    assert!(last > before);
    let late = [
        Message::Ack { view: view.number, verified: last, executed: (0, 0) },
        Message::Report { view: view.number, last },
        Message::StepDown { view: view.number },
        Message::PreVoteAnswer { view: view.number, yes: true, last, log_start: last, ready: true },
        Message::Join { address: "m3".into(), kind: Kind::Replica },
    ];
    for message in late {
        for _ in 0..3 {
            script.step(1, Input::Message { cluster: view.cluster, from: removed, message: message.clone() });
        }
    }
    assert_eq!((script.members[&1].commit(), script.view(1)), (before, view));
}

#[test]
fn s12_a_primary_that_is_to_go_hands_over_first_and_its_successor_removes_it() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    let Err(ChangeError::NotPrimary { hint: Some(hint) }) = script.make(remove(1)) else { panic!("it hands over") };
    script.run_until("another serves", |script| script.primary().is_some_and(|id| id != 1));
    let primary = script.primary().expect("another serves");
    assert_eq!(hint, format!("m{primary}"));
    script.make(remove(1)).expect("it is removed");
    script.run_until("it stops", |script| script.faults.contains_key(&1));
    script.run_until("the others serve", |script| script.primary().is_some());
    script.commit("y");
    script.converge();
    assert_eq!(script.journal(2), ["x", "y"]);
}

#[test]
fn s12_what_makes_no_sense_or_would_stop_the_service_is_refused_with_a_reason() {
    let mut script = Script::serving(5, None);
    assert!(refusal(script.make(add(3))).contains("has a member 3 already"));
    assert!(refusal(script.make(remove(9))).contains("no member 9"));
    assert!(refusal(script.make(replace(9))).contains("no member 9"));
    let crowded = Change::Add { member: MemberId(6), address: "m2".into(), kind: Kind::Replica };
    assert!(refusal(script.make(crowded)).contains("member 2 has the address m2"));
    let nowhere = Change::Add { member: MemberId(6), address: String::new(), kind: Kind::Replica };
    assert!(refusal(script.make(nowhere)).contains("an address has"));
    let tag = script.change(2, add(6));
    assert_eq!(script.changes[&tag], Err(ChangeError::NotPrimary { hint: Some("m1".into()) }));
    script.kill(4);
    script.kill(5);
    script.run(1000);
    assert!(refusal(script.make(remove(2))).contains("2 of 4 members would be up"));
    assert!(refusal(script.make(replace(2))).contains("2 of 5 members would be up"));
    assert!(refusal(script.make(remove(1))).contains("2 of 4 members would be up"));
    assert_eq!(script.view(1).number, 1, "nothing has happened");
    script.make(remove(5)).expect("a dead one may go");
}

#[test]
fn s12_one_change_at_a_time() {
    let mut script = Script::serving(3, None);
    script.hold_disk(1, true); // its promise to itself is not durable, so the proposal does not leave
    let first = script.change(1, add(4));
    let second = script.change(1, add(5));
    assert!(refusal(script.changes[&second].clone()).contains("another change"));
    script.hold_disk(1, false);
    script.run_until("the first is made", |script| script.changes.contains_key(&first));
    assert_eq!(script.changes[&first], Ok(2));
}

#[test]
fn s12_a_change_asked_for_in_a_fail_over_is_not_made_and_the_asker_knows() {
    let mut script = Script::serving(3, None);
    script.kill(1);
    let backup = script.change(2, add(4));
    assert!(matches!(script.changes[&backup], Err(ChangeError::NotPrimary { .. })));
    script.lose(|_, _, message| matches!(message, Message::Ack { .. }));
    script.run_until("there is a new primary", |script| script.members[&2].status().is_primary);
    let tag = script.change(2, add(4));
    assert_eq!(script.changes[&tag], Err(ChangeError::ViewChanging), "its barrier is not committed");
    script.heal();
    script.run_until("it serves", |script| script.primary().is_some());
    assert!(script.view(2).slot(MemberId(4)).is_none());
    script.make(add(4)).expect("now it can be");
}

#[test]
fn s12_a_change_whose_primary_is_cut_off_is_unknown_to_its_asker_and_made_once_at_most() {
    let mut script = Script::serving(3, None);
    script.isolate(1);
    let tag = script.change(1, add(4));
    script.run_until("the primary gives up", |script| script.changes.contains_key(&tag));
    assert_eq!(script.changes[&tag], Err(ChangeError::Unknown));
    script.run_until("the others serve", |script| script.primary().is_some_and(|id| id != 1));
    script.heal();
    script.converge();
    match script.make(add(4)) {
        Ok(_) => {}
        Err(ChangeError::Refused(reason)) => assert!(reason.contains("a member 4 already"), "{reason}"),
        other => panic!("{other:?}"),
    }
    script.run(500);
    assert_eq!(script.view(2).slots.iter().filter(|slot| slot.member == MemberId(4)).count(), 1);
}

#[test]
fn s12_a_change_that_was_voted_for_before_its_primary_died_is_taken_up_by_the_next_proposer() {
    let mut script = Script::serving(3, None);
    script.lose(|_, _, message| {
        matches!(message, Message::Paxos(paxos::Message::Accepted { .. } | paxos::Message::Decided { .. }))
    });
    script.change(1, add(4));
    script.run(50);
    script.kill(1);
    script.heal();
    script.run_until("somebody serves", |script| script.primary().is_some());
    assert_eq!(standing(&script, 4), Some(Standing::Learner), "its value had a vote, and so it is decided");
    script.commit("x");
}

#[test]
fn s12_a_replaced_store_stops_and_an_empty_one_takes_its_place_at_once() {
    let mut script = Script::serving(3, None);
    script.commit("x");
    script.make(replace(3)).expect("its slot is free");
    assert_eq!(standing(&script, 3), Some(Standing::Syncing));
    script.run_until("the old store stops", |script| script.faults.contains_key(&3));
    assert!(script.faults[&3].contains("another store"), "{:?}", script.faults);
    script.run_until("the others serve", |script| script.primary().is_some());
    assert!(refusal(script.make(replace(2))).contains("majority"), "one after the other");
    script.lose_store(3);
    script.start(3);
    script.run_until("it is in sync", |script| {
        script.primary().is_some() && standing(script, 3) == Some(Standing::InSync)
    });
    script.converge();
    assert_eq!(script.journal(3), ["x"]);
}

#[test]
fn s12_a_member_that_missed_every_change_finds_its_way_back() {
    let mut script = Script::serving(3, None);
    script.kill(3);
    script.grow(4, Kind::Replica);
    script.make(remove(2)).expect("it is removed");
    script.run_until("the others serve", |script| script.primary().is_some());
    script.commit("x");
    script.start(3);
    script.converge();
    assert_eq!(script.journal(3), ["x"]);
    assert_eq!(script.view(3).slots.iter().map(|slot| slot.member.0).collect::<Vec<_>>(), [1, 3, 4]);
}
