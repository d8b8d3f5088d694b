//! A cluster whose members go from one release to the next, one after the other, while clients fight for its locks.
//!
//! # Chapter
//!
//! Two programs are given, the lock server of the former release and this one's; `tests/rolling-upgrade REVISION` builds the former from the
//! repository. Three members of the former release are founded; each is stopped in good order and started on the same store as the
//! new release. On the way everything that one release writes and another reads is read once (the steps are in [`run_upgrade`]): logs and
//! snapshots on the medium, messages between members of both, a snapshot sent by the former and one sent by the new release, calls of
//! clients to both. And one member goes back and forth again, since nobody has used anything that only the new release knows.
//!
//! Why it is right: after each step all members must serve, be in sync, and have had the same state after the same op; a laggard's own
//! log must say that it installed a snapshot; the storm's oracle and the keeper's lock hold throughout.
//!
//! # Limits of this implementation
//!
//! - Clients are of the new release.
//! - With the same program twice, as `cargo test` runs it, it shows that the steps can be made, and nothing of two releases. What is shown
//!   without the former program is that its snapshots are read and written, by bytes that it wrote
//!   (`lock-server/src/machine/scripts/formats.rs`), and that entries, control records and ops have the bytes that they had.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use lock_client::{LockClient, LockName, Mode};
use tokio::time::{Instant, sleep};

use crate::lab::{Blow, Checked, Cluster, Expected, Failure, Keeper, Storm, StormSettings, views, wrong};

const REPLICAS: u64 = 3;
/// Longer than any step.
const LEASE: Duration = Duration::from_secs(60);
/// Between two steps each lock has changed hands many times.
const SOME_GRANTS: u64 = 50;
/// Acquires that a log of the lab's size cannot keep: what it began with is in a snapshot only.
const CHURN: u64 = 8_000;
const CHURN_IN_FLIGHT: usize = 256;
const CHURN_KEPT: usize = 256;
/// A member whose store was emptied has a snapshot within it.
const RETURN_MAX: Duration = Duration::from_secs(60);

/// The two releases.
#[derive(Clone, Debug)]
pub struct Releases {
    /// The former's lock server.
    pub former: PathBuf,
    /// This one's.
    pub new: PathBuf,
}

struct Upgrade {
    cluster: Cluster,
    keeper: Keeper,
    storm: Storm,
}

/// Makes all the steps; `told` hears each before it is made.
///
/// # Errors
/// Something is wrong with the service.
pub async fn run_upgrade(releases: &Releases, told: &mut impl FnMut(&str)) -> Checked<()> {
    let mut upgrade = Upgrade::of_the_former(releases).await?;
    let primary = upgrade.settled().await?;
    let [one, other] = others(primary);
    told("three members of the former release serve; one becomes new, on its store");
    upgrade.restart(one, &releases.new).await?;
    told("that one has lost its disk: the former release sends it a snapshot");
    upgrade.restart_empty(one, &releases.new).await?;
    told("the other one becomes new, the primary last");
    upgrade.restart(other, &releases.new).await?;
    upgrade.restart(primary, &releases.new).await?;
    told("one goes back to the former release, on its store");
    upgrade.restart(primary, &releases.former).await?;
    told("that one has lost its disk: the new release sends it a snapshot");
    upgrade.restart_empty(primary, &releases.former).await?;
    told("at last all are new");
    upgrade.restart(primary, &releases.new).await?;
    upgrade.finish().await
}

impl Upgrade {
    async fn of_the_former(releases: &Releases) -> Checked<Upgrade> {
        let cluster = Cluster::start(&releases.former, REPLICAS)?;
        cluster.agree(&anywhere()).await?;
        let keeper = Keeper::start(&cluster).await?;
        let settings = StormSettings { lease: LEASE, ..StormSettings::default() };
        let storm = Storm::start(&cluster.endpoints(), &settings).await?;
        churn(&cluster.endpoints()).await?;
        Ok(Upgrade { cluster, keeper, storm })
    }

    /// All are in sync and of one state; says who is primary.
    async fn settled(&mut self) -> Checked<u64> {
        self.storm.progress(SOME_GRANTS).await?;
        self.keeper.is_served().await?;
        Ok(self.cluster.agree(&anywhere()).await?.primary)
    }

    /// Stops a member in good order, and starts this program on its store.
    async fn restart(&mut self, id: u64, server: &Path) -> Checked<()> {
        self.cluster.stop(id, Blow::Term).await?;
        self.cluster.set_server(server);
        self.cluster.launch(id)?;
        self.settled().await.map(drop)
    }

    /// The same on an empty store. What the others' logs began with is gone by then.
    async fn restart_empty(&mut self, id: u64, server: &Path) -> Checked<()> {
        churn(&self.cluster.endpoints()).await?;
        self.cluster.stop(id, Blow::Kill).await?;
        self.cluster.wipe(id)?;
        let log_bytes = self.cluster.log_bytes(id)?;
        self.cluster.set_server(server);
        self.cluster.launch(id)?;
        let until = Instant::now() + RETURN_MAX;
        let back = loop {
            match self.cluster.returned(id, log_bytes)? {
                Some(back) => break back,
                None if Instant::now() > until => {
                    return wrong(format!("member {id} has not caught up within {RETURN_MAX:?}"));
                }
                None => sleep(Duration::from_millis(10)).await,
            }
        };
        if back.caught_up.installed_op == 0 {
            return wrong(format!("member {id} should have been sent a snapshot: {back:?}"));
        }
        self.settled().await.map(drop)
    }

    async fn finish(self) -> Checked<()> {
        let Upgrade { cluster, keeper, storm } = self;
        storm.stop().await?;
        cluster.settle(&anywhere()).await?;
        keeper.hand_over(&cluster).await?;
        cluster.settle(&anywhere()).await.map(drop)
    }
}

fn anywhere() -> Expected {
    views(1..=u64::MAX, 1..=REPLICAS)
}

/// The members besides this one.
fn others(primary: u64) -> [u64; 2] {
    [primary % REPLICAS + 1, (primary + 1) % REPLICAS + 1]
}

/// Locks that are taken once: the log grows, and the state does not.
async fn churn(endpoints: &[String]) -> Checked<()> {
    let builder = LockClient::builder(endpoints).name("churn").lease(LEASE).connect_timeout(LEASE);
    let client = builder.cache(CHURN_KEPT, LEASE).connect().await?;
    let acquire = async |number: u64| {
        let name = format!("churn/{number:0width$}", width = LockName::MAX_BYTES - "churn/".len());
        client.acquire(name, Mode::Exclusive).await.map(drop).map_err(Failure::from)
    };
    stream::iter(0..CHURN).map(acquire).buffer_unordered(CHURN_IN_FLIGHT).try_collect::<()>().await?;
    Ok(client.close().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_all_but_the_primary() {
        assert_eq!([others(1), others(2), others(3)], [[2, 3], [3, 1], [1, 2]]);
    }
}
