//! S3, S9: what is committed, and who executes it.

use super::script::Script;
use crate::mutant::Mutant;
use crate::{Incarnation, MemberId, Message};

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
    script.run_until("it is listed", |script| script.view(1).lists(MemberId(3), Incarnation(103)));
    assert!(!script.view(1).is_in_sync(MemberId(3), Incarnation(103)) || mutant == Some(Mutant::NewcomerInSync));
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
/// Does member 2 then acknowledge its old branch, and does it execute it?
fn old_branch_is_promised(mutant: Option<Mutant>) -> (bool, bool) {
    let mut script = Script::serving(3, mutant);
    script.commit("base");
    script.converge();
    script.isolate(3);
    script.hold_disk(1, true);
    script.submit(1, "x");
    script.submit(1, "y");
    script.deliver(); // member 2 holds x and y durably; its acks arrive at 1, whose own write never does
    let stale = script.members[&2].status().last;
    script.isolate(2);
    script.kill(1);
    script.heal();
    script.isolate(2);
    script.start(1);
    script.run_until("members 1 and 3 serve without member 2", |script| script.primary().is_some());
    script.commit("z");
    script.heal();
    script.heard = Some(Vec::new());
    script.run(200);
    let acknowledged = script.heard.take().unwrap_or_default().iter().any(|(from, _, message)| {
        matches!(message, Message::Ack { view, verified, .. } if *from == 2 && *view > 1 && *verified == stale)
    });
    (acknowledged, !script.faults.is_empty() || script.journal(2) != ["base", "z"])
}

#[test]
fn m1_a_suffix_that_was_not_matched_in_this_view_is_neither_acknowledged_nor_executed() {
    assert_eq!(old_branch_is_promised(None), (false, false));
    assert!(old_branch_is_promised(Some(Mutant::AcksUnverified)).0, "the scenario notices an ack");
    assert!(old_branch_is_promised(Some(Mutant::ExecutesUnverified)).1, "the scenario notices an execution");
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
