//! A client that keeps a lock through a whole scenario, and a fresh one that must not get it.
//!
//! Why it is right: that the fresh client is refused proves something only if the service is there and knows of the holder; so the
//! lock is looked at first, and must be held by the keeper under its token. When the keeper lets go the fresh client must have
//! it, under a greater token. A second lock lies idle in the keeper's cache: for it a revoke has to reach the keeper.

use std::time::Duration;

use lock_client::{AcquireError, LockClient, LockGuard, Mode};

use super::cluster::{Cluster, DEADLINE};
use super::failure::{Checked, disturbed, wrong};
use super::storm::connect;

/// Longer than any outage that a scenario makes.
const LEASE: Duration = Duration::from_secs(60);
/// For how long the fresh client tries.
const TRY: Duration = Duration::from_millis(300);
const HELD: &str = "keeper/held";
const IDLE: &str = "keeper/idle";

/// The client that keeps.
#[derive(Debug)]
pub struct Keeper {
    client: LockClient,
    held: LockGuard,
    idle_token: u64,
    errands: u64,
}

impl Keeper {
    /// Takes both locks.
    ///
    /// # Errors
    /// It does not get them.
    pub async fn start(cluster: &Cluster) -> Checked<Keeper> {
        let client = connect(&cluster.endpoints(), "keeper", LEASE).await?;
        let held = client.acquire_timeout(HELD, Mode::Exclusive, DEADLINE).await?;
        let idle_token = client.acquire_timeout(IDLE, Mode::Exclusive, DEADLINE).await?.token().0;
        Ok(Keeper { client, held, idle_token, errands: 0 })
    }

    /// The service takes a command.
    ///
    /// # Errors
    /// It does not.
    pub async fn is_served(&mut self) -> Checked<()> {
        let name = self.next_errand();
        drop(self.client.acquire_timeout(name, Mode::Exclusive, DEADLINE).await?);
        Ok(())
    }

    /// The service takes no command, for so long.
    ///
    /// # Errors
    /// It does.
    pub async fn is_not_served(&mut self, patience: Duration) -> Checked<()> {
        let name = self.next_errand();
        match self.client.acquire_timeout(name, Mode::Exclusive, patience).await {
            Err(AcquireError::Timeout { .. }) => Ok(()),
            Ok(guard) => wrong(format!("{} was granted without a majority", guard.name())),
            Err(error) => Err(error.into()),
        }
    }

    fn next_errand(&mut self) -> String {
        self.errands += 1;
        format!("keeper/errand/{}", self.errands)
    }

    /// A fresh client does not get what this one holds.
    ///
    /// # Errors
    /// It does; or the service does not know of the holder.
    pub async fn still_holds(&self, cluster: &Cluster) -> Checked<()> {
        let fresh = connect(&cluster.endpoints(), "fresh", LEASE).await?;
        self.refuses(&fresh).await?;
        Ok(fresh.close().await?)
    }

    async fn refuses(&self, fresh: &LockClient) -> Checked<()> {
        let entry = fresh.inspect(HELD).await?;
        let (session, token) = (self.client.session(), self.held.token());
        if !self.held.is_valid() {
            return disturbed("the keeper's lease ran out");
        }
        if entry.holders.len() != 1 || entry.holders[0].session != session || entry.holders[0].token != token {
            return wrong(format!("{HELD} should be held by session {session} with token {token}: {entry:?}"));
        }
        match fresh.acquire_timeout(HELD, Mode::Exclusive, TRY).await {
            Err(AcquireError::Timeout { .. }) => Ok(()),
            Ok(guard) if self.held.is_valid() => wrong(format!(
                "{HELD} is held by the keeper with token {token}, and was granted to a fresh client with {}",
                guard.token()
            )),
            Ok(_) => disturbed("the keeper's lease ran out"),
            Err(error) => Err(error.into()),
        }
    }

    /// A fresh client gets nothing while the keeper holds, and everything when it lets go.
    ///
    /// # Errors
    /// It is otherwise.
    pub async fn hand_over(self, cluster: &Cluster) -> Checked<()> {
        let fresh = connect(&cluster.endpoints(), "fresh", LEASE).await?;
        self.refuses(&fresh).await?;
        let Keeper { client, held, idle_token, .. } = self;
        let held_token = held.token().0;
        drop(held);
        for (name, before) in [(HELD, held_token), (IDLE, idle_token)] {
            let token = fresh.acquire_timeout(name, Mode::Exclusive, DEADLINE).await?.token().0;
            if token <= before {
                return wrong(format!("{name} was granted with token {token}, after one with {before}"));
            }
        }
        fresh.close().await?;
        Ok(client.close().await?)
    }
}
