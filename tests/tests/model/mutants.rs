//! Each known bug of views and of Paxos, put back, is found: what the model checker would not see it has not looked at.

use plumeria_tests::model::search::{Bounds, Report, explore};
use plumeria_tests::model::{
    Grain, PaxosBounds, PaxosModel, PaxosMutant, Rules, Scene, ViewBounds, ViewModel, ViewMutant,
};

/// No bug takes more.
const STATES: Bounds = Bounds { depth: usize::MAX, states: 600_000 };

fn expect_found(name: &str, report: Report) {
    let (rule, trace) = report.violation.unwrap_or_else(|| panic!("{name} is not found in {} states", report.states));
    println!("{name}: {} states, {:.1} s: {rule}\n{}", report.states, report.seconds, trace.join("\n"));
}

/// Lenient, so that what is found is harm done, and not only a member's rash word.
fn lenient(mutant: ViewMutant) -> ViewBounds {
    let rules = Rules { is_strict: false, mutant: Some(mutant) };
    ViewBounds { rules, grain: Grain::Start, crashes: 0, beats: false, ..ViewBounds::default() }
}

fn views(name: &str, bounds: ViewBounds) {
    expect_found(name, explore(&ViewModel::new(bounds), STATES));
}

#[test]
fn a_new_primary_that_trusts_its_own_log_is_found() {
    views("own-log-only", lenient(ViewMutant::OwnLogOnly));
}

#[test]
fn the_longest_log_in_place_of_the_highest_viewstamp_is_found() {
    views("longest-log", ViewBounds { commands: 2, ..lenient(ViewMutant::LongestLog) });
}

#[test]
fn counting_old_entries_without_a_barrier_is_found() {
    let bounds = ViewBounds { views: 4, holds: 1, crashes: 1, frail: 0b100, ..lenient(ViewMutant::NoBarrier) };
    views("no-barrier", bounds);
}

#[test]
fn executing_what_is_not_verified_is_found() {
    views("executes-unverified", ViewBounds { beats: true, ..lenient(ViewMutant::ExecutesUnverified) });
}

#[test]
fn a_store_that_forgets_and_keeps_its_name_is_found() {
    views("amnesia", ViewBounds { losses: 1, ..lenient(ViewMutant::Amnesia) });
}

#[test]
fn acknowledging_before_it_is_durable_is_found() {
    views("acks-before-durable", ViewBounds { crashes: 1, holds: 1, ..lenient(ViewMutant::AcksBeforeDurable) });
}

#[test]
fn a_newcomer_that_counts_at_once_is_found() {
    views("newcomer-in-sync", ViewBounds { scene: Scene::Relisted, ..lenient(ViewMutant::NewcomerInSync) });
}

#[test]
fn a_primary_that_resumes_its_view_is_found() {
    let bounds = ViewBounds {
        grain: Grain::Election,
        views: 2,
        commands: 0,
        crashes: 1,
        holds: 1,
        frail: 0b10,
        ..lenient(ViewMutant::ResumesView)
    };
    views("resumes-view", bounds);
}

/// The rash word itself: the harm that it does takes more steps than the bound allows.
#[test]
fn speaking_in_a_view_before_it_is_durable_is_found() {
    let mut bounds = ViewBounds { crashes: 1, holds: 1, frail: 0b10, ..lenient(ViewMutant::SpeaksBeforeEntered) };
    bounds.rules.is_strict = true;
    views("speaks-before-entered", bounds);
}

#[test]
fn a_learner_that_counts_for_commits_is_found() {
    let bounds = ViewBounds { scene: Scene::Growing, views: 4, beats: true, ..lenient(ViewMutant::LearnerCounts) };
    views("learner-counts", bounds);
}

/// See `quorums.rs`: with n fixed, acks of syncing members do no harm to what is agreed.
#[test]
fn counting_syncing_members_does_no_harm_to_what_is_agreed() {
    let bounds = ViewBounds { scene: Scene::Rejoining, ..lenient(ViewMutant::SyncingCounts) };
    let report = explore(&ViewModel::new(bounds), STATES);
    assert!(report.violation.is_none(), "{:?}", report.violation);
}

#[test]
fn each_broken_rule_of_paxos_is_found_to_decide_twice() {
    let quiet = PaxosBounds { crashes: 0, holds: 0, ..PaxosBounds::default() };
    let all = [
        (PaxosMutant::AnswersBeforePersist, PaxosBounds { crashes: 1, holds: 1, ..quiet }),
        (PaxosMutant::VotesFinishedInstanceAgain, quiet),
        (PaxosMutant::IgnoresIncarnations, PaxosBounds { losses: 1, ..quiet }),
        (PaxosMutant::ChoosesFreely, quiet),
        (PaxosMutant::QuorumOfOne, quiet),
    ];
    for (mutant, bounds) in all {
        let bounds = PaxosBounds { is_strict: false, mutant: Some(mutant), ..bounds };
        expect_found(&format!("{mutant:?}"), explore(&PaxosModel { bounds }, STATES));
    }
}
