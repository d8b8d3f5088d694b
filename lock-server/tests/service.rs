//! Three real processes and clients that speak the protocol by hand: locks, leases and callbacks over crashes.

mod cluster;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Client, Cluster, acquire, context, dial, run, token};
use lock_protocol::{Command, ForceRelease, ForcedTenure, LockName, Mode, Notice, Outcome, Query, Refusal, Role};
use wire::Hello;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_lock_passes_to_its_waiter_and_goes_on_passing_after_the_primary_is_killed() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let mut a = Client::open_with_callback(&cluster, LONG).await;
        let mut b = Client::open_with_callback(&cluster, LONG).await;
        let first = token(&a.acquire("orders/1").await);
        assert_eq!(b.acquire("orders/1").await, Outcome::Queued);
        a.hears_revoke("orders/1", first).await;
        assert_eq!(a.release("orders/1", first).await, Outcome::Released { requeued: None });
        let second = b.hears_grant("orders/1").await;
        assert!(second > first);
        let elsewhere = acquire("orders/2");
        let held = a.ask(elsewhere.clone()).await;

        let killed = Instant::now();
        cluster.kill(cluster.primary().await);
        assert_eq!(a.repeat(elsewhere).await, held, "the same number is answered the same by the next primary");
        let third = token(&a.acquire("orders/3").await);
        println!("measured: {:?} from kill -9 of the primary to the next grant", killed.elapsed());
        assert!(third > second);
        let primary = cluster.primary().await;
        b.connect_callback(&cluster.endpoints[primary - 1]).await.expect("welcome");
        assert_eq!(a.acquire("orders/1").await, Outcome::Queued);
        b.hears_revoke("orders/1", second).await;
        assert_eq!(b.release("orders/1", second).await, Outcome::Released { requeued: None });
        a.connect_callback(&cluster.endpoints[primary - 1]).await.expect("welcome");
        assert!(a.hears_grant("orders/1").await > third);
    });
}

#[test]
fn a_tenure_that_is_ended_by_force_passes_on_when_its_holder_confirms() {
    run(async {
        let cluster = Cluster::start(3).await;
        let mut holder = Client::open_with_callback(&cluster, LONG).await;
        let mut waiter = Client::open_with_callback(&cluster, LONG).await;
        let first = token(&holder.acquire("orders/1").await);
        assert_eq!(waiter.acquire("orders/1").await, Outcome::Queued);
        let name = lock_protocol::LockName::new("orders/1").expect("a name");
        let force = ForceRelease { name: name.clone(), token: first, now: false };
        let ended = waiter.service.force_release(context(), force).await.expect("an answer").expect("no refusal");
        assert!(matches!(ended[..], [ForcedTenure { session, withheld_ms: Some(_) }] if session == holder.session));
        let told = Notice::Forced { name, token: first };
        holder.heard.wait_for(|notice| (*notice == told).then_some(())).await;
        let renewed = holder.keep_alive().await.expect("renewed");
        assert!(renewed.notices.contains(&told), "{renewed:?}");
        assert_eq!(holder.release("orders/1", first).await, Outcome::Released { requeued: None });
        assert!(waiter.hears_grant("orders/1").await > first);
    });
}

#[test]
fn requirement_7_a_dead_sessions_lock_is_free_after_its_lease_and_not_before() {
    run(async {
        let cluster = Cluster::start(3).await;
        let lease = Duration::from_secs(1);
        let mut waiter = Client::open_with_callback(&cluster, lease).await;
        let opened = Instant::now();
        let mut dead = Client::open(&cluster, lease).await;
        let first = token(&dead.acquire("orders/1").await);
        assert_eq!(waiter.acquire("orders/1").await, Outcome::Queued);
        let second = {
            let heard = Arc::clone(&waiter.heard);
            let granted = heard.wait_for(|notice| match notice {
                Notice::Granted { token, .. } => Some(*token),
                _ => None,
            });
            let mut alive = async || loop {
                waiter.keep_alive().await.expect("alive");
            };
            tokio::select! {
                never = alive() => never,
                token = granted => token,
            }
        };
        let waited = opened.elapsed();
        println!("measured: a lease of {lease:?} ended after {waited:?}");
        assert!(waited >= lease, "{waited:?}");
        assert!(waited < 5 * lease, "{waited:?}");
        assert!(second > first);
        assert_eq!(dead.keep_alive().await, Err(Refusal::SessionGone));
        assert_eq!(dead.acquire("orders/2").await, Outcome::SessionGone);
    });
}

#[test]
fn requirement_8_waiters_are_served_in_their_order_and_a_release_wakes_the_next_or_the_next_readers() {
    run(async {
        let cluster = Cluster::start(3).await;
        let shared = || Command::Acquire { name: LockName::new("orders/1").expect("a name"), mode: Mode::Shared };
        let mut holder = Client::open_with_callback(&cluster, LONG).await;
        let held = token(&holder.acquire("orders/1").await);
        let mut waiters = Vec::new();
        for wish in [acquire("orders/1"), shared(), shared(), acquire("orders/1")] {
            let mut waiter = Client::open_with_callback(&cluster, LONG).await;
            assert_eq!(waiter.ask(wish.clone()).await, Outcome::Queued);
            waiters.push((waiter, wish));
        }
        let [(writer, _), (reader, _), (other, _), (last, wish)] = &mut waiters[..] else { panic!("four wait") };
        assert_eq!(holder.release("orders/1", held).await, Outcome::Released { requeued: None });
        let first = writer.hears_grant("orders/1").await;
        assert_eq!(reader.repeat(shared()).await, Outcome::Queued);
        assert_eq!(writer.release("orders/1", first).await, Outcome::Released { requeued: None });
        let [one, two] = [reader.hears_grant("orders/1").await, other.hears_grant("orders/1").await];
        assert!(one == two && one > first, "both readers, in one step");
        assert_eq!(last.repeat(wish.clone()).await, Outcome::Queued);
        assert_eq!(reader.release("orders/1", one).await, Outcome::Released { requeued: None });
        assert_eq!(last.repeat(wish.clone()).await, Outcome::Queued);
        assert_eq!(other.release("orders/1", two).await, Outcome::Released { requeued: None });
        assert!(last.hears_grant("orders/1").await > two);
    });
}

#[test]
fn a_session_that_is_kept_alive_outlives_its_lease_many_times() {
    run(async {
        let cluster = Cluster::start(3).await;
        let mut client = Client::open(&cluster, Duration::from_millis(500)).await;
        let held = client.acquire("orders/1").await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            assert_eq!(client.keep_alive().await.expect("alive").notices, []);
        }
        assert_eq!(client.repeat(acquire("orders/1")).await, held);
    });
}

#[test]
fn locks_taken_one_after_the_other_have_rising_tokens() {
    run(async {
        let cluster = Cluster::start(3).await;
        let mut client = Client::open(&cluster, LONG).await;
        let mut last = None;
        let mut times = Vec::new();
        for number in 0..500 {
            let started = Instant::now();
            let next = token(&client.acquire(&format!("orders/{number}")).await);
            times.push(started.elapsed());
            assert!(last < Some(next));
            last = Some(next);
        }
        times.sort();
        println!("measured: an acquire takes {:?} (median), {:?} (99th percentile)", times[250], times[495]);
    });
}

#[test]
fn a_primary_killed_and_restarted_at_once_does_not_serve_from_an_empty_table() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let mut holder = Client::open(&cluster, LONG).await;
        token(&holder.acquire("orders/1").await);
        for round in 0..3 {
            let primary = cluster.primary().await;
            cluster.kill(primary);
            cluster.spawn(primary);
            let mut other = Client::open(&cluster, LONG).await;
            assert_eq!(other.acquire("orders/1").await, Outcome::Queued, "round {round}");
        }
    });
}

#[test]
fn a_revoke_that_was_lost_with_the_primary_is_sent_again_by_the_next_one() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let mut holder = Client::open(&cluster, LONG).await;
        let tenure = token(&holder.acquire("orders/1").await);
        let mut waiter = Client::open(&cluster, LONG).await;
        assert_eq!(waiter.acquire("orders/1").await, Outcome::Queued);
        cluster.kill(cluster.primary().await);
        let primary = cluster.primary().await;
        holder.connect_callback(&cluster.endpoints[primary - 1]).await.expect("welcome");
        holder.hears_revoke("orders/1", tenure).await;
        // And with the answer to a keep-alive, should the callback connection be dead.
        let renewed = holder.keep_alive().await.expect("alive");
        assert!(matches!(&renewed.notices[..], [Notice::Revoke { token, .. }] if *token == tenure), "{renewed:?}");
        assert!(!renewed.more);
    });
}

#[test]
fn a_revoke_is_repeated_until_the_lock_is_given_back() {
    run(async {
        let cluster = Cluster::start(1).await;
        let mut holder = Client::open_with_callback(&cluster, LONG).await;
        let tenure = token(&holder.acquire("orders/1").await);
        let mut waiter = Client::open_with_callback(&cluster, LONG).await;
        assert_eq!(waiter.acquire("orders/1").await, Outcome::Queued);
        let mut count = 0;
        holder
            .heard
            .wait_for_all(|notices| {
                count = notices.iter().filter(|notice| matches!(notice, Notice::Revoke { .. })).count();
                count >= 3
            })
            .await;
        holder.release("orders/1", tenure).await;
        let second = waiter.hears_grant("orders/1").await;
        // Nobody waits for it now.
        assert_eq!(waiter.keep_alive().await.expect("alive").notices, []);
        assert!(second > tenure);
    });
}

#[test]
fn members_that_are_all_killed_and_restarted_remember_the_holder() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let mut holder = Client::open(&cluster, LONG).await;
        let held = holder.acquire("orders/1").await;
        (1..=3).for_each(|id| cluster.kill(id));
        (1..=3).for_each(|id| cluster.spawn(id));
        let mut other = Client::open(&cluster, LONG).await;
        assert_eq!(other.acquire("orders/1").await, Outcome::Queued);
        assert_eq!(
            holder.repeat(acquire("orders/1")).await,
            Outcome::Granted { token: token(&held), others_waiting: true }
        );
        let query = Query::Inspect { name: cluster::name("orders/1") };
        let answer =
            cluster::call(holder.service.query(context(), query)).await.expect("an answer").expect("inspected");
        let lock_protocol::Answer::Inspect(entry) = answer else { panic!("{answer:?}") };
        assert_eq!(entry.holders[0].session, holder.session);
        assert_eq!(entry.waiters[0].session, other.session);
    });
}

#[test]
fn a_primary_that_is_asked_to_stop_hands_over_and_ends_with_status_0() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let mut holder = Client::open(&cluster, LONG).await;
        let held = holder.acquire("orders/1").await;
        let primary = cluster.primary().await;
        let status = cluster.terminate(primary);
        assert_eq!(status.code(), Some(0));
        assert_eq!(holder.repeat(acquire("orders/1")).await, held);
        let backup = (1..=3).find(|id| *id != primary).expect("there are others");
        let status = cluster.status(backup).await.expect("it answers");
        assert_eq!((status.id, status.pid), (backup as u64, cluster.pid(backup)));
        assert_eq!(status.state_hash.len(), 16);
        assert!(status.durability.starts_with("nvm: file, durable"), "{}", status.durability);
        assert_eq!(status.view.expect("a view").members.len(), 3);
    });
}

#[test]
fn who_does_not_belong_here_is_told_so_in_words() {
    run(async {
        let cluster = Cluster::start(3).await;
        let primary = cluster.primary().await;
        let at = &cluster.endpoints[primary - 1];
        let client = Client::open(&cluster, LONG).await;
        let refused =
            async |hello: Hello| wire::dial(at, &hello, LONG).await.map(|_| ()).expect_err("refused").to_string();
        let foreign = Hello { role: wire::Role::Client, cluster: 7, sender: 0, secret: 0 };
        assert!(refused(foreign).await.contains("belongs to cluster"));
        let callback =
            Hello { role: wire::Role::Callback, cluster: 0, sender: client.session.0, secret: client.nonce ^ 1 };
        assert!(refused(callback).await.contains("opened by somebody else"));
        let peer = Hello { role: wire::Role::Peer, cluster: 0, sender: 9, secret: 0 };
        assert!(refused(peer).await.contains("knows no member 9"));

        let backup = primary % 3 + 1;
        let service = dial(&cluster.endpoints[backup - 1]).await.expect("it listens");
        let keep_alive =
            lock_protocol::KeepAlive { session: client.session, stamp: 1, floor: lock_protocol::RequestNumber(1) };
        let refusal = cluster::call(service.keep_alive(context(), keep_alive)).await.expect("an answer");
        assert_eq!(refusal, Err(Refusal::NotPrimary { hint: Some(at.to_string()) }));
        assert_eq!(cluster.status(backup).await.expect("it answers").role, Role::Backup);
    });
}

#[test]
fn a_caller_of_another_version_is_told_both_versions() {
    use std::io::{Read, Write};
    run(async {
        let cluster = Cluster::start(1).await;
        let mut stream = std::net::TcpStream::connect(cluster.endpoints[0].to_string()).expect("connected");
        stream.write_all(b"PLUMERIA\x09\x09").expect("written");
        stream.write_all(&[2; 41]).expect("written");
        let mut answer = Vec::new();
        // The rest of the hello stays unread, which the system may tell as a reset after the answer.
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("speaks version 1 of the protocol, the caller 2313"), "{answer}");
    });
}

#[test]
fn a_client_whose_session_is_gone_may_connect_and_is_told_so_by_its_keep_alive() {
    run(async {
        let cluster = Cluster::start(3).await;
        let primary = cluster.primary().await;
        let at = &cluster.endpoints[primary - 1];
        let mut client = Client::open(&cluster, LONG).await;
        let service = dial(at).await.expect("it listens");
        cluster::call(service.close(context(), client.session)).await.expect("an answer").expect("closed");
        // Were it refused, a client that lost its connections and then its session would look for a primary for ever.
        client.connect_callback(at).await.expect("a callback connection for a session that is gone is taken");
        assert_eq!(client.keep_alive().await, Err(Refusal::SessionGone));
    });
}
