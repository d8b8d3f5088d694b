//! The order of it all.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use lock_client::{LockClient, Mode};

use super::crowd::Crowd;
use super::expiry::{expiry, holdings};
use super::outage::{Change, anywhere, outages};
use super::probe::Probe;
use super::table::Row;
use super::usage::{Idle, memory_bytes, snapshots};
use crate::lab::{Checked, Cluster, Failure};

/// Members of the cluster.
pub(super) const REPLICAS: u64 = 3;
/// Acquires at a time of the load that makes snapshots come due.
const LOAD: u64 = 16;
/// Locks that it keeps; the others it gives back.
const LOAD_KEPT: usize = 512;
const LOAD_LEASE: Duration = Duration::from_secs(60);

/// How much of it all.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The lock server.
    pub server: PathBuf,
    /// Sessions.
    pub sessions: u64,
    /// Locks that each of them holds.
    pub locks_each: u64,
    /// Locks of the session that expires.
    pub doomed_locks: u64,
    /// The sessions' lease.
    pub lease: Duration,
    /// Size of the log, MiB.
    pub log_mib: u64,
    /// For how long the members' CPU is watched, and acquires are timed beside snapshots.
    pub watch: Duration,
    /// Hand-overs, and clean restarts, each; with one client and with all.
    pub hand_overs: u64,
    /// Kills of the primary.
    pub kills: u64,
}

/// Measures all of it on a cluster of its own; `told` hears each figure when it is there.
///
/// # Errors
/// Something is wrong with the service.
pub async fn run_scale(scale: &Scale, told: &mut impl FnMut(&Row)) -> Checked<Vec<Row>> {
    let mut cluster = Cluster::new(&scale.server, Cluster::loopback(REPLICAS)?)?;
    cluster.set_log_mib(scale.log_mib);
    for id in 1..=REPLICAS {
        cluster.launch(id)?;
    }
    let mut rows = Vec::new();
    let mut tell = |new: Vec<Row>| {
        new.iter().for_each(&mut *told);
        rows.extend(new);
    };
    let primary = cluster.agree(&anywhere()).await?.primary;
    tell(vec![Idle::watch(&cluster, primary, scale.watch).await?.row("without sessions")]);
    for change in [Change::Promote, Change::Restart] {
        tell(outages(&mut cluster, None, change, scale.hand_overs, "one client").await?);
    }
    let mut crowd = fill(scale, &cluster, &mut tell).await?;
    tell(beside_snapshots(scale, &cluster).await?);
    let primary = cluster.agree(&anywhere()).await?.primary;
    tell(expiry(scale, &cluster, primary).await?);
    let who = format!("{} sessions", crowd.len());
    for (change, times) in
        [(Change::Promote, scale.hand_overs), (Change::Restart, scale.hand_overs), (Change::Kill, scale.kills)]
    {
        tell(outages(&mut cluster, Some(&mut crowd), change, times, &who).await?);
    }
    all_is_held(scale, &cluster, &crowd).await?;
    crowd.abandon();
    Ok(rows)
}

/// The sessions, with all their locks; memory and CPU with and without.
async fn fill(scale: &Scale, cluster: &Cluster, tell: &mut impl FnMut(Vec<Row>)) -> Checked<Crowd> {
    let primary = cluster.agree(&anywhere()).await?.primary;
    let empty = memory_bytes(cluster, primary).await?;
    let crowd = Crowd::connect(&cluster.endpoints(), scale.sessions, scale.lease)?;
    let open = memory_bytes(cluster, primary).await?;
    let idle = Idle::watch(cluster, primary, scale.watch).await?;
    let (sessions, locks) = (crowd.len(), crowd.len() * scale.locks_each);
    tell(vec![
        Row::new(
            format!("memory of the primary for each of {sessions} sessions, with its connections"),
            format!("{} KiB", open.saturating_sub(empty) / sessions.max(1) / 1024),
        ),
        idle.row(&format!("{sessions} idle sessions without locks, lease {:?}", scale.lease)),
    ]);
    let began = Instant::now();
    crowd.take(scale.locks_each).await?;
    let took = began.elapsed();
    let agreed = cluster.agree(&anywhere()).await?;
    let idle = Idle::watch(cluster, agreed.primary, scale.watch).await?;
    let mut backup = 0;
    for id in (1..=REPLICAS).filter(|id| *id != agreed.primary) {
        backup = backup.max(memory_bytes(cluster, id).await?);
    }
    let primary = memory_bytes(cluster, agreed.primary).await?;
    let memory = [("the primary", primary), ("a backup", backup)].map(|(member, full)| {
        Row::new(
            format!("memory of {member} for each of {locks} held locks, its copies of log and snapshot included"),
            format!("{} bytes ({} MiB in all)", full.saturating_sub(open) / locks.max(1), full >> 20),
        )
    });
    tell(memory.into());
    tell(vec![
        Row::new(
            format!("to take {locks} locks, one by one"),
            format!("{:.1} s, {:.0} acquires/s", took.as_secs_f64(), locks as f64 / took.as_secs_f64()),
        ),
        idle.row(&format!("{sessions} idle sessions with all their locks, lease {:?}", scale.lease)),
    ]);
    Ok(crowd)
}

/// Acquires of one client while load lets snapshots of all that is held come due.
async fn beside_snapshots(scale: &Scale, cluster: &Cluster) -> Checked<Vec<Row>> {
    let primary = cluster.agree(&anywhere()).await?.primary;
    let (before, _) = snapshots(cluster, primary)?;
    let builder = LockClient::builder(cluster.endpoints()).name("load").lease(LOAD_LEASE);
    let load = builder.cache(LOAD_KEPT, LOAD_LEASE).connect().await?;
    let probe = Probe::start(&cluster.endpoints())?;
    let (mark, until) = (probe.mark(), Instant::now() + scale.watch);
    let acquire = async |number: u64| {
        let guard = load.acquire(format!("load/{number}"), Mode::Exclusive).await;
        guard.map(drop).map_err(Failure::from)
    };
    let numbers = (0..).take_while(|_| Instant::now() < until);
    stream::iter(numbers).map(acquire).buffer_unordered(LOAD as usize).try_collect::<()>().await?;
    let latencies = probe.since(mark).await?;
    probe.stop()?;
    load.close().await?;
    let (after, seconds) = snapshots(cluster, primary)?;
    Ok(vec![Row::new(
        format!("acquires under load while {} snapshots were taken, the last in {seconds:.1} s", after - before),
        latencies.tail(),
    )])
}

/// Nobody lost a lock over all this.
async fn all_is_held(scale: &Scale, cluster: &Cluster, crowd: &Crowd) -> Checked<()> {
    let primary = cluster.settle(&anywhere()).await?.primary;
    let held = holdings(cluster, primary).await?;
    let locks = crowd.len() * scale.locks_each + crowd.extra_locks();
    if held.sessions != crowd.len() || held.locks != locks {
        let (sessions, ours) = (crowd.len(), held);
        return Err(Failure::Wrong(format!(
            "{sessions} sessions should hold {locks} locks, the service knows {ours:?}"
        )));
    }
    Ok(())
}
