//! The ring by itself, in scripted situations; and with whole members, in random ones.

mod script;
mod world;

use super::*;
use script::{Script, ids, stamp};

#[test]
fn a_new_cluster_forms_the_whole_ring_and_each_is_guarded_by_the_one_before() {
    let script = Script::whole(5);
    for (member, guard) in [(1, 5), (2, 1), (3, 2), (4, 3), (5, 4)] {
        assert_eq!(script.guard(member), Some(script.memory_of(guard)));
        assert_eq!(script.bound(member), Some(stamp(1, 10)));
    }
}

#[test]
fn what_the_guard_stores_moves_the_bound_with_one_message() {
    let mut script = Script::whole(3);
    script.store(2, stamp(1, 11));
    assert_eq!(script.waiting(), [(2, 3)]);
    script.deliver();
    assert_eq!((script.bound(3), script.bound(1)), (Some(stamp(1, 11)), Some(stamp(1, 10))));
}

#[test]
fn after_the_crash_of_a_process_a_neighbours_token_goes_round_once_and_the_member_comes_back_with_its_memory() {
    let mut script = Script::whole(5);
    script.end(3);
    script.tell_of(4, 3);
    script.deliver();
    script.expect_ring(&[1, 2, 4, 5]);
    assert!(script.delivered() <= 2 * 5, "once around, both ways: {}", script.delivered());
    assert_eq!(script.guard(4), Some(script.memory_of(2)));
    script.start(3, false);
    script.store(3, stamp(1, 10));
    script.pass_ms(1500);
    script.expect_ring(&[1, 2, 3, 4, 5]);
    assert_eq!(script.guard(4), Some(script.memory_of(3)));
}

#[test]
fn after_the_silent_crash_of_a_host_its_neighbours_go_on_and_its_new_memory_guards_only_when_it_holds_all() {
    let mut script = Script::whole(3);
    script.end(2);
    script.pass_ms(200);
    script.expect_ring_of(&[1, 3], &[1, 2, 3]);
    script.pass_ms(100);
    script.expect_ring(&[1, 3]);
    assert_eq!((script.guard(3), script.guard(1)), (Some(script.memory_of(1)), Some(script.memory_of(3))));
    script.store_all(stamp(1, 20));
    script.start(2, true);
    script.store(2, stamp(1, 15));
    script.pass_ms(1500);
    script.expect_ring(&[1, 2, 3]);
    assert_eq!(script.guard(3), Some(script.memory_of(1)), "it lacks what was acknowledged");
    script.store(2, stamp(1, 20));
    script.deliver();
    assert_eq!(script.guard(3), Some(script.memory_of(2)));
}

#[test]
fn a_guard_that_lacks_what_was_stored_and_acknowledged_in_this_very_step_is_not_taken() {
    let mut script = Script::whole(3);
    script.end(2);
    script.tell_of(3, 2);
    script.deliver();
    script.store(1, stamp(1, 12));
    script.store(3, stamp(1, 11));
    script.deliver();
    assert_eq!(script.bound(3), Some(stamp(1, 12)));
    script.store_untold(3, stamp(1, 12));
    script.start(2, false);
    script.store(2, stamp(1, 11));
    script.pass_ms(1500);
    script.expect_ring(&[1, 2, 3]);
    assert_eq!(script.guard(3), Some(script.memory_of(1)), "it lacks what member 1's word allowed to be acknowledged");
    script.store(2, stamp(1, 12));
    script.deliver();
    assert_eq!(script.guard(3), Some(script.memory_of(2)));
}

#[test]
fn after_the_crash_of_two_neighbours_the_others_are_a_ring() {
    let mut script = Script::whole(5);
    script.end(2);
    script.end(3);
    script.pass_ms(600);
    script.expect_ring(&[1, 4, 5]);
    assert_eq!(script.guard(4), Some(script.memory_of(1)));
}

#[test]
fn the_crash_of_the_initiator_in_mid_round_leaves_nobody_with_a_dead_neighbour() {
    let mut script = Script::whole(5);
    script.end(3);
    script.tell_of(4, 3);
    script.deliver_to(5); // the token, and no further
    script.end(4);
    script.drop_waiting();
    script.expect_ring_of(&[5], &[1, 2, 4, 5]);
    script.expect_ring_of(&[1, 2], &[1, 2, 3, 4, 5]);
    script.pass_ms(900);
    script.expect_ring(&[1, 2, 5]);
    assert_eq!(script.guard(5), Some(script.memory_of(2)));
}

#[test]
fn of_two_tokens_under_way_at_once_the_lower_initiators_is_installed_by_all() {
    let mut script = Script::whole(6);
    script.end(3);
    script.end(5);
    script.tell_of(6, 5);
    script.tell_of(2, 3);
    script.deliver();
    script.expect_ring(&[1, 2, 4, 5, 6]);
    assert_eq!(script.initiator(6), MemberId(2));
    script.pass_ms(900);
    script.expect_ring(&[1, 2, 4, 6]);
}

#[test]
fn a_token_that_the_view_does_not_allow_is_not_installed() {
    let mut script = Script::whole(3);
    let number = script.ring(2).number + 9;
    let ring = |view, members: &[u64]| Ring { view, number, initiator: MemberId(1), members: ids(members) };
    for wrong in [ring(0, &[1, 3]), ring(2, &[1, 3]), ring(1, &[2, 3]), ring(1, &[1, 4]), ring(1, &[3, 1])] {
        script.say(1, 2, wrong.clone());
        script.deliver_to(2);
        script.expect_ring_of(&[2], &[1, 2, 3]);
    }
    script.say(1, 2, ring(1, &[1, 3]));
    script.deliver_to(2);
    script.expect_ring_of(&[2], &[1, 3]);
}

#[test]
fn the_next_view_puts_out_whom_it_does_not_list_and_whom_it_lists_anew() {
    let mut script = Script::whole(5);
    script.replace(4);
    script.remove(2);
    script.end(4);
    script.end(2);
    script.enter(2, 3);
    script.expect_ring_of(&[1, 3, 5], &[1, 3, 5]);
    script.deliver();
    script.expect_ring(&[1, 3, 5]);
    assert_eq!(script.ring(5).view, 2);
}

#[test]
fn a_dead_primary_is_out_of_the_ring_as_soon_as_the_next_view_is_entered() {
    let mut script = Script::whole(3);
    script.end(1);
    script.tell_of(2, 1);
    script.tell_of(3, 1);
    script.expect_ring_of(&[2, 3], &[1, 2, 3]);
    script.enter(2, 2);
    script.store_all(stamp(2, 11));
    script.pass_ms(20);
    script.expect_ring(&[2, 3]);
    assert_eq!((script.bound(2), script.bound(3)), (Some(stamp(2, 11)), Some(stamp(2, 11))));
}

#[test]
fn a_place_of_an_older_view_is_no_bound() {
    let mut script = Script::whole(3);
    script.enter(2, 1);
    script.store(2, stamp(1, 12));
    script.pass_ms(60);
    assert_eq!(script.bound(3), Some(stamp(1, 10)));
    script.store(2, stamp(2, 13));
    script.deliver();
    assert_eq!(script.bound(3), Some(stamp(2, 13)));
}

#[test]
fn a_guards_word_from_before_its_memory_was_lost_moves_nothing_that_the_record_could_not_answer_for() {
    let mut script = Script::whole(3);
    let old = script.memory_of(2);
    script.end(2);
    script.start(2, true);
    script.store(2, stamp(1, 12));
    script.store_all(stamp(1, 12));
    script.pass_ms(2000);
    let new = script.memory_of(2);
    assert_ne!(old, new);
    assert_eq!(script.guard(3), Some(new));
    let (ring, stored) = (script.ring(3), stamp(1, 11));
    script.word(2, 3, Word { ring, memory: old.memory, stored });
    script.deliver_to(3);
    assert_eq!(script.guard(3), Some(new), "the old memory holds less than was acknowledged since");
}

#[test]
fn a_member_that_restarts_takes_no_guard_that_holds_less_than_its_own_log() {
    let mut script = Script::whole(3);
    script.store(3, stamp(1, 15));
    script.end(3);
    script.start(3, false);
    let other = Word { ring: script.ring(3), memory: MemoryId(77), stored: stamp(1, 14) };
    script.word(1, 3, other.clone());
    script.deliver_to(3);
    assert_eq!(script.guard(3), Some(script.memory_of(2)));
    script.word(1, 3, Word { stored: stamp(1, 15), ..other });
    script.deliver_to(3);
    assert_eq!(script.guard(3), Some(Guard { member: MemberId(1), memory: MemoryId(77) }));
}

#[test]
fn a_primary_that_is_left_alone_does_without_a_guard_and_takes_the_first_that_holds_all() {
    let mut script = Script::whole(2);
    script.end(2);
    script.tell_of(1, 2);
    assert_eq!(script.guard(1), Some(script.memory_of(2)));
    script.pass_ms(300);
    assert_eq!((script.guard(1), script.bound(1)), (None, None));
    script.store(1, stamp(1, 30));
    script.start(2, true);
    script.store(2, stamp(1, 29));
    script.pass_ms(1500);
    assert_eq!((script.guard(1), script.guard(2)), (None, Some(script.memory_of(1))));
    script.store(2, stamp(1, 30));
    script.deliver();
    assert_eq!((script.guard(1), script.bound(1)), (Some(script.memory_of(2)), Some(stamp(1, 30))));
}

#[test]
fn a_guard_that_is_alive_and_stores_nothing_more_is_put_out_and_comes_back_when_it_is_close() {
    let mut script = Script::whole(3);
    for member in [1, 3] {
        script.store(member, stamp(1, 9000));
    }
    script.pass_ms(600);
    script.expect_ring(&[1, 3]);
    assert_eq!(script.bound(3), Some(stamp(1, 9000)));
    script.pass_ms(3000);
    script.expect_ring(&[1, 3]);
    script.store(2, stamp(1, 9000));
    script.pass_ms(100);
    script.expect_ring(&[1, 2, 3]);
}

#[test]
fn those_cut_off_from_the_primary_make_no_ring_that_keeps_the_others_up() {
    let mut script = Script::whole(5);
    script.cut(&[4, 5]);
    script.pass_ms(2000);
    script.expect_ring_of(&[1, 2, 3], &[1, 2, 3]);
    assert!(script.ring(4).contains(MemberId(1)) && script.ring(5).contains(MemberId(1)));
    for member in [1, 2, 3] {
        script.store(member, stamp(1, 9000));
    }
    script.heal();
    script.pass_ms(3000);
    script.expect_ring_of(&[1, 2, 3], &[1, 2, 3]);
    script.store_all(stamp(1, 9000));
    script.pass_ms(2000);
    script.expect_ring(&[1, 2, 3, 4, 5]);
}

#[test]
fn a_learner_and_a_witness_are_in_no_ring_and_need_no_guard() {
    for (kind, standing) in [(Kind::Witness, Standing::InSync), (Kind::Replica, Standing::Learner)] {
        let mut script = Script::with(4, |slot| {
            if slot.member == MemberId(4) {
                (slot.kind, slot.standing) = (kind, standing);
            }
        });
        script.pass_ms(600);
        script.expect_ring_of(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!((script.guard(4), script.bound(4)), (None, None));
    }
}

#[test]
fn whatever_happens_the_living_are_one_ring_when_it_is_over() {
    for seed in 0..200 {
        let mut script = Script::whole(2 + seed % 6);
        script.storm(seed);
        script.heal();
        script.pass_ms(4000);
        let living = script.living();
        script.expect_ring(&living);
        for (at, member) in living.iter().enumerate().filter(|_| living.len() > 1) {
            let before = living[(at + living.len() - 1) % living.len()];
            assert_eq!(script.guard(*member), Some(script.memory_of(before)), "seed {seed}");
        }
    }
}

#[test]
fn hosts_lose_their_memory_and_nothing_answered_is_lost_and_the_cluster_goes_on() {
    let (mut restored, mut renewed) = (0, 0);
    for seed in 0..24 {
        let mut world = world::World::new([3, 3, 5][seed as usize % 3], seed);
        world.run_ms(2000);
        for _ in 0..3 {
            world.storm_ms(5000);
            world.expect_service();
        }
        restored += world.restored;
        renewed += world.renewed;
    }
    assert!(restored > 100 && renewed > 30, "{restored} restored, {renewed} begun anew");
}
