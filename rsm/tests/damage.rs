//! Damage to a member's store: it is repaired from the others while they serve, or, where that cannot be, the member begins anew.

mod cluster;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Cluster, free_endpoints, run, status};
use nvm_log::{Options, Outcome, Recovery, Store};
use rsm::{Handle, Identity, Rejection, Standing};
use tokio::task::JoinHandle;

/// Where the ring of a log of 16 MiB begins (nvm-log's FORMAT.md).
const RING: u64 = 0x20_0000;
/// Bytes of a block of the medium.
const BLOCK: u64 = 4096;
/// Between two words of a load.
const PACE: Duration = Duration::from_millis(5);

/// Submits words of some size one after the other to whoever serves, until told to stop.
struct Load {
    handles: Arc<Mutex<Vec<Handle>>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(handles: Vec<Handle>, first: usize) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(first)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let handles = Arc::new(Mutex::new(handles));
        let all = Arc::clone(&handles);
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            while !stopped.load(Ordering::Relaxed) {
                let known = all.lock().expect("nobody panics with it").clone();
                if submit(&known, &word(count.load(Ordering::Relaxed) + 1)).await {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                pace.tick().await;
            }
        });
        Load { handles, stop, done, task }
    }

    /// One more member may become primary.
    fn add(&self, handle: &Handle) {
        self.handles.lock().expect("nobody panics with it").push(handle.clone());
    }

    /// Waits until so many more words were acknowledged.
    async fn serves(&self, more: usize) {
        let until = self.done.load(Ordering::Relaxed) + more;
        let mut look = tokio::time::interval(PACE);
        while self.done.load(Ordering::Relaxed) < until {
            look.tick().await;
        }
    }

    /// Ends it. Returns how many words were acknowledged.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic");
        self.done.load(Ordering::Relaxed)
    }
}

/// A word that fills half a block, so that a block holds an entry or two.
fn word(number: usize) -> String {
    format!("{number:0>2000}")
}

async fn submit(handles: &[Handle], word: &str) -> bool {
    for handle in handles {
        match handle.submit(word.into(), false).await {
            Ok(_) => return true,
            Err(Rejection::Unknown) => return false,
            Err(_) => {}
        }
    }
    false
}

struct Stage {
    cluster: Cluster,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Three members that have remembered so many words, and take snapshots seldom.
    async fn with_words(words: usize) -> Stage {
        let dir = tempfile::tempdir().expect("a directory");
        Stage { cluster: Cluster::start(dir.path(), 3).await, dir }.remembering(words).await
    }

    /// Three members that have remembered so many words, with a snapshot whenever the log has grown by so many bytes.
    async fn with(words: usize, snapshot_every_bytes: usize) -> Stage {
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster = Cluster::stopped(dir.path(), free_endpoints(3).await);
        cluster.snapshot_every_bytes = snapshot_every_bytes;
        cluster.start_all().await;
        Stage { cluster, dir }.remembering(words).await
    }

    async fn remembering(self, words: usize) -> Stage {
        self.add(1, words).await;
        self.cluster.agree(words).await;
        self
    }

    async fn add(&self, first: usize, last: usize) {
        for number in first..=last {
            self.cluster.remember(&word(number)).await;
        }
    }

    async fn backup(&self) -> u64 {
        self.cluster.primary().await % 3 + 1
    }

    fn store(&self, id: u64) -> File {
        self.file(id, "store")
    }

    fn file(&self, id: u64, name: &str) -> File {
        let path: PathBuf = self.dir.path().join(id.to_string()).join(name);
        OpenOptions::new().read(true).write(true).open(path).expect("the member's store")
    }

    /// What the next start of a member that is down will find.
    fn opened(&self, id: u64) -> Recovery {
        let options = Options { ring_bytes: 16 << 20, ..Options::default() };
        Store::open(&self.dir.path().join(id.to_string()), &options).expect("it opens").1
    }

    fn load(&self, without: u64, words: usize) -> Load {
        let others = self.cluster.members.iter().filter(|(id, _)| **id != without);
        Load::start(others.map(|(_, member)| member.handle.clone()).collect(), words)
    }

    /// Waits until the member is in sync, under its incarnation of now.
    async fn in_sync(&self, id: u64) -> Identity {
        let handle = self.cluster.handle(id);
        status(handle, |status| {
            let Identity { member, incarnation } = handle.identity();
            let lists = |view: &rsm::View| view.is_in_sync(member, incarnation);
            status.serving && status.view.as_ref().is_some_and(lists)
        })
        .await;
        handle.identity()
    }

    /// A backup is down; its store is damaged; it comes back under load, and all have all that was acknowledged. Returns its identity before
    /// and after.
    async fn survives(mut self, words: usize, damage: impl FnOnce(&Stage, u64)) -> (Identity, Identity) {
        let id = self.backup().await;
        let before = self.cluster.handle(id).identity();
        self.cluster.kill(id).await;
        let load = self.load(id, words);
        load.serves(5).await;
        damage(&self, id);
        self.cluster.restart(id).await;
        load.add(self.cluster.handle(id));
        load.serves(5).await;
        let after = self.in_sync(id).await;
        load.serves(5).await;
        let words = load.end().await;
        self.cluster.agree(words).await;
        // It is whole on its medium as well.
        self.cluster.stop(id).await;
        self.cluster.restart(id).await;
        assert_eq!(self.in_sync(id).await, after);
        self.cluster.agree(words).await;
        (before, after)
    }
}

/// The two snapshot files of a member, the one with the newer snapshot first, with its op.
fn snapshots(stage: &Stage, id: u64) -> [(u64, File); 2] {
    let mut found = ["snapshot-a", "snapshot-b"].map(|name| {
        let file = stage.file(id, name);
        let mut op = [0; 8];
        file.read_exact_at(&mut op, 24).expect("a snapshot was taken");
        (u64::from_le_bytes(op), file)
    });
    found.sort_by_key(|(op, _)| std::cmp::Reverse(*op));
    found
}

/// Looks again and again, until it is so.
async fn until(mut is: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(PACE);
    while !is() {
        look.tick().await;
    }
}

/// The used part of the ring: where it ends.
fn ring_end(store: &File) -> u64 {
    let mut end = RING;
    let mut block = [0; BLOCK as usize];
    loop {
        store.read_exact_at(&mut block, end).expect("within the store");
        if block.iter().all(|byte| *byte == 0) {
            return end;
        }
        end += BLOCK;
    }
}

fn spoil(store: &File, at: u64) {
    store.write_all_at(&[0x5a; BLOCK as usize], at / BLOCK * BLOCK).expect("within the store");
}

/// A backup with so many words in its log is down, and what this does to the log is found when it starts. Returns its identity before
/// and after.
fn survives_in_the_log(words: usize, damage: impl FnOnce(&File, u64)) -> (Identity, Identity) {
    run(async {
        let stage = Stage::with_words(words).await;
        let spoil_log = |stage: &Stage, id| {
            let store = stage.store(id);
            damage(&store, ring_end(&store));
            let outcome = stage.opened(id).outcome;
            assert!(matches!(outcome, Outcome::Corrupt { .. }), "nothing to repair: {outcome:?}");
        };
        stage.survives(words, spoil_log).await
    })
}

#[test]
fn a_damaged_block_in_the_log_is_repaired_from_the_others_while_they_serve() {
    let (before, after) = survives_in_the_log(30, |store, end| spoil(store, RING + (end - RING) / 2));
    assert_eq!(before, after, "the same store");
}

#[test]
fn two_damaged_blocks_are_repaired() {
    let (before, after) = survives_in_the_log(30, |store, end| {
        spoil(store, RING + (end - RING) / 4);
        spoil(store, RING + (end - RING) / 4 * 3);
    });
    assert_eq!(before, after, "the same store");
}

#[test]
fn where_the_logs_end_is_lost_a_member_begins_anew_as_another_incarnation() {
    let (before, after) = survives_in_the_log(30, |store, end| {
        spoil(store, end - 2 * BLOCK);
        spoil(store, end - BLOCK);
    });
    assert_ne!(before.incarnation, after.incarnation);
}

#[test]
fn where_the_whole_log_is_lost_a_member_begins_anew_as_another_incarnation() {
    let (before, after) = survives_in_the_log(10, |store, end| {
        let zeros = vec![0; usize::try_from(end - RING).expect("a small log")];
        store.write_all_at(&zeros, RING).expect("within the store");
    });
    assert_ne!(before.incarnation, after.incarnation);
}

#[test]
fn members_that_are_all_damaged_in_different_places_repair_each_other() {
    run(async {
        let mut stage = Stage::with_words(30).await;
        for id in 1..=3 {
            stage.cluster.kill(id).await;
        }
        for (id, eighth) in [(1, 2), (2, 4), (3, 6)] {
            let store = stage.store(id);
            spoil(&store, RING + (ring_end(&store) - RING) / 8 * eighth);
            assert!(matches!(stage.opened(id).outcome, Outcome::Corrupt { .. }));
        }
        stage.cluster.start_all().await;
        stage.add(31, 31).await;
        stage.cluster.agree(31).await;
        for member in stage.cluster.members.values() {
            let view = member.handle.status().view.clone().expect("it knows a view");
            assert!(view.slots.iter().all(|slot| slot.standing == Standing::InSync));
        }
    });
}

#[test]
fn a_log_whose_end_is_lost_is_not_given_up_while_its_member_is_needed() {
    run(async {
        let mut stage = Stage::with_words(10).await;
        let id = stage.backup().await;
        let before = stage.cluster.handle(id).identity();
        stage.cluster.stop_all().await;
        let store = stage.store(id);
        let end = ring_end(&store);
        spoil(&store, end - BLOCK);
        spoil(&store, end - 2 * BLOCK);
        let other = id % 3 + 1;
        stage.cluster.restart(id).await;
        stage.cluster.restart(other).await;
        let waiting = status(stage.cluster.handle(id), |status| status.waits_for.is_some()).await;
        assert!(
            waiting.waits_for.as_deref().is_some_and(|line| line.contains("until a majority serves")),
            "{waiting:?}"
        );
        // The other one is up and asked, and has nobody to serve with.
        status(stage.cluster.handle(other), |status| status.waits_for.is_some()).await;
        assert_eq!(stage.cluster.handle(id).identity(), before);
        stage.cluster.restart(other % 3 + 1).await;
        assert_ne!(stage.in_sync(id).await, before);
        stage.add(11, 11).await;
        stage.cluster.agree(11).await;
    });
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before_and_its_log() {
    run(async {
        let stage = Stage::with(100, 32 << 10).await;
        let (before, after) = stage
            .survives(100, |stage, id| {
                let [(_, newest), (older, _)] = snapshots(stage, id);
                spoil(&newest, BLOCK);
                assert_eq!(stage.opened(id).snapshot.map(|(meta, _)| meta.op), Some(older));
            })
            .await;
        assert_eq!(before, after);
    });
}

#[test]
fn where_both_snapshots_are_lost_a_member_begins_anew_as_another_incarnation() {
    run(async {
        let stage = Stage::with(100, 32 << 10).await;
        let (before, after) =
            stage.survives(100, |stage, id| snapshots(stage, id).iter().for_each(|(_, file)| spoil(file, BLOCK))).await;
        assert_ne!(before.incarnation, after.incarnation);
    });
}

#[test]
fn a_scrub_finds_damage_in_the_log_of_a_member_that_runs_and_it_is_stored_again() {
    run(async {
        let mut stage = Stage::with_words(30).await;
        let id = stage.cluster.primary().await;
        let store = stage.store(id);
        let end = ring_end(&store);
        spoil(&store, RING + (end - RING) / 2);
        // The second half is stored again, behind the first writing of it.
        until(|| ring_end(&store) > end + (end - RING) / 3).await;
        stage.add(31, 31).await;
        let before = stage.cluster.handle(id).identity();
        stage.cluster.kill(id).await;
        let recovery = stage.opened(id);
        assert_eq!(recovery.outcome, Outcome::Clean);
        assert!(recovery.frames.len() >= 32, "a barrier and the words");
        stage.cluster.restart(id).await;
        assert_eq!(stage.in_sync(id).await, before);
        stage.cluster.agree(31).await;
    });
}

#[test]
fn a_scrub_finds_damage_in_the_snapshot_of_a_member_that_runs_and_it_is_stored_again() {
    run(async {
        let stage = Stage::with(100, 32 << 10).await;
        let id = stage.backup().await;
        // One that was under way may take the damaged one's place: then that is spoilt, too.
        until(|| {
            let [(op, newest), (other, _)] = snapshots(&stage, id);
            let is_stored_again = op == other;
            if !is_stored_again {
                spoil(&newest, BLOCK);
            }
            is_stored_again
        })
        .await;
    });
}
