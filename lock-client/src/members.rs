//! Questions to one member, without a session.

use lock_protocol::{Activity, Answer, KeptLocks, MemberChange, MemberStatus, PAGE_MAX_ENTRIES, Query, Refusal};
use wire::{Endpoint, Tls};

use crate::client::QUERY_TIMEOUT;
use crate::dial::{context, dial_service};
use crate::error::QueryError;
use crate::route::DIAL_TIMEOUT_MAX;

/// Asks one member, who should be the primary, to change the list of members; within a tokio runtime. Returns the number of
/// the view that made the change, or the member's refusal.
///
/// # Errors
/// The endpoint is no address, or the member could not be asked: the change may or may not have been made.
pub async fn change_members(
    endpoint: &str,
    tls: Option<&Tls>,
    change: MemberChange,
) -> Result<Result<u64, Refusal>, QueryError> {
    ask_member(endpoint, tls, |service| async move { service.change_members(context(), change).await }).await
}

/// One member's own account of itself, asked without a session; within a tokio runtime.
///
/// # Errors
/// The endpoint is no address, or the member could not be asked.
pub async fn member_status(endpoint: &str, tls: Option<&Tls>) -> Result<MemberStatus, QueryError> {
    ask_member(endpoint, tls, |service| async move { service.status(context()).await }).await
}

/// What one member's tables hold, asked without a session; within a tokio runtime. None where it has no state, or too much
/// to do to say.
///
/// # Errors
/// The endpoint is no address, or the member could not be asked.
pub async fn member_activity(endpoint: &str, tls: Option<&Tls>) -> Result<Option<Activity>, QueryError> {
    ask_member(endpoint, tls, |service| async move { service.activity(context()).await }).await
}

/// Dead sessions whose exclusive locks are not free yet, as one member tells, who should be the primary; asked without a session, within a
/// tokio runtime. The first page, and whether there are more.
///
/// # Errors
/// The endpoint is no address, or the member could not be asked, or is not the primary.
pub async fn member_kept(endpoint: &str, tls: Option<&Tls>) -> Result<(Vec<KeptLocks>, bool), QueryError> {
    let limit = u32::try_from(PAGE_MAX_ENTRIES).unwrap_or(u32::MAX);
    let query = Query::Kept { after: None, limit };
    match ask_member(endpoint, tls, |service| async move { service.query(context(), query).await }).await? {
        Ok(Answer::Kept { entries, more }) => Ok((entries, more)),
        Ok(_) => Err(QueryError::Refused("the server answered another question".into())),
        Err(refusal) => Err(QueryError::Refused(refusal.to_string())),
    }
}

async fn ask_member<R, Fut>(
    endpoint: &str,
    tls: Option<&Tls>,
    ask: impl FnOnce(lock_protocol::LockServiceClient) -> Fut,
) -> Result<R, QueryError>
where
    Fut: Future<Output = Result<R, tarpc::client::RpcError>>,
{
    let endpoint: Endpoint =
        endpoint.parse().map_err(|error: wire::EndpointError| QueryError::Refused(error.to_string()))?;
    let refused = |why: String| QueryError::Refused(format!("{endpoint}: {why}"));
    let (service, _ends) =
        dial_service(&endpoint, tls, DIAL_TIMEOUT_MAX).await.map_err(|error| refused(error.to_string()))?;
    match tokio::time::timeout(QUERY_TIMEOUT, ask(service)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refused(format!("the connection broke: {error}"))),
        Err(_) => Err(refused(format!("no answer within {QUERY_TIMEOUT:?}"))),
    }
}
