//! Checks recorded histories of locks: files of one operation a line.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use plumeria_tests::linearizability::locks::{History, View, check};

/// Says whether a history of locks is linearizable. Exit code: 0 yes, 1 no, 2 undecided or unreadable.
#[derive(Debug, Parser)]
struct Arguments {
    /// Files of one history, by the same clock.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where it was taken down.
    #[arg(long, value_enum, default_value_t = Place::Users)]
    view: Place,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    /// Between the service and sessions.
    Service,
    /// Between caching clients and their users.
    Users,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let history = match read(&arguments.files) {
        Ok(history) => history,
        Err(error) => {
            println!("{error:#}");
            return ExitCode::from(2);
        }
    };
    let view = match arguments.view {
        Place::Service => View::Service,
        Place::Users => View::Users,
    };
    match check(&history, view) {
        Ok(()) => {
            println!("linearizable: {} operations on {} locks", history.len(), history.locks().count());
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::from(if violation.is_undecided() { 2 } else { 1 })
        }
    }
}

fn read(files: &[PathBuf]) -> anyhow::Result<History> {
    let mut history = History::default();
    for path in files {
        let shown = || path.display().to_string();
        let file = File::open(path).with_context(shown)?;
        history.merge(History::read(BufReader::new(file)).with_context(shown)?);
    }
    Ok(history)
}
