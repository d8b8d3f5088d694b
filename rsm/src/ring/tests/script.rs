//! Ring members on a table: words are delivered when the script says so, and time passes when it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::ring::{Guard, MemoryId, Ring, RingMember, RingOutput, Word};
use crate::{ClusterId, Identity, Incarnation, Kind, MemberId, Micros, Slot, Standing, Timing, View, Viewstamp};

const TICK: Micros = 10_000;

pub(super) fn stamp(view: u64, op: u64) -> Viewstamp {
    Viewstamp { view, op }
}

pub(super) fn ids(members: &[u64]) -> Vec<MemberId> {
    members.iter().copied().map(MemberId).collect()
}

/// What a member has, beyond what is volatile.
#[derive(Clone, Copy)]
struct Kept {
    memory: MemoryId,
    guard: Option<Guard>,
    stored: Viewstamp,
}

pub(super) struct Script {
    now: Micros,
    view: View,
    members: BTreeMap<u64, RingMember>,
    kept: BTreeMap<u64, Kept>,
    bounds: BTreeMap<u64, Option<Viewstamp>>,
    waiting: VecDeque<(u64, u64, Word)>,
    /// Members without links to the others.
    apart: BTreeSet<u64>,
    delivered: usize,
}

impl Script {
    /// A cluster whose members all run, with member 1 as primary, and have stored the same.
    pub(super) fn whole(count: u64) -> Script {
        let mut script = Script::with(count, |_| {});
        script.pass_ms(300);
        script.expect_ring(&(1..=count).collect::<Vec<_>>());
        script.delivered = 0;
        script
    }

    pub(super) fn with(count: u64, change: impl Fn(&mut Slot)) -> Script {
        let slot = |id: u64| Slot {
            member: MemberId(id),
            incarnation: Incarnation(u128::from(id)),
            address: String::new(),
            kind: Kind::Replica,
            standing: Standing::InSync,
        };
        let mut slots: Vec<_> = (1..=count).map(slot).collect();
        slots.iter_mut().for_each(change);
        let view = View { number: 1, parent: 0, cluster: ClusterId(1), primary: MemberId(1), slots };
        let mut script = Script {
            now: 1_000_000,
            view,
            members: BTreeMap::new(),
            kept: BTreeMap::new(),
            bounds: BTreeMap::new(),
            waiting: VecDeque::new(),
            apart: BTreeSet::new(),
            delivered: 0,
        };
        for id in 1..=count {
            script.kept.insert(id, Kept { memory: MemoryId(100 * id), guard: None, stored: Viewstamp::default() });
            script.start(id, false);
        }
        script.store_all(stamp(1, 10));
        script
    }

    /// A member's process starts, with its memory or a new one.
    pub(super) fn start(&mut self, id: u64, is_host: bool) {
        let kept = self.kept.get_mut(&id).expect("a member");
        if is_host {
            kept.memory.0 += 1;
        }
        let Kept { memory, guard, stored } = *kept;
        let slot = self.view.slot(MemberId(id)).expect("a member");
        let me = Identity { member: slot.member, incarnation: slot.incarnation };
        let member = RingMember::new(me, memory, guard, stored, Timing::default());
        self.bounds.insert(id, member.first_bound());
        self.members.insert(id, member);
        self.step(id, |member, now, view, out| member.enter(now, view, out));
    }

    pub(super) fn end(&mut self, id: u64) {
        self.members.remove(&id).expect("it runs");
    }

    pub(super) fn tell_of(&mut self, id: u64, gone: u64) {
        self.step(id, |member, now, _, out| member.on_gone(now, MemberId(gone), out));
    }

    /// The core of this member knows that its log is stored up to there; the ring is told with the next input.
    pub(super) fn store_untold(&mut self, id: u64, stored: Viewstamp) {
        self.kept.get_mut(&id).expect("a member").stored = stored;
    }

    pub(super) fn store(&mut self, id: u64, stored: Viewstamp) {
        self.store_untold(id, stored);
        self.step(id, |member, now, _, out| member.on_stored(now, stored, out));
    }

    /// Of those that run.
    pub(super) fn store_all(&mut self, stored: Viewstamp) {
        for id in self.living() {
            self.store(id, stored);
        }
        self.deliver();
    }

    pub(super) fn replace(&mut self, id: u64) {
        let slot = self.view.slots.iter_mut().find(|slot| slot.member == MemberId(id)).expect("a member");
        slot.incarnation.0 += 1000;
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.view.slots.retain(|slot| slot.member != MemberId(id));
    }

    /// All that run enter the next view.
    pub(super) fn enter(&mut self, number: u64, primary: u64) {
        self.view.number = number;
        self.view.primary = MemberId(primary);
        for id in self.living() {
            self.step(id, |member, now, view, out| member.enter(now, view, out));
        }
    }

    pub(super) fn cut(&mut self, apart: &[u64]) {
        self.apart = apart.iter().copied().collect();
    }

    pub(super) fn heal(&mut self) {
        self.apart.clear();
    }

    /// A member says a ring that is not its own.
    pub(super) fn say(&mut self, from: u64, to: u64, ring: Ring) {
        let Kept { memory, stored, .. } = self.kept[&from];
        self.word(from, to, Word { ring, memory, stored });
    }

    pub(super) fn word(&mut self, from: u64, to: u64, word: Word) {
        self.waiting.push_back((from, to, word));
    }

    pub(super) fn waiting(&self) -> Vec<(u64, u64)> {
        self.waiting.iter().map(|(from, to, _)| (*from, *to)).collect()
    }

    pub(super) fn drop_waiting(&mut self) {
        self.waiting.clear();
    }

    /// All that waits, and what comes of it.
    pub(super) fn deliver(&mut self) {
        for _ in 0..10_000 {
            let Some((from, to, word)) = self.waiting.pop_front() else { return };
            self.hand(from, to, word);
        }
        panic!("words without end");
    }

    /// What waits for one member, and not what comes of it.
    pub(super) fn deliver_to(&mut self, id: u64) {
        let (now, later) = std::mem::take(&mut self.waiting).into_iter().partition(|(_, to, _)| *to == id);
        self.waiting = later;
        for (from, to, word) in now {
            self.hand(from, to, word);
        }
    }

    fn hand(&mut self, from: u64, to: u64, word: Word) {
        let is_cut = self.apart.contains(&from) != self.apart.contains(&to);
        let is_listed = self.view.slot(MemberId(from)).is_some();
        if self.members.contains_key(&to) && !is_cut && is_listed {
            self.delivered += 1;
            let stored = self.kept[&to].stored;
            self.step(to, |member, now, _, out| member.on_word(now, MemberId(from), word, stored, out));
        }
    }

    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.deliver();
        for _ in 0..ms * 1000 / TICK {
            self.now += TICK;
            for id in self.living() {
                self.step(id, |member, now, _, out| member.on_tick(now, out));
            }
            self.deliver();
        }
    }

    fn step(&mut self, id: u64, step: impl FnOnce(&mut RingMember, Micros, &View, &mut RingOutput)) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let mut out = RingOutput::default();
        step(member, self.now, &self.view, &mut out);
        let kept = self.kept.get_mut(&id).expect("a member");
        if let Some(guard) = out.guard {
            kept.guard = guard;
        }
        if let Some(bound) = out.bound {
            assert_eq!(bound.is_some(), kept.guard.is_some(), "a bound rests on a record");
            self.bounds.insert(id, bound);
        }
        self.waiting.extend(out.send.into_iter().map(|(to, word)| (id, to.0, word)));
    }

    /// Anything, for three seconds.
    pub(super) fn storm(&mut self, seed: u64) {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let count = self.view.slots.len() as u64;
        let mut op = 10;
        for _ in 0..300 {
            let id = random.random_range(1..=count);
            match random.random_range(0..12) {
                0 if self.living().len() > 1 && id != 1 && self.members.contains_key(&id) => {
                    self.end(id);
                    let other = random.random_range(1..=count);
                    self.tell_of(other, id);
                }
                1 if !self.members.contains_key(&id) => self.start(id, random.random()),
                2 => self.cut(&[id, random.random_range(1..=count)]),
                3 => self.heal(),
                4..=6 => {
                    op += random.random_range(1..2000);
                    self.store(id, stamp(1, op));
                }
                7 => self.waiting.retain(|_| random.random()),
                _ => self.deliver(),
            }
            self.now += TICK;
            for id in self.living() {
                self.step(id, |member, now, _, out| member.on_tick(now, out));
            }
        }
        self.heal();
        self.store_all(stamp(1, op + 1));
    }

    pub(super) fn living(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    pub(super) fn delivered(&self) -> usize {
        self.delivered
    }

    pub(super) fn guard(&self, id: u64) -> Option<Guard> {
        self.kept[&id].guard
    }

    pub(super) fn bound(&self, id: u64) -> Option<Viewstamp> {
        self.bounds[&id]
    }

    pub(super) fn memory_of(&self, id: u64) -> Guard {
        Guard { member: MemberId(id), memory: self.kept[&id].memory }
    }

    pub(super) fn ring(&self, id: u64) -> Ring {
        self.members[&id].ring.clone()
    }

    pub(super) fn initiator(&self, id: u64) -> MemberId {
        self.ring(id).initiator
    }

    /// All that run have this ring.
    pub(super) fn expect_ring(&self, members: &[u64]) {
        self.expect_ring_of(&self.living(), members);
    }

    pub(super) fn expect_ring_of(&self, whose: &[u64], members: &[u64]) {
        for id in whose {
            assert_eq!(self.ring(*id).members, ids(members), "member {id}: {:?}", self.ring(*id));
        }
    }
}
