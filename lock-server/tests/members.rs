//! The list of members changes while real processes serve: one is added, one removed, one replaced.

mod cluster;

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use cluster::{Client, Cluster, DEADLINE, call, context, dial, run, token};
use lock_protocol::{MemberChange, MemberStatus, Refusal, Role};

const LONG: Duration = Duration::from_secs(60);

/// Asks the primary, whoever it is at the moment, until the change is made or refused for good.
async fn change(cluster: &Cluster, change: MemberChange) -> Result<u64, Refusal> {
    let started = Instant::now();
    loop {
        let primary = cluster.primary().await;
        let service = dial(&cluster.endpoints[primary - 1]).await.expect("the primary is up");
        match call(service.change_members(context(), change.clone())).await {
            Ok(Ok(view)) => return Ok(view),
            Ok(Err(refusal @ (Refusal::Invalid(_) | Refusal::Unknown))) => return Err(refusal),
            answer => assert!(started.elapsed() < DEADLINE, "{answer:?}"),
        }
    }
}

/// Waits until a member says what is looked for.
async fn says(cluster: &Cluster, id: usize, what: impl Fn(&MemberStatus) -> bool) -> MemberStatus {
    let started = Instant::now();
    loop {
        match cluster.status(id).await {
            Some(status) if what(&status) => return status,
            status => assert!(started.elapsed() < DEADLINE, "member {id}: {status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn in_sync(members: &[u64]) -> impl Fn(&MemberStatus) -> bool {
    move |status| status.serving && status.view.as_ref().is_some_and(|view| view.in_sync == members)
}

async fn ended(cluster: &mut Cluster, id: usize) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = cluster.has_ended(id) {
            return status;
        }
        assert!(started.elapsed() < DEADLINE, "member {id} does not stop");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn members_are_added_removed_and_replaced_while_a_lock_is_held() {
    run(async {
        let mut cluster = Cluster::stopped(4);
        let all = std::mem::take(&mut cluster.endpoints);
        cluster.endpoints = all[..3].to_vec();
        (1..=3).for_each(|id| cluster.spawn(id));
        let mut holder = Client::open_with_callback(&cluster, LONG).await;
        let held = token(&holder.acquire("orders/1").await);

        cluster.endpoints = all;
        let address = cluster.endpoints[3].to_string();
        let add = MemberChange::Add { member: 4, address: address.clone(), witness: false };
        change(&cluster, add.clone()).await.expect("it is added");
        let refused = change(&cluster, add).await.expect_err("it is added once");
        assert!(refused.to_string().contains("a member 4 already"), "{refused}");
        let primary = cluster.primary().await;
        let listed = cluster.status(primary).await.and_then(|status| status.view).expect("it answers");
        assert_eq!(listed.members[3].role, Role::Learner);
        cluster.spawn(4);
        says(&cluster, 4, in_sync(&[1, 2, 3, 4])).await;

        // Not the primary: one that is asked to go hands over first, and its asker asks again.
        let removed = (1..=3).find(|id| *id != primary).expect("there are three");
        change(&cluster, MemberChange::Remove { member: removed as u64 }).await.expect("it is removed");
        assert!(!ended(&mut cluster, removed).await.success(), "it says that it was removed");
        assert!(cluster.logged(removed).contains(&format!("lists no member {removed} any more")));
        cluster.spawn(removed);
        assert!(!ended(&mut cluster, removed).await.success(), "and again, whenever it is started");

        let replaced = (1..=3).find(|id| ![primary, removed].contains(id)).expect("there are three");
        cluster.kill(replaced);
        std::fs::remove_dir_all(cluster.data_dir(replaced)).expect("its directory is lost");
        let address = cluster.endpoints[replaced - 1].to_string();
        change(&cluster, MemberChange::Replace { member: replaced as u64, address }).await.expect("it is replaced");
        cluster.spawn(replaced);
        let mut left = [primary as u64, replaced as u64, 4];
        left.sort_unstable();
        says(&cluster, replaced, in_sync(&left)).await;
        assert!(token(&holder.acquire("orders/2").await) > held, "the session lives");
    });
}

#[test]
fn the_primary_moves_where_it_is_asked_to_and_a_held_lock_stays() {
    run(async {
        let cluster = Cluster::start(3).await;
        let mut holder = Client::open_with_callback(&cluster, LONG).await;
        let held = token(&holder.acquire("orders/1").await);
        let before = cluster.primary().await;
        for wished in (1..=3).filter(|id| *id != before) {
            let promote = MemberChange::Promote { member: wished as u64 };
            let view = change(&cluster, promote.clone()).await.expect("it is in sync");
            says(&cluster, wished, |status| status.serving && status.role == Role::Primary).await;
            assert_eq!(change(&cluster, promote).await, Ok(view), "it is primary already");
        }
        let refused = change(&cluster, MemberChange::Promote { member: 9 }).await.expect_err("there is none");
        assert!(refused.to_string().contains("there is no member 9"), "{refused}");
        assert!(token(&holder.acquire("orders/2").await) > held, "the session lives");
    });
}
