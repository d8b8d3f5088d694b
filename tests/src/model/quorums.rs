//! The arithmetic of quorums, over every sequence of views that [`View`] lets follow one another.
//!
//! No replica runs here. A view is a row of slots; of each it is known whether its store holds one entry, the last that was committed, and
//! the search always takes the fewest holders that there can be. At each view, any q in-sync members that may report must have a
//! holder among them. A view is *decided*, then perhaps *begun* (its log is chosen and has its barrier), then perhaps
//! *committed* (q in-sync members hold the barrier, and something after it: from then on these are the only holders).
//!
//! Why it is exhaustive: which slots change, and how, is tried in all ways at once, and [`paxos::Decree::may_follow`] decides which
//! may; slots of the same kind, standing and holding are interchangeable, so a view is a sorted row; view numbers do not matter. So
//! the rows are few, and all are visited.

use std::collections::{BTreeMap, VecDeque};

use paxos::Decree;
use rsm::{ClusterId, Incarnation, Kind, MemberId, Slot, Standing, View};

/// A rule to be left out, to see that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// All rules hold.
    Nothing,
    /// S12: n changes in the view after one whose barrier is not committed.
    CommittedBarrier,
    /// S7: a syncing member is promoted although its view was never begun.
    BarrierHeld,
    /// S3: syncing members count for commits.
    InSyncAcks,
    /// S12: learners count for commits.
    VotersOnly,
}

/// How far a view came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Decided,
    Begun,
    Committed,
}

/// A slot: what it counts for, and whether it holds the entry.
type Place = (Standing, bool);

/// A view as far as quorums are concerned; its places are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    places: Vec<Place>,
    stage: Stage,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Distinct rows.
    pub rows: usize,
    /// Pairs of neighbouring views that were allowed.
    pub successions: u64,
    /// A view whose reporters may miss a committed entry, and the views before it.
    pub violation: Option<Vec<String>>,
}

/// Visits every row that can be reached from `first` voters in sync, of at most `most` slots.
pub fn check_quorums(first: usize, most: usize, without: Without) -> Found {
    let start = Row { places: vec![(Standing::InSync, true); first], stage: Stage::Committed };
    let mut ways: BTreeMap<String, Option<String>> = BTreeMap::from([(format!("{start:?}"), None)]);
    let mut frontier = VecDeque::from([start]);
    let mut successions = 0;
    while let Some(row) = frontier.pop_front() {
        let mut next = further(&row, without);
        let followers = followers(&row, most, without);
        successions += followers.len() as u64;
        next.extend(followers);
        for next in next {
            let name = format!("{next:?}");
            if ways.contains_key(&name) {
                continue;
            }
            ways.insert(name.clone(), Some(format!("{row:?}")));
            if next.stage == Stage::Decided && !every_quorum_holds(&next) {
                return Found { rows: ways.len(), successions, violation: Some(way_to(&ways, name)) };
            }
            frontier.push_back(next);
        }
    }
    Found { rows: ways.len(), successions, violation: None }
}

fn way_to(ways: &BTreeMap<String, Option<String>>, last: String) -> Vec<String> {
    let mut way = vec![last];
    while let Some(Some(before)) = way.last().and_then(|name| ways.get(name)) {
        way.push(before.clone());
    }
    way.reverse();
    way
}

/// The same view, one stage on.
fn further(row: &Row, without: Without) -> Vec<Row> {
    match row.stage {
        // The log is chosen from q reports, one of which holds the entry.
        Stage::Decided => vec![Row { stage: Stage::Begun, ..row.clone() }],
        Stage::Begun | Stage::Committed => {
            let quorum = view_of(&row.places).majority();
            let counts = |standing: Standing| match standing {
                Standing::InSync => true,
                Standing::Syncing => without == Without::InSyncAcks,
                Standing::Learner => without == Without::VotersOnly,
            };
            subsets(row.places.len(), quorum)
                .filter(|set| picked(&row.places, *set).all(|(standing, _)| counts(standing)))
                .map(|set| {
                    let holders = row.places.iter().enumerate();
                    let places = holders.map(|(at, (standing, _))| (*standing, set >> at & 1 == 1)).collect();
                    sorted(Row { places, stage: Stage::Committed })
                })
                .collect()
        }
    }
}

/// Every view that may follow.
fn followers(row: &Row, most: usize, without: Without) -> Vec<Row> {
    let mut found = Vec::new();
    let previous = view_of(&row.places);
    let may_promote = row.stage != Stage::Decided || without == Without::BarrierHeld;
    let may_change_n = row.stage == Stage::Committed || without == Without::CommittedBarrier;
    let mut offer = |slots: Vec<Slot>, holds: &dyn Fn(&Slot) -> bool| {
        for primary in slots.iter().filter(|slot| slot.standing == Standing::InSync).map(|slot| slot.member) {
            let before = View { primary, ..previous.clone() };
            let (number, parent) = (before.number + 1, before.hash());
            let next = View { number, parent, primary, cluster: before.cluster, slots: slots.clone() };
            let counted = |view: &View| view.voters().map(|slot| slot.member).collect::<Vec<_>>();
            let changes_n = counted(&before) != counted(&next);
            if next.may_follow(&before).is_ok() && (may_change_n || !changes_n) {
                let places = next.slots.iter().map(|slot| (slot.standing, holds(slot))).collect();
                found.push(sorted(Row { places, stage: Stage::Decided }));
                break;
            }
        }
    };
    // What a store holds goes with it. Who is promoted holds what its view began with.
    let held = |slot: &Slot| {
        let at = slot.member.0 as usize - 1;
        let Some((standing, holds)) = row.places.get(at) else { return false };
        let same_store = previous.slots[at].incarnation == slot.incarnation;
        let caught_up = *standing != Standing::InSync && slot.standing == Standing::InSync;
        same_store && (*holds || (caught_up && row.stage == Stage::Begun))
    };
    for fates in 0..3_u32.pow(row.places.len() as u32) {
        let mut slots = previous.slots.clone();
        let mut promotes = false;
        for (at, slot) in slots.iter_mut().enumerate() {
            match fates / 3_u32.pow(at as u32) % 3 {
                0 => {}
                1 => {
                    promotes |= slot.standing != Standing::InSync;
                    slot.standing = Standing::InSync;
                }
                _ => {
                    slot.incarnation = Incarnation(slot.incarnation.0 + 100);
                    if slot.standing == Standing::InSync {
                        slot.standing = Standing::Syncing;
                    }
                }
            }
        }
        if may_promote || !promotes {
            offer(slots, &held);
        }
    }
    for gone in 0..row.places.len() {
        let mut slots = previous.slots.clone();
        drop(slots.remove(gone));
        offer(slots, &held);
    }
    if row.places.len() < most {
        let mut slots = previous.slots.clone();
        slots.push(slot(row.places.len(), Standing::Learner));
        offer(slots, &held);
    }
    found
}

/// Whether each q in-sync members have a holder among them.
fn every_quorum_holds(row: &Row) -> bool {
    let lacking = row.places.iter().filter(|(standing, holds)| *standing == Standing::InSync && !holds).count();
    lacking < view_of(&row.places).majority()
}

fn view_of(places: &[Place]) -> View {
    let slots: Vec<Slot> = places.iter().enumerate().map(|(at, (standing, _))| slot(at, *standing)).collect();
    let primary = slots.iter().find(|slot| slot.standing == Standing::InSync).map_or(MemberId(0), |slot| slot.member);
    View { number: 1, parent: 0, cluster: ClusterId(1), primary, slots }
}

fn slot(at: usize, standing: Standing) -> Slot {
    let id = at as u64 + 1;
    let (member, incarnation) = (MemberId(id), Incarnation(id.into()));
    Slot { member, incarnation, address: format!("m{id}"), kind: Kind::Replica, standing }
}

fn sorted(mut row: Row) -> Row {
    row.places.sort_by_key(|(standing, holds)| (*standing as u8, *holds));
    row
}

fn subsets(of: usize, size: usize) -> impl Iterator<Item = u32> {
    (0..1_u32 << of).filter(move |set| set.count_ones() as usize == size)
}

fn picked(places: &[Place], set: u32) -> impl Iterator<Item = Place> {
    places.iter().enumerate().filter(move |(at, _)| set >> at & 1 == 1).map(|(_, place)| *place)
}
