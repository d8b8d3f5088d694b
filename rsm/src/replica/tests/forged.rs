//! Messages that nobody wrote: spoilt, or of a member that lies. A member may believe them, where they come in the name of one that its view
//! lists, and may stop with its reason; it never panics, nor asks its store for what does not fit there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::script::Script;
use crate::{ClusterId, Identity, Incarnation, Input, Kind, MemberId, Message};

const SEEDS: u64 = 300;
const FORGED_PER_SEED: usize = 150;

/// Three members that serve, and what they said to each other while one was away, and its successor came.
fn life(seed: u64) -> (Script, Vec<Message>) {
    let kinds = [Kind::Replica, Kind::Replica, if seed.is_multiple_of(4) { Kind::Witness } else { Kind::Replica }];
    let mut script = Script::of(&kinds, None);
    script.settings.snapshot_every_bytes = 300;
    script.heard = Some(Vec::new());
    let mut script = script.founded();
    for word in ["a", "b", "c", "d", "e", "f"] {
        script.commit(word);
    }
    script.kill(2);
    script.run(1000);
    script.commit("g");
    script.start(2);
    script.run(500);
    let heard = script.heard.take().expect("it was listened to");
    (script, heard.into_iter().map(|(_, _, message)| message).collect())
}

/// The same message with some bytes changed, if that is one.
fn forge(message: &Message, random: &mut StdRng) -> Option<Message> {
    let mut bytes = postcard::to_stdvec(message).expect("it was sent");
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..3) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            _ => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].get(random.random_range(0..5)).expect("one of five"),
        }
    }
    postcard::from_bytes(&bytes).ok()
}

fn try_seed(seed: u64) -> usize {
    let random = &mut StdRng::seed_from_u64(seed);
    let (mut script, heard) = life(seed);
    let mut taken = 0;
    for _ in 0..FORGED_PER_SEED {
        let Some(message) = forge(&heard[random.random_range(0..heard.len())], random) else { continue };
        taken += 1;
        let (to, from) = (random.random_range(1..=3), random.random_range(1..=3));
        let incarnation = Incarnation(if random.random_ratio(1, 4) { 666 } else { from.into() });
        let from = Identity { member: MemberId(from), incarnation };
        let cluster = script.members.get(&to).map_or(ClusterId(0), |replica| replica.control().cluster());
        script.step(to, Input::Message { cluster, from, message });
        if random.random_ratio(1, 8) {
            script.submit(random.random_range(1..=3), "more");
            script.run(30);
        }
        if script.faults.contains_key(&to) && !script.members.contains_key(&to) {
            drop(script.try_start(to));
        }
    }
    taken
}

#[test]
fn no_message_whatever_makes_a_member_end_without_a_reason() {
    let mut taken = 0;
    for seed in 0..SEEDS {
        match catch_unwind(AssertUnwindSafe(|| try_seed(seed))) {
            Ok(count) => taken += count,
            Err(_) => panic!("seed {seed} makes a member panic, above"),
        }
    }
    assert!(taken > 1000, "only {taken} forged messages were messages at all");
}
