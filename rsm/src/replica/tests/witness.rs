//! S13: witnesses hold the log's tail, and no state.

use super::script::Script;
use crate::mutant::Mutant;
use crate::{Change, ChangeError, Incarnation, Input, Kind, MemberId, Message, Standing};

use Kind::{Replica, Witness};

/// Two replicas, 1 and 2, and witness 3; each drops what it may as soon as it may.
fn two_and_a_witness(mutant: Option<Mutant>) -> Script {
    let mut script = Script::of(&[Replica, Replica, Witness], mutant);
    script.settings.snapshot_every_bytes = 2 << 10;
    script.founded()
}

fn commit_many(script: &mut Script, first: u64, count: u64) {
    for number in first..first + count {
        script.commit(&format!("{number}: {}", "x".repeat(200)));
    }
}

fn holds_all(script: &Script, id: u64, count: usize) -> bool {
    let journal = script.journal(id);
    journal.len() == count && (1..).zip(&journal).all(|(number, command)| command.starts_with(&format!("{number}:")))
}

fn log_start(script: &Script, id: u64) -> u64 {
    script.members[&id].log_viewstamps().first().map_or(u64::MAX, |viewstamp| viewstamp.op)
}

#[test]
fn s13_two_witnesses_of_three_are_refused() {
    let mut script = Script::of(&[Replica, Witness, Witness], None);
    for id in 1..=3 {
        script.start(id);
    }
    script.run(3000);
    assert_eq!(script.primary(), None);
    let line = script.members[&1].status().waits_for.expect("it waits");
    assert!(line.contains("2 of 3 members are witnesses"), "{line}");
}

#[test]
fn s13_a_witness_with_the_lowest_id_founds_and_a_replica_is_primary() {
    let mut script = Script::of(&[Witness, Replica, Replica], None).founded();
    assert_eq!(script.primary(), Some(2));
    script.commit("x");
    script.converge();
    assert_eq!(script.journal(3), ["x"]);
}

#[test]
fn s13_a_witness_votes_and_acknowledges_and_executes_nothing() {
    let mut script = two_and_a_witness(None);
    script.kill(2);
    script.commit("the primary and the witness hold it");
    assert!(script.journal(3).is_empty());
    script.kill(1);
    script.start(2);
    script.run_until("member 2 serves", |script| script.primary() == Some(2));
    assert_eq!(script.journal(2), ["the primary and the witness hold it"], "the witness's log has it");
    script.commit("with the witness alone");
    script.kill(3);
    script.start(3);
    script.commit("it remembers what it is");
    assert!(script.journal(3).is_empty());
}

#[test]
fn s13_a_witness_is_never_primary() {
    let mut script = two_and_a_witness(None);
    script.step(1, Input::HandOver { to: Some(MemberId(3)) });
    script.run(500);
    assert_eq!((script.primary(), script.view(1).number), (Some(1), 1));
    script.kill(1);
    script.kill(2);
    script.run(5000);
    assert_eq!(script.primary(), None);
    script.start(2);
    script.run_until("a replica serves", |script| script.primary() == Some(2));
}

/// M7: replica 2 is cut off; 1 and the witness commit; then 1 is gone, store and all. Is everything still there?
fn the_slow_replica_has_everything(mutant: Option<Mutant>) -> bool {
    let mut script = two_and_a_witness(mutant);
    commit_many(&mut script, 1, 20);
    script.isolate(2);
    commit_many(&mut script, 21, 60);
    script.lose_store(1);
    script.heal();
    script.run(3000);
    script.primary() == Some(2) && holds_all(&script, 2, 80)
}

#[test]
fn m7_one_store_lost_behind_a_slow_replica_and_a_witness_loses_nothing() {
    assert!(the_slow_replica_has_everything(None));
    assert!(!the_slow_replica_has_everything(Some(Mutant::WitnessDropsEarly)), "the scenario notices");
}

#[test]
fn s13_a_witness_drops_what_both_replicas_hold_also_over_a_restart() {
    let mut script = two_and_a_witness(None);
    commit_many(&mut script, 1, 60);
    script.run(200);
    let start = log_start(&script, 3);
    assert!(start > 20, "its log starts at {start}");
    script.kill(3);
    script.start(3);
    assert_eq!(log_start(&script, 3), start);
    script.kill(2);
    commit_many(&mut script, 61, 5);
}

#[test]
fn m7_a_lost_replica_stops_the_dropping_until_its_successor_is_promoted() {
    let mut script = Script::of(&[Replica, Replica, Replica, Replica, Witness], None);
    script.settings.snapshot_every_bytes = 2 << 10;
    let mut script = script.founded();
    commit_many(&mut script, 1, 40);
    script.run(200);
    script.lose_store(4);
    script.run(1500);
    script.hold_disk(4, true); // listed, and never caught up
    script.start(4);
    script.run_until("it is listed", |script| script.view(1).lists(MemberId(4), Incarnation(104)));
    script.run_until("the primary serves", |script| script.primary() == Some(1));
    let start = log_start(&script, 5);
    commit_many(&mut script, 41, 40);
    script.run(500);
    assert_eq!(log_start(&script, 5), start, "it drops nothing, though three replicas hold all of it");
    script.hold_disk(4, false);
    script.run_until("it is promoted", |script| script.view(1).is_in_sync(MemberId(4), Incarnation(104)));
    script.run_until("the primary serves", |script| script.primary() == Some(1));
    commit_many(&mut script, 81, 5);
    script.run_until("the witness drops again", |script| log_start(script, 5) > start);
}

#[test]
fn m7_a_witness_without_room_keeps_the_primarys_snapshot_and_gives_it_to_the_replica_that_needs_it() {
    let mut script = Script::of(&[Replica, Replica, Witness], None);
    script.settings.snapshot_every_bytes = 100 << 10;
    script.settings.log_capacity_bytes = 512 << 10;
    let mut script = script.founded();
    script.isolate(2);
    for number in 1..=60 {
        script.commit(&format!("{number}: {}", "x".repeat(30 << 10)));
    }
    assert!(log_start(&script, 3) > 30, "1.8 MB do not fit into its log of 512 KiB");
    script.lose_store(1);
    script.heal();
    script.run_until("the other replica serves", |script| script.primary() == Some(2));
    assert!(holds_all(&script, 2, 60), "{:?}", script.journal(2).len());
    script.start(1);
    script.run_until("the lost one is back", |script| {
        script.primary() == Some(2) && script.view(2).is_in_sync(MemberId(1), Incarnation(101))
    });
    script.converge();
    assert!(holds_all(&script, 1, 60));
}

#[test]
fn s13_a_witness_without_room_acknowledges_nothing_until_it_has_the_snapshot() {
    let mut script = Script::of(&[Replica, Replica, Witness], None);
    script.start(1);
    script.start(2);
    script.settings.log_capacity_bytes = 256 << 10;
    script.start(3);
    script.run_until("the cluster is founded", |script| script.primary() == Some(1));
    script.isolate(2);
    script.lose(|_, to, message| to == 3 && matches!(message, Message::SnapshotOffer { .. }));
    let block = "x".repeat(30 << 10);
    let tags: Vec<_> = (0..12).map(|_| script.submit(1, &block)).collect();
    script.run(300);
    let done = |script: &Script| tags.iter().filter(|tag| matches!(script.answers.get(tag), Some(Ok(_)))).count();
    assert!((1..12).contains(&done(&script)), "{} of 12 commands found room", done(&script));
    assert!(log_start(&script, 3) <= 2, "nothing was dropped but the barrier, which both replicas hold");
    script.lose(|_, _, _| false);
    script.run_until("all are answered", |script| done(script) == 12);
    assert!(log_start(&script, 3) > 2, "the snapshot took the place of what was dropped");
}

/// Five with a witness: 4 lags, 1 and 3 die, the witness has dropped what 4 lacks, and 4 is made primary.
fn laggard_leads(mutant: Option<Mutant>) -> bool {
    let mut script = Script::of(&[Replica, Replica, Replica, Replica, Witness], mutant);
    script.settings.snapshot_every_bytes = 2 << 10;
    let mut script = script.founded();
    // No replica takes snapshots, so that the log is the only way.
    script.isolate(4);
    commit_many(&mut script, 1, 7);
    script.run(200);
    script.settings.snapshot_every_bytes = 1 << 20;
    assert!(log_start(&script, 5) > 2, "the witness has dropped its log's beginning");
    script.kill(1);
    script.kill(3);
    script.heal();
    script.propose(4, 4);
    script.run(800);
    script.primary() == Some(4) && holds_all(&script, 4, 7)
}

#[test]
fn s13_a_new_primary_takes_a_replicas_log_before_the_witnesss() {
    assert!(laggard_leads(None));
    assert!(!laggard_leads(Some(Mutant::WitnessLogAlone)), "the scenario notices");
}

#[test]
fn s13_n_changes_only_when_enough_replicas_hold_what_the_witness_may_drop() {
    let mut script = Script::of(&[Replica, Replica, Replica, Witness], None).founded();
    script.lose(|_, to, message| to == 3 && matches!(message, Message::Append { .. }));
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    script.run_until("member 2 serves", |script| script.primary() == Some(2));
    script.run(100);
    let refused = script.make(Change::Remove { member: MemberId(1) });
    let Err(ChangeError::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("1 replicas that stay hold the log of this view, and 2 must"), "{reason}");
    script.heal();
    script.run(300);
    script.make(Change::Remove { member: MemberId(1) }).expect("replica 3 has caught up");
    script.run_until("the others serve", |script| script.primary().is_some());
    script.commit("x");
}

#[test]
fn s13_witnesses_are_added_and_replicas_removed_only_while_the_witnesses_stay_few() {
    let mut script = two_and_a_witness(None);
    let refused = script.make(Change::Remove { member: MemberId(2) });
    assert!(
        matches!(&refused, Err(ChangeError::Refused(reason)) if reason.contains("would be witnesses")),
        "{refused:?}"
    );
    let second = Change::Add { member: MemberId(4), address: "m4".into(), kind: Witness };
    let refused = script.make(second);
    assert!(
        matches!(&refused, Err(ChangeError::Refused(reason)) if reason.contains("would be witnesses")),
        "{refused:?}"
    );
    script.grow(4, Replica);
    script.grow(5, Witness);
    let view = script.view(script.primary().expect("somebody serves"));
    assert_eq!((view.majority(), view.in_sync().count()), (3, 5));
    script.kill(1);
    script.kill(3);
    script.run_until("three of five serve", |script| script.primary().is_some());
    script.commit("x");
    assert!(script.journal(5).is_empty());
}

#[test]
fn s13_a_witness_whose_store_is_lost_comes_back_as_a_new_one() {
    let mut script = two_and_a_witness(None);
    commit_many(&mut script, 1, 30);
    script.lose_store(3);
    script.run(1500);
    script.start(3);
    script.run_until("it is in sync", |script| script.view(1).is_in_sync(MemberId(3), Incarnation(103)));
    assert!(script.view(1).slots.iter().all(|slot| slot.standing == Standing::InSync));
    script.run_until("the primary serves", |script| script.primary() == Some(1));
    script.kill(2);
    commit_many(&mut script, 31, 5);
    script.kill(1);
    script.start(2);
    script.run_until("replica 2 serves", |script| script.primary() == Some(2));
    assert!(holds_all(&script, 2, 35));
}
