//! The loops themselves.

use std::path::PathBuf;
use std::time::Duration;

use rsm::Durability;
use tokio::time::{Instant, sleep};

use super::ledger::{LEASE, Ledger, PATIENCE};
use super::tally::Tally;
use crate::lab::{Blow, Checked, Cluster, Failure, Return, Storm, StormSettings, outlives_process, views};
use crate::simulator::dice::{Dice, MILLION};

const REPLICAS: u64 = 3;
/// Grants between two kills: load is what is interrupted.
const GRANTS: u64 = 20;
const POLL: Duration = Duration::from_millis(10);
const BAD_WORDS: [&str; 3] = [" ERROR ", "panicked at", "this is a bug"];

/// How the loops are to be.
#[derive(Clone, Debug)]
pub struct LoopSettings {
    /// The lock server.
    pub server: PathBuf,
    /// Of all members.
    pub mode: Durability,
    /// How often one replica is killed.
    pub kills: u64,
    /// How often all are at once; none where the mode does not permit it.
    pub at_once: u64,
    /// Of what is drawn.
    pub seed: u64,
    /// Whether each kill is told.
    pub aloud: bool,
}

struct Loops {
    settings: LoopSettings,
    cluster: Cluster,
    storm: Storm,
    ledger: Ledger,
    dice: Dice,
    returns: Vec<Return>,
}

/// A process that is started after a kill.
#[derive(Clone, Copy)]
struct Start {
    id: u64,
    /// The length of its log then.
    log_bytes: u64,
    executed_before: u64,
    /// Before it is started.
    at: Instant,
}

/// Runs both loops in one mode.
///
/// # Errors
/// What is wrong with the service.
pub async fn run_loops(settings: &LoopSettings) -> Checked<Tally> {
    let mode = settings.mode;
    let mut loops = Loops::found(settings).await?;
    for number in 1..=settings.kills {
        let victim = 1 + loops.dice.below(REPLICAS);
        loops.kill(&[victim]).await.map_err(|failure| within(failure, settings, "kill", number))?;
    }
    let at_once = if outlives_process(mode) { settings.at_once } else { 0 };
    for number in 1..=at_once {
        let all: Vec<u64> = (1..=REPLICAS).collect();
        loops.kill(&all).await.map_err(|failure| within(failure, settings, "kill of all", number))?;
    }
    loops.end(at_once).await
}

fn within(failure: Failure, settings: &LoopSettings, what: &str, number: u64) -> Failure {
    Failure::Wrong(format!("{}, {what} {number}, seed {}: {failure}", settings.mode, settings.seed))
}

impl Loops {
    async fn found(settings: &LoopSettings) -> Checked<Loops> {
        let mut cluster = Cluster::new(&settings.server, Cluster::loopback(REPLICAS)?)?;
        cluster.set_durability(settings.mode)?;
        for id in 1..=REPLICAS {
            cluster.launch(id)?;
        }
        cluster.agree(&views(1..=u64::MAX, 1..=REPLICAS)).await?;
        let endpoints = cluster.endpoints();
        let storm = Storm::start(&endpoints, &StormSettings { lease: LEASE, ..StormSettings::default() }).await?;
        storm.measure_from_now();
        let ledger = Ledger::start(&endpoints).await?;
        let dice = Dice::new(settings.seed);
        Ok(Loops { settings: settings.clone(), cluster, storm, ledger, dice, returns: Vec::new() })
    }

    /// Kills these, starts them again, and waits until all are in sync; nothing acknowledged is lost by it.
    async fn kill(&mut self, victims: &[u64]) -> Checked<()> {
        self.storm.progress(GRANTS).await?;
        self.ledger.take().await?;
        let statuses = self.cluster.statuses().await;
        for id in victims {
            self.cluster.send(*id, Blow::Kill)?;
        }
        for id in victims {
            self.cluster.ended(*id).await?;
        }
        if victims.len() < REPLICAS as usize && self.dice.chance(MILLION / 2) {
            // The others go on without it.
            self.storm.progress(GRANTS).await?;
        }
        let mut starts = Vec::new();
        for id in victims {
            let executed_before = statuses.get(id).map_or(0, |status| status.applied_op);
            let log_bytes = self.cluster.log_bytes(*id)?;
            starts.push(Start { id: *id, log_bytes, executed_before, at: Instant::now() });
            self.cluster.launch(*id)?;
        }
        for start in starts {
            self.is_back(start).await?;
        }
        self.cluster.agree(&views(1..=u64::MAX, 1..=REPLICAS)).await?;
        self.ledger.is_intact().await
    }

    async fn is_back(&mut self, start: Start) -> Checked<()> {
        let Start { id, log_bytes, executed_before, at } = start;
        let back = loop {
            if let Some(back) = self.cluster.returned(id, log_bytes)? {
                break back;
            }
            if let Some(status) = self.cluster.has_ended(id)? {
                return Err(Failure::Wrong(format!("member {id} ended by itself with {status}")));
            }
            if at.elapsed() > PATIENCE {
                return Err(Failure::Wrong(format!("member {id} has not caught up within {PATIENCE:?}")));
            }
            sleep(POLL).await;
        };
        back.is_sane(outlives_process(self.settings.mode), at.elapsed(), executed_before)?;
        if self.settings.aloud {
            println!("{} member {id}: {back:?}", self.settings.mode);
        }
        self.returns.push(back);
        Ok(())
    }

    async fn end(self, at_once: u64) -> Checked<Tally> {
        let Loops { settings, cluster, storm, ledger, returns, .. } = self;
        let kept = ledger.taken();
        let increments = ledger.end().await?;
        let report = storm.stop().await?;
        let agreed = cluster.settle(&views(1..=u64::MAX, 1..=REPLICAS)).await?;
        for id in 1..=REPLICAS {
            let log = std::fs::read_to_string(cluster.log(id))?;
            if let Some(line) = log.lines().find(|line| BAD_WORDS.iter().any(|word| line.contains(word))) {
                return Err(Failure::Wrong(format!("member {id} logs: {line}")));
            }
        }
        Ok(Tally {
            mode: settings.mode,
            kills: settings.kills,
            at_once,
            grants: report.grants,
            kept,
            increments,
            views: agreed.view,
            longest_gap: report.longest_gap,
            returns,
        })
    }
}
