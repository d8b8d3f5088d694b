//! Threads with lock clients, on three real server processes, of which the primary is killed; one client is given up with a lock in
//! hand, so that its session has to end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lock_client::blocking::LockClient;
use lock_client::{AcquireError, LockGuard, Mode, SessionId};
use plumeria_tests::lab::{Blow, Checked, Cluster, view};
use plumeria_tests::linearizability::locks::{Action, Answer, Call, History, Recorder, View, check};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

const CLIENTS: u64 = 6;
const LOCKS: u64 = 2;
const LEASE: Duration = Duration::from_secs(2);
/// Grants between two events.
const GRANTS: u64 = 200;
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Course {
    recorder: Recorder,
    grants: Arc<AtomicU64>,
    stops: Arc<AtomicBool>,
}

/// A user of its own client, until it is told to stop.
struct User {
    course: Course,
    client: LockClient,
    chance: Pcg64Mcg,
}

impl User {
    fn session(&self) -> SessionId {
        self.client.as_async().session()
    }

    fn run(mut self) {
        while !self.course.stops.load(Ordering::Relaxed) {
            let name = format!("lock/{}", self.chance.next_u64() % LOCKS);
            match self.chance.next_u64() % 10 {
                0 => self.inspect(&name),
                1..4 => self.acquire(&name, Mode::Shared),
                _ => self.acquire(&name, Mode::Exclusive),
            }
        }
        self.client.close().expect("closed in order");
    }

    fn acquire(&mut self, name: &str, mode: Mode) {
        let call = self.course.recorder.acquire(name, self.session(), mode);
        let patience = Duration::from_millis(1 + self.chance.next_u64() % 2000);
        match self.client.acquire_timeout(name, mode, patience) {
            Ok(guard) => self.hold(call, guard),
            Err(AcquireError::Timeout { .. }) => call.withdrawn(),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn hold(&mut self, call: Call, guard: LockGuard) {
        let mut last_valid = Recorder::now();
        let held = call.granted(guard.token());
        self.course.grants.fetch_add(1, Ordering::Relaxed);
        for _ in 0..1 + self.chance.next_u64() % 50 {
            // Once it is not valid it never is again: so it was at the time that was read before.
            let now = Recorder::now();
            if guard.is_valid() {
                last_valid = now;
            }
        }
        held.lapsed(last_valid);
        drop(guard);
    }

    fn inspect(&self, name: &str) {
        let call = self.course.recorder.call(name, self.session(), Action::Inspect);
        if let Ok(entry) = self.client.inspect(name) {
            let holders = entry.holders.iter().map(|holder| (holder.session.0, holder.token.0, holder.mode));
            call.answered(Answer::Holders(holders.collect()));
        }
    }

    /// Takes a lock, and is never heard of again.
    fn dies(self) {
        let call = self.course.recorder.acquire("lock/0", self.session(), Mode::Exclusive);
        let guard = self.client.acquire("lock/0", Mode::Exclusive).expect("granted");
        let held = call.granted(guard.token());
        self.course.recorder.end(self.session(), Recorder::now(), false);
        self.client.abandon();
        drop((held, guard));
    }
}

impl Course {
    fn user(&self, endpoints: &[String], number: u64) -> User {
        let builder = LockClient::builder(endpoints.iter().cloned()).lease(LEASE).name(format!("user-{number}"));
        let client = LockClient::connect(builder).expect("connected");
        User { course: self.clone(), client, chance: Pcg64Mcg::seed_from_u64(number) }
    }

    #[expect(clippy::disallowed_methods, reason = "these are real threads")]
    fn spawn(&self, endpoints: &[String], number: u64, act: fn(User)) -> JoinHandle<()> {
        let (course, endpoints) = (self.clone(), endpoints.to_vec());
        std::thread::spawn(move || act(course.user(&endpoints, number)))
    }

    async fn progress(&self) {
        let enough = self.grants.load(Ordering::Relaxed) + GRANTS;
        let waits = async {
            while self.grants.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waits).await.expect("clients get locks");
    }
}

async fn run(server: &Path, course: &Course) -> Checked<()> {
    let mut cluster = Cluster::start(server, 3)?;
    cluster.agree(&view(1, [1])).await?;
    let endpoints = cluster.endpoints();
    let users: Vec<_> = (0..CLIENTS).map(|number| course.spawn(&endpoints, number, User::run)).collect();
    course.progress().await;
    cluster.stop(1, Blow::Kill).await?;
    cluster.agree(&view(2, [2, 3])).await?;
    let dying = course.spawn(&endpoints, CLIENTS, User::dies);
    course.progress().await;
    cluster.launch(1)?;
    course.progress().await;
    course.stops.store(true, Ordering::Relaxed);
    for user in users.into_iter().chain([dying]) {
        tokio::task::spawn_blocking(|| user.join()).await.expect("joined").expect("the user found nothing wrong");
    }
    Ok(())
}

#[test]
fn what_lock_clients_were_told_while_the_primary_was_killed_is_linearizable() {
    let course = Course::default();
    let server = Path::new(env!("CARGO_BIN_EXE_lock-server-under-test"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(server, &course)).unwrap_or_else(|failure| panic!("{failure}"));
    let history = course.recorder.history();
    println!("{} operations, {} grants", history.len(), course.grants.load(Ordering::Relaxed));
    assert!(course.grants.load(Ordering::Relaxed) >= 3 * GRANTS);
    check(&history, View::Users).unwrap_or_else(|violation| panic!("{violation}"));

    // It is no history in which everything would be right: without one guard's end, it is wrong.
    let mut text = Vec::new();
    history.write(&mut text).expect("written");
    let text = String::from_utf8(text).expect("text");
    let is_release = |line: &&str| line.contains("\"release\"") && line.contains("lock/1");
    let gone = text.lines().filter(is_release).nth(20).expect("a release");
    let without: String = text.lines().filter(|line| *line != gone).flat_map(|line| [line, "\n"]).collect();
    let spoiled = History::read(without.as_bytes()).expect("read");
    assert_eq!(spoiled.len() + 1, history.len());
    assert!(check(&spoiled, View::Users).is_err());
}
