//! From the command line to an exit status.
//!
//! Everything asynchronous runs on the main thread, which lives as long as the process: the kernel ties the death signal of
//! a guarded command to the *thread* that started it.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use lock_client::LockClient;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Action, Arguments, Common, SnapshotAction};
use crate::failure::{Failure, exit, one_line};
use crate::{bench, force, generate, launch, locks, members, run, snapshot, status, watch};

/// Of sessions that only ask.
const QUERY_LEASE: Duration = Duration::from_secs(10);
/// A session that could not be closed in so long ends with its lease.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Does what the arguments say.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => {
            follow_the_client(arguments.common.verbose);
            dispatch(arguments)
        }
        Err(error) if is_help(error.kind()) => {
            // A reader that closed the pipe does not want the rest.
            drop(error.print());
            let exit = if error.use_stderr() { exit::USAGE } else { exit::OK };
            return exit.into();
        }
        Err(error) => Err(Failure::usage(typed_wrong(&error.render().to_string()))),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            say(&failure.line);
            failure.exit.into()
        }
    }
}

fn is_help(kind: ErrorKind) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(kind, DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

/// The cause of a parser's message of several lines, and where to read on.
fn typed_wrong(message: &str) -> String {
    let cause = message.split("\n\nUsage:").next().unwrap_or(message).split("\n\nFor more").next().unwrap_or(message);
    format!("{}; see 'lockctl --help'", one_line(cause.trim_start_matches("error: ")))
}

fn dispatch(arguments: Arguments) -> Result<u8, Failure> {
    let mut common = arguments.common;
    if arguments.action.asks_the_cluster() {
        common.tls = common.tls_files.read().map_err(Failure::usage)?;
    }
    match arguments.action {
        Action::Run(options) => on_main_thread(run::run(&options, &common)),
        Action::Locks { prefix } => on_main_thread(locks::list(&prefix, &common)),
        Action::Inspect { name } => on_main_thread(locks::inspect(&name, &common)),
        Action::ForceRelease { name, token, now, without_recovery } => {
            on_main_thread(force::release(&name, token, now, without_recovery, &common))
        }
        Action::Status { watch: false, .. } => on_main_thread(status::show(&common)),
        Action::Status { watch: true, interval } => on_main_thread(watch::show(interval, &common)),
        Action::Members { change: None } => on_main_thread(status::members(&common)),
        Action::Members { change: Some(change) } => on_main_thread(members::change(&change, &common)),
        Action::Snapshot(SnapshotAction::Save(save)) => on_main_thread(snapshot::save(&save, &common)),
        Action::Snapshot(SnapshotAction::Show { file }) => snapshot::show(&file, &common),
        Action::Bench(options) => on_main_thread(bench::run(&options, &common)),
        Action::Completions { shell } => Ok(generate::completions(shell)),
        Action::Man { dir } => generate::man_pages(&dir),
        Action::Exec(exec) => Err(launch::become_command(&exec)),
        Action::GiveBack { group } => launch::give_terminal_back(group),
    }
}

/// Polls the future on this thread.
fn on_main_thread(work: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::system(format!("no runtime: {error}")))?.block_on(work)
}

/// Opens a session; the builder's other wishes are the caller's.
pub(crate) async fn connect(common: &Common, lease: Duration, limit: Duration) -> Result<LockClient, Failure> {
    let builder = LockClient::builder(common.endpoints.iter().map(ToString::to_string));
    let builder = builder.name(identity(common)).lease(lease).connect_timeout(limit);
    let builder = match &common.tls {
        Some(tls) => builder.tls(tls.clone()),
        None => builder,
    };
    Ok(builder.connect().await?)
}

/// A session to ask questions in.
pub(crate) async fn connect_to_ask(common: &Common) -> Result<LockClient, Failure> {
    connect(common, QUERY_LEASE, common.connect_timeout).await
}

/// Ends a session, without holding up the exit for long.
pub(crate) async fn close(client: &LockClient) {
    if tokio::time::timeout(CLOSE_TIMEOUT, client.close()).await.is_err() {
        client.abandon();
    }
}

/// "USER@HOST/lockctl", or as wished.
fn identity(common: &Common) -> String {
    common.client_name.clone().unwrap_or_else(|| {
        let user = std::env::var("USER").unwrap_or_else(|_| format!("uid-{}", rustix::process::getuid().as_raw()));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{user}@{host}/lockctl")
    })
}

fn follow_the_client(verbose: bool) {
    let filter = if verbose { "info,lock_client=debug,tarpc=warn" } else { "off" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // It fails only where a test of the library has set one before.
    drop(subscriber.try_init());
}

/// One line on stderr.
pub(crate) fn say(line: &str) {
    // A closed stderr is no reason to leave a command unguarded.
    drop(writeln!(std::io::stderr(), "lockctl: {line}"));
}

/// Text on stdout; whoever closed the pipe has read enough.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// One JSON value on stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::system(format!("no JSON: {error}")))?;
    print(&format!("{text}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsers_message_becomes_one_line() {
        for line in [vec!["lockctl", "run", "a"], vec!["lockctl", "--nonsense"], vec!["lockctl", "inspect", "a\nb"]] {
            let error = Arguments::try_parse_from(line).expect_err("a line that is wrong");
            let text = typed_wrong(&error.render().to_string());
            assert!(
                !text.contains('\n') && !text.contains("Usage") && text.ends_with("see 'lockctl --help'"),
                "{text}"
            );
        }
    }
}
