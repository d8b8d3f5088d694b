//! Clients that fight for a few locks, without end: what goes on while members die.
//!
//! Why it is right: each grant is entered with the [`Oracle`] before anything else is done with it. What one client finds wrong ends
//! the storm, and is told at its end. The longest gap between two grants is measured over all clients together: it is the
//! time for which nobody got anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_client::{LockClient, Mode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::cluster::{DEADLINE, POLL};
use super::failure::{Checked, Failure, disturbed, wrong};
use super::oracle::Oracle;

/// What a user does with a lock.
const HOLD: Duration = Duration::from_millis(1);
/// Every so many acquires one is shared.
const SHARED_EVERY: u64 = 4;

/// How the storm is to be.
#[derive(Clone, Debug)]
pub struct StormSettings {
    /// How many clients, each with a session.
    pub clients: u64,
    /// How many locks they fight for.
    pub locks: u64,
    /// Their lease.
    pub lease: Duration,
    /// Locks' names begin so.
    pub prefix: String,
}

impl Default for StormSettings {
    fn default() -> Self {
        StormSettings { clients: 6, locks: 3, lease: Duration::from_secs(10), prefix: "storm/".into() }
    }
}

/// A storm that blows.
#[derive(Debug)]
pub struct Storm {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    clients: Vec<LockClient>,
}

/// What a storm did.
#[derive(Clone, Copy, Debug)]
pub struct StormReport {
    /// Locks granted to users.
    pub grants: u64,
    /// The longest time in which nobody was granted anything.
    pub longest_gap: Duration,
}

#[derive(Debug)]
struct Shared {
    oracle: Oracle,
    stop: AtomicBool,
    grants: AtomicU64,
    gap: Mutex<Gap>,
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Gap {
    last: Instant,
    longest: Duration,
}

impl Storm {
    /// Connects the clients, and lets them go.
    ///
    /// # Errors
    /// They cannot connect.
    pub async fn start(endpoints: &[String], settings: &StormSettings) -> Checked<Storm> {
        let mut clients = Vec::new();
        for number in 0..settings.clients {
            clients.push(connect(endpoints, &format!("storm-{number}"), settings.lease).await?);
        }
        let shared = Arc::new(Shared {
            oracle: Oracle::default(),
            stop: AtomicBool::new(false),
            grants: AtomicU64::new(0),
            gap: Mutex::new(Gap { last: now(), longest: Duration::ZERO }),
            failure: Mutex::new(None),
        });
        let mut tasks = JoinSet::new();
        for (number, client) in (0..).zip(&clients) {
            for lock in 0..settings.locks {
                let name = format!("{}{lock}", settings.prefix);
                let (client, shared) = (client.clone(), Arc::clone(&shared));
                tasks.spawn(async move {
                    if let Err(failure) = shared.fight(number, &client, &name).await {
                        shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                });
            }
        }
        Ok(Storm { shared, tasks, clients })
    }

    /// Locks granted so far.
    pub fn grants(&self) -> u64 {
        self.shared.grants.load(Ordering::Relaxed)
    }

    /// Measures the longest gap from here on.
    pub fn measure_from_now(&self) {
        *self.shared.gap.lock().unwrap_or_else(PoisonError::into_inner) = Gap { last: now(), longest: Duration::ZERO };
    }

    /// The longest gap so far, the one that has not ended too.
    pub fn longest_gap(&self) -> Duration {
        let gap = self.shared.gap.lock().unwrap_or_else(PoisonError::into_inner);
        gap.longest.max(gap.last.elapsed())
    }

    /// Waits for so many more grants.
    ///
    /// # Errors
    /// They do not come, or something is wrong.
    pub async fn progress(&self, more: u64) -> Checked<()> {
        let (target, deadline) = (self.grants() + more, now() + DEADLINE);
        while self.grants() < target {
            if let Some(failure) = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return Err(failure);
            }
            if now() > deadline {
                return wrong(format!(
                    "clients get no locks any more: {} of {more} within {DEADLINE:?}",
                    self.grants() + more - target
                ));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Nobody waited longer for a grant than this since [`Storm::measure_from_now`].
    ///
    /// # Errors
    /// Somebody did.
    pub fn was_never_without_grants_for(&self, most: Duration) -> Checked<()> {
        let gap = self.longest_gap();
        if gap > most {
            disturbed(format!("for {gap:?} nobody was granted anything, {most:?} is allowed"))
        } else {
            Ok(())
        }
    }

    /// Lets the users finish, closes the clients.
    ///
    /// # Errors
    /// What any of them found wrong; or users do not finish.
    pub async fn stop(mut self) -> Checked<StormReport> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let all_end = async { while self.tasks.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(DEADLINE, all_end).await;
        if let Some(failure) = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(failure);
        }
        if ended.is_err() {
            return wrong(format!("{} users of the storm do not get their locks", self.tasks.len()));
        }
        let report = StormReport { grants: self.grants(), longest_gap: self.longest_gap() };
        for client in self.clients.drain(..) {
            client.close().await?;
        }
        Ok(report)
    }
}

impl Shared {
    async fn fight(&self, client: u64, locks: &LockClient, name: &str) -> Checked<()> {
        let mut turn = client;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let mode = if turn.is_multiple_of(SHARED_EVERY) { Mode::Shared } else { Mode::Exclusive };
            let held = self.oracle.enter(client, locks.acquire(name, mode).await?)?;
            self.granted();
            sleep(HOLD).await;
            drop(held);
            // Others of this thread may have been granted theirs.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn granted(&self) {
        self.grants.fetch_add(1, Ordering::Relaxed);
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        gap.longest = gap.longest.max(gap.last.elapsed());
        gap.last = now();
    }
}

/// Opens a session; on a busy machine it may take a while.
pub(crate) async fn connect(endpoints: &[String], name: &str, lease: Duration) -> Checked<LockClient> {
    let builder = LockClient::builder(endpoints).name(name).lease(lease).connect_timeout(DEADLINE);
    Ok(builder.connect().await?)
}

fn now() -> Instant {
    Instant::now()
}
