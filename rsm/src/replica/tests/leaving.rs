//! A member that is removed while its vote is needed: it stops when the others can do without it.

use super::script::Script;
use crate::mutant::Mutant;
use crate::{Change, MemberId, Message};

fn is_decided(message: &Message) -> bool {
    matches!(message, Message::Paxos(paxos::Message::Decided { .. }))
}

/// View 2 takes member 4 away from four. Its primary, member 1, got no votes and is down; member 4 took the proposal up and
/// decided it, with the votes of 2, 3 and its own. Only member 3 has heard of that.
fn decided_by_the_one_that_goes(mutant: Option<Mutant>) -> Script {
    let mut script = Script::serving(4, mutant);
    script.commit("x");
    script.lose(|_, to, message| to == 1 && matches!(message, Message::Paxos(paxos::Message::Accepted { .. })));
    script.change(1, Change::Remove { member: MemberId(4) });
    script.deliver();
    script.kill(1);
    script.heal();
    script.lose(|_, to, message| to == 2 && is_decided(message));
    script.propose(4, 4);
    script.deliver();
    assert_eq!((script.view(2).number, script.view(3).number), (1, if mutant.is_none() { 2 } else { 1 }));
    script
}

/// Of the three that stay, the one that has heard is lost; three may lose one. Do the others ever serve?
fn the_rest_goes_on(mutant: Option<Mutant>) -> bool {
    let mut script = decided_by_the_one_that_goes(mutant);
    script.run(3000);
    assert_eq!(script.faults.contains_key(&4), mutant.is_some(), "{:?}", script.faults);
    if mutant.is_some() {
        script.lose_store(4); // it said that it was removed
    }
    script.lose_store(3);
    script.start(1);
    script.heal();
    script.run(3000);
    let serves = script.primary().is_some();
    assert!(!serves || script.faults[&4].contains("lists no member 4 any more"), "it stops, too");
    serves
}

#[test]
fn s12_a_member_that_decides_its_own_removal_stays_until_a_majority_of_the_rest_knows() {
    assert!(the_rest_goes_on(None));
    assert!(!the_rest_goes_on(Some(Mutant::LeavesUntold)), "the scenario notices");
}

#[test]
fn s12_a_member_that_leaves_says_so_and_goes_on_with_it_after_a_restart() {
    let mut script = decided_by_the_one_that_goes(None);
    for _ in 0..2 {
        let line = script.members[&4].status().waits_for.expect("it does not serve");
        assert!(line.contains("waits for 2 of those that are to know it") && line.ends_with("1 do"), "{line}");
        script.kill(4);
        script.start(4);
        script.run(500);
    }
    script.heal();
    script.run_until("it stops", |script| script.faults.contains_key(&4));
    script.run_until("2 and 3 serve", |script| script.primary().is_some());
    assert_eq!(script.view(2).number, script.view(3).number);
}

#[test]
fn s12_a_member_that_leaves_is_told_only_what_is_durable() {
    let mut script = decided_by_the_one_that_goes(None);
    script.hold_disk(2, true);
    script.heal();
    script.run(1000);
    assert_eq!(script.view(2).number, 2, "it knows, and would forget it in a crash");
    assert!(script.faults.is_empty(), "{:?}", script.faults);
    script.hold_disk(2, false);
    script.run_until("it stops", |script| script.faults.contains_key(&4));
}

#[test]
fn s12_a_member_that_leaves_and_reaches_nobody_stops_at_last_and_says_that_its_store_is_needed() {
    let mut script = decided_by_the_one_that_goes(None);
    script.isolate(4);
    script.run(95_000);
    assert!(!script.faults.contains_key(&4));
    script.run(15_000);
    assert!(script.faults[&4].contains("keep this data directory"), "{:?}", script.faults);
    script.heal();
    script.start(1);
    script.start(4);
    script.run_until("the others serve", |script| script.primary().is_some());
    script.run_until("it stops", |script| !script.members.contains_key(&4));
}

#[test]
fn s12_a_member_that_was_removed_long_ago_stops_as_soon_as_it_hears() {
    let mut script = Script::serving(4, None);
    script.isolate(4);
    script.make(Change::Remove { member: MemberId(4) }).expect("it is removed");
    script.propose(1, 2);
    script.run_until("member 2 serves", |script| script.primary() == Some(2));
    script.kill(1);
    script.kill(3);
    script.heal();
    script.run_until("one that knows a later view is enough", |script| script.faults.contains_key(&4));
}
