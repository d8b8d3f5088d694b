//! Crashes at every event of a workload, with every part of what was not flushed, against a model; and the proof that the net
//! holds: each known bug, put back, is caught.

mod canvas;
mod choices;
mod damage;
mod decoders;
mod enumerator;
mod forging;
mod fuzz;
mod model;
mod outcomes;
mod pages;
mod random;
mod repairs;
mod run;
mod truth;
mod workloads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::mutation;
use crate::{Identity, Options};
use choices::Choices;
use enumerator::{Count, Search, crash_everywhere};
use run::{Step, Tearing};
use workloads::again;

const RING_BYTES: u64 = 16 << 10;
/// Images that the search for unknown bugs opens, at least. `NVM_LOG_CRASH_IMAGES` asks for more: ten million take some 100 s of one core.
const IMAGES: u64 = 2_000_000;

fn identity() -> Identity {
    Identity { cluster: [0; 16], member: 3, incarnation: [9; 16] }
}

fn options() -> Options {
    Options { ring_bytes: RING_BYTES, ..Options::default() }
}

fn few(tearing: Tearing) -> Search {
    Search { tearing, choices: Choices::FEW, deep_every: 16 }
}

/// Everything that every bug must get past.
fn the_net() -> Result<Count, String> {
    let (lines, sectors) = (few(Tearing::Lines), few(Tearing::Sectors(512)));
    let mut count = crash_everywhere(lines, &workloads::equal_frames(), &again())?;
    count += crash_everywhere(sectors, &workloads::full_ring(), &[])?;
    count += crash_everywhere(lines, &workloads::batches_and_control(), &again())?;
    count += crash_everywhere(lines, &workloads::truncations(), &again())?;
    count += crash_everywhere(sectors, &workloads::snapshots(), &again())?;
    count += crash_everywhere(lines, &workloads::snapshots_in_parts(), &again())?;
    count += crash_everywhere(few(Tearing::Sectors(4096)), &workloads::parts_across_checksums(), &again())?;
    count += crash_everywhere(lines, &workloads::process_crashes(), &again())?;
    count += enumerator::unflushed_then_reopened(lines)?;
    count += crash_everywhere(few(Tearing::Words), &workloads::everything_together(), &again())?;
    count += crash_everywhere(sectors, &workloads::laps(), &[])?;
    count += repairs::crash_in_every_repair(Tearing::Lines)?;
    repairs::a_place_to_begin_that_was_led_around_is_not_begun_at()?;
    damage::every_flip()?;
    damage::a_flip_in_every_line_of_a_ring_with_padding()?;
    damage::a_lost_witness_line_hides_no_damage()?;
    Ok(count)
}

#[test]
fn every_known_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in mutation::ALL {
        let result = mutation::with(bug, || catch_unwind(AssertUnwindSafe(the_net)));
        match result {
            Ok(Ok(count)) => missed.push((bug, count)),
            Ok(Err(why)) => println!("{bug:?}: {why}"),
            Err(_) => println!("{bug:?}: assertion"),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
    the_net().expect("without a bug nothing is found");
}

/// Every workload on every kind of medium: first what can be tried in full, then random choices up to the number asked for.
#[test]
fn crash_images_by_the_million_leave_a_legal_store() {
    let wanted = std::env::var("NVM_LOG_CRASH_IMAGES").ok().and_then(|number| number.parse().ok()).unwrap_or(IMAGES);
    let media = [Tearing::Words, Tearing::Lines, Tearing::Sectors(512), Tearing::Sectors(4096)];
    let workloads: [(Vec<Step>, bool); 9] = [
        (workloads::everything_together(), true),
        (workloads::batches_and_control(), true),
        (workloads::truncations(), true),
        (workloads::snapshots(), true),
        (workloads::snapshots_in_parts(), true),
        (workloads::process_crashes(), true),
        (workloads::equal_frames(), true),
        (workloads::full_ring(), false),
        (workloads::laps(), false),
    ];
    let started = Instant::now();
    let mut total = Count::default();
    let mut round = 0;
    while total.images < wanted {
        for tearing in media {
            let before = total.images;
            for (workload, has_second_life) in &workloads {
                let choices = if round == 0 { Choices::MANY } else { Choices::only_random(1500, round) };
                let search = Search { tearing, choices, deep_every: if round == 0 { 499 } else { 4999 } };
                let then = if *has_second_life { again() } else { Vec::new() };
                total += crash_everywhere(search, workload, &then).expect("a crash leaves a legal store");
                if round > 0 && total.images >= wanted {
                    break;
                }
            }
            println!("round {round}, {tearing:?}: {} images, {:?}", total.images - before, started.elapsed());
        }
        round += 1;
    }
    let rate = total.images as f64 / started.elapsed().as_secs_f64();
    println!("{} images, {} of them second crashes, {rate:.0} a second", total.images, total.second_crashes);
}
