//! The listening socket: each connection's hello is read, and answered with a welcome or a sentence.
//!
//! Why it is right: a connection costs one slot of a bounded number from the moment it is accepted, and says what it is for within
//! [`wire::HELLO_TIMEOUT`], or twice that with TLS, of which nothing is read before the caller's certificate was taken. Members are never
//! turned away for a crowd of clients. A task of a connection that fails an assertion (tarpc's does at a deadline that lies years ahead)
//! takes only its own connection with it.

mod calls;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lock_protocol::{LockCallbackClient, Refusal, SessionId};
use parking_lot::Mutex;
use rsm::{Handle, PeerError};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;
use wire::{Connection, Hello, HelloError, Listener, Role, Tls, Welcome};

use crate::access::{Access, Caller};
use crate::application::{LockApplication, Outlet, Pulse};
use crate::backup::Backups;
use crate::callbacks::Callbacks;
use crate::edge::calls::{UNREAD_MAX, fault_of, serve_calls};
use crate::edge::service::Service;
use crate::metrics::{Connected, Counters, Peer, TurnedAway};
use crate::primary::{RetryerEvent, RevokerEvent};
use crate::tick::{KeepAlives, not_serving};

/// Clients' connections, requests and callbacks together. A client has two.
const CLIENT_CONNECTIONS_MAX: usize = 10_000;
/// Above that, for members, and for clients that are told that there is no room.
const CONNECTIONS_ABOVE: usize = 256;
/// File descriptors that are for no accepted connection: store, listener, runtime, links to the members.
const DESCRIPTORS_KEPT: usize = 64;
/// Queries of all connections in the log at a time.
pub(crate) const QUERIES_MAX: usize = 16;
/// Before the next try to accept, when the system has no room (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log about callers who were refused by TLS: strangers must not fill the disk. All are counted.
const REFUSAL_LINE_MIN: Duration = Duration::from_secs(1);

/// What all connections share.
pub(crate) struct Edge {
    pub(crate) handle: Handle,
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) backups: Arc<Backups>,
    pub(crate) keep_alives: Arc<KeepAlives>,
    pub(crate) counters: Arc<Counters>,
    /// Places for queries, [`QUERIES_MAX`]: a flood of them takes turns, and leaves the replica thread to the others.
    pub(crate) queries: Semaphore,
    pub(crate) pulse: watch::Receiver<Pulse>,
    pub(crate) revoker: Outlet<RevokerEvent>,
    pub(crate) retryer: Outlet<RetryerEvent>,
    /// The durability mode's name.
    pub(crate) mode: String,
    pub(crate) open: AtomicUsize,
    pub(crate) tls: Option<Tls>,
    pub(crate) access: Option<Access>,
    /// When a refusal by TLS was logged.
    pub(crate) last_refusal: Mutex<Option<Instant>>,
    /// See [`clients_max`].
    pub(crate) clients_max: usize,
}

/// A place among the connections.
struct Place(Arc<Edge>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Clients' connections for which there is room in a process with so many file descriptors (none: without a limit). A crowd of
/// clients must leave enough for the members' connections in both directions, and for telling clients that there is no room.
pub(crate) fn clients_max(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.and_then(|descriptors| usize::try_from(descriptors).ok()).unwrap_or(usize::MAX);
    let left = descriptors.saturating_sub(CONNECTIONS_ABOVE + DESCRIPTORS_KEPT);
    left.max(descriptors / 2).min(CLIENT_CONNECTIONS_MAX)
}

/// Accepts connections until the task is dropped.
pub(crate) async fn accept_all(listener: Listener, edge: Arc<Edge>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let count = edge.open.fetch_add(1, Ordering::Relaxed);
                let place = Place(Arc::clone(&edge));
                if count < edge.clients_max + CONNECTIONS_ABOVE {
                    drop(tokio::spawn(serve(connection, place)));
                } else {
                    edge.counters.turned_away(TurnedAway::Full);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve(connection: Connection, place: Place) {
    let edge = &place.0;
    let peer = connection.peer();
    let mut connection = match &edge.tls {
        None => connection,
        Some(tls) => match connection.secured(tls).await {
            Ok(connection) => connection,
            Err(problem) => return edge.refused_by_tls(&peer, &problem),
        },
    };
    let (reason, refused) = match connection.read_hello().await {
        Ok(hello) => match hello.role {
            Role::Peer => return edge.serve_member(connection, hello).await,
            Role::Client | Role::Callback => match edge.check(&hello).await {
                Ok(()) => {
                    // The pulse ends with the member.
                    let mut pulse = edge.pulse.clone();
                    return tokio::select! {
                        () = edge.serve_client(connection, &hello) => {}
                        _ = pulse.wait_for(|_| false) => {}
                    };
                }
                Err(turned_away) => turned_away,
            },
        },
        Err(HelloError::Version { theirs }) => {
            let (own, version) = (edge.handle.member(), wire::VERSION);
            let advice = "upgrade the older of the two";
            let sentence =
                format!("member {own} speaks version {version} of the protocol, the caller {theirs}: {advice}");
            (TurnedAway::Version, sentence)
        }
        Err(error @ HelloError::Malformed) => (TurnedAway::Malformed, error.to_string()),
        Err(error) => {
            match error {
                HelloError::Timeout => edge.counters.turned_away(TurnedAway::Silent),
                HelloError::SpeaksTls => edge.counters.turned_away(TurnedAway::Tls),
                HelloError::NotPlumeria => edge.counters.turned_away(TurnedAway::Malformed),
                _ => {}
            }
            return tracing::debug!(%peer, %error, "no hello");
        }
    };
    edge.counters.turned_away(reason);
    tracing::debug!(%peer, %refused, "a connection was refused");
    drop(connection.welcome(&Welcome::Refused(refused)).await);
}

impl Edge {
    /// The view that this member goes by; 0 before there is one.
    fn view(&self) -> u64 {
        self.handle.status().view.as_ref().map_or(0, |view| view.number)
    }

    /// This member's cluster; 0 while it knows none.
    fn cluster(&self) -> u128 {
        self.handle.status().view.as_ref().map_or(0, |view| view.cluster.0)
    }

    fn refused_by_tls(&self, peer: &str, problem: &str) {
        self.counters.turned_away(TurnedAway::Tls);
        let (mut last, now) = (self.last_refusal.lock(), Instant::now());
        if last.is_none_or(|last| now - last >= REFUSAL_LINE_MIN) {
            *last = Some(now);
            tracing::warn!(peer, problem, "a connection was refused by TLS");
        }
    }

    async fn serve_member(&self, connection: Connection, hello: Hello) {
        let _connected = Connected::new(&self.counters, Peer::Member);
        let peer = connection.peer();
        match self.handle.accept_peer(connection, hello).await {
            Ok(()) => {}
            Err(error @ PeerError::Io(_)) => tracing::debug!(%peer, %error, "a member's connection ended"),
            Err(error) => {
                self.counters.turned_away(TurnedAway::Member);
                tracing::warn!(%peer, %error, "a member's connection was closed");
            }
        }
    }

    /// One line for a client that does not belong here.
    async fn check(&self, hello: &Hello) -> Result<(), (TurnedAway, String)> {
        let (member, cluster) = (self.handle.member(), self.cluster());
        if self.open.load(Ordering::Relaxed) > self.clients_max {
            let full = format!("member {member} has {} connections of clients: try again later", self.clients_max);
            return Err((TurnedAway::Full, full));
        }
        if hello.cluster != 0 && cluster != 0 && hello.cluster != cluster {
            let (theirs, ours) = (rsm::ClusterId(hello.cluster), rsm::ClusterId(cluster));
            let other = format!("member {member} belongs to cluster {ours}, not {theirs}: correct the addresses");
            return Err((TurnedAway::OtherCluster, other));
        }
        if hello.role == Role::Callback {
            return self.check_callback(SessionId(hello.sender), hello.secret).await;
        }
        Ok(())
    }

    /// A callback connection shows whose it is by the nonce that opened its session. One for a session that is gone is taken, for
    /// its client hears of that by the answer to a keep-alive.
    async fn check_callback(&self, session: SessionId, nonce: u128) -> Result<(), (TurnedAway, String)> {
        if self.pulse.borrow().serving.is_none() {
            return Err((TurnedAway::NotServing, not_serving(&self.handle).to_string()));
        }
        let look = move |application: &mut LockApplication| application.machine().admits_callback(session, nonce);
        match self.handle.visit(look).await {
            Some(true) => Ok(()),
            Some(false) => {
                let other = format!("session {session} was opened by somebody else: open a new one");
                Err((TurnedAway::OtherSession, other))
            }
            None => Err((TurnedAway::Full, "too much waits at this member: try again".into())),
        }
    }

    async fn serve_client(self: &Arc<Self>, mut connection: Connection, hello: &Hello) {
        let welcome = Welcome::Accepted { cluster: self.cluster(), member: self.handle.member().0 };
        if connection.welcome(&welcome).await.is_err() {
            return;
        }
        let kind = if hello.role == Role::Callback { Peer::Callback } else { Peer::Client };
        let _connected = Connected::new(&self.counters, kind);
        match hello.role {
            Role::Callback => {
                let session = SessionId(hello.sender);
                let span = tracing::info_span!("callback", %session, peer = connection.peer());
                self.serve_callback(connection, session).instrument(span).await;
            }
            _ => {
                let peer = connection.peer();
                let caller = Caller::new(connection.names(), self.access.clone());
                let service = Service { edge: Arc::clone(self), caller };
                if let Err(error) = serve_calls(connection.with_patience(UNREAD_MAX), service).await
                    && let Some(reason) = fault_of(&error)
                {
                    self.counters.turned_away(reason);
                    tracing::info!(%peer, %error, "a client's connection was closed");
                }
            }
        }
    }

    /// The roles are swapped: this side calls. Whatever stands out for the session is sent at once.
    async fn serve_callback(&self, connection: Connection, session: SessionId) {
        let new = LockCallbackClient::new(tarpc::client::Config::default(), wire::transport(connection));
        let number = self.callbacks.enter(session, new.client);
        self.revoker.give(RevokerEvent::Connected(session));
        self.retryer.give(RetryerEvent::Connected(session));
        if let Err(error) = new.dispatch.await {
            tracing::info!(%error, "a callback connection broke");
        }
        self.callbacks.leave(session, number);
    }

    /// Whether a command is refused without being logged, and how.
    fn refusal_now(&self) -> Option<Refusal> {
        self.pulse.borrow().serving.is_none().then(|| not_serving(&self.handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_clients_leaves_descriptors_for_the_members_and_the_store() {
        assert_eq!(clients_max(None), CLIENT_CONNECTIONS_MAX);
        assert_eq!(clients_max(Some(u64::MAX)), CLIENT_CONNECTIONS_MAX);
        assert_eq!(clients_max(Some(1024)), 704);
        assert_eq!(clients_max(Some(256)), 128, "clients are served where there are few");
    }
}
