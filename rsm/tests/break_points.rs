//! Members that die at break points: the whole cluster with them, in a process of its own, and then it starts again.
#![cfg(feature = "break-points")]

mod cluster;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use cluster::{Cluster, run, status};
use rsm::{BreakPoint, Rejection};
use wire::Endpoint;

const POINT: &str = "TEST_BREAK_POINT";
const DIR: &str = "TEST_DIR";
const ENDPOINTS: &str = "TEST_ENDPOINTS";
const SIGABRT: i32 = 6;

/// Runs [`the_process_that_dies`] in a process of its own.
fn die_at(point: BreakPoint, dir: &Path, endpoints: &[Endpoint]) -> ExitStatus {
    let endpoints: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "the_process_that_dies"]).env(POINT, point.to_string());
    command.env(DIR, dir).env(ENDPOINTS, endpoints.join(",")).output().expect("it ran").status
}

/// Without its environment this is a cluster that remembers a word and is told to break nowhere.
#[test]
fn the_process_that_dies() {
    let own_dir = tempfile::tempdir().expect("a directory");
    let dir = std::env::var(DIR).map_or_else(|_| own_dir.path().to_owned(), Into::into);
    let point = std::env::var(POINT).ok().map(|point| point.parse::<BreakPoint>().expect("a break point"));
    run(async {
        let endpoints = match std::env::var(ENDPOINTS) {
            Ok(list) => list.split(',').map(|text| text.parse().expect("an address")).collect(),
            Err(_) => cluster::free_endpoints(3).await,
        };
        let mut cluster = Cluster::stopped(&dir, endpoints);
        cluster.start_all().await;
        cluster.remember("one").await;
        cluster.agree(1).await;
        let primary = cluster.primary().await;
        let Some(point) = point else { return };
        cluster.members.values().for_each(|member| member.handle.set_break_point(point));
        match point {
            BreakPoint::AfterFirstAck | BreakPoint::BeforeAck => drop(cluster.remember("two").await),
            _ => assert!(cluster.handle(primary).hand_over(None)),
        }
        std::future::pending::<()>().await;
    });
}

fn dies_and_remembers(point: BreakPoint) {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let endpoints = cluster::free_endpoints(3).await;
        let end = die_at(point, dir.path(), &endpoints);
        assert_eq!(end.signal(), Some(SIGABRT), "{end}");
        let mut cluster = Cluster::stopped(dir.path(), endpoints);
        cluster.start_all().await;
        assert_eq!(cluster.remember("two").await, 2);
        assert_eq!(cluster.remember("three").await, 3);
        cluster.agree(3).await;
        for id in 1..=3 {
            cluster.kill(id).await;
        }
    });
}

#[test]
fn a_cluster_that_dies_after_the_first_ack_goes_on() {
    dies_and_remembers(BreakPoint::AfterFirstAck);
}

#[test]
fn a_cluster_that_dies_before_an_ack_goes_on() {
    dies_and_remembers(BreakPoint::BeforeAck);
}

#[test]
fn a_cluster_that_dies_on_entering_a_view_goes_on() {
    dies_and_remembers(BreakPoint::OnEnterView);
}

#[test]
fn a_cluster_that_dies_between_prepare_and_accept_goes_on() {
    dies_and_remembers(BreakPoint::BetweenPrepareAndAccept);
}

#[test]
fn a_cluster_that_dies_between_accept_and_decide_goes_on() {
    dies_and_remembers(BreakPoint::BetweenAcceptAndDecide);
}

#[test]
fn requirement_6_a_partitioned_primary_answers_nothing_and_the_others_go_on_until_it_is_healed() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        cluster.remember("one").await;
        let old = cluster.primary().await;
        cluster.handle(old).set_break_point(BreakPoint::Partition);
        let cut_off = cluster.members.remove(&old).expect("it runs");
        let unsettled = cut_off.handle.submit(b"lost".to_vec(), false);
        assert_eq!(cluster.remember("two").await, 2);
        status(&cut_off.handle, |status| !status.serving).await;
        cut_off.handle.clear_break_points();
        cluster.members.insert(old, cut_off);
        assert_eq!(cluster.remember("three").await, 3);
        cluster.agree(3).await;
        assert_eq!(unsettled.await, Err(Rejection::Unknown));
        cluster.stop_all().await;
    });
}
