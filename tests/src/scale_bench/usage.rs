//! What a member's process uses, as the system and its own metrics say.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::table::Row;
use crate::lab::{Checked, Cluster, Failure};

/// For how long a member's memory is looked at before it counts: what was freed is given back, what was begun is done.
const REST: Duration = Duration::from_secs(2);

/// Linux tells times of processes in ticks of this length, whatever its own are.
const TICK_MS: u64 = 10;

/// CPU of a member over a while, and the keep-alives that it answered meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// Of one core.
    pub(super) share: f64,
    pub(super) keep_alives_per_s: f64,
}

impl Idle {
    /// Watches a member for so long.
    pub(super) async fn watch(cluster: &Cluster, id: u64, time: Duration) -> Checked<Idle> {
        let (began, cpu, keep_alives) = (Instant::now(), cpu_time(cluster, id)?, keep_alives(cluster, id)?);
        sleep(time).await;
        let elapsed = began.elapsed().as_secs_f64();
        Ok(Idle {
            share: (cpu_time(cluster, id)? - cpu).as_secs_f64() / elapsed,
            keep_alives_per_s: (self::keep_alives(cluster, id)? - keep_alives) / elapsed,
        })
    }

    pub(super) fn row(self, when: &str) -> Row {
        Row::new(
            format!("CPU of the primary, {when}"),
            format!("{:.1} % of a core, {:.0} keep-alives/s", self.share * 100.0, self.keep_alives_per_s),
        )
    }
}

/// Anonymous memory of a member that has come to rest, bytes.
pub(super) async fn memory_bytes(cluster: &Cluster, id: u64) -> Checked<u64> {
    sleep(REST).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(cluster, id)?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Failure::Wrong("the system does not tell a process's memory".into()))
}

/// User and system time of a member so far.
fn cpu_time(cluster: &Cluster, id: u64) -> Checked<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(cluster, id)?))?;
    // Behind the name, which may hold anything: the 12th and 13th are utime and stime, in ticks.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * TICK_MS)),
        _ => Err(Failure::Wrong(format!("the system's account of a process is not understood: {stat}"))),
    }
}

fn pid(cluster: &Cluster, id: u64) -> Checked<u32> {
    cluster.pid(id).ok_or_else(|| Failure::Wrong(format!("member {id} does not run")))
}

fn keep_alives(cluster: &Cluster, id: u64) -> Checked<f64> {
    metric(cluster, id, "plumeria_requests_total{kind=\"keep_alive\"}")
}

/// Snapshots that a member has stored, and the time of the last.
pub(super) fn snapshots(cluster: &Cluster, id: u64) -> Checked<(f64, f64)> {
    Ok((metric(cluster, id, "plumeria_snapshots_total")?, metric(cluster, id, "plumeria_snapshot_last_seconds")?))
}

/// One sample of a member's page of metrics.
fn metric(cluster: &Cluster, id: u64, sample: &str) -> Checked<f64> {
    let page = cluster.metrics(id)?;
    let value = page.lines().find_map(|line| line.strip_prefix(sample)).and_then(|rest| rest.trim().parse().ok());
    value.ok_or_else(|| Failure::Wrong(format!("member {id} tells no {sample}")))
}
