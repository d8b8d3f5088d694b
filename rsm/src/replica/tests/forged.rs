//! Messages that nobody wrote: spoilt, or of a member that lies. A member may believe them, where they come in the name of one that its view
//! lists, and may stop with its reason; it never panics, nor asks its store for what does not fit there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

use super::script::Script;
use crate::{ClusterId, Identity, Incarnation, Input, Kind, MemberId, Message};

const SEEDS: u64 = 400;
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

struct Dice(Pcg64Mcg);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    fn member(&mut self) -> u64 {
        1 + self.0.next_u64() % 3
    }
}

/// The same message with some bytes changed, if that is one.
fn forge(message: &Message, dice: &mut Dice) -> Option<Message> {
    let mut bytes = postcard::to_stdvec(message).expect("it was sent");
    for _ in 0..1 + dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(3) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.below(256) as u8,
            _ => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
        }
    }
    postcard::from_bytes(&bytes).ok()
}

fn try_seed(seed: u64) -> usize {
    let dice = &mut Dice(Pcg64Mcg::seed_from_u64(seed));
    let (mut script, heard) = life(seed);
    let mut taken = 0;
    for _ in 0..FORGED_PER_SEED {
        let Some(message) = forge(&heard[dice.below(heard.len())], dice) else { continue };
        taken += 1;
        let (to, from) = (dice.member(), dice.member());
        let incarnation = Incarnation(if dice.below(4) == 0 { 666 } else { from.into() });
        let from = Identity { member: MemberId(from), incarnation };
        let cluster = script.members.get(&to).map_or(ClusterId(0), |replica| replica.control().cluster());
        script.step(to, Input::Message { cluster, from, message });
        if dice.below(8) == 0 {
            script.submit(dice.member(), "more");
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
