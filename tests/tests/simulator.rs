//! The simulator's suite: seeds that failed once, a fixed range, and a fresh range each time.

use plumeria_tests::simulator::{Counters, Durability, Options, Outcome, Workload, report, run};

/// The fixed range; together its runs must reach every rare branch.
const FIXED_SEEDS: std::ops::RangeInclusive<u64> = 401..=800;
/// Seeds that nobody has run before, each time.
const FRESH_SEEDS: u64 = 200;
/// Seeds that are run with stores that survive less. Rolling restarts seldom come to their end there; some of these do.
const VOLATILE_SEEDS: std::ops::RangeInclusive<u64> = 1..=40;
/// Seeds whose whole stories are compared.
const TOLD_SEEDS: std::ops::RangeInclusive<u64> = 1..=3;
/// Seeds that are run twice.
const TWICE_SEEDS: std::ops::RangeInclusive<u64> = 1..=12;

fn expect_whole(seed: u64) -> Outcome {
    expect_whole_with(seed, Options::default())
}

fn expect_whole_with(seed: u64, options: Options) -> Outcome {
    let outcome = run(seed, &options);
    assert!(outcome.failure.is_none(), "seed {seed}: {}", report(&outcome, &options));
    outcome
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    let text = include_str!("seeds.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<(u64, Workload)> =
        lines.map(|line| read(line).expect("a line begins with a seed and a workload")).collect();
    assert!(!seeds.is_empty(), "the file was read");
    for (seed, workload) in seeds {
        expect_whole_with(seed, Options { workload: Some(workload), ..Options::default() });
    }
}

fn read(line: &str) -> Option<(u64, Workload)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[test]
fn a_fixed_range_of_seeds_holds_and_reaches_every_rare_branch() {
    let mut counters = Counters::default();
    for seed in FIXED_SEEDS {
        counters.merge(&expect_whole(seed).counters);
    }
    assert_eq!(counters.missed(), Vec::<&str>::new(), "branches that no run reached");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a fresh range is to differ from run to run; it is printed")]
fn a_fresh_range_of_seeds_holds() {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let first = since_1970.as_millis() as u64;
    println!("fresh seeds: --first {first} --seeds {FRESH_SEEDS}");
    for seed in first..first + FRESH_SEEDS {
        expect_whole(seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in TWICE_SEEDS {
        let (one, other) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert_eq!((one.events, one.simulated_us, &one.counters), (other.events, other.simulated_us, &other.counters));
        let told = run(seed, &Options { trace_lines: 10, ..Options::default() });
        assert_eq!(told.trace_hash, one.trace_hash, "telling the story does not change it");
    }
    let story = |seed| run(seed, &Options { trace_lines: usize::MAX, ..Options::default() }).trace;
    for seed in TOLD_SEEDS {
        assert!(story(seed) == story(seed), "the story of seed {seed} is the same, letter by letter");
    }
    let hashes = TWICE_SEEDS.map(|seed| run(seed, &Options::default()).trace_hash);
    let distinct: std::collections::BTreeSet<u64> = hashes.collect();
    assert_eq!(distinct.len(), TWICE_SEEDS.count(), "another seed is another run");
}

#[test]
fn members_whose_stores_survive_nothing_are_restarted_one_by_one_and_lose_nothing() {
    for durability in [Durability::Process, Durability::Memory] {
        let mut counters = Counters::default();
        for seed in VOLATILE_SEEDS {
            let options = Options { durability: Some(durability), ..Options::default() };
            counters.merge(&expect_whole_with(seed, options).counters);
        }
        for name in ["volatile restarts", "rolling restarts", "members replaced", "promotions"] {
            assert!(counters.get(name) > 0, "{durability}: never {name}");
        }
    }
}

#[test]
fn members_whose_hosts_forget_are_restored_by_their_guards_as_themselves() {
    let mut counters = Counters::default();
    for seed in VOLATILE_SEEDS {
        let options = Options { durability: Some(Durability::Ring), ..Options::default() };
        counters.merge(&expect_whole_with(seed, options).counters);
    }
    for name in ["memories lost", "members restored by their guard", "members that no guard restored"] {
        assert!(counters.get(name) > 0, "never {name}");
    }
}

/// The counter-example to recovery without a disk: a member that forgets its promise, and votes again under its old name,
/// while the others restart.
#[cfg(feature = "mutants")]
#[test]
fn a_volatile_member_that_forgets_and_keeps_its_name_is_caught() {
    let options = |seed| (seed, Some(Durability::Process), Some("amnesia".to_owned()));
    let caught = (1..=100).map(options).find_map(|(seed, durability, mutant)| {
        run(seed, &Options { durability, mutant, ..Options::default() }).failure.map(|violation| (seed, violation))
    });
    let (seed, violation) = caught.expect("some seed shows it");
    println!("caught by seed {seed}: {}", violation.rule);
}

/// The net is proven: each known bug is put back, and some seed must catch it.
#[cfg(feature = "mutants")]
#[test]
fn every_known_bug_is_caught() {
    use std::sync::Mutex;

    use plumeria_tests::simulator::{Known, mutants};

    const PATIENCE_SEEDS: u64 = 3_000;
    let known = Mutex::new(mutants().into_iter());
    let escaped = Mutex::new(Vec::new());
    // A bug is put into the cores of one thread only.
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                let next = || known.lock().expect("a thread that panics fails the test").next();
                while let Some(Known { name, workload, durability, .. }) = next() {
                    let options = Options { mutant: Some(name.to_owned()), workload, durability, ..Options::default() };
                    match (1..=PATIENCE_SEEDS).find_map(|seed| Some((seed, run(seed, &options).failure?))) {
                        Some((seed, violation)) => println!("{name}: caught by seed {seed}: {}", violation.rule),
                        None => escaped.lock().expect("a thread that panics fails the test").push(name),
                    }
                }
            });
        }
    });
    let escaped = escaped.into_inner().expect("a thread that panics fails the test");
    assert_eq!(escaped, Vec::<&str>::new(), "known bugs that no seed has caught");
}
