//! The same cluster in each durability mode: what it remembers, and under which incarnation, after each kind of crash.

mod cluster;
mod ring;

use std::path::Path;

use cluster::{Cluster, Words, free_endpoints, run, status};
use rsm::{Backend, Durability, Identity, Node, Standing, StartError};
use tempfile::TempDir;

/// A cluster of three, and what is removed after it.
struct Stage {
    cluster: Cluster,
    _dirs: [TempDir; 2],
}

impl Stage {
    /// `None` where the mode needs shared memory and this host has none.
    async fn founded(mode: Durability) -> Option<Stage> {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = Path::new("/dev/shm");
        let memory = match mode {
            Durability::Ring if !shared.is_dir() => {
                eprintln!("SKIPPED: {mode} (no /dev/shm)");
                return None;
            }
            Durability::Ring => tempfile::tempdir_in(shared),
            _ => tempfile::tempdir(),
        };
        let memory = memory.expect("a directory");
        let mut cluster = Cluster::stopped(dir.path(), free_endpoints(3).await);
        cluster.durability = mode;
        cluster.memory_dir = memory.path().to_owned();
        cluster.start_all().await;
        assert_eq!(cluster.remember("one").await, 1);
        cluster.agree(1).await;
        Some(Stage { cluster, _dirs: [dir, memory] })
    }

    fn identity(&self, id: u64) -> Identity {
        self.cluster.handle(id).identity()
    }

    async fn all_in_sync(&self) {
        let primary = self.cluster.primary().await;
        let in_sync = |view: &rsm::View| view.slots.iter().all(|slot| slot.standing == Standing::InSync);
        status(self.cluster.handle(primary), |status| status.view.as_ref().is_some_and(in_sync)).await;
    }

    async fn kill_all(&mut self) {
        for id in 1..=3 {
            self.cluster.kill(id).await;
        }
    }

    /// Ends a member as if its host had ended: with the host's memory.
    async fn kill_with_host(&mut self, id: u64) {
        self.cluster.kill(id).await;
        drop(std::fs::remove_dir_all(self.cluster.memory_dir.join(id.to_string())));
    }
}

#[test]
fn in_every_mode_each_member_may_crash_in_turn() {
    for mode in Durability::ALL {
        run(async {
            let Some(mut stage) = Stage::founded(mode).await else { return };
            for (id, words) in (1..=3).zip(2..) {
                stage.all_in_sync().await;
                let before = stage.identity(id);
                stage.cluster.kill(id).await;
                stage.cluster.restart(id).await;
                assert_eq!(stage.identity(id) != before, mode == Durability::EpochSs, "{mode}: a new incarnation");
                assert_eq!(stage.cluster.remember(&format!("word {words}")).await, words as u64);
                stage.cluster.agree(words).await;
            }
        });
    }
}

#[test]
fn in_every_mode_but_epoch_ss_all_processes_may_crash_at_once() {
    for mode in [Durability::Nvm, Durability::FullSs, Durability::Ring] {
        run(async {
            let Some(mut stage) = Stage::founded(mode).await else { return };
            let before: Vec<_> = (1..=3).map(|id| stage.identity(id)).collect();
            stage.kill_all().await;
            stage.cluster.start_all().await;
            assert_eq!(stage.cluster.remember("two").await, 2, "{mode}");
            stage.cluster.agree(2).await;
            assert_eq!((1..=3).map(|id| stage.identity(id)).collect::<Vec<_>>(), before, "{mode}");
        });
    }
}

#[test]
fn a_rolling_restart_of_members_without_memory_loses_nothing_however_quick_it_is() {
    run(async {
        let Some(mut stage) = Stage::founded(Durability::EpochSs).await else { return };
        for id in 1..=3 {
            stage.cluster.stop(id).await;
            stage.cluster.restart(id).await;
        }
        assert_eq!(stage.cluster.remember("two").await, 2);
        stage.cluster.agree(2).await;
    });
}

#[test]
fn members_that_all_lost_their_memory_found_no_second_cluster() {
    for mode in [Durability::EpochSs, Durability::Ring] {
        run(async {
            let Some(mut stage) = Stage::founded(mode).await else { return };
            let view = status(stage.cluster.handle(1), |status| status.view.is_some()).await.view.clone();
            for id in 1..=3 {
                stage.kill_with_host(id).await;
            }
            stage.cluster.start_all().await;
            for id in 1..=3 {
                let known = status(stage.cluster.handle(id), |status| status.waits_for.is_some()).await;
                let cluster = known.view.as_ref().map(|view| view.cluster);
                assert_eq!(cluster, view.as_ref().map(|view| view.cluster), "{mode}: it knows where it belongs");
                assert!(!known.is_primary);
            }
        });
    }
}

#[test]
fn a_store_of_one_mode_is_refused_in_another_and_left_as_it_is() {
    run(async {
        for (mode, other) in [(Durability::Nvm, Durability::EpochSs), (Durability::EpochSs, Durability::Nvm)] {
            let Some(mut stage) = Stage::founded(mode).await else { return };
            match mode.is_volatile() {
                true => stage.kill_all().await,
                false => stage.cluster.stop_all().await,
            }
            let right = stage.cluster.settings(1);
            let mut wrong = right.clone();
            wrong.durability = other;
            let runtime = tokio::runtime::Handle::current();
            let error = Node::start(wrong, Words::default(), runtime.clone()).expect_err("refused").to_string();
            assert!(
                error.ends_with("it was made for another durability mode: start it with the mode of its cluster"),
                "{error}"
            );
            assert!(Node::start(right, Words::default(), runtime).is_ok());
        }
    });
}

#[test]
fn settings_that_no_mode_can_keep_are_refused() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::start(dir.path(), 1).await;
        let refused = |change: fn(&mut rsm::NodeSettings)| {
            let mut settings = cluster.settings(1);
            change(&mut settings);
            match Node::start(settings, Words::default(), tokio::runtime::Handle::current()) {
                Err(StartError::Settings(line)) => line,
                other => panic!("not refused: {:?}", other.map(drop)),
            }
        };
        let shm = refused(|settings| (settings.durability, settings.backend) = (Durability::FullSs, Backend::Shm));
        assert!(shm.contains("choose the file back end"), "{shm}");
        let nowhere = refused(|settings| {
            settings.durability = Durability::Ring;
            settings.memory_dir = std::path::PathBuf::new();
        });
        assert!(nowhere.contains("name a directory on tmpfs"), "{nowhere}");
    });
}
