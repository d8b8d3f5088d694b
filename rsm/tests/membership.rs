//! Members added, removed and replaced, and a witness, in one process, over loopback, on real stores.

#[allow(dead_code, reason = "each test file uses another part of it")]
mod cluster;

use cluster::{Cluster, Words, free_endpoints, run, status};
use rsm::{Change, ChangeError, Handle, Kind, MemberId, Standing};

/// Has whoever is primary make a change.
async fn make(cluster: &Cluster, change: &Change) -> u64 {
    loop {
        let primary = cluster.primary().await;
        match cluster.handle(primary).change(change.clone()).await {
            Ok(view) => return view,
            Err(ChangeError::NotPrimary { .. } | ChangeError::ViewChanging) => tokio::task::yield_now().await,
            Err(error) => panic!("{change:?}: {error}"),
        }
    }
}

async fn is_in_sync(handle: &Handle) {
    let own = handle.identity();
    let listed = |view: &rsm::View| view.is_in_sync(own.member, own.incarnation);
    status(handle, |status| status.view.as_ref().is_some_and(listed)).await;
}

#[test]
fn a_member_is_added_with_a_configuration_that_only_it_has_and_another_is_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        cluster.remember("one").await;
        let at = free_endpoints(1).await.remove(0);
        let address = at.to_string();
        cluster.endpoints.push(at);
        cluster.kinds.push(Kind::Replica);
        let view = make(&cluster, &Change::Add { member: MemberId(4), address, kind: Kind::Replica }).await;
        let seen = cluster.handle(cluster.primary().await).status();
        let slot = seen.view.as_ref().and_then(|view| view.slot(MemberId(4))).cloned();
        assert!(seen.view.as_ref().is_some_and(|seen| seen.number >= view) && slot.is_some(), "{seen:?}");
        cluster.restart(4).await;
        is_in_sync(cluster.handle(4)).await;
        assert_eq!(cluster.remember("two").await, 2);
        cluster.agree(2).await;

        let gone = cluster.primary().await % 3 + 1;
        cluster.kill(gone).await;
        make(&cluster, &Change::Remove { member: MemberId(gone) }).await;
        assert_eq!(cluster.remember("three").await, 3);
        cluster.restart(gone).await;
        let line = cluster.members[&gone].node.wait().await.expect_err("it stops");
        assert!(line.contains(&format!("lists no member {gone} any more")), "{line}");
        cluster.kill(gone).await;
        cluster.agree(3).await;
    });
}

#[test]
fn a_lost_member_comes_back_at_another_address_that_the_others_learn_from_the_view() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        cluster.remember("one").await;
        let lost = cluster.primary().await % 3 + 1;
        cluster.kill(lost).await;
        std::fs::remove_dir_all(dir.path().join(lost.to_string())).expect("removed");
        let at = free_endpoints(1).await.remove(0);
        let address = at.to_string();
        cluster.endpoints[lost as usize - 1] = at;
        make(&cluster, &Change::Replace { member: MemberId(lost), address }).await;
        assert_eq!(cluster.remember("two").await, 2);
        cluster.restart(lost).await;
        is_in_sync(cluster.handle(lost)).await;
        assert_eq!(cluster.remember("three").await, 3);
        cluster.agree(3).await;
    });
}

#[test]
fn a_witness_stands_in_for_a_replica_and_executes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::stopped(dir.path(), free_endpoints(3).await);
        cluster.kinds[2] = Kind::Witness;
        cluster.start_all().await;
        cluster.remember("one").await;
        let first = cluster.primary().await;
        assert_ne!(first, 3);
        let second = 3 - first;
        cluster.kill(second).await;
        assert_eq!(cluster.remember("two").await, 2);
        cluster.kill(first).await;
        cluster.restart(second).await;
        assert_eq!(cluster.remember("three").await, 3, "the witness had what the second replica missed");
        cluster.restart(first).await;
        cluster.agree(3).await;
        let untouched = cluster.handle(3).visit(|machine: &mut Words| machine.words.is_empty()).await;
        assert_eq!(untouched, Some(true));
        cluster.stop_all().await;
        cluster.start_all().await;
        assert_eq!(cluster.remember("four").await, 4);
        let view = cluster.handle(first).status().view.clone().expect("a view");
        assert!(view.slots.iter().all(|slot| slot.standing == Standing::InSync));
    });
}

#[test]
fn an_address_that_is_none_is_refused_before_anything_is_done() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let cluster = Cluster::start(dir.path(), 1).await;
        let primary = cluster.primary().await;
        let change = Change::Add { member: MemberId(2), address: "nowhere".into(), kind: Kind::Replica };
        let refused = cluster.handle(primary).change(change).await;
        assert!(matches!(&refused, Err(ChangeError::Refused(line)) if line.contains("'nowhere'")), "{refused:?}");
    });
}
