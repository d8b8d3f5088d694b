//! What the service has acknowledged, kept beside it.
//!
//! Why it is right: a lock is entered when its grant has returned, and looked up through another session, whose answers are
//! the primary's state. A counter is read, and after a pause written, by whoever holds its lock; two holders at once would lose an increment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lock_client::{LockClient, LockGuard, Mode};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::lab::{Checked, Failure};

/// Longer than any outage that a loop makes.
pub(super) const LEASE: Duration = Duration::from_secs(120);
/// Whatever a healthy service makes possible is done within it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Locks held at a time: so many kills each of them outlives.
const KEPT_MAX: usize = 16;
const WRITERS: u64 = 3;
const COUNTERS: usize = 2;
/// Between reading a counter and writing it.
const PAUSE: Duration = Duration::from_millis(1);

/// Counters without any lock of their own.
#[derive(Debug, Default)]
struct Counters {
    values: [AtomicU64; COUNTERS],
    increments: AtomicU64,
    stop: AtomicBool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    keeper: LockClient,
    reader: LockClient,
    kept: VecDeque<LockGuard>,
    taken: u64,
    writers: Vec<LockClient>,
    counters: Arc<Counters>,
    tasks: JoinSet<Checked<()>>,
}

impl Ledger {
    pub(super) async fn start(endpoints: &[String]) -> Checked<Ledger> {
        let counters = Arc::new(Counters::default());
        let (mut writers, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 0..WRITERS {
            let writer = connect(endpoints, &format!("writer-{number}")).await?;
            for counter in 0..COUNTERS {
                tasks.spawn(Arc::clone(&counters).count(writer.clone(), counter));
            }
            writers.push(writer);
        }
        Ok(Ledger {
            keeper: connect(endpoints, "keeper").await?,
            reader: connect(endpoints, "reader").await?,
            kept: VecDeque::new(),
            taken: 0,
            writers,
            counters,
            tasks,
        })
    }

    /// Takes one more lock, to be held for some kills.
    pub(super) async fn take(&mut self) -> Checked<()> {
        self.taken += 1;
        let name = format!("ledger/{}", self.taken);
        self.kept.push_back(self.keeper.acquire_timeout(name, Mode::Exclusive, PATIENCE).await?);
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
        Ok(())
    }

    /// Locks taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// All that is held is held in the service too.
    pub(super) async fn is_intact(&self) -> Checked<()> {
        let session = self.keeper.session();
        for guard in &self.kept {
            let entry = self.reader.inspect(guard.name().as_str()).await?;
            let is_right = |holders: &[lock_client::Holder]| {
                holders.len() == 1 && (holders[0].session, holders[0].token) == (session, guard.token())
            };
            if !is_right(&entry.holders) {
                let (name, token) = (guard.name(), guard.token());
                return Err(Failure::Wrong(format!(
                    "{name} was granted to session {session} with token {token}, which the service does not know any more: {entry:?}"
                )));
            }
        }
        Ok(())
    }

    /// Lets the writers finish, and looks at what they wrote; so many increments.
    pub(super) async fn end(mut self) -> Checked<u64> {
        self.counters.stop.store(true, Ordering::Relaxed);
        let all_end = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.map_err(|error| Failure::Wrong(format!("a writer: {error}")))??;
            }
            Checked::Ok(())
        };
        match timeout(PATIENCE, all_end).await {
            Ok(ended) => ended?,
            Err(_) => return Err(Failure::Wrong(format!("writers get no lock within {PATIENCE:?}"))),
        }
        let counted = self.counters.values.iter().map(|value| value.load(Ordering::Relaxed)).sum::<u64>();
        let increments = self.counters.increments.load(Ordering::Relaxed);
        if counted != increments {
            return Err(Failure::Wrong(format!("{increments} increments under locks have counted to {counted}")));
        }
        self.kept.clear();
        for client in self.writers.iter().chain([&self.keeper, &self.reader]) {
            client.close().await?;
        }
        Ok(increments)
    }
}

impl Counters {
    async fn count(self: Arc<Self>, locks: LockClient, counter: usize) -> Checked<()> {
        let name = format!("counter/{counter}");
        while !self.stop.load(Ordering::Relaxed) {
            let guard = locks.acquire(&name, Mode::Exclusive).await?;
            let read = self.values[counter].load(Ordering::Relaxed);
            sleep(PAUSE).await;
            if guard.is_valid() {
                self.values[counter].store(read + 1, Ordering::Relaxed);
                self.increments.fetch_add(1, Ordering::Relaxed);
            }
            drop(guard);
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

async fn connect(endpoints: &[String], name: &str) -> Checked<LockClient> {
    Ok(LockClient::builder(endpoints).name(name).lease(LEASE).connect_timeout(PATIENCE).connect().await?)
}
