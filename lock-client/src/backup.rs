//! Fetching a backup from one member.

use std::io::{self, Write};
use std::time::Duration;

use lock_protocol::{BackupAnswer, BackupHeader, BackupRequest, BackupWriter, Refusal};
use wire::{Endpoint, Tls};

use crate::dial::{context, dial_service};
use crate::error::QueryError;
use crate::route::DIAL_TIMEOUT_MAX;

/// To take the state: it is made in small parts, between which the member goes on serving.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(300);
/// For one part of it.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupFailure {
    /// The member could not be asked, or answered something else.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The member said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// It cannot be written, or what came is not what the member took.
    #[error("{0}")]
    Write(#[from] io::Error),
}

/// Has a member take its state, and writes it as a backup to what `place` gives, which is asked once there is something to
/// write; within a tokio runtime. Returns what was taken, and where it was written, not flushed.
///
/// # Errors
/// See [`BackupFailure`]; what was written by then is no backup.
pub async fn fetch_backup<W: Write>(
    endpoint: &str,
    tls: Option<&Tls>,
    place: impl FnOnce() -> io::Result<W>,
) -> Result<(BackupHeader, W), BackupFailure> {
    let endpoint: Endpoint =
        endpoint.parse().map_err(|error: wire::EndpointError| QueryError::Refused(error.to_string()))?;
    let failed = |why: String| QueryError::Refused(format!("{endpoint}: {why}"));
    let (service, _ends) =
        dial_service(&endpoint, tls, DIAL_TIMEOUT_MAX).await.map_err(|error| failed(error.to_string()))?;
    let ask = async |request, limit| match tokio::time::timeout(limit, service.backup(context(), request)).await {
        Ok(Ok(answer)) => answer.map_err(BackupFailure::from),
        Ok(Err(error)) => Err(failed(format!("the connection broke: {error}")).into()),
        Err(_) => Err(failed(format!("no answer within {limit:?}")).into()),
    };
    let other = || failed("it answered another question".into());
    let BackupAnswer::Begun(header) = ask(BackupRequest::Begin, BEGIN_TIMEOUT).await? else {
        return Err(other().into());
    };
    let mut writer = BackupWriter::begin(place()?, header.clone())?;
    while writer.written() < header.state_bytes {
        let request = BackupRequest::Part { op: header.op, offset: writer.written() };
        match ask(request, PART_TIMEOUT).await? {
            BackupAnswer::Part(part) if !part.is_empty() => writer.part(&part)?,
            _ => return Err(other().into()),
        }
    }
    Ok((header, writer.finish()?))
}
