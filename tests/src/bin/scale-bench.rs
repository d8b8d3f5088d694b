//! The scale benchmark; see [`plumeria_tests::scale_bench`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use plumeria_tests::lab::last_words;
use plumeria_tests::program;
use plumeria_tests::recovery_bench::Machine;
use plumeria_tests::scale_bench::{Scale, page_with, run_scale, table};

/// Fills a cluster of three with sessions and held locks, and measures what they cost, and what a change of the primary costs clients.
#[derive(Debug, Parser)]
struct Arguments {
    /// Sessions.
    #[arg(long, default_value_t = 1000)]
    sessions: u64,
    /// Locks that each of them holds.
    #[arg(long, default_value_t = 1000)]
    locks_each: u64,
    /// Locks of the session that expires.
    #[arg(long, default_value_t = 100_000)]
    doomed_locks: u64,
    /// The sessions' lease, seconds.
    #[arg(long, default_value_t = 15)]
    lease_seconds: u64,
    /// Size of each member's log, MiB.
    #[arg(long, default_value_t = 64)]
    log_mib: u64,
    /// For how long the CPU is watched, and acquires are timed beside snapshots.
    #[arg(long, default_value_t = 30)]
    watch_seconds: u64,
    /// Hand-overs by command, and restarts of the primary, each: with one client, and with all.
    #[arg(long, default_value_t = 20)]
    hand_overs: u64,
    /// Kills of the primary.
    #[arg(long, default_value_t = 5)]
    kills: u64,
    /// The table is put there, too, in the place of the one before.
    #[arg(long)]
    page: Option<PathBuf>,
    /// The lock server; at first lock-server-under-test beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
}

fn main() -> ExitCode {
    program::ended("scale-bench", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let server = program::server(arguments.server.as_deref())?;
    let scale = Scale {
        server,
        sessions: arguments.sessions,
        locks_each: arguments.locks_each,
        doomed_locks: arguments.doomed_locks,
        lease: Duration::from_secs(arguments.lease_seconds),
        log_mib: arguments.log_mib,
        watch: Duration::from_secs(arguments.watch_seconds),
        hand_overs: arguments.hand_overs,
        kills: arguments.kills,
    };
    let machine = Machine::look();
    let runtime = program::runtime()?;
    let mut told = |row: &plumeria_tests::scale_bench::Row| eprintln!("{}: {}", row.what, row.figure);
    let rows =
        runtime.block_on(run_scale(&scale, &mut told)).map_err(|failure| format!("{failure}\n{}", last_words()))?;
    let load = format!("three members, all clients on the same machine, a log of {} MiB", scale.log_mib);
    let table = table(&machine, &load, &rows);
    println!("{table}");
    match &arguments.page {
        Some(page) => {
            let failed = |error: std::io::Error| format!("{}: {error}", page.display());
            let text = std::fs::read_to_string(page).map_err(failed)?;
            let text =
                page_with(&text, &table).ok_or_else(|| format!("{}: there is no place for it", page.display()))?;
            std::fs::write(page, text).map_err(failed)
        }
        None => Ok(()),
    }
}
