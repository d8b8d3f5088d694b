//! What locks can do, each on three real server processes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_client::{AcquireError, FencedStore, ForceRelease, LockClient, Mode, StaleToken, UpgradeError};
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

/// Moves money between two of four accounts, again and again. Each account is used by one transfer at a time.
async fn transfers(client: &LockClient, accounts: &[(FencedStore<i64>, AtomicBool); 4], seed: usize) {
    for round in 0..25 {
        let from = (seed + round) % 4;
        let to = (from + 1 + (seed * round) % 3) % 4;
        let names = [from, to].map(|account| (format!("accounts/{account}"), Mode::Exclusive));
        let guards = client.acquire_all(names).await.expect("both, some time");
        assert!(guards[0].name() < guards[1].name());
        for account in [from, to] {
            assert!(!accounts[account].1.swap(true, Ordering::SeqCst), "account {account} is in use");
        }
        tokio::task::yield_now().await;
        for (account, amount) in [(from, -1), (to, 1)] {
            let name = format!("accounts/{account}");
            let guard = guards.iter().find(|guard| guard.name().as_str() == name).expect("one for each");
            accounts[account].0.write(guard.token(), |balance| *balance += amount).expect("nobody later was there");
            accounts[account].1.store(false, Ordering::SeqCst);
        }
    }
}

#[test]
fn transfers_that_name_their_accounts_in_any_order_all_come_to_an_end_and_no_money_is_lost() {
    on_a_cluster(|endpoints| async move {
        let accounts = [(); 4].map(|()| (FencedStore::new(100), AtomicBool::new(false)));
        let mut clients = Vec::new();
        for at in 0..3 {
            clients.push(connect(&endpoints, &format!("teller-{at}")).await);
        }
        let all = (0..6).map(|seed| transfers(&clients[seed / 2], &accounts, seed));
        let all = futures::future::join_all(all);
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("nobody waits for ever");
        let reader = connect(&endpoints, "auditor").await;
        let names = [0, 1, 2, 3].map(|account| (format!("accounts/{account}"), Mode::Shared));
        let guards = reader.acquire_all(names).await.expect("nobody uses them");
        let balances = guards.iter().zip(&accounts);
        let balances = balances.map(|(guard, (store, _))| store.read(guard.token(), |balance| *balance));
        assert_eq!(balances.map(|balance| balance.expect("the last token")).sum::<i64>(), 400);
        let again =
            reader.acquire_all([("accounts/1", Mode::Shared), ("accounts/0", Mode::Shared)]).await.expect("cached");
        assert_eq!(again[0].token(), guards[0].token(), "cached and free: nobody is asked");
    });
}

#[test]
fn a_set_that_waits_holds_nothing_and_leaves_every_queue_when_it_is_dropped() {
    on_a_cluster(|endpoints| async move {
        let (first, second) = (connect(&endpoints, "first").await, connect(&endpoints, "second").await);
        let held = first.acquire("a", Mode::Exclusive).await.expect("free");
        let set = [("a", Mode::Exclusive), ("b", Mode::Exclusive)];
        let waited = second.acquire_all_timeout(set, Duration::from_millis(500)).await;
        assert!(matches!(waited, Err(AcquireError::Timeout { .. })), "{waited:?}");
        let other = first.acquire("b", Mode::Exclusive).await.expect("nobody has it or waits for it any more");
        let entry = first.inspect("b").await.expect("an answer");
        assert!(entry.waiters.is_empty(), "{entry:?}");
        let (both, ()) = tokio::join!(second.acquire_all(set), async {
            let queued = async { while first.inspect("b").await.expect("an answer").waiters.is_empty() {} };
            tokio::time::timeout(LEASE, queued).await.expect("it waits");
            drop(held);
            assert!(
                first
                    .inspect("b")
                    .await
                    .expect("an answer")
                    .holders
                    .iter()
                    .all(|holder| holder.session == first.session())
            );
            drop(other);
        });
        let both = both.expect("free by now");
        assert_eq!((both.len(), both[0].token()), (2, both[1].token()));
    });
}
