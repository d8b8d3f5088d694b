//! Opening a session.
//!
//! What each answer means is [`Opening`]'s to say; here servers are dialled and time is limited.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use lock_protocol::{
    ClientIdentity, DeadSession, GroupName, LEASE_MAX, LEASE_MIN, LOCK_DELAY_MAX, LockServiceClient, NameError, Open,
    OpenWith, Opened, RecoveryGroup, Refusal, SessionOptions,
};
use tarpc::client::RpcError;
use tokio::sync::oneshot;
use wire::{Endpoint, Tls};

use crate::clerk::{Clerk, called};
use crate::client::{Background, LockClient};
use crate::clock::Clocks;
use crate::dial::{Ends, context, dial_service};
use crate::error::{ConnectError, RecoveryError, Tried};
use crate::fate::CacheLimits;
use crate::opening::{OpenStep, Opening};
use crate::recoverer::{RECOVERY_LIMIT, Recoverer, RecoveryHook};
use crate::releaser::Releaser;
use crate::route::{DIAL_TIMEOUT_MAX, Route};
use crate::session::{Session, nanoseconds};
use crate::shared::Shared;

/// An open is answered after one commit; a server that takes longer is not the one to wait for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A name or host for people is cut to this, as the protocol asks.
const IDENTITY_MAX_BYTES: usize = 255;

/// The group, or why there can be none of that name.
type Recovery = Result<RecoveryHook, NameError>;

/// How a client is to be; see [`LockClient::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    name: String,
    lease: Duration,
    lock_delay: Duration,
    recovery: Option<Recovery>,
    recovery_limit: Duration,
    connect_timeout: Duration,
    flush_limit: Duration,
    limits: CacheLimits,
    tls: Option<Tls>,
}

impl Builder {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Builder {
            endpoints,
            name: std::env::args().next().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned(),
            lease: Duration::from_secs(15),
            lock_delay: Duration::ZERO,
            recovery: None,
            recovery_limit: RECOVERY_LIMIT,
            connect_timeout: Duration::from_secs(10),
            flush_limit: Duration::from_secs(10),
            limits: CacheLimits { locks: 100_000, idle_ns: nanoseconds(Duration::from_secs(3600)) },
            tls: None,
        }
    }

    /// What people see as the holder ("indexer-7"); at first the program's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The lease that is wished for: how long this client's locks stay its own when it is gone, and for how long it may
    /// be cut off without losing them. At first 15 s; brought within the protocol's limits.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(LEASE_MIN, LEASE_MAX);
        self
    }

    /// For how long this client's exclusive locks are withheld from others after its session has expired or was abandoned, not after
    /// it was closed or gave them back; at first not at all, at most [`LOCK_DELAY_MAX`]. For resources that cannot check fencing
    /// tokens: what this client had sent to them then has time to arrive.
    #[must_use]
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay.min(LOCK_DELAY_MAX);
        self
    }

    /// Makes this client one of a group whose members recover each other. If its session expires or is abandoned, its exclusive locks pass
    /// on only when the hook of a live one has recovered what it left (from its log, say); and its own hook is called for the dead of the
    /// group, on a thread of its own, maybe several at a time.
    ///
    /// The hook is the only one that has the right to, as long as the server says so; but it may learn late that another was asked instead.
    /// So it first makes the store refuse the dead session, under [`DeadSession::token`], and the store refuses what comes with a
    /// smaller one from then on. Where it fails another is asked. It is dropped when it has lost the right, and after
    /// [`Builder::recovery_limit`]. It takes no locks of the dead session: those wait for it.
    #[must_use]
    pub fn recovery_group<F, Fut>(self, name: impl AsRef<str>, hook: F) -> Self
    where
        F: Fn(DeadSession) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), RecoveryError>> + Send + 'static,
    {
        self.with_recovery(name.as_ref(), true, hook)
    }

    /// As [`Builder::recovery_group`], but this client leaves nothing itself that would have to be recovered.
    #[must_use]
    pub fn recovery_helper<F, Fut>(self, name: impl AsRef<str>, hook: F) -> Self
    where
        F: Fn(DeadSession) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), RecoveryError>> + Send + 'static,
    {
        self.with_recovery(name.as_ref(), false, hook)
    }

    fn with_recovery<F, Fut>(mut self, name: &str, required: bool, hook: F) -> Self
    where
        F: Fn(DeadSession) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), RecoveryError>> + Send + 'static,
    {
        let named = |name| RecoveryHook {
            group: RecoveryGroup { name, required },
            hook: Arc::new(move |dead| hook(dead).boxed()),
        };
        self.recovery = Some(GroupName::new(name).map(named));
        self
    }

    /// How long one call of the recovery hook may take; then it is dropped, and another of the group is asked. At first 10 min.
    #[must_use]
    pub fn recovery_limit(mut self, limit: Duration) -> Self {
        self.recovery_limit = limit;
        self
    }

    /// How long [`Builder::connect`] looks for a primary; at first 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one call of the revoke hook may take; then it is dropped and called again. At first 10 s.
    #[must_use]
    pub fn flush_limit(mut self, limit: Duration) -> Self {
        self.flush_limit = limit;
        self
    }

    /// How many locks are cached at most (at first 100,000), and for how long one that nobody uses (at first 1 h).
    #[must_use]
    pub fn cache(mut self, locks: usize, idle: Duration) -> Self {
        self.limits = CacheLimits { locks: locks.max(1), idle_ns: nanoseconds(idle) };
        self
    }

    /// Speaks TLS only, shows this certificate, and takes only members of its cluster for servers; without it, nothing is encrypted.
    /// Certificates that are renewed in their files are taken up with the next connection.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Opens a session. Works under any executor: the client's work is done by threads of its own.
    ///
    /// # Errors
    /// See [`ConnectError`]; it names each server that was tried, and its answer.
    pub async fn connect(self) -> Result<LockClient, ConnectError> {
        let mut endpoints = Vec::new();
        for endpoint in &self.endpoints {
            endpoints.push(endpoint.trim().parse::<Endpoint>()?);
        }
        if let Some(Err(error)) = &self.recovery {
            return Err(ConnectError::Group(error.clone()));
        }
        let route = Route::new(endpoints).ok_or(ConnectError::NoEndpoint)?;
        let runtime = Arc::new(Background::new()?);
        let (answer, connected) = oneshot::channel();
        let thread = Arc::clone(&runtime);
        std::thread::Builder::new()
            .name("plumeria-clerk".to_owned())
            .spawn(move || thread.runtime().block_on(self.run(route, Arc::clone(&thread), answer)))?;
        connected.await.unwrap_or(Err(ConnectError::ThreadEnded))
    }

    /// The clerk's thread: opens, answers, then serves the session until it is over.
    async fn run(
        self,
        mut route: Route,
        runtime: Arc<Background>,
        answer: oneshot::Sender<Result<LockClient, ConnectError>>,
    ) {
        let opening = Opening::new(self.open_message());
        let search = Search {
            opening,
            options: self.options(),
            limit: self.connect_timeout,
            started: Instant::now(),
            tls: self.tls.clone(),
        };
        let opened = match search.run(&mut route).await {
            Ok(opened) => opened,
            // Whoever gave up waiting for the answer does not need it.
            Err(error) => return drop(answer.send(Err(error))),
        };
        let (releaser, work) = Releaser::new(self.flush_limit);
        let recoverer = Recoverer::new(self.recovery_hook(), self.recovery_limit);
        let handle = tokio::runtime::Handle::current();
        let shared = Shared::new(opened.session, releaser, recoverer, self.limits, handle);
        if let Err(error) = work.start(shared.weak().clone()) {
            return drop(answer.send(Err(error.into())));
        }
        // If the answer comes back, its drop ends the session.
        drop(answer.send(Ok(LockClient::new(Arc::clone(&shared), runtime, self.tls.clone()))));
        let clerk = Clerk { shared, route, nonce: opened.nonce, tls: self.tls };
        clerk.run((opened.endpoint, opened.service, opened.ends)).await;
    }

    fn options(&self) -> SessionOptions {
        let lock_delay_ms = u64::try_from(self.lock_delay.as_millis()).unwrap_or(u64::MAX);
        SessionOptions { lock_delay_ms, recovery: self.recovery_hook().map(|hook| hook.group) }
    }

    fn recovery_hook(&self) -> Option<RecoveryHook> {
        self.recovery.as_ref().and_then(|recovery| recovery.as_ref().ok()).cloned()
    }

    fn open_message(&self) -> Open {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Open {
            nonce: rand::random(),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            identity: ClientIdentity { client: cut(&self.name), host: cut(&host), pid: std::process::id() },
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(IDENTITY_MAX_BYTES)].to_owned()
}

struct Search {
    opening: Opening,
    options: SessionOptions,
    limit: Duration,
    started: Instant,
    tls: Option<Tls>,
}

struct OpenedSession {
    session: Session,
    nonce: u128,
    endpoint: Endpoint,
    service: LockServiceClient,
    ends: Ends,
}

impl Search {
    async fn run(mut self, route: &mut Route) -> Result<OpenedSession, ConnectError> {
        loop {
            let (endpoint, pause) = route.next_server();
            let left = self.limit.saturating_sub(self.started.elapsed());
            if left <= pause {
                let waited = self.started.elapsed();
                return Err(ConnectError::NoPrimary { waited, tried: route.tried().to_vec() });
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            let (service, ends) = match dial_service(&endpoint, self.tls.as_ref(), DIAL_TIMEOUT_MAX).await {
                Ok(dialled) => dialled,
                Err(error) => {
                    route.on_failure(&endpoint, error.to_string(), None);
                    continue;
                }
            };
            let call = open(&service, self.opening.transmit(Clocks::now(), rand::random()), &self.options);
            let step = match called(tokio::time::timeout(OPEN_TIMEOUT.min(left), call).await, "an open") {
                Ok(answer) => self.opening.on_answer(answer, Clocks::now()),
                Err(answer) => OpenStep::Again { answer, hint: None },
            };
            match step {
                OpenStep::Opened(session, nonce) => {
                    route.on_success();
                    return Ok(OpenedSession { session, nonce, endpoint, service, ends });
                }
                OpenStep::Refused(answer) => return Err(ConnectError::Refused(Tried { endpoint, answer })),
                OpenStep::Again { answer, hint } => route.on_failure(&endpoint, answer, hint.as_deref()),
                OpenStep::Anew { answer } => route.on_stale(&endpoint, answer),
            }
        }
    }
}

/// Without options it is the message that every release knows.
async fn open(
    service: &LockServiceClient,
    open: Open,
    options: &SessionOptions,
) -> Result<Result<Opened, Refusal>, RpcError> {
    if *options == SessionOptions::default() {
        return service.open(context(), open).await;
    }
    service.open_with(context(), OpenWith { open, options: options.clone() }).await
}
