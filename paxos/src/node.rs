//! The node: acceptor, proposer and learner of the one instance after the last decree that it knows.
//!
//! Why it is right:
//!
//! - *Which instance.* A message is looked at only in the instance `last + 1`, under the parent's hash, between two
//!   incarnations that `last` lists. A store that was lost comes back under an incarnation that is not listed, so what
//!   it forgot is missed by nobody. A finished instance is answered with its outcome only: a node that dropped its
//!   votes cannot be asked for them.
//! - *Storing first.* Each Prepare, Promise, Accept and Accepted leaves with `persist` set, repeated ones too: the first
//!   one's record may still be on its way to the medium when the repetition is asked for. Refused and Fetch promise
//!   nothing, and Decided tells a fact that rests on other stores.
//! - *Counting oneself.* The own promise and vote are counted in memory before they are stored. With a quorum of two or
//!   more a result needs another's answer, and that answers a message which left only after the record was stored. With
//!   a quorum of one the result and the record are the same: the effects say persist, then send, and the record that is
//!   stored has the decree as `last`. If the node crashes before, nobody has heard of it; if after, it knows it. For
//!   the same reason such a node stores again before it repeats the outcome (`decided_alone`).

use crate::acceptor::{Ballotting, Durable};
use crate::ballot::{Ballot, MAX_ROUND, NodeId, Sender};
use crate::decree::{Decree, check_child};
use crate::message::{Effects, Message, Vote};
use crate::mutant::Mutant;
use crate::proposer::{Attempt, Phase};
use std::collections::BTreeSet;
use std::fmt;

/// One node. It decides; the caller stores, sends and keeps time.
#[derive(Clone, Debug)]
pub struct Node<V> {
    node: NodeId,
    incarnation: u128,
    durable: Durable<V>,
    attempt: Option<Attempt<V>>,
    /// Whether `last` was decided by this node's own vote alone: then no other store vouches for it yet.
    decided_alone: bool,
    #[cfg(any(test, feature = "mutants"))]
    mutant: Option<Mutant>,
}

/// Why a value was not proposed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// The last decree does not list this node under this incarnation (or all rounds of the instance are used up).
    NotEligible,
    /// The value cannot follow the last decree, because of this.
    InvalidValue(String),
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEligible => f.write_str("this node is no acceptor of the next instance under its incarnation"),
            Self::InvalidValue(reason) => write!(f, "the value may not follow the last decree: {reason}"),
        }
    }
}

impl std::error::Error for ProposeError {}

impl<V: Decree> Node<V> {
    /// A node, at its first start ([`Node::first`]) or after a restart, with what it stored last.
    ///
    /// # Panics
    /// If the record is not one that a node of this crate can have stored: to go on could break a promise.
    pub fn new(node: NodeId, incarnation: u128, durable: Durable<V>) -> Self {
        durable.assert_consistent();
        Self {
            node,
            incarnation,
            durable,
            attempt: None,
            decided_alone: false,
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
        }
    }

    /// The durable state of a node that knows `value` as decided and has taken part in nothing: at the founding, and
    /// for an empty store that was told the decree in force.
    pub fn first(value: V) -> Durable<V> {
        Durable::after(value)
    }

    /// What is to be stored when effects say so.
    pub fn durable(&self) -> &Durable<V> {
        &self.durable
    }

    /// The highest decree known to be decided.
    pub fn last(&self) -> &V {
        &self.durable.last
    }

    /// Whether the last decree lists this node under its own incarnation, so that it takes part in the next instance.
    pub fn is_acceptor(&self) -> bool {
        self.is_listed(Sender { node: self.node, incarnation: self.incarnation })
    }

    /// Starts an attempt in a ballot above everything seen; replaces an own attempt under way. `value` is decided only
    /// if nothing else was voted for: what is decided is known when it is in [`Effects::decided`]. Until then it stays
    /// open whether `value` will be, even after errors, restarts and [`Node::abandon`].
    ///
    /// # Errors
    /// [`ProposeError`]; nothing was changed.
    pub fn propose(&mut self, value: V) -> Result<Effects<V>, ProposeError> {
        if !self.takes_part() {
            return Err(ProposeError::NotEligible);
        }
        check_child(&self.durable.last, &value).map_err(ProposeError::InvalidValue)?;
        let round = self.durable.highest_round.saturating_add(1);
        if round > MAX_ROUND {
            return Err(ProposeError::NotEligible);
        }
        let incarnation = if self.breaks(Mutant::ReusesBallotAfterRebirth) { 0 } else { self.incarnation };
        let ballot = Ballot { round, proposer: self.node, incarnation };
        let vote = self.durable.promise(ballot).expect("its round is above every promised one");
        let mut attempt = Attempt::new(ballot, value);
        if self.is_acceptor() {
            attempt.count_promise(self.node, vote);
        }
        self.attempt = Some(attempt);
        let effects = self.advance();
        Ok(if effects.is_none() { self.retransmit() } else { effects })
    }

    /// Resends the current phase's message to those that have neither granted nor refused. Call it every few round
    /// trips while [`Node::proposing`] is some.
    pub fn retransmit(&mut self) -> Effects<V> {
        let Some(attempt) = &self.attempt else { return Effects::none() };
        let (instance, parent, ballot) = (self.durable.open_instance(), self.durable.last.hash(), attempt.ballot);
        let message = match &attempt.phase {
            Phase::Prepare { .. } => Message::Prepare { instance, parent, ballot },
            Phase::Accept { value, .. } => Message::Accept { instance, parent, ballot, value: value.clone() },
        };
        let send: Vec<_> = (self.durable.last.acceptors().into_iter())
            .filter(|&(node, _)| node != self.node && attempt.awaits(node))
            .map(|(node, _)| (node, message.clone()))
            .collect();
        Effects { persist: !send.is_empty(), send, decided: Vec::new() }
    }

    /// The ballot of the attempt under way.
    pub fn proposing(&self) -> Option<&Ballot> {
        self.attempt.as_ref().map(|attempt| &attempt.ballot)
    }

    /// Stops the attempt under way. Its outcome stays open: the value may be decided yet, by this ballot's votes that
    /// are under way or by another proposer that finds one of them.
    pub fn abandon(&mut self) {
        self.attempt = None;
    }

    /// The highest ballot that refused the attempt under way, the own acceptor's included: back off, then propose again.
    pub fn refused_by(&self) -> Option<Ballot> {
        self.attempt.as_ref().and_then(|attempt| attempt.refused_by)
    }

    /// Takes in a message; `from` is who sent it, as proven by its connection or envelope. Anything may arrive, in any
    /// order and any number of times.
    pub fn on_message(&mut self, from: Sender, message: Message<V>) -> Effects<V> {
        if from.node == self.node {
            return Effects::none(); // a late message of this node's former life, or a misconfigured twin
        }
        let Some((instance, parent, ballot)) = message.place() else {
            return self.on_knowledge(from, message);
        };
        let open = self.durable.open_instance();
        if instance < open {
            return self.on_finished_instance(from, message);
        }
        if instance > open {
            return send(from, Message::Fetch { above: self.durable.last.number() }, false);
        }
        let same_chain = parent == self.durable.last.hash();
        if !same_chain || !self.takes_part() || !self.may_send(from, &message) || ballot.round > MAX_ROUND {
            return Effects::none();
        }
        self.durable.hear_of(ballot);
        match message {
            Message::Prepare { .. } => self.on_prepare(from, ballot),
            Message::Promise { vote, .. } => self.on_promise(from, ballot, vote),
            Message::Refused { promised, .. } => self.on_refused(from, ballot, promised),
            Message::Accept { value, .. } => self.on_accept(from, ballot, &value),
            Message::Accepted { value_hash, .. } => self.on_accepted(from, ballot, value_hash),
            Message::Decided { .. } | Message::Fetch { .. } => Effects::none(),
        }
    }

    /// Takes in a decided decree from anywhere; one peer's word is enough, and it may jump over instances. If it is
    /// above the last one it becomes the last, and the older instance's state goes in the same record. A child of the
    /// last one's number under another parent is of another chain and changes nothing.
    pub fn learn(&mut self, value: V) -> Effects<V> {
        let last = &self.durable.last;
        let is_next = last.number().checked_add(1) == Some(value.number());
        let foreign = is_next && value.parent_hash() != last.hash();
        if value.number() <= last.number() || value.number() == u64::MAX || foreign {
            return Effects::none();
        }
        self.durable = Durable::after(value.clone());
        self.attempt = None;
        self.decided_alone = false;
        Effects { persist: true, send: Vec::new(), decided: vec![value] }
    }

    fn on_knowledge(&mut self, from: Sender, message: Message<V>) -> Effects<V> {
        match message {
            Message::Decided { value } => self.learn(value),
            Message::Fetch { above } if above < self.durable.last.number() => self.tell_last(from),
            _ => Effects::none(),
        }
    }

    fn on_finished_instance(&mut self, from: Sender, message: Message<V>) -> Effects<V> {
        if self.breaks(Mutant::VotesFinishedInstanceAgain) {
            match message {
                Message::Prepare { instance, parent, ballot } => {
                    return send(from, Message::Promise { instance, parent, ballot, vote: None }, true);
                }
                Message::Accept { instance, parent, ballot, value } => {
                    let value_hash = value.hash();
                    return send(from, Message::Accepted { instance, parent, ballot, value_hash }, true);
                }
                _ => {}
            }
        }
        self.tell_last(from)
    }

    fn on_prepare(&mut self, from: Sender, ballot: Ballot) -> Effects<V> {
        let (instance, parent) = (self.durable.open_instance(), self.durable.last.hash());
        match self.durable.promise(ballot) {
            Ok(vote) => {
                self.note_own_refusal(ballot);
                send(from, Message::Promise { instance, parent, ballot, vote }, self.stores_answers())
            }
            Err(promised) => send(from, Message::Refused { instance, parent, ballot, promised }, false),
        }
    }

    fn on_accept(&mut self, from: Sender, ballot: Ballot, value: &V) -> Effects<V> {
        if check_child(&self.durable.last, value).is_err() {
            return Effects::none();
        }
        let (instance, parent) = (self.durable.open_instance(), self.durable.last.hash());
        let check_two_values = !self.breaks(Mutant::ReusesBallotAfterRebirth);
        match self.durable.vote(ballot, value, check_two_values) {
            Ballotting::Voted => {
                self.note_own_refusal(ballot);
                let value_hash = value.hash();
                send(from, Message::Accepted { instance, parent, ballot, value_hash }, self.stores_answers())
            }
            Ballotting::Refused(promised) => send(from, Message::Refused { instance, parent, ballot, promised }, false),
            Ballotting::TwoValues => Effects::none(),
        }
    }

    fn on_promise(&mut self, from: Sender, ballot: Ballot, vote: Option<Vote<V>>) -> Effects<V> {
        let believable = vote
            .as_ref()
            .is_none_or(|vote| vote.ballot < ballot && check_child(&self.durable.last, &vote.value).is_ok());
        match &mut self.attempt {
            Some(attempt) if attempt.ballot == ballot && believable => attempt.count_promise(from.node, vote),
            _ => return Effects::none(),
        }
        self.advance()
    }

    fn on_accepted(&mut self, from: Sender, ballot: Ballot, value_hash: u64) -> Effects<V> {
        match &mut self.attempt {
            Some(attempt) if attempt.ballot == ballot => attempt.count_vote(from.node, value_hash),
            _ => return Effects::none(),
        }
        self.advance()
    }

    fn on_refused(&mut self, from: Sender, ballot: Ballot, promised: Ballot) -> Effects<V> {
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.ballot == ballot)
            && promised.round <= MAX_ROUND
        {
            attempt.count_refusal(from.node, promised);
            self.durable.hear_of(promised);
        }
        Effects::none()
    }

    /// Takes the attempt under way as far as the answers counted so far allow. Nothing if they allow no further step.
    fn advance(&mut self) -> Effects<V> {
        let quorum = self.quorum();
        let free_choice = self.breaks(Mutant::ChoosesFreely);
        let Some(attempt) = &self.attempt else { return Effects::none() };
        let mut effects = Effects::none();
        if let Some(value) = attempt.value_to_put_forward(quorum, free_choice) {
            effects = self.put_forward(value);
        }
        match self.attempt.as_ref().and_then(|attempt| attempt.decided(quorum)) {
            Some(value) => self.decide(value),
            None => effects,
        }
    }

    /// Phase 2a. The value is in the record that is stored before Accept leaves, and so is the own vote, unless the own
    /// acceptor has promised a higher ballot meanwhile.
    fn put_forward(&mut self, value: V) -> Effects<V> {
        let is_acceptor = self.is_acceptor();
        let attempt = self.attempt.as_mut().expect("advance() calls this with an attempt");
        let ballot = attempt.ballot;
        let before = self.durable.proposal.as_ref().map(|own| own.ballot);
        assert!(before < Some(ballot), "one ballot carries one value: {ballot:?} was put forward before");
        attempt.put_forward(value.clone());
        self.durable.proposal = Some(Vote { ballot, value: value.clone() });
        if is_acceptor && self.durable.vote(ballot, &value, true) == Ballotting::Voted {
            attempt.count_vote(self.node, value.hash());
        }
        self.retransmit()
    }

    /// A quorum has voted: learn it, tell the acceptors of this instance and of the next.
    fn decide(&mut self, value: V) -> Effects<V> {
        let alone = self.quorum() == 1;
        let mut audience: BTreeSet<NodeId> = self.durable.last.acceptors().iter().map(|&(node, _)| node).collect();
        audience.extend(value.acceptors().iter().map(|&(node, _)| node));
        audience.remove(&self.node);
        let mut effects = self.learn(value.clone());
        assert!(!effects.decided.is_empty(), "only a child of the last decree is put forward");
        self.decided_alone = alone;
        effects.send = audience.into_iter().map(|node| (node, Message::Decided { value: value.clone() })).collect();
        effects
    }

    fn tell_last(&self, to: Sender) -> Effects<V> {
        send(to, Message::Decided { value: self.durable.last.clone() }, self.decided_alone)
    }

    /// When the own acceptor goes over to a higher ballot, it refuses the attempt under way as any other would.
    fn note_own_refusal(&mut self, ballot: Ballot) {
        if let Some(attempt) = &mut self.attempt {
            attempt.count_refusal(self.node, ballot);
        }
    }

    /// Listed senders only; Prepare and Accept only from the owner of the ballot.
    fn may_send(&self, from: Sender, message: &Message<V>) -> bool {
        match message {
            Message::Prepare { ballot, .. } | Message::Accept { ballot, .. } => {
                (self.is_listed(from) && ballot.is_owned_by(from)) || self.breaks(Mutant::ReusesBallotAfterRebirth)
            }
            _ => self.is_listed(from),
        }
    }

    fn takes_part(&self) -> bool {
        self.is_acceptor() || self.breaks(Mutant::ReusesBallotAfterRebirth)
    }

    fn is_listed(&self, who: Sender) -> bool {
        (self.durable.last.acceptors().iter()).any(|&(node, incarnation)| {
            node == who.node && (incarnation == who.incarnation || self.breaks(Mutant::IgnoresIncarnations))
        })
    }

    fn quorum(&self) -> usize {
        if self.breaks(Mutant::QuorumOfOne) { 1 } else { self.durable.last.quorum().max(1) }
    }

    fn stores_answers(&self) -> bool {
        !self.breaks(Mutant::AnswersBeforePersist)
    }

    #[cfg(not(any(test, feature = "mutants")))]
    const fn breaks(&self, _rule: Mutant) -> bool {
        false
    }

    #[cfg(any(test, feature = "mutants"))]
    fn breaks(&self, rule: Mutant) -> bool {
        self.mutant == Some(rule)
    }

    /// A node that breaks a rule, for tests of tests.
    #[cfg(any(test, feature = "mutants"))]
    pub fn with_mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutant = mutant;
        self
    }
}

fn send<V>(to: Sender, message: Message<V>, persist: bool) -> Effects<V> {
    Effects { persist, send: vec![(to.node, message)], decided: Vec::new() }
}
