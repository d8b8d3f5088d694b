//! State and log of a given size, made through the front door.
//!
//! Why it is right: a lock that a client has cached is held, and stands in every replica's state until the client closes. What is
//! acquired through a cache that holds few is soon given back, and leaves its ops in the log and nothing in the state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_client::{LOCKS_MAX, LockClient, LockName, Mode};
use tokio::task::JoinSet;

use crate::lab::{Checked, Failure};

/// In a snapshot a held lock takes its name and about so much more, bytes; rows say what it came to.
const LOCK_BYTES: u64 = 80;
/// In the log a cycle of acquire and release takes two names and about so much more.
const CYCLE_BYTES: u64 = 160;
const SESSION_LEASE: Duration = Duration::from_secs(3600);
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Acquires under way at a time.
const IN_FLIGHT: u64 = 256;
/// Locks that the client keeps which only makes log.
const FEW: usize = 512;

/// Holds the state for as long as it lives.
#[derive(Debug)]
pub(super) struct Filling {
    holder: LockClient,
}

impl Filling {
    /// Fills state and then log.
    pub(super) async fn make(endpoints: &[String], state_bytes: u64, log_bytes: u64) -> Checked<Filling> {
        let name_bytes = LockName::MAX_BYTES as u64;
        let builder = LockClient::builder(endpoints).name("holder").lease(SESSION_LEASE).connect_timeout(CONNECT_MAX);
        let holder = builder.cache(LOCKS_MAX, SESSION_LEASE).connect().await?;
        acquire_all(&holder, "state", state_bytes / (name_bytes + LOCK_BYTES)).await?;
        let builder = LockClient::builder(endpoints).name("churn").lease(SESSION_LEASE).connect_timeout(CONNECT_MAX);
        let churn = builder.cache(FEW, SESSION_LEASE).connect().await?;
        acquire_all(&churn, "log", log_bytes / (2 * name_bytes + CYCLE_BYTES)).await?;
        churn.close().await?;
        Ok(Filling { holder })
    }

    /// Lets it go without a word: the cluster is at its end.
    pub(super) fn abandon(self) {
        self.holder.abandon();
    }
}

async fn acquire_all(client: &LockClient, prefix: &str, count: u64) -> Checked<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, next, prefix) = (client.clone(), Arc::clone(&next), prefix.to_owned());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Checked::Ok(());
                }
                let name = format!("{prefix}/{number:0width$}", width = LockName::MAX_BYTES - prefix.len() - 1);
                drop(client.acquire(name, Mode::Exclusive).await?);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::Wrong(format!("a user: {error}")))??;
    }
    Ok(())
}
