//! A map of objects that bear the op that last changed them, of which a snapshot is taken while it changes.
//!
//! # Why it is right
//!
//! A snapshot of the state after op S goes through the keys in their order, a part at a time; ops above S are executed between the parts.
//! Whoever is about to change, replace or remove an object goes through [`Versioned::entry`] or [`Versioned::get_mut`], there is
//! no other way; and there an object that the snapshot has not come to yet, and that is of S or older, is first written down as it
//! is. So each object that existed at S is in one of two places until the snapshot comes to its key: among those written down, or, never
//! touched since, in the map. What is in the map and newer than S is either written down in its old form too, or did not
//! exist. Thus taking, key by key, what is written down, else what is of S or older, gives the map at S, and nothing else.
//!
//! The cost is one look-up for each change while a snapshot is under way, and none otherwise. An object is written down at most
//! once a snapshot, as the bytes that it will be; so at worst the objects changed meanwhile are in memory a second time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, RangeBounds};

use super::snapshot::Format;
use crate::mutant::{Mutant, Mutation};

/// What passing over an object that is not in the snapshot counts for, bytes: so that a part also ends where there is little to write.
const PASSED_BYTES: usize = 16;

/// How a record is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) format: Format,
    pub(super) mutation: Mutation,
}

/// What a [`Versioned`] map holds.
pub(super) trait Object<K> {
    /// The op that last changed it.
    fn changed(&self) -> u64;
    /// Adds its record in a snapshot.
    fn write(&self, key: &K, manner: Manner, bytes: &mut Vec<u8>);
}

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Versioned<K, V> {
    objects: BTreeMap<K, V>,
    frozen: Option<Frozen<K>>,
    pub(super) mutation: Mutation,
}

/// The map as it was after an op, as far as the snapshot has not come.
#[derive(Clone, Debug)]
struct Frozen<K> {
    op: u64,
    format: Format,
    /// Everything up to this key is in the snapshot.
    passed: Option<K>,
    /// Objects behind it that were changed since: their records as they were.
    kept: BTreeMap<K, Vec<u8>>,
}

impl<K, V> Default for Versioned<K, V> {
    fn default() -> Self {
        Versioned { objects: BTreeMap::new(), frozen: None, mutation: Mutation::default() }
    }
}

impl<K: Ord + Clone, V: Object<K>> Versioned<K, V> {
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.objects.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.objects.iter()
    }

    pub(super) fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.objects.range(range)
    }

    /// The object, to be changed.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.keep(key);
        self.objects.get_mut(key)
    }

    /// The object's place, to be changed.
    pub(super) fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        self.keep(&key);
        self.objects.entry(key)
    }

    fn keep(&mut self, key: &K) {
        let Some(frozen) = &mut self.frozen else { return };
        if frozen.passed.as_ref() >= Some(key) || self.mutation.is(Mutant::SnapshotTears) {
            return;
        }
        if let Some(object) = self.objects.get(key)
            && object.changed() <= frozen.op
            && let Entry::Vacant(place) = frozen.kept.entry(key.clone())
        {
            let mut record = Vec::new();
            object.write(key, Manner { format: frozen.format, mutation: self.mutation }, &mut record);
            place.insert(record);
        }
    }

    /// A snapshot of the map as it is after this op begins.
    pub(super) fn freeze(&mut self, op: u64, format: Format) {
        self.frozen = Some(Frozen { op, format, passed: None, kept: BTreeMap::new() });
    }

    /// No snapshot is under way any more.
    pub(super) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Adds the next records, until the bytes are as many as the budget or nothing is left: true then.
    pub(super) fn write_some(&mut self, budget_bytes: usize, bytes: &mut Vec<u8>) -> bool {
        let Some(frozen) = &mut self.frozen else { return true };
        let manner = Manner { format: frozen.format, mutation: self.mutation };
        let start = frozen.passed.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut live = self.objects.range((start, Bound::Unbounded)).peekable();
        let mut spent = bytes.len();
        while spent < budget_bytes {
            let kept = frozen.kept.first_key_value().map(|(key, _)| key);
            let key = match (live.peek(), kept) {
                (None, None) => {
                    self.frozen = None;
                    return true;
                }
                (Some((key, _)), None) => (*key).clone(),
                (None, Some(kept)) => kept.clone(),
                (Some((key, _)), Some(kept)) => (*key).min(kept).clone(),
            };
            let object = live.next_if(|(next, _)| **next == key).map(|(_, object)| object);
            let before = bytes.len();
            match (frozen.kept.remove(&key), object) {
                (Some(record), _) => bytes.extend_from_slice(&record),
                (None, Some(object)) if object.changed() <= frozen.op || self.mutation.is(Mutant::SnapshotTears) => {
                    object.write(&key, manner, bytes);
                }
                _ => spent += PASSED_BYTES,
            }
            spent += bytes.len() - before;
            frozen.passed = Some(key);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The op that made it.
    #[derive(Clone, Debug)]
    struct Stamp(u64);

    impl Object<u8> for Stamp {
        fn changed(&self) -> u64 {
            self.0
        }
        fn write(&self, key: &u8, _: Manner, bytes: &mut Vec<u8>) {
            bytes.extend([*key, self.0 as u8]);
        }
    }

    fn set(map: &mut Versioned<u8, Stamp>, key: u8, op: u64) {
        *map.entry(key).or_insert(Stamp(op)) = Stamp(op);
    }

    fn remove(map: &mut Versioned<u8, Stamp>, key: u8) {
        if let Entry::Occupied(entry) = map.entry(key) {
            entry.remove();
        }
    }

    /// The parts, with a change before each.
    fn parts(map: &mut Versioned<u8, Stamp>, changes: &[fn(&mut Versioned<u8, Stamp>)]) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        let mut changes = changes.iter();
        loop {
            if let Some(change) = changes.next() {
                change(map);
            }
            let mut bytes = Vec::new();
            let is_last = map.write_some(2, &mut bytes);
            parts.push(bytes);
            if is_last {
                return parts;
            }
        }
    }

    #[test]
    fn a_snapshot_shows_objects_as_they_were_whatever_happens_before_and_behind_it() {
        let mut map = Versioned::default();
        (1..=6).for_each(|key| set(&mut map, 10 * key, u64::from(key)));
        map.freeze(6, Format::Current);
        let whole = parts(
            &mut map,
            &[
                |map| {
                    set(map, 20, 7); // before the snapshot comes to it
                    remove(map, 30);
                    set(map, 35, 7); // new
                },
                |map| {
                    set(map, 10, 8); // the snapshot has passed it
                    set(map, 20, 8); // for the second time
                    set(map, 30, 8); // back again
                },
                |map| remove(map, 35),
                |map| remove(map, 60),
            ],
        );
        assert_eq!(whole.concat(), [10, 1, 20, 2, 30, 3, 40, 4, 50, 5, 60, 6]);
        assert!(whole.iter().all(|part| part.len() <= 2), "each as large as it may be: {whole:?}");
    }

    #[test]
    fn objects_that_are_newer_than_the_snapshot_use_its_budget_up_too() {
        let mut map = Versioned::default();
        map.freeze(0, Format::Current);
        (1..=5).for_each(|key| set(&mut map, key, 1));
        assert_eq!(parts(&mut map, &[]).len(), 6, "one is passed over in each, and then it ends");
    }
}
