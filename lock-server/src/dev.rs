//! `lock-server dev`: a cluster of real processes on this host.
//!
//! Why it is right: the members are what runs in production, each its own process with its own directory; this process only
//! starts, watches and stops them. They do not outlive it, however it ends: the system signals them when it dies.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lock_protocol::{LockServiceClient, MemberStatus};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use wire::{Endpoint, Hello, Role};

use crate::command_line::PARENT_VARIABLE;
use crate::flags::{DevFlags, complain};
use crate::service_manager::SOCKET_VARIABLE;
use crate::settings::is_in_memory;

/// A cluster that does not serve after so long will not.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two questions whether a member serves.
const POLL: Duration = Duration::from_millis(20);
/// One such question takes at most so long.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A process that has not ended so long after it was asked to is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a member that died is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The cluster.
struct Cluster {
    dir: PathBuf,
    endpoints: Vec<Endpoint>,
    /// Where members tell metrics and health; empty where they do not.
    watched: Vec<Endpoint>,
    members: Vec<Member>,
    volatile: bool,
}

struct Member {
    id: usize,
    child: Option<Child>,
}

/// A directory that is removed at the end, if it is ours.
struct DataDir {
    path: PathBuf,
    is_ours: bool,
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("lock-server: {} is left behind: {error}", self.path.display());
        }
    }
}

/// What ended the waiting.
enum Event {
    Signal(i32),
    Exec(io::Result<ExitStatus>),
    Died(usize, String),
}

/// Runs the cluster until it is stopped, or the command has ended.
pub(crate) async fn run(flags: DevFlags) -> ExitCode {
    match start_and_watch(&flags).await {
        Ok(exit) => exit,
        Err(line) => complain(&line),
    }
}

async fn start_and_watch(flags: &DevFlags) -> Result<ExitCode, String> {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let mut signals = match (terminate, interrupt) {
        (Ok(terminate), Ok(interrupt)) => [terminate, interrupt],
        (Err(error), _) | (_, Err(error)) => return Err(format!("signals cannot be handled: {error}")),
    };
    if flags.base_port == 0 && flags.data_dir.is_some() {
        return Err(
            "--base-port 0 chooses other ports each time, which a kept --data-dir does not allow: name one".into()
        );
    }
    // All are held until all are found, so that no two are the same.
    let ports = free_ports("--base-port", flags.base_port, flags.replicas)?;
    let watched = flags.metrics_base_port.map(|first| free_ports("--metrics-base-port", first, flags.replicas));
    let watched = watched.transpose()?.unwrap_or_default();
    let addresses = (endpoints(&ports)?, endpoints(&watched)?);
    drop((ports, watched));
    let (endpoints, watched) = addresses;
    let dir = data_dir(flags.data_dir.as_deref())?;
    let mut cluster = Cluster {
        dir: dir.path.clone(),
        members: (1..=endpoints.len()).map(|id| Member { id, child: None }).collect(),
        endpoints,
        watched,
        volatile: is_in_memory(&dir.path),
    };
    let result = cluster.run(flags, &mut signals).await;
    cluster.stop().await;
    result
}

impl Cluster {
    async fn run(&mut self, flags: &DevFlags, signals: &mut [SignalStream; 2]) -> Result<ExitCode, String> {
        for index in 0..self.members.len() {
            self.start_member(index)?;
        }
        let statuses = tokio::select! {
            statuses = self.wait_until_all_serve() => statuses?,
            number = next_signal(signals) => return Ok(exit_of_signal(number)),
        };
        let mut exec = match &flags.exec {
            None => {
                print!("{}", self.instructions(&statuses));
                None
            }
            Some(command) => Some(self.exec(command)?),
        };
        loop {
            let event = tokio::select! {
                number = next_signal(signals) => Event::Signal(number),
                ended = exec_end(exec.as_mut()) => Event::Exec(ended),
                (index, how) = self.next_death() => Event::Died(index, how),
            };
            match event {
                Event::Signal(number) => {
                    if let Some(mut exec) = exec {
                        stop_child(&mut exec).await;
                    }
                    // Stopping a cluster by hand is how it is meant to end.
                    return Ok(if flags.exec.is_some() { exit_of_signal(number) } else { ExitCode::SUCCESS });
                }
                Event::Exec(ended) => return ended.map(exit_of).map_err(|error| format!("--exec: {error}")),
                Event::Died(index, how) => self.on_death(index, &how, flags.restart).await?,
            }
        }
    }

    /// The arguments of a member's process.
    fn arguments(&self, id: usize) -> Vec<String> {
        let list: Vec<_> = (1..).zip(&self.endpoints).map(|(id, at): (usize, _)| format!("{id}={at}")).collect();
        let mut arguments = vec![
            format!("--id={id}"),
            format!("--cluster={}", list.join(",")),
            format!("--data-dir={}", self.dir.join(format!("member-{id}")).display()),
            "--name=dev".into(),
        ];
        if self.volatile {
            arguments.push("--allow-volatile".into());
        }
        arguments.extend(self.watched.get(id - 1).map(|at| format!("--metrics-listen={at}")));
        arguments
    }

    fn log(&self, id: usize) -> PathBuf {
        self.dir.join(format!("member-{id}.log"))
    }

    fn start_member(&mut self, index: usize) -> Result<(), String> {
        let id = self.members[index].id;
        let log = std::fs::File::options().create(true).append(true).open(self.log(id));
        let log = log.map_err(|error| format!("{}: {error}: choose another --data-dir", self.log(id).display()))?;
        let start = || -> io::Result<Child> {
            Command::new(std::env::current_exe()?)
                .args(self.arguments(id))
                .env(PARENT_VARIABLE, std::process::id().to_string())
                .env_remove(SOCKET_VARIABLE)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // A Ctrl-C is for this process, which stops the members in order.
                .process_group(0)
                .spawn()
        };
        let child = start().map_err(|error| format!("member {id} cannot be started: {error}"))?;
        self.members[index].child = Some(child);
        Ok(())
    }

    /// All members' accounts, once each of them serves.
    async fn wait_until_all_serve(&mut self) -> Result<Vec<MemberStatus>, String> {
        let deadline = Instant::now() + SERVE_TIMEOUT;
        let mut statuses = Vec::new();
        for index in 0..self.members.len() {
            let endpoint = self.endpoints[index].clone();
            loop {
                if let Some((index, how)) = self.dead_now() {
                    let id = self.members[index].id;
                    let last = last_line(&self.log(id));
                    return Err(format!("member {id} {how} before it served: {last}"));
                }
                if let Some(status) = status_of(&endpoint).await.filter(|status| status.serving) {
                    statuses.push(status);
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("the cluster does not serve: look into {}", self.dir.display()));
                }
                sleep(POLL).await;
            }
        }
        Ok(statuses)
    }

    fn dead_now(&mut self) -> Option<(usize, String)> {
        let mut members = self.members.iter_mut().enumerate();
        members.find_map(|(index, member)| match member.child.as_mut()?.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some((index, how_it_ended(status))),
            Err(error) => Some((index, error.to_string())),
        })
    }

    /// The next member that ends; never if none runs.
    async fn next_death(&mut self) -> (usize, String) {
        let waits = self.members.iter_mut().enumerate().filter_map(|(index, member)| {
            let child = member.child.as_mut()?;
            Some(async move { (index, child.wait().await.map_or_else(|error| error.to_string(), how_it_ended)) })
        });
        match waits.collect::<FuturesUnordered<_>>().next().await {
            Some(death) => death,
            None => std::future::pending().await,
        }
    }

    async fn on_death(&mut self, index: usize, how: &str, restart: bool) -> Result<(), String> {
        let id = self.members[index].id;
        self.members[index].child = None;
        if restart {
            eprintln!("member {id} {how}; it is started again");
            sleep(RESTART_PAUSE).await;
            return self.start_member(index);
        }
        eprintln!("member {id} {how}; start it again with: {}", self.command_line(id));
        Ok(())
    }

    fn command_line(&self, id: usize) -> String {
        let program = std::env::current_exe().map_or_else(|_| "lock-server".into(), |path| path.display().to_string());
        let arguments: Vec<_> = self.arguments(id).iter().map(|argument| quoted(argument)).collect();
        format!("{} {}", quoted(&program), arguments.join(" "))
    }

    fn lock_endpoints(&self) -> String {
        self.endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",")
    }

    /// Lines to paste into a shell.
    fn instructions(&self, statuses: &[MemberStatus]) -> String {
        let count = statuses.len();
        let mut text = format!("# {count} members serve; data and logs are in {}\n", self.dir.display());
        if let Some(folder) = own_folder() {
            if !folder.join("lockctl").exists() {
                text += "# lockctl is not beside this program yet: cargo build --release --bin lockctl\n";
            }
            text += &format!("export PATH='{}':\"$PATH\"\n", folder.display());
        }
        text += &format!("export LOCK_ENDPOINTS={}\n", self.lock_endpoints());
        text += "lockctl run demo -- sh -c 'echo I hold $LOCK_NAME with token $LOCK_TOKEN; sleep 5'\n";
        text += "lockctl status\n";
        for status in statuses {
            let role = if status.role == lock_protocol::Role::Primary { "primary" } else { "backup" };
            text += &format!("kill -9 {}   # member {}, {role}\n", status.pid, status.id);
        }
        for status in statuses {
            let id = usize::try_from(status.id).unwrap_or_default();
            text += &format!("# member {id} again: {}\n", self.command_line(id));
        }
        for (id, at) in (1..).zip(&self.watched) {
            text += &format!("# metrics of member {id}: http://{at}/metrics\n");
        }
        text + "# Ctrl-C stops them all\n"
    }

    fn exec(&self, command: &str) -> Result<Child, String> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).env("LOCK_ENDPOINTS", self.lock_endpoints());
        if let Some(path) = path_with_own_folder() {
            shell.env("PATH", path);
        }
        shell.spawn().map_err(|error| format!("--exec: sh cannot be started: {error}"))
    }

    async fn stop(&mut self) {
        let children = self.members.iter_mut().filter_map(|member| member.child.take());
        let stops = children.map(|mut child| async move { stop_child(&mut child).await });
        stops.collect::<FuturesUnordered<_>>().collect::<Vec<()>>().await;
    }
}

/// Where this program lies, and lockctl beside it.
fn own_folder() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_path_buf)
}

/// So that `--exec 'lockctl ...'` finds the lockctl that was built with this program.
fn path_with_own_folder() -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own_folder().into_iter().chain(std::env::split_paths(&path))).ok()
}

/// Asks the process to end, and ends it if it does not.
async fn stop_child(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // A process that is gone needs no signal.
    if let Some(pid) = pid {
        kill_process(pid, Signal::TERM).unwrap_or_default();
    }
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

async fn exec_end(exec: Option<&mut Child>) -> io::Result<ExitStatus> {
    match exec {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// The number of the signal that came.
async fn next_signal([terminate, interrupt]: &mut [SignalStream; 2]) -> i32 {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
    }
}

async fn status_of(endpoint: &Endpoint) -> Option<MemberStatus> {
    let hello = Hello { role: Role::Client, cluster: 0, sender: 0, secret: 0 };
    let (connection, _, _) = wire::dial(endpoint, &hello, ASK_TIMEOUT).await.ok()?;
    let client = LockServiceClient::new(tarpc::client::Config::default(), wire::transport(connection)).spawn();
    timeout(ASK_TIMEOUT, client.status(tarpc::context::current())).await.ok()?.ok()
}

/// Ports of this host, the first given by this flag and those that follow; they are free, and held until this is dropped.
fn free_ports(flag: &str, first: u16, count: u16) -> Result<Vec<TcpListener>, String> {
    if first.checked_add(count - 1).is_none() {
        return Err(format!("ports from {first} on are above 65535: choose a lower {flag}"));
    }
    let bind = |offset| {
        let port = if first == 0 { 0 } else { first + offset };
        TcpListener::bind(("127.0.0.1", port)).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("port {port} is in use: stop the process that has it, or choose another {flag}")
            }
            _ => format!("port {port}: {error}: choose another {flag}"),
        })
    };
    (0..count).map(bind).collect()
}

fn endpoints(ports: &[TcpListener]) -> Result<Vec<Endpoint>, String> {
    let endpoint = |listener: &TcpListener| {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        address.to_string().parse::<Endpoint>().map_err(|error| error.to_string())
    };
    ports.iter().map(endpoint).collect()
}

fn data_dir(given: Option<&Path>) -> Result<DataDir, String> {
    let problem = |path: &Path, error: io::Error| format!("{}: {error}: choose another --data-dir", path.display());
    if let Some(path) = given {
        std::fs::create_dir_all(path).map_err(|error| problem(path, error))?;
        let path = path.canonicalize().map_err(|error| problem(path, error))?;
        return Ok(DataDir { path, is_ours: false });
    }
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let path = std::env::temp_dir().join(format!("lock-server-dev-{}-{}", std::process::id(), since.as_micros()));
    std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| problem(&path, error))?;
    Ok(DataDir { path, is_ours: true })
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The status with which a shell would report the same end.
fn exit_of(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn exit_of_signal(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_anything_special_is_quoted_for_the_shell() {
        assert_eq!(quoted("--id=1"), "--id=1");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
