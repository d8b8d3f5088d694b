//! What a member gives to one whose log is damaged, and what it does about damage of its own.

use std::sync::Arc;

use super::script::Script;
use crate::{Damage, Identity, Incarnation, Input, MemberId, Message, Record, Viewstamp};

fn lost(member: u64, incarnation: u128, after: Viewstamp, upto: Option<Viewstamp>) -> Input {
    let from = Identity { member: MemberId(member), incarnation: Incarnation(incarnation) };
    let message = Message::FetchLost { after, upto };
    Input::Message { cluster: crate::ClusterId(0), from, message }
}

/// What a member answers: the ops of the entries that it gives, and whether it serves.
fn given(script: &mut Script, by: u64, input: Input) -> (Viewstamp, Vec<u64>, bool) {
    script.heard = Some(Vec::new());
    script.step(by, input);
    let heard = script.heard.take().expect("it was listened for");
    let answers = heard.into_iter().filter_map(|(_, _, message)| match message {
        Message::Kept { previous, entries, serves, .. } => {
            Some((previous, entries.iter().map(|entry| entry.viewstamp.op).collect(), serves))
        }
        _ => None,
    });
    let mut answers: Vec<_> = answers.collect();
    assert_eq!(answers.len(), 1, "one question, one answer");
    answers.remove(0)
}

/// Three members that have executed five commands.
fn five() -> (Script, Vec<Viewstamp>) {
    let mut script = Script::serving(3, None);
    for command in ["a", "b", "c", "d", "e"] {
        script.commit(command);
    }
    script.converge();
    let viewstamps = script.members[&1].log_viewstamps();
    (script, viewstamps)
}

#[test]
fn whoever_holds_the_far_end_of_a_hole_gives_what_lies_before_it() {
    let (mut script, log) = five();
    let ops: Vec<u64> = log[2..4].iter().map(|viewstamp| viewstamp.op).collect();
    for by in [1, 2] {
        let (previous, entries, serves) = given(&mut script, by, lost(3, 3, log[1], Some(log[3])));
        assert_eq!((previous, &entries, serves), (log[1], &ops, by == 1));
    }
    // What the asker has of an older view was dropped where the logs part: there is the place to begin.
    let dropped = Viewstamp { view: 0, op: log[2].op };
    let (previous, entries, _) = given(&mut script, 2, lost(3, 3, dropped, Some(log[3])));
    assert_eq!((previous, entries.len()), (Viewstamp::default(), 4));
    let beyond = Viewstamp { view: log[3].view + 1, op: log[3].op };
    assert!(given(&mut script, 2, lost(3, 3, log[1], Some(beyond))).1.is_empty(), "it is not on his log");
    assert!(given(&mut script, 2, lost(3, 3, log[1], None)).1.is_empty());
}

#[test]
fn a_primary_does_not_call_a_majority_its_own_that_the_asker_is_part_of() {
    let (mut script, log) = five();
    script.isolate(2);
    script.run(300);
    // Member 3 was heard just now, under the same incarnation: that was before it fell down.
    assert!(!given(&mut script, 1, lost(3, 3, log[1], None)).2);
    assert!(given(&mut script, 1, lost(2, 2, log[1], None)).2, "without member 2 it has member 3");
}

#[test]
fn to_ask_is_no_sign_of_life_so_that_a_store_that_is_given_up_is_replaced_soon() {
    let (mut script, log) = five();
    script.kill(3);
    script.run(2_000);
    script.step(1, lost(3, 3, log[1], Some(log[3])));
    script.lose_store(3);
    script.start(3);
    script.run(800);
    let new = Incarnation(103);
    assert!(script.view(1).lists(MemberId(3), new), "{:?}", script.view(1));
}

#[test]
fn entries_that_the_medium_has_lost_are_stored_again_to_the_end() {
    let (mut script, log) = five();
    let before = script.records(2).len();
    script.step(2, Input::Damaged { damage: Damage::Log { op: log[2].op } });
    let Some(Record::Repair { entries }) = script.records(2).get(before) else { panic!("nothing was stored") };
    assert!(entries.iter().map(|entry| entry.viewstamp).eq(log[2..].iter().copied()));
    script.commit("f");
    script.converge();
}

#[test]
fn a_snapshot_that_the_medium_has_lost_is_stored_again_unless_a_newer_one_is_on_its_way() {
    let mut script = Script::new(3, None);
    script.settings.snapshot_every_bytes = 2_000;
    let mut script = script.founded();
    script.step(2, Input::Damaged { damage: Damage::Snapshot });
    for number in 0..40 {
        script.commit(&format!("command {number:0>200}"));
    }
    script.converge();
    let taken = |script: &Script| {
        let snapshots = script.records(2).iter().filter_map(|record| match record {
            Record::Snapshot { image, release } => Some((Arc::clone(image), *release)),
            _ => None,
        });
        snapshots.collect::<Vec<_>>()
    };
    script.run(500);
    let before = taken(&script);
    script.step(2, Input::Damaged { damage: Damage::Snapshot });
    let after = taken(&script);
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after.last(), Some(&(Arc::clone(&before.last().expect("some were taken").0), 0)));
    // One is on its way, and the medium is slow.
    script.hold_disk(2, true);
    for number in 0..40 {
        script.commit(&format!("later command {number:0>200}"));
    }
    let under_way = script.records(2).len();
    assert!(
        taken(&script).len() > after.len() || matches!(script.records(2).last(), Some(Record::SnapshotPart { .. }))
    );
    script.step(2, Input::Damaged { damage: Damage::Snapshot });
    assert_eq!(script.records(2).len(), under_way, "it takes the damaged one's place");
    script.hold_disk(2, false);
    script.commit("more");
    script.converge();
}
