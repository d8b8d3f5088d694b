//! One test per sentence of the protocol, as the chapter in `lib.rs` lists them.
#![forbid(unsafe_code)]
#![allow(clippy::let_underscore_must_use, reason = "scenes are set up by messages whose effects do not matter")]

mod plan;

use paxos::{Ballot, Decree, Durable, Effects, MAX_ROUND, Message, Node, NodeId, ProposeError, Sender, Vote};
use plan::{FORBIDDEN_TAG, Plan};

/// The instance after the founding decree.
const OPEN: u64 = 2;

fn listed(node: NodeId) -> Sender {
    Sender { node, incarnation: u128::from(node) * 100 }
}

fn node(id: NodeId, cluster: u64) -> Node<Plan> {
    Node::new(id, listed(id).incarnation, Node::first(Plan::founding(cluster)))
}

fn ballot(round: u64, proposer: NodeId) -> Ballot {
    Ballot { round, proposer, incarnation: listed(proposer).incarnation }
}

fn founding() -> Plan {
    Plan::founding(3)
}

fn prepare(ballot: Ballot) -> Message<Plan> {
    Message::Prepare { instance: OPEN, parent: founding().hash(), ballot }
}

fn promise(ballot: Ballot, vote: Option<Vote<Plan>>) -> Message<Plan> {
    Message::Promise { instance: OPEN, parent: founding().hash(), ballot, vote }
}

fn accept(ballot: Ballot, value: &Plan) -> Message<Plan> {
    Message::Accept { instance: OPEN, parent: founding().hash(), ballot, value: value.clone() }
}

fn accepted(ballot: Ballot, value: &Plan) -> Message<Plan> {
    Message::Accepted { instance: OPEN, parent: founding().hash(), ballot, value_hash: value.hash() }
}

fn refused(ballot: Ballot, promised: Ballot) -> Message<Plan> {
    Message::Refused { instance: OPEN, parent: founding().hash(), ballot, promised }
}

fn stored_then_sent(to: NodeId, message: Message<Plan>) -> Effects<Plan> {
    Effects { persist: true, send: vec![(to, message)], decided: Vec::new() }
}

fn sent(to: NodeId, message: Message<Plan>) -> Effects<Plan> {
    Effects { persist: false, ..stored_then_sent(to, message) }
}

/// Node 1 of three with the ballot of the attempt that it has begun for this value.
fn proposer_of(value: &Plan) -> (Node<Plan>, Ballot) {
    let mut proposer = node(1, 3);
    let _ = proposer.propose(value.clone()).expect("it may propose");
    let own = *proposer.proposing().expect("it proposes");
    (proposer, own)
}

/// The value in the Accept messages of these effects.
fn put_forward(effects: &Effects<Plan>) -> Option<Plan> {
    effects.send.iter().find_map(|(_, message)| match message {
        Message::Accept { value, .. } => Some(value.clone()),
        _ => None,
    })
}

// Ballots and promises

#[test]
fn a_proposer_promises_its_ballot_to_itself_before_anybody_hears_of_it() {
    let mut proposer = node(1, 3);
    let effects = proposer.propose(founding().child(7)).expect("it may propose");
    let own = *proposer.proposing().expect("it proposes");
    assert!(effects.persist);
    assert_eq!(effects.send, [(2, prepare(own)), (3, prepare(own))]);
    assert_eq!(proposer.durable().promised, Some(own));
}

#[test]
fn a_proposer_takes_a_ballot_above_every_one_it_has_seen() {
    let mut proposer = node(1, 3);
    let _ = proposer.on_message(listed(2), prepare(ballot(9, 2)));
    let _ = proposer.propose(founding().child(7)).expect("it may propose");
    let first = *proposer.proposing().expect("it proposes");
    assert!(first > ballot(9, 2));
    let _ = proposer.on_message(listed(3), refused(first, ballot(40, 3)));
    let _ = proposer.propose(founding().child(7)).expect("it may propose");
    assert!(*proposer.proposing().expect("it proposes") > ballot(40, 3));
}

#[test]
fn an_acceptor_promises_a_ballot_if_it_has_promised_no_higher_one() {
    let mut acceptor = node(1, 3);
    let effects = acceptor.on_message(listed(2), prepare(ballot(5, 2)));
    assert_eq!(effects, stored_then_sent(2, promise(ballot(5, 2), None)));
    assert_eq!(acceptor.durable().promised, Some(ballot(5, 2)));
}

#[test]
fn an_acceptor_tells_its_latest_vote_with_its_promise() {
    let mut acceptor = node(1, 3);
    let (first, second) = (founding().child(7), founding().child(8));
    let _ = acceptor.on_message(listed(2), accept(ballot(1, 2), &first));
    let _ = acceptor.on_message(listed(3), accept(ballot(2, 3), &second));
    let effects = acceptor.on_message(listed(2), prepare(ballot(3, 2)));
    let latest = Vote { ballot: ballot(2, 3), value: second };
    assert_eq!(effects, stored_then_sent(2, promise(ballot(3, 2), Some(latest))));
}

#[test]
fn an_acceptor_refuses_a_prepare_below_its_promise_and_says_what_it_promised() {
    let mut acceptor = node(1, 3);
    let _ = acceptor.on_message(listed(2), prepare(ballot(5, 2)));
    let effects = acceptor.on_message(listed(3), prepare(ballot(4, 3)));
    assert_eq!(effects, sent(3, refused(ballot(4, 3), ballot(5, 2))));
}

#[test]
fn an_equal_prepare_is_answered_again_to_its_owner() {
    let mut acceptor = node(1, 3);
    let first = acceptor.on_message(listed(2), prepare(ballot(5, 2)));
    assert_eq!(acceptor.on_message(listed(2), prepare(ballot(5, 2))), first);
}

#[test]
fn a_prepare_or_accept_is_not_answered_to_anybody_but_the_owner_of_its_ballot() {
    let mut acceptor = node(1, 3);
    let _ = acceptor.on_message(listed(2), prepare(ballot(5, 2)));
    let reborn = Sender { node: 2, incarnation: 201 };
    for stranger in [listed(3), reborn] {
        assert!(acceptor.on_message(stranger, prepare(ballot(5, 2))).is_none());
        assert!(acceptor.on_message(stranger, accept(ballot(5, 2), &founding().child(7))).is_none());
    }
}

// Votes

#[test]
fn an_acceptor_votes_unless_it_has_promised_a_higher_ballot() {
    let mut acceptor = node(1, 3);
    let value = founding().child(7);
    let _ = acceptor.on_message(listed(2), prepare(ballot(5, 2)));
    let effects = acceptor.on_message(listed(3), accept(ballot(4, 3), &value));
    assert_eq!(effects, sent(3, refused(ballot(4, 3), ballot(5, 2))));
    assert_eq!(acceptor.durable().vote, None);
    let effects = acceptor.on_message(listed(2), accept(ballot(5, 2), &value));
    assert_eq!(effects, stored_then_sent(2, accepted(ballot(5, 2), &value)));
    assert_eq!(acceptor.durable().vote, Some(Vote { ballot: ballot(5, 2), value }));
}

#[test]
fn a_vote_is_a_promise_too() {
    let mut acceptor = node(1, 3);
    let _ = acceptor.on_message(listed(2), accept(ballot(5, 2), &founding().child(7)));
    assert_eq!(acceptor.durable().promised, Some(ballot(5, 2)));
    let effects = acceptor.on_message(listed(3), prepare(ballot(4, 3)));
    assert_eq!(effects, sent(3, refused(ballot(4, 3), ballot(5, 2))));
}

#[test]
fn an_acceptor_votes_for_one_value_only_in_a_ballot() {
    let mut acceptor = node(1, 3);
    let _ = acceptor.on_message(listed(2), accept(ballot(5, 2), &founding().child(7)));
    assert!(acceptor.on_message(listed(2), accept(ballot(5, 2), &founding().child(8))).is_none());
    assert_eq!(acceptor.durable().vote.as_ref().expect("it has voted").value, founding().child(7));
}

#[test]
fn an_acceptor_refuses_a_value_that_breaks_the_rules() {
    let mut acceptor = node(1, 3);
    let wrong_parent = Plan { parent: 1, ..founding().child(7) };
    let wrong_number = Plan { number: 3, ..founding().child(7) };
    let node_twice = founding().child(7).with_acceptors(&[(1, 100), (1, 101), (2, 200)]);
    let nobody = founding().child(7).with_acceptors(&[]);
    for value in [founding().child(FORBIDDEN_TAG), wrong_parent, wrong_number, node_twice, nobody] {
        assert!(acceptor.on_message(listed(2), accept(ballot(5, 2), &value)).is_none());
        assert!(matches!(node(1, 3).propose(value), Err(ProposeError::InvalidValue(_))));
    }
    assert_eq!(acceptor.durable().vote, None);
}

#[test]
fn a_restarted_acceptor_keeps_its_promise_and_its_vote() {
    let mut before = node(1, 3);
    let value = founding().child(7);
    let _ = before.on_message(listed(2), accept(ballot(5, 2), &value));
    let mut after = Node::new(1, 100, before.durable().clone());
    assert_eq!(after.on_message(listed(3), prepare(ballot(4, 3))), sent(3, refused(ballot(4, 3), ballot(5, 2))));
    let vote = Vote { ballot: ballot(5, 2), value };
    assert_eq!(
        after.on_message(listed(3), prepare(ballot(6, 3))),
        stored_then_sent(3, promise(ballot(6, 3), Some(vote)))
    );
}

// The choice of the value

#[test]
fn a_proposer_asks_for_votes_only_when_a_quorum_has_promised() {
    let mut proposer = node(1, 5);
    let five = Plan::founding(5);
    let _ = proposer.propose(five.child(7)).expect("it may propose");
    let own = *proposer.proposing().expect("it proposes");
    let promise = Message::Promise { instance: OPEN, parent: five.hash(), ballot: own, vote: None };
    assert!(proposer.on_message(listed(2), promise.clone()).is_none());
    assert!(proposer.on_message(listed(2), promise.clone()).is_none(), "each node counts once");
    let effects = proposer.on_message(listed(3), promise);
    assert_eq!(put_forward(&effects), Some(five.child(7)));
    assert_eq!(effects.send.len(), 4, "all acceptors are asked");
}

#[test]
fn a_proposer_is_free_to_put_its_own_value_forward_if_nobody_in_the_quorum_voted() {
    let value = founding().child(7);
    let (mut proposer, own) = proposer_of(&value);
    let effects = proposer.on_message(listed(2), promise(own, None));
    assert_eq!(put_forward(&effects), Some(value));
}

#[test]
fn a_proposer_puts_the_value_of_the_highest_vote_in_the_quorum_forward() {
    let five = Plan::founding(5);
    let mut proposer = node(1, 5);
    let place = (OPEN, five.hash());
    let old = Message::Accept { instance: place.0, parent: place.1, ballot: ballot(1, 2), value: five.child(20) };
    let _ = proposer.on_message(listed(2), old);
    let _ = proposer.propose(five.child(7)).expect("it may propose");
    let own = *proposer.proposing().expect("it proposes");
    let told =
        |vote: Vote<Plan>| Message::Promise { instance: OPEN, parent: five.hash(), ballot: own, vote: Some(vote) };
    let _ = proposer.on_message(listed(3), told(Vote { ballot: ballot(1, 3), value: five.child(30) }));
    let effects = proposer.on_message(listed(4), told(Vote { ballot: ballot(1, 2), value: five.child(20) }));
    assert_eq!(put_forward(&effects), Some(five.child(30)));
}

#[test]
fn the_value_put_forward_is_stored_before_it_is_sent() {
    let value = founding().child(7);
    let (mut proposer, own) = proposer_of(&value);
    let effects = proposer.on_message(listed(2), promise(own, None));
    assert!(effects.persist);
    assert_eq!(proposer.durable().proposal, Some(Vote { ballot: own, value }));
}

#[test]
fn a_restarted_proposer_takes_a_higher_ballot() {
    let (proposer, own) = proposer_of(&founding().child(7));
    let mut restarted = Node::new(1, 100, proposer.durable().clone());
    assert_eq!(restarted.proposing(), None);
    let _ = restarted.propose(founding().child(8)).expect("it may propose");
    assert!(restarted.proposing().expect("it proposes").round > own.round);
}

#[test]
fn a_proposer_that_has_promised_a_higher_ballot_meanwhile_does_not_vote_in_its_own() {
    let (mut proposer, own) = proposer_of(&founding().child(7));
    let _ = proposer.on_message(listed(3), prepare(ballot(9, 3)));
    assert_eq!(proposer.refused_by(), Some(ballot(9, 3)));
    let _ = proposer.on_message(listed(2), promise(own, None));
    assert_eq!(proposer.durable().vote, None);
    let effects = proposer.on_message(listed(2), accepted(own, &founding().child(7)));
    assert!(effects.is_none(), "one vote of three");
}

// Deciding and learning

#[test]
fn a_value_is_decided_when_a_quorum_has_voted_for_it_in_one_ballot() {
    let value = founding().child(7);
    let (mut proposer, own) = proposer_of(&value);
    let _ = proposer.on_message(listed(2), promise(own, None));
    let lower = Ballot { round: 0, ..own };
    assert!(proposer.on_message(listed(2), accepted(lower, &value)).is_none(), "another ballot");
    assert!(proposer.on_message(listed(2), accepted(own, &founding().child(8))).is_none(), "another value");
    let effects = proposer.on_message(listed(3), accepted(own, &value));
    assert_eq!(effects.decided, std::slice::from_ref(&value));
    assert!(effects.persist);
    assert_eq!(proposer.durable(), &Node::first(value));
    assert_eq!(proposer.proposing(), None);
}

#[test]
fn promises_and_votes_count_only_under_listed_incarnations() {
    let value = founding().child(7);
    let (mut proposer, own) = proposer_of(&value);
    let reborn = Sender { node: 2, incarnation: 201 };
    assert!(proposer.on_message(reborn, promise(own, None)).is_none());
    assert!(proposer.on_message(listed(4), promise(own, None)).is_none());
    let _ = proposer.on_message(listed(3), promise(own, None));
    assert!(proposer.on_message(reborn, accepted(own, &value)).is_none());
    assert_eq!(proposer.last(), &founding());
}

#[test]
fn the_decree_is_told_to_the_acceptors_of_its_instance_and_of_the_next() {
    let value = founding().child(7).with_acceptors(&[(1, 100), (2, 200), (4, 400)]);
    let (mut proposer, own) = proposer_of(&value);
    let _ = proposer.on_message(listed(2), promise(own, None));
    let effects = proposer.on_message(listed(2), accepted(own, &value));
    let told: Vec<NodeId> = effects.send.iter().map(|(to, _)| *to).collect();
    assert_eq!(told, [2, 3, 4]);
    assert!(effects.send.iter().all(|(_, message)| *message == Message::Decided { value: value.clone() }));
}

#[test]
fn a_sole_acceptor_decides_by_itself_and_stores_before_it_tells() {
    let alone = Plan::founding(1);
    let mut sole = node(1, 1);
    let value = alone.child(7).with_acceptors(&[(1, 100), (2, 200)]);
    let effects = sole.propose(value.clone()).expect("it may propose");
    assert!(effects.persist);
    assert_eq!(effects.decided, std::slice::from_ref(&value));
    assert_eq!(effects.send, [(2, Message::Decided { value: value.clone() })]);
    assert_eq!(sole.durable().last, value);
    let answer = sole.on_message(listed(2), Message::Fetch { above: 1 });
    assert!(answer.persist, "nobody else vouches for it, and the first record may still be under way");
}

#[test]
fn one_peers_word_is_enough_to_learn_and_may_jump_over_instances() {
    let mut learner = node(1, 3);
    let _ = learner.propose(founding().child(7)).expect("it may propose");
    let far = founding().child(8).child(9).child(10);
    let effects = learner.on_message(Sender { node: 77, incarnation: 1 }, Message::Decided { value: far.clone() });
    assert_eq!(effects, Effects { persist: true, send: Vec::new(), decided: vec![far.clone()] });
    assert_eq!(learner.durable(), &Node::first(far), "the older instance's state goes in the same record");
    assert_eq!(learner.proposing(), None);
}

#[test]
fn an_older_an_equal_or_a_foreign_decree_changes_nothing() {
    let mut learner = node(1, 3);
    let last = founding().child(7);
    let _ = learner.learn(last.clone());
    let foreign = Plan { parent: 1, ..last.child(9) };
    let endless = Plan { number: u64::MAX, ..last.child(9) };
    for value in [founding(), founding().child(8), last.clone(), foreign, endless] {
        assert!(learner.learn(value).is_none());
    }
    assert_eq!(learner.last(), &last);
}

// The chain

#[test]
fn a_message_of_a_finished_instance_is_answered_with_the_last_decree_only() {
    let mut acceptor = node(1, 3);
    let last = founding().child(7);
    let _ = acceptor.learn(last.clone());
    let before = acceptor.durable().clone();
    let late = ballot(5, 2);
    for message in [prepare(late), accept(late, &last), promise(late, None), accepted(late, &last)] {
        assert_eq!(acceptor.on_message(listed(2), message), sent(2, Message::Decided { value: last.clone() }));
    }
    assert_eq!(acceptor.durable(), &before);
}

#[test]
fn a_message_of_a_later_instance_is_answered_with_fetch_only() {
    let mut acceptor = node(1, 3);
    let next = founding().child(7);
    let message = Message::Prepare { instance: 3, parent: next.hash(), ballot: ballot(5, 2) };
    assert_eq!(acceptor.on_message(listed(2), message), sent(2, Message::Fetch { above: 1 }));
    assert_eq!(acceptor.durable(), &Node::first(founding()));
}

#[test]
fn a_fetch_is_answered_if_there_is_something_above_it() {
    let mut teller = node(1, 3);
    let stranger = Sender { node: 9, incarnation: 1 };
    let effects = teller.on_message(stranger, Message::Fetch { above: 0 });
    assert_eq!(effects, sent(9, Message::Decided { value: founding() }));
    assert!(teller.on_message(stranger, Message::Fetch { above: 1 }).is_none());
}

#[test]
fn a_message_of_another_chain_is_ignored() {
    let mut acceptor = node(1, 3);
    let message = Message::Prepare { instance: OPEN, parent: 1, ballot: ballot(5, 2) };
    assert!(acceptor.on_message(listed(2), message).is_none());
    assert_eq!(acceptor.durable().promised, None);
}

#[test]
fn a_node_takes_part_only_if_the_last_decree_lists_its_incarnation() {
    let mut reborn = Node::new(1, 101, Node::first(founding()));
    assert!(!reborn.is_acceptor());
    assert!(reborn.on_message(listed(2), prepare(ballot(5, 2))).is_none());
    assert!(reborn.on_message(listed(2), accept(ballot(5, 2), &founding().child(7))).is_none());
    assert_eq!(reborn.propose(founding().child(7)), Err(ProposeError::NotEligible));
    let relisting = founding().child(7).with_acceptors(&[(1, 101), (2, 200), (3, 300)]);
    let _ = reborn.learn(relisting.clone());
    assert!(reborn.is_acceptor());
    assert!(reborn.propose(relisting.child(8)).is_ok());
}

#[test]
fn an_unlisted_node_is_promised_nothing() {
    let mut acceptor = node(1, 3);
    let reborn = Sender { node: 2, incarnation: 201 };
    let own = Ballot { round: 5, proposer: 2, incarnation: 201 };
    assert!(acceptor.on_message(reborn, prepare(own)).is_none());
    assert!(acceptor.on_message(reborn, accept(own, &founding().child(7))).is_none());
    assert_eq!(acceptor.durable().promised, None);
}

#[test]
fn answers_to_a_former_life_count_for_nothing() {
    let (_, former) = proposer_of(&founding().child(7));
    let relisting = founding().child(7).with_acceptors(&[(1, 101), (2, 200), (3, 300)]);
    let mut reborn = Node::new(1, 101, Node::first(relisting.clone()));
    let _ = reborn.propose(relisting.child(8)).expect("it may propose");
    let late = Message::Promise { instance: 3, parent: relisting.hash(), ballot: former, vote: None };
    assert!(reborn.on_message(listed(2), late).is_none());
    assert_eq!(reborn.durable().proposal, None);
}

// Going on after failures

#[test]
fn an_abandoned_attempt_may_still_be_decided() {
    let value = founding().child(7);
    let (mut proposer, own) = proposer_of(&value);
    let _ = proposer.on_message(listed(2), promise(own, None));
    let mut other = node(3, 3);
    let _ = other.on_message(listed(1), accept(own, &value));
    proposer.abandon();
    assert!(proposer.retransmit().is_none());
    let effects = proposer.on_message(listed(2), prepare(ballot(9, 2)));
    let open = Vote { ballot: own, value };
    assert_eq!(effects, stored_then_sent(2, promise(ballot(9, 2), Some(open))), "another finds the vote");
}

#[test]
fn retransmission_goes_to_those_that_have_neither_granted_nor_refused() {
    let (mut proposer, own) = proposer_of(&founding().child(7));
    let _ = proposer.on_message(listed(2), refused(own, ballot(9, 2)));
    assert_eq!(proposer.refused_by(), Some(ballot(9, 2)));
    assert_eq!(proposer.retransmit(), stored_then_sent(3, prepare(own)));
}

#[test]
fn a_new_attempt_replaces_the_one_under_way_with_a_higher_ballot() {
    let (mut proposer, first) = proposer_of(&founding().child(7));
    let _ = proposer.on_message(listed(2), refused(first, ballot(9, 2)));
    let _ = proposer.propose(founding().child(8)).expect("it may propose");
    assert!(*proposer.proposing().expect("it proposes") > ballot(9, 2));
    assert_eq!(proposer.refused_by(), None);
    assert!(proposer.on_message(listed(3), promise(first, None)).is_none(), "an answer to the first one");
}

// Bounds

#[test]
fn a_round_above_the_bound_is_ignored_and_leaves_room_for_others() {
    let mut acceptor = node(1, 3);
    let _ = acceptor.on_message(listed(2), prepare(ballot(MAX_ROUND + 1, 2)));
    assert_eq!(acceptor.durable(), &Node::first(founding()));
    let (mut proposer, own) = proposer_of(&founding().child(7));
    let _ = proposer.on_message(listed(2), refused(own, ballot(u64::MAX, 2)));
    assert!(proposer.propose(founding().child(7)).is_ok());
}

#[test]
fn when_all_rounds_are_used_up_a_proposal_is_refused_without_a_change() {
    let mut acceptor = node(1, 3);
    let _ = acceptor.on_message(listed(2), prepare(ballot(MAX_ROUND, 2)));
    let before = acceptor.durable().clone();
    assert_eq!(acceptor.propose(founding().child(7)), Err(ProposeError::NotEligible));
    assert_eq!(acceptor.durable(), &before);
}

#[test]
#[should_panic(expected = "a vote was promised first")]
fn a_record_that_no_node_can_have_stored_stops_the_start() {
    let vote = Some(Vote { ballot: ballot(5, 2), value: founding().child(7) });
    let _ = Node::new(1, 100, Durable { vote, ..Node::first(founding()) });
}
