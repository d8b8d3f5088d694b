//! Seeded runs of whole clusters under every fault that the protocol is made for. A failure names its seed.
#![forbid(unsafe_code)]

mod plan;
mod world;

use paxos::Node;
use world::Seen;

fn run_seeds(nodes: u64, seeds: std::ops::Range<u64>) -> Seen {
    let mut total = Seen::default();
    for seed in seeds {
        let seen = match world::run(seed, nodes, Node::new) {
            Ok(seen) => seen,
            Err(broken) => panic!("seed {seed}, {nodes} nodes: {broken}"),
        };
        total.decided += seen.decided;
        total.crashes += seen.crashes;
        total.rebirths += seen.rebirths;
        total.refusals += seen.refusals;
        total.adopted += seen.adopted;
        total.healed += seen.healed;
        total.without_quorum += seen.without_quorum;
    }
    println!("{nodes} nodes: {total:?}");
    total
}

/// The runs are worth something: much was decided in the face of each fault, and most clusters had a
/// quorum of stores left to heal with.
fn assert_not_empty(seen: Seen, runs: u64) {
    assert!(seen.decided > runs, "{seen:?}");
    assert!(seen.crashes > runs && seen.rebirths > runs / 4, "{seen:?}");
    assert!(seen.refusals > runs / 4 && seen.adopted > runs / 4, "{seen:?}");
    assert!(seen.healed + seen.without_quorum == runs && seen.healed > runs / 2, "{seen:?}");
}

#[test]
fn three_nodes_under_faults_decide_one_decree_per_instance_and_heal() {
    assert_not_empty(run_seeds(3, 0..10_000), 10_000);
}

#[test]
fn five_nodes_under_faults_decide_one_decree_per_instance_and_heal() {
    assert_not_empty(run_seeds(5, 0..10_000), 10_000);
}

#[test]
fn one_or_two_nodes_under_faults_decide_one_decree_per_instance() {
    run_seeds(1, 0..1_000);
    run_seeds(2, 0..1_000);
}
