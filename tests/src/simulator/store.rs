//! A member's store: the real log on a simulated medium, written by the real log writer's code, beside a model of it.
//!
//! Why it is right: whatever a crash or damage left is opened by the real recovery. What that finds must be what was
//! reported durable, with a prefix of what was under way; or, where the medium was damaged, a refusal. Nothing else passes.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use nvm_log::sim::{Sim, SimDisk};
use nvm_log::{Backend, Outcome, Witness};
use rsm::storage::{RecordWriter, identity_of, recovered};
use rsm::{Control, Entry, Identity, Record, Recovered, Token, Viewstamp};

use super::dice::Dice;
use super::image::{Image, last_of};
use super::medium_plan::{Durability, MediumPlan};
use super::mutation::Mutation;
use super::survival::Survival;

/// Stores and flushes that a log writer may still get done, of what comes after the last whole group.
const BEGUN_MAX_OPERATIONS: u64 = 8;
/// A recovery stores and flushes about so often.
const RECOVERY_OPERATIONS: u64 = 9;
/// A medium that keeps smaller pieces than this is memory.
const SECTOR_BYTES: usize = 512;
/// Bytes that a store may get done when it is cut short, at most.
const CUT_MAX_BYTES: u64 = 1024;
/// Times that one recovery is interrupted, at most.
const INTERRUPTIONS_MAX: usize = 3;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It stops in good order: all that was asked for is written, and the store is closed.
    Clean,
    /// It dies; the machine goes on, and shows all that was stored.
    Process,
    /// The machine dies, or its medium failed: of what was not flushed any part is left.
    Machine,
}

/// What the next process finds.
#[derive(Debug)]
pub(crate) struct Reopened {
    /// What was under way and became durable.
    pub(crate) records: Vec<Record>,
    /// How many records were lost.
    pub(crate) lost: usize,
    /// Entries that are still there although they were released.
    pub(crate) released: Vec<Arc<Entry>>,
    pub(crate) outcome: Outcome,
    /// The newest snapshot was damaged, and the one before took its place.
    pub(crate) fell_back: bool,
    /// How often a recovery was cut short before this one.
    pub(crate) interruptions: u64,
}

/// Why nothing can be made of a store.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The recovery refuses it, in its own words.
    Refused(String),
    /// Damage to the last flush before a loss of power was taken for a torn tail: the one thing that a lazy witness
    /// does not tell apart.
    TakenForTorn,
    /// It found what cannot be there, or not what must be.
    Wrong(String),
}

/// A member's store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) identity: Identity,
    /// What a crash cannot take away.
    pub(crate) durable: Image,
    /// What the core believes to have: `durable` with all of `pending`.
    pub(crate) asked: Image,
    /// `durable` without what the last flush made so.
    before_last_flush: Image,
    last_flush: Vec<Record>,
    pending: VecDeque<(Token, Record)>,
    last_token: Token,
    durable_token: Token,
    disk: SimDisk,
    options: nvm_log::Options,
    /// The open store; none between a process's end and its store's recovery.
    writer: Option<RecordWriter<nvm_log::Store<Sim>>>,
    /// What the recovery found, for the next process.
    found: Option<Recovered>,
    boots: u64,
    /// The machine died since the last recovery.
    lost_power: bool,
    /// The medium was damaged since it was formatted.
    is_damaged: bool,
    mutation: Mutation,
}

impl Store {
    /// A store as it is formatted.
    pub(crate) fn format(identity: Identity, plan: &MediumPlan, mutation: Mutation) -> Self {
        let backend = match plan.durability {
            Durability::Memory | Durability::Ring => Backend::Shm,
            Durability::Durable | Durability::Process => Backend::File,
        };
        let witness = if plan.witness_is_sync { Witness::Sync } else { Witness::Lazy };
        let options = nvm_log::Options { backend, ring_bytes: plan.ring_bytes, witness, ..nvm_log::Options::default() };
        let disk = SimDisk::forgetful(plan.unit_bytes);
        disk.set_boot_id([1; 16]);
        disk.set_gathers(plan.unit_bytes >= SECTOR_BYTES);
        let salt = identity.incarnation.0 as u64;
        let formatted = nvm_log::Store::format_on(disk.media(), &options, identity_of(identity), salt);
        drop(formatted.expect("an empty simulated medium takes a store"));
        let (store, recovery) = nvm_log::Store::open_on(disk.media(), &options).expect("it was formatted just now");
        Store {
            identity,
            durable: Image::default(),
            asked: Image::default(),
            before_last_flush: Image::default(),
            last_flush: Vec::new(),
            pending: VecDeque::new(),
            last_token: 0,
            durable_token: 0,
            disk,
            options,
            writer: Some(RecordWriter::new(store)),
            found: Some(recovered(recovery, identity.member).expect("it is empty and its own")),
            boots: 1,
            lost_power: false,
            is_damaged: false,
            mutation,
        }
    }

    /// What a starting process finds; once.
    pub(crate) fn take_found(&mut self) -> Option<Recovered> {
        self.found.take()
    }

    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Asks for a record.
    ///
    /// # Errors
    /// See [`Image::apply`].
    pub(crate) fn ask(&mut self, record: Record) -> Result<Token, String> {
        self.asked.apply(&record)?;
        self.last_token += 1;
        self.pending.push_back((self.last_token, record));
        Ok(self.last_token)
    }

    /// Whether all is durable that was asked for before and with this token.
    pub(crate) fn is_durable(&self, token: Token) -> bool {
        token <= self.durable_token
    }

    pub(crate) fn last_token(&self) -> Token {
        self.last_token
    }

    /// The control record, where of what waits so many records were stored.
    pub(crate) fn control_after(&self, begun: usize) -> Control {
        let mut controls = self.pending.iter().take(begun).filter_map(|(_, record)| match record {
            Record::Control(control) | Record::Install { control, .. } => Some(control),
            _ => None,
        });
        controls.next_back().unwrap_or(&self.durable.control).clone()
    }

    /// How many records wait.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The log writer makes all up to the token durable. Returns the records that became so.
    ///
    /// # Errors
    /// The medium failed; the process must end.
    pub(crate) fn flush(&mut self, token: Token) -> Result<Vec<Record>, nvm_log::Error> {
        let count = self.pending.iter().take_while(|(first, _)| *first <= token).count();
        let records: Vec<Record> = self.pending.iter().take(count).map(|(_, record)| record.clone()).collect();
        let mut reported = self.durable_token;
        self.write(&records, |token| reported = token)?;
        if count > 0 {
            assert_eq!(reported, self.durable_token + count as u64, "all that was written is reported");
        }
        self.pending.drain(..count);
        self.durable_token = reported;
        if count > 0 {
            for record in std::mem::replace(&mut self.last_flush, records.clone()) {
                self.before_last_flush.apply(&record).expect("it fitted when it was asked for");
            }
        }
        for record in &records {
            self.durable.apply(record).expect("it fitted when it was asked for");
        }
        Ok(records)
    }

    fn write(&mut self, records: &[Record], reported: impl FnMut(Token)) -> Result<(), nvm_log::Error> {
        let writer = self.writer.as_mut().expect("a process has its store open");
        writer.carry_out(records, reported)
    }

    /// The process ends. The log writer had got through `begun` of the records that waited, and into the next ones.
    /// Returns whether of what was not flushed a part was kept and a part lost.
    pub(crate) fn end(&mut self, end: End, begun: usize, dice: &mut Dice) -> bool {
        let waiting: Vec<Record> = self.pending.iter().map(|(_, record)| record.clone()).collect();
        let begun = if end == End::Clean { waiting.len() } else { begun };
        let written = self.write(&waiting[..begun], |_| {});
        if end != End::Clean && written.is_ok() {
            self.stop_within(BEGUN_MAX_OPERATIONS, dice);
            // It fails somewhere, or does not: both are moments at which a process may die.
            drop(self.write(&waiting[begun..], |_| {}));
        }
        let writer = self.writer.take().expect("a process has its store open");
        if end == End::Clean && written.is_ok() {
            drop(writer.close());
        }
        self.disk.mend();
        self.found = None;
        end == End::Machine && self.lose_power(dice)
    }

    /// Soon, maybe in the midst of a store, nothing more reaches the medium.
    fn stop_within(&self, operations: u64, dice: &mut Dice) {
        let kept_bytes = if dice.chance(500_000) { dice.below(CUT_MAX_BYTES) as usize } else { 0 };
        self.disk.fail_after(dice.below(operations) as usize, ErrorKind::Other, kept_bytes);
    }

    fn lose_power(&mut self, dice: &mut Dice) -> bool {
        self.lost_power = true;
        self.boots += 1;
        self.disk.set_boot_id(u128::from(self.boots).to_le_bytes());
        let pieces = self.disk.unflushed_pieces();
        let survival = Survival::draw(dice, pieces);
        let mut kept = 0;
        self.disk.lose_power(|piece| {
            let keeps = survival.keeps(piece, dice);
            kept += usize::from(keeps);
            keeps
        });
        kept > 0 && kept < pieces
    }

    /// Bytes go bad. The store is opened anew after it.
    pub(crate) fn damage(&mut self, change: impl FnOnce(&SimDisk)) {
        self.writer = None;
        self.found = None;
        self.is_damaged = true;
        change(&self.disk);
    }

    /// Recovers the store, maybe after recoveries that were cut short themselves.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub(crate) fn reopen(&mut self, interrupt: u64, dice: &mut Dice) -> Result<Reopened, Unusable> {
        let mut interruptions = 0;
        for _ in 0..INTERRUPTIONS_MAX {
            if !dice.chance(interrupt) {
                break;
            }
            self.stop_within(RECOVERY_OPERATIONS, dice);
            drop(nvm_log::Store::open_on(self.disk.media(), &self.options));
            interruptions += u64::from(self.disk.mend());
            if self.options.backend == Backend::File && dice.chance(500_000) {
                self.lose_power(dice);
            }
        }
        let opened = nvm_log::Store::open_on(self.disk.media(), &self.options);
        let (store, mut recovery) = opened.map_err(|error| Unusable::Refused(error.to_string()))?;
        let outcome = recovery.outcome.clone();
        if self.mutation.accepts_damage() {
            recovery.outcome = Outcome::Clean;
        }
        let found = recovered(recovery, self.identity.member);
        let found = found.map_err(|refusal| Unusable::Refused(refusal.to_string()))?;
        let (durable, records) = self.explain(&found)?;
        let fell_back = durable.snapshot != found.snapshot;
        let lost = self.pending.len() - records.len();
        let (durable, released) = durable.completed(&found);
        self.forget_process(durable);
        self.writer = Some(RecordWriter::new(store));
        self.found = Some(found);
        Ok(Reopened { records, lost, released, outcome, fell_back, interruptions })
    }

    /// The image that was found, and what became durable beyond what had been reported.
    fn explain(&self, found: &Recovered) -> Result<(Image, Vec<Record>), Unusable> {
        let pending = || self.pending.iter().map(|(_, record)| record);
        if let Some((image, count)) = latest_match(&self.durable, pending(), found, self.is_damaged) {
            return Ok((image, pending().take(count).cloned().collect()));
        }
        let doubtful = self.is_damaged && self.lost_power && self.options.witness == Witness::Lazy;
        let last = self.last_flush.iter().chain(pending());
        if doubtful && latest_match(&self.before_last_flush, last, found, true).is_some() {
            return Err(Unusable::TakenForTorn);
        }
        Err(Unusable::Wrong(format!(
            "found {} entries to {}, snapshot {:?}, control {:?}; durable are {} entries from {} to {}, snapshot {:?}, \
             control {:?}; {} records were under way",
            found.entries.len(),
            last_of(found),
            found.snapshot.as_ref().map(|image| image.viewstamp),
            found.control,
            self.durable.entries.len(),
            self.durable.start(),
            self.durable.last(),
            self.durable.snapshot.as_ref().map(|image| image.viewstamp),
            self.durable.control,
            self.pending.len()
        )))
    }

    /// What only the process knew is gone; recovery made all that it found durable, without a doubt.
    fn forget_process(&mut self, durable: Image) {
        self.pending.clear();
        self.last_flush.clear();
        self.before_last_flush = durable.clone();
        self.asked = durable.clone();
        self.durable = durable;
        (self.last_token, self.durable_token) = (0, 0);
        self.lost_power = false;
    }

    /// Compares what the core says of itself with what it asked the store to hold.
    ///
    /// # Errors
    /// They differ.
    pub(crate) fn compare(&self, control: &Control, log: &[Viewstamp]) -> Result<(), String> {
        if !same_promises(control, &self.asked.control) {
            return Err(format!("control in memory {control:?}, in the store {:?}", self.asked.control));
        }
        let stored = self.asked.entries.iter().map(|entry| entry.viewstamp);
        let shared = log.len().min(stored.len());
        let tails_agree = stored.skip(self.asked.entries.len() - shared).eq(log[log.len() - shared..].iter().copied());
        // The core lets go of a released prefix only when the snapshot that covers it is durable.
        let ends_agree = log.last().is_none_or(|last| *last == self.asked.last());
        if !tails_agree || !ends_agree {
            let (first, last) = (self.asked.start(), self.asked.last());
            return Err(format!("log in memory {:?}.., in the store {first} to {last}", log.last()));
        }
        Ok(())
    }
}

/// The last of the images, from this one on, that a recovery may have found; and after how many records.
fn latest_match<'a>(
    from: &Image,
    records: impl Iterator<Item = &'a Record>,
    found: &Recovered,
    damaged: bool,
) -> Option<(Image, usize)> {
    let mut image = from.clone();
    let mut matched = image.is_what(found, damaged).then(|| (image.clone(), 0));
    for (index, record) in records.enumerate() {
        image.apply(record).expect("it fitted when it was asked for");
        if image.is_what(found, damaged) {
            matched = Some((image.clone(), index + 1));
        }
    }
    matched
}

/// Equal but for the highest round heard of, which is stored only on occasion: it saves time, nothing rests on it.
fn same_promises(one: &Control, other: &Control) -> bool {
    let without_round = |control: &Control| {
        let mut control = control.clone();
        if let Some(config) = &mut control.config {
            config.highest_round = 0;
        }
        control
    };
    one == other || without_round(one) == without_round(other)
}

#[cfg(test)]
mod tests {
    use rsm::{Incarnation, MemberId, Payload, SnapshotImage};

    use super::*;

    fn entry(view: u64, op: u64, previous: Viewstamp) -> Arc<Entry> {
        Arc::new(Entry { viewstamp: Viewstamp { view, op }, previous, payload: Payload::Batch(vec![vec![op as u8]]) })
    }

    fn store(unit_bytes: usize) -> Store {
        let plan = MediumPlan { unit_bytes, ..MediumPlan::quiet() };
        let identity = Identity { member: MemberId(1), incarnation: Incarnation(1) };
        let mut store = Store::format(identity, &plan, Mutation::named(None));
        let mut previous = Viewstamp::default();
        for op in 1..=4 {
            store.ask(Record::Append(entry(1, op, previous))).expect("it fits");
            previous = Viewstamp { view: 1, op };
        }
        store
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_any_prefix_of_the_rest() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let (mut store, mut dice) = (store(8), Dice::new(seed));
            assert_eq!(store.flush(2).expect("written").len(), 2);
            store.end(End::Machine, 0, &mut dice);
            let reopened = store.reopen(300_000, &mut dice).expect("a crash is no damage");
            lengths.insert(store.take_found().expect("found").entries.len());
            assert_eq!(store.durable.entries.len() + reopened.lost, 4);
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn a_process_that_stops_in_good_order_loses_nothing() {
        let (mut store, mut dice) = (store(512), Dice::new(1));
        store.end(End::Clean, 0, &mut dice);
        let reopened = store.reopen(0, &mut dice).expect("it is whole");
        assert_eq!((reopened.records.len(), reopened.outcome), (4, Outcome::Clean));
    }

    #[test]
    fn a_flush_that_fails_reports_nothing_and_a_recovery_goes_on() {
        let (mut store, mut dice) = (store(512), Dice::new(1));
        store.flush(1).expect("written");
        store.disk().fail_after(1, ErrorKind::StorageFull, 0);
        assert!(store.flush(4).is_err() && !store.is_durable(2));
        store.end(End::Machine, 0, &mut dice);
        assert!(store.reopen(0, &mut dice).is_ok());
    }

    #[test]
    fn damage_to_what_is_durable_is_refused_or_costs_nothing() {
        let (mut refused, mut harmless) = (0, 0);
        for offset in (0..0x1_8000 + 2048).step_by(128) {
            let (mut store, mut dice) = (store(512), Dice::new(offset as u64));
            store.flush(4).expect("written");
            store.end(End::Process, 0, &mut dice);
            store.reopen(0, &mut dice).expect("a crash is no damage");
            store.damage(|disk| disk.damage(0, offset..offset + 32, |bytes| bytes.fill(0x5a)));
            match store.reopen(0, &mut dice) {
                Ok(reopened) => harmless += usize::from(reopened.lost == 0),
                Err(Unusable::Refused(_)) => refused += 1,
                Err(other) => panic!("offset {offset}: {other:?}"),
            }
        }
        assert!(refused > 1 && harmless > 500, "{refused} refused, {harmless} harmless");
    }

    #[test]
    fn a_recovery_that_brings_less_than_was_durable_is_told() {
        let (mut store, mut dice) = (store(512), Dice::new(1));
        store.flush(4).expect("written");
        let newer = store.durable.clone();
        let image = store.disk.visible();
        store.end(End::Process, 0, &mut dice);
        store.reopen(0, &mut dice).expect("it is whole");
        store.ask(Record::Append(entry(1, 5, newer.last()))).expect("it fits");
        store.flush(1).expect("written");
        // The medium goes back to what it was: no checksum can tell.
        store.damage(|disk| {
            for (which, old) in image.into_iter().enumerate() {
                disk.damage(which, 0..old.len(), |bytes| bytes.copy_from_slice(&old));
            }
        });
        assert!(matches!(store.reopen(0, &mut dice), Err(Unusable::Wrong(_))));
    }

    #[test]
    fn an_append_that_leaves_a_gap_is_told() {
        let mut store = store(512);
        let gap = entry(1, 9, Viewstamp { view: 1, op: 8 });
        assert!(store.ask(Record::Append(gap)).expect_err("a gap").contains("ends at (1, 4)"));
    }

    #[test]
    fn a_snapshot_releases_what_it_covers_and_no_more() {
        let (mut store, mut dice) = (store(512), Dice::new(1));
        let image = Arc::new(SnapshotImage::new(Viewstamp { view: 1, op: 3 }));
        store.ask(Record::Snapshot { image, release: 2 }).expect("it fits");
        store.flush(5).expect("written");
        assert_eq!(store.durable.entries.front().map(|entry| entry.first_op()), Some(3));
        store.end(End::Clean, 0, &mut dice);
        store.reopen(0, &mut dice).expect("it is whole");
        assert_eq!(store.durable.last().op, 4);
        assert!(store.durable.start().op <= 2);
    }
}
