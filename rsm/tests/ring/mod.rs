//! The mode `ring` after crashes of processes and of hosts: who is restored from whom, and as what.

use std::path::Path;

use crate::cluster::{Cluster, free_endpoints, run, status};
use rsm::{Backend, Durability, Identity, MemberId, Standing, View};
use tempfile::TempDir;

/// A cluster, and what is removed after it.
struct Stage {
    cluster: Cluster,
    words: usize,
    _dirs: [TempDir; 2],
}

impl Stage {
    /// A cluster whose members are all guarded; `None` where this host has no shared memory.
    async fn founded(count: u64) -> Option<Stage> {
        let shared = Path::new("/dev/shm");
        if !shared.is_dir() {
            eprintln!("SKIPPED: no /dev/shm");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let memory = tempfile::tempdir_in(shared).expect("a directory");
        let mut cluster = Cluster::stopped(dir.path(), free_endpoints(count).await);
        cluster.durability = Durability::Ring;
        cluster.memory_dir = memory.path().to_owned();
        cluster.start_all().await;
        let mut stage = Stage { cluster, words: 0, _dirs: [dir, memory] };
        stage.goes_on().await;
        stage.is_whole().await;
        Some(stage)
    }

    /// Each member is guarded by the one before, all at the same time.
    async fn is_whole(&self) {
        let count = self.cluster.endpoints.len() as u64;
        let before = |id: u64| if id == 1 { count } else { id - 1 };
        let is_guarded = |id: u64| *self.cluster.handle(id).guard().borrow() == Some(MemberId(before(id)));
        while !(1..=count).all(is_guarded) {
            for id in 1..=count {
                self.is_guarded_by(id, before(id)).await;
            }
        }
    }

    fn identity(&self, id: u64) -> Identity {
        self.cluster.handle(id).identity()
    }

    async fn is_guarded_by(&self, id: u64, guard: u64) {
        let mut known = self.cluster.handle(id).guard();
        known.wait_for(|known| *known == Some(MemberId(guard))).await.expect("it runs");
    }

    /// Ends a member as if its host had ended: with the host's memory.
    async fn kill_with_host(&mut self, id: u64) {
        self.cluster.kill(id).await;
        std::fs::remove_dir_all(self.cluster.memory_dir.join(id.to_string())).expect("it had memory");
    }

    /// A word more is remembered by all that run.
    async fn goes_on(&mut self) {
        self.words += 1;
        let word = format!("word {}", self.words);
        assert_eq!(self.cluster.remember(&word).await, self.words as u64, "nothing is forgotten");
        self.cluster.agree(self.words).await;
    }

    /// The listed stores, once all are in sync.
    async fn in_sync(&self) -> Vec<Identity> {
        let primary = self.cluster.primary().await;
        let are = |view: &View| view.slots.iter().all(|slot| slot.standing == Standing::InSync);
        let status = status(self.cluster.handle(primary), |status| status.view.as_ref().is_some_and(are)).await;
        let slots = status.view.iter().flat_map(|view| &view.slots);
        slots.map(|slot| Identity { member: slot.member, incarnation: slot.incarnation }).collect()
    }
}

#[test]
fn after_the_crash_of_a_process_a_member_has_its_own_memory_and_its_guard_again() {
    run(async {
        let Some(mut stage) = Stage::founded(3).await else { return };
        let before = stage.in_sync().await;
        stage.cluster.kill(2).await;
        stage.goes_on().await;
        stage.is_guarded_by(3, 1).await;
        stage.cluster.restart(2).await;
        stage.goes_on().await;
        stage.is_whole().await;
        assert_eq!(stage.in_sync().await, before);
    });
}

#[test]
fn after_the_crash_of_a_host_a_member_is_restored_from_its_guard_and_is_the_same_incarnation() {
    run(async {
        let Some(mut stage) = Stage::founded(3).await else { return };
        let before = stage.in_sync().await;
        for id in [2, 1] {
            stage.kill_with_host(id).await;
            stage.goes_on().await;
            stage.cluster.restart(id).await;
            stage.goes_on().await;
            stage.is_whole().await;
        }
        assert_eq!(stage.in_sync().await, before, "nobody was replaced, nor ever out of sync");
    });
}

#[test]
fn after_the_crash_of_two_hosts_of_three_at_once_the_cluster_goes_on_and_has_forgotten_nothing() {
    run(async {
        let Some(mut stage) = Stage::founded(3).await else { return };
        let before = [stage.identity(1), stage.identity(2), stage.identity(3)];
        stage.kill_with_host(2).await;
        stage.kill_with_host(1).await;
        stage.cluster.restart(1).await;
        assert_eq!(stage.identity(1), before[0], "its guard is 3");
        stage.cluster.restart(2).await;
        assert_ne!(stage.identity(2), before[1], "its guard was 1, and has lost that memory");
        stage.goes_on().await;
        stage.is_whole().await;
        assert_eq!(stage.in_sync().await, [before[0], stage.identity(2), before[2]]);
    });
}

#[test]
fn of_five_two_that_are_no_neighbours_are_both_restored() {
    run(async {
        let Some(mut stage) = Stage::founded(5).await else { return };
        let before = stage.in_sync().await;
        stage.kill_with_host(2).await;
        stage.kill_with_host(4).await;
        stage.goes_on().await;
        stage.cluster.restart(4).await;
        stage.cluster.restart(2).await;
        stage.goes_on().await;
        assert_eq!(stage.in_sync().await, before);
    });
}

#[test]
fn a_member_is_restored_with_state_and_log_of_which_snapshots_were_taken() {
    run(async {
        let Some(mut stage) = Stage::founded(3).await else { return };
        let word = "x".repeat(60 << 10);
        for count in 0..120 {
            stage.words += 1;
            stage.cluster.remember(&format!("{word} {count}")).await;
        }
        stage.is_whole().await;
        let before = stage.in_sync().await;
        stage.kill_with_host(3).await;
        stage.cluster.restart(3).await;
        let restored = status(stage.cluster.handle(3), |_| true).await;
        assert!(restored.executed_op > 60, "from a snapshot: {}", restored.executed_op);
        stage.goes_on().await;
        assert_eq!(stage.in_sync().await, before);
    });
}

#[test]
fn a_memory_that_was_never_filled_to_its_end_is_not_taken_for_the_members() {
    run(async {
        let Some(mut stage) = Stage::founded(3).await else { return };
        let before = stage.in_sync().await;
        let memory = stage.cluster.memory_dir.join("2");
        let options = nvm_log::Options { backend: Backend::Shm, ..nvm_log::Options::default() };
        let mut marks = Vec::new();
        for mark in [&b"none"[..], b""] {
            stage.cluster.kill(2).await;
            let (mut store, recovery) = nvm_log::Store::open(&memory, &options).expect("it is there");
            marks.push(recovery.control);
            store.set_control(mark).expect("written");
            store.close().expect("closed");
            stage.cluster.restart(2).await;
            stage.goes_on().await;
            stage.is_whole().await;
        }
        assert_ne!(marks[0], marks[1], "it was filled anew, from the guard");
        assert_eq!(stage.in_sync().await, before);
    });
}
