//! One cluster, founded, tormented, healed and judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use rsm::Durability;
use tokio::time::{Instant, sleep};

use super::fault::Fault;
use super::fleet::{Books, Crew, all_are_granted};
use super::ground::{CLIENTS, Ground};
use super::nemesis::Scene;
use super::network::Network;
use super::probe::Probe;
use super::report::Report;
use crate::lab::{Checked, Cluster, Failure, has_shared_memory, view, views};
use crate::linearizability::locks::{self, View};
use crate::simulator::dice::Dice;

/// Before the first fault every client has had something.
const LOCKS: (u64, u64) = (2, 5);
const LEASE_MS: (u64, u64) = (1000, 4000);
/// In a member's log these are never in order; after them its process ends or has lost a thread.
const BAD_WORDS: [&str; 3] = [" ERROR ", "panicked at", "this is a bug"];

/// How a campaign is to be.
#[derive(Clone, Debug)]
pub struct RoundSettings {
    /// The lock server, with or without break points.
    pub server: PathBuf,
    /// The program that has `client` for a subcommand.
    pub program: PathBuf,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Or drawn.
    pub members: Option<u64>,
    /// Whether the last member of three or more is a witness; or drawn.
    pub witness: Option<bool>,
    /// What members' logs are on; or drawn.
    pub durability: Option<Durability>,
    /// Only these; all if it is empty.
    pub only: Vec<Fault>,
    /// For how long there are faults.
    pub time: Duration,
    /// Whether each fault is told as it happens.
    pub aloud: bool,
    /// Where a failure's evidence is put.
    pub evidence: PathBuf,
}

/// A round that was not right.
#[derive(Debug)]
pub struct Violation {
    /// What was violated, in one line.
    pub what: String,
    /// Where its history and the logs are.
    pub evidence: PathBuf,
}

/// Runs a round.
///
/// # Errors
/// What is wrong with the service.
pub async fn run_round(settings: &RoundSettings, ground: &Ground) -> Result<Report, Violation> {
    let mut dice = Dice::new(settings.seed);
    let size = settings.members.unwrap_or(*dice.pick(&[1, 3, 3, 3, 5, 5]));
    let mut scene = match found(settings, ground, size, &mut dice).await {
        Ok(scene) => scene,
        Err(failure) => return Err(Violation { what: failure.to_string(), evidence: PathBuf::new() }),
    };
    let traffic = || ground.network().map(Network::traffic).unwrap_or_default();
    let before = traffic();
    let outcome = torment(settings, &mut scene).await;
    let after = traffic();
    if let Some(network) = ground.network() {
        network.heal();
    }
    let outcome = outcome.map(|report| Report {
        passed: after.passed - before.passed,
        dropped: after.dropped - before.dropped,
        twins: after.twins - before.twins,
        overtaken: after.overtaken - before.overtaken,
        ..report
    });
    outcome.map_err(|failure| {
        let evidence = settings.evidence.join(format!("seed-{}", settings.seed));
        let (mode, disks) = (scene.cluster.durability(), scene.disks.kind);
        let what = format!("{failure} (seed {}, {size} members, {mode} on {disks})", settings.seed);
        if let Err(error) = keep(&evidence, &what, &scene) {
            eprintln!("the evidence cannot be kept in {}: {error}", evidence.display());
        }
        Violation { what, evidence }
    })
}

async fn found<'a>(settings: &RoundSettings, ground: &'a Ground, size: u64, dice: &mut Dice) -> Checked<Scene<'a>> {
    let witness = settings.witness.unwrap_or(dice.below(3) == 0) && size >= 3;
    let mut cluster = Cluster::new(&settings.server, ground.places(size, witness, dice)?)?;
    cluster.list(1..=size);
    cluster.set_durability(settings.durability.unwrap_or(draw_mode(dice)))?;
    let disks = ground.disks(&cluster, dice)?;
    for id in 1..=size {
        cluster.launch(id)?;
    }
    cluster.agree(&view(1, [1])).await?;
    let crew = Crew {
        program: settings.program.clone(),
        endpoints: cluster.endpoints(),
        lease: Duration::from_millis(dice.between(LEASE_MS)),
        locks: dice.between(LOCKS),
        books: Books::default(),
    };
    let mut scene = Scene::new(ground, disks, cluster, crew, Dice::new(dice.number()));
    scene.aloud = settings.aloud;
    for slot in 0..usize::from(CLIENTS) {
        let client = scene.start_client(slot)?;
        scene.clients.push(client);
    }
    Ok(scene)
}

fn draw_mode(dice: &mut Dice) -> Durability {
    match *dice.pick(&Durability::ALL) {
        Durability::Ring if !has_shared_memory() => Durability::default(),
        mode => mode,
    }
}

async fn torment(settings: &RoundSettings, scene: &mut Scene<'_>) -> Checked<Report> {
    let books = scene.crew.books.clone();
    let probe = Probe::start(scene.crew.endpoints.clone());
    let in_namespaces = scene.ground.network().is_some();
    let all = if settings.only.is_empty() { Fault::value_variants() } else { settings.only.as_slice() };
    let among: Vec<Fault> = all.iter().copied().filter(|fault| in_namespaces || !fault.is_of_network()).collect();
    everybody_is_served(scene, &books).await?;
    let until = Instant::now() + settings.time;
    while Instant::now() < until && !among.is_empty() {
        scene.step(&among).await?;
        if let Some(violation) = books.open().violation.clone() {
            return Err(Failure::Wrong(violation));
        }
    }
    scene.note("all is healed");
    let healed_at = Instant::now();
    scene.converge().await?;
    let anywhere = views(1..=u64::MAX, scene.cluster.listed().iter().copied());
    let agreed = scene.cluster.agree(&anywhere).await?;
    let converged = healed_at.elapsed();
    everybody_is_served(scene, &books).await?;
    let served = probe.count();
    while probe.count() == served {
        sleep(Duration::from_millis(20)).await;
        if healed_at.elapsed() > super::fleet::PATIENCE * 3 {
            return Err(Failure::Wrong("all is healed, but a lock that nobody holds is not granted".into()));
        }
    }
    scene.clients.iter().for_each(|client| client.finish());
    for client in std::mem::take(&mut scene.clients) {
        client.ended().await?;
    }
    let probed = probe.count();
    let longest_gap = probe.end().await;
    scene.cluster.settle(&anywhere).await?;
    no_bad_words(scene)?;
    let mut book = books.open();
    if let Some(violation) = book.violation.clone() {
        return Err(Failure::Wrong(violation));
    }
    let history = book.calls.end();
    let undecided = match locks::check(&history, View::Users) {
        Ok(()) => 0,
        Err(violation) if violation.is_undecided() => 1,
        Err(violation) => return Err(Failure::Wrong(violation.to_string())),
    };
    Ok(Report {
        rounds: 1,
        modes: [(scene.cluster.durability().to_string(), 1)].into(),
        faults: scene.faults.clone(),
        operations: history.len() as u64,
        calls: book.calls.count,
        grants: book.calls.grants,
        probed,
        sessions: book.sessions.len() as u64,
        undecided,
        written: book.stores.written,
        refused: book.stores.refused,
        views: agreed.view,
        changes: scene.changes,
        starts: scene.starts,
        longest_gap,
        longest_convergence: converged,
        ..Report::default()
    })
}

async fn everybody_is_served(scene: &Scene<'_>, books: &Books) -> Checked<()> {
    let clients: Vec<u64> = scene.clients.iter().map(|client| client.number()).collect();
    all_are_granted(books, &clients).await
}

fn no_bad_words(scene: &Scene<'_>) -> Checked<()> {
    for id in scene.cluster.places().keys().filter(|id| !scene.starved.contains(id)) {
        // A spare may never have been started.
        let log = fs::read_to_string(scene.cluster.log(*id)).unwrap_or_default();
        let is_bad = |line: &&str| BAD_WORDS.iter().any(|word| line.contains(word)) && !scene.expects(*id, line);
        if let Some(line) = log.lines().find(is_bad) {
            return Err(Failure::Wrong(format!("member {id} logs: {line}")));
        }
    }
    Ok(())
}

/// What was violated, what was done, what clients did, what members logged.
fn keep(evidence: &Path, what: &str, scene: &Scene<'_>) -> std::io::Result<()> {
    fs::create_dir_all(evidence)?;
    fs::write(evidence.join("what.txt"), format!("{what}\n\n{}\n", scene.log.join("\n")))?;
    let mut book = scene.crew.books.open();
    fs::write(evidence.join("sessions.txt"), format!("sessions and their clients: {:?}\n", book.sessions))?;
    book.calls.end().write(&mut fs::File::create(evidence.join("history.jsonl"))?)?;
    for id in scene.cluster.places().keys().filter(|id| scene.cluster.log(**id).exists()) {
        fs::copy(scene.cluster.log(*id), evidence.join(format!("member-{id}.log")))?;
    }
    Ok(())
}
