//! Snapshots in parts, when they are taken, and how laggards get them.

use super::script::Script;
use crate::limits::SNAPSHOT_PART_BYTES;
use crate::{Input, MemberId, Message, Record, SnapshotImage, StateMachine};

/// Members that take a snapshot after 100 KiB of log, or after as much as the last one's size; and a log with room for many.
fn frequent() -> Script {
    let mut script = Script::new(3, None);
    script.settings.snapshot_every_bytes = 100 << 10;
    script.founded()
}

fn block(letter: &str) -> String {
    letter.repeat(40 << 10)
}

fn images(script: &Script, id: u64) -> Vec<&SnapshotImage> {
    let mut images = Vec::new();
    for record in script.records(id) {
        if let Record::Snapshot { image, .. } = record {
            images.push(&**image);
        }
    }
    images
}

#[test]
fn a_step_adds_one_part_of_bounded_size_and_only_when_the_one_before_is_durable() {
    let mut script = frequent();
    for _ in 0..12 {
        script.commit(&block("x"));
    }
    script.run(500);
    let before = script.records(1).len();
    script.hold_disk(1, true);
    script.commit(&block("y"));
    script.commit(&block("z"));
    script.run(300);
    let is_part = |record: &&Record| matches!(record, Record::SnapshotPart { .. } | Record::Snapshot { .. });
    assert!(
        script.records(1)[before..].iter().filter(is_part).count() <= 1,
        "one is under way, the medium stands still"
    );
    script.hold_disk(1, false);
    for _ in 0..20 {
        script.commit(&block("y"));
    }
    script.run(500);
    let (mut next, mut parts) = (0, 0);
    for record in script.records(1) {
        match record {
            Record::SnapshotPart { offset, bytes, .. } => {
                assert!(bytes.len() <= SNAPSHOT_PART_BYTES, "{} bytes in one step", bytes.len());
                assert!(*offset == 0 || *offset == next, "parts follow each other");
                next = offset + bytes.len() as u64;
                parts += 1;
            }
            Record::Snapshot { image, .. } => {
                let ahead = if image.size_bytes() > SNAPSHOT_PART_BYTES as u64 { next } else { 0 };
                assert!(image.size_bytes() - ahead <= SNAPSHOT_PART_BYTES as u64, "the rest is one part, too");
            }
            _ => {}
        }
    }
    assert!(parts >= 5, "{parts} parts: the states were larger than one");
}

#[test]
fn what_is_executed_between_the_parts_does_not_show_in_them() {
    let mut script = frequent();
    for _ in 0..25 {
        script.commit(&block("x"));
    }
    script.run(500);
    let machine = script.members[&1].machine().clone();
    let images = images(&script, 1);
    assert!(images.len() >= 3, "{} snapshots", images.len());
    for image in images {
        let mut then = super::script::Journal::default();
        let until = machine.0.iter().filter(|(op, _)| *op <= image.viewstamp.op);
        until.for_each(|(op, command)| then.push(*op, command));
        assert!(*image.joined() == *then.snapshot(), "the state at {}", image.viewstamp);
    }
}

#[test]
fn intervals_grow_with_the_state_and_the_log_is_kept_to_the_snapshot_before_the_last() {
    let mut script = frequent();
    for _ in 0..60 {
        script.commit(&block("x"));
    }
    script.run(1000);
    let images = images(&script, 1);
    let ops: Vec<u64> = images.iter().map(|image| image.viewstamp.op).collect();
    assert!(
        (3..10).contains(&ops.len()),
        "each about twice as large as the one before, up to a share of the log: {ops:?}"
    );
    let start = script.members[&1].log_viewstamps()[0].op;
    assert_eq!(start, ops[ops.len() - 2] + 1, "the log starts behind the snapshot before the last");
}

#[test]
fn a_laggard_gets_the_logs_tail_where_that_is_less_and_a_snapshot_where_that_is() {
    let mut script = frequent();
    script.commit(&block("x"));
    script.commit(&block("x"));
    script.kill(3);
    script.commit(&block("x"));
    script.run(500);
    assert!(!images(&script, 1).is_empty());
    script.heard = Some(Vec::new());
    script.start(3);
    script.converge();
    let offers = |script: &Script| {
        let heard = script.heard.iter().flatten();
        heard.filter(|(.., message)| matches!(message, Message::SnapshotOffer { .. })).count()
    };
    assert_eq!(offers(&script), 0, "one block is less than a snapshot of three");
    script.lose_store(3);
    script.start(3);
    script.converge();
    assert!(offers(&script) > 0, "a snapshot is less than all entries since the beginning");
    assert_eq!(script.journal(3).len(), 3);
}

#[test]
fn a_transfer_goes_on_where_it_was_when_another_member_offers_the_same_snapshot() {
    let mut script = frequent();
    script.kill(3);
    for _ in 0..30 {
        script.commit(&block("x"));
        script.run(100);
    }
    let ends = |id| images(&script, id).last().map(|image| (image.viewstamp, image.digest()));
    assert_eq!(ends(1), ends(2), "both took it at the same op");
    script.heard = Some(Vec::new());
    script.start(3);
    let offsets = |script: &Script| -> Vec<(u64, u64)> {
        let of = |(from, to, message): &(u64, u64, Message)| match message {
            Message::FetchChunk { offset, .. } if *from == 3 => Some((*to, *offset)),
            _ => None,
        };
        script.heard.iter().flatten().filter_map(of).collect()
    };
    script.lose(|from, to, message| {
        from == 1 && to == 3 && matches!(message, Message::Chunk { offset, .. } if *offset >= 512 << 10)
    });
    script.run(500);
    assert!(offsets(&script).contains(&(1, 512 << 10)), "it got half of it from member 1: {:?}", offsets(&script));
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    script.run_until("member 2 serves", |script| script.primary() == Some(2));
    script.converge();
    let from_two: Vec<u64> =
        offsets(&script).into_iter().filter(|(to, _)| *to == 2).map(|(_, offset)| offset).collect();
    assert_eq!(from_two.first(), Some(&(512 << 10)), "and goes on from there: {from_two:?}");
    assert_eq!(script.journal(3).len(), 30);
}

#[test]
fn a_snapshot_that_is_being_fetched_stays_while_a_newer_one_takes_its_place() {
    let mut script = frequent();
    script.kill(3);
    for _ in 0..30 {
        script.commit(&block("x"));
    }
    script.run(500);
    script.heard = Some(Vec::new());
    script.start(3);
    script.lose(|_, to, message| to == 3 && matches!(message, Message::Chunk { offset, .. } if *offset > 0));
    script.run(300);
    let before = images(&script, 1).last().map(|image| image.viewstamp);
    for _ in 0..40 {
        script.commit(&block("y"));
    }
    assert_ne!(images(&script, 1).last().map(|image| image.viewstamp), before, "a newer one was taken");
    script.heal();
    script.converge();
    let fetched = script.heard.iter().flatten().filter_map(|(from, _, message)| match message {
        Message::FetchChunk { viewstamp, offset, .. } if *from == 3 && *offset > 0 => Some(*viewstamp),
        _ => None,
    });
    assert_eq!(fetched.min(), before, "it went on with the one that it had begun");
    assert_eq!(script.journal(3).len(), 70);
}

#[test]
fn a_member_that_stood_still_takes_in_no_more_at_once_than_its_log_has_room_for() {
    // The simulator found it: all that had piled up came into the log before a snapshot could begin.
    let mut script = Script::new(3, None);
    script.settings.snapshot_every_bytes = 100 << 10;
    script.settings.log_capacity_bytes = 1 << 20;
    let mut script = script.founded();
    for _ in 0..20 {
        script.commit(&block("x"));
    }
    script.run(500);
    script.pause(3);
    for _ in 0..30 {
        script.commit(&block("y"));
    }
    let before = script.members[&3].log.bytes();
    script.resume(3);
    let after = script.members[&3].log.bytes();
    assert!(before < after && after <= script.settings.log_capacity_bytes / 8 * 7, "from {before} to {after} bytes");
    script.converge();
    assert_eq!(script.journal(3).len(), 50);
}
