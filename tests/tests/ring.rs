//! The mode `ring` with real processes: hosts crash under a client's locks, and the members come back as themselves.

use std::path::Path;

use plumeria_tests::lab::{Blow, Checked, Cluster, Expected, Keeper, has_shared_memory, last_words, views};
use rsm::Durability;

/// Three members, each guarded by the one before, and a client that keeps a lock; none where this host has no shared memory.
async fn founded() -> Checked<Option<(Cluster, Keeper)>> {
    if !has_shared_memory() {
        eprintln!("SKIPPED: no shared memory");
        return Ok(None);
    }
    let server = Path::new(env!("CARGO_BIN_EXE_lock-server-under-test"));
    let mut cluster = Cluster::new(server, Cluster::loopback(3)?)?;
    cluster.set_durability(Durability::Ring)?;
    for id in 1..=3 {
        cluster.launch(id)?;
    }
    cluster.agree(&any()).await?;
    let keeper = Keeper::start(&cluster).await?;
    Ok(Some((cluster, keeper)))
}

/// Whoever leads, all are in sync and agree; a slow machine may bring a change of the primary that nobody asked for.
fn any() -> Expected {
    views(1..=99, [1, 2, 3])
}

/// These hosts crash at once, with all that runs on them, while the ring is whole.
async fn crash(cluster: &mut Cluster, ids: &[u64]) -> Checked<()> {
    cluster.await_guards().await?;
    ids.iter().try_for_each(|id| cluster.send(*id, Blow::Kill))?;
    for id in ids {
        cluster.ended(*id).await?;
        cluster.forget(*id)?;
    }
    Ok(())
}

/// What a member said at its last start of what it had.
fn last_start(cluster: &Cluster, id: u64) -> Checked<String> {
    let log = std::fs::read_to_string(cluster.log(id))?;
    let is_told = |line: &&str| line.contains("log and state");
    Ok(log.lines().rfind(is_told).unwrap_or_default().to_owned())
}

fn in_runtime(test: impl Future<Output = Checked<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Err(failure) = runtime.block_on(test) {
        panic!("{failure}\n{}", last_words());
    }
}

#[test]
fn a_host_crashes_and_its_member_comes_back_as_itself() {
    in_runtime(async {
        let Some((mut cluster, mut keeper)) = founded().await? else { return Ok(()) };
        for id in [2, 3] {
            crash(&mut cluster, &[id]).await?;
            keeper.is_served().await?;
            cluster.launch(id)?;
            cluster.agree(&any()).await?;
            let told = last_start(&cluster, id)?;
            assert!(told.contains("log and state are restored from the guard"), "{told}");
            keeper.still_holds(&cluster).await?;
        }
        keeper.hand_over(&cluster).await
    });
}

#[test]
fn two_of_three_hosts_crash_at_once_and_the_cluster_goes_on_with_all_that_was_held() {
    in_runtime(async {
        let Some((mut cluster, mut keeper)) = founded().await? else { return Ok(()) };
        crash(&mut cluster, &[1, 2]).await?;
        // The guard of 1 is 3; that of 2 was 1, whose memory is gone: it is another incarnation, and is listed and promoted.
        cluster.launch(1)?;
        cluster.launch(2)?;
        keeper.is_served().await?;
        keeper.still_holds(&cluster).await?;
        cluster.agree(&any()).await?;
        let told = [last_start(&cluster, 1)?, last_start(&cluster, 2)?];
        assert!(told[0].contains("log and state are restored from the guard"), "{told:?}");
        assert!(told[1].contains("starts without log and state, as a new incarnation"), "{told:?}");
        keeper.hand_over(&cluster).await
    });
}
