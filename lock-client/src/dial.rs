//! Connections to one server: the one on which the client asks, and the one on which it is called back.

use std::sync::Weak;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lock_protocol::{LockCallback, LockServiceClient, Notice, SessionId};
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::task::JoinHandle;
use wire::{Endpoint, Expected, Hello, Role, Tls};

use crate::shared::Shared;

/// A far deadline for tarpc, whose own is not kept in all cases; each call has a timeout of ours around it.
const FAR: Duration = Duration::from_secs(3600);
/// Notices that are taken in at the same time on one connection; the rest waits in the socket.
const NOTIFIES_AT_ONCE: usize = 16;

/// A task that ends with its connection, and ends its connection when dropped.
#[derive(Debug)]
pub(crate) struct Ends(pub(crate) JoinHandle<()>);

impl Ends {
    /// Waits for the end.
    pub(crate) async fn ended(&mut self) {
        // A task that panicked or was aborted has ended as well.
        drop((&mut self.0).await);
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The context of a call.
pub(crate) fn context() -> Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + FAR;
    context
}

/// Dials for requests; connection and welcome take at most `timeout`.
pub(crate) async fn dial_service(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
    timeout: Duration,
) -> Result<(LockServiceClient, Ends), wire::DialError> {
    let hello = Hello { role: Role::Client, cluster: 0, sender: 0, secret: 0 };
    let tls = tls.map(|tls| (tls, Expected::AnyMember));
    let (connection, _, _) = wire::dial_with(tls, endpoint, &hello, timeout).await?;
    let new = LockServiceClient::new(tarpc::client::Config::default(), wire::transport(connection));
    let dispatch = new.dispatch;
    let ends = Ends(tokio::spawn(async move {
        if let Err(error) = dispatch.await {
            tracing::debug!(%error, "the connection to the server broke");
        }
    }));
    Ok((new.client, ends))
}

/// Dials the connection on which this side serves; that and the welcome take at most `timeout`.
pub(crate) async fn dial_callback(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
    timeout: Duration,
    session: SessionId,
    nonce: u128,
    shared: Weak<Shared>,
) -> Result<Ends, wire::DialError> {
    let hello = Hello { role: Role::Callback, cluster: 0, sender: session.0, secret: nonce };
    let tls = tls.map(|tls| (tls, Expected::AnyMember));
    let (connection, _, _) = wire::dial_with(tls, endpoint, &hello, timeout).await?;
    let channel = BaseChannel::with_defaults(wire::transport(connection)).max_concurrent_requests(NOTIFIES_AT_ONCE);
    let serve = Callback { shared }.serve();
    let work = channel.execute(serve).for_each(|handler| async move {
        drop(tokio::spawn(handler));
    });
    Ok(Ends(tokio::spawn(work)))
}

/// Takes the server's notices in. The acts that follow are the core's, and are over before the return.
#[derive(Clone, Debug)]
struct Callback {
    shared: Weak<Shared>,
}

impl LockCallback for Callback {
    async fn notify(self, _: Context, notices: Vec<Notice>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.callback_heard.notify_one();
            shared.on_notices(notices);
        }
    }
}
