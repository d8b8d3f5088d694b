//! A client that the nemesis never touches: for how long nobody can be served.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_client::{AcquireError, LockClient, Mode};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Between two locks.
const PAUSE: Duration = Duration::from_millis(20);
/// One try; then it counts as unserved all the same, and goes on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its session survives most of what a campaign does.
const LEASE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Served {
    count: AtomicU64,
    stop: AtomicBool,
    gap: Mutex<Gap>,
}

#[derive(Debug)]
struct Gap {
    last: Instant,
    longest: Duration,
}

/// Takes a lock that nobody else wants, time and again: each takes a commit.
#[derive(Debug)]
pub(crate) struct Probe {
    served: Arc<Served>,
    task: JoinHandle<()>,
}

impl Probe {
    pub(crate) fn start(endpoints: Vec<String>) -> Probe {
        let gap = Mutex::new(Gap { last: Instant::now(), longest: Duration::ZERO });
        let served = Arc::new(Served { count: AtomicU64::new(0), stop: AtomicBool::new(false), gap });
        let task = tokio::spawn(Arc::clone(&served).run(endpoints));
        Probe { served, task }
    }

    /// Locks had so far.
    pub(crate) fn count(&self) -> u64 {
        self.served.count.load(Ordering::Relaxed)
    }

    /// Ends it; the longest time without service.
    pub(crate) async fn end(self) -> Duration {
        self.served.stop.store(true, Ordering::Relaxed);
        drop(self.task.await);
        let gap = self.served.gap.lock().unwrap_or_else(PoisonError::into_inner);
        gap.longest.max(gap.last.elapsed())
    }
}

impl Served {
    async fn run(self: Arc<Self>, endpoints: Vec<String>) {
        let goes_on = || !self.stop.load(Ordering::Relaxed);
        let mut number = 0_u64;
        while goes_on() {
            // One lock is cached, so each new one gives another back.
            let builder = LockClient::builder(&endpoints).name("probe").lease(LEASE).cache(1, LEASE);
            let Ok(client) = builder.connect_timeout(PATIENCE).connect().await else { continue };
            while goes_on() {
                number += 1;
                match client.acquire_timeout(format!("probe/{number}"), Mode::Exclusive, PATIENCE).await {
                    Ok(guard) => drop(guard),
                    Err(AcquireError::Timeout { .. }) => continue,
                    Err(_) => break,
                }
                self.note();
                sleep(PAUSE).await;
            }
            // If nobody confirms it, the lease ends it.
            drop(client.close().await);
        }
    }

    fn note(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        gap.longest = gap.longest.max(gap.last.elapsed());
        gap.last = Instant::now();
    }
}
