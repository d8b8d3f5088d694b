//! Real processes and a nemesis; see [`plumeria_tests::campaign`].

#![expect(clippy::disallowed_methods, reason = "real processes live in real time; the bans are for the simulator")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use plumeria_tests::campaign::{
    ClientSettings, Entered, Fault, Ground, Report, RoundSettings, enter, run_client, run_round,
};
use rsm::Durability;
use tokio::signal::unix::{SignalKind, signal};

const FALL_BACK_MINUTES: f64 = 0.5;

/// Founds one cluster after the other, torments it, heals it, and judges what clients were granted meanwhile.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// For how long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The first round's; each next one has the next. Drawn, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// So many rounds instead of minutes.
    #[arg(long, conflicts_with = "minutes")]
    rounds: Option<u64>,
    /// For how long there are faults in a round, seconds.
    #[arg(long, default_value_t = 40)]
    round_seconds: u64,
    /// How many members each cluster has; drawn from 1, 3 and 5, if it is not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=5))]
    members: Option<u64>,
    /// Whether the last member of three or more is a witness; drawn, if it is not said.
    #[arg(long)]
    witness: Option<bool>,
    /// What members' logs and snapshots are on: nvm, full-ss, epoch-ss or ring; drawn, if it is not given.
    #[arg(long, value_name = "MODE")]
    durability: Option<Durability>,
    /// Only these faults.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Fault>,
    /// Tells each fault.
    #[arg(long, short)]
    verbose: bool,
    /// Without namespaces: members are killed and stopped, but not cut off.
    #[arg(long)]
    loopback: bool,
    /// Where what failed is put: history, what was done, logs.
    #[arg(long, default_value = "target/campaign-failures")]
    evidence: PathBuf,
    /// The lock server; at first the one with break points beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// A client process of the campaign.
    #[command(hide = true)]
    Client(ClientFlags),
}

#[derive(Debug, Args)]
struct ClientFlags {
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    #[arg(long)]
    name: String,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    lease_ms: u64,
    #[arg(long)]
    locks: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Client(ClientFlags { endpoints, name, seed, lease_ms, locks })) = arguments.role {
        let settings = ClientSettings { endpoints, name, seed, lease: Duration::from_millis(lease_ms), locks };
        return match run_client(settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string()),
        };
    }
    let space = match (arguments.loopback, if arguments.loopback { None } else { Some(enter()) }) {
        (_, Some(Entered::Inside(space))) => Some(space),
        (_, Some(Entered::Impossible(why))) => {
            println!("SKIPPED: partitions, slow and lossy links, full disks: namespaces cannot be made here ({why})");
            None
        }
        (_, None) => None,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("no runtime: {error}")),
    };
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => return complain(&error.to_string()),
        };
        tokio::select! {
            ended = run(&arguments, space) => ended,
            _ = interrupt.recv() => complain("interrupted"),
            _ = terminate.recv() => complain("asked to stop"),
        }
    })
}

async fn run(arguments: &Arguments, space: Option<plumeria_tests::campaign::Space>) -> ExitCode {
    let first = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    let ground = match space {
        None => Ok(Ground::Loopback),
        Some(space) => Ground::in_namespaces(space, first),
    };
    let (ground, program) = match (ground, std::env::current_exe()) {
        (Ok(ground), Ok(program)) => (ground, program),
        (Err(failure), _) => return complain(&failure.to_string()),
        (_, Err(error)) => return complain(&error.to_string()),
    };
    let server = arguments.server.clone().unwrap_or_else(|| program.with_file_name("lock-server-under-test"));
    // What is left to do without namespaces was not what was asked for.
    let fell_back = matches!(ground, Ground::Loopback) && !arguments.loopback;
    let minutes = if fell_back { arguments.minutes.min(FALL_BACK_MINUTES) } else { arguments.minutes };
    let until = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut total = Report::default();
    println!("campaign: first seed {first}");
    for seed in first.. {
        let over = arguments.rounds.map_or(Instant::now() >= until, |rounds| total.rounds >= rounds);
        if over {
            break;
        }
        let settings = RoundSettings {
            server: server.clone(),
            program: program.clone(),
            seed,
            members: arguments.members,
            witness: arguments.witness,
            durability: arguments.durability,
            only: arguments.only.clone(),
            time: Duration::from_secs(arguments.round_seconds),
            aloud: arguments.verbose,
            evidence: arguments.evidence.clone(),
        };
        match run_round(&settings, &ground).await {
            Ok(report) => {
                println!("seed {seed}: {report}");
                total.add(&report);
            }
            Err(violation) => {
                println!("VIOLATED: {}", violation.what);
                println!("again: tests/campaign --rounds 1 --seed {seed}{}", again(arguments));
                println!("evidence: {}", violation.evidence.display());
                return ExitCode::FAILURE;
            }
        }
    }
    println!("campaign: nothing is violated. {total}");
    ExitCode::SUCCESS
}

/// The flags that change what a seed draws.
fn again(arguments: &Arguments) -> String {
    let mut flags = format!(" --round-seconds {}", arguments.round_seconds);
    if let Some(members) = arguments.members {
        flags += &format!(" --members {members}");
    }
    if let Some(witness) = arguments.witness {
        flags += &format!(" --witness {witness}");
    }
    if let Some(mode) = arguments.durability {
        flags += &format!(" --durability {mode}");
    }
    if !arguments.only.is_empty() {
        let only: Vec<String> = arguments.only.iter().map(Fault::to_string).collect();
        flags += &format!(" --only {}", only.join(","));
    }
    if arguments.loopback {
        flags += " --loopback";
    }
    flags
}

fn complain(line: &str) -> ExitCode {
    eprintln!("campaign: {line}");
    ExitCode::FAILURE
}
