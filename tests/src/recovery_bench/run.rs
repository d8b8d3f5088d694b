//! One point of the benchmark.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rsm::Durability;
use tokio::time::{Instant, sleep, sleep_until};

use super::fill::Filling;
use super::row::{Moment, Row, Timeline, ms};
use crate::lab::{Blow, Checked, Cluster, Failure, Return, Storm, StormSettings, views};

const REPLICAS: u64 = 3;
const LEASE: Duration = Duration::from_secs(600);
/// Clients and locks of the load.
const CLIENTS: u64 = 4;
const LOCKS: u64 = 16;
/// Load is watched for so long before a kill, and after the return.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_millis(50);
/// All of a point's state is sent within it.
const RETURN_MAX: Duration = Duration::from_secs(120);

/// What the data directories are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The temporary directory's file system.
    Disk,
    /// tmpfs, which stands in for persistent memory.
    Memory,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Point {
    /// The lock server.
    pub server: PathBuf,
    /// Of all members.
    pub mode: Durability,
    /// Of all members.
    pub medium: Medium,
    /// Size of the state, MB.
    pub state_mb: u64,
    /// Size of the log, MiB.
    pub log_mib: u64,
    /// From the kill to the start.
    pub away: Duration,
    /// Kills.
    pub repetitions: u64,
}

/// What came of a point.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// One for each kill.
    pub rows: Vec<Row>,
    /// One for each kill.
    pub timelines: Vec<Timeline>,
}

struct Watch<'a> {
    storm: &'a Storm,
    began: Instant,
    timeline: Timeline,
}

/// Founds a cluster, fills it, kills and starts a backup of it.
///
/// # Errors
/// Something is wrong with the service.
pub async fn run_point(point: &Point) -> Checked<Outcome> {
    let places = Cluster::loopback(REPLICAS)?;
    let mut cluster = match point.medium {
        Medium::Disk => Cluster::new(&point.server, places)?,
        Medium::Memory => Cluster::new_in(Path::new("/dev/shm"), &point.server, places)?,
    };
    cluster.set_durability(point.mode)?;
    cluster.set_log_mib(point.log_mib);
    for id in 1..=REPLICAS {
        cluster.launch(id)?;
    }
    let anywhere = views(1..=u64::MAX, 1..=REPLICAS);
    cluster.agree(&anywhere).await?;
    let endpoints = cluster.endpoints();
    let filling = Filling::make(&endpoints, point.state_mb * 1_000_000, point.log_mib << 20).await?;
    cluster.settle(&anywhere).await?;
    let settings = StormSettings { clients: CLIENTS, locks: LOCKS, lease: LEASE, ..StormSettings::default() };
    let storm = Storm::start(&endpoints, &settings).await?;
    let mut outcome = Outcome::default();
    for repetition in 1..=point.repetitions {
        let (row, timeline) = kill(point, repetition, &mut cluster, &storm).await?;
        outcome.rows.push(row);
        outcome.timelines.push(timeline);
    }
    storm.stop().await?;
    cluster.settle(&anywhere).await?;
    filling.abandon();
    Ok(outcome)
}

async fn kill(point: &Point, repetition: u64, cluster: &mut Cluster, storm: &Storm) -> Checked<(Row, Timeline)> {
    let agreed = cluster.agree(&views(1..=u64::MAX, 1..=REPLICAS)).await?;
    let victim = (1..=REPLICAS).rfind(|id| *id != agreed.primary).unwrap_or(1);
    let mut watch = Watch { storm, began: Instant::now(), timeline: Timeline::default() };
    watch.watch_until(Instant::now() + BEFORE).await;
    cluster.stop(victim, Blow::Kill).await?;
    let killed = watch.mark(Moment::Killed);
    watch.watch_until(killed + point.away).await;
    let log_bytes = cluster.log_bytes(victim)?;
    let started = watch.mark(Moment::Started);
    cluster.launch(victim)?;
    let back = watch.until_back(cluster, victim, log_bytes, started).await?;
    let in_sync = watch.mark(Moment::InSync);
    watch.watch_until(in_sync + AFTER).await;
    let began = watch.began;
    let row = Row {
        mode: point.name(),
        state_mb: point.state_mb,
        log_mib: point.log_mib,
        repetition,
        away_ms: ms(started - killed),
        snapshot_bytes: 0,
        scanned_bytes: 0,
        replayed_entries: 0,
        skipped_entries: 0,
        store_ms: 0.0,
        installed_bytes: 0,
        appended_entries: 0,
        first_ack_ms: None,
        caught_up_ms: 0.0,
        in_sync_ms: ms(in_sync - started),
        grants_before: watch.rate(began, killed),
        grants_away: watch.rate(killed, started),
        grants_returning: watch.rate(started, in_sync),
    };
    let row = row.with(&back);
    let timeline = Timeline { mode: point.name(), snapshot_bytes: row.snapshot_bytes, ..watch.timeline };
    Ok((row, timeline))
}

impl Point {
    /// The mode, and the medium where it is not the usual one.
    pub fn name(&self) -> String {
        match self.medium {
            Medium::Disk => self.mode.to_string(),
            Medium::Memory => format!("{} on tmpfs", self.mode),
        }
    }
}

impl Watch<'_> {
    fn sample(&mut self) {
        self.timeline.grants.push((ms(self.began.elapsed()), self.storm.grants()));
    }

    fn mark(&mut self, moment: Moment) -> Instant {
        self.sample();
        let now = Instant::now();
        self.timeline.moments.push((ms(now - self.began), moment));
        now
    }

    async fn watch_until(&mut self, until: Instant) {
        while Instant::now() < until {
            self.sample();
            sleep_until(until.min(Instant::now() + SAMPLE)).await;
        }
    }

    async fn until_back(&mut self, cluster: &Cluster, id: u64, log_bytes: u64, started: Instant) -> Checked<Return> {
        while started.elapsed() < RETURN_MAX {
            if let Some(back) = cluster.returned(id, log_bytes)? {
                return Ok(back);
            }
            self.sample();
            sleep(SAMPLE / 5).await;
        }
        Err(Failure::Wrong(format!("member {id} has not caught up within {RETURN_MAX:?}")))
    }

    /// Grants per second between two moments.
    fn rate(&self, from: Instant, to: Instant) -> f64 {
        let at = |time: Instant| {
            let time = ms(time - self.began);
            let grants = &self.timeline.grants;
            grants.iter().rfind(|(sampled, _)| *sampled <= time).or(grants.first()).map_or(0, |(_, count)| *count)
        };
        let seconds = (to - from).as_secs_f64();
        if seconds > 0.0 { (at(to) - at(from)) as f64 / seconds } else { 0.0 }
    }
}
