//! A session without a clerk: sends what it is told, and again what it is told again; never calls back.
//!
//! Why it is needed: a clerk repairs so well what is lost that a test cannot lose it. This one has no callback connection, so
//! no revoke reaches it, and it can send an old request to a new primary.

use std::time::Duration;

use lock_client::{FencingToken, LockName, Mode, SessionId};
use lock_protocol::{
    ClientIdentity, Command, KeepAlive, LockServiceClient, Notice, Open, Outcome, Refusal, Request, RequestNumber,
    SUBMISSION_MAX_REQUESTS, Submission,
};
use tokio::time::{Instant, sleep, timeout};
use wire::{Hello, Role};

use super::cluster::{Cluster, DEADLINE, POLL};
use super::failure::{Checked, Failure, disturbed, wrong};

/// One call, and one attempt to connect.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(60);

/// A session.
#[derive(Debug)]
pub(super) struct RawSession {
    endpoints: Vec<String>,
    session: SessionId,
    stamp: u64,
}

impl RawSession {
    pub(super) async fn open(cluster: &Cluster) -> Checked<RawSession> {
        let identity = ClientIdentity { client: "raw".into(), host: "here".into(), pid: std::process::id() };
        let open = Open { nonce: rand::random(), lease_ms: LEASE.as_millis() as u64, identity };
        let endpoints = cluster.endpoints();
        let call = |service: LockServiceClient| {
            let open = open.clone();
            async move { service.open(tarpc::context::current(), open).await }
        };
        let opened = ask(&endpoints, call).await?;
        Ok(RawSession { endpoints, session: opened.session, stamp: 0 })
    }

    /// Sends the request under this number to whoever is primary, until it is answered.
    pub(super) async fn request(&self, number: u64, command: Command) -> Checked<Outcome> {
        let request = Request { number: RequestNumber(number), command };
        let submission = Submission { session: self.session, floor: RequestNumber(1), requests: vec![request] };
        let call = |service: LockServiceClient| {
            let submission = submission.clone();
            async move { service.submit(tarpc::context::current(), submission).await }
        };
        let outcomes = ask(&self.endpoints, call).await?;
        match outcomes.into_iter().next() {
            Some(outcome) => Ok(outcome),
            None => wrong("a request was answered with no outcome"),
        }
    }

    /// Takes so many locks with names of the greatest length, many at a time, and keeps them.
    pub(super) async fn take_long_names(&self, count: u64) -> Checked<()> {
        for first in (1..=count).step_by(SUBMISSION_MAX_REQUESTS) {
            let last = count.min(first + SUBMISSION_MAX_REQUESTS as u64 - 1);
            let request = |number: u64| {
                let name = format!("{number:0width$}", width = LockName::MAX_BYTES);
                let name = LockName::new(name).map_err(|error| Failure::Wrong(error.to_string()))?;
                Ok(Request { number: RequestNumber(number), command: Command::Acquire { name, mode: Mode::Exclusive } })
            };
            let requests = (first..=last).map(request).collect::<Checked<Vec<Request>>>()?;
            let submission = Submission { session: self.session, floor: RequestNumber(first), requests };
            let call = |service: LockServiceClient| {
                let submission = submission.clone();
                async move { service.submit(tarpc::context::current(), submission).await }
            };
            let outcomes = ask(&self.endpoints, call).await?;
            if let Some(other) = outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Granted { .. })) {
                return wrong(format!("a lock that nobody has should be granted: {other:?}"));
            }
        }
        Ok(())
    }

    /// Acquires a lock that nobody has.
    pub(super) async fn acquire(&self, number: u64, name: &LockName) -> Checked<FencingToken> {
        let command = Command::Acquire { name: name.clone(), mode: Mode::Exclusive };
        match self.request(number, command).await? {
            Outcome::Granted { token, .. } => Ok(token),
            Outcome::SessionGone => disturbed("the session ended"),
            other => wrong(format!("{name} should be granted to session {}: {other:?}", self.session)),
        }
    }

    /// Renews the lease until the primary's answer says that this tenure stands in somebody's way.
    pub(super) async fn await_revoke(&mut self, name: &LockName, token: FencingToken) -> Checked<()> {
        let wanted = Notice::Revoke { name: name.clone(), token, target: None };
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.stamp += 1;
            let keep_alive = KeepAlive { session: self.session, stamp: self.stamp, floor: RequestNumber(1) };
            let call = |service: LockServiceClient| async move {
                service.keep_alive(tarpc::context::current(), keep_alive).await
            };
            let renewed = ask(&self.endpoints, call).await?;
            if renewed.notices.contains(&wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return wrong(format!("the holder of {name} is not asked for it; it hears {:?}", renewed.notices));
            }
        }
    }

    pub(super) async fn close(self) -> Checked<()> {
        let session = self.session;
        let call = |service: LockServiceClient| async move { service.close(tarpc::context::current(), session).await };
        ask(&self.endpoints, call).await
    }
}

/// Asks one member after the other until one answers as primary.
async fn ask<T, F, A>(endpoints: &[String], call: F) -> Checked<T>
where
    F: Fn(LockServiceClient) -> A,
    A: Future<Output = Result<Result<T, Refusal>, tarpc::client::RpcError>>,
{
    let deadline = Instant::now() + DEADLINE;
    let mut last = String::new();
    for endpoint in endpoints.iter().cycle() {
        if Instant::now() > deadline {
            return wrong(format!("no primary answers; the last word was: {last}"));
        }
        match timeout(CALL_TIMEOUT, once(endpoint, &call)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Failure::Disturbed(text))) => last = text,
            Ok(Err(failure)) => return Err(failure),
            Err(_) => last = format!("{endpoint} did not answer"),
        }
        sleep(POLL).await;
    }
    wrong("there is no endpoint")
}

async fn once<T, F, A>(endpoint: &str, call: &F) -> Checked<T>
where
    F: Fn(LockServiceClient) -> A,
    A: Future<Output = Result<Result<T, Refusal>, tarpc::client::RpcError>>,
{
    let again = |text: String| Failure::Disturbed(format!("{endpoint}: {text}"));
    let endpoint = endpoint.parse().map_err(|error: wire::EndpointError| Failure::Wrong(error.to_string()))?;
    let hello = Hello { role: Role::Client, cluster: 0, sender: 0, secret: 0 };
    let (connection, _, _) =
        wire::dial(&endpoint, &hello, CALL_TIMEOUT).await.map_err(|error| again(error.to_string()))?;
    let service = LockServiceClient::new(tarpc::client::Config::default(), wire::transport(connection)).spawn();
    match call(service).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(refusal @ (Refusal::SessionGone | Refusal::Invalid(_)))) => wrong(refusal.to_string()),
        Ok(Err(refusal)) => Err(again(refusal.to_string())),
        Err(error) => Err(again(error.to_string())),
    }
}
