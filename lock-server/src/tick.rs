//! The ticker's task: brings keep-alives, time and the replica's answers to [`primary::Ticker`](crate::primary::Ticker), and submits its
//! ops. Beside it, the task that sweeps.
//!
//! A tick is an event of the runtime that reads the clients' connections, queued behind what they brought. So a member whose runtime
//! stood still does not expire sessions whose keep-alives lie unread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_protocol::{KeepAlive, Refusal, Renewed};
use parking_lot::Mutex;
use rsm::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::application::{LockApplication, Pulse, Serving};
use crate::clock::RawTime;
use crate::machine::Op;
use crate::primary::{Renewals, SWEEP_PAUSE, Ticker, answers, notices_of};

/// Turns of the runtime before a tick is closed, at least and at most: the connections are read, the requests' handlers run, and
/// again while they bring more.
const TURNS: std::ops::RangeInclusive<u32> = 3..=16;

/// Who waits for the answer to a keep-alive.
type Sender = oneshot::Sender<Result<Renewed, Refusal>>;

/// Keep-alives that wait for the next tick, and what the handlers of requests tell the ticker's task.
#[derive(Debug, Default)]
pub(crate) struct KeepAlives {
    core: Mutex<Ticker<Sender>>,
    arrived: Notify,
    /// Requests of any kind whose handlers have begun.
    heard: AtomicU64,
}

impl KeepAlives {
    /// A request of any kind has been read.
    pub(crate) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Queues one for the next tick.
    pub(crate) fn take(&self, keep_alive: KeepAlive) -> oneshot::Receiver<Result<Renewed, Refusal>> {
        let (reply, answer) = oneshot::channel();
        self.core.lock().take_in(keep_alive, reply);
        self.arrived.notify_one();
        answer
    }
}

/// Submits ticks while this member serves.
pub(crate) struct TickerTask {
    pub(crate) handle: Handle,
    pub(crate) pulse: watch::Receiver<Pulse>,
    pub(crate) keep_alives: Arc<KeepAlives>,
}

impl TickerTask {
    /// Runs until the member ends.
    pub(crate) async fn run(mut self) {
        let start = Instant::now();
        let mut term = None;
        loop {
            let pulse = *self.pulse.borrow_and_update();
            if pulse.serving != term {
                term = pulse.serving;
                self.turn(start.elapsed(), term);
            } else if term.is_none() {
                self.turn(start.elapsed(), None);
            }
            let due = self.keep_alives.core.lock().due(start.elapsed(), pulse.shortest_lease, RawTime::now);
            let is_due = tokio::select! {
                () = sleep_until(start, due) => true,
                changed = self.pulse.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                () = self.keep_alives.arrived.notified(), if due.is_none() => false,
            };
            if is_due {
                self.read_what_came().await;
                self.tick().await;
            }
        }
    }

    /// A time of serving begins, or there is none: whoever came before looks for the primary elsewhere.
    fn turn(&self, now: Duration, serving: Option<Serving>) {
        let mut core = self.keep_alives.core.lock();
        match serving {
            Some(serving) => core.begin(now, serving.since),
            None => {
                let refused = core.end();
                drop(core);
                let refusal = not_serving(&self.handle);
                answer(refused.into_iter().map(|who| (who, Err(refusal.clone()))));
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

    /// Closes a tick, submits its ops one after the other, and answers its keep-alives.
    async fn tick(&self) {
        let core = || self.keep_alives.core.lock();
        let mut next = core().close(RawTime::now);
        while let Some(op) = next {
            match self.handle.submit(op.encode(), true).await {
                Ok(reply) => {
                    let (renewals, op) = core().executed(&reply);
                    next = op;
                    self.renewed(renewals).await;
                }
                Err(rejection) => {
                    let refused = core().rejected(rejection);
                    return answer(refused.into_iter().map(|(who, refusal)| (who, Err(refusal))));
                }
            }
        }
    }

    /// Answers the keep-alives of an executed tick, each with what is wanted of its session.
    async fn renewed(&self, renewals: Renewals<Sender>) {
        let sessions = renewals.sessions();
        if sessions.is_empty() {
            return;
        }
        let look = move |application: &mut LockApplication| notices_of(application.machine(), &sessions);
        answer(renewals.answers(self.handle.visit(look).await));
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

/// What a client is answered by a member that does not serve.
pub(crate) fn not_serving(handle: &Handle) -> Refusal {
    answers::not_serving(handle.member(), handle.status().view.as_ref())
}

async fn sleep_until(start: Instant, due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep_until(start + due).await,
        None => std::future::pending().await,
    }
}

fn answer(answers: impl IntoIterator<Item = (Sender, Result<Renewed, Refusal>)>) {
    for (who, answer) in answers {
        drop(who.send(answer));
    }
}
