//! The store: the log, the control record and the snapshots as one, and the order in which they become durable.
//!
//! A flush makes the frames durable first and the control record after them, with a medium flush between if both are pending. So
//! a control record is never durable while a frame appended before it is not, and whatever it says about the log (the head, a
//! snapshot's op, the caller's blob) is true of the log beside it.

use std::path::Path;
use std::time::Instant;

use crate::control::{CONTROL_MAX_BYTES, Record};
use crate::directory::{self, Native};
use crate::layout::Geometry;
use crate::medium::{Guarantee, Media, Medium};
use crate::mutation::{self, Mutation};
use crate::recovery::{self, Ending, Outcome, Recovery, Scan, SnapshotMeta};
use crate::ring::Ring;
use crate::snapshot;
use crate::superblock::{Identity, Superblock};
use crate::witness::Line;
use crate::{Error, Frame, Options, Part, Witness};

/// An open store. One at a time: on a directory it holds the lock until it is dropped. Dropping it flushes nothing.
#[derive(Debug)]
pub struct Store<M: Medium = Native> {
    media: Media<M>,
    superblock: Superblock,
    /// The next control record, and if `control_pending` is false also the last durable one.
    record: Record,
    control_pending: bool,
    line: Line,
    ring: Ring,
    poisoned: bool,
    buffer: Vec<u8>,
}

impl Store<Native> {
    /// Makes a new store in a directory, which is created if need be. Refuses if anything of a store is there.
    pub fn format(dir: &Path, options: &Options, identity: Identity) -> Result<Store, Error> {
        let geometry = Geometry::for_ring(options.ring_bytes).ok_or(Error::RingSize { bytes: options.ring_bytes })?;
        let (media, new) = directory::create(dir, options.backend, geometry.medium_bytes())?;
        let store = Store::format_on(media, options, identity, directory::random_salt())?;
        new.publish()?;
        Ok(store)
    }

    /// Opens the store in a directory and recovers what it holds.
    pub fn open(dir: &Path, options: &Options) -> Result<(Store, Recovery), Error> {
        Store::open_on(directory::open(dir, options.backend)?, options)
    }

    /// Removes the store in a directory, whole or damaged, of whichever back end; nothing if there is none. Refuses if it is open.
    pub fn remove(dir: &Path) -> Result<(), Error> {
        directory::remove(dir)
    }
}

impl<M: Medium> Store<M> {
    /// Makes a new store on media that hold nothing of worth. The salt is a number that no other store has: what an
    /// earlier store left on the media is then never taken for this one's.
    pub fn format_on(mut media: Media<M>, options: &Options, identity: Identity, salt: u64) -> Result<Store<M>, Error> {
        let geometry = Geometry::for_ring(options.ring_bytes).ok_or(Error::RingSize { bytes: options.ring_bytes })?;
        if media.store.size() != geometry.medium_bytes() {
            media.store.resize(geometry.medium_bytes()).map_err(Error::io("preparing the log"))?;
        }
        let boot_id = media.store.boot_id();
        let superblock = Superblock { identity, salt, geometry, backend: options.backend, boot_id };
        superblock.write(&mut media.store)?;
        let witness_sync = options.witness == Witness::Sync;
        let mut record = Record { cluster: identity.cluster, epoch: 1, boot_id, witness_sync, ..Record::default() };
        let mut buffer = Vec::new();
        for sequence in 0..2 {
            record.sequence = sequence;
            record.write(&mut media.store, salt, &mut buffer)?;
        }
        media.store.flush().map_err(Error::io("flushing the log"))?;
        let mut ring = Ring::new(geometry, salt, record.head);
        ring.begin_epoch(record.epoch);
        let line = Line::default();
        Ok(Store { media, superblock, record, control_pending: false, line, ring, poisoned: false, buffer })
    }

    /// Opens the store on these media and recovers what it holds. Returns only when all that it reports is durable.
    pub fn open_on(mut media: Media<M>, options: &Options) -> Result<(Store<M>, Recovery), Error> {
        let started = Instant::now();
        let superblock = Superblock::read(&mut media.store)?;
        let (geometry, salt) = (superblock.geometry, superblock.salt);
        directory::check_boot(&superblock, media.store.boot_id())?;
        let mut record = Record::read(&media.store, salt)?;
        let line = Line::read(&media.store, salt)?;
        if line.control_sequence > record.sequence {
            return Err(Error::Damaged { part: Part::Control, detail: "the newest record is gone" });
        }
        // A record that was read may not have been flushed. It must be durable before its successor goes over the other slot,
        // and stored again in case an earlier flush failed (see `store_again`).
        let mut buffer = Vec::new();
        if !mutation::active(Mutation::BelieveUnflushed) {
            record.write(&mut media.store, salt, &mut buffer)?;
        }
        let ring = Ring::new(geometry, salt, record.head);
        let scan = recovery::scan(&media.store, salt, ring, &record, &line)?;
        let was_fresh = is_fresh(&record, &scan);
        let snapshot = read_snapshot(&media, salt, &mut record, scan.ring.head().op)?;
        let outcome = outcome(&mut record, &scan, was_fresh);
        let Scan { ring, mut frames, scanned_frames, proven, .. } = scan;
        let scanned_bytes = ring.tail() - ring.head().position;
        if !mutation::active(Mutation::BelieveUnflushed) {
            recovery::store_again(&mut media.store, geometry, proven, ring.tail())?;
            media.store.flush().map_err(Error::io("flushing the log"))?;
        }
        let mut store = Store { media, superblock, record, control_pending: true, line, ring, poisoned: false, buffer };
        if let Some((meta, _)) = &snapshot
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
        self.flush()
    }

    /// Appends a batch. It becomes durable with the next flush; until then a crash keeps or loses it whole, and keeps
    /// it only with everything appended before.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::TooLarge`], [`Error::NotContiguous`]: nothing was written, the store is as before.
    #[inline]
    pub fn append(&mut self, frame: &Frame) -> Result<(), Error> {
        self.check()?;
        let result = self.ring.append(&mut self.media.store, frame);
        self.poison_on_io(result)
    }

    /// Drops every op after this one, from the log's head to its last op. A frame like any other: durable with the next
    /// flush, in its place among the appended ones. Does nothing if there is no such op.
    pub fn truncate_after(&mut self, op: u64) -> Result<(), Error> {
        self.check()?;
        let low = self.ring.head().op.max(self.snapshot().map_or(0, |meta| meta.op));
        let high = self.last_op();
        if !(low..=high).contains(&op) {
            return Err(Error::OutOfRange { doing: "truncate after", op, low, high });
        }
        if op == high {
            return Ok(());
        }
        let result = self.ring.truncate_after(&mut self.media.store, op);
        self.poison_on_io(result)
    }

    /// Replaces the control blob, whole, with the next flush.
    pub fn set_control(&mut self, blob: &[u8]) -> Result<(), Error> {
        self.check()?;
        check_blob(blob)?;
        self.replace_blob(blob);
        Ok(())
    }

    fn replace_blob(&mut self, blob: &[u8]) {
        let kept = self.record.blob.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(blob);
        self.control_pending = true;
    }

    /// Sets the cluster's id, with the next flush.
    pub fn set_cluster(&mut self, cluster: [u8; 16]) -> Result<(), Error> {
        self.check()?;
        self.record.cluster = cluster;
        self.control_pending = true;
        Ok(())
    }

    /// Writes a snapshot into the spare area and switches to it. Durable on return, with all that was pending. The log stays,
    /// unless it ends before the snapshot's op: then it goes on from there.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::OutOfRange`]: the snapshot before is still in place.
    pub fn write_snapshot(&mut self, meta: SnapshotMeta, data: &[u8]) -> Result<(), Error> {
        self.switch_snapshot(meta, data, true, None)
    }

    /// Takes over a snapshot from elsewhere: switches to it, drops the log unless the suffix is kept, and replaces the
    /// control blob, in one atomic record. Durable on return. A suffix that does not reach beyond the snapshot cannot be kept.
    /// Dropping the log also settles damage to it.
    pub fn install_snapshot(
        &mut self,
        meta: SnapshotMeta,
        data: &[u8],
        keep_suffix: bool,
        control: &[u8],
    ) -> Result<(), Error> {
        self.switch_snapshot(meta, data, keep_suffix, Some(control))
    }

    fn switch_snapshot(
        &mut self,
        meta: SnapshotMeta,
        data: &[u8],
        keep_suffix: bool,
        control: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.check()?;
        check_blob(control.unwrap_or_default())?;
        let keeps = keep_suffix && meta.op <= self.last_op();
        let low = self.ring.head().op.max(self.snapshot().map_or(0, |meta| meta.op));
        if meta.op == u64::MAX || (keeps && meta.op < low) {
            return Err(Error::OutOfRange { doing: "take a snapshot at", op: meta.op, low, high: u64::MAX - 1 });
        }
        let current = self.newest();
        let spare = current.map_or(0, |area| 1 - area);
        let generation = 1 + current.and_then(|area| self.record.snapshots[area]).map_or(0, |stored| stored.generation);
        let written = snapshot::write(&mut self.media.areas[spare], self.superblock.salt, generation, meta, data);
        self.record.snapshots[spare] = Some(self.poison_on_io(written)?);
        if !keeps {
            self.ring.drop_all(meta.view, meta.op);
            if !keep_suffix {
                self.record.lost = (0, 0);
            }
        }
        match control {
            Some(blob) => self.replace_blob(blob),
            None => self.control_pending = true,
        }
        self.flush()
    }

    /// Lets frames that hold nothing after this op be overwritten, once the head that moved past them is durable: with the
    /// next flush. Only what the newest snapshot contains can be released.
    pub fn release_prefix(&mut self, op: u64) -> Result<(), Error> {
        self.check()?;
        let high = self.snapshot().map_or(0, |meta| meta.op);
        if op > high {
            return Err(Error::OutOfRange { doing: "release", op, low: 0, high });
        }
        self.control_pending |= self.ring.release(op);
        Ok(())
    }

    /// Declares that the ops which an [`Outcome::Corrupt`] named have been replaced or are not needed. Durable on return.
    pub fn settle_damage(&mut self) -> Result<(), Error> {
        self.check()?;
        self.record.lost = (0, 0);
        self.control_pending = true;
        self.flush()
    }

    /// Makes everything since the last flush durable: frames first, then the control record. After an error nothing is known about
    /// what was pending, and the store refuses every later call.
    #[inline]
    pub fn flush(&mut self) -> Result<(), Error> {
        self.check()?;
        let result = self.flush_in_order();
        self.poison_on_io(result)
    }

    fn flush_in_order(&mut self) -> Result<(), Error> {
        if !self.ring.is_dirty() && !self.control_pending {
            return Ok(());
        }
        if self.control_pending && mutation::active(Mutation::ControlBeforeFrames) {
            self.store_control()?;
        }
        self.ring.flush(&mut self.media.store)?;
        if self.control_pending {
            if !mutation::active(Mutation::ControlBeforeFrames) {
                self.store_control()?;
            }
            self.media.store.flush().map_err(Error::io("flushing the control record"))?;
            self.ring.head_is_durable();
            self.control_pending = false;
        }
        self.store_line()
    }

    fn store_control(&mut self) -> Result<(), Error> {
        let silent = mutation::active(Mutation::NoWitness);
        self.record.sequence += 1;
        self.record.head = self.ring.head();
        self.record.durable_position = if silent { 0 } else { self.ring.durable() };
        self.record.durable_op = self.last_op();
        self.record.write(&mut self.media.store, self.superblock.salt, &mut self.buffer)
    }

    fn store_line(&mut self) -> Result<(), Error> {
        let silent = mutation::active(Mutation::NoWitness);
        self.line = Line {
            sequence: self.line.sequence.wrapping_add(1),
            epoch: self.record.epoch,
            durable_position: if silent { 0 } else { self.ring.durable() },
            durable_op: self.last_op(),
            control_sequence: self.record.sequence,
        };
        self.line.write(&mut self.media.store, self.superblock.salt)?;
        if self.record.witness_sync {
            self.media.store.flush().map_err(Error::io("flushing the witness line"))?;
        }
        Ok(())
    }

    /// Flushes, and makes it durable that the flush succeeded; so the next opening has no doubt about the tail.
    pub fn close(mut self) -> Result<(), Error> {
        self.flush()?;
        self.media.store.flush().map_err(Error::io("flushing the witness line"))
    }

    fn check(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    fn poison_on_io<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Io { .. }) = &result {
            tracing::error!(%error, "the store stops");
            self.poisoned = true;
        }
        result
    }

    fn newest(&self) -> Option<usize> {
        newest(&self.record)
    }

    /// Whose store it is.
    pub fn identity(&self) -> Identity {
        Identity { cluster: self.record.cluster, ..self.superblock.identity }
    }

    /// The log's last op, durable or not; zero before the first.
    pub fn last_op(&self) -> u64 {
        self.ring.last().1
    }

    /// View and number of the log's last op.
    pub fn last_viewstamp(&self) -> (u64, u64) {
        self.ring.last()
    }

    /// The log holds the ops after this one.
    pub fn head_op(&self) -> u64 {
        self.ring.head().op
    }

    /// Where the newest snapshot stands in the history.
    pub fn snapshot(&self) -> Option<SnapshotMeta> {
        self.newest().and_then(|area| self.record.snapshots[area]).map(|stored| stored.meta)
    }

    /// The newest snapshot's bytes, or none if there is none or it is damaged.
    pub fn read_snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, Error> {
        let Some(area) = self.newest() else { return Ok(None) };
        let Some(stored) = self.record.snapshots[area] else { return Ok(None) };
        let data = snapshot::read(&self.media.areas[area], self.superblock.salt, &stored)?;
        Ok(data.map(|data| (stored.meta, data)))
    }

    /// The control blob, durable or not.
    pub fn control(&self) -> Option<&[u8]> {
        self.record.blob.as_deref()
    }

    /// Bytes of the ring that batches may still take: each takes its body and 64 bytes, rounded up to 64, and now and then
    /// padding at the ring's end.
    pub fn free_bytes(&self) -> u64 {
        self.ring.free_bytes()
    }

    /// Size of the ring, in bytes.
    pub fn ring_bytes(&self) -> u64 {
        self.superblock.geometry.ring_bytes
    }

    /// Largest body of a frame, in bytes.
    pub fn body_max_bytes(&self) -> u64 {
        self.superblock.geometry.frame_max() - crate::layout::LINE
    }

    /// Whether the store survives no more than the end of the process.
    pub fn is_volatile(&self) -> bool {
        self.media.store.guarantee() == Guarantee::Volatile
    }

    /// The back end and what it is worth, as in "file, durable".
    pub fn backend(&self) -> String {
        let worth = if self.is_volatile() { "volatile" } else { "durable" };
        format!("{}, {worth}", self.media.store.name())
    }
}

fn check_blob(blob: &[u8]) -> Result<(), Error> {
    let (bytes, limit_bytes) = (blob.len() as u64, CONTROL_MAX_BYTES as u64);
    if bytes > limit_bytes { Err(Error::TooLarge { what: "control blob", bytes, limit_bytes }) } else { Ok(()) }
}

/// The area that holds the newest snapshot.
fn newest(record: &Record) -> Option<usize> {
    let generation = |area: usize| record.snapshots[area].map(|stored| stored.generation);
    (0..2).filter(|&area| generation(area).is_some()).max_by_key(|&area| generation(area))
}

fn is_fresh(record: &Record, scan: &Scan) -> bool {
    let unused = record.head.position == 0 && scan.ring.tail() == 0 && scan.ending == Ending::Clean;
    unused && record.blob.is_none() && record.snapshots == [None, None] && record.lost == (0, 0)
}

/// The newest whole snapshot that the log goes on from. Forgets damaged ones; if none is left, the ops before the head are lost.
fn read_snapshot<M: Medium>(
    media: &Media<M>,
    salt: u64,
    record: &mut Record,
    head_op: u64,
) -> Result<Option<(SnapshotMeta, Vec<u8>)>, Error> {
    while let Some(area) = newest(record) {
        let Some(stored) = record.snapshots[area] else { break };
        if stored.meta.op >= head_op
            && let Some(data) = snapshot::read(&media.areas[area], salt, &stored)?
        {
            return Ok(Some((stored.meta, data)));
        }
        tracing::warn!(op = stored.meta.op, "a snapshot is damaged or too old");
        record.snapshots[area] = None;
    }
    if head_op > 0 {
        record.lost = merge(record.lost, (1, head_op));
    }
    Ok(None)
}

fn merge(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    if a == (0, 0) { b } else { (a.0.min(b.0), a.1.max(b.1)) }
}

/// What the caller is told; damage goes into the record, so that it is told again until it is settled.
fn outcome(record: &mut Record, scan: &Scan, was_fresh: bool) -> Outcome {
    if let Ending::Corrupt(first, last) = scan.ending {
        record.lost = merge(record.lost, (first, last));
    }
    if record.lost != (0, 0) {
        return Outcome::Corrupt { ranges: vec![record.lost.0..=record.lost.1] };
    }
    match scan.ending {
        Ending::Torn(dropped_bytes) => Outcome::Torn { dropped_bytes },
        Ending::Uncertain(dropped_bytes) => Outcome::Uncertain { dropped_bytes },
        Ending::Clean | Ending::Corrupt(..) if was_fresh => Outcome::Fresh,
        Ending::Clean | Ending::Corrupt(..) => Outcome::Clean,
    }
}
