//! S6 and liveness: who may be deposed, and how soon somebody else serves.

use super::script::Script;
use crate::{Incarnation, Input, MemberId};

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
fn the_end_of_a_process_that_borrowed_the_primarys_number_says_nothing_of_the_primary() {
    let mut script = Script::serving(3, None);
    for id in [2, 3] {
        let input = Input::Unreachable { member: MemberId(1), incarnation: Some(Incarnation(666)) };
        script.step(id, input);
    }
    script.run(30);
    assert_eq!(script.view(1).number, 1);
}
