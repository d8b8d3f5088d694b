//! The clients' callback connections: on them the client serves, and this side calls.
//!
//! Why it is right: nothing here decides anything, and nothing waits for a client. A call has a timeout of its own; who made it
//! is told of its end. Whoever calls keeps at most one call per client under way, so a client that does not answer costs
//! one pending call and no thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_protocol::{LockCallbackClient, Notice, SessionId};
use parking_lot::Mutex;
use tarpc::context::Context;
use tokio::runtime::Handle;

use crate::metrics::{Callback, Counters};
use crate::primary::CALL_TIMEOUT;

/// tarpc's own deadline, which is not to be met: it is logged as an error.
const FAR: Duration = Duration::from_secs(3600);

/// All callback connections of this member, at most one for a session.
#[derive(Debug)]
pub(crate) struct Callbacks {
    connections: Mutex<Connections>,
    runtime: Handle,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Connections {
    of: BTreeMap<SessionId, (u64, LockCallbackClient)>,
    last: u64,
}

impl Callbacks {
    pub(crate) fn new(runtime: Handle, counters: Arc<Counters>) -> Self {
        Callbacks { connections: Mutex::default(), runtime, counters }
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

    /// Calls the client; `ended` is told at the end of the call whether the client has taken the notices in. False where the
    /// session has no connection: then nothing happens.
    pub(crate) fn notify(
        &self,
        session: SessionId,
        notices: Vec<Notice>,
        ended: impl FnOnce(bool) + Send + 'static,
    ) -> bool {
        let client = self.connections.lock().of.get(&session).map(|(_, client)| client.clone());
        let Some(client) = client else {
            self.counters.callback(Callback::NotConnected);
            return false;
        };
        let counters = Arc::clone(&self.counters);
        drop(self.runtime.spawn(async move {
            let call = tokio::time::timeout(CALL_TIMEOUT, client.notify(context(), notices));
            let acknowledged = matches!(call.await, Ok(Ok(())));
            counters.callback(if acknowledged { Callback::Acknowledged } else { Callback::Failed });
            ended(acknowledged);
        }));
        true
    }
}

fn context() -> Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + FAR;
    context
}
