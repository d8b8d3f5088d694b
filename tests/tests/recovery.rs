//! A dead holder is recovered by a live one, on real servers: what it had written under its lock is there for the next holder, whoever
//! recovers, and whatever befalls the recoverer and the primary meanwhile.
//!
//! The program is a file system in small: what is written under a lock goes into the writer's own log at once, and to the volume only
//! when the lock is given up. The volume refuses a writer that is being recovered, and a recoverer that was replaced.

#![expect(clippy::disallowed_methods, reason = "real processes live in real time; the bans are for the simulator")]

#[path = "recovery/volume.rs"]
mod volume;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_client::{Builder, DeadSession, KeptLocks, LockClient, Mode, RecoveryError};
use lock_protocol::{LockServiceClient, RecoveryAnswer, RecoveryReport, RecoveryStep, Refusal};
use plumeria_tests::lab::{Blow, Cluster, view};
use tokio::sync::Semaphore;
use volume::Volume;

const GROUP: &str = "volume-7";
/// Of those that live to the end: longer than a loaded machine stands still.
const LONG: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60);

/// The volume, and what its mounts have been through.
#[derive(Clone)]
struct Stage {
    volume: Arc<Volume>,
    endpoints: Vec<String>,
    /// Recoveries that began, and how many of them may go on beyond their middle.
    begun: Arc<AtomicU64>,
    go_on: Arc<Semaphore>,
}

impl Stage {
    fn builder(&self, name: &str) -> Builder {
        LockClient::builder(self.endpoints.iter().cloned()).name(name).lease(LONG).connect_timeout(DEADLINE)
    }

    /// A mount: recovers the dead of its group, as far as it is let.
    async fn mount(&self, name: &str) -> LockClient {
        self.mount_with(self.builder(name)).await
    }

    async fn mount_with(&self, builder: Builder) -> LockClient {
        let of_hook = self.clone();
        let hook = move |dead| of_hook.clone().recover(dead);
        let client = builder.recovery_group(GROUP, hook).connect().await.expect("a session");
        let (volume, session) = (Arc::clone(&self.volume), client.session());
        client.on_revoke(move |_| std::future::ready(volume.flush(session)));
        client
    }

    async fn recover(self, dead: DeadSession) -> Result<(), RecoveryError> {
        self.volume.fence(dead.session, dead.token).map_err(RecoveryError::new)?;
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.go_on.acquire().await.expect("it is never closed").forget();
        self.volume.replay(dead.session, dead.token).map_err(RecoveryError::new)
    }

    fn may_go_on(&self, recoveries: usize) {
        self.go_on.add_permits(recoveries);
    }

    async fn begins(&self, recoveries: u64) {
        until("a recovery begins", async || self.begun.load(Ordering::SeqCst) >= recoveries).await;
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < DEADLINE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Servers, and a volume.
async fn stage() -> (Cluster, Stage) {
    let cluster = Cluster::start(Path::new(env!("CARGO_BIN_EXE_lock-server-under-test")), 3).expect("they start");
    cluster.agree(&view(1, [1])).await.expect("they serve");
    let (begun, go_on) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let stage = Stage { volume: Arc::new(Volume::default()), endpoints: cluster.endpoints(), begun, go_on };
    (cluster, stage)
}

/// Writes under a lock, which stays with the client.
async fn write(stage: &Stage, client: &LockClient, file: &str, value: u64) {
    let guard = client.acquire(file, Mode::Exclusive).await.expect("the lock");
    stage.volume.write(client.session(), file, guard.token(), value).expect("nobody recovers a session that lives");
}

/// What a client reads that waits for the lock, and the token under which it did.
fn read(stage: &Stage, client: &LockClient, file: &'static str) -> tokio::task::JoinHandle<(Option<u64>, u64)> {
    let (volume, client) = (Arc::clone(&stage.volume), client.clone());
    tokio::spawn(async move {
        let guard = client.acquire_timeout(file, Mode::Exclusive, DEADLINE).await.expect("the lock in the end");
        (volume.read(file), guard.token().0)
    })
}

async fn kept(client: &LockClient) -> Vec<KeptLocks> {
    client.kept_page(None).await.expect("an answer").0
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(3 * DEADLINE, test).await.expect("in time") });
}

#[test]
fn what_a_mount_wrote_whose_lease_ran_out_is_there_for_the_next_holder_of_its_lock() {
    run(async {
        let (_cluster, stage) = stage().await;
        let dying = stage.mount_with(stage.builder("dying").lease(Duration::from_secs(5))).await;
        let (mate, reader) = (stage.mount("mate").await, stage.builder("reader").connect().await.expect("a session"));
        write(&stage, &dying, "a", 17).await;
        let first = dying.acquire("a", Mode::Exclusive).await.expect("cached").token().0;
        dying.abandon();
        let reading = read(&stage, &reader, "a");
        stage.begins(1).await;
        let shown = kept(&reader).await;
        let by = shown[0].recovery.as_ref().and_then(|recovery| recovery.by.as_ref()).expect("somebody is at it");
        assert_eq!((shown[0].session, shown[0].locks, by.session), (dying.session(), 1, mate.session()));
        assert_eq!(reader.inspect("a").await.expect("an answer").holders[0].session, dying.session());
        assert!(!reading.is_finished(), "its lock waits");
        stage.may_go_on(1);
        let (value, token) = reading.await.expect("it reads");
        assert_eq!(value, Some(17));
        assert!(token > first);
        assert_eq!(kept(&reader).await, []);
    });
}

#[test]
fn when_the_recoverer_dies_midway_another_recovers_with_a_new_token_and_the_old_one_is_refused() {
    run(async {
        let (_cluster, stage) = stage().await;
        let dying = stage.mount("dying").await;
        let (first, second) = (stage.mount("first").await, stage.mount("second").await);
        write(&stage, &dying, "a", 17).await;
        // So that the first leaves something, too.
        write(&stage, &first, "b", 18).await;
        dying.abandon_now().await.expect("ended");
        stage.begins(1).await;
        let right = kept(&second).await[0].recovery.clone().and_then(|recovery| recovery.by).expect("the first");
        assert_eq!(right.session, first.session());
        first.abandon_now().await.expect("ended");
        stage.begins(3).await;
        let (a, b) = (read(&stage, &second, "a"), read(&stage, &second, "b"));
        let old = RecoveryReport {
            session: second.session(),
            dead: dying.session(),
            token: right.token,
            step: RecoveryStep::Recovered,
        };
        assert_eq!(report(&stage, old).await, Ok(RecoveryAnswer::NotAssigned));
        let of_the_dead = RecoveryReport { session: first.session(), ..old };
        assert_eq!(report(&stage, of_the_dead).await, Err(Refusal::SessionGone));
        assert!(stage.volume.replay(dying.session(), right.token).is_err(), "nor does the volume take it");
        assert!(!a.is_finished() && !b.is_finished());
        // Dropped with its session, the first's own hook needs none.
        stage.may_go_on(2);
        assert_eq!(a.await.expect("it reads").0, Some(17));
        assert_eq!(b.await.expect("it reads").0, Some(18));
    });
}

#[test]
fn a_recovery_goes_on_under_the_next_primary_and_is_not_begun_twice() {
    run(async {
        let (mut cluster, stage) = stage().await;
        let (dying, mate) = (stage.mount("dying").await, stage.mount("mate").await);
        write(&stage, &dying, "a", 17).await;
        dying.abandon_now().await.expect("ended");
        stage.begins(1).await;
        let reading = read(&stage, &mate, "a");
        cluster.stop(1, Blow::Kill).await.expect("killed");
        cluster.agree(&view(2, [2, 3])).await.expect("they serve");
        assert_eq!(kept(&mate).await[0].session, dying.session(), "the next primary knows");
        assert!(!reading.is_finished());
        stage.may_go_on(1);
        assert_eq!(reading.await.expect("it reads").0, Some(17));
        assert_eq!(stage.begun.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn where_nobody_of_the_group_is_left_the_next_that_joins_recovers() {
    run(async {
        let (_cluster, stage) = stage().await;
        let (dying, reader) = (stage.mount("dying").await, stage.builder("reader").connect().await.expect("a session"));
        write(&stage, &dying, "a", 17).await;
        dying.abandon_now().await.expect("ended");
        let shown = kept(&reader).await;
        let recovery = shown[0].recovery.as_ref().expect("it has to be recovered");
        assert_eq!((recovery.group.as_str(), &recovery.by), (GROUP, &None));
        let reading = read(&stage, &reader, "a");
        stage.may_go_on(1);
        let joins = stage.mount("joins").await;
        assert_eq!(reading.await.expect("it reads").0, Some(17));
        joins.close().await.expect("closed in order");
    });
}

#[test]
fn a_mount_that_closes_in_order_leaves_nothing_to_recover() {
    run(async {
        let (_cluster, stage) = stage().await;
        let (closing, mate) = (stage.mount("closing").await, stage.mount("mate").await);
        write(&stage, &closing, "a", 17).await;
        closing.close().await.expect("closed in order");
        assert_eq!(read(&stage, &mate, "a").await.expect("it reads").0, Some(17));
        assert_eq!(stage.begun.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_lock_delay_withholds_the_lock_for_as_long_after_its_holder_was_given_up() {
    run(async {
        let (_cluster, stage) = stage().await;
        let delay = Duration::from_secs(2);
        let dying = stage.builder("dying").lock_delay(delay).connect().await.expect("a session");
        let next = stage.builder("next").connect().await.expect("a session");
        drop(dying.acquire("a", Mode::Exclusive).await.expect("the lock"));
        let since = Instant::now();
        dying.abandon_now().await.expect("ended");
        assert_eq!(kept(&next).await[0].session, dying.session());
        drop(next.acquire_timeout("a", Mode::Exclusive, DEADLINE).await.expect("the lock in the end"));
        assert!(since.elapsed() >= delay, "after {:?}", since.elapsed());
    });
}

/// Says something about a recovery to whoever is primary.
async fn report(stage: &Stage, report: RecoveryReport) -> Result<RecoveryAnswer, Refusal> {
    let hello = wire::Hello { role: wire::Role::Client, cluster: 0, sender: 0, secret: 0 };
    for endpoint in &stage.endpoints {
        let endpoint = endpoint.parse().expect("an endpoint");
        let (connection, _, _) = wire::dial(&endpoint, &hello, DEADLINE).await.expect("it listens");
        let service = LockServiceClient::new(tarpc::client::Config::default(), wire::transport(connection)).spawn();
        match service.report_recovery(tarpc::context::current(), report).await.expect("an answer") {
            Err(Refusal::NotPrimary { .. } | Refusal::ViewChanging) => {}
            answer => return answer,
        }
    }
    panic!("no primary")
}
