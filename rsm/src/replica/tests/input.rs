//! What a member refuses, and what it does when states differ.

use super::script::Script;
use crate::{
    ClusterId, Entry, Identity, Incarnation, Input, MemberId, Message, Payload, Rejection, Standing, Viewstamp,
};

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

#[test]
fn entries_that_make_no_sense_are_dropped() {
    let mut script = Script::serving(3, None);
    let view = script.view(2);
    let from = Identity { member: MemberId(1), incarnation: Incarnation(1) };
    let last = script.members[&2].status().last;
    for (viewstamp_op, commands) in [(last.op + 2, 1), (last.op, 0), (u64::MAX, 1)] {
        let entry = Entry {
            viewstamp: Viewstamp { view: 1, op: viewstamp_op },
            previous: last,
            payload: Payload::Batch(vec![vec![]; commands]),
        };
        let message =
            Message::Append { view: 1, previous: last, entries: vec![std::sync::Arc::new(entry)], commit: last };
        script.step(2, Input::Message { cluster: view.cluster, from, message });
    }
    assert_eq!(script.members[&2].status().last, last);
    script.commit("x");
}

#[test]
fn a_decree_that_cannot_be_one_of_this_cluster_is_not_believed() {
    let mut script = Script::serving(3, None);
    let own = script.view(2);
    let stranger = Identity { member: MemberId(1), incarnation: Incarnation(666) };
    let mut empty = own.clone();
    (empty.number, empty.slots) = (1 << 62, Vec::new());
    let mut foreign = own.clone();
    (foreign.number, foreign.cluster) = (9, ClusterId(77));
    let mut headless = own.clone();
    (headless.number, headless.primary) = (9, MemberId(4));
    let mut unsigned = own.clone();
    unsigned.number = 9;
    for value in [empty, foreign, headless, unsigned] {
        let message = Message::Paxos(paxos::Message::Decided { value });
        for id in 1..=3 {
            script.step(id, Input::Message { cluster: ClusterId(0), from: stranger, message: message.clone() });
        }
    }
    script.commit("x");
    assert_eq!(script.view(2), own);
    assert!(script.faults.is_empty(), "{:?}", script.faults);
}

#[test]
fn a_message_of_another_cluster_is_dropped() {
    let mut script = Script::serving(3, None);
    let from = Identity { member: MemberId(1), incarnation: Incarnation(1) };
    let message = Message::StepDown { view: 1 };
    script.step(2, Input::Message { cluster: ClusterId(77), from, message });
    script.run(1000);
    assert_eq!(script.view(2).number, 1);
    assert_eq!(script.view(2).slots[0].standing, Standing::InSync);
}
