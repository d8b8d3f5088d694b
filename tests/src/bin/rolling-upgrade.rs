//! A rolling upgrade from one lock server to another; see [`plumeria_tests::rolling_upgrade`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plumeria_tests::lab::last_words;
use plumeria_tests::program;
use plumeria_tests::rolling_upgrade::{Releases, run_upgrade};

/// Upgrades the members of a cluster under load, one after the other, and one of them back and forth.
#[derive(Debug, Parser)]
struct Arguments {
    /// The former release's lock server, with break points (lock-server-under-test).
    #[arg(long)]
    former: PathBuf,
    /// This release's; at first lock-server-under-test beside this program.
    #[arg(long)]
    new: Option<PathBuf>,
}

fn main() -> ExitCode {
    program::ended("rolling-upgrade", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let new = program::server(arguments.new.as_deref())?;
    let releases = Releases { former: arguments.former.clone(), new };
    let runtime = program::runtime()?;
    let upgraded = runtime.block_on(run_upgrade(&releases, &mut |step| println!("{step}")));
    upgraded.map_err(|failure| format!("{failure}\n{}", last_words()))?;
    println!("nobody lost a lock, and all members came to one state");
    Ok(())
}
