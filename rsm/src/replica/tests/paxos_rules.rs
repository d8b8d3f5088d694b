//! What becomes of views when the Paxos core breaks one of its rules: two members enter different views of one number, or views
//! are decided by stores that have no vote. Each scenario is played with the rule, and without it.

use super::script::Script;
use crate::mutant::Mutant;
use crate::{Input, MemberId, Message};

/// Whether two members have entered different views of the same number.
fn parted(script: &Script, one: u64, other: u64) -> bool {
    let (one, other) = (script.view(one), script.view(other));
    one.number == other.number && one != other
}

fn only_13_may_talk(script: &mut Script) {
    script.heal();
    script.cut_link(1, 2);
    script.cut_link(2, 3);
}

/// View 2 is decided by 1 and 2 while 3 sleeps; then 3 proposes another view 2 to 1.
fn a_sleeper_decides_view_2_anew(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.isolate(3);
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    script.run_until("member 2 serves in view 2", |script| script.primary() == Some(2));
    only_13_may_talk(&mut script);
    // The sleeper hears nothing of what the others know before its proposal is through.
    script.lose(|_, to, message| to == 3 && matches!(message, Message::Paxos(paxos::Message::Decided { .. })));
    script.propose(3, 3);
    script.deliver();
    parted(&script, 1, 3)
}

#[test]
fn a_finished_instance_is_not_voted_on_again() {
    assert!(!a_sleeper_decides_view_2_anew(None));
    assert!(a_sleeper_decides_view_2_anew(Some(Mutant::PaxosVotesAgain)), "the scenario notices");
}

/// 1 and 2 decide view 2, whose outcome only 1 hears of; 2 may vote in memory only.
fn decided_in_secret(mutant: Option<Mutant>, in_memory: bool) -> Script {
    let mut script = Script::serving(3, mutant);
    script.isolate(3);
    script.lose(|_, to, message| to != 1 && matches!(message, Message::Paxos(paxos::Message::Decided { .. })));
    script.hold_disk(2, in_memory);
    script.step(1, Input::HandOver { to: Some(MemberId(2)) });
    script.deliver();
    script
}

/// Then 3 proposes another one to 2.
fn another_is_decided(mut script: Script) -> bool {
    script.heal();
    script.isolate(1);
    script.propose(3, 3);
    script.deliver();
    parted(&script, 1, 3)
}

fn a_vote_is_passed_over(mutant: Option<Mutant>) -> bool {
    let script = decided_in_secret(mutant, false);
    assert_eq!(script.view(1).number, 2);
    another_is_decided(script)
}

#[test]
fn a_vote_that_was_told_is_put_forward() {
    assert!(!a_vote_is_passed_over(None));
    assert!(a_vote_is_passed_over(Some(Mutant::PaxosChoosesFreely)), "the scenario notices");
}

/// 2 votes for view 2 and dies before its vote is stored; then it votes for another one.
fn a_vote_is_forgotten(mutant: Option<Mutant>) -> bool {
    let mut script = decided_in_secret(mutant, true);
    script.kill(2);
    script.start(2);
    another_is_decided(script)
}

#[test]
fn a_vote_is_stored_before_it_is_told() {
    assert!(!a_vote_is_forgotten(None));
    assert!(a_vote_is_forgotten(Some(Mutant::PaxosAnswersBeforePersist)), "the scenario notices");
}

fn one_member_decides(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.isolate(3);
    script.propose(3, 3);
    script.deliver();
    script.view(3).number == 2
}

#[test]
fn one_member_of_three_decides_nothing() {
    assert!(!one_member_decides(None));
    assert!(one_member_decides(Some(Mutant::PaxosQuorumOfOne)), "the scenario notices");
}

/// Two of three stores are lost; the third, with their empty successors, must decide nothing.
fn empty_stores_vote(mutant: Option<Mutant>) -> bool {
    let mut script = Script::serving(3, mutant);
    script.kill(1);
    script.lose_store(2);
    script.lose_store(3);
    for id in 1..=3 {
        script.start(id);
    }
    script.run(2000);
    script.view(1).number > 1
}

#[test]
fn stores_that_are_not_listed_have_no_vote() {
    assert!(!empty_stores_vote(None));
    assert!(empty_stores_vote(Some(Mutant::PaxosIgnoresIncarnations)), "the scenario notices");
}
