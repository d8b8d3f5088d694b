//! Damage by the page, as disks and memory do it: pages that are gone, that lie in one another's place, that show what was there before; and
//! writes that were said to be done, and never were.

use super::canvas::Canvas;
use super::run::Step::{self, *};
use super::run::Tearing;
use super::truth::{Truth, Verdicts};
use super::{RING_BYTES, options};
use crate::Options;
use crate::layout::PAGE;
use crate::mutation::{self, Mutation};
use crate::sim::{Event, Images};

const PAGE_BYTES: usize = PAGE as usize;

/// A medium and a page of it.
type Place = (usize, usize);

/// Once around a ring of many pages and some way further, with snapshots of several pages.
fn workload() -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..18 {
        steps.extend([Append(2, 1500), Append(1, 900), Flush, Control, Append(3, 2500), Flush]);
        steps.extend([Truncate(1), Append(1, 700 + 64 * round), Flush]);
        if round % 5 == 3 {
            steps.extend([Part(9000), Append(1, 64), Flush, Part(3000), Finish(2), Flush]);
        }
    }
    steps
}

fn truth(tearing: Tearing) -> Result<Truth, String> {
    Truth::of(tearing, &Options { ring_bytes: 4 * RING_BYTES, ..options() }, &workload())
}

fn page(images: &Images, (which, page): Place) -> &[u8] {
    let image = &images[which];
    &image[page * PAGE_BYTES..image.len().min((page + 1) * PAGE_BYTES)]
}

fn places(images: &Images) -> Vec<Place> {
    (0..3).flat_map(|which| (0..images[which].len().div_ceil(PAGE_BYTES)).map(move |page| (which, page))).collect()
}

/// As much of it as there is room for.
fn put(canvas: &Canvas, (which, page): Place, bytes: &[u8], size: usize) {
    let bytes = bytes[..size.min(bytes.len())].to_vec();
    canvas.apply(&Event::Store { which, offset: page * PAGE_BYTES, bytes });
}

/// Each page is lost in turn, in three ways.
fn every_page_lost(truth: &Truth) -> Result<Verdicts, String> {
    let (images, mut verdicts) = (truth.canvas.images(), Verdicts::default());
    let noise: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * at / 7 + 13) as u8).collect();
    for place in places(&images) {
        for bytes in [&[0; PAGE_BYTES][..], &[0xff; PAGE_BYTES], &noise] {
            let judged = truth.judge(|canvas| put(canvas, place, bytes, page(&images, place).len()));
            verdicts.count(judged.map_err(|why| format!("page {place:?} of {:#04x}: {why}", bytes[0]))?);
        }
    }
    Ok(verdicts)
}

/// Any two pages lie in one another's place.
fn every_two_pages_swapped(truth: &Truth) -> Result<Verdicts, String> {
    let (images, mut verdicts) = (truth.canvas.images(), Verdicts::default());
    let places = places(&images);
    let pairs =
        places.iter().enumerate().flat_map(|(index, one)| places[..index].iter().map(move |other| (*one, *other)));
    for (one, other) in pairs.filter(|(one, other)| page(&images, *one) != page(&images, *other)) {
        let judged = truth.judge(|canvas| {
            put(canvas, one, page(&images, other), page(&images, one).len());
            put(canvas, other, page(&images, one), page(&images, other).len());
        });
        verdicts.count(judged.map_err(|why| format!("pages {one:?} and {other:?}: {why}"))?);
    }
    Ok(verdicts)
}

/// Each page shows in turn what it held at any earlier time, the others what they hold now.
fn every_older_page(truth: &Truth) -> Result<Verdicts, String> {
    let (images, mut verdicts) = (truth.canvas.images(), Verdicts::default());
    let (base, events) = &truth.history;
    let past = Canvas::new(base.clone());
    let mut seen: Vec<(Place, Vec<u8>)> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let Event::Store { which, offset, bytes } = event else {
            past.apply(event);
            continue;
        };
        let before = past.images();
        past.apply(event);
        for number in offset / PAGE_BYTES..(offset + bytes.len()).div_ceil(PAGE_BYTES) {
            let place = (*which, number);
            if number * PAGE_BYTES >= before[*which].len() {
                continue;
            }
            let older = (place, page(&before, place).to_vec());
            if older.1 == page(&images, place) || seen.contains(&older) {
                continue;
            }
            let judged = truth.judge(|canvas| put(canvas, place, &older.1, page(&images, place).len()));
            verdicts.count(judged.map_err(|why| format!("page {place:?} as before event {at}: {why}"))?);
            seen.push(older);
        }
    }
    Ok(verdicts)
}

/// Each write in turn was never done, although a flush after it succeeded.
fn every_lost_write(truth: &Truth) -> Result<Verdicts, String> {
    let mut verdicts = Verdicts::default();
    let (base, events) = &truth.history;
    for lost in (0..events.len()).filter(|lost| matches!(events[*lost], Event::Store { .. })) {
        let others = Canvas::new(base.clone());
        events.iter().enumerate().filter(|(at, _)| *at != lost).for_each(|(_, event)| others.apply(event));
        let judged = truth.judge(|canvas| {
            for (which, bytes) in others.images().into_iter().enumerate() {
                canvas.apply(&Event::Store { which, offset: 0, bytes });
            }
        });
        verdicts.count(judged.map_err(|why| format!("without event {lost}: {why}"))?);
    }
    Ok(verdicts)
}

type Damage = fn(&Truth) -> Result<Verdicts, String>;

/// A store that has any of these opens all the same: what it cannot do without is there twice.
const ALL: [(&str, Damage); 4] = [
    ("a page lost", every_page_lost),
    ("two pages swapped", every_two_pages_swapped),
    ("an older page", every_older_page),
    ("a lost write", every_lost_write),
];

#[test]
fn whatever_page_or_write_is_lost_all_is_there_or_what_is_missing_is_named() {
    for tearing in [Tearing::Sectors(4096), Tearing::Lines] {
        let truth = truth(tearing).expect("sound media");
        for (name, damage) in ALL {
            let verdicts = damage(&truth).unwrap_or_else(|why| panic!("{tearing:?}, {name}: {why}"));
            println!("{tearing:?}, {name}: {verdicts:?}");
            assert!(verdicts.exact > 20 && verdicts.repaired > 5, "{name} is harmless or fatal: {verdicts:?}");
            assert_eq!(verdicts.refused, 0, "{name} closes a store");
        }
    }
}

/// The test before this one would see it if checksums, laps or the word that something was durable were not looked at.
#[test]
fn bugs_that_show_with_damaged_pages_are_caught() {
    for bug in [Mutation::NoBodyChecksum, Mutation::NoLap, Mutation::NoWitness] {
        let caught = mutation::with(bug, || {
            std::panic::catch_unwind(|| {
                let truth = truth(Tearing::Sectors(4096))?;
                ALL.iter().try_for_each(|(_, damage)| damage(&truth).map(drop))
            })
        });
        assert!(!matches!(caught, Ok(Ok(()))), "{bug:?} is not caught");
    }
}
