//! Scenarios in which an earlier form of the protocol was wrong or stood still, beside those of membership and witnesses.

use std::sync::Arc;

use super::script::{Journal, Script};
use crate::{Entry, Identity, Incarnation, Input, MemberId, Message, Payload, SnapshotImage, StateMachine, Viewstamp};

/// Member 3 has acknowledged a, b and c, and knows none of them to be committed.
fn acknowledged_and_not_executed() -> Script {
    let mut script = Script::serving(3, None);
    script.lose(|_, to, message| to == 3 && matches!(message, Message::Heartbeat { .. }));
    for command in ["a", "b", "c"] {
        script.submit(1, command);
    }
    script.deliver();
    assert_eq!(script.journal(1), ["a", "b", "c"]);
    assert!(script.journal(3).is_empty());
    script
}

#[test]
fn m6_a_snapshot_that_comes_late_leaves_what_was_acknowledged_above_it() {
    let mut script = acknowledged_and_not_executed();
    let view = script.view(3);
    let before = script.members[&3].status().last;
    let viewstamp = Viewstamp { view: 1, op: before.op - 1 };
    let mut machine = Journal::default();
    machine.push(viewstamp.op - 1, b"a");
    machine.push(viewstamp.op, b"b");
    let state = machine.snapshot();
    let hash = SnapshotImage::of(viewstamp, &state).digest();
    let from = Identity { member: MemberId(1), incarnation: Incarnation(1) };
    let offer = Message::SnapshotOffer { view: 1, viewstamp, bytes: state.len() as u64, hash };
    let chunk = Message::Chunk { view: 1, viewstamp, offset: 0, bytes: state };
    for message in [offer, chunk] {
        script.step(3, Input::Message { cluster: view.cluster, from, message });
    }
    let status = script.members[&3].status();
    assert_eq!((status.executed_op, status.last), (viewstamp.op, before), "installed, and c is still in the log");
    assert_eq!(script.view(3), view, "a snapshot decides no view");
    script.deliver();
    script.kill(3);
    script.start(3);
    assert_eq!((script.members[&3].status().last, script.view(3)), (before, view));
}

#[test]
fn m6_answers_of_an_older_view_change_nothing() {
    let mut script = acknowledged_and_not_executed();
    script.heal();
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    script.run_until("member 2 serves in view 2", |script| script.primary() == Some(2));
    script.converge();
    let (cluster, before) = (script.view(3).cluster, script.members[&3].log_viewstamps());
    let from = Identity { member: MemberId(1), incarnation: Incarnation(1) };
    let previous = before[0];
    let viewstamp = Viewstamp { view: 1, op: previous.op + 1 };
    let other_branch = Arc::new(Entry { viewstamp, previous, payload: Payload::Batch(vec![b"z".to_vec()]) });
    let late = [
        Message::Append { view: 1, previous, entries: vec![Arc::clone(&other_branch)], commit: viewstamp },
        Message::Entries { view: 1, previous, entries: vec![other_branch], commit: Viewstamp::default() },
        Message::SnapshotOffer { view: 1, viewstamp: Viewstamp { view: 1, op: 99 }, bytes: 0, hash: 0 },
        Message::Heartbeat { view: 1, commit: viewstamp, health: crate::Health::default() },
    ];
    for message in late {
        script.step(3, Input::Message { cluster, from, message });
    }
    assert_eq!(script.members[&3].log_viewstamps(), before);
    script.run(100);
    assert_eq!((script.primary(), script.journal(3).len()), (Some(2), 3));
}

#[test]
fn m8_a_founding_that_all_had_stored_and_nobody_knew_to_be_in_force_is_finished_after_a_crash_of_all() {
    let mut script = Script::new(3, None);
    for id in 1..=3 {
        script.start(id);
    }
    script.lose(|_, to, message| to == 1 && matches!(message, Message::FoundStored { .. }));
    script.run(500);
    assert_eq!(script.primary(), None);
    for id in 1..=3 {
        script.kill(id);
    }
    script.heal();
    for id in 1..=3 {
        script.start(id);
    }
    script.run_until("it is founded", |script| script.primary() == Some(1));
    for id in 1..=3 {
        assert!(script.view(1).lists(MemberId(id), Incarnation(id.into())), "each store keeps its incarnation");
    }
}

#[test]
fn m9_two_backups_that_have_just_restarted_do_not_depose_a_healthy_primary() {
    let mut script = Script::serving(3, None);
    script.lose(|from, _, message| from == 1 && matches!(message, Message::Heartbeat { .. }));
    for id in [2, 3] {
        script.kill(id);
        script.start(id);
    }
    script.run(150); // they have heard nothing, and have not listened for long
    script.heal();
    script.run(1000);
    assert_eq!((script.primary(), script.view(1).number), (Some(1), 1));
}

#[test]
fn m9_a_primary_that_cannot_start_its_view_names_the_best_reporter() {
    let mut script = Script::serving(3, None);
    script.isolate(2);
    script.commit("2 has not got it");
    script.heal();
    script.kill(1);
    script.lose(|_, to, message| to == 2 && matches!(message, Message::Entries { .. }));
    script.propose(2, 2);
    script.run_until("member 3 serves", |script| script.primary() == Some(3));
    assert_eq!(script.journal(3), ["2 has not got it"]);
}

#[test]
fn s4_a_new_primary_behind_the_log_start_of_its_reporters_installs_their_snapshot_first() {
    let mut script = Script::new(3, None);
    script.settings.snapshot_every_bytes = 20 << 10;
    let mut script = script.founded();
    script.isolate(2);
    for number in 0..10 {
        script.commit(&format!("{number} {}", "x".repeat(10 << 10)));
    }
    assert!(script.members[&3].log_viewstamps()[0].op > 2, "the log's beginning is gone");
    script.kill(1);
    script.heal();
    script.propose(2, 2);
    script.run_until("member 2 serves", |script| script.primary() == Some(2));
    assert_eq!(script.journal(2).len(), 10);
}

#[test]
fn a_member_that_acknowledges_nothing_is_sent_no_more_than_its_window() {
    let mut script = Script::serving(3, None);
    script.lose(|from, to, message| from == 3 && to == 1 && matches!(message, Message::Ack { .. }));
    script.heard = Some(Vec::new());
    for number in 0..200 {
        script.submit(1, &number.to_string());
        script.deliver(); // no time passes, so that nothing is sent again
    }
    let heard = script.heard.take().unwrap_or_default();
    let to_3 = |to: u64, message: &Message| to == 3 && matches!(message, Message::Append { .. });
    let sent = heard.iter().filter(|(_, to, message)| to_3(*to, message)).count();
    assert!((1..=2 * crate::limits::WINDOW_ENTRIES).contains(&sent), "{sent} messages");
    assert_eq!(script.journal(1).len(), 200, "the others are not held up");
}

#[test]
fn a_log_without_room_refuses_commands_and_takes_urgent_ones() {
    let mut script = Script::new(3, None);
    script.settings.log_capacity_bytes = 256 << 10;
    let mut script = script.founded();
    script.hold_disk(1, true); // the others commit, but no snapshot of its own becomes durable, so nothing can be dropped
    for _ in 0..8 {
        script.submit(1, &"x".repeat(30 << 10));
        script.deliver();
    }
    let refused = script.answers.values().filter(|answer| **answer == Err(crate::Rejection::Busy)).count();
    assert!((1..8).contains(&refused), "{refused} of 8");
    let last = script.members[&1].status().last;
    script.step(1, Input::Submit { tag: 999, command: b"tick".to_vec(), urgent: true });
    assert!(script.members[&1].status().last > last);
}

#[test]
fn what_is_not_committed_leaves_room_in_the_log_and_the_rest_waits() {
    let mut script = Script::new(3, None);
    script.settings.log_capacity_bytes = 256 << 10;
    let mut script = script.founded();
    script.isolate(1);
    for _ in 0..8 {
        script.submit(1, &"x".repeat(30 << 10));
    }
    assert!(script.members[&1].log.bytes() < 128 << 10, "a quarter, and one more: {}", script.members[&1].log.bytes());
    assert!(script.answers.is_empty(), "and none is refused");
    script.heal();
    script.run_until("all are committed", |script| script.journal(1).len() == 8);
}
