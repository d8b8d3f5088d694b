//! Figures of a running cluster, as a client sees them.
//!
//! Every client of a measurement has a session of its own (so a clerk's thread of its own) and a thread that uses it. What is
//! "uncached" is a name that was never taken before, so no measurement profits from another's cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use hdrhistogram::Histogram;
use lock_client::{AcquireError, Lock, LockClient, Mode, Role};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::arguments::{Bench, Common};
use crate::dispatch::{close, connect, print, print_json, say};
use crate::failure::{Failure, exit};
use crate::status;
use crate::table::{Align, Table};

/// Of all sessions: longer than a fail-over takes.
const LEASE: Duration = Duration::from_secs(15);
/// Acquires of a cached lock between two looks at the clock.
const ROUND: u32 = 20_000;
/// The probe runs so long before the primary is killed.
const BEFORE_KILL: Duration = Duration::from_secs(1);
/// And so long after its first success after it, in case that was the last of the old primary.
const AFTER_GAP: Duration = Duration::from_secs(1);
/// Longer than this is no fail-over.
const GAP_MAX: Duration = Duration::from_secs(15);
/// What the server's process is called, so that nothing else is killed.
const SERVER: &str = "lock-server";

/// What `bench --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Figures {
    cached_ns: f64,
    uncached_us: Latency,
    uncached_per_s: f64,
    hand_overs_per_s: f64,
    /// Null where nothing was killed.
    fail_over_gap_ms: Option<f64>,
    clients: u16,
    in_flight: u16,
    duration_ms: u64,
}

/// Of one acquire after the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    count: u64,
}

/// `lockctl bench`.
pub(crate) async fn run(options: &Bench, common: &Common) -> Result<u8, Failure> {
    let primary = if options.kill_primary { Some(primary_to_kill(common).await?) } else { None };
    let mut clients = Vec::new();
    for _ in 0..options.clients.max(1) {
        clients.push(connect(common, LEASE, common.connect_timeout).await?);
    }
    let measured = measure(options, &clients, primary).await;
    for client in &clients {
        close(client).await;
    }
    let figures = measured?;
    if common.json {
        print_json(&figures)?;
    } else {
        print(&figures.table());
    }
    Ok(exit::OK)
}

async fn measure(options: &Bench, clients: &[LockClient], primary: Option<Pid>) -> Result<Figures, Failure> {
    let Some(client) = clients.first() else { return Err(Failure::usage("no client")) };
    let names = Names { stem: format!("{}/{}", options.prefix, client.session()), next: Arc::default() };
    let cached_ns = cached(client, &names, options.duration).await?;
    let uncached_us = uncached(client, &names, options.duration).await?;
    let all = |work| on_threads(clients, options.duration, work);
    let (of_names, in_flight) = (names.clone(), options.in_flight);
    let acquired = all(Work::Throughput { names: of_names, in_flight })?;
    let changes = all(Work::HandOver { name: names.new_name(), last: Arc::default() })?;
    let fail_over_gap_ms = match primary {
        Some(pid) => Some(gap(client, &names, pid).await?.as_secs_f64() * 1e3),
        None => None,
    };
    Ok(Figures {
        cached_ns: rounded(cached_ns),
        uncached_us,
        uncached_per_s: rounded(acquired),
        hand_overs_per_s: rounded(changes),
        fail_over_gap_ms: fail_over_gap_ms.map(rounded),
        clients: options.clients,
        in_flight,
        duration_ms: u64::try_from(options.duration.as_millis()).unwrap_or(u64::MAX),
    })
}

/// One place after the point: more is noise.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Names that nobody has taken before: a session's number is never used again.
#[derive(Clone, Debug)]
struct Names {
    stem: String,
    next: Arc<AtomicU64>,
}

impl Names {
    fn new_name(&self) -> String {
        format!("{}/{}", self.stem, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// ns to take and give back a lock that the session has, median over rounds.
async fn cached(client: &LockClient, names: &Names, duration: Duration) -> Result<f64, Failure> {
    let lock = client.lock(names.new_name())?;
    drop(lock.acquire(Mode::Exclusive).await?);
    let mut rounds = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < duration || rounds.is_empty() {
        rounds.push(cached_round(&lock)?);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

fn cached_round(lock: &Lock) -> Result<f64, Failure> {
    let begun = Instant::now();
    for _ in 0..ROUND {
        let guard = lock.acquire_cached(Mode::Exclusive);
        drop(guard.ok_or_else(|| Failure::new(exit::UNAVAILABLE, "the lease ran out during the measurement"))?);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(ROUND))
}

async fn uncached(client: &LockClient, names: &Names, duration: Duration) -> Result<Latency, Failure> {
    let histogram = Histogram::<u64>::new_with_max(60_000_000_000, 3);
    let mut histogram = histogram.map_err(|error| Failure::system(format!("no histogram: {error}")))?;
    let begun = Instant::now();
    while begun.elapsed() < duration || histogram.is_empty() {
        let name = names.new_name();
        let asked = Instant::now();
        drop(client.acquire(name, Mode::Exclusive).await?);
        histogram.saturating_record(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let us = |quantile| rounded(histogram.value_at_quantile(quantile) as f64 / 1e3);
    Ok(Latency { p50: us(0.5), p99: us(0.99), count: histogram.len() })
}

/// What the clients of a measurement do.
#[derive(Clone, Debug)]
enum Work {
    /// New names, `in_flight` at a time.
    Throughput { names: Names, in_flight: u16 },
    /// One name, wanted by all; counts the tokens that are greater than any before.
    HandOver { name: String, last: Arc<AtomicU64> },
}

/// Does the work with each client on a thread of its own; events per second over all.
fn on_threads(clients: &[LockClient], duration: Duration, work: Work) -> Result<f64, Failure> {
    let begun = Instant::now();
    let until = begun + duration;
    let workers: Vec<_> = clients
        .iter()
        .map(|client| {
            let (client, work) = (client.clone(), work.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| Failure::system(format!("no runtime: {error}")))?;
                runtime.block_on(work.go_on(&client, until)).map_err(Failure::from)
            })
        })
        .collect();
    let mut events = 0;
    for worker in workers {
        events += worker.join().map_err(|_| Failure::system("a thread of the measurement panicked"))??;
    }
    Ok(events as f64 / begun.elapsed().as_secs_f64())
}

impl Work {
    async fn go_on(&self, client: &LockClient, until: Instant) -> Result<u64, AcquireError> {
        match self {
            Work::Throughput { names, in_flight } => {
                let tasks = (0..*in_flight).map(|_| take_new(client, names, until));
                Ok(try_join_all(tasks).await?.into_iter().sum())
            }
            Work::HandOver { name, last } => {
                let mut changes = 0;
                while Instant::now() < until {
                    let guard = client.acquire(name, Mode::Exclusive).await?;
                    let token = guard.token().0;
                    changes += u64::from(last.fetch_max(token, Ordering::Relaxed) < token);
                    drop(guard);
                    // A cached lock is had without a pause; the clerk's thread wants one too.
                    tokio::task::yield_now().await;
                }
                Ok(changes)
            }
        }
    }
}

async fn take_new(client: &LockClient, names: &Names, until: Instant) -> Result<u64, AcquireError> {
    let mut taken = 0;
    while Instant::now() < until {
        drop(client.acquire(names.new_name(), Mode::Exclusive).await?);
        taken += 1;
    }
    Ok(taken)
}

/// The primary's process, if it is certain that it may be killed from here.
async fn primary_to_kill(common: &Common) -> Result<Pid, Failure> {
    let status = status::gather(common).await.status;
    let primary = status.members.iter().find(|member| member.role == Role::Primary);
    let Some(primary) = primary else {
        return Err(Failure::new(exit::UNAVAILABLE, "there is no primary to kill; see 'lockctl status'"));
    };
    if !is_local(&primary.address) {
        let address = &primary.address;
        return Err(Failure::usage(format!(
            "--kill-primary kills on this machine only, and the primary is at {address}"
        )));
    }
    let pid = primary.pid.and_then(|pid| i32::try_from(pid).ok());
    let process = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    match (pid.and_then(Pid::from_raw), process) {
        (Some(pid), Some(process)) if process.trim() == SERVER => Ok(pid),
        _ => Err(Failure::usage(format!(
            "--kill-primary: process {} of this machine is no {SERVER}: the primary runs elsewhere",
            pid.unwrap_or_default()
        ))),
    }
}

/// A loopback address, or a local socket.
fn is_local(address: &str) -> bool {
    if address.starts_with("unix:") {
        return true;
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Kills the primary under a client that takes new names all the time; the longest time between two successes from then on.
async fn gap(client: &LockClient, names: &Names, primary: Pid) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let mut killed: Option<Instant> = None;
    let (mut last, mut longest, mut back) = (begun, Duration::ZERO, None::<Instant>);
    loop {
        if killed.is_none() && begun.elapsed() >= BEFORE_KILL {
            kill_process(primary, Signal::KILL)
                .map_err(|error| Failure::system(format!("the primary could not be killed: {error}")))?;
            killed = Some(Instant::now());
            say(&format!("killed the primary, process {}", primary.as_raw_pid()));
        }
        drop(client.acquire_timeout(names.new_name(), Mode::Exclusive, GAP_MAX).await?);
        let now = Instant::now();
        if killed.is_some() {
            longest = longest.max(now - last);
            if (now - *back.get_or_insert(now)) > AFTER_GAP {
                return Ok(longest);
            }
        }
        last = now;
    }
}

impl Figures {
    fn table(&self) -> String {
        let mut table = Table::new(&[("MEASURED", Align::Left), ("FIGURE", Align::Right), ("UNIT", Align::Left)]);
        let mut row = |what: &str, figure: f64, unit: &str| {
            let figure = if figure >= 1000.0 { format!("{figure:.0}") } else { format!("{figure:.1}") };
            table.row([what.to_owned(), figure, unit.to_owned()]);
        };
        let (clients, in_flight) = (self.clients, self.in_flight);
        row("cached acquire and release, median", self.cached_ns, "ns");
        row("uncached acquire, one at a time, p50", self.uncached_us.p50, "us");
        row("uncached acquire, one at a time, p99", self.uncached_us.p99, "us");
        row(&format!("uncached acquires, {clients} sessions with {in_flight} each"), self.uncached_per_s, "/s");
        row(&format!("hand-overs of one lock among {clients} sessions"), self.hand_overs_per_s, "/s");
        if let Some(gap_ms) = self.fail_over_gap_ms {
            row("gap in service after kill -9 of the primary", gap_ms, "ms");
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_this_machine_is_ever_killed() {
        for here in ["127.0.0.1:7101", "127.8.0.1:1", "[::1]:7101", "localhost:7101", "unix:/run/x"] {
            assert!(is_local(here), "{here}");
        }
        for elsewhere in ["10.0.0.1:7101", "db1:7101", "[2001:db8::1]:7101", "127.evil.example:1", "0.0.0.0:7101"] {
            assert!(!is_local(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_figure() {
        let mut figures = Figures {
            cached_ns: 81.25,
            uncached_us: Latency { p50: 210.0, p99: 900.0, count: 9000 },
            uncached_per_s: 123_456.7,
            hand_overs_per_s: 1500.0,
            fail_over_gap_ms: None,
            clients: 8,
            in_flight: 64,
            duration_ms: 2000,
        };
        assert_eq!(figures.table().lines().count(), 6);
        figures.fail_over_gap_ms = Some(640.0);
        let text = figures.table();
        assert!(text.contains("123457  /s") && text.ends_with("640.0  ms\n"), "{text}");
    }
}
