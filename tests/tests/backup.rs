//! A backup of a cluster of real processes becomes a new cluster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lock_client::{AcquireError, BackupHeader, LockClient, MemberChange, Mode, change_members, fetch_backup};
use plumeria_tests::lab::{Blow, Checked, Cluster, Expected, last_words, views};
use tokio::time::{Instant, sleep, timeout};

/// Of all clients of the old cluster: what the new one waits for.
const LEASE: Duration = Duration::from_secs(3);
/// Whatever has to happen happens within this, on a slow and busy machine too.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Above the time of day in µs until 2065.
const FLOOR: u64 = 3_000_000_000_000_000;

fn server() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lock-server-under-test"))
}

fn in_runtime(test: impl Future<Output = Checked<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Err(failure) = runtime.block_on(test) {
        panic!("{failure}\n{}", last_words());
    }
}

async fn connect(endpoints: &[String], name: &str) -> LockClient {
    let builder = LockClient::builder(endpoints.iter().cloned()).name(name).lease(LEASE);
    builder.connect_timeout(DEADLINE).connect().await.expect("a session")
}

/// Saves the state of a member.
async fn save(endpoint: &str, dir: &Path) -> PathBuf {
    let path = dir.join("backup");
    fetch_backup(endpoint, None, || File::create(&path)).await.expect("a backup");
    path
}

/// The server program, run to its end.
fn run(arguments: &[&str]) -> Output {
    Command::new(server()).args(arguments).env("RUST_LOG", "off").output().expect("it runs")
}

/// Runs `restore` for this member of the cluster.
fn restore(cluster: &Cluster, id: u64, file: &Path, others: &[&str]) -> Output {
    let list: Vec<String> = cluster.places().keys().map(|id| format!("{id}={}", cluster.endpoint(*id))).collect();
    let (file, id, list) = (file.display().to_string(), id.to_string(), list.join(","));
    let data_dir = cluster.disk(id.parse().expect("a number")).join("data").display().to_string();
    let plain = ["restore", &file, "--id", &id, "--cluster", &list, "--data-dir", &data_dir, "--allow-volatile"];
    run(&[&plain[..], others].concat())
}

/// The one line of a program that refused.
fn complaint(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{output:?}");
    let line = stderr.strip_suffix('\n').expect("a line");
    assert!(line.starts_with("lock-server: ") && !line.contains('\n'), "{stderr}");
    line.to_owned()
}

/// Adds a member of the restored cluster, whoever is primary at the moment.
async fn add(cluster: &Cluster, id: u64) {
    let began = Instant::now();
    let change = MemberChange::Add { member: id, address: cluster.endpoint(id), witness: false };
    while began.elapsed() < DEADLINE {
        for endpoint in cluster.endpoints() {
            if let Ok(Ok(_)) = change_members(&endpoint, None, change.clone()).await {
                return;
            }
        }
        sleep(POLL).await;
    }
    panic!("member {id} is not added");
}

fn in_sync(members: impl IntoIterator<Item = u64>) -> Expected {
    views(1..=99, members)
}

#[test]
fn requirement_1_tokens_rise_over_a_restore_and_no_lock_is_granted_before_the_longest_lease_has_passed() {
    in_runtime(async {
        let dir = tempfile::tempdir()?;
        let mut old = Cluster::start(server(), 3)?;
        old.agree(&in_sync([1, 2, 3])).await?;
        let client = connect(&old.endpoints(), "before").await;
        let held = client.acquire("orders/1", Mode::Exclusive).await.expect("free");
        let file = save(&old.endpoint(2), dir.path()).await;
        let later = client.acquire("orders/2", Mode::Exclusive).await.expect("free");
        let tokens = [held.token(), later.token()];
        for id in 1..=3 {
            old.stop(id, Blow::Kill).await?;
        }
        let stopped = Instant::now();

        let mut new = Cluster::new(server(), Cluster::loopback(3)?)?;
        let old_dir = old.disk(1).join("data").display().to_string();
        let lease = format!("{}s", LEASE.as_secs());
        let restored = restore(
            &new,
            1,
            &file,
            &["--max-lease", &lease, "--old-data-dir", &old_dir, "--token-floor", &FLOOR.to_string()],
        );
        assert!(restored.status.success(), "{restored:?}");
        let text = String::from_utf8_lossy(&restored.stdout).into_owned();
        assert!(text.contains(&format!("lockctl members add 2 {}", new.endpoint(2))), "{text}");
        // All start with the same list, as they will later.
        (1..=3).try_for_each(|id| new.launch(id))?;
        for id in [2, 3] {
            add(&new, id).await;
            new.list(1..=id);
        }
        new.agree(&in_sync([1, 2, 3])).await?;

        let client = connect(&new.endpoints(), "after").await;
        assert!(stopped.elapsed() >= LEASE, "a session within {:?}", stopped.elapsed());
        assert!(!held.is_valid() && !later.is_valid(), "what was held before is not believed any more");
        for name in ["orders/1", "orders/2", "orders/3"] {
            let guard = client.acquire(name, Mode::Exclusive).await.expect("free");
            assert!(tokens.iter().all(|before| guard.token() > *before), "{name}: {} after {tokens:?}", guard.token());
            assert!((FLOOR + 1..1 << 53).contains(&guard.token().0), "{name}: {}", guard.token());
        }
        // The restored member is not the only one that knows.
        new.stop(1, Blow::Kill).await?;
        let guard =
            timeout(DEADLINE, client.acquire("orders/4", Mode::Exclusive)).await.expect("in time").expect("free");
        assert!(guard.token().0 > FLOOR);
        Ok(())
    });
}

#[test]
fn a_client_of_the_old_cluster_is_told_by_the_new_one_that_its_session_is_lost() {
    in_runtime(async {
        let dir = tempfile::tempdir()?;
        let mut cluster = Cluster::start(server(), 1)?;
        cluster.agree(&in_sync([1])).await?;
        let client = connect(&cluster.endpoints(), "before").await;
        let guard = client.acquire("orders/1", Mode::Exclusive).await.expect("free");
        let file = save(&cluster.endpoint(1), dir.path()).await;
        cluster.stop(1, Blow::Kill).await?;
        cluster.wipe(1)?;
        // The new cluster is where the old one was.
        let restored = restore(&cluster, 1, &file, &["--max-lease", "3s"]);
        assert!(restored.status.success(), "{restored:?}");
        cluster.launch(1)?;
        timeout(DEADLINE, guard.lost()).await.expect("in time");
        let began = Instant::now();
        while !matches!(client.acquire_timeout("orders/1", Mode::Exclusive, POLL).await, Err(AcquireError::SessionLost))
        {
            assert!(began.elapsed() < DEADLINE, "the loss is not told");
        }
        let again = connect(&cluster.endpoints(), "after").await;
        let taken_us = BackupHeader::read(&std::fs::read(&file)?).expect("whole").0.taken_us;
        let token = again.acquire("orders/1", Mode::Exclusive).await.expect("free").token();
        assert!(token > guard.token() && token.0 > taken_us, "{token}: below the time, which no cluster's ops reach");
        Ok(())
    });
}

#[test]
fn what_was_held_is_shown_from_a_backup_and_one_that_cannot_be_used_is_refused_in_one_line() {
    in_runtime(async {
        let dir = tempfile::tempdir()?;
        let mut cluster = Cluster::start(server(), 1)?;
        cluster.agree(&in_sync([1])).await?;
        let client = connect(&cluster.endpoints(), "indexer-7").await;
        let held = client.acquire("orders/1", Mode::Exclusive).await.expect("free");
        let _other = client.acquire("parts/1", Mode::Shared).await.expect("free");
        let file = save(&cluster.endpoint(1), dir.path()).await;
        let shown = run(&["show", &file.display().to_string(), "orders/"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = format!("orders/1  exclusive  token {}  indexer-7", held.token());
        assert!(shown.status.success() && text.contains(&line) && text.contains("2 locks"), "{text}");
        assert!(!text.contains("parts/1"), "{text}");

        let good = std::fs::read(&file)?;
        let in_use =
            restore(&cluster, 1, &file, &["--old-data-dir", &cluster.disk(1).join("data").display().to_string()]);
        assert!(complaint(&in_use).contains("is in use by process"), "the old cluster runs: {in_use:?}");
        cluster.stop(1, Blow::Kill).await?;
        assert!(complaint(&restore(&cluster, 1, &file, &[])).contains("is not empty"), "its store is there");
        cluster.wipe(1)?;
        let mut damaged = good.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let newer = [b"PLUMBAK\x02", &good[8..]].concat();
        let cases = [
            (&damaged[..], "damaged: its state is not what was taken"),
            (&good[..last], "cut short"),
            (b"id = 1\n", "no backup of a Plumeria cluster"),
            (&newer, "use a newer program"),
        ];
        for (bytes, expected) in cases {
            std::fs::write(&file, bytes)?;
            for refused in [restore(&cluster, 1, &file, &[]), run(&["show", &file.display().to_string()])] {
                assert!(complaint(&refused).contains(expected), "wanted: {expected}\n{refused:?}");
            }
        }
        std::fs::write(&file, &good)?;
        let floor = ["--token-floor", "9007199254740992"];
        assert!(complaint(&restore(&cluster, 1, &file, &floor)).contains("--token-floor"));
        assert!(!cluster.disk(1).join("data").exists(), "nothing was made");
        Ok(())
    });
}
