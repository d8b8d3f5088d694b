//! Three clients and a small model of the server, with messages delivered, repeated, swapped and lost in random order.
//!
//! Safety: at no time do two clients have users that conflict. Liveness: once nothing is lost any more and every user goes
//! home, every waiter has been served or has left, and every lock is where both sides believe it to be.

use std::collections::BTreeMap;

use lock_protocol::{LockSet, Outcome, Request, Requeued};

use super::*;
use crate::outbox::BatchId;

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

/// The reference: one lock, executed strictly in the order in which requests arrive.
#[derive(Default)]
pub(crate) struct Server {
    ops: u64,
    /// Client, its acquire's number, mode, token.
    pub(crate) holders: Vec<(usize, u64, Mode, u64)>,
    /// Client and token of tenures that were ended by force and not confirmed yet.
    pub(crate) forced: Vec<(usize, u64)>,
    queue: Vec<(usize, u64, Mode)>,
    executed: BTreeMap<(usize, u64), Outcome>,
}

impl Server {
    pub(crate) fn execute(&mut self, client: usize, request: &Request) -> Outcome {
        let number = request.number.0;
        match &request.command {
            Command::Acquire { mode, .. } => return self.acquire(client, number, *mode),
            Command::AcquireAll { set } => return self.acquire_all(client, number, set),
            _ => {}
        }
        if let Some(outcome) = self.executed.get(&(client, number)) {
            return outcome.clone();
        }
        let outcome = match request.command {
            Command::Acquire { .. } | Command::AcquireAll { .. } => unreachable!("answered above"),
            Command::Cancel { acquire, .. } => {
                self.queue.retain(|place| (place.0, place.1) != (client, acquire.0));
                self.holders.retain(|holder| (holder.0, holder.1) != (client, acquire.0));
                // An acquire that is executed after its cancel is a repetition: gone.
                self.executed.insert((client, acquire.0), Outcome::Gone);
                Outcome::Cancelled
            }
            Command::Release { token, requeue, .. } => self.release(client, number, token.0, requeue),
            Command::Upgrade { token, .. } => self.upgrade(client, number, token.0),
            Command::Downgrade { token, .. } => {
                match self.holders.iter_mut().find(|holder| (holder.0, holder.3) == (client, token.0)) {
                    Some(holder) => {
                        holder.2 = Mode::Shared;
                        Outcome::Downgraded
                    }
                    None => Outcome::NotHeld,
                }
            }
        };
        self.executed.insert((client, number), outcome.clone());
        self.grant();
        outcome
    }

    fn acquire(&mut self, client: usize, number: u64, mode: Mode) -> Outcome {
        if self.executed.contains_key(&(client, number)) {
            return self.entry(client, number).unwrap_or(Outcome::Gone);
        }
        self.executed.insert((client, number), Outcome::Queued);
        if let Some(held) = self.holders.iter().find(|holder| holder.0 == client) {
            return Outcome::AlreadyHeld { token: FencingToken(held.3), mode: held.2 };
        }
        self.queue.push((client, number, mode));
        self.grant();
        self.entry(client, number).expect("it is queued or granted")
    }

    /// The client has nothing of it that it knows of.
    fn acquire_all(&mut self, client: usize, number: u64, set: &LockSet) -> Outcome {
        if !self.executed.contains_key(&(client, number)) {
            self.holders.retain(|holder| holder.0 != client);
            self.queue.retain(|place| place.0 != client);
            self.forced.retain(|forced| forced.0 != client);
        }
        let (_, mode) = set.iter().next().expect("one lock");
        self.acquire(client, number, mode)
    }

    fn release(&mut self, client: usize, number: u64, token: u64, requeue: Option<Mode>) -> Outcome {
        self.forced.retain(|forced| *forced != (client, token));
        let before = self.holders.len();
        self.holders.retain(|holder| (holder.0, holder.3) != (client, token));
        if self.holders.len() == before {
            return Outcome::NotHeld;
        }
        let Some(mode) = requeue else { return Outcome::Released { requeued: None } };
        self.queue.push((client, number, mode));
        self.grant();
        let requeued = match self.entry(client, number) {
            Some(Outcome::Granted { token, others_waiting }) => Requeued::Granted { token, others_waiting },
            _ => Requeued::Queued,
        };
        Outcome::Released { requeued: Some(requeued) }
    }

    fn upgrade(&mut self, client: usize, number: u64, token: u64) -> Outcome {
        let is_it = |holder: &(usize, u64, Mode, u64)| (holder.0, holder.3) == (client, token);
        match self.holders.iter().find(|holder| is_it(holder)) {
            None => Outcome::NotHeld,
            Some((.., Mode::Exclusive, _)) => Outcome::Upgraded { token: FencingToken(token) },
            Some(_) if self.holders.len() > 1 || !self.queue.is_empty() || !self.forced.is_empty() => {
                Outcome::NotUpgraded
            }
            Some(_) => {
                self.ops += 1;
                self.holders = vec![(client, number, Mode::Exclusive, self.ops)];
                Outcome::Upgraded { token: FencingToken(self.ops) }
            }
        }
    }

    fn entry(&self, client: usize, number: u64) -> Option<Outcome> {
        if let Some(holder) = self.holders.iter().find(|holder| (holder.0, holder.1) == (client, number)) {
            let others_waiting = self.queue.iter().any(|place| !place.2.is_compatible_with(holder.2));
            return Some(Outcome::Granted { token: FencingToken(holder.3), others_waiting });
        }
        self.queue.iter().any(|place| (place.0, place.1) == (client, number)).then_some(Outcome::Queued)
    }

    /// Ends all that a client has, as by expiry.
    pub(crate) fn end(&mut self, client: usize) {
        self.holders.retain(|holder| holder.0 != client);
        self.queue.retain(|place| place.0 != client);
        self.forced.retain(|forced| forced.0 != client);
        self.grant();
    }

    /// Ends one tenure by force.
    pub(crate) fn force(&mut self, which: usize) {
        let holder = self.holders.remove(which);
        self.forced.push((holder.0, holder.3));
    }

    fn grant(&mut self) {
        while let Some((client, number, mode)) = self.queue.first().copied() {
            if !self.forced.is_empty() || !self.holders.iter().all(|holder| holder.2.is_compatible_with(mode)) {
                return;
            }
            self.queue.remove(0);
            self.ops += 1;
            self.holders.push((client, number, mode, self.ops));
        }
    }

    /// All notices that the state gives rise to.
    pub(crate) fn notices(&self) -> Vec<(usize, Notice)> {
        let mut notices = Vec::new();
        for &(client, token) in &self.forced {
            notices.push((client, Notice::Forced { token }));
        }
        for &(client, number, mode, token) in &self.holders {
            notices.push((client, Notice::Granted { number, token, others_waiting: !self.queue.is_empty() }));
            if let Some(place) = self.queue.first()
                && !place.2.is_compatible_with(mode)
            {
                let target = (place.2 == Mode::Shared).then_some(Mode::Shared);
                notices.push((client, Notice::Revoke { token, target }));
            }
        }
        notices
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Granted { number: u64, token: u64, others_waiting: bool },
    Revoke { token: u64, target: Option<Mode> },
    Forced { token: u64 },
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
