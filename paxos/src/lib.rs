//! Single-decree Paxos for each of a chain of instances, without IO.
//!
//! # What it is for
//!
//! A cluster agrees on a chain of *decrees*, here: views of a replicated service. Instance k decides decree k. Decree
//! k-1 names the acceptors of instance k, each with the *incarnation* of its store, and how many of them decide. So
//! the membership can change with every decree, and a node that lost its store is simply not listed until a decree
//! lists its new incarnation.
//!
//! A [`Node`] is a state machine without clock, thread, file or socket. Events go in (a message, a proposal, a wish to
//! retransmit), [`Effects`] come out: store this record, then send these messages, then act on these decrees. The
//! caller keeps time: it calls [`Node::retransmit`] while an attempt is under way, and when [`Node::refused_by`] names
//! a higher ballot it waits a random time and proposes again.
//!
//! # The protocol, sentence by sentence
//!
//! After L. Lamport, *Paxos Made Simple* (2001), sections 2.2 to 2.4, in our own words. For each sentence there is a
//! test that says it in `tests/sentences.rs`.
//!
//! Ballots and promises (phase 1):
//! - A proposer takes a [`Ballot`] above every one it has seen, and promises it to itself, durably, before anybody hears
//!   of it. A restarted proposer thus takes a higher one; one with a new store has another incarnation in it.
//! - An acceptor promises a ballot if it has promised no higher one, and tells its latest vote with the promise. Else it
//!   refuses and says what it has promised.
//! - An equal Prepare is answered again, to the owner of the ballot only.
//!
//! Votes (phase 2, P1a):
//! - An acceptor votes for a value unless it has promised a higher ballot. A vote is a promise too.
//! - It votes for one value only in a ballot, and for none that breaks the rules of the values.
//! - Promises and votes are stored before they are told, and kept over a restart.
//!
//! The choice of the value (P2c):
//! - A proposer asks for votes only when a quorum has promised; each node counts once.
//! - It puts forward the value of the highest-ballot vote told in that quorum. If there is none, its own.
//! - That value is stored before it is sent: one ballot carries one value.
//!
//! Deciding and learning (2.3):
//! - A value is decided when a quorum has voted for it in one ballot. Votes count by ballot and hash of the value.
//! - Who sees that tells the acceptors of this instance and those of the next. Any one node's word is enough.
//!
//! The chain:
//! - A node takes part only in instance `last + 1`, and only if `last` lists its own incarnation.
//! - A message of a lower instance is answered with the last decree and with nothing else: a node that has dropped its
//!   votes of a finished instance must never promise or vote in it again.
//! - A message of a higher instance is answered with Fetch. A decree may jump over instances; what belonged to the older
//!   instance goes in the same atomic record.
//! - A message under another parent's hash is of another chain, and is ignored.
//! - Promises and votes count only under listed incarnations, and only a listed node may propose.
//!
//! Going on after failures:
//! - An abandoned attempt may still be decided, by itself or through another proposer that finds one of its votes.
//!   Nothing may rest on its having failed until the instance is decided.
//!
//! # Why one decree per instance
//!
//! By induction over the chain all nodes that take part in instance k agree on decree k-1, so on acceptors and quorums;
//! any two quorums share an acceptor under one incarnation (checked by `decree.rs` before every vote). Let v be voted
//! for by a quorum in ballot b, and let c be the lowest ballot above b that puts forward another value w. The quorum that
//! promised c shares an acceptor with v's. It voted v in b before it promised c, since after the promise it refuses b;
//! so a vote of b or later was told to the proposer of c; the latest such vote is of a ballot between b and c, which by
//! the choice of c carries v. The proposer of c then put forward v, not w. What a node forgets it forgets whole: with its
//! store its incarnation goes, and the new one is asked only about instances after its listing. And what it drops on
//! purpose belongs to an instance whose outcome it knows, and tells to whoever asks. Each module says its part of this.
//!
//! # Map
//!
//! `node.rs` takes the messages in and puts the parts together; `acceptor.rs` is the durable record and what it allows;
//! `proposer.rs` is one attempt; `decree.rs` is the chain; `ballot.rs` and `message.rs` are the words. `mutant.rs` breaks
//! rules on purpose in tests; this crate's simulation is `tests/simulation.rs`.
//!
//! # Limits of this implementation
//!
//! - Nodes fail by stopping, losing messages or losing their store; they do not lie. A corrupted message must be caught
//!   below (a checksum), a forged one by the connection ([`Sender`] is believed).
//! - It ensures one decree per instance, not progress: with proposers that duel forever nothing is decided. The caller
//!   spaces proposals out.
//! - Only the last decree is kept. A learner that slept jumps to it and never sees those between.
//! - Votes are told to the proposer only. If it dies after the quorum voted, the outcome is found by the next attempt.
//! - There is no multi-instance pipelining and no leader that skips phase 1: views change rarely.
//! - At most [`MAX_ACCEPTORS`] acceptors, rounds up to [`MAX_ROUND`]. Hashes have 64 bits: they tell apart what honest
//!   nodes wrote, not what an enemy made.
#![forbid(unsafe_code)]

mod acceptor;
mod ballot;
mod decree;
mod message;
#[cfg(any(test, feature = "mutants"))]
pub mod mutant;
#[cfg(not(any(test, feature = "mutants")))]
mod mutant;
mod node;
mod proposer;

pub use acceptor::Durable;
pub use ballot::{Ballot, MAX_ROUND, NodeId, Sender};
pub use decree::{Decree, MAX_ACCEPTORS};
pub use message::{Effects, Message, Vote};
pub use node::{Node, ProposeError};

#[cfg(test)]
extern crate self as paxos;
#[cfg(test)]
#[path = "../tests/plan/mod.rs"]
mod plan;
#[cfg(test)]
#[path = "../tests/world/mod.rs"]
mod world;
