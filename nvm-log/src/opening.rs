//! Opening a store: reading all that it holds, judging it, and making durable what was read before anyone is told.
//!
//! Why it is right: what an opening tells must still be true after the next crash. So everything that was read and that nothing proves durable
//! is stored again and flushed; then a new epoch begins, in a record that is durable before the opening returns.
//! Only then are new frames stored.

use std::ops::RangeInclusive;
use std::time::Instant;

use crate::control::{Head, Record};
use crate::directory;
use crate::medium::{Media, Medium};
use crate::mutation::{self, Mutation};
use crate::recovery::{self, Ending, Outcome, Recovery, Scan, SnapshotMeta};
use crate::repair::Damage;
use crate::ring::Ring;
use crate::scanner;
use crate::scrub::Scrubber;
use crate::snapshot;
use crate::statistics::Statistics;
use crate::superblock::Superblock;
use crate::witness::Lines;
use crate::{Error, Options, Part, Store, Witness};

impl<M: Medium> Store<M> {
    /// Opens the store on these media and recovers what it holds. Returns only when all that it reports is durable.
    pub fn open_on(mut media: Media<M>, options: &Options) -> Result<(Store<M>, Recovery), Error> {
        let started = Instant::now();
        let (superblock, _) = Superblock::read(&mut media.store)?;
        let (geometry, salt) = (superblock.geometry, superblock.salt);
        directory::check_boot(&superblock, media.store.boot_id())?;
        let mut record = Record::read(&media.store, salt)?;
        let lines = Lines::read(&media.store, salt)?;
        let line = lines.newest().unwrap_or_default();
        if line.control_sequence > record.sequence {
            return Err(Error::Damaged { part: Part::Control, detail: "the newest record is gone" });
        }
        // A record that was read may not have been flushed. It must be durable before its successor goes over the other slot,
        // and stored again in case an earlier flush failed (see `store_again`).
        let mut buffer = Vec::new();
        if !mutation::active(Mutation::BelieveUnflushed) {
            record.write(&mut media.store, salt, &mut buffer)?;
        }
        let snapshot = read_snapshot(&media, salt, &mut record)?;
        let Scan { ring, mut frames, ending, scanned_frames, scanned_bytes, proven, bridges } =
            scan(&media.store, salt, &superblock, &record, &lines, options)?;
        let left_behind_op = (ring.head() != record.head).then_some(ring.head().op);
        let was_fresh = is_fresh(&record, &ring, &ending);
        if !mutation::active(Mutation::BelieveUnflushed) {
            scanner::store_again(&mut media.store, geometry, proven, ring.tail())?;
            media.store.flush().map_err(Error::io("flushing the log"))?;
        }
        let outcome = outcome(&ending, record.lost, was_fresh);
        let damage = Damage::found(&ending);
        record.bridges.extend(bridges);
        let mut store = Store {
            media,
            superblock,
            record,
            control_pending: true,
            line,
            unlined_flushes: 0,
            reach: 0,
            ring,
            unfinished: None,
            damage,
            scrubber: Scrubber::default(),
            counters: Statistics::default(),
            poisoned: false,
            buffer,
        };
        if let Some((meta, _)) = &snapshot
            && store.damage.is_none()
            && meta.op > store.ring.last().1
        {
            store.ring.drop_all(meta.view, meta.op);
            frames.clear();
        }
        store.begin_epoch(options)?;
        let recovery = Recovery {
            identity: store.identity(),
            outcome,
            control: store.record.blob.clone(),
            snapshot,
            frames,
            last_op: store.last_op(),
            left_behind_op,
            volatile: store.is_volatile(),
            elapsed: started.elapsed(),
            scanned_frames,
            scanned_bytes,
        };
        Ok((store, recovery))
    }

    /// Makes it durable that from the tail on only new frames count, before there is any.
    fn begin_epoch(&mut self, options: &Options) -> Result<(), Error> {
        let detail = "opened more often than the format can count";
        let next = self.record.epoch.checked_add(1).ok_or(Error::Damaged { part: Part::Control, detail })?;
        self.record.epoch = if mutation::active(Mutation::SameEpoch) { self.record.epoch } else { next };
        self.record.epoch_position = self.ring.tail();
        self.record.boot_id = self.media.store.boot_id();
        self.record.witness_sync = options.witness == Witness::Sync;
        self.ring.begin_epoch(self.record.epoch);
        self.flush()?;
        // The line that was just stored must be durable before frames go as far as it lets them.
        self.media.store.flush().map_err(Error::io("flushing the witness line"))?;
        self.reach = self.line.reach;
        Ok(())
    }
}

/// Reads the log. What the snapshot covers is left out if so asked, and left behind if only that is damaged.
fn scan<M: Medium>(
    medium: &M,
    salt: u64,
    superblock: &Superblock,
    record: &Record,
    lines: &Lines,
    options: &Options,
) -> Result<Scan, Error> {
    let from_head = || Ring::new(superblock.geometry, salt, record.head);
    let start = start(record, superblock);
    if let Some(start) = start.filter(|_| options.skip_covered) {
        let mut ring = from_head();
        ring.skip_to(start);
        let scan = recovery::scan(medium, salt, ring, record, lines)?;
        if !matches!(scan.ending, Ending::Corrupt(..)) || mutation::active(Mutation::TrustedIndex) {
            return Ok(scan);
        }
    }
    let whole = recovery::scan(medium, salt, from_head(), record, lines)?;
    if let (Ending::Corrupt(..), Some(start)) = (&whole.ending, start) {
        let needed = recovery::scan(medium, salt, Ring::new(superblock.geometry, salt, start), record, lines)?;
        if !matches!(needed.ending, Ending::Corrupt(..)) {
            tracing::warn!(
                op = start.op,
                "the log is damaged before what the snapshot needs: that part is left behind"
            );
            return Ok(needed);
        }
    }
    Ok(whole)
}

/// Where the newest snapshot lets reading begin, if that is in the log's live part, which has no more than the ring.
fn start(record: &Record, superblock: &Superblock) -> Option<Head> {
    let start = record.starts[record.newest_snapshot()?];
    let beyond_head = start.position.checked_sub(record.head.position)?;
    (1..=superblock.geometry.ring_bytes).contains(&beyond_head).then_some(start)
}

fn is_fresh(record: &Record, ring: &Ring, ending: &Ending) -> bool {
    let unused = record.head.position == 0 && ring.tail() == 0 && *ending == Ending::Clean;
    unused && record.blob.is_none() && record.snapshots == [None, None] && record.lost == (0, 0)
}

/// The newest whole snapshot that the log goes on from. Forgets damaged ones; if none is left, the ops before the head are lost.
fn read_snapshot<M: Medium>(
    media: &Media<M>,
    salt: u64,
    record: &mut Record,
) -> Result<Option<(SnapshotMeta, Vec<u8>)>, Error> {
    while let Some(area) = record.newest_snapshot() {
        let Some(stored) = record.snapshots[area] else { break };
        if stored.meta.op >= record.head.op
            && let Some(data) = snapshot::read(&media.areas[area], salt, &stored)?
        {
            return Ok(Some((stored.meta, data)));
        }
        tracing::warn!(op = stored.meta.op, "a snapshot is damaged or too old");
        record.snapshots[area] = None;
    }
    if record.head.op > 0 {
        record.lost = (1, record.head.op);
    }
    Ok(None)
}

/// What the caller is told. Damage is found again at every opening, until it is repaired.
fn outcome(ending: &Ending, lost: (u64, u64), was_fresh: bool) -> Outcome {
    let before_head: Option<RangeInclusive<u64>> = (lost != (0, 0)).then_some(lost.0..=lost.1);
    let in_log = match ending {
        Ending::Corrupt(ranges, _) => ranges.as_slice(),
        _ => &[],
    };
    let ranges: Vec<RangeInclusive<u64>> = before_head.into_iter().chain(in_log.iter().cloned()).collect();
    match *ending {
        _ if !ranges.is_empty() => Outcome::Corrupt { ranges },
        Ending::Torn(dropped_bytes) => Outcome::Torn { dropped_bytes },
        Ending::Uncertain(dropped_bytes) => Outcome::Uncertain { dropped_bytes },
        Ending::Clean | Ending::Corrupt(..) if was_fresh => Outcome::Fresh,
        Ending::Clean | Ending::Corrupt(..) => Outcome::Clean,
    }
}
