//! The reference: a server with one lock, in a few lists.

use std::collections::BTreeMap;

use lock_protocol::{Command, FencingToken, LockSet, Mode, Outcome, Request, Requeued};

/// One lock, executed strictly in the order in which requests arrive.
#[derive(Default)]
pub(crate) struct Server {
    ops: u64,
    /// Client, its acquire's number, mode, token.
    pub(crate) holders: Vec<(usize, u64, Mode, u64)>,
    /// Client and token of tenures that were ended by force and not confirmed yet.
    pub(crate) forced: Vec<(usize, u64)>,
    pub(crate) queue: Vec<(usize, u64, Mode)>,
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
