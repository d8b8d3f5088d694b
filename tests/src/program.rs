//! What the programs of this package have in common: what stands beside them, and how they end.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

/// The lock server with break points, as it is built.
pub const SERVER: &str = "lock-server-under-test";

/// A program of this package that was built beside the one that runs.
///
/// # Errors
/// It is not there, and what to do.
pub fn beside(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program does not know where it is: {error}"))?;
    existing(own.with_file_name(name))
}

/// The lock server that a caller chose, or the one beside the program that runs.
///
/// # Errors
/// It is not there, and what to do.
pub fn server(chosen: Option<&Path>) -> Result<PathBuf, String> {
    chosen.map_or_else(|| beside(SERVER), |chosen| existing(chosen.to_path_buf()))
}

fn existing(path: PathBuf) -> Result<PathBuf, String> {
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: build plumeria-tests", path.display())) }
}

/// A runtime of one thread.
///
/// # Errors
/// The system refused it.
pub fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|error| format!("no runtime: {error}"))
}

/// The end of `program`: what kept it from its work goes to standard error.
pub fn ended(program: &str, outcome: Result<(), impl Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("{program}: {line}");
            ExitCode::FAILURE
        }
    }
}
