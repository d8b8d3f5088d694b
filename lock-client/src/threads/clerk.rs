//! The clerk of a schedule: the one thread on which a client's requests, notices and clock are looked after, with a model of the
//! server at its hand, and another client that wants the same lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lock_protocol::{Command, FencingToken, Mode, Notice, Renewed, Request, RequestNumber};
use shuttle::future::{block_on, yield_now};
use shuttle::rand::{Rng, thread_rng};

use super::users::Bench;
use super::{LEASE_MS, name};
use crate::cache::interleavings::{Notice as Told, Server};
use crate::clock::{Clocks, set};
use crate::fate::Stage;

/// As the model of the server knows this client, and the other one.
const OURS: usize = 0;
const OTHERS: usize = 1;

pub(super) struct Clerk {
    bench: Arc<Bench>,
    /// The other client's next number.
    other_number: u64,
    /// Which request released which tenure.
    releases: BTreeMap<FencingToken, RequestNumber>,
    /// Tenures that were ended by force, as far as the client was told.
    forced: BTreeSet<FencingToken>,
    suspended: bool,
}

impl Clerk {
    pub(super) fn new(bench: Arc<Bench>) -> Self {
        Clerk { bench, other_number: 0, releases: BTreeMap::new(), forced: BTreeSet::new(), suspended: false }
    }

    /// Some random steps, then whatever is needed for every user to end.
    pub(super) fn run(mut self, steps: usize) {
        block_on(async {
            for _ in 0..steps {
                self.random_step();
                yield_now().await;
            }
            loop {
                self.heal();
                if self.bench.users_left() == 0 && self.at_rest() {
                    return;
                }
                self.bench.shared.work.notified().await;
            }
        });
    }

    fn random_step(&mut self) {
        match thread_rng().gen_range(0..16) {
            0..4 => drop(self.exchange(false)),
            4 => drop(self.exchange(true)),
            5..8 => self.notify(),
            8..10 => self.other_acquires(),
            10 => self.other_releases(),
            11 => self.run_out(),
            12 => self.renew(),
            13 => self.bench.shared.sweep(),
            14 => self.force(),
            _ if self.bench.server_ends() => self.server_ends(),
            _ => self.bench.shared.ask_queued_again(),
        }
    }

    fn heal(&mut self) {
        let mut runs_out = self.suspended;
        for token in self.bench.take_mourned() {
            runs_out |= thread_rng().gen_range(0..2) == 0 || !self.force_ours(token);
        }
        if runs_out {
            if !self.suspended {
                self.run_out();
            }
            self.renew();
        }
        if self.bench.server_ends() {
            self.server_ends();
        }
        self.bench.shared.ask_queued_again();
        loop {
            self.other_releases();
            let news = self.server(|server| server.notices().into_iter().any(|(client, _)| client == OURS));
            if news {
                self.notify();
            }
            if !self.exchange(false) {
                return;
            }
        }
    }

    /// Whether nothing of ours waits at the server while the session is in use.
    fn at_rest(&self) -> bool {
        let over = self.bench.shared.is_over();
        over || (!self.bench.shared.outbox.lock().has_unsent() && self.bench.shared.ending().is_none())
    }

    fn server<R>(&self, act: impl FnOnce(&mut Server) -> R) -> R {
        act(&mut self.bench.server.lock().expect("a thread that panics fails the whole schedule"))
    }

    /// One submission; where the answer is lost, what was sent goes back to the outbox.
    fn exchange(&mut self, lose: bool) -> bool {
        let shared = Arc::clone(&self.bench.shared);
        let taken = shared.outbox.lock().take();
        let Some(batch) = taken else { return false };
        for request in &batch.requests {
            self.check_release(request);
        }
        let outcomes = self.server(|server| batch.requests.iter().map(|one| server.execute(OURS, one)).collect());
        if lose {
            shared.outbox.lock().on_disconnected();
            shared.ask_queued_again();
        } else {
            shared.outbox.lock().on_answered(batch.id);
            shared.on_outcomes(batch.requests, outcomes);
        }
        true
    }

    /// A tenure is released by one request, however often that is sent. The end of one by force may be confirmed twice, which does no
    /// harm: a lock of which no more is known may be forgotten in between.
    fn check_release(&mut self, request: &Request) {
        if let Command::Release { token, .. } = request.command
            && !self.forced.contains(&token)
        {
            let first = *self.releases.entry(token).or_insert(request.number);
            assert_eq!(first, request.number, "tenure {token} is released twice");
        }
    }

    /// The server tells what its state gives rise to, once each.
    fn notify(&mut self) {
        let notices = self.server(|server| server.notices());
        let ours = notices.into_iter().filter(|(client, _)| *client == OURS).map(|(_, notice)| match notice {
            Told::Granted { number, token, others_waiting } => {
                let (acquire, token) = (RequestNumber(number), FencingToken(token));
                Notice::Granted { name: name(), acquire, token, others_waiting }
            }
            Told::Revoke { token, target } => Notice::Revoke { name: name(), token: FencingToken(token), target },
            Told::Forced { token } => Notice::Forced { name: name(), token: FencingToken(token) },
        });
        let ours: Vec<Notice> = ours.collect();
        self.forced.extend(ours.iter().filter_map(|notice| match notice {
            Notice::Forced { token, .. } => Some(*token),
            _ => None,
        }));
        self.bench.shared.on_notices(ours);
    }

    fn other_acquires(&mut self) {
        self.other_number += 1;
        let mode = if thread_rng().gen_range(0..2) == 0 { Mode::Shared } else { Mode::Exclusive };
        let command = Command::Acquire { name: name(), mode };
        let request = Request { number: RequestNumber(self.other_number), command };
        self.server(|server| server.execute(OTHERS, &request));
    }

    fn other_releases(&mut self) {
        self.server(|server| server.end(OTHERS));
    }

    /// The lease runs out, as seen by a timer.
    fn run_out(&mut self) {
        self.advance(LEASE_MS);
        self.bench.shared.on_time();
        self.bench.oracle.on_epoch_end(self.bench.shared.lease.epoch());
        self.suspended = true;
    }

    /// A keep-alive is answered; maybe so late that the lease ran out meanwhile, and no timer saw it.
    fn renew(&mut self) {
        let shared = &self.bench.shared;
        if thread_rng().gen_range(0..4) == 0 {
            self.advance(LEASE_MS);
        }
        let floor = shared.outbox.lock().floor();
        let keep_alive = shared.session.lock().keep_alive(Clocks::now(), floor);
        shared.on_renewed(Renewed { stamp: keep_alive.stamp, notices: Vec::new(), more: false });
        self.suspended = false;
    }

    fn force(&mut self) {
        self.server(|server| {
            if !server.holders.is_empty() {
                server.force(0);
            }
        });
        // Taken in before anything else is granted, as the server withholds the lock.
        self.notify();
    }

    /// False where the server knows no such tenure of ours.
    fn force_ours(&mut self, token: FencingToken) -> bool {
        let is_forced = self.server(|server| {
            let which = server.holders.iter().position(|holder| (holder.0, holder.3) == (OURS, token.0));
            which.map(|which| server.force(which)).is_some()
        });
        self.notify();
        is_forced
    }

    /// The session's lease is over at the server, which is after it was over here.
    fn server_ends(&mut self) {
        self.advance(LEASE_MS);
        if let Some(cell) = self.bench.shared.table.find("l") {
            self.bench.oracle.check_all_dead(&cell);
        }
        self.server(|server| server.end(OURS));
        self.bench.shared.end(Stage::Lost);
    }

    fn advance(&self, ms: u64) {
        let now = Clocks::now();
        let (boot_ns, real_ns) = (now.boot_ns + ms * 1_000_000, now.real_ns + ms * 1_000_000);
        set::set(Some(Clocks { boot_ns, real_ns }));
    }
}
