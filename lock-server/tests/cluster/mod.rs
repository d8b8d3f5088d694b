//! A cluster of real processes, and clients that speak the protocol by hand.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod metrics;

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::future::Future;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use lock_protocol::{
    ClientIdentity, Command, FencingToken, KeepAlive, LockCallback, LockName, LockServiceClient, MemberStatus, Mode,
    Notice, Open, Outcome, Refusal, Renewed, Request, RequestNumber, Role, SessionId, Submission,
};
use parking_lot::Mutex;
use tarpc::client::RpcError;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::Notify;
use wire::{Endpoint, Hello};

/// What a test waits for at most.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(5);

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(2 * DEADLINE, test).await.expect("in time") });
}

/// Ports that nobody has, below those that the system gives to connections: a member that is killed gets its own back.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % 20_000).expect("below 20,000");
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

pub(crate) fn lock_server() -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_lock-server"));
    process.env("RUST_LOG", "info,tarpc=warn").stdin(Stdio::null());
    process
}

/// Runs the program to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    lock_server().args(arguments).output().expect("it runs")
}

pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) extra: Vec<Vec<String>>,
    pub(crate) environment: Vec<(String, String)>,
    members: Vec<Option<Child>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            for id in 1..=self.members.len() {
                let log = std::fs::read_to_string(self.log(id)).unwrap_or_default();
                eprintln!("--- member {id}\n{}", log.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

impl Cluster {
    /// Members that serve.
    pub(crate) async fn start(count: usize) -> Cluster {
        let mut cluster = Cluster::stopped(count);
        (1..=count).for_each(|id| cluster.spawn(id));
        cluster.primary().await;
        cluster
    }

    pub(crate) fn stopped(count: usize) -> Cluster {
        let ports = free_ports(count);
        let endpoints = ports.iter().map(|port| format!("127.0.0.1:{port}").parse().expect("an address")).collect();
        let members = (0..count).map(|_| None).collect();
        Cluster { dir: directory(), endpoints, extra: vec![Vec::new(); count], environment: Vec::new(), members }
    }

    fn log(&self, id: usize) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    pub(crate) fn data_dir(&self, id: usize) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub(crate) fn arguments(&self, id: usize) -> Vec<String> {
        let list: Vec<_> = (1..).zip(&self.endpoints).map(|(id, at): (usize, _)| format!("{id}={at}")).collect();
        let data_dir = self.data_dir(id).display().to_string();
        let mut arguments = ["--id", &id.to_string(), "--cluster", &list.join(","), "--data-dir", &data_dir]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(["--log-mib".to_owned(), "8".to_owned()]);
        arguments.extend(self.extra[id - 1].clone());
        arguments
    }

    pub(crate) fn spawn(&mut self, id: usize) {
        self.spawn_with(id, &self.arguments(id));
    }

    pub(crate) fn spawn_with(&mut self, id: usize, arguments: &[String]) {
        let log = File::options().create(true).append(true).open(self.log(id)).expect("a log");
        let mut process = lock_server();
        process.envs(self.environment.clone()).args(arguments).stdout(Stdio::null()).stderr(log);
        self.members[id - 1] = Some(process.spawn().expect("it starts"));
    }

    pub(crate) fn pid(&self, id: usize) -> u32 {
        self.members[id - 1].as_ref().expect("it runs").id()
    }

    /// As kill -9 does.
    pub(crate) fn kill(&mut self, id: usize) {
        let mut child = self.members[id - 1].take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    pub(crate) fn terminate(&mut self, id: usize) -> ExitStatus {
        let mut child = self.members[id - 1].take().expect("it runs");
        signal(child.id(), rustix::process::Signal::TERM);
        child.wait().expect("ended")
    }

    /// How a member ended that nobody stopped; none while it runs.
    pub(crate) fn has_ended(&mut self, id: usize) -> Option<ExitStatus> {
        let status = self.members[id - 1].as_mut().expect("it was started").try_wait().expect("its parent may ask");
        if status.is_some() {
            self.members[id - 1] = None;
        }
        status
    }

    /// What a member has logged, in all its runs.
    pub(crate) fn logged(&self, id: usize) -> String {
        std::fs::read_to_string(self.log(id)).expect("its log")
    }

    pub(crate) async fn status(&self, id: usize) -> Option<MemberStatus> {
        let client = dial(&self.endpoints[id - 1]).await.ok()?;
        call(client.status(context())).await.ok()
    }

    /// The member that serves as primary, once one does.
    pub(crate) async fn primary(&self) -> usize {
        let started = Instant::now();
        loop {
            for id in 1..=self.endpoints.len() {
                let status = self.status(id).await;
                if status.is_some_and(|status| status.serving && status.role == Role::Primary) {
                    return id;
                }
            }
            assert!(started.elapsed() < DEADLINE, "nobody serves");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

pub(crate) fn context() -> Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + Duration::from_secs(3600);
    context
}

/// None where no answer came.
pub(crate) async fn call<T>(answer: impl Future<Output = Result<T, RpcError>>) -> Result<T, String> {
    match tokio::time::timeout(CALL, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}

pub(crate) async fn dial(endpoint: &Endpoint) -> Result<LockServiceClient, wire::DialError> {
    let hello = Hello { role: wire::Role::Client, cluster: 0, sender: 0, secret: 0 };
    let (connection, _, _) = wire::dial(endpoint, &hello, CALL).await?;
    Ok(LockServiceClient::new(tarpc::client::Config::default(), wire::transport(connection)).spawn())
}

/// What came over a callback connection.
#[derive(Default)]
pub(crate) struct Heard {
    notices: Mutex<Vec<Notice>>,
    came: Notify,
}

impl Heard {
    /// Waits for a notice of this kind.
    pub(crate) async fn wait_for<T>(&self, mut what: impl FnMut(&Notice) -> Option<T>) -> T {
        let mut found = None;
        self.wait_for_all(|notices| {
            found = notices.iter().find_map(&mut what);
            found.is_some()
        })
        .await;
        found.expect("it was found")
    }

    /// Waits until this holds for all that came.
    pub(crate) async fn wait_for_all(&self, mut holds: impl FnMut(&[Notice]) -> bool) {
        let search = async {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                if holds(&self.notices.lock()) {
                    return;
                }
                came.await;
            }
        };
        tokio::time::timeout(DEADLINE, search).await.expect("a notice in time");
    }
}

#[derive(Clone)]
struct Callback(Arc<Heard>);

impl LockCallback for Callback {
    async fn notify(self, _: Context, notices: Vec<Notice>) {
        self.0.notices.lock().extend(notices);
        self.0.came.notify_waiters();
    }
}

pub(crate) struct Client {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) service: LockServiceClient,
    pub(crate) session: SessionId,
    pub(crate) nonce: u128,
    pub(crate) heard: Arc<Heard>,
    number: u64,
    stamp: u64,
}

/// Retries until the primary answers.
macro_rules! asked {
    ($client:ident, $call:expr) => {{
        let started = Instant::now();
        loop {
            match call($call).await {
                Ok(Ok(answer)) => break Ok(answer),
                Ok(Err(Refusal::SessionGone)) => break Err(Refusal::SessionGone),
                other => assert!(started.elapsed() < DEADLINE, "no primary answers: {:?}", other.map(|_| ())),
            }
            $client.go_on().await;
        }
    }};
}

impl Client {
    /// Opens a session without a callback connection.
    pub(crate) async fn open(cluster: &Cluster, lease: Duration) -> Client {
        let primary = cluster.primary().await;
        let service = dial(&cluster.endpoints[primary - 1]).await.expect("it listens");
        let random = || u128::from(RandomState::new().hash_one(()));
        let nonce = random() << 64 | random();
        let heard = Arc::new(Heard::default());
        let endpoints = cluster.endpoints.clone();
        let mut client = Client { endpoints, service, session: SessionId(0), nonce, heard, number: 0, stamp: 0 };
        let lease_ms = u64::try_from(lease.as_millis()).expect("short");
        let open = Open { nonce, lease_ms, identity: ClientIdentity::default() };
        let opened = asked!(client, client.service.open(context(), open.clone()));
        client.session = opened.expect("opened").session;
        client
    }

    /// The same, with one.
    pub(crate) async fn open_with_callback(cluster: &Cluster, lease: Duration) -> Client {
        let client = Client::open(cluster, lease).await;
        client.connect_callback(&cluster.endpoints[cluster.primary().await - 1]).await.expect("welcome");
        client
    }

    pub(crate) async fn connect_callback(&self, endpoint: &Endpoint) -> Result<(), wire::DialError> {
        let hello = Hello { role: wire::Role::Callback, cluster: 0, sender: self.session.0, secret: self.nonce };
        let (connection, _, _) = wire::dial(endpoint, &hello, CALL).await?;
        let channel = BaseChannel::with_defaults(wire::transport(connection));
        let serve = Callback(Arc::clone(&self.heard)).serve();
        tokio::spawn(channel.execute(serve).for_each(|handler| async { drop(tokio::spawn(handler)) }));
        Ok(())
    }

    /// Looks for a member that serves as primary.
    async fn go_on(&mut self) {
        for endpoint in &self.endpoints {
            if let Ok(service) = dial(endpoint).await
                && let Ok(status) = call(service.status(context())).await
                && status.serving
                && status.role == Role::Primary
            {
                self.service = service;
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// The next number.
    pub(crate) async fn ask(&mut self, command: Command) -> Outcome {
        self.number += 1;
        self.repeat(command).await
    }

    /// The last number again.
    pub(crate) async fn repeat(&mut self, command: Command) -> Outcome {
        let number = RequestNumber(self.number);
        let requests = vec![Request { number, command }];
        let submission = Submission { session: self.session, floor: number, requests };
        let outcomes = asked!(self, self.service.submit(context(), submission.clone()));
        outcomes.expect("outcomes").pop().expect("one")
    }

    pub(crate) async fn acquire(&mut self, lock: &str) -> Outcome {
        self.ask(acquire(lock)).await
    }

    pub(crate) async fn release(&mut self, lock: &str, token: FencingToken) -> Outcome {
        self.ask(Command::Release { name: name(lock), token, requeue: None }).await
    }

    pub(crate) async fn keep_alive(&mut self) -> Result<Renewed, Refusal> {
        self.stamp += 1;
        let keep_alive = KeepAlive { session: self.session, stamp: self.stamp, floor: RequestNumber(self.number) };
        let renewed = asked!(self, self.service.keep_alive(context(), keep_alive));
        assert!(renewed.as_ref().ok().is_none_or(|renewed| renewed.stamp == self.stamp), "{renewed:?}");
        renewed
    }

    /// Waits for a revoke of this tenure.
    pub(crate) async fn hears_revoke(&self, lock: &str, tenure: FencingToken) {
        self.heard
            .wait_for(|notice| match notice {
                Notice::Revoke { name, token, .. } => (name.as_str() == lock && *token == tenure).then_some(()),
                _ => None,
            })
            .await;
    }

    /// Waits for a grant.
    pub(crate) async fn hears_grant(&self, lock: &str) -> FencingToken {
        let last = RequestNumber(self.number);
        self.heard
            .wait_for(|notice| match notice {
                Notice::Granted { name, acquire, token, .. } if *acquire == last && name.as_str() == lock => {
                    Some(*token)
                }
                _ => None,
            })
            .await
    }
}

pub(crate) fn name(lock: &str) -> LockName {
    LockName::new(lock).expect("a name")
}

pub(crate) fn acquire(lock: &str) -> Command {
    Command::Acquire { name: name(lock), mode: Mode::Exclusive }
}

pub(crate) fn token(outcome: &Outcome) -> FencingToken {
    match outcome {
        Outcome::Granted { token, .. } => *token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Flips a bit wherever these bytes stand in the directory; returns in how many files.
pub(crate) fn damage(dir: &Path, bytes: &[u8]) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        let mut content = std::fs::read(&path).expect("read");
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            content[at] ^= 1;
            std::fs::write(&path, content).expect("written");
            damaged += 1;
        }
    }
    damaged
}
