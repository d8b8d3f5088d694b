//! What every scenario begins and ends with.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::agreement::{Agreed, Expected, view};
use super::cluster::{Blow, Cluster, WATCHED};
use super::failure::{Checked, disturbed, wrong};
use super::keeper::Keeper;
use super::storm::{Storm, StormSettings};

/// The programs that the lab runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The lock server, with break points.
    pub server: PathBuf,
    /// The lock tester, of which a client that is to be killed is made.
    pub lock_tester: PathBuf,
}

/// In which way a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// How members are stopped.
    pub blow: Blow,
    /// Between a member's end and its next start.
    pub pause: Duration,
}

/// A cluster, a client that keeps a lock, and maybe a storm.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) keeper: Keeper,
    storm: Option<Storm>,
    pub(super) way: Way,
}

/// Grants between two steps of a scenario: each lock has changed hands many times.
const SOME_GRANTS: u64 = 150;
/// Without a change of primary nobody waits longer for a grant: members wait for nobody who is down.
const NO_INTERRUPTION: Duration = Duration::from_secs(3);

impl Stage {
    /// A founded cluster of so many members: view 1, member 1 is primary, all are in sync.
    pub(super) async fn quiet(programs: &Programs, way: Way, size: u64) -> Checked<Stage> {
        let cluster = Cluster::start(&programs.server, size)?;
        cluster.agree(&view(1, [1])).await?;
        let keeper = Keeper::start(&cluster).await?;
        Ok(Stage { cluster, keeper, storm: None, way })
    }

    /// The same, with a storm.
    pub(super) async fn stormy(programs: &Programs, way: Way, size: u64) -> Checked<Stage> {
        let mut stage = Stage::quiet(programs, way, size).await?;
        stage.rise().await?;
        Ok(stage)
    }

    /// Lets the storm rise.
    pub(super) async fn rise(&mut self) -> Checked<()> {
        let storm = Storm::start(&self.cluster.endpoints(), &StormSettings::default()).await?;
        storm.progress(SOME_GRANTS).await?;
        storm.measure_from_now();
        self.storm = Some(storm);
        Ok(())
    }

    /// Stops members in this scenario's way.
    pub(super) async fn stop(&mut self, id: u64) -> Checked<()> {
        self.cluster.stop(id, self.way.blow).await
    }

    /// Starts a member again, after this scenario's pause.
    pub(super) async fn restart(&mut self, id: u64) -> Checked<()> {
        sleep(self.way.pause).await;
        self.cluster.launch(id)
    }

    /// The service commits, and clients get their locks.
    pub(super) async fn serves(&mut self) -> Checked<()> {
        // A storm's clients may have locks cached; a lock that nobody had before takes a commit.
        self.keeper.is_served().await?;
        match &self.storm {
            Some(storm) => storm.progress(SOME_GRANTS).await,
            None => Ok(()),
        }
    }

    /// The service commits at once, and clients were granted locks all the time.
    pub(super) async fn serves_without_interruption(&mut self) -> Checked<()> {
        let asked_at = Instant::now();
        self.serves().await?;
        let took = asked_at.elapsed();
        match &self.storm {
            _ if took > NO_INTERRUPTION => disturbed(format!("for a commit and some grants it took {took:?}")),
            Some(storm) => storm.was_never_without_grants_for(NO_INTERRUPTION),
            None => Ok(()),
        }
    }

    /// There is no majority: nothing is committed, no view is formed, nobody is granted anything.
    pub(super) async fn stands_still(&mut self) -> Checked<()> {
        let Stage { cluster, keeper, .. } = self;
        let (still, unserved) = tokio::join!(cluster.stands_still(), keeper.is_not_served(WATCHED));
        still.and(unserved)
    }

    /// All that live serve in this view; with a storm states are compared at the end only.
    pub(super) async fn agrees(&self, expected: &Expected) -> Checked<Agreed> {
        match &self.storm {
            Some(_) => self.cluster.agree(expected).await,
            None => self.cluster.settle(expected).await,
        }
    }

    /// The end of every scenario: the storm found nothing, all live members have the same state, a fresh client gets what is free
    /// and nothing that is held.
    pub(super) async fn finish(mut self, expected: &Expected) -> Checked<()> {
        if let Some(storm) = self.storm.take() {
            let report = storm.stop().await?;
            if report.grants < SOME_GRANTS {
                return wrong(format!("the storm had only {} grants", report.grants));
            }
        }
        self.cluster.settle(expected).await?;
        self.keeper.hand_over(&self.cluster).await?;
        self.cluster.settle(expected).await?;
        Ok(())
    }
}
