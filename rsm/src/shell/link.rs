//! A link: this member's messages to one other member.
//!
//! Why it is right: the protocol lets every message be lost, doubled and overtaken, so a link may drop what it cannot send,
//! and it never holds anybody up. It says `Unreachable` only where the kernel of a live host said that the process is gone
//! (the connection broke, or nobody listens); a member that is merely slow is never called gone.
//!
//! Each member dials each other one; what flows back over a link is only tarpc's answers. All that waits goes as one
//! call, a message that waits alone at once; a few calls may be under way, so that a round trip does not bound the rate.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tarpc::client::{self, RpcError};
use tarpc::context;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::{Endpoint, Expected, Hello, Role, Tls};

use super::break_point::{BreakPoint, BreakPoints};
use super::inbox::{Inbox, Request, size_bytes};
use super::peers::{Peer, Peers};
use super::restoration::{CopyAnswer, CopyRequest};
use crate::limits::MESSAGE_MAX_BYTES;
use crate::{ClusterId, Envelope, Identity, Incarnation, MemberId, Message, View};

/// Messages that wait for a link; more are dropped. The core's window keeps them far below while the link works.
const QUEUE_MAX_MESSAGES: usize = 1024;
/// Calls under way on one link: more than a round trip's worth while each carries all that waited.
const CALLS_MAX: usize = 8;
/// A call unanswered for this long ends the connection: the other side only queues what it gets.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Connecting and the hello.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between dials, doubling.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A connection that lasted for this long is dialled again at once; one that is closed sooner only after a pause, lest a
/// member that always hangs up be dialled in a circle.
const STABLE: Duration = Duration::from_millis(200);
/// Between two reports that nobody listens there.
const REFUSED_REPORT_MIN: Duration = Duration::from_millis(100);
/// tarpc's own deadline; ours is [`CALL_TIMEOUT`].
const FAR_DEADLINE: Duration = Duration::from_secs(3600);

/// What one member asks of another.
#[tarpc::service]
pub trait MemberService {
    /// Messages, oldest first. Answered when they are queued (or dropped), not when they are acted on.
    async fn deliver(envelopes: Vec<Envelope>);
    /// A copy of the log and state, for the member whose hello it was, piece by piece.
    async fn copy(request: CopyRequest) -> CopyAnswer;
}

/// What the links and the replica thread share.
pub(super) struct LinkContext {
    /// Another, once a damaged store has been given up for an empty one.
    pub(super) identity: Mutex<Identity>,
    /// As last known; 0 before the founding.
    pub(super) cluster: Mutex<ClusterId>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) break_points: Arc<BreakPoints>,
    pub(super) peers: Peers,
    pub(super) tls: Option<Tls>,
}

impl LinkContext {
    pub(super) fn identity(&self) -> Identity {
        *self.identity.lock()
    }
}

/// Runs a link that is new.
pub(super) type Spawn = Box<dyn Fn(Link) + Send>;

/// The sending ends of all links.
pub(super) struct Links {
    context: Arc<LinkContext>,
    queues: Vec<(MemberId, mpsc::Sender<Envelope>)>,
    spawn: Spawn,
    /// The last view whose members were looked at.
    followed: u64,
}

/// One link, to be run as a task.
pub(super) struct Link {
    context: Arc<LinkContext>,
    to: MemberId,
    peer: Arc<Peer>,
    /// How often it was dialled, with or without success.
    attempt: usize,
    /// Addresses that were refused one after the other.
    refused: usize,
    queue: mpsc::Receiver<Envelope>,
    /// Taken from the queue, for the next call.
    left_over: Option<Envelope>,
    refused_reported: Option<Instant>,
    last_problem: String,
}

/// How a connection came to its end.
enum Broken {
    /// The other side closed it, or its kernel did.
    ByPeer,
    /// We did.
    ByUs(&'static str),
    /// The queue is closed: this member ends.
    Ended,
}

impl Links {
    pub(super) fn new(context: Arc<LinkContext>, spawn: Spawn) -> Self {
        Links { context, queues: Vec::new(), spawn, followed: 0 }
    }

    /// Another member may listen there: one that is new gets a link.
    pub(super) fn add(&mut self, to: MemberId, endpoint: Endpoint) {
        let Some(peer) = self.context.peers.add(to, endpoint) else { return };
        let (sender, queue) = mpsc::channel(QUEUE_MAX_MESSAGES);
        self.queues.push((to, sender));
        (self.spawn)(Link {
            context: Arc::clone(&self.context),
            to,
            peer,
            attempt: 0,
            refused: 0,
            queue,
            left_over: None,
            refused_reported: None,
            last_problem: String::new(),
        });
    }

    /// The members that a view lists are to be reached, too.
    pub(super) fn follow(&mut self, view: &View) {
        if view.number <= self.followed {
            return;
        }
        self.followed = view.number;
        let me = self.context.identity().member;
        for slot in view.slots.iter().filter(|slot| slot.member != me) {
            match slot.address.parse() {
                Ok(endpoint) => self.add(slot.member, endpoint),
                Err(problem) => tracing::warn!(member = %slot.member, address = slot.address, %problem, "no address"),
            }
        }
    }

    /// Sends, or drops.
    pub(super) fn send(&self, to: MemberId, message: Message) {
        if self.context.break_points.is_armed(BreakPoint::Partition) {
            return;
        }
        let Some((_, queue)) = self.queues.iter().find(|(member, _)| *member == to) else {
            tracing::debug!(%to, "no link to this member");
            return;
        };
        let Identity { member, incarnation } = self.context.identity();
        let cluster = *self.context.cluster.lock();
        drop(queue.try_send(Envelope { cluster, from: member, incarnation, message }));
    }

    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        *self.context.cluster.lock() = cluster;
    }
}

impl Link {
    /// What waits, for tests without a connection.
    #[cfg(test)]
    pub(super) fn waiting(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.queue.try_recv().ok()).map(|envelope| envelope.message).collect()
    }

    /// Dials, sends, dials again, until the member ends.
    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.dial().await {
                Ok((connection, incarnation)) => {
                    let since = Instant::now();
                    match self.serve(connection, incarnation).await {
                        Broken::Ended => return,
                        Broken::ByPeer => {
                            tracing::info!(to = %self.to, "the connection broke");
                            self.unreachable();
                        }
                        Broken::ByUs(why) => tracing::info!(to = %self.to, why, "connection closed"),
                    }
                    if since.elapsed() >= STABLE {
                        backoff = BACKOFF_MIN;
                        continue;
                    }
                }
                Err((endpoint, problem)) => {
                    self.attempt += 1;
                    self.note(&endpoint, problem);
                }
            }
            self.drop_waiting();
            if self.queue.is_closed() {
                return;
            }
            let woken = tokio::time::timeout(backoff, self.peer.wake.notified()).await.is_ok();
            backoff = if woken { BACKOFF_MIN } else { BACKOFF_MAX.min(backoff * 2) };
        }
    }

    async fn dial(&mut self) -> Result<(wire::Connection, Incarnation), (Endpoint, String)> {
        let (endpoint, endpoints) = self.peer.endpoint(self.attempt);
        let Identity { member, incarnation } = self.context.identity();
        let cluster = self.context.cluster.lock().0;
        let hello = Hello { role: Role::Peer, cluster, sender: member.0, secret: incarnation.0 };
        let tls = self.context.tls.as_ref().map(|tls| (tls, Expected::Member(self.to.0)));
        match wire::dial_with(tls, &endpoint, &hello, DIAL_TIMEOUT).await {
            Ok((_, _, found)) if found != self.to.0 => {
                let problem = format!("member {found} answers there, not {}: the addresses are mixed up", self.to);
                Err((endpoint, problem))
            }
            Ok((connection, _, _)) => {
                tracing::info!(to = %self.to, %endpoint, "connected");
                self.refused = 0;
                self.last_problem.clear();
                Ok((connection, incarnation))
            }
            Err(error) => {
                self.refused = if error.is_connection_refused() { self.refused + 1 } else { 0 };
                // One of several addresses may be out of date: only when nobody listens at any is the process gone.
                if self.refused >= endpoints {
                    self.refused();
                }
                Err((endpoint, error.to_string()))
            }
        }
    }

    /// Carries messages over the connection until it breaks. They are all of the incarnation that it was opened for.
    async fn serve(&mut self, connection: wire::Connection, incarnation: Incarnation) -> Broken {
        let new = MemberServiceClient::new(client::Config::default(), wire::transport(connection));
        let service = new.client;
        let mut dispatch = pin!(new.dispatch.fuse());
        let mut calls = FuturesUnordered::new();
        loop {
            // In this order, a call is handed to the dispatch and written out by it in one round.
            tokio::select! {
                biased;
                Some(result) = calls.next(), if !calls.is_empty() => match result {
                    Ok(()) => {}
                    Err(broken) => return broken,
                },
                _ = &mut dispatch => return Broken::ByPeer,
                envelopes = gather(&mut self.queue, &mut self.left_over), if calls.len() < CALLS_MAX => {
                    if envelopes.is_empty() {
                        return Broken::Ended;
                    }
                    if envelopes.iter().any(|envelope| envelope.incarnation != incarnation) {
                        return Broken::ByUs("this member begins anew, as another incarnation");
                    }
                    calls.push(deliver(service.clone(), envelopes));
                }
            }
        }
    }

    /// A message that waited while nobody was there is of no use any more.
    fn drop_waiting(&mut self) {
        self.left_over = None;
        while self.queue.try_recv().is_ok() {}
    }

    fn refused(&mut self) {
        let now = Instant::now();
        if self.refused_reported.is_none_or(|last| now - last >= REFUSED_REPORT_MIN) {
            self.refused_reported = Some(now);
            self.unreachable();
        }
    }

    fn unreachable(&self) {
        if !self.context.break_points.is_armed(BreakPoint::Partition) {
            self.context.inbox.request(Request::Unreachable(self.to, None));
        }
    }

    /// Says what stands in the way once, not at each dial.
    fn note(&mut self, endpoint: &Endpoint, problem: String) {
        if problem != self.last_problem {
            tracing::warn!(to = %self.to, %endpoint, problem, "cannot connect; will go on trying");
            self.last_problem = problem;
        }
    }
}

/// All that waits, up to the bound, as soon as anything does; empty once the queue is closed.
async fn gather(queue: &mut mpsc::Receiver<Envelope>, left_over: &mut Option<Envelope>) -> Vec<Envelope> {
    let first = match left_over.take() {
        Some(envelope) => envelope,
        None => match queue.recv().await {
            Some(envelope) => envelope,
            None => return Vec::new(),
        },
    };
    let mut bytes = size_bytes(&first.message);
    let mut envelopes = vec![first];
    while let Ok(envelope) = queue.try_recv() {
        bytes += size_bytes(&envelope.message);
        if bytes > MESSAGE_MAX_BYTES {
            *left_over = Some(envelope);
            break;
        }
        envelopes.push(envelope);
    }
    envelopes
}

async fn deliver(service: MemberServiceClient, envelopes: Vec<Envelope>) -> Result<(), Broken> {
    let mut context = context::current();
    context.deadline = std::time::Instant::now() + FAR_DEADLINE;
    match tokio::time::timeout(CALL_TIMEOUT, service.deliver(context, envelopes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(RpcError::Send(error))) => {
            tracing::warn!(%error, "messages dropped: they do not fit a frame");
            Ok(())
        }
        Ok(Err(RpcError::Server(_) | RpcError::DeadlineExceeded)) => Err(Broken::ByUs("it refused a call")),
        Ok(Err(RpcError::Shutdown | RpcError::Channel(_))) => Err(Broken::ByPeer),
        Err(_) => Err(Broken::ByUs("a call was not answered in time")),
    }
}
