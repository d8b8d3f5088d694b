//! Three clients and a small model of the server, with messages delivered, repeated, swapped and lost in random order.
//!
//! Safety: at no time do two clients have users that conflict. Liveness: once nothing is lost any more and every user goes
//! home, every waiter has been served or has left, and every lock is where both sides believe it to be.

mod server;

use std::collections::BTreeMap;

use lock_protocol::{LockSet, Outcome, Request};

use super::*;
use crate::outbox::BatchId;
pub(crate) use server::{Notice, Server};

const CLIENTS: usize = 3;
const SEEDS: u64 = 3000;
const STEPS: usize = 250;

/// A small generator (xorshift64*), so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).expect("31 bits") % bound
    }
}

/// Which of a client's connections, one after the other.
type Connection = u32;

#[derive(Clone, Debug)]
enum Message {
    Batch(usize, Connection, BatchId, Vec<Request>),
    Answer(usize, BatchId, Vec<(RequestNumber, Outcome)>),
    Notice(usize, Notice),
}

struct Client {
    lock: CachedLock<usize>,
    outbox: Outbox,
    waiting: Vec<(WaiterId, usize)>,
    users: Vec<(Mode, u64, FencingToken)>,
    flushing: Option<FencingToken>,
    live: bool,
    connection: Connection,
    served: usize,
    left: usize,
    /// How the sets want the lock.
    sets: BTreeMap<SetId, Mode>,
}

struct World {
    random: Random,
    server: Server,
    clients: Vec<Client>,
    messages: Vec<Message>,
    now_ns: u64,
    asked: usize,
}

impl Client {
    fn is_valid(&self, user: &(Mode, u64, FencingToken)) -> bool {
        user.1 == self.lock.epoch() && user.2 > self.lock.forced()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let name = LockName::new("l").expect("a name");
        let clients = (0..CLIENTS).map(|_| Client {
            lock: CachedLock::new(name.clone(), 0),
            outbox: Outbox::new(),
            waiting: Vec::new(),
            users: Vec::new(),
            flushing: None,
            live: true,
            connection: 0,
            served: 0,
            left: 0,
            sets: BTreeMap::new(),
        });
        World {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            server: Server::default(),
            clients: clients.collect(),
            messages: Vec::new(),
            now_ns: 0,
            asked: 0,
        }
    }

    fn step<R>(&mut self, at: usize, act: impl FnOnce(&mut CachedLock<usize>, &mut Step<'_, usize>) -> R) -> R {
        let client = &mut self.clients[at];
        let mut effects = Vec::new();
        let mut step =
            Step { now_ns: self.now_ns, live: client.live, outbox: &mut client.outbox, effects: &mut effects };
        let result = act(&mut client.lock, &mut step);
        for effect in effects {
            match effect {
                Effect::Serve { waiter, grant } => {
                    client.served += 1;
                    client.waiting.retain(|(_, waiting)| *waiting != waiter);
                    client.users.push((grant.mode, grant.epoch, grant.token));
                }
                Effect::Ready { set } => {
                    assert!(client.lock.is_gathered(set));
                    let locks = LockSet::new([(client.lock.name().clone(), client.sets[&set])]).expect("one lock");
                    let number = client.outbox.send(Command::AcquireAll { set: locks });
                    client.lock.asked(set, number);
                }
                Effect::Dissolve { waiter } => {
                    client.left += 1;
                    client.waiting.retain(|(_, waiting)| *waiting != waiter);
                }
                Effect::Refuse { .. } | Effect::End { .. } => panic!("the model refuses and ends nothing"),
                Effect::Flush { token, .. } => {
                    assert!(client.live && client.flushing.is_none_or(|token| token <= client.lock.forced()));
                    client.flushing = Some(token);
                }
            }
        }
        self.check();
        result
    }

    /// Users whose guard is valid hold a tenure of the server, and nobody conflicts with them.
    fn check(&self) {
        for (at, client) in self.clients.iter().enumerate() {
            let valid = |user: &&(Mode, u64, FencingToken)| client.is_valid(user);
            for (mode, _, token) in client.users.iter().filter(valid) {
                let held = self.server.holders.iter().find(|holder| (holder.0, holder.3) == (at, token.0));
                let forced = self.server.forced.contains(&(at, token.0));
                assert!(forced || held.is_some_and(|held| held.2.covers(*mode)), "a user without a tenure");
                for (other, client) in self.clients.iter().enumerate().filter(|(other, _)| *other != at) {
                    let conflict =
                        client.users.iter().any(|user| client.is_valid(user) && !user.0.is_compatible_with(*mode));
                    assert!(!conflict, "clients {at} and {other} both use the lock");
                }
            }
            let users = client.users.iter().filter(valid).map(|user| user.0).collect::<Vec<_>>();
            assert!(users.len() < 2 || users.iter().all(|mode| *mode == Mode::Shared), "local users conflict");
        }
    }

    fn ask(&mut self, at: usize) {
        let mode = if self.random.below(2) == 0 { Mode::Shared } else { Mode::Exclusive };
        let client = &mut self.clients[at];
        let waiter = self.asked;
        self.asked += 1;
        if client.live
            && let Some(token) = client.lock.start_cached(mode, client.lock.epoch(), self.now_ns)
        {
            client.users.push((mode, client.lock.epoch(), token));
            client.served += 1;
            return self.check();
        }
        client.waiting.push((WaiterId(u64::MAX), waiter));
        let set = SetId(waiter as u64);
        client.sets.insert(set, mode);
        let in_set = self.random.below(3) == 0;
        let id = self.step(at, |lock, step| match in_set {
            true => lock.join(set, mode, waiter, step),
            false => lock.wait(mode, waiter, step),
        });
        if let Some(waiting) = self.clients[at].waiting.iter_mut().find(|(_, waiting)| *waiting == waiter) {
            waiting.0 = id;
        }
    }

    fn leave(&mut self, at: usize) {
        let Some((id, waiter)) = self.clients[at].waiting.pop() else { return };
        assert!(self.step(at, |lock, step| lock.leave(id, step)), "waiter {waiter} was neither served nor there");
        self.clients[at].left += 1;
    }

    fn end_user(&mut self, at: usize) {
        let count = self.clients[at].users.len();
        if count > 0 {
            let user = self.random.below(count);
            let (_, epoch, token) = self.clients[at].users.remove(user);
            if !self.clients[at].lock.end_cached(epoch, token) {
                self.step(at, CachedLock::settle);
            }
        }
    }

    fn finish_flush(&mut self, at: usize) {
        if let Some(token) = self.clients[at].flushing.take() {
            self.step(at, |lock, step| lock.on_flushed(token, step));
        }
    }

    fn send(&mut self, at: usize) {
        if let Some(batch) = self.clients[at].outbox.take() {
            let connection = self.clients[at].connection;
            self.messages.push(Message::Batch(at, connection, batch.id, batch.requests));
        }
    }

    fn deliver(&mut self, which: usize, keep: bool) {
        let message = if keep { self.messages[which].clone() } else { self.messages.swap_remove(which) };
        match message {
            Message::Batch(at, connection, id, requests) => {
                let answers =
                    requests.iter().map(|request| (request.number, self.server.execute(at, request))).collect();
                self.check();
                if connection == self.clients[at].connection {
                    self.messages.push(Message::Answer(at, id, answers));
                }
            }
            Message::Answer(at, id, answers) => {
                self.clients[at].outbox.on_answered(id);
                for (number, outcome) in answers {
                    self.step(at, |lock, step| lock.on_outcome(number, outcome, step));
                }
            }
            Message::Notice(at, Notice::Granted { number, token, others_waiting }) => {
                self.step(at, |lock, step| {
                    lock.on_granted(RequestNumber(number), FencingToken(token), others_waiting, step);
                });
            }
            Message::Notice(at, Notice::Forced { token }) => {
                self.step(at, |lock, step| lock.on_forced(FencingToken(token), step));
            }
            Message::Notice(at, Notice::Revoke { token, target }) => {
                self.step(at, |lock, step| lock.on_revoke(FencingToken(token), target, step));
            }
        }
    }

    /// The connection breaks: answers are lost, requests may still arrive late.
    fn reconnect(&mut self, at: usize) {
        self.messages.retain(|message| !matches!(message, Message::Answer(to, ..) if *to == at));
        self.clients[at].connection += 1;
        self.clients[at].outbox.on_disconnected();
        self.ask_again(at);
    }

    fn ask_again(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if let Some((number, mode)) = client.lock.queued() {
            client.outbox.ask_again(number, LockName::new("l").expect("a name"), mode);
        }
    }

    fn suspend_or_resume(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.live = !client.live;
        if client.live {
            self.step(at, CachedLock::settle);
        } else {
            let epoch = client.lock.epoch() + 1;
            client.lock.suspend(epoch);
        }
    }

    fn random_step(&mut self) {
        self.now_ns += 500_000;
        let at = self.random.below(CLIENTS);
        match self.random.below(100) {
            0..15 => self.ask(at),
            15..20 => self.leave(at),
            20..38 => self.end_user(at),
            38..48 => self.finish_flush(at),
            48..62 => self.send(at),
            62..70 => self.notify(),
            70..72 => self.reconnect(at),
            72..74 => self.ask_again(at),
            74..76 => self.suspend_or_resume(at),
            76 => drop(self.step(at, |lock, step| lock.evict(step))),
            77 if self.random.below(4) == 0 && !self.server.holders.is_empty() => {
                let which = self.random.below(self.server.holders.len());
                self.server.force(which);
            }
            roll if !self.messages.is_empty() => {
                let which = self.random.below(self.messages.len());
                match (&self.messages[which], roll) {
                    // Only notices are repeated or lost by themselves; TCP does not do that to a call.
                    (Message::Notice(..), 78) => drop(self.messages.swap_remove(which)),
                    (Message::Notice(..), 79..82) => self.deliver(which, true),
                    _ => self.deliver(which, false),
                }
            }
            _ => {}
        }
    }

    fn notify(&mut self) {
        let notices = self.server.notices();
        if !notices.is_empty() && self.messages.len() < 40 {
            let (at, notice) = notices[self.random.below(notices.len())].clone();
            self.messages.push(Message::Notice(at, notice));
        }
    }

    /// Nothing new, nothing lost, every user goes home: everything must come to rest with every waiter served.
    fn come_to_rest(&mut self, seed: u64) {
        for at in 0..CLIENTS {
            if !self.clients[at].live {
                self.suspend_or_resume(at);
            }
        }
        for _ in 0..400 {
            self.now_ns += 500_000;
            for at in 0..CLIENTS {
                self.ask_again(at);
                self.send(at);
                self.finish_flush(at);
                while !self.clients[at].users.is_empty() {
                    self.end_user(at);
                }
            }
            for (at, notice) in self.server.notices() {
                self.messages.push(Message::Notice(at, notice));
            }
            while !self.messages.is_empty() {
                self.deliver(0, false);
            }
            if self.clients.iter().all(|client| client.waiting.is_empty() && client.users.is_empty())
                && self.server.queue.is_empty()
            {
                let done: usize = self.clients.iter().map(|client| client.served + client.left).sum();
                assert_eq!(done, self.asked, "seed {seed}: a user was served twice or forgotten");
                return;
            }
        }
        let states: Vec<_> = self.clients.iter().map(|client| &client.lock).collect();
        panic!("seed {seed}: no rest; holders {:?}, queue {:?}, {states:?}", self.server.holders, self.server.queue);
    }
}

#[test]
fn users_never_conflict_and_every_waiter_is_served_in_the_end() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.random_step();
        }
        world.come_to_rest(seed);
    }
}
