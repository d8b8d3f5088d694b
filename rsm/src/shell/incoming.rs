//! The other members' messages to this one: one connection from each.
//!
//! Why it is right: what a connection brings is taken as said by the member and incarnation of its hello, and by nobody
//! else, and with TLS only if the certificate names that member; a connection that says otherwise, or sends what is no message,
//! is closed and counted. The core judges the incarnation by its view. Messages are queued in the order in which they came, and
//! the call is answered then, so a member that floods this one makes it drop messages, not grow.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use parking_lot::Mutex;
use tarpc::server::{BaseChannel, Channel, Config};
use tarpc::{ChannelError, context};
use tokio::sync::oneshot;
use wire::{Connection, Hello, Role, Welcome};

use super::break_point::BreakPoint;
use super::handle::Handle;
use super::inbox::Request;
use super::link::{LinkContext, MemberService, MemberServiceRequest};
use super::restoration::{CopyAnswer, CopyRequest, Lent};
use crate::{ClusterId, Envelope, Identity, Incarnation, MemberId};

/// Calls of one connection under way; more are refused. A link of ours has 8.
const CALLS_MAX: usize = 32;
/// Answers that wait to be written; above [`CALLS_MAX`], so that queueing one never waits.
const ANSWERS_MAX: usize = 2 * CALLS_MAX;

/// Why a connection of another member was not taken, or closed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not belong here; it was told so.
    #[error("{0}")]
    Refused(String),
    /// It sent what is no message, or messages in another's name.
    #[error("member {member} sent garbage: {problem}")]
    Garbage {
        /// Who it said it is.
        member: MemberId,
        /// What was wrong.
        problem: String,
    },
    /// The connection broke before it was welcomed.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// What is known of the other members' connections.
pub(super) struct Incoming {
    pub(super) context: Arc<LinkContext>,
    /// Number of the newest connection from each.
    newest: Mutex<BTreeMap<(MemberId, Incarnation), u64>>,
    broken: AtomicU64,
}

impl Incoming {
    pub(super) fn new(context: Arc<LinkContext>) -> Self {
        Incoming { context, newest: Mutex::default(), broken: AtomicU64::new(0) }
    }

    /// Connections closed because of what came over them.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether this store's process has a connection to this one.
    pub(super) fn is_connected(&self, store: Identity) -> bool {
        self.newest.lock().contains_key(&(store.member, store.incarnation))
    }

    /// One line for the other side, if it does not belong here.
    fn check(&self, connection: &Connection, hello: &Hello) -> Result<(), String> {
        let (own, cluster) = (self.context.identity().member, self.context.cluster.lock().0);
        if hello.role != Role::Peer {
            return Err(format!("member {own} takes members here, not clients"));
        }
        if hello.sender == own.0 {
            return Err(format!("this is member {own} itself: two members have the same id"));
        }
        if let Some(needed) = self.context.tls.as_ref().map(|tls| tls.member_name(hello.sender))
            && !connection.bears(&needed)
        {
            let names = connection.names_line();
            return Err(format!("a certificate for {names} does not speak for {needed}: only that member's own does"));
        }
        if !self.context.peers.knows(MemberId(hello.sender)) {
            return Err(format!(
                "member {own} knows no member {}: an operator has to add it first, or the configurations differ",
                hello.sender
            ));
        }
        if hello.cluster != 0 && cluster != 0 && hello.cluster != cluster {
            let (theirs, ours) = (ClusterId(hello.cluster), ClusterId(cluster));
            return Err(format!(
                "member {own} belongs to cluster {ours}, not {theirs}: compare addresses and data directories"
            ));
        }
        Ok(())
    }

    /// Serves the connection until it ends.
    pub(super) async fn serve(&self, mut connection: Connection, hello: &Hello) -> Result<(), PeerError> {
        if let Err(reason) = self.check(&connection, hello) {
            connection.welcome(&Welcome::Refused(reason.clone())).await?;
            return Err(PeerError::Refused(reason));
        }
        let from = Identity { member: MemberId(hello.sender), incarnation: Incarnation(hello.secret) };
        let cluster = self.context.cluster.lock().0;
        connection.welcome(&Welcome::Accepted { cluster, member: self.context.identity().member.0 }).await?;
        let number = self.enter(from);
        let result = self.deliver_all(connection, from).await;
        let was_newest = self.leave(from, number);
        match &result {
            Err(_) => drop(self.broken.fetch_add(1, Ordering::Relaxed)),
            // The connection broke. If the member has a newer one, that says nothing.
            Ok(()) if was_newest && !self.context.break_points.is_armed(BreakPoint::Partition) => {
                self.context.inbox.request(Request::Unreachable(from.member, Some(from.incarnation)));
            }
            Ok(()) => {}
        }
        result
    }

    /// Takes messages until the other side closes the connection, or breaks its rules.
    async fn deliver_all(&self, connection: Connection, from: Identity) -> Result<(), PeerError> {
        let garbage = |problem| Err(PeerError::Garbage { member: from.member, problem });
        let config = Config { pending_response_buffer: ANSWERS_MAX };
        let channel = BaseChannel::new(config, wire::transport(connection)).max_concurrent_requests(CALLS_MAX);
        let mut requests = Box::pin(channel.requests());
        let lent = Lent::default();
        while let Some(request) = requests.next().await {
            let request = match request {
                Ok(request) => request,
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return garbage(chain(&error)),
            };
            let own = |envelope: &Envelope| (envelope.from, envelope.incarnation) == (from.member, from.incarnation);
            if let MemberServiceRequest::Deliver { envelopes } = &request.get().message
                && !envelopes.iter().all(own)
            {
                return garbage("a message in another member's name".into());
            }
            request.execute(Delivery { context: &self.context, from, lent: &lent }.serve()).await;
        }
        Ok(())
    }

    fn enter(&self, from: Identity) -> u64 {
        self.context.peers.wake(from.member);
        let mut newest = self.newest.lock();
        let number = newest.entry((from.member, from.incarnation)).or_default();
        *number += 1;
        *number
    }

    /// The connection is no more. Returns whether it was the member's newest.
    fn leave(&self, from: Identity, number: u64) -> bool {
        let key = (from.member, from.incarnation);
        let mut newest = self.newest.lock();
        let was_newest = newest.get(&key) == Some(&number);
        if was_newest {
            newest.remove(&key);
        }
        was_newest
    }
}

impl Handle {
    /// Serves a connection of another member, whose hello was read and not yet answered, until it ends; to be spawned. Returns
    /// without an error when the other side closed it or this member ended.
    ///
    /// # Errors
    /// See [`PeerError`]; the connection is closed.
    pub async fn accept_peer(&self, connection: Connection, hello: Hello) -> Result<(), PeerError> {
        let mut ended = self.shared.ended.clone();
        tokio::select! {
            result = self.shared.incoming.serve(connection, &hello) => result,
            _ = ended.wait_for(Option::is_some) => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Delivery<'a> {
    context: &'a LinkContext,
    from: Identity,
    lent: &'a Lent,
}

impl MemberService for Delivery<'_> {
    async fn deliver(self, _: context::Context, envelopes: Vec<Envelope>) {
        if self.context.break_points.is_armed(BreakPoint::Partition) {
            return;
        }
        for Envelope { cluster, from, incarnation, message } in envelopes {
            self.context.inbox.message(cluster, Identity { member: from, incarnation }, message);
        }
    }

    async fn copy(self, _: context::Context, request: CopyRequest) -> CopyAnswer {
        let CopyRequest::Begin(memory) = request else {
            let lent = self.lent.lock();
            return lent.as_ref().map_or(CopyAnswer::Later, |copy| copy.piece(request));
        };
        let (reply, answer) = oneshot::channel();
        if !self.context.inbox.request(Request::Copy(self.from, memory, reply)) {
            return CopyAnswer::Later;
        }
        match answer.await {
            Ok(Ok(copy)) => self.lent.lock().insert(copy).begun(),
            Ok(Err(reason)) => CopyAnswer::Refused(reason),
            Err(_) => CopyAnswer::Later,
        }
    }
}

/// Whether the connection broke, as it does when the other process dies.
fn is_gone(error: &ChannelError<io::Error>) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
    let kind = match error {
        ChannelError::Read(error)
        | ChannelError::Ready(error)
        | ChannelError::Write(error)
        | ChannelError::Flush(error)
        | ChannelError::Close(error) => wire::innermost(error).kind(),
    };
    // The frame codec says so, with no kind of its own, where the stream ends within a frame: nothing that was sent is wrong.
    let is_cut = chain(error).ends_with("bytes remaining on stream");
    is_cut || matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut | UnexpectedEof)
}

/// The error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
