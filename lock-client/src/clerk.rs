//! The clerk: the thread that finds the primary, sends what the locks want, and keeps the session alive.
//!
//! One task on a runtime of its own, so that a client works under any executor or none, and so that no user's task can keep
//! the lease from being renewed. A second, tiny task watches the deadline, whatever the first is busy with.
//!
//! Why a change of the primary is harmless: what is unanswered when a connection ends goes back to the outbox, and leaves on the
//! next connection under the same numbers; the replicated session table executes each once. Queued acquires are asked
//! for again on every new connection and every [`ASK_AGAIN`], so that a notice may be lost (M11).
//!
//! Why a dead callback connection is harmless: revokes also come with the answers to keep-alives. One that is news, while the
//! callback connection stays silent, shows that the latter is dead, and it is opened anew (M16).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use lock_protocol::{LockServiceClient, Outcome, Refusal, Renewed, Request, Submission};
use wire::{DialError, Endpoint};

use crate::clock::{Clocks, boot_ns};
use crate::dial::{Ends, context, dial_callback, dial_service};
use crate::outbox::BatchId;
use crate::route::Route;
use crate::session::nanoseconds;
use crate::shared::{Shared, Stage};

/// Queued acquires are asked for again this often: a lost notice costs at most this.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Submissions in flight at most: enough to hide the round trip, few enough for batches to grow under load.
const SUBMISSIONS_IN_FLIGHT: usize = 4;
/// Keep-alives in flight at most; a connection is given up long before.
const KEEP_ALIVES_IN_FLIGHT: usize = 8;
/// A submission without an answer for so long means a dead server or a lost answer: dial again.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a server said that it is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// For how long the callback connection may stay silent after a revoke came another way.
const CALLBACK_GRACE: Duration = Duration::from_millis(200);
/// How often the cache is searched for what was idle too long.
const SWEEP: Duration = Duration::from_secs(60);
/// How often it may be searched because it is too large.
const SWEEP_FULL: Duration = Duration::from_millis(500);

/// Both connections to one server.
struct Link {
    endpoint: Endpoint,
    service: LockServiceClient,
    broken: Ends,
    callback: Ends,
}

/// Why a connection was left.
enum Departure {
    /// The session is over.
    Over,
    /// Another server should be tried.
    Elsewhere { answer: String, hint: Option<String> },
}

/// What a call came to.
enum Answer {
    Submitted { batch: BatchId, requests: Vec<Request>, result: Called<Vec<Outcome>> },
    Renewed(Called<Renewed>),
    Callback(Result<Ends, DialError>),
}

type Called<T> = Result<Result<T, Refusal>, String>;

/// When what is due next, boot time, ns.
struct Timers {
    ask_again_ns: u64,
    sweep_ns: u64,
    /// No submission before it.
    hold_until_ns: u64,
    /// The callback connection is taken for dead then, unless a notice comes on it.
    callback_dead_ns: Option<u64>,
}

/// The clerk of one session.
pub(crate) struct Clerk {
    pub(crate) shared: Arc<Shared>,
    pub(crate) route: Route,
    pub(crate) nonce: u128,
}

impl Clerk {
    /// Runs until the session is over; `opened` is the connection on which the session was opened.
    pub(crate) async fn run(mut self, opened: (Endpoint, LockServiceClient, Ends)) {
        let mut over = self.shared.over.subscribe();
        let watch = watch_deadline(Arc::clone(&self.shared));
        let work = async {
            let mut first = Some(opened);
            while !self.shared.is_over() {
                let (endpoint, departure) = match self.next_link(first.take()).await {
                    Ok(link) => (link.endpoint.clone(), self.serve(link).await),
                    Err((endpoint, error)) => {
                        (endpoint, Departure::Elsewhere { answer: error.to_string(), hint: None })
                    }
                };
                match departure {
                    Departure::Over => break,
                    Departure::Elsewhere { answer, hint } => {
                        tracing::debug!(%endpoint, %answer, ?hint, "looking for the primary");
                        self.route.on_failure(&endpoint, answer, hint.as_deref());
                    }
                }
            }
        };
        tokio::select! {
            biased;
            // The sender lives in `shared`, so this ends with the flag only.
            _ = over.wait_for(|over| *over) => {}
            () = work => {}
            () = watch => {}
        }
    }

    async fn next_link(
        &mut self,
        first: Option<(Endpoint, LockServiceClient, Ends)>,
    ) -> Result<Link, (Endpoint, DialError)> {
        let (endpoint, service, broken) = match first {
            Some(opened) => opened,
            None => {
                let (endpoint, pause) = self.route.next();
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                match dial_service(&endpoint).await {
                    Ok((service, broken)) => (endpoint, service, broken),
                    Err(error) => return Err((endpoint, error)),
                }
            }
        };
        match self.dial_callback(&endpoint).await {
            Ok(callback) => Ok(Link { endpoint, service, broken, callback }),
            Err(error) => Err((endpoint, error)),
        }
    }

    fn dial_callback(&self, endpoint: &Endpoint) -> impl Future<Output = Result<Ends, DialError>> + Send + use<> {
        let endpoint = endpoint.clone();
        let (session, nonce, shared) = (self.shared.session_id(), self.nonce, self.shared.weak().clone());
        async move { dial_callback(&endpoint, session, nonce, shared).await }
    }

    async fn serve(&mut self, link: Link) -> Departure {
        let shared = Arc::clone(&self.shared);
        shared.session.lock().on_connected();
        shared.outbox.lock().on_disconnected();
        shared.ask_queued_again();
        shared.service.send_replace(Some(link.service.clone()));
        let departure = self.exchange(link).await;
        shared.service.send_replace(None);
        shared.outbox.lock().on_disconnected();
        departure
    }

    async fn exchange(&mut self, mut link: Link) -> Departure {
        let mut calls: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let (mut submissions, mut keep_alives) = (0, 0);
        let now_ns = boot_ns();
        let mut timers = Timers {
            ask_again_ns: now_ns + nanoseconds(ASK_AGAIN),
            sweep_ns: now_ns + nanoseconds(SWEEP),
            hold_until_ns: 0,
            callback_dead_ns: None,
        };
        loop {
            if self.shared.session.lock().is_overdue(Clocks::now()) {
                return Departure::Elsewhere { answer: "it does not answer keep-alives".into(), hint: None };
            }
            self.on_timers(&mut timers, &link, &calls);
            while submissions < SUBMISSIONS_IN_FLIGHT
                && boot_ns() >= timers.hold_until_ns
                && let Some(call) = self.submission(&link)
            {
                submissions += 1;
                calls.push(call);
            }
            if keep_alives < KEEP_ALIVES_IN_FLIGHT
                && let Some(call) = self.keep_alive(&link)
            {
                keep_alives += 1;
                calls.push(call);
            }
            let pause = self.until_next(&timers);
            tokio::select! {
                Some(answer) = calls.next(), if !calls.is_empty() => {
                    match &answer {
                        Answer::Submitted { .. } => submissions -= 1,
                        Answer::Renewed(_) => keep_alives -= 1,
                        Answer::Callback(_) => {}
                    }
                    if let Some(departure) = self.on_answer(answer, &mut timers, &mut link) {
                        return departure;
                    }
                }
                () = self.shared.work.notified() => {}
                () = self.shared.callback_heard.notified() => timers.callback_dead_ns = None,
                () = link.broken.ended() => {
                    return Departure::Elsewhere { answer: "the connection broke".into(), hint: None };
                }
                () = link.callback.ended() => {
                    return Departure::Elsewhere { answer: "the callback connection broke".into(), hint: None };
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn submission(&self, link: &Link) -> Option<BoxFuture<'static, Answer>> {
        let batch = self.shared.outbox.lock().take()?;
        let submission =
            Submission { session: self.shared.session_id(), floor: batch.floor, requests: batch.requests.clone() };
        let service = link.service.clone();
        let call = async move {
            let call = service.submit(context(), submission);
            let result = called(tokio::time::timeout(SUBMIT_TIMEOUT, call).await, "a submission");
            Answer::Submitted { batch: batch.id, requests: batch.requests, result }
        };
        Some(call.boxed())
    }

    fn keep_alive(&self, link: &Link) -> Option<BoxFuture<'static, Answer>> {
        let now = Clocks::now();
        let (keep_alive, limit) = {
            // Outbox before session would be as good; nobody holds both otherwise.
            let floor = self.shared.outbox.lock().floor();
            let mut session = self.shared.session.lock();
            if now.boot_ns < session.next_keep_alive_ns() {
                return None;
            }
            (session.keep_alive(now, floor), session.lease())
        };
        let service = link.service.clone();
        let call = async move {
            let call = service.keep_alive(context(), keep_alive);
            Answer::Renewed(called(tokio::time::timeout(limit, call).await, "a keep-alive"))
        };
        Some(call.boxed())
    }

    fn on_answer(&mut self, answer: Answer, timers: &mut Timers, link: &mut Link) -> Option<Departure> {
        match answer {
            Answer::Submitted { batch, requests, result } => self.on_submitted(batch, requests, result, timers),
            Answer::Renewed(Ok(Ok(renewed))) => {
                self.route.on_success();
                if self.shared.on_renewed(renewed) {
                    timers.callback_dead_ns.get_or_insert(boot_ns() + nanoseconds(CALLBACK_GRACE));
                }
                None
            }
            Answer::Renewed(Ok(Err(refusal))) => self.on_refusal(refusal, timers),
            Answer::Renewed(Err(answer)) => Some(Departure::Elsewhere { answer, hint: None }),
            Answer::Callback(Ok(callback)) => {
                link.callback = callback;
                None
            }
            Answer::Callback(Err(error)) => Some(Departure::Elsewhere { answer: error.to_string(), hint: None }),
        }
    }

    fn on_submitted(
        &mut self,
        batch: BatchId,
        requests: Vec<Request>,
        result: Called<Vec<Outcome>>,
        timers: &mut Timers,
    ) -> Option<Departure> {
        match result {
            Ok(Ok(outcomes)) if outcomes.len() == requests.len() => {
                self.route.on_success();
                self.shared.outbox.lock().on_answered(batch);
                self.shared.on_outcomes(requests, outcomes);
                None
            }
            Ok(Ok(_)) => {
                let answer = "it answered another number of requests than it was asked".to_owned();
                Some(Departure::Elsewhere { answer, hint: None })
            }
            Ok(Err(refusal)) => {
                self.shared.outbox.lock().on_unanswered(batch);
                self.on_refusal(refusal, timers)
            }
            Err(answer) => Some(Departure::Elsewhere { answer, hint: None }),
        }
    }

    fn on_refusal(&mut self, refusal: Refusal, timers: &mut Timers) -> Option<Departure> {
        let answer = refusal.to_string();
        match refusal {
            Refusal::NotPrimary { hint } => Some(Departure::Elsewhere { answer, hint }),
            Refusal::ViewChanging | Refusal::Unknown | Refusal::Invalid(_) => {
                Some(Departure::Elsewhere { answer, hint: None })
            }
            Refusal::Busy(_) => {
                timers.hold_until_ns = boot_ns() + nanoseconds(BUSY_PAUSE);
                None
            }
            Refusal::SessionGone => {
                self.shared.end(Stage::Lost);
                Some(Departure::Over)
            }
        }
    }

    fn on_timers(&self, timers: &mut Timers, link: &Link, calls: &FuturesUnordered<BoxFuture<'static, Answer>>) {
        let now_ns = boot_ns();
        if now_ns >= timers.ask_again_ns {
            timers.ask_again_ns = now_ns + nanoseconds(ASK_AGAIN);
            self.shared.ask_queued_again();
        }
        let full = self.shared.table.len() > self.shared.limits.locks
            && now_ns + nanoseconds(SWEEP) >= timers.sweep_ns + nanoseconds(SWEEP_FULL);
        if now_ns >= timers.sweep_ns || full {
            timers.sweep_ns = now_ns + nanoseconds(SWEEP);
            self.shared.sweep();
        }
        if timers.callback_dead_ns.is_some_and(|dead_ns| now_ns >= dead_ns) {
            timers.callback_dead_ns = None;
            tracing::warn!(endpoint = %link.endpoint, "the callback connection is silent: opening it anew");
            calls.push(self.dial_callback(&link.endpoint).map(Answer::Callback).boxed());
        }
    }

    fn until_next(&self, timers: &Timers) -> Duration {
        let now_ns = boot_ns();
        let mut next_ns = timers.ask_again_ns.min(timers.sweep_ns).min(self.shared.session.lock().next_keep_alive_ns());
        if let Some(dead_ns) = timers.callback_dead_ns {
            next_ns = next_ns.min(dead_ns);
        }
        if timers.hold_until_ns > now_ns {
            next_ns = next_ns.min(timers.hold_until_ns);
        }
        // At least a millisecond: a keep-alive that is due but not sent, since too many are in flight, must not spin.
        Duration::from_nanos(next_ns.saturating_sub(now_ns)).max(Duration::from_millis(1))
    }
}

/// Ends the epoch when the lease runs out, also while the clerk looks for a primary.
async fn watch_deadline(shared: Arc<Shared>) {
    let most = shared.session.lock().lease() / 10;
    loop {
        shared.on_time();
        let deadline_ns = shared.session.lock().deadline_ns();
        let left = Duration::from_nanos(deadline_ns.saturating_sub(boot_ns()));
        // tokio's clock stands still while the machine is suspended, so it is looked at now and then in any case.
        tokio::time::sleep(if left.is_zero() { most } else { left.min(most) }).await;
    }
}

/// A call that timed out or whose connection broke, in words.
pub(crate) fn called<T>(
    result: Result<Result<Result<T, Refusal>, tarpc::client::RpcError>, tokio::time::error::Elapsed>,
    what: &str,
) -> Called<T> {
    match result {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("the connection broke: {error}")),
        Err(_) => Err(format!("it left {what} without an answer")),
    }
}
