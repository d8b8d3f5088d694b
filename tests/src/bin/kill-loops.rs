//! Clusters whose processes are killed time and again; see [`plumeria_tests::kill_loops`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plumeria_tests::kill_loops::{LoopSettings, run_loops};
use plumeria_tests::lab::{has_shared_memory, last_words};
use plumeria_tests::program;
use rsm::Durability;

/// Kills replicas of a cluster under load in each durability mode: nothing that was acknowledged may be lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// In these modes only: nvm, full-ss, epoch-ss, ring.
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    durability: Vec<Durability>,
    /// How often a random replica of three is killed, in each mode.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// How often all three are at once; not in epoch-ss, which would forget all.
    #[arg(long, default_value_t = 30)]
    at_once: u64,
    /// Of what is drawn; drawn, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// All modes at the same time.
    #[arg(long)]
    together: bool,
    /// Tells what each member says of its start.
    #[arg(long, short)]
    verbose: bool,
    /// The lock server; at first the one with break points beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
}

fn main() -> ExitCode {
    program::ended("kill-loops", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let server = program::server(arguments.server.as_deref())?;
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    let mut modes = match arguments.durability.as_slice() {
        [] => Durability::ALL.to_vec(),
        some => some.to_vec(),
    };
    if modes.contains(&Durability::Ring) && !has_shared_memory() {
        println!("SKIPPED: ring (no /dev/shm)");
        modes.retain(|mode| *mode != Durability::Ring);
    }
    let settings = |mode| LoopSettings {
        server: server.clone(),
        mode,
        kills: arguments.kills,
        at_once: arguments.at_once,
        seed,
        aloud: arguments.verbose,
    };
    let all: Vec<LoopSettings> = modes.into_iter().map(settings).collect();
    let groups = all.chunks(if arguments.together { all.len().max(1) } else { 1 });
    let runtime = program::runtime()?;
    println!("kill loops: seed {seed}");
    let mut is_right = true;
    for group in groups {
        for outcome in runtime.block_on(futures::future::join_all(group.iter().map(run_loops))) {
            match outcome {
                Ok(tally) => println!("{tally}"),
                Err(failure) => {
                    is_right = false;
                    println!("{failure}\n{}", last_words());
                }
            }
        }
    }
    if !is_right {
        return Err("something that was acknowledged is lost".into());
    }
    println!("kill loops: nothing that was acknowledged is lost");
    Ok(())
}
