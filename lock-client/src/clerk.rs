//! The clerk: the thread that finds the primary, sends what the locks want, and keeps the session alive.
//!
//! One task on a runtime of its own, so that a client works under any executor or none, and so that no user's task can keep
//! the lease from being renewed. A second, tiny task watches the deadline, whatever the first is busy with.
//!
//! What goes over a connection, when, and what each answer means is [`Exchange`]'s to decide; here it is carried out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use lock_protocol::{
    KeepAlive, LockServiceClient, Outcome, RecoveryAnswer, RecoveryReport, Refusal, Renewed, Request, SessionId,
    Submission,
};
use wire::{DialError, Endpoint, Tls};

use crate::clock::{Clocks, boot_ns};
use crate::dial::{Ends, context, dial_callback, dial_service};
use crate::exchange::{Departure, Exchange, SUBMIT_TIMEOUT};
use crate::fate::Stage;
use crate::outbox::{Batch, BatchId};
use crate::route::{DIAL_TIMEOUT_MAX, Route};
use crate::session::nanoseconds;
use crate::shared::Shared;

/// Longer than a server takes to refuse something, shorter than anybody notices.
const CALLBACK_AGAIN: Duration = Duration::from_millis(10);
/// A callback connection that was dialled again and breaks within it is not dialled at this server once more.
const MENDED_LASTS: Duration = Duration::from_secs(1);

/// Both connections to one server.
struct Link {
    endpoint: Endpoint,
    service: LockServiceClient,
    broken: Ends,
    callback: Ends,
}

/// What a call came to.
enum Answer {
    Submitted { batch: BatchId, requests: Vec<Request>, result: Called<Vec<Outcome>> },
    Renewed(Called<Renewed>),
    Callback(Result<Ends, DialError>),
    Reported { report: RecoveryReport, result: Called<RecoveryAnswer> },
}

type Called<T> = Result<Result<T, Refusal>, String>;
type Calls = FuturesUnordered<BoxFuture<'static, Answer>>;

/// The clerk of one session.
pub(crate) struct Clerk {
    pub(crate) shared: Arc<Shared>,
    pub(crate) route: Route,
    pub(crate) nonce: u128,
    pub(crate) tls: Option<Tls>,
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
                    Err(departed) => departed,
                };
                match departure {
                    Departure::Over => {
                        self.shared.end(Stage::Lost);
                        break;
                    }
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
    ) -> Result<Link, (Endpoint, Departure)> {
        let (endpoint, service, broken) = match first {
            Some(opened) => opened,
            None => {
                let (endpoint, pause) = self.route.next_server();
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                match dial_service(&endpoint, self.tls.as_ref(), self.dial_timeout()).await {
                    Ok((service, broken)) => (endpoint, service, broken),
                    Err(error) => return Err((endpoint, Departure::elsewhere(error.to_string()))),
                }
            }
        };
        let callback = match self.dial_callback(&endpoint, self.dial_timeout()).await {
            Ok(callback) => Ok(callback),
            Err(error) => self.mend_callback(&service, &endpoint, error.to_string()).await,
        };
        match callback {
            Ok(callback) => Ok(Link { endpoint, service, broken, callback }),
            Err(departure) => Err((endpoint, departure)),
        }
    }

    /// There is no callback connection to this server, for this reason: asks why, and dials it again. Whoever is not primary says at once who
    /// is. A member that serves, and one that begins to at this moment, refuses nothing, and takes a tick's time to answer a keep-alive.
    async fn mend_callback(
        &self,
        service: &LockServiceClient,
        endpoint: &Endpoint,
        reason: String,
    ) -> Result<Ends, Departure> {
        tokio::select! {
            biased;
            departure = self.ask_why(service, reason) => Err(departure),
            callback = self.dial_callback_again(endpoint) => Ok(callback),
        }
    }

    /// Never ends where it is refused again.
    async fn dial_callback_again(&self, endpoint: &Endpoint) -> Ends {
        tokio::time::sleep(CALLBACK_AGAIN).await;
        match self.dial_callback(endpoint, self.dial_timeout()).await {
            Ok(callback) => callback,
            Err(_) => std::future::pending().await,
        }
    }

    /// A server did not take the callback connection, or ended it. For a session that has ended it never takes one, and no other server does
    /// either; that is learnt only by asking, and so is where the primary is.
    async fn ask_why(&self, service: &LockServiceClient, reason: String) -> Departure {
        let floor = self.shared.outbox.lock().floor();
        let keep_alive = self.shared.session.lock().keep_alive(Clocks::now(), floor);
        let call = service.keep_alive(context(), keep_alive);
        let answer = called(tokio::time::timeout(self.dial_timeout(), call).await, "a keep-alive");
        Departure::callback_refused(answer.ok().and_then(Result::err), reason)
    }

    fn dial_timeout(&self) -> Duration {
        let lease = self.shared.session.lock().lease();
        self.route.dial_timeout(lease)
    }

    fn dial_callback(
        &self,
        endpoint: &Endpoint,
        timeout: Duration,
    ) -> impl Future<Output = Result<Ends, DialError>> + Send + use<> {
        let (endpoint, tls) = (endpoint.clone(), self.tls.clone());
        let (session, nonce, shared) = (self.shared.session_id(), self.nonce, self.shared.weak().clone());
        async move { dial_callback(&endpoint, tls.as_ref(), timeout, session, nonce, shared).await }
    }

    async fn serve(&mut self, link: Link) -> Departure {
        let shared = Arc::clone(&self.shared);
        let exchange = Exchange::new(boot_ns(), &mut shared.session.lock(), &mut shared.outbox.lock());
        shared.recoverer.core.lock().on_connected();
        shared.ask_queued_again();
        shared.service.send_replace(Some(link.service.clone()));
        let departure = self.exchange(link, exchange).await;
        shared.service.send_replace(None);
        shared.outbox.lock().on_disconnected();
        departure
    }

    async fn exchange(&mut self, mut link: Link, mut exchange: Exchange) -> Departure {
        let (mut calls, mut mended_ns) = (Calls::new(), 0_u64);
        loop {
            if let Err(departure) = self.start_calls(&mut exchange, &link, &calls) {
                return departure;
            }
            let pause = self.until_next(&exchange);
            tokio::select! {
                Some(answer) = calls.next(), if !calls.is_empty() => {
                    if let Err(departure) = self.on_answer(answer, &mut exchange, &mut link) {
                        return departure;
                    }
                }
                () = self.shared.work.notified() => {}
                () = self.shared.callback_heard.notified() => exchange.on_callback_heard(),
                () = link.broken.ended() => return Departure::elsewhere("the connection broke"),
                () = link.callback.ended() => {
                    let reason = "the callback connection broke".to_owned();
                    if boot_ns() < mended_ns.saturating_add(nanoseconds(MENDED_LASTS)) {
                        return Departure::elsewhere(reason);
                    }
                    match self.mend_callback(&link.service, &link.endpoint, reason).await {
                        Ok(callback) => link.callback = callback,
                        Err(departure) => return departure,
                    }
                    mended_ns = boot_ns();
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn start_calls(&self, exchange: &mut Exchange, link: &Link, calls: &Calls) -> Result<(), Departure> {
        let shared = &self.shared;
        let full = shared.table.len() > shared.limits.locks;
        let due = exchange.due(Clocks::now(), &mut shared.session.lock(), full)?;
        if due.ask_again {
            shared.ask_queued_again();
        }
        if due.sweep {
            shared.sweep();
        }
        if due.callback {
            tracing::warn!(endpoint = %link.endpoint, "the callback connection is silent: opening it anew");
            // The session goes on meanwhile, so this may take its time.
            calls.push(self.dial_callback(&link.endpoint, DIAL_TIMEOUT_MAX).map(Answer::Callback).boxed());
        }
        loop {
            let Some(batch) = exchange.submission(boot_ns(), &mut shared.outbox.lock()) else { break };
            calls.push(submit(link.service.clone(), shared.session_id(), batch));
        }
        self.start_reports(link, calls);
        // Outbox before session would be as good; nobody else holds both.
        let floor = shared.outbox.lock().floor();
        let keep_alive = exchange.keep_alive(Clocks::now(), &mut shared.session.lock(), floor);
        if let Some(keep_alive) = keep_alive {
            calls.push(renew(link.service.clone(), keep_alive));
        }
        Ok(())
    }

    /// What is to be said about recoveries.
    fn start_reports(&self, link: &Link, calls: &Calls) {
        let shared = &self.shared;
        loop {
            let report = shared.recoverer.core.lock().report(boot_ns(), shared.session_id());
            let Some(report) = report else { break };
            calls.push(tell(link.service.clone(), report));
        }
        shared.recoverer.carry_out(shared.weak());
    }

    fn on_answer(&mut self, answer: Answer, exchange: &mut Exchange, link: &mut Link) -> Result<(), Departure> {
        let shared = &self.shared;
        match answer {
            Answer::Submitted { batch, requests, result } => {
                let result = result.map_err(Departure::elsewhere)?;
                let asked = (batch, requests.len());
                let outcomes =
                    exchange.on_submitted(asked, result, boot_ns(), &mut shared.outbox.lock(), &mut self.route)?;
                shared.on_outcomes(requests, outcomes);
            }
            Answer::Renewed(result) => match result.map_err(Departure::elsewhere)? {
                Ok(renewed) => {
                    exchange.on_kept_alive(&mut self.route);
                    if shared.on_renewed(renewed) {
                        exchange.on_revoke_news(boot_ns());
                    }
                }
                Err(refusal) => exchange.on_keep_alive_refused(refusal, boot_ns())?,
            },
            Answer::Reported { report, result } => {
                let result = result.map_err(Departure::elsewhere)?;
                shared.recoverer.core.lock().on_answer(&report, result.as_ref().ok().copied());
                shared.recoverer.carry_out(shared.weak());
                if let Err(refusal) = result {
                    exchange.on_report_refused(refusal, boot_ns())?;
                }
            }
            Answer::Callback(result) => {
                link.callback = result.map_err(|error| Departure::elsewhere(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn until_next(&self, exchange: &Exchange) -> Duration {
        let now_ns = boot_ns();
        let next_ns = exchange.next_ns(now_ns, &self.shared.session.lock());
        let report_ns = self.shared.recoverer.core.lock().next_ns();
        let next_ns = report_ns.map_or(next_ns, |report_ns| report_ns.min(next_ns));
        // At least a millisecond, so that a moment that has passed between two looks at the clock does not spin.
        Duration::from_nanos(next_ns.saturating_sub(now_ns)).max(Duration::from_millis(1))
    }
}

fn submit(service: LockServiceClient, session: SessionId, batch: Batch) -> BoxFuture<'static, Answer> {
    let submission = Submission { session, floor: batch.floor, requests: batch.requests.clone() };
    let call = async move {
        let result = service.submit(context(), submission).await;
        let result = result.map_err(|error| format!("the connection broke: {error}"));
        Answer::Submitted { batch: batch.id, requests: batch.requests, result }
    };
    call.boxed()
}

fn tell(service: LockServiceClient, report: RecoveryReport) -> BoxFuture<'static, Answer> {
    let call = async move {
        let result = tokio::time::timeout(SUBMIT_TIMEOUT, service.report_recovery(context(), report)).await;
        Answer::Reported { report, result: called(result, "a report on a recovery") }
    };
    call.boxed()
}

fn renew(service: LockServiceClient, keep_alive: KeepAlive) -> BoxFuture<'static, Answer> {
    let call = async move {
        let result = service.keep_alive(context(), keep_alive).await;
        Answer::Renewed(result.map_err(|error| format!("the connection broke: {error}")))
    };
    call.boxed()
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
