//! The machine against a model without any cleverness, over long random runs: lists that are searched from the front.

mod deaths;
mod model;
mod parts;
mod queues;
mod run;

use lock_protocol::Mode;
use rsm::StateMachine;

use super::{Limits, Machine, Op, Reply};
use run::Run;

const LIMITS: Limits = Limits { sessions: 6, locks_per_session: 4, waiters_per_session: 3, request_window: 12 };
const RUNS: u64 = 60;
const OPS_PER_RUN: u64 = 1_500;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a seed is all that is needed to repeat a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn mode(&mut self) -> Mode {
        if self.one_in(2) { Mode::Shared } else { Mode::Exclusive }
    }
}

#[test]
fn over_random_ops_the_machine_does_what_the_plain_model_does() {
    for seed in 0..RUNS {
        let mut run = Run::new(seed);
        for _ in 0..OPS_PER_RUN {
            run.step();
            if run.random.one_in(60) {
                run.restart();
            }
        }
    }
}

#[test]
fn random_bytes_are_answered_and_change_no_state() {
    let mut run = Run::new(1);
    let mut random = Random(2);
    for _ in 0..200 {
        run.step();
    }
    let mut number = run.model.op;
    for _ in 0..50_000 {
        let mut bytes = run.any_op().encode();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        bytes.truncate(bytes.len() - random.below(3).min(bytes.len() as u64) as usize);
        number += 1;
        let reply = Reply::decode(&run.primary.apply(number, &bytes)).expect("a reply");
        assert_eq!(reply == Reply::Malformed, Op::decode(&bytes).is_err());
        let noise: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
        number += 1;
        run.primary.apply(number, &noise);
        assert!(Reply::decode(&noise).is_ok() || Reply::decode(&noise).is_err());
    }
}

#[test]
fn a_snapshot_with_changed_bytes_is_refused_or_is_a_sound_state() {
    let mut random = Random(3);
    let mut accepted = 0;
    for seed in 0..40 {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            run.step();
        }
        let snapshot = run.primary.snapshot();
        for _ in 0..300 {
            let mut bytes = snapshot.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            let mut machine = Machine::default();
            if machine.restore(&bytes).is_ok() {
                accepted += 1;
                let mut again = Machine::default();
                assert_eq!(again.restore(&machine.snapshot()), Ok(()));
                assert_eq!(again.digest(), machine.digest());
                for number in 1..60 {
                    machine.apply(machine.applied() + number % 3, &run.any_op().encode());
                }
            }
        }
        for length in 0..snapshot.len() {
            assert!(Machine::default().restore(&snapshot[..length]).is_err());
        }
    }
    assert!(accepted > 100, "only {accepted} reached the machine");
}

#[test]
fn a_count_beyond_all_bytes_is_refused_without_allocating_for_it() {
    let tick = [&[1, 2, 0][..], &[0xff; 9], &[0x01]].concat();
    assert!(Op::decode(&tick).is_err());
    let empty = Machine::default().snapshot();
    let mut bytes = empty[..empty.len() - 2].to_vec();
    bytes.extend([[0xff; 9].as_slice(), &[0x01], &[0x00]].concat());
    assert!(Machine::default().restore(&bytes).is_err());
}
