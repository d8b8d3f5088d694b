//! The ticks that move service time and renew leases, and the sweeps behind dead sessions.
//!
//! Why it is right, rule by rule (each has its counter-example in the tests of `machine`):
//!
//! - A tick takes the keep-alives that have arrived, *then* reads the clock. Read before, a pause between the two would let the
//!   elapsed time miss what the client has counted, and its lease would end on the server first.
//! - A keep-alive is answered only by a tick that was closed after it arrived, so its lease counts from a time after it was sent.
//! - A tick is an event of the runtime that reads the clients' connections, queued behind what they brought. A member whose
//!   runtime stood still does not expire sessions whose keep-alives lie unread.
//! - One tick is uncommitted at a time, and counts from the clock reading of the one before, whether or not that was executed. So an
//!   outage, or a tick whose fate is unknown, makes service time slower and never faster than real time.
//! - A new primary counts from its barrier, whatever it measured before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_protocol::{KeepAlive, LEASE_MIN, NOTICES_MAX, Notice, Refusal, Renewed, tick_interval};
use parking_lot::Mutex;
use rsm::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::application::{LockApplication, Pulse, Serving};
use crate::clock::RawTime;
use crate::edge::refusal_of;
use crate::machine::{Op, Reply};

/// Keep-alives in one tick op. Each takes 20 bytes at most, so an op stays below [`rsm::limits::COMMAND_MAX_BYTES`]; more go into
/// further ops that add no time.
const KEEP_ALIVES_PER_OP: usize = 3_000;
const _: () = assert!(KEEP_ALIVES_PER_OP * 20 + 100 < rsm::limits::COMMAND_MAX_BYTES);
/// Turns of the runtime before a tick is closed, at least and at most: the connections are read, the requests' handlers run, and
/// again while they bring more.
const TURNS: std::ops::RangeInclusive<u32> = 3..=16;
/// Before a sweep that was refused is tried again.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// Keep-alives that wait for the next tick. Bounded by the calls under way on all connections.
#[derive(Debug, Default)]
pub(crate) struct KeepAlives {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
    /// Requests of any kind whose handlers have begun.
    heard: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    keep_alive: KeepAlive,
    reply: oneshot::Sender<Result<Renewed, Refusal>>,
}

impl KeepAlives {
    /// A request of any kind has been read.
    pub(crate) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Queues one for the next tick.
    pub(crate) fn take(&self, keep_alive: KeepAlive) -> oneshot::Receiver<Result<Renewed, Refusal>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.lock().push(Waiting { keep_alive, reply });
        self.arrived.notify_one();
        answer
    }

    fn count(&self) -> usize {
        self.waiting.lock().len()
    }

    fn take_all(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// Before those that arrived since: they belong into the next tick.
    fn put_back(&self, mut kept: Vec<Waiting>) {
        let mut waiting = self.waiting.lock();
        kept.append(&mut waiting);
        *waiting = kept;
    }
}

/// Submits ticks while this member serves.
pub(crate) struct Ticker {
    pub(crate) handle: Handle,
    pub(crate) pulse: watch::Receiver<Pulse>,
    pub(crate) keep_alives: std::sync::Arc<KeepAlives>,
}

impl Ticker {
    /// Runs until the member ends.
    pub(crate) async fn run(mut self) {
        loop {
            let serving = self.pulse.borrow_and_update().serving;
            let changed = match serving {
                Some(serving) => {
                    self.serve(serving).await;
                    Ok(())
                }
                None => tokio::select! {
                    changed = self.pulse.changed() => changed,
                    () = self.keep_alives.arrived.notified() => Ok(()),
                },
            };
            if changed.is_err() || self.pulse.has_changed().is_err() {
                return;
            }
            // Whoever came before the next time of serving began looks for the primary elsewhere.
            if self.pulse.borrow().serving.is_none() {
                let refusal = not_serving(&self.handle);
                refuse(self.keep_alives.take_all(), &refusal);
            }
        }
    }

    /// Ticks until this time of serving is over.
    async fn serve(&mut self, serving: Serving) {
        let mut last = serving.since;
        let mut next = Instant::now();
        loop {
            let pulse = *self.pulse.borrow_and_update();
            if pulse.serving != Some(serving) {
                return;
            }
            if pulse.shortest_lease.is_none() && self.keep_alives.count() == 0 {
                tokio::select! {
                    changed = self.pulse.changed() => if changed.is_err() { return },
                    () = self.keep_alives.arrived.notified() => {}
                }
                // Without sessions time stands still; it goes on from here.
                last = RawTime::now();
                next = Instant::now();
                continue;
            }
            next = (next + tick_interval(pulse.shortest_lease.unwrap_or(LEASE_MIN))).max(Instant::now());
            if !self.sleep_until(next, serving).await {
                return;
            }
            self.read_what_came().await;
            let taken = self.keep_alives.take_all();
            let now = RawTime::now();
            let elapsed = now.since(last);
            last = now;
            self.tick(elapsed, taken).await;
        }
    }

    /// False if this time of serving is over. Where a session with a shorter lease appears meanwhile, the tick comes sooner.
    async fn sleep_until(&mut self, mut at: Instant, serving: Serving) -> bool {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(at) => return true,
                changed = self.pulse.changed() => {
                    let pulse = *self.pulse.borrow_and_update();
                    if changed.is_err() || pulse.serving != Some(serving) {
                        return false;
                    }
                    at = at.min(Instant::now() + tick_interval(pulse.shortest_lease.unwrap_or(LEASE_MIN)));
                }
            }
        }
    }

    /// Lets the connections be read and the handlers run, as long as that brings requests.
    async fn read_what_came(&self) {
        let mut before = self.keep_alives.heard.load(Ordering::Relaxed);
        for turn in 1..=*TURNS.end() {
            tokio::task::yield_now().await;
            let count = self.keep_alives.heard.load(Ordering::Relaxed);
            if turn >= *TURNS.start() && count == before {
                return;
            }
            before = count;
        }
    }

    /// Submits the tick and answers its keep-alives.
    async fn tick(&self, elapsed: Duration, mut taken: Vec<Waiting>) {
        let mut elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        loop {
            let rest = taken.split_off(taken.len().min(KEEP_ALIVES_PER_OP));
            let keep_alives = taken.iter().map(|waiting| (waiting.keep_alive.session, waiting.keep_alive.floor));
            let op = Op::Tick { elapsed_us, keep_alives: keep_alives.collect() };
            match self.handle.submit(op.encode(), true).await {
                Ok(reply) => self.renewed(taken, &reply).await,
                Err(rsm::Rejection::Busy) => {
                    // Never refused as busy: the next tick takes them.
                    taken.extend(rest);
                    return self.keep_alives.put_back(taken);
                }
                Err(rejection) => {
                    taken.extend(rest);
                    return refuse(taken, &refusal_of(rejection));
                }
            }
            if rest.is_empty() {
                return;
            }
            elapsed_us = 0;
            taken = rest;
        }
    }

    /// Answers the keep-alives of an executed tick, each with what is wanted of its session.
    async fn renewed(&self, taken: Vec<Waiting>, reply: &[u8]) {
        let gone = match Reply::decode(reply) {
            Ok(Reply::Ticked { gone, .. }) => gone.into_iter().collect::<std::collections::BTreeSet<_>>(),
            other => {
                tracing::error!(?other, "a tick has an answer of another op: this is a bug");
                return refuse(taken, &Refusal::Unknown);
            }
        };
        if taken.is_empty() {
            return;
        }
        let sessions: Vec<_> = taken.iter().map(|waiting| waiting.keep_alive.session).collect();
        let look = move |application: &mut LockApplication| -> Vec<(Vec<Notice>, bool)> {
            let machine = application.machine();
            sessions.into_iter().map(|session| machine.revokes_of(session, NOTICES_MAX)).collect()
        };
        // Without an answer the client is told that there is more: it then makes sure of its callback connection.
        let mut notices = self.handle.visit(look).await.unwrap_or_default().into_iter();
        for Waiting { keep_alive, reply } in taken {
            let (notices, more) = notices.next().unwrap_or((Vec::new(), true));
            let answer = match gone.contains(&keep_alive.session) {
                true => Err(Refusal::SessionGone),
                false => Ok(Renewed { stamp: keep_alive.stamp, notices, more }),
            };
            drop(reply.send(answer));
        }
    }
}

/// Sweeps behind dead sessions while this member serves, one op at a time.
pub(crate) async fn sweep(handle: Handle, mut pulse: watch::Receiver<Pulse>) {
    while pulse.wait_for(|pulse| pulse.serving.is_some() && pulse.needs_sweep).await.is_ok() {
        if handle.submit(Op::Sweep.encode(), false).await.is_err() {
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }
}

/// What a keep-alive is answered by a member that does not serve.
pub(crate) fn not_serving(handle: &Handle) -> Refusal {
    let status = handle.status();
    let primary = status.view.as_ref().and_then(|view| view.slots.iter().find(|slot| slot.member == view.primary));
    match primary {
        Some(slot) if slot.member != handle.member() => Refusal::NotPrimary { hint: Some(slot.address.clone()) },
        _ => Refusal::ViewChanging,
    }
}

fn refuse(waiting: Vec<Waiting>, refusal: &Refusal) {
    for Waiting { reply, .. } in waiting {
        drop(reply.send(Err(refusal.clone())));
    }
}
