//! A session with very many locks expires: how long it takes until the last is free, and what another client feels of it.

use std::time::{Duration, Instant};

use lock_protocol::{Activity, LockServiceClient};
use wire::{Hello, Role};

use super::crowd::{session, take};
use super::probe::{Probe, ms};
use super::run::Scale;
use super::table::Row;
use crate::lab::{Checked, Cluster, Failure, wrong};

const LEASE: Duration = Duration::from_secs(15);
/// No name of the crowd's begins so.
const NUMBER: u64 = 9999;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// From the session's last word until its last lock is free.
const EXPIRY_MAX: Duration = Duration::from_secs(120);
const CALL_MAX: Duration = Duration::from_secs(10);
/// What the probe may hold, more or less.
const SLACK: u64 = 200;

pub(super) async fn expiry(scale: &Scale, cluster: &Cluster, primary: u64) -> Checked<Vec<Row>> {
    let doomed = session(&cluster.endpoints(), "doomed".into(), LEASE).await?;
    take(&doomed, NUMBER, scale.doomed_locks).await?;
    let primary = dial(&cluster.endpoint(primary)).await?;
    let probe = Probe::start(&cluster.endpoints())?;
    let before = look(&primary).await?;
    doomed.abandon();
    let deadline = Instant::now() + EXPIRY_MAX;
    let mut begun = None;
    let (took, mark) = loop {
        let now = look(&primary).await?;
        if now.expired > before.expired && begun.is_none() {
            // The acquire that is under way counts, too.
            begun = Some((Instant::now(), probe.mark().saturating_sub(1)));
        }
        match begun {
            Some((at, mark)) if now.locks + scale.doomed_locks <= before.locks + SLACK => break (at.elapsed(), mark),
            _ if Instant::now() > deadline => {
                return wrong(format!("before an expiry {before:?}, long after it {now:?}"));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    };
    let meanwhile = probe.since(mark).await?;
    probe.stop()?;
    let locks = scale.doomed_locks;
    Ok(vec![
        Row::new(format!("expiry of a session with {locks} locks, until the last is free"), ms(took)),
        Row::new("acquires of another client meanwhile", meanwhile.tail()),
    ])
}

/// A connection of a client without a session.
async fn dial(endpoint: &str) -> Checked<LockServiceClient> {
    let failed = |error: String| Failure::Wrong(format!("{endpoint}: {error}"));
    let address = endpoint.parse().map_err(|error: wire::EndpointError| failed(error.to_string()))?;
    let hello = Hello { role: Role::Client, cluster: 0, sender: 0, secret: 0 };
    let dialled = wire::dial(&address, &hello, CALL_MAX).await;
    let (connection, _, _) = dialled.map_err(|error| failed(error.to_string()))?;
    Ok(LockServiceClient::new(tarpc::client::Config::default(), wire::transport(connection)).spawn())
}

/// What its tables hold; asked again where it had too much to do to say.
async fn look(primary: &LockServiceClient) -> Checked<Activity> {
    let deadline = Instant::now() + CALL_MAX;
    loop {
        match primary.activity(tarpc::context::current()).await {
            Ok(Some(activity)) => return Ok(activity),
            Ok(None) if Instant::now() < deadline => {}
            Ok(None) => return Err(Failure::Wrong("the primary has no time to say what it holds".into())),
            Err(error) => return Err(Failure::Wrong(format!("the primary does not answer: {error}"))),
        }
    }
}

/// How many sessions and locks there are, as this member says.
pub(super) async fn holdings(cluster: &Cluster, id: u64) -> Checked<Activity> {
    look(&dial(&cluster.endpoint(id)).await?).await
}
