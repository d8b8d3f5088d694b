//! The whole client against a small cluster over real sockets.

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::{Cluster, soon, until};
use lock_client::{AcquireError, ConnectError, FlushError, LockClient, Mode, QueryError, blocking};

use Mode::{Exclusive, Shared};

async fn connect(cluster: &Cluster, lease_ms: u64) -> LockClient {
    let lease = Duration::from_millis(lease_ms);
    let builder = LockClient::builder(cluster.addresses()).name("test").lease(lease);
    soon("a session", builder.connect()).await.expect("the cluster runs")
}

#[tokio::test]
async fn a_lock_that_was_had_once_costs_no_more_requests() {
    let cluster = Cluster::start(1);
    let client = connect(&cluster, 10_000).await;
    let first = client.acquire("orders/42", Exclusive).await.expect("the lock");
    assert!(first.is_valid() && first.name().as_str() == "orders/42" && first.mode() == Exclusive);
    let token = first.token();
    drop(first);
    let lock = client.lock("orders/42").expect("a name");
    for _ in 0..100 {
        assert_eq!(lock.acquire(Exclusive).await.expect("the lock").token(), token);
        assert_eq!(client.acquire("orders/42", Shared).await.expect("the lock").token(), token);
    }
    assert_eq!(cluster.control.submissions.load(Ordering::SeqCst), 1);
    soon("the close", client.close()).await.expect("a close in good order");
    assert_eq!(cluster.control.holders("orders/42"), 0);
    assert_eq!(client.acquire("orders/42", Shared).await.expect_err("it is refused"), AcquireError::Closed);
}

#[tokio::test]
async fn a_cached_lock_is_flushed_before_another_client_has_it() {
    let cluster = Cluster::start(1);
    let (one, two) = (connect(&cluster, 10_000).await, connect(&cluster, 10_000).await);
    let flushed = Arc::new(AtomicUsize::new(0));
    let in_hook = Arc::clone(&flushed);
    one.on_revoke(move |revocation| {
        let in_hook = Arc::clone(&in_hook);
        async move {
            assert_eq!((revocation.name.as_str(), revocation.from, revocation.to), ("l", Exclusive, None));
            in_hook.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let token = one.acquire("l", Exclusive).await.expect("the lock").token();
    let guard = soon("the lock", two.acquire("l", Exclusive)).await.expect("the lock");
    assert_eq!(flushed.load(Ordering::SeqCst), 1);
    assert!(guard.token() > token);
    assert!(one.try_acquire("l", Shared).await.expect("an answer").is_none(), "in use");
    until("the try leaves the queue", || cluster.control.waiters("l") == 0).await;
}

#[tokio::test]
async fn m17_a_hook_that_fails_or_panics_keeps_the_lock_until_it_succeeds() {
    let cluster = Cluster::start(1);
    let (one, two) = (connect(&cluster, 10_000).await, connect(&cluster, 10_000).await);
    let calls = Arc::new(AtomicUsize::new(0));
    let in_hook = Arc::clone(&calls);
    one.on_revoke(move |_| {
        let call = in_hook.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Err(FlushError::new("the disk is full")),
                1 => panic!("on purpose"),
                _ => Ok(()),
            }
        }
    });
    drop(one.acquire("l", Exclusive).await.expect("the lock"));
    drop(soon("the lock", two.acquire("l", Exclusive)).await.expect("the lock"));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_client_that_knows_only_a_backup_follows_the_hint_and_follows_the_primary_when_it_moves() {
    let cluster = Cluster::start(3);
    cluster.control.set_primary(2);
    let builder = LockClient::builder([cluster.addresses()[0].clone()]).lease(Duration::from_secs(1));
    let client = soon("a session", builder.connect()).await.expect("a session");
    let guard = client.acquire("a", Exclusive).await.expect("the lock");
    let other = connect(&cluster, 1000).await;
    let waiting = tokio::spawn(async move { other.acquire("a", Exclusive).await.map(|guard| guard.token()) });
    until("the other waits", || cluster.control.waiters("a") == 1).await;
    cluster.control.set_primary(1);
    drop(soon("a lock of the new primary", client.acquire("b", Exclusive)).await.expect("the lock"));
    assert!(guard.is_valid(), "a change of the primary costs no guard");
    let token = guard.token();
    drop(guard);
    assert!(soon("the other's lock", waiting).await.expect("the task ends").expect("what it waited for") > token);
}

#[tokio::test]
async fn requirement_3_a_request_whose_answer_was_lost_is_executed_once() {
    let cluster = Cluster::start(2);
    let client = connect(&cluster, 10_000).await;
    for round in 0..5 {
        cluster.control.lose_answers.store(1, Ordering::SeqCst);
        let guard = soon("the lock", client.acquire(format!("l{round}"), Exclusive)).await.expect("the lock");
        assert!(guard.is_valid());
    }
    assert_eq!(cluster.control.lose_answers.load(Ordering::SeqCst), 0);
    assert_eq!(cluster.control.grants(), 6, "one session and five locks, each granted once");
}

#[tokio::test]
async fn m16_a_silent_callback_connection_is_noticed_by_a_keep_alive_and_opened_anew() {
    let cluster = Cluster::start(1);
    let (one, two) = (connect(&cluster, 1000).await, connect(&cluster, 1000).await);
    drop(one.acquire("l", Exclusive).await.expect("the lock"));
    cluster.control.mute_callbacks.store(true, Ordering::SeqCst);
    let opened = cluster.control.callbacks_opened.load(Ordering::SeqCst);
    let waiting = tokio::spawn(async move { two.acquire("l", Exclusive).await.map(drop) });
    until("the revoke is obeyed", || cluster.control.waiters("l") == 0).await;
    until("it is opened anew", || cluster.control.callbacks_opened.load(Ordering::SeqCst) > opened).await;
    // The grant notice was lost as well: the waiter learns of it by asking again.
    soon("the grant", waiting).await.expect("the task ends").expect("what it waited for");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_costs_no_guard_within_the_lease() {
    let cluster = Cluster::start(1);
    let client = connect(&cluster, 10_000).await;
    let guard = client.acquire("a", Exclusive).await.expect("the lock");
    cluster.control.kill(0);
    let late = client.clone();
    let waiting = tokio::spawn(async move { late.acquire("b", Exclusive).await.map(|guard| guard.is_valid()) });
    let error = client.acquire_timeout("c", Exclusive, Duration::from_millis(50)).await.expect_err("it is refused");
    assert!(error.to_string().starts_with("the lock was not had within 50ms"), "{error}");
    cluster.restart(0).await;
    assert!(soon("the lock", waiting).await.expect("the task ends").expect("what it waited for"));
    assert!(guard.is_valid());
}

#[tokio::test]
async fn m10_a_lease_that_runs_out_ends_guards_for_good_and_a_later_answer_resumes_the_session() {
    let cluster = Cluster::start(1);
    let client = connect(&cluster, 600).await;
    let events = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (suspended, resumed) = (Arc::clone(&events), Arc::clone(&events));
    client.on_suspend(move || suspended.lock().push("suspended"));
    client.on_resume(move || resumed.lock().push("resumed"));
    let guard = client.acquire("used", Exclusive).await.expect("the lock");
    let idle = client.acquire("idle", Exclusive).await.expect("the lock").token();
    cluster.control.freeze.store(true, Ordering::SeqCst);
    soon("the loss", guard.lost()).await;
    assert!(!guard.is_valid() && guard.valid_for().is_zero());
    assert!(client.acquire_timeout("idle", Exclusive, Duration::from_millis(20)).await.is_err());
    cluster.control.freeze.store(false, Ordering::SeqCst);
    let again = soon("the used lock", client.acquire("used", Exclusive)).await.expect("the lock");
    assert!(again.token() > guard.token(), "a new tenure");
    assert!(!guard.is_valid() && again.is_valid());
    assert_eq!(soon("the idle lock", client.acquire("idle", Exclusive)).await.expect("the lock").token(), idle);
    drop(guard);
    assert!(again.is_valid());
    until("both hooks", || events.lock().len() == 2).await;
    assert_eq!(*events.lock(), ["suspended", "resumed"]);
}

#[tokio::test]
async fn requirement_2_a_session_that_the_server_ended_is_lost_with_its_guards_and_waiters() {
    let cluster = Cluster::start(1);
    let client = connect(&cluster, 600).await;
    let other = connect(&cluster, 600).await;
    let lost = Arc::new(AtomicUsize::new(0));
    let in_hook = Arc::clone(&lost);
    client.on_lost(move || {
        in_hook.fetch_add(1, Ordering::SeqCst);
    });
    let guard = client.acquire("a", Exclusive).await.expect("the lock");
    let _held = other.acquire("b", Exclusive).await.expect("the lock");
    let waiter = client.clone();
    let waiting = tokio::spawn(async move { waiter.acquire("b", Exclusive).await.map(drop) });
    until("it waits", || cluster.control.waiters("b") == 1).await;
    cluster.control.expire_all();
    soon("the loss", guard.lost()).await;
    assert_eq!(soon("the waiter", waiting).await.expect("the task ends"), Err(AcquireError::SessionLost));
    assert_eq!(client.acquire("c", Shared).await.expect_err("it is refused"), AcquireError::SessionLost);
    until("the hook", || lost.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_session_that_ended_while_its_client_was_cut_off_is_lost_although_no_callback_is_taken_for_it_any_more() {
    let cluster = Cluster::start(1);
    let client = connect(&cluster, 600).await;
    let guard = client.acquire("a", Exclusive).await.expect("the lock");
    cluster.control.kill(0);
    cluster.control.expire_all();
    let waiter = client.clone();
    let waiting = tokio::spawn(async move { waiter.acquire("b", Exclusive).await.map(drop) });
    soon("the loss", guard.lost()).await;
    cluster.restart(0).await;
    assert_eq!(soon("the waiter", waiting).await.expect("the task ends"), Err(AcquireError::SessionLost));
}

#[tokio::test]
async fn requirement_13_a_failed_connect_names_each_server_and_what_it_answered() {
    let cluster = Cluster::start(2);
    cluster.control.set_primary(9);
    let mut addresses = cluster.addresses();
    cluster.control.kill(1);
    addresses.push("127.0.0.1:1".into());
    let builder = LockClient::builder(addresses.clone()).connect_timeout(Duration::from_millis(300));
    let error = soon("the error", builder.connect()).await.expect_err("it is refused");
    let text = error.to_string();
    assert!(matches!(error, ConnectError::NoPrimary { tried, .. } if tried.len() == 3), "{text}");
    assert!(addresses.iter().all(|address| text.contains(address)), "{text}");
    assert!(text.contains("not the primary") && !text.contains('\n'), "{text}");
    let error = LockClient::builder(["nonsense"]).connect().await.expect_err("it is refused").to_string();
    assert!(error.contains("HOST:PORT"), "{error}");
}

#[tokio::test]
async fn m12_a_dropped_acquire_leaves_the_queue() {
    let cluster = Cluster::start(1);
    let (one, two) = (connect(&cluster, 10_000).await, connect(&cluster, 10_000).await);
    let guard = one.acquire("l", Exclusive).await.expect("the lock");
    let waiting = tokio::spawn(async move { two.acquire("l", Exclusive).await.map(drop) });
    until("it waits", || cluster.control.waiters("l") == 1).await;
    waiting.abort();
    until("it has left", || cluster.control.waiters("l") == 0).await;
    drop(guard);
}

#[tokio::test]
async fn m18_a_lock_that_is_idle_in_another_cache_is_had_by_a_try() {
    let cluster = Cluster::start(1);
    let (one, two) = (connect(&cluster, 10_000).await, connect(&cluster, 10_000).await);
    drop(one.acquire("l", Exclusive).await.expect("the lock"));
    assert!(two.try_acquire("l", Exclusive).await.expect("an answer").is_some());
}

#[tokio::test]
async fn m23_a_lock_taken_by_force_kills_its_guard_unflushed_and_is_asked_for_anew() {
    let cluster = Cluster::start(1);
    let (one, two) = (connect(&cluster, 1000).await, connect(&cluster, 1000).await);
    one.on_revoke(|_| async { panic!("nothing is flushed in the name of a tenure that is over") });
    let guard = one.acquire("l", Exclusive).await.expect("the lock");
    let kept = one.acquire("kept", Exclusive).await.expect("the lock");
    let waiting = tokio::spawn(async move { two.acquire("l", Exclusive).await.map(|guard| guard.token()) });
    until("the other waits", || cluster.control.waiters("l") == 1).await;
    cluster.control.force("l");
    soon("the loss", guard.lost()).await;
    assert!(!guard.is_valid() && kept.is_valid());
    let token = soon("the other's lock", waiting).await.expect("the task ends").expect("what it waited for");
    let again = soon("a new tenure", one.acquire("l", Exclusive)).await.expect("the lock");
    assert!(token > guard.token() && again.token() > token);
    drop(guard);
    assert!(again.is_valid() && one.lock("l").expect("a name").acquire_cached(Shared).is_none(), "still in use");
}

#[tokio::test]
async fn the_last_handle_of_a_client_closes_its_session_once_the_last_guard_is_gone() {
    let cluster = Cluster::start(1);
    let client = connect(&cluster, 10_000).await;
    let guard = client.acquire("l", Exclusive).await.expect("the lock");
    drop(client);
    assert!(guard.is_valid());
    assert_eq!(cluster.control.closes.load(Ordering::SeqCst), 0);
    drop(guard);
    until("the close", || cluster.control.closes.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn requirement_14_a_cache_over_its_limit_gives_back_what_was_idle_the_longest() {
    let cluster = Cluster::start(1);
    let builder = LockClient::builder(cluster.addresses()).cache(10, Duration::from_secs(3600));
    let client = builder.lease(Duration::from_secs(1)).connect().await.expect("a session");
    let kept = client.acquire("kept", Exclusive).await.expect("the lock");
    for i in 0..40 {
        drop(client.acquire(format!("l{i}"), Exclusive).await.expect("the lock"));
    }
    let held = |i: usize| cluster.control.holders(&format!("l{i}"));
    until("the oldest are given back", || (0..30).all(|i| held(i) == 0)).await;
    assert_eq!(held(39), 1);
    assert!(kept.is_valid() && cluster.control.holders("kept") == 1);
}

#[tokio::test]
async fn people_can_ask_who_holds_a_lock_and_how_a_member_is() {
    let cluster = Cluster::start(2);
    let client = connect(&cluster, 10_000).await;
    let guards = [
        client.acquire("p/1", Exclusive).await.expect("the lock"),
        client.acquire("p/2", Shared).await.expect("the lock"),
    ];
    let _other = client.acquire("q", Shared).await.expect("the lock");
    let entry = soon("the answer", client.inspect("p/1")).await.expect("an answer");
    assert_eq!((entry.holders[0].token, entry.holders[0].session), (guards[0].token(), client.session()));
    let names: Vec<String> =
        client.locks("p/").await.expect("an answer").into_iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["p/1", "p/2"]);
    let backup = soon("the status", client.member_status(&cluster.addresses()[1])).await.expect("an answer");
    assert_eq!(backup.id, 1);
    let error = client.member_status("127.0.0.1:1").await.expect_err("it is refused");
    assert!(matches!(error, QueryError::Refused(_)), "{error}");
}

#[test]
fn the_blocking_client_needs_no_runtime() {
    let cluster = Cluster::start(1);
    let connect =
        || blocking::LockClient::connect(blocking::LockClient::builder(cluster.addresses())).expect("a session");
    let (one, two) = (connect(), connect());
    let flushed = Arc::new(AtomicUsize::new(0));
    let in_hook = Arc::clone(&flushed);
    one.on_revoke(move |_| {
        in_hook.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let guard = one.acquire("l", Exclusive).expect("the lock");
    let started = Instant::now();
    assert!(two.try_acquire("l", Exclusive).expect("an answer").is_none());
    assert!(started.elapsed() >= lock_client::TRY_WAIT);
    drop(guard);
    drop(two.lock("l").expect("a name").acquire(Exclusive).expect("the lock"));
    assert_eq!(flushed.load(Ordering::SeqCst), 1);
    one.close().expect("a close in good order");
    two.close().expect("a close in good order");
}

#[tokio::test]
async fn many_tasks_of_three_clients_on_one_hot_lock_are_all_served_one_at_a_time() {
    let cluster = Cluster::start(1);
    let inside = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = connect(&cluster, 10_000).await;
        for _ in 0..20 {
            let (client, inside) = (client.clone(), Arc::clone(&inside));
            tasks.spawn(async move {
                for _ in 0..5 {
                    let guard = client.acquire("hot", Exclusive).await.expect("the lock");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                }
            });
        }
    }
    while let Some(done) = soon("a task", tasks.join_next()).await {
        done.expect("no task fails");
    }
}
