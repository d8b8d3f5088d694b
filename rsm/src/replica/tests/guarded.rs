//! S14: what no other host holds is promised to nobody.

use super::script::Script;
use crate::{Identity, Incarnation, Input, MemberId, Message, Standing, Viewstamp};

fn guard(script: &mut Script, id: u64, upto: Option<Viewstamp>) {
    script.step(id, Input::Guarded { upto });
}

#[test]
fn s14_a_primary_counts_itself_and_a_backup_acknowledges_only_as_far_as_another_host_holds_it() {
    let mut script = Script::serving(3, None);
    script.commit("a");
    script.run(100);
    let before = script.members[&1].log_viewstamps().last().copied();
    for id in 1..=3 {
        guard(&mut script, id, before);
    }
    let tag = script.submit(1, "b");
    script.run(300);
    assert!(!script.answers.contains_key(&tag), "all three have it, and none is guarded");
    let last = script.members[&1].log_viewstamps().last().copied();
    guard(&mut script, 2, last);
    script.run(100);
    assert!(!script.answers.contains_key(&tag), "one is no majority");
    guard(&mut script, 1, last);
    script.run(100);
    assert!(script.answers.contains_key(&tag));
}

#[test]
fn s14_a_bound_between_entries_counts_as_the_entry_below_it() {
    let mut script = Script::serving(3, None);
    script.isolate(3);
    script.commit("a");
    let at = *script.members[&1].log_viewstamps().last().expect("it has entries");
    guard(&mut script, 1, Some(at));
    let tags = [script.submit(1, "b"), script.submit(1, "c")];
    let between = Viewstamp { op: at.op + 1, ..at };
    guard(&mut script, 1, Some(between));
    script.run(100);
    assert_eq!(tags.map(|tag| script.answers.contains_key(&tag)), [true, false], "each is an entry of its own");
}

#[test]
fn s14_a_new_store_that_nobody_guards_is_not_ready_to_be_promoted() {
    let mut script = Script::serving(3, None);
    script.commit("a");
    script.kill(3);
    script.lose_store(3);
    script.run(1500);
    script.start(3);
    guard(&mut script, 3, Some(Viewstamp::default()));
    let syncing = |script: &Script| {
        let slot = script.members[&3].view().and_then(|view| view.slot(MemberId(3)));
        slot.is_some_and(|slot| slot.incarnation == Incarnation(103) && slot.standing == Standing::Syncing)
    };
    script.run_until("it is listed", syncing);
    script.run_until("it has all", |script| script.members[&3].log_viewstamps() == script.members[&1].log_viewstamps());
    script.run(1000);
    assert!(syncing(&script), "it is not promoted by what it acknowledges");
    script.isolate(3);
    let is_ready = |script: &mut Script| {
        script.heard = Some(Vec::new());
        let from = Identity { member: MemberId(2), incarnation: Incarnation(2) };
        let view = script.view(3);
        let message = Message::PreVote { view: view.number };
        script.step(3, Input::Message { cluster: view.cluster, from, message });
        let heard = script.heard.take().expect("it was listened for");
        let answers = heard.into_iter().filter_map(|(_, _, message)| match message {
            Message::PreVoteAnswer { ready, .. } => Some(ready),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    assert_eq!(is_ready(&mut script), [false]);
    guard(&mut script, 3, None);
    assert_eq!(is_ready(&mut script), [true]);
}
