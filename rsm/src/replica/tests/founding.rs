//! S10: a cluster is founded once, and a lost store comes back as another.

use super::script::Script;
use crate::{Identity, Incarnation, Input, Kind, MemberId, Message};

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
    assert!(script.view(1).lists(MemberId(3), Incarnation(103)));
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
    script.run_until("it is listed", |script| script.view(1).lists(MemberId(3), Incarnation(103)));
    script.run_until("it is in sync", |script| script.view(1).is_in_sync(MemberId(3), Incarnation(103)));
    script.commit("after");
    script.converge();
    assert_eq!(script.journal(3), ["before", "meanwhile", "after"]);
}

#[test]
fn s6_a_second_process_with_the_same_id_is_refused_while_the_listed_one_lives() {
    let mut script = Script::serving(3, None);
    let join = Message::Join { address: "m9".into(), kind: Kind::Replica };
    let impostor = Identity { member: MemberId(3), incarnation: Incarnation(999) };
    for _ in 0..20 {
        let input = Input::Message { cluster: script.view(1).cluster, from: impostor, message: join.clone() };
        script.step(1, input);
        script.run(100);
    }
    assert_eq!(script.view(1).number, 1);
    assert!(script.view(1).is_in_sync(MemberId(3), Incarnation(3)));
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
fn s10_a_store_of_another_cluster_is_refused_in_one_line() {
    let mut script = Script::serving(3, None);
    script.run(100);
    script.kill(2);
    let founding = script.settings.founding.clone();
    script.settings.founding.name = "another".into();
    assert!(script.try_start(2).expect_err("refused").contains("another name than 'another'"));
    script.settings.founding = founding.clone();
    script.settings.founding.members[1].2 = Kind::Witness;
    assert!(script.try_start(2).expect_err("refused").contains("is listed as replica, not as witness"));
    script.settings.founding = founding;
    script.settings.founding.members.pop();
    script.try_start(2).expect("it is its own: who is a member the view says, the list only finds peers");
}
