//! The model checker: first on protocols whose numbers of states are known, then on the real cores, within bounds that take some
//! seconds each. `model-check` goes further.

#[path = "model/known.rs"]
mod known;
#[cfg(feature = "mutants")]
#[path = "model/mutants.rs"]
mod mutants;

use plumeria_tests::model::search::{Bounds, Report, explore};
use plumeria_tests::model::{Grain, PaxosBounds, PaxosModel, Scene, ViewBounds, ViewModel, Without, check_quorums};

const WITHOUT_BOUND: Bounds = Bounds { depth: usize::MAX, states: usize::MAX };
/// States visited where the whole is too large for a test: some seconds.
const SOME_STATES: usize = 20_000;

fn tell(name: &str, report: &Report) {
    let Report { states, transitions, depth, locals, items, seconds, is_exhaustive, .. } = report;
    println!(
        "{name}: {states} states, {transitions} steps, depth {depth}, {locals} local states, {items} items, {seconds:.1} s{}",
        if *is_exhaustive { ", all" } else { "" }
    );
}

fn expect_whole(name: &str, report: &Report) {
    tell(name, report);
    if let Some((rule, trace)) = &report.violation {
        panic!("{name}: {rule}\n{}", trace.join("\n"));
    }
}

#[test]
fn every_sequence_of_views_keeps_a_holder_in_every_quorum() {
    for (most, rows) in [(3, 30), (5, 115)] {
        let found = check_quorums(3, most, Without::Nothing);
        println!("up to {most} members: {} rows, {} successions", found.rows, found.successions);
        assert_eq!((found.violation, found.rows), (None, rows), "up to {most} members");
    }
}

#[test]
fn each_rule_of_quorums_is_needed_but_one() {
    for without in [Without::CommittedBarrier, Without::BarrierHeld, Without::VotersOnly] {
        assert!(check_quorums(3, 4, without).violation.is_some(), "{without:?}");
    }
    // Acks of syncing members are not counted for the sake of durability: in-sync sets are small enough that
    // a quorum of reporters meets any quorum that has syncing members in it.
    assert_eq!(check_quorums(3, 5, Without::InSyncAcks).violation, None);
}

#[test]
fn paxos_decides_once_under_every_schedule_of_two_proposers() {
    let bounds = PaxosBounds { crashes: 0, holds: 0, ..PaxosBounds::default() };
    let report = explore(&PaxosModel { bounds }, WITHOUT_BOUND);
    expect_whole("two ballots", &report);
    assert_eq!((report.states, report.is_exhaustive), (4_615, true));
}

#[test]
fn paxos_decides_once_although_writes_lag_and_nodes_crash() {
    let report = explore(&PaxosModel { bounds: PaxosBounds::default() }, WITHOUT_BOUND);
    expect_whole("two ballots, a write put off, a crash", &report);
    assert!(report.is_exhaustive);
}

#[test]
fn paxos_decides_each_of_two_instances_once_although_a_store_is_lost_and_listed_anew() {
    let bounds = PaxosBounds { instances: 2, losses: 1, crashes: 0, holds: 0, ..PaxosBounds::default() };
    let report = explore(&PaxosModel { bounds }, Bounds { depth: usize::MAX, states: 5 * SOME_STATES });
    expect_whole("two instances, a lost store", &report);
}

#[test]
fn views_keep_what_is_committed_under_every_schedule_of_one_fail_over() {
    let bounds = ViewBounds { views: 2, crashes: 0, beats: false, grain: Grain::Start, ..ViewBounds::default() };
    let report = explore(&ViewModel::new(bounds), WITHOUT_BOUND);
    expect_whole("two views, one command", &report);
    assert!(report.is_exhaustive);
}

/// Each of these is cut short by the number of states; all states up to some depth are visited.
#[test]
fn views_keep_what_is_committed_in_the_first_states_of_larger_models() {
    let usual = ViewBounds::default();
    let larger = [
        ("three views, a crash, a write put off", ViewBounds { holds: 1, ..usual }),
        ("every message by itself", ViewBounds { grain: Grain::Fine, rounds: 2, longs: 1, views: 2, ..usual }),
        ("two commands, hand-over", ViewBounds { commands: 2, hand_overs: 1, grain: Grain::Start, ..usual }),
        ("a newcomer", ViewBounds { scene: Scene::Rejoining, ..usual }),
        ("a newcomer in a view not begun", ViewBounds { scene: Scene::Relisted, views: 4, ..usual }),
        ("a witness", ViewBounds { scene: Scene::Witness, grain: Grain::Start, ..usual }),
        ("a learner", ViewBounds { scene: Scene::Growing, views: 5, grain: Grain::Start, ..usual }),
        (
            "a store that is replaced, whatever it does",
            ViewBounds { replacements: 1, losses: 1, views: 4, grain: Grain::Start, beats: false, crashes: 0, ..usual },
        ),
        (
            "four become three",
            ViewBounds {
                scene: Scene::Serving { members: 4 },
                removals: 1,
                grain: Grain::Start,
                beats: false,
                ..usual
            },
        ),
    ];
    for (name, bounds) in larger {
        let report = explore(&ViewModel::new(bounds), Bounds { depth: usize::MAX, states: SOME_STATES });
        expect_whole(name, &report);
    }
}

/// The mode epoch-ss: a store is gone with its process, whosever, one after the other.
#[test]
fn volatile_stores_never_lose_what_is_committed_though_members_restart_in_turn() {
    let bounds = ViewBounds { crashes: 0, losses: 3, views: 4, grain: Grain::Start, ..ViewBounds::default() };
    let report = explore(&ViewModel::new(bounds), Bounds { depth: usize::MAX, states: 2 * SOME_STATES });
    expect_whole("three restarts that forget", &report);
}
