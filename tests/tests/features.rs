//! What locks can do, each on three real server processes.

use std::path::Path;
use std::time::Duration;

use lock_client::{FencedStore, ForceRelease, LockClient, Mode, StaleToken, UpgradeError};
use plumeria_tests::lab::Cluster;

const LEASE: Duration = Duration::from_secs(10);

/// Runs a test on a cluster that serves.
fn on_a_cluster<F: Future<Output = ()>>(test: impl FnOnce(Vec<String>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Path::new(env!("CARGO_BIN_EXE_lock-server-under-test"));
        let cluster = Cluster::start(server, 3).expect("three servers");
        test(cluster.endpoints()).await;
    });
}

async fn connect(endpoints: &[String], name: &str) -> LockClient {
    let builder = LockClient::builder(endpoints.iter().cloned()).name(name).lease(LEASE);
    builder.connect().await.expect("a session")
}

#[test]
fn a_fenced_store_refuses_the_late_write_of_a_tenure_that_was_ended() {
    on_a_cluster(|endpoints| async move {
        let (slow, quick) = (connect(&endpoints, "slow").await, connect(&endpoints, "quick").await);
        let balance = FencedStore::new(100);
        let guard = slow.acquire("accounts/7", Mode::Exclusive).await.expect("free");
        let seen = balance.write(guard.token(), |balance| *balance).expect("the first");
        let force = ForceRelease { name: guard.name().clone(), token: guard.token(), now: true };
        quick.force_release(force).await.expect("an answer");
        let other = quick.acquire("accounts/7", Mode::Exclusive).await.expect("ended by force");
        balance.write(other.token(), |balance| *balance -= 80).expect("newer");
        let late = balance.write(guard.token(), |balance| *balance = seen - 10);
        assert_eq!(late, Err(StaleToken { token: guard.token(), greatest: other.token() }));
        assert_eq!(balance.read(other.token(), |balance| *balance), Ok(20));
    });
}

#[test]
fn an_upgrade_beside_another_reader_is_refused_at_once_and_one_alone_has_a_new_token() {
    on_a_cluster(|endpoints| async move {
        let (first, second) = (connect(&endpoints, "first").await, connect(&endpoints, "second").await);
        let [one, other] = [&first, &second].map(|client| client.acquire("accounts/8", Mode::Shared));
        let (one, other) = (one.await.expect("shared"), other.await.expect("shared"));
        let (shared, Err(UpgradeError::NotAlone(one))) = (one.token(), one.upgrade().await) else {
            panic!("another reads")
        };
        assert!(one.is_valid() && one.token() == shared && one.mode() == Mode::Shared);
        drop(other);
        second.close().await.expect("nothing to flush");
        let one = one.upgrade().await.expect("alone");
        assert!(one.token() > shared && one.mode() == Mode::Exclusive && one.is_valid());
        let late = connect(&endpoints, "late").await;
        let refused = late.try_acquire("accounts/8", Mode::Shared).await.expect("an answer");
        assert!(refused.is_none(), "it is exclusive");
    });
}

#[test]
fn after_a_downgrade_another_client_reads_beside_the_one_that_wrote() {
    on_a_cluster(|endpoints| async move {
        let (writer, reader) = (connect(&endpoints, "writer").await, connect(&endpoints, "reader").await);
        let mut guard = writer.acquire("accounts/9", Mode::Exclusive).await.expect("free");
        let waiting = reader.try_acquire("accounts/9", Mode::Shared).await.expect("an answer");
        assert!(waiting.is_none(), "it is exclusive");
        guard.downgrade();
        let beside = reader.acquire_timeout("accounts/9", Mode::Shared, LEASE).await.expect("shared");
        assert!(guard.is_valid() && beside.is_valid() && guard.mode() == Mode::Shared);
        assert!(beside.token() > guard.token());
    });
}
