//! Leases over random pauses, outages and fail-overs: none ends before its client thinks so.
//!
//! The client counts from when it sent what was answered, without a margin and with the primary's own clock: what is left to the margin
//! is the difference of two clocks, and nothing else.

use std::time::Duration;

use lock_protocol::{Notice, RequestNumber};
use rsm::Rejection;

use super::{Primary, X, ms, name, token};
use crate::machine::Op;
use crate::mutant::Mutant;

const RUNS: u64 = 150;
const STEPS: u64 = 250;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A run of one session; gives by how much its lease ended too early at worst, and how often it ended.
fn run(seed: u64, mutant: Option<Mutant>) -> (Duration, u64) {
    let mut random = Random(seed);
    let mut primary = Primary::new(mutant);
    let lease = ms([500, 700, 2_000, 15_000][random.below(4) as usize]);
    let lease_ms = u64::try_from(lease.as_millis()).expect("some seconds");
    let (mut session, mut nonce, mut good_until) = (primary.open(0, lease_ms), 0, lease);
    let mut sent: Vec<(u64, Duration)> = Vec::new();
    let (mut early, mut deaths) = (Duration::ZERO, 0);
    for _ in 0..STEPS {
        match random.below(12) {
            0..4 => sent.push((primary.keep_alive(session), primary.now)),
            4..8 => primary.run_until(primary.now + ms(random.below(lease_ms / 2))),
            // The process stands still; keep-alives arrive meanwhile.
            8 => {
                primary.due();
                primary.now += ms(random.below(2 * lease_ms));
                sent.push((primary.keep_alive(session), primary.now));
                primary.now += ms(random.below(200));
            }
            9 => tick_slowly(&mut primary, &mut random, session, &mut sent),
            10 => primary.fail_over(mutant),
            // Another member serves for a time, and renews the session at its end.
            _ => {
                primary.ticker.end();
                primary.now += ms(random.below(2 * lease_ms));
                let renewed = primary.machine.lives(session);
                primary.apply(&Op::Tick { elapsed_us: 0, keep_alives: vec![(session, RequestNumber(1))] });
                primary.ticker.begin(primary.now, primary.reading());
                good_until = if renewed { good_until.max(primary.now + lease) } else { good_until };
            }
        }
        for (stamp, answer) in std::mem::take(&mut primary.answers) {
            let at = sent.iter().find(|(other, _)| *other == stamp).expect("it was sent").1;
            good_until = if answer.is_ok() { good_until.max(at + lease) } else { good_until };
        }
        if !primary.machine.lives(session) {
            early = early.max(good_until.saturating_sub(primary.now));
            deaths += 1;
            primary.sweep();
            nonce += 1;
            sent.clear();
            primary.ticker.end();
            primary.ticker.begin(primary.now, primary.reading());
            session = primary.open(nonce, lease_ms);
            good_until = primary.now + lease;
        }
    }
    (early, deaths)
}

/// A tick is under way for a time, in which keep-alives arrive; then it is executed or not.
fn tick_slowly(
    primary: &mut Primary,
    random: &mut Random,
    session: lock_protocol::SessionId,
    sent: &mut Vec<(u64, Duration)>,
) {
    primary.due();
    let Some(op) = primary.close() else { return };
    primary.now += ms(random.below(1_500));
    sent.push((primary.keep_alive(session), primary.now));
    match random.below(4) {
        0 => primary.reject(Rejection::Busy),
        1 => primary.reject(Rejection::Unknown),
        _ => primary.execute(op),
    }
}

#[test]
fn no_lease_ends_before_its_client_thinks_so_whatever_is_paused_cut_off_or_replaced() {
    let mut ended = 0;
    for seed in 0..RUNS {
        let (early, deaths) = run(seed, None);
        assert_eq!(early, Duration::ZERO, "seed {seed}");
        ended += deaths;
    }
    assert!(ended > RUNS, "only {ended} leases ended");
}

#[test]
fn each_known_bug_of_time_ends_a_lease_too_early_in_some_run() {
    let bugs =
        [Mutant::ClockFirst, Mutant::ElapsedTwice, Mutant::FormerTerm, Mutant::AnswersLater, Mutant::ExpiresEarly];
    for mutant in bugs {
        let first = (0..RUNS).find(|&seed| run(seed, Some(mutant)).0 > Duration::ZERO);
        assert!(first.is_some(), "{mutant:?} is not seen");
        println!("{mutant:?}: seed {first:?}");
    }
}

/// A holder is forced at some time; gives by how much the next had its lock too early, and whether it had it.
fn run_forced(seed: u64, mutant: Option<Mutant>) -> (Duration, bool) {
    let mut random = Random(seed);
    let mut primary = Primary::new(mutant);
    let lease = ms([500, 2_000, 15_000][random.below(3) as usize]);
    let lease_ms = u64::try_from(lease.as_millis()).expect("some seconds");
    let [holder, next] = [primary.open(1, lease_ms), primary.open(2, 3_600_000)];
    let (mut believes_until, mut knows) = (primary.now + lease, false);
    let held = token(&primary.acquire(holder, "a", X));
    primary.acquire(next, "a", X);
    let mut sent: Vec<(u64, Duration)> = Vec::new();
    let forces_at = random.below(60);
    for step in 0..STEPS {
        if step == forces_at {
            primary.force("a", held, false);
        }
        match random.below(8) {
            0..3 => sent.push((primary.keep_alive(holder), primary.now)),
            3..6 => primary.run_until(primary.now + ms(random.below(lease_ms / 2))),
            6 => tick_slowly(&mut primary, &mut random, holder, &mut sent),
            _ => primary.fail_over(mutant),
        }
        primary.sweep();
        let passed = primary.holders("a") == [next];
        // An answer that came with the grant counts for the holder: it may read it a little later.
        for (stamp, answer) in std::mem::take(&mut primary.answers) {
            let at = sent.iter().find(|(other, _)| *other == stamp).expect("it was sent").1;
            let Ok(renewed) = answer else { continue };
            knows |= renewed.notices.contains(&Notice::Forced { name: name("a"), token: held });
            believes_until = believes_until.max(at + lease);
        }
        if knows {
            believes_until = primary.now;
        }
        if passed || !primary.machine.lives(holder) {
            return (believes_until.saturating_sub(primary.now), passed);
        }
    }
    (Duration::ZERO, false)
}

#[test]
fn nobody_has_a_forced_lock_while_its_holder_can_believe_that_it_does() {
    let mut passed = 0;
    for seed in 0..2 * RUNS {
        let (early, has_passed) = run_forced(seed, None);
        assert_eq!(early, Duration::ZERO, "seed {seed}");
        passed += u64::from(has_passed);
    }
    assert!(passed > RUNS, "only {passed} locks passed on");
    for mutant in [Mutant::ForcesAtOnce, Mutant::ForcesSilently] {
        let seen = (0..2 * RUNS).any(|seed| run_forced(seed, Some(mutant)).0 > Duration::ZERO);
        assert!(seen, "{mutant:?} is not seen");
    }
}
