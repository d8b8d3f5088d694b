//! The lab: real server processes, killed. `tests/lab/README.md` says what each scenario expects and why.

use std::path::PathBuf;
use std::time::Duration;

use plumeria_tests::lab::{Cluster, Failure, LockTestSettings, Programs, SCENARIOS, run_lock_test, view};

fn programs() -> Programs {
    Programs {
        server: PathBuf::from(env!("CARGO_BIN_EXE_lock-server-under-test")),
        lock_tester: PathBuf::from(env!("CARGO_BIN_EXE_lock-tester")),
    }
}

fn expect_scenario(number: u32) {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.number == number).expect("there is one of that number");
    for way in scenario.ways {
        let verdict = scenario.run(&programs(), *way);
        if let Some(failure) = verdict.failure {
            panic!("scenario {number}, {} ({way}): {failure}\n{}", scenario.name, verdict.last_words);
        }
    }
}

/// A test for each scenario; and one that none is forgotten.
macro_rules! scenarios {
    ($($name:ident = $number:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            expect_scenario($number);
        })+

        #[test]
        fn every_scenario_has_a_test() {
            let listed: Vec<u32> = SCENARIOS.iter().map(|scenario| scenario.number).collect();
            assert_eq!(listed, [$($number),+]);
        }
    };
}

scenarios! {
    three_members_found_a_cluster = 0,
    a_backup_dies_and_no_view_changes = 1,
    the_primary_dies_and_another_follows = 2,
    a_backup_dies_and_comes_back_and_no_view_changes = 3,
    without_a_majority_nothing_is_committed = 4,
    a_proposer_dies_between_prepare_and_accept_and_another_proposes = 5,
    a_proposer_dies_between_accept_and_decide_and_its_value_is_decided = 6,
    voters_restart_after_the_vote_and_the_same_value_is_decided = 7,
    under_load_nobody_dies_and_no_lock_is_held_twice = 8,
    under_load_a_backup_dies_and_clients_do_not_notice = 9,
    under_load_a_backup_dies_and_comes_back_and_clients_do_not_notice = 10,
    under_load_the_primary_dies_and_another_follows = 11,
    under_load_the_primary_dies_after_the_first_acknowledgement_and_nothing_is_lost_or_done_twice = 12,
    under_load_a_backup_dies_before_it_acknowledges_and_clients_do_not_notice = 13,
    under_load_a_backup_dies_when_it_enters_the_next_view_and_the_others_serve = 14,
    under_load_the_next_primary_dies_when_it_enters_its_view_and_a_third_serves = 15,
    under_load_the_primary_is_cut_off_and_answers_nothing_of_its_old_view = 16,
    a_primary_restarted_at_once_never_serves_from_an_empty_table = 17,
    a_backup_restarted_at_once_never_wedges_the_group = 18,
    a_revoke_that_is_lost_with_the_primary_is_sent_again = 19,
    all_members_restart_and_remember_who_holds_what = 20,
    a_dead_clients_lock_is_granted_after_its_lease_and_not_before = 21,
    a_member_that_lost_its_store_catches_up_and_knows_every_holder_as_primary = 22,
}

fn in_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(work) {
        Ok(value) => value,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn the_lock_tester_finds_nothing_in_a_healthy_cluster() {
    in_runtime(async {
        let cluster = Cluster::start(&programs().server, 3)?;
        cluster.agree(&view(1, [1])).await?;
        let hold = Duration::from_millis(200);
        let settings = LockTestSettings { hold, ..LockTestSettings::new(cluster.endpoints()) };
        for number in 1..=5 {
            run_lock_test(number, &settings).await?;
        }
        Ok(())
    });
}

#[test]
fn the_oracle_notices_two_clusters_that_grant_the_same_lock() {
    // What a split of the service would look like to its clients: each half grants, neither knows of the other.
    in_runtime(async {
        use lock_client::{LockClient, Mode};
        use plumeria_tests::lab::Oracle;

        let oracle = Oracle::default();
        let mut held = Vec::new();
        let mut verdicts = Vec::new();
        let halves = [Cluster::start(&programs().server, 1)?, Cluster::start(&programs().server, 1)?];
        for (client, half) in (0..).zip(&halves) {
            half.agree(&view(1, [1])).await?;
            let locks = LockClient::builder(half.endpoints()).connect().await?;
            let entered = oracle.enter(client, locks.acquire("split", Mode::Exclusive).await?);
            verdicts.push(entered.is_ok());
            held.extend(entered);
        }
        assert_eq!(verdicts, [true, false]);
        Ok(())
    });
}
