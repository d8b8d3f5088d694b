//! The recovery benchmark; see [`plumeria_tests::recovery_bench`].

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use plumeria_tests::lab::{has_shared_memory, last_words};
use plumeria_tests::program;
use plumeria_tests::recovery_bench::{Machine, Medium, Outcome, Point, run_point};
use rsm::Durability;
use serde::Serialize;

/// Kills a backup of a filled cluster under load, in each durability mode, and writes down how it came back.
#[derive(Debug, Parser)]
struct Arguments {
    /// In these modes only: nvm, full-ss, epoch-ss, ring.
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    durability: Vec<Durability>,
    /// Sizes of the state, MB.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    state_mb: Vec<u64>,
    /// Sizes of the log, MiB.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64])]
    log_mib: Vec<u64>,
    /// From the kill to the start, seconds.
    #[arg(long, default_value_t = 1.0)]
    away_seconds: f64,
    /// Kills at each point.
    #[arg(long, default_value_t = 3)]
    repetitions: u64,
    /// Where the figures are put: OUT.jsonl, and OUT-timeline.jsonl with what clients were granted around each kill.
    #[arg(long)]
    out: PathBuf,
    /// The lock server; at first the one beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
}

fn main() -> ExitCode {
    program::ended("recovery-bench", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let server = program::server(arguments.server.as_deref())?;
    let create = |suffix: &str| {
        let path = PathBuf::from(format!("{}{suffix}", arguments.out.display()));
        File::create(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (mut rows, mut timelines) = (create(".jsonl")?, create("-timeline.jsonl")?);
    let machine = Machine::look();
    write(&mut rows, &machine)?;
    write(&mut timelines, &machine)?;
    let runtime = program::runtime()?;
    for point in points(arguments, &server) {
        println!("{}, {} MB of state, log of {} MiB", point.name(), point.state_mb, point.log_mib);
        let Outcome { rows: told, timelines: seen } = runtime
            .block_on(run_point(&point))
            .map_err(|failure| format!("{}: {failure}\n{}", point.name(), last_words()))?;
        for row in &told {
            println!("  {row:?}");
            write(&mut rows, row)?;
        }
        for timeline in &seen {
            write(&mut timelines, timeline)?;
        }
    }
    Ok(())
}

fn points(arguments: &Arguments, server: &Path) -> Vec<Point> {
    let modes = if arguments.durability.is_empty() { &Durability::ALL[..] } else { &arguments.durability };
    let mut points = Vec::new();
    for (state_mb, log_mib) in sizes(arguments) {
        for mode in modes {
            for medium in media(*mode) {
                points.push(Point {
                    server: server.to_path_buf(),
                    mode: *mode,
                    medium,
                    state_mb,
                    log_mib,
                    away: Duration::from_secs_f64(arguments.away_seconds.clamp(0.0, 600.0)),
                    repetitions: arguments.repetitions,
                });
            }
        }
    }
    points
}

fn sizes(arguments: &Arguments) -> impl Iterator<Item = (u64, u64)> {
    arguments.state_mb.iter().flat_map(|state| arguments.log_mib.iter().map(|log| (*state, *log)))
}

/// Ring needs shared memory, and with it nvm can be had as fast as persistent memory lets it be.
fn media(mode: Durability) -> Vec<Medium> {
    match mode {
        Durability::Nvm if has_shared_memory() => vec![Medium::Memory, Medium::Disk],
        Durability::Ring if !has_shared_memory() => {
            println!("SKIPPED: ring (no /dev/shm)");
            Vec::new()
        }
        _ => vec![Medium::Disk],
    }
}

fn write(file: &mut File, line: &impl Serialize) -> Result<(), String> {
    let line = serde_json::to_string(line).map_err(|error| error.to_string())?;
    writeln!(file, "{line}").map_err(|error| error.to_string())
}
