//! How long an acquire takes while a million locks are held and snapshots of them are taken.
//!
//! `lock-server dev --exec 'held-locks --held 1000000 --seconds 60'`: sessions first take so many locks and keep them, then go on taking
//! more, so that the log grows and snapshots come due, while one session more acquires one lock after the other and times each.
#![expect(clippy::disallowed_methods, reason = "real processes live in real time; the bans are for the simulator")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::future::{join_all, try_join_all};
use lock_client::{LockClient, Mode};

/// Longer than anything that is measured.
const LEASE: Duration = Duration::from_secs(60);
/// What no acquire is to take longer than.
const BOUND: Duration = Duration::from_millis(20);

#[derive(Parser)]
struct Flags {
    /// The members' addresses, with commas.
    #[arg(long, env = "LOCK_ENDPOINTS")]
    endpoints: String,
    /// Locks that are held before the first acquire is timed.
    #[arg(long, default_value_t = 1_000_000)]
    held: u64,
    /// How long acquires are timed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Sessions that hold them, and make the load.
    #[arg(long, default_value_t = 4)]
    sessions: u64,
    /// Acquires at a time in each session.
    #[arg(long, default_value_t = 64)]
    in_flight: u64,
    /// The same while acquires are timed.
    #[arg(long, default_value_t = 4)]
    load: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let connect = || LockClient::builder(flags.endpoints.split(',')).lease(LEASE).connect();
    let sessions = try_join_all((0..flags.sessions).map(|_| connect())).await?;
    let prober = connect().await?;
    let taken = AtomicU64::new(0);
    let started = Instant::now();
    take(&sessions, flags.in_flight, &taken, &|count| count < flags.held).await?;
    println!("{} locks are held after {:.1?}", taken.load(Ordering::Relaxed), started.elapsed());

    let is_over = AtomicBool::new(false);
    let goes_on = |_| !is_over.load(Ordering::Relaxed);
    let load = take(&sessions, flags.load, &taken, &goes_on);
    let probe = async {
        let mut latencies = Vec::new();
        let end = Instant::now() + Duration::from_secs(flags.seconds);
        while Instant::now() < end {
            let started = Instant::now();
            drop(prober.acquire(format!("probe/{}", latencies.len()), Mode::Exclusive).await?);
            latencies.push(started.elapsed());
        }
        is_over.store(true, Ordering::Relaxed);
        anyhow::Ok(latencies)
    };
    let before = taken.load(Ordering::Relaxed);
    let (loaded, latencies) = futures::join!(load, probe);
    loaded?;
    let more = taken.load(Ordering::Relaxed) - before;
    println!("beside them {} acquires a second", more / flags.seconds.max(1));
    report(latencies?);
    join_all(sessions.iter().map(LockClient::close)).await;
    Ok(())
}

/// Each session takes new locks, so many at a time, as long as it is told; all stay held.
async fn take(
    sessions: &[LockClient],
    in_flight: u64,
    taken: &AtomicU64,
    goes_on: &impl Fn(u64) -> bool,
) -> anyhow::Result<()> {
    let tasks = sessions.iter().flat_map(|session| (0..in_flight).map(move |_| session)).map(|session| async move {
        loop {
            let count = taken.fetch_add(1, Ordering::Relaxed);
            if !goes_on(count) {
                taken.fetch_sub(1, Ordering::Relaxed);
                return anyhow::Ok(());
            }
            drop(session.acquire(format!("orders/{count:025}"), Mode::Exclusive).await?);
        }
    });
    try_join_all(tasks).await.map(drop)
}

fn report(mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    let longest: Vec<_> = latencies.iter().rev().take(5).collect();
    println!("{} acquires: p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}", latencies.len(), at(0.5), at(0.99), at(0.999));
    let over = latencies.iter().filter(|latency| **latency > BOUND).count();
    println!("the longest: {longest:.1?}; {over} longer than {BOUND:?}");
}
