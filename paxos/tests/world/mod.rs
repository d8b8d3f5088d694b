//! A simulated cluster: nodes with stores that take their time, and a network that loses, doubles, delays and reorders.
//!
//! Storing is a queue: an effect that asks for it waits there with its messages, others overtake it. A crash loses the
//! queue; the record at its head may have reached the medium without its messages having left. Amnesia replaces the
//! store by an empty one under a new incarnation; plans list new incarnations now and then.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test target uses its part of this")]

use crate::plan::{FORBIDDEN_TAG, Plan};
use paxos::{Ballot, Decree, Durable, Effects, Message, Node, NodeId, Sender};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg32;
use std::collections::{BTreeMap, VecDeque};

/// Steps of a run before the healing. Most runs decide several instances in it.
const STEPS: usize = 150;
/// Messages under way at most; more are lost.
const NETWORK_MAX: usize = 60;
/// Steps in which a healed cluster must decide the next instance.
const HEALING_STEPS: usize = 400;

/// Makes a node; a mutant's maker breaks one of its rules.
pub type Make = fn(NodeId, u128, Durable<Plan>) -> Node<Plan>;

struct Record {
    durable: Durable<Plan>,
    send: Vec<(NodeId, Message<Plan>)>,
    decided: Vec<Plan>,
}

struct Peer {
    id: NodeId,
    incarnation: u128,
    stored: Durable<Plan>,
    node: Option<Node<Plan>>,
    queue: VecDeque<Record>,
    /// The highest (instance, ballot) that this incarnation has promised to anybody.
    promised: Option<(u64, Ballot)>,
}

struct Packet {
    from: Sender,
    to: NodeId,
    message: Message<Plan>,
}

/// What a run has seen, to show that runs are not empty.
#[derive(Default, Debug, Clone, Copy)]
pub struct Seen {
    pub decided: u64,
    pub crashes: u64,
    pub rebirths: u64,
    pub refusals: u64,
    pub adopted: u64,
    pub healed: u64,
    pub without_quorum: u64,
}

/// How often things happen, as weights; each seed draws its own, so that runs differ in kind.
#[derive(Clone, Copy)]
struct Rates {
    propose: u32,
    crash: u32,
    restart: u32,
    lose_store: u32,
    /// Of the messages that tell a decree, how many in a hundred are lost.
    decided_lost: u32,
    /// The same for those that ask for votes: values then have few votes, and the choice of the value matters.
    accept_lost: u32,
}

impl Rates {
    fn draw(rng: &mut Pcg32) -> Self {
        let mut one_of = |choices: [u32; 3]| choices[rng.random_range(0..3)];
        Self {
            propose: one_of([3, 8, 14]),
            crash: one_of([0, 2, 5]),
            restart: one_of([4, 8, 30]),
            lose_store: one_of([0, 1, 4]),
            decided_lost: one_of([0, 0, 95]),
            accept_lost: one_of([0, 0, 60]),
        }
    }
}

pub struct World {
    make: Make,
    rng: Pcg32,
    rates: Rates,
    peers: Vec<Peer>,
    network: Vec<Packet>,
    decided: BTreeMap<u64, Plan>,
    values: BTreeMap<(u64, Ballot), Plan>,
    next_tag: u64,
    /// The node that nobody can reach and that reaches nobody.
    cut_off: Option<NodeId>,
    last_voter: Option<usize>,
    healing: bool,
    pub seen: Seen,
}

/// Runs one seed. An error is a broken invariant.
pub fn run(seed: u64, nodes: u64, make: Make) -> Result<Seen, String> {
    let mut world = World::new(seed, nodes, make);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.heal()?;
    Ok(world.seen)
}

impl World {
    fn new(seed: u64, nodes: u64, make: Make) -> Self {
        let founding = Plan::founding(nodes);
        let peers = founding
            .acceptors
            .iter()
            .map(|&(id, incarnation)| {
                let stored = Node::first(founding.clone());
                let node = Some(make(id, incarnation, stored.clone()));
                Peer { id, incarnation, stored, node, queue: VecDeque::new(), promised: None }
            })
            .collect();
        let mut decided = BTreeMap::new();
        decided.insert(1, founding);
        let (network, values) = (Vec::new(), BTreeMap::new());
        let mut rng = Pcg32::seed_from_u64(seed);
        let rates = Rates::draw(&mut rng);
        Self {
            make,
            rng,
            rates,
            peers,
            network,
            decided,
            values,
            next_tag: FORBIDDEN_TAG + 1,
            cut_off: None,
            last_voter: None,
            healing: false,
            seen: Seen::default(),
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let peer = self.rng.random_range(0..self.peers.len());
        let Rates { propose, crash, restart, lose_store, .. } = self.rates;
        let mut dice = self.rng.random_range(0..183 + propose + crash + restart + lose_store);
        let mut chosen = |weight: u32| {
            let hit = dice < weight;
            dice = dice.saturating_sub(weight);
            hit
        };
        if chosen(110) {
            self.deliver_any()
        } else if chosen(58) {
            self.finish_storing_somewhere(peer)
        } else if chosen(10) {
            self.act(peer, Node::retransmit)
        } else if chosen(2) {
            self.act(peer, |node| {
                node.abandon();
                Effects::none()
            })
        } else if chosen(3) {
            self.cut_off = self.rng.random_bool(0.7).then(|| self.peers[peer].id);
            Ok(())
        } else if chosen(propose) {
            self.propose(peer)
        } else if chosen(crash) {
            self.crash(peer)
        } else if chosen(restart) {
            self.restart(peer)
        } else {
            // A vote that is forgotten before it is counted is the worst loss, so it is sought.
            let worst = self.last_voter.filter(|_| self.rng.random_bool(0.5));
            self.lose_store(worst.unwrap_or(peer))
        }
    }

    fn act(&mut self, peer: usize, action: impl FnOnce(&mut Node<Plan>) -> Effects<Plan>) -> Result<(), String> {
        let Some(node) = &mut self.peers[peer].node else { return Ok(()) };
        let effects = action(node);
        let durable = node.durable().clone();
        let Effects { persist, send, decided } = effects;
        if persist {
            self.peers[peer].queue.push_back(Record { durable, send, decided });
            Ok(())
        } else {
            self.leave(peer, send, decided)
        }
    }

    /// At `start`, or at the next peer that has something to store.
    fn finish_storing_somewhere(&mut self, start: usize) -> Result<(), String> {
        let count = self.peers.len();
        let busy = (start..start + count).map(|peer| peer % count).find(|&peer| !self.peers[peer].queue.is_empty());
        busy.map_or(Ok(()), |peer| self.finish_storing(peer))
    }

    fn finish_storing(&mut self, peer: usize) -> Result<(), String> {
        let Some(record) = self.peers[peer].queue.pop_front() else { return Ok(()) };
        self.peers[peer].stored = record.durable;
        self.leave(peer, record.send, record.decided)
    }

    /// The messages leave, and the outside world sees the decrees: here the invariants are checked.
    fn leave(&mut self, peer: usize, send: Vec<(NodeId, Message<Plan>)>, decided: Vec<Plan>) -> Result<(), String> {
        for plan in decided {
            self.check_decided(&plan)?;
        }
        let from = Sender { node: self.peers[peer].id, incarnation: self.peers[peer].incarnation };
        for (to, message) in send {
            if to == from.node {
                return Err(format!("{from:?} sends {message:?} to itself"));
            }
            self.check_message(peer, &message)?;
            if self.network.len() >= NETWORK_MAX {
                let lost = self.rng.random_range(0..self.network.len());
                self.network.swap_remove(lost);
            }
            let lost_percent = match message {
                _ if self.healing => 0,
                Message::Decided { .. } => self.rates.decided_lost,
                Message::Accept { .. } => self.rates.accept_lost,
                _ => 0,
            };
            if self.rng.random_range(0..100) < lost_percent {
                continue;
            }
            self.network.push(Packet { from, to, message });
        }
        Ok(())
    }

    fn check_decided(&mut self, plan: &Plan) -> Result<(), String> {
        let seen = &mut self.seen;
        let known = self.decided.entry(plan.number).or_insert_with(|| {
            seen.decided += 1;
            plan.clone()
        });
        if known == plan {
            Ok(())
        } else {
            Err(format!("decree {} is decided twice: {known:?}, {plan:?}", plan.number))
        }
    }

    fn check_message(&mut self, peer: usize, message: &Message<Plan>) -> Result<(), String> {
        match message {
            Message::Decided { value } => return self.check_decided(value),
            Message::Refused { .. } => self.seen.refusals += 1,
            Message::Accept { instance, ballot, value, .. } => {
                let known = self.values.entry((*instance, *ballot)).or_insert_with(|| value.clone());
                if known != value {
                    return Err(format!("{ballot:?} carries two values: {known:?}, {value:?}"));
                }
            }
            Message::Accepted { .. } => self.last_voter = Some(peer),
            Message::Promise { vote: Some(_), .. } => self.seen.adopted += 1,
            _ => {}
        }
        let Some((instance, _, ballot)) = message.place().filter(|_| !matches!(message, Message::Refused { .. }))
        else {
            return Ok(());
        };
        let answers = matches!(message, Message::Promise { .. } | Message::Accepted { .. });
        let peer = &mut self.peers[peer];
        if answers && peer.promised > Some((instance, ballot)) {
            return Err(format!("node {} answers {instance} {ballot:?} after {:?}", peer.id, peer.promised));
        }
        peer.promised = peer.promised.max(Some((instance, ballot)));
        Ok(())
    }

    fn deliver_any(&mut self) -> Result<(), String> {
        if self.network.is_empty() {
            return Ok(());
        }
        let index = self.rng.random_range(0..self.network.len());
        let fate = self.rng.random_range(0..20);
        let Packet { from, to, message } = if fate < 2 {
            let packet = &self.network[index];
            Packet { from: packet.from, to: packet.to, message: packet.message.clone() }
        } else {
            self.network.swap_remove(index)
        };
        let cut = self.cut_off.is_some_and(|node| node == from.node || node == to);
        if cut || fate == 19 { Ok(()) } else { self.deliver(from, to, message) }
    }

    fn deliver(&mut self, from: Sender, to: NodeId, message: Message<Plan>) -> Result<(), String> {
        let Some(peer) = self.peers.iter().position(|peer| peer.id == to) else { return Ok(()) };
        self.act(peer, |node| node.on_message(from, message))
    }

    fn propose(&mut self, peer: usize) -> Result<(), String> {
        let Some(node) = &self.peers[peer].node else { return Ok(()) };
        let last = node.last().clone();
        let mut plan = last.child(self.next_tag);
        self.next_tag += 1;
        for (id, incarnation) in &mut plan.acceptors {
            let current = self.peers.iter().find(|peer| peer.id == *id).map(|peer| peer.incarnation);
            if let Some(current) = current.filter(|_| self.rng.random_bool(0.7)) {
                *incarnation = current;
            }
        }
        if self.rng.random_bool(0.1) {
            self.change_membership(&mut plan);
        }
        self.act(peer, |node| node.propose(plan).unwrap_or_else(|_| Effects::none()))
    }

    fn change_membership(&mut self, plan: &mut Plan) {
        let changed = &self.peers[self.rng.random_range(0..self.peers.len())];
        match plan.acceptors.iter().position(|&(id, _)| id == changed.id) {
            Some(index) if plan.acceptors.len() > 2 => drop(plan.acceptors.remove(index)),
            Some(_) => {}
            None => plan.acceptors.push((changed.id, changed.incarnation)),
        }
    }

    fn crash(&mut self, peer: usize) -> Result<(), String> {
        if self.peers[peer].node.is_none() {
            return Ok(());
        }
        self.seen.crashes += 1;
        let half = self.rng.random_bool(0.5);
        let peer = &mut self.peers[peer];
        peer.node = None;
        if let Some(record) = peer.queue.pop_front().filter(|_| half) {
            peer.stored = record.durable;
        }
        peer.queue.clear();
        Ok(())
    }

    fn restart(&mut self, peer: usize) -> Result<(), String> {
        let make = self.make;
        let peer = &mut self.peers[peer];
        if peer.node.is_some() {
            return Ok(());
        }
        let stored = &peer.stored;
        let found = stored.promised.map(|ballot| (stored.last.number + 1, ballot));
        let found = found.max(Some((stored.last.number + 1, Ballot { round: 0, proposer: 0, incarnation: 0 })));
        if peer.promised > found {
            return Err(format!("node {} promised {:?} and finds {found:?}", peer.id, peer.promised));
        }
        peer.node = Some(make(peer.id, peer.incarnation, stored.clone()));
        Ok(())
    }

    /// The store is gone; the new one is told some decree that is in force, not always the last.
    fn lose_store(&mut self, index: usize) -> Result<(), String> {
        let back = if self.rng.random_bool(0.7) { 0 } else { self.rng.random_range(0..self.decided.len()) };
        let told = self.decided.values().rev().nth(back).expect("it is less than their number").clone();
        self.crash(index)?;
        self.seen.rebirths += 1;
        let peer = &mut self.peers[index];
        peer.incarnation += 1;
        peer.stored = Node::first(told);
        peer.promised = None;
        if self.rng.random_bool(0.5) {
            return Ok(());
        }
        self.restart(index)?;
        self.propose_in_ignorance()
    }

    /// One that has voted for nothing proposes at once: if a forgotten vote could be missed, this one would miss it.
    fn propose_in_ignorance(&mut self) -> Result<(), String> {
        let ignorant = self.peers.iter().position(|peer| {
            peer.node.as_ref().is_some_and(|node| node.is_acceptor() && node.durable().vote.is_none())
        });
        ignorant.map_or(Ok(()), |peer| self.propose(peer))
    }

    /// All come back, the network is good, one proposes: unless too many stores were lost, the next decree is decided.
    fn heal(&mut self) -> Result<(), String> {
        let (_, newest) = self.decided.last_key_value().expect("the founding decree is decided");
        let newest = newest.clone();
        self.network.clear();
        self.healing = true;
        for peer in 0..self.peers.len() {
            self.restart(peer)?;
            self.act(peer, |node| node.learn(newest.clone()))?;
            self.store_all(peer)?;
        }
        let newest = self.decided.last_key_value().expect("the founding decree is decided").1.clone();
        let listed: Vec<usize> = (0..self.peers.len())
            .filter(|&peer| newest.acceptors.contains(&(self.peers[peer].id, self.peers[peer].incarnation)))
            .collect();
        if listed.len() < newest.quorum() {
            self.seen.without_quorum += 1;
            return Ok(());
        }
        for step in 0..HEALING_STEPS {
            if self.decided.len() as u64 > newest.number {
                self.seen.healed += 1;
                return Ok(());
            }
            if self.network.is_empty() {
                let proposer = listed[(step / 100) % listed.len()];
                self.act(proposer, |node| node.learn(newest.clone()))?;
                self.propose(proposer)?;
                self.store_all(proposer)?;
            } else {
                let Packet { from, to, message } = self.network.remove(0);
                self.deliver(from, to, message)?;
                let peer = self.peers.iter().position(|peer| peer.id == to).expect("only peers are sent to");
                self.store_all(peer)?;
            }
        }
        Err(format!("healed, but decree {} is not decided", newest.number + 1))
    }

    fn store_all(&mut self, peer: usize) -> Result<(), String> {
        while !self.peers[peer].queue.is_empty() {
            self.finish_storing(peer)?;
        }
        Ok(())
    }
}
