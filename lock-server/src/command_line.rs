//! The lock server's program: one member, or a whole cluster for trying things out.
//!
//! It is part of the library so that the tests can build the same program with break points.

use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::signal::unix::{SignalKind, signal};

#[cfg(feature = "break-points")]
use crate::control;
use crate::flags::{Command, ServeFlags, complain};
use crate::service_manager::ServiceManager;
use crate::spans::Spans;
use crate::{Server, ServerSettings, certificates, config, dev, flags, restore};

/// Set by `dev` for its members: the process that they must not outlive.
pub(crate) const PARENT_VARIABLE: &str = "LOCK_SERVER_PARENT";
/// A member that cannot go on.
const EXIT_FAULT: u8 = 1;

/// Obeys this process's command line; to be called from `main`.
pub fn command_line() -> ExitCode {
    let flags = match flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(exit) => return exit,
    };
    if !stay_with_parent() {
        return ExitCode::from(EXIT_FAULT);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("no runtime: {error}")),
    };
    runtime.block_on(async {
        match flags.command {
            Some(Command::Dev(dev)) => dev::run(dev).await,
            Some(Command::Certs(certs)) => certificates::make(&certs),
            Some(Command::CheckConfig { file }) => check_config(flags.serve, &file),
            Some(Command::Restore(flags)) => restore::restore(*flags),
            Some(Command::Show(flags)) => restore::show(&flags),
            None => serve(flags.serve, flags.config.as_deref()).await,
        }
    })
}

/// The environment counts here as it does in a start.
fn check_config(environment: ServeFlags, file: &Path) -> ExitCode {
    match config::resolve(environment, Some(file)) {
        Ok((_, settings)) => {
            print!("{}", config::describe(&settings));
            ExitCode::SUCCESS
        }
        Err(line) => complain(&line),
    }
}

async fn serve(flags: ServeFlags, file: Option<&Path>) -> ExitCode {
    let (flags, settings) = match config::resolve(flags, file) {
        Ok(resolved) => resolved,
        Err(line) => return complain(&line),
    };
    let _spans = match start_logs(&flags, &settings) {
        Ok(spans) => spans,
        Err(line) => return complain(&line),
    };
    let manager = ServiceManager::from_environment();
    raise_file_limit();
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return complain(&format!("signals cannot be handled: {error}")),
    };
    let server = match Server::start(settings).await {
        Ok(server) => server,
        Err(error) => return complain(&error.to_string()),
    };
    #[cfg(feature = "break-points")]
    if let Some(endpoint) = &flags.test_control
        && let Err(error) = control::start(endpoint, server.handle().clone()).await
    {
        return complain(&format!("--test-control {endpoint}: {error}"));
    }
    manager.ready();
    let ended = tokio::select! {
        ended = server.wait() => Some(ended),
        never = manager.report(server.handle()) => match never {},
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    match ended {
        None => {
            tracing::info!("stopping");
            manager.stopping();
            tokio::select! {
                () = server.stop() => ExitCode::SUCCESS,
                // Who asks twice does not want to wait.
                _ = terminate.recv() => ExitCode::from(EXIT_FAULT),
                _ = interrupt.recv() => ExitCode::from(EXIT_FAULT),
            }
        }
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(line)) => {
            manager.failed(&line);
            eprintln!("lock-server: {line}");
            ExitCode::from(EXIT_FAULT)
        }
    }
}

/// Logs go to stderr; what is returned sends spans to the collector, where one is named, as long as it lives.
fn start_logs(flags: &ServeFlags, settings: &ServerSettings) -> Result<Option<Spans>, String> {
    let collector = flags.otlp_endpoint.as_ref();
    let spans = collector.map(|to| Spans::to(to, settings.node.member.0, &settings.node.cluster)).transpose()?;
    let (spans, layer) = spans.unzip();
    flags.log_format.unwrap_or_default().start(layer);
    Ok(spans)
}

/// A member of `dev` is stopped by the system when its parent dies; false if that has happened already.
fn stay_with_parent() -> bool {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|parent| parent.parse::<i32>().ok()) else {
        return true;
    };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        eprintln!("lock-server: the end of the parent process will not be noticed: {error}");
    }
    rustix::process::getppid().map(Pid::as_raw_nonzero).is_some_and(|now| now.get() == parent)
}

/// Each connection takes a file descriptor.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
