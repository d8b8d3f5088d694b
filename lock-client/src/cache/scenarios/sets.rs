//! A lock as one of a set.

use lock_protocol::{Command, LockSet, Outcome};

use super::{
    Mode::{Exclusive, Shared},
    Script, granted,
};
use crate::cache::{Effect, SetId, WaiterId};

/// Joins as one of a set, in exclusive mode.
fn join(client: &mut Script, set: u64, waiter: char) -> WaiterId {
    client.step(|lock, step| lock.join(SetId(set), Exclusive, waiter, step))
}

fn ready(client: &mut Script) -> Vec<SetId> {
    let effects = std::mem::take(&mut client.effects);
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Ready { set } => set,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Has the set asked for, under this number.
fn asked(client: &mut Script, set: u64) -> u64 {
    let locks = LockSet::new([(client.lock.name().clone(), Exclusive)]).expect("one lock");
    let number = client.outbox.send(Command::AcquireAll { set: locks });
    client.step(|lock, _| lock.asked(SetId(set), number));
    client.effects.clear();
    number.0
}

/// User 'a' has asked for a set, 'b' waits behind it, and the request came to this.
fn answered(outcome: Outcome) -> Script {
    let mut client = Script::new();
    join(&mut client, 1, 'a');
    let number = asked(&mut client, 1);
    client.wait('b', Shared);
    client.sent();
    client.outcome(number, outcome);
    client
}

#[test]
fn a_set_asks_for_nothing_by_itself_and_is_served_by_the_tenure_that_it_asked_for() {
    let mut client = Script::new();
    join(&mut client, 1, 'a');
    assert_eq!((client.sent().len(), ready(&mut client)), (0, vec![SetId(1)]));
    let number = asked(&mut client, 1);
    client.sent();
    client.outcome(number, granted(9, false));
    assert_eq!(client.served(), ['a']);
}

#[test]
fn a_cached_lock_is_given_back_before_a_set_has_its_turn() {
    let mut client = Script::new();
    client.wait('a', Shared);
    let (number, _) = client.sent_one();
    client.outcome(number, granted(3, false));
    assert_eq!(client.served(), ['a']);
    join(&mut client, 1, 'b');
    assert!(ready(&mut client).is_empty(), "somebody uses it");
    client.end();
    assert_eq!(client.flush(), None);
    client.flushed(3);
    let (number, text) = client.sent_one();
    assert_eq!(text, "release 3", "without a requeue: all are asked for at once");
    client.outcome(number, Outcome::Released { requeued: None });
    assert_eq!(ready(&mut client), [SetId(1)]);
}

#[test]
fn a_set_whose_place_is_gone_is_dissolved_and_the_next_one_has_its_turn() {
    let mut client = answered(Outcome::Gone);
    assert!(matches!(client.effects.as_slice(), [Effect::Dissolve { waiter: 'a' }]), "{:?}", client.effects);
    assert_eq!(client.sent_one().1, "acquire shared");
}

#[test]
fn a_member_that_leaves_withdraws_the_set_even_if_others_wait_here() {
    let mut client = Script::new();
    let waiter = join(&mut client, 1, 'a');
    let number = asked(&mut client, 1);
    client.wait('b', Shared);
    client.sent();
    client.step(|lock, step| lock.leave(waiter, step));
    assert_eq!(client.sent_one().1, format!("cancel {number}"));
}

#[test]
fn a_tenure_that_is_unknown_while_a_set_gathers_is_given_back_at_once() {
    let mut client = Script::new();
    join(&mut client, 1, 'a');
    client.revoke(5, None);
    assert_eq!(client.sent_one().1, "release 5");
    let number = asked(&mut client, 1);
    assert_eq!(client.sent_one(), (number, "acquire 1".to_owned()));
}

#[test]
fn a_granted_set_that_is_wanted_elsewhere_is_used_first() {
    let mut client = Script::new();
    join(&mut client, 1, 'a');
    let number = asked(&mut client, 1);
    client.sent();
    client.revoke(9, None);
    client.outcome(number, granted(9, false));
    assert_eq!(client.served(), ['a']);
    client.end();
    assert_eq!(client.flush(), None);
}

#[test]
fn a_set_that_a_limit_refuses_takes_nobody_else_with_it() {
    let mut client = answered(Outcome::LimitReached { limit: "x".into() });
    assert!(matches!(client.effects.as_slice(), [Effect::Refuse { waiter: 'a', .. }]), "{:?}", client.effects);
    assert_eq!(client.sent_one().1, "acquire shared");
}
