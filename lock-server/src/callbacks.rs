//! The clients' callback connections: on them the client serves, and this side calls.
//!
//! Why it is right: nothing here decides anything, and nothing waits for a client. A call has a timeout of its own; who made it
//! looks at its [`Flight`] later. Whoever calls keeps at most one call per client under way, so a client that does not answer costs
//! one pending call and no thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use lock_protocol::{LockCallbackClient, Notice, SessionId};
use parking_lot::Mutex;
use tarpc::context::Context;
use tokio::runtime::Handle;

/// A call to a client takes at most so long. Taking a notice in is quick; acting on it is no part of the call.
pub(crate) const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// tarpc's own deadline, which is not to be met: it is logged as an error.
const FAR: Duration = Duration::from_secs(3600);

/// All callback connections of this member, at most one for a session.
#[derive(Debug)]
pub(crate) struct Callbacks {
    connections: Mutex<Connections>,
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Connections {
    of: BTreeMap<SessionId, (u64, LockCallbackClient)>,
    last: u64,
}

/// A call under way, or its end.
#[derive(Clone, Debug)]
pub(crate) struct Flight(Arc<AtomicU8>);

/// How a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not answered yet.
    UnderWay,
    /// The client has taken the notices in.
    Acknowledged,
    /// It did not answer in time, or the connection broke.
    Failed,
}

impl Callbacks {
    pub(crate) fn new(runtime: Handle) -> Self {
        Callbacks { connections: Mutex::default(), runtime }
    }

    /// A session's newest connection; an older one of the session is closed. The number is for [`Callbacks::leave`].
    pub(crate) fn enter(&self, session: SessionId, client: LockCallbackClient) -> u64 {
        let mut connections = self.connections.lock();
        connections.last += 1;
        let number = connections.last;
        connections.of.insert(session, (number, client));
        number
    }

    /// The connection ended. A newer one of the session stays.
    pub(crate) fn leave(&self, session: SessionId, number: u64) {
        let mut connections = self.connections.lock();
        if connections.of.get(&session).is_some_and(|(newest, _)| *newest == number) {
            connections.of.remove(&session);
        }
    }

    /// Closes all connections, so that the clients look for the primary.
    pub(crate) fn close_all(&self) {
        self.connections.lock().of.clear();
    }

    /// Calls the client; `ended` is called at the end of the call. None where the session has no connection.
    pub(crate) fn notify(
        &self,
        session: SessionId,
        notices: Vec<Notice>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Option<Flight> {
        let client = self.connections.lock().of.get(&session).map(|(_, client)| client.clone())?;
        let flight = Flight(Arc::new(AtomicU8::new(0)));
        let landing = flight.clone();
        drop(self.runtime.spawn(async move {
            let call = tokio::time::timeout(NOTIFY_TIMEOUT, client.notify(context(), notices));
            let acknowledged = matches!(call.await, Ok(Ok(())));
            landing.0.store(if acknowledged { 1 } else { 2 }, Ordering::Release);
            ended();
        }));
        Some(flight)
    }
}

impl Flight {
    /// How the call stands.
    pub(crate) fn progress(&self) -> Progress {
        match self.0.load(Ordering::Acquire) {
            0 => Progress::UnderWay,
            1 => Progress::Acknowledged,
            _ => Progress::Failed,
        }
    }
}

fn context() -> Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + FAR;
    context
}
