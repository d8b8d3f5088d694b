//! Members in one process, over loopback, on real stores.

mod cluster;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::{BUG, Cluster, Words, run, status};
use rsm::{Backend, Kind, MemberId, Node, NodeSettings, Rejection};

#[test]
fn a_cluster_survives_the_loss_of_its_primary_and_takes_it_back() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        assert_eq!(cluster.remember("one").await, 1);
        cluster.agree(1).await;
        let first = cluster.primary().await;
        cluster.kill(first).await;
        assert_eq!(cluster.remember("two").await, 2);
        assert_ne!(cluster.primary().await, first);
        cluster.restart(first).await;
        assert_eq!(cluster.remember("three").await, 3);
        cluster.agree(3).await;
    });
}

#[test]
fn a_cluster_that_stopped_remembers_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        for word in ["one", "two", "three"] {
            cluster.remember(word).await;
        }
        let identities: Vec<_> = cluster.members.values().map(|member| member.handle.identity()).collect();
        cluster.stop_all().await;
        cluster.start_all().await;
        assert_eq!(cluster.remember("four").await, 4);
        cluster.agree(4).await;
        assert!(cluster.members.values().map(|member| member.handle.identity()).eq(identities));
    });
}

#[test]
fn a_cluster_that_crashed_as_a_whole_remembers_what_it_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        let words: Vec<String> = (0..200).map(|number| format!("word {number}")).collect();
        let primary = cluster.primary().await;
        let commands = words.iter().map(|word| word.clone().into_bytes()).collect();
        let answers = cluster.handle(primary).submit_all(commands).await;
        let expected: Vec<_> = (1..=200u64).map(|count| Ok(count.to_le_bytes().to_vec())).collect();
        assert_eq!(answers, expected);
        for id in 1..=3 {
            cluster.kill(id).await;
        }
        cluster.start_all().await;
        assert_eq!(cluster.remember("one more").await, 201);
        cluster.agree(201).await;
    });
}

#[test]
fn a_member_that_missed_much_catches_up_and_starts_from_its_snapshot() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        cluster.stop_all().await;
        cluster.snapshot_every_bytes = 64 << 10;
        cluster.start_all().await;
        cluster.remember("one").await;
        let absent = cluster.primary().await % 3 + 1;
        cluster.kill(absent).await;
        let long = "x".repeat(1000);
        for number in 0..400 {
            cluster.remember(&format!("{number} {long}")).await;
        }
        cluster.restart(absent).await;
        cluster.agree(401).await;
        cluster.stop_all().await;
        cluster.start_all().await;
        assert_eq!(cluster.remember("two").await, 402);
        cluster.agree(402).await;
    });
}

#[test]
fn a_primary_that_stops_hands_over_first() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        cluster.remember("one").await;
        let first = cluster.primary().await;
        let member = cluster.members.remove(&first).expect("it runs");
        member.handle.stop().await;
        assert!(!member.handle.status().is_primary, "another took over before the end");
        assert_eq!(member.node.wait().await, Ok(()));
        member.accepting.abort();
        assert_eq!(member.handle.submit(b"late".to_vec(), false).await, Err(Rejection::NotPrimary { hint: None }));
        assert_eq!(cluster.remember("two").await, 2);
    });
}

#[test]
fn a_backup_refuses_commands() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let cluster = Cluster::start(dir.path(), 3).await;
        let backup = cluster.primary().await % 3 + 1;
        status(cluster.handle(backup), |status| status.serving).await;
        let refused = cluster.handle(backup).submit(b"word".to_vec(), false).await;
        assert!(matches!(refused, Err(Rejection::NotPrimary { hint: Some(_) })), "{refused:?}");
    });
}

#[test]
fn members_that_do_not_answer_stop_the_service_and_nothing_is_lost_when_they_are_back() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        cluster.remember("one").await;
        let primary = cluster.primary().await;
        let others: Vec<u64> = (1..=3).filter(|id| *id != primary).collect();
        for id in &others {
            cluster.kill(*id).await;
        }
        let handle = cluster.handle(primary).clone();
        let unsettled = handle.submit(b"two".to_vec(), false);
        status(&handle, |status| !status.serving).await;
        for id in &others {
            cluster.restart(*id).await;
        }
        assert!(matches!(cluster.remember("two").await, 2));
        cluster.agree(2).await;
        assert!(matches!(unsettled.await, Ok(_) | Err(Rejection::Unknown)));
    });
}

fn start_error(settings: NodeSettings) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let error = Node::start(settings, Words::default(), runtime.handle().clone()).map(|_| ()).expect_err("refused");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

fn single(dir: &Path) -> NodeSettings {
    let members = vec![(MemberId(1), "127.0.0.1:1".parse().expect("an address"), Kind::Replica)];
    NodeSettings { ring_bytes: 8 << 20, ..NodeSettings::new(MemberId(1), "test", members, dir) }
}

/// A cluster of one has remembered a word, and was stopped in good order, or crashed.
fn single_with_a_word(dir: &Path, stopped: bool) {
    run(async {
        let runtime = tokio::runtime::Handle::current();
        let (node, handle) = Node::start(single(dir), Words::default(), runtime).expect("starts");
        status(&handle, |status| status.is_primary && status.serving).await;
        assert_eq!(handle.submit(b"word".to_vec(), false).await, Ok(1u64.to_le_bytes().to_vec()));
        if stopped {
            handle.stop().await;
        }
        drop(node);
    });
}

fn bytes_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).expect("a directory").map(|file| file.expect("a file"));
    files
        .map(|file| (file.file_name().into_string().expect("a name"), std::fs::read(file.path()).expect("bytes")))
        .collect()
}

#[test]
fn a_single_member_serves_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    single_with_a_word(dir.path(), false);
    single_with_a_word(dir.path(), true);
    single_with_a_word(dir.path(), true);
}

#[test]
fn a_failed_assertion_stops_the_member_and_is_not_taken_for_an_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let runtime = tokio::runtime::Handle::current();
        let (node, handle) = Node::start(single(dir.path()), Words::default(), runtime).expect("starts");
        status(&handle, |status| status.is_primary && status.serving).await;
        assert_eq!(handle.submit(BUG.to_vec(), false).await, Err(Rejection::Unknown));
        let line = node.wait().await.expect_err("it cannot go on");
        assert!(line.contains("assertion") && !line.contains('\n'), "{line}");
        handle.stop().await;
    });
}

#[test]
fn a_store_of_another_member_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    single_with_a_word(dir.path(), true);
    let mut settings = single(dir.path());
    settings.member = MemberId(2);
    settings.members.push((MemberId(2), "127.0.0.1:2".parse().expect("an address"), Kind::Replica));
    let line = start_error(settings);
    assert!(line.contains("belongs to member 1, not 2: correct the id or the data directory"), "{line}");
}

#[test]
fn a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let runtime = tokio::runtime::Handle::current();
        let (_node, _handle) = Node::start(single(dir.path()), Words::default(), runtime.clone()).expect("starts");
        let second = Node::start(single(dir.path()), Words::default(), runtime).map(|_| ());
        let line = second.expect_err("refused").to_string();
        assert!(line.contains("in use") && line.contains("stop that process first"), "{line}");
    });
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    single_with_a_word(dir.path(), true);
    let mut damaged = 0;
    for (name, bytes) in bytes_of(dir.path()) {
        let Some(at) = bytes.windows(4).position(|window| window == b"word") else { continue };
        let mut bytes = bytes;
        bytes[at] ^= 1;
        std::fs::write(dir.path().join(&name), bytes).expect("written");
        damaged += 1;
    }
    assert_eq!(damaged, 1, "the word stands in the log, and only there");
    let before = bytes_of(dir.path());
    let line = start_error(single(dir.path()));
    assert!(line.contains("is damaged") && line.contains("move the directory away"), "{line}");
    let again = start_error(single(dir.path()));
    assert_eq!(line, again);
    assert_eq!(before.keys().collect::<Vec<_>>(), bytes_of(dir.path()).keys().collect::<Vec<_>>());
}

#[test]
fn settings_that_do_not_fit_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let good = single(&path);
    let mut unlisted = good.clone();
    unlisted.member = MemberId(7);
    assert!(start_error(unlisted).contains("member 7 is not among the configured members"));
    let mut twice = good.clone();
    twice.members.push(twice.members[0].clone());
    assert!(start_error(twice).contains("two configured members have the same id"));
    let mut witness = good.clone();
    witness.members[0].2 = Kind::Witness;
    assert!(start_error(witness).contains("1 of 1 members are witnesses"));
    let small = NodeSettings { ring_bytes: 4096, ..good.clone() };
    assert!(start_error(small).contains("give it 4194304 at least"));
    let volatile = NodeSettings { backend: Backend::Shm, ..good };
    assert!(start_error(volatile).contains("allow a volatile store explicitly"));
    assert!(!path.exists());
}

#[test]
fn members_on_shared_memory_write_inline_and_survive_the_end_of_the_process() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    run(async {
        let mut cluster = Cluster::stopped(dir.path(), cluster::free_endpoints(3).await);
        cluster.backend = Backend::Shm;
        cluster.start_all().await;
        for count in 1..=50 {
            assert_eq!(cluster.remember(&format!("word {count}")).await, count);
        }
        assert!(cluster.handle(1).durability().contains("volatile"), "{}", cluster.handle(1).durability());
        assert!(cluster.handle(1).is_inline(), "memory is written by the replica thread");
        for id in 1..=3 {
            cluster.kill(id).await;
        }
        cluster.start_all().await;
        assert_eq!(cluster.remember("one more").await, 51);
        cluster.agree(51).await;
    });
}

#[test]
fn a_member_tells_what_it_has_done_and_is_silent_only_once_it_has_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::stopped(dir.path(), cluster::free_endpoints(1).await);
        cluster.snapshot_every_bytes = 64 << 10;
        cluster.start_all().await;
        let began = Instant::now();
        let handle = cluster.handle(1).clone();
        let long = "x".repeat(1000);
        for number in 0..100 {
            cluster.remember(&format!("{number} {long}")).await;
        }
        wait_until(|| handle.statistics().snapshots.count > 0).await;
        let statistics = handle.statistics();
        assert!(statistics.views >= 1 && statistics.broken_peers == 0, "{statistics:?}");
        assert!(statistics.snapshots.last_bytes > 10_000, "{statistics:?}");
        assert!(statistics.store.flushes >= 100 && statistics.store.appended_bytes > 100_000, "{statistics:?}");
        assert!(handle.status().log_bytes > 0);

        wait_until(|| began.elapsed() > Duration::from_secs(1)).await;
        wait_until(|| handle.silent_for() < Duration::from_millis(200)).await;
        cluster.kill(1).await;
        wait_until(|| handle.silent_for() > Duration::from_millis(500)).await;
    });
}

async fn wait_until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
