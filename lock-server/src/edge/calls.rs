//! The calls of one client's connection, from the first to the one that ends it.
//!
//! Why it harms nobody else: a connection has so many calls under way, of which few may have large answers; so what a client asks for and does
//! not read is bounded. One that reads nothing at all while an answer waits is closed. So is one that sends what is no call, or a frame that is too
//! large, of which no more than its length is read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use lock_protocol::{LockService, LockServiceRequest};
use tarpc::ChannelError;
use tarpc::server::{BaseChannel, Channel, Config};
use tokio::sync::Semaphore;
use wire::Connection;

use super::service::Service;
use crate::metrics::TurnedAway;

/// Calls of one connection under way; tarpc refuses more, and stops reading from a client that does not read.
const CALLS_MAX: usize = 256;
/// Those among them whose answers are large: pages, and parts of backups.
const LARGE_MAX: usize = 8;
/// Answers that are ready and wait until the connection takes them; where there are as many, calls keep theirs.
const ANSWERS_MAX: usize = 32;
/// A client that takes nothing of an answer for so long does not read. One that was suspended meanwhile dials anew.
pub(super) const UNREAD_MAX: Duration = Duration::from_secs(10);

/// Serves calls until the client closes the connection.
///
/// # Errors
/// The connection broke, or was found wrong.
pub(super) async fn serve_calls(connection: Connection, service: Service) -> Result<(), ChannelError<io::Error>> {
    let config = Config { pending_response_buffer: ANSWERS_MAX };
    let channel = BaseChannel::new(config, wire::transport(connection)).max_concurrent_requests(CALLS_MAX);
    let mut requests = std::pin::pin!(channel.requests());
    let large = Arc::new(Semaphore::new(LARGE_MAX));
    while let Some(request) = requests.next().await {
        let request = request?;
        let is_large =
            matches!(request.get().message, LockServiceRequest::Query { .. } | LockServiceRequest::Backup { .. });
        let large = is_large.then(|| Arc::clone(&large));
        let service = service.clone();
        drop(tokio::spawn(async move {
            // Given back when the answer is on its way, so the next is not made before.
            let _place = match &large {
                Some(large) => large.acquire().await.ok(),
                None => None,
            };
            request.execute(service.serve()).await;
        }));
    }
    Ok(())
}

/// What the client did wrong; none where the connection just broke.
pub(super) fn fault_of(error: &ChannelError<io::Error>) -> Option<TurnedAway> {
    let (ChannelError::Read(cause)
    | ChannelError::Ready(cause)
    | ChannelError::Write(cause)
    | ChannelError::Flush(cause)
    | ChannelError::Close(cause)) = error;
    let cause = wire::innermost(cause);
    // The system has numbers for what breaks; the codec and the connection's patience have none.
    if cause.raw_os_error().is_some() {
        return None;
    }
    match cause.kind() {
        io::ErrorKind::TimedOut => Some(TurnedAway::NotReading),
        // The frame codec's word for a stream that ends within a frame, which has no kind of its own.
        _ if cause.to_string() == "bytes remaining on stream" => None,
        io::ErrorKind::InvalidData | io::ErrorKind::Other => Some(TurnedAway::Malformed),
        _ => None,
    }
}
