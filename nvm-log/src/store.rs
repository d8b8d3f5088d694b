//! The store: the log, the control record and the snapshots as one, and the order in which they become durable.
//!
//! A flush makes the frames durable first and the control record after them, with a medium flush between if both are pending. So
//! a control record is never durable while a frame appended before it is not, and whatever it says about the log (the head, a
//! snapshot's op, the caller's blob) is true of the log beside it.

use std::path::Path;

use crate::control::{CONTROL_MAX_BYTES, Record};
use crate::directory::{self, Native};
use crate::layout::{Geometry, LINE};
use crate::medium::{Guarantee, Media, Medium};
use crate::mutation::{self, Mutation};
use crate::recovery::{Recovery, SnapshotMeta};
use crate::repair::Damage;
use crate::ring::Ring;
use crate::scrub::Scrubber;
use crate::snapshot::{self, Unfinished};
use crate::statistics::Statistics;
use crate::superblock::{Identity, Superblock};
use crate::witness::Line;
use crate::{Error, Frame, Options, Witness};

/// How far beyond the tail a witness line lets frames be stored, in bytes, in a large ring: so much beyond the log's end an opening reads.
const REACH_MAX_BYTES: u64 = 4 << 20;
/// The same, as a part of a small ring.
const REACH_PART: u64 = 8;
/// Flushes of a medium in memory for one witness line: storing it costs as much as a small frame.
const MEMORY_LINE: u64 = 16;

/// An open store. One at a time: on a directory it holds the lock until it is dropped. Dropping it flushes nothing.
#[derive(Debug)]
pub struct Store<M: Medium = Native> {
    pub(crate) media: Media<M>,
    pub(crate) superblock: Superblock,
    /// The next control record, and if `control_pending` is false also the last durable one.
    pub(crate) record: Record,
    pub(crate) control_pending: bool,
    pub(crate) line: Line,
    /// Flushes since the line was stored.
    pub(crate) unlined_flushes: u64,
    /// No frame may be stored that ends beyond this position: a durable line says so.
    pub(crate) reach: u64,
    pub(crate) ring: Ring,
    /// A snapshot on its way into the spare area.
    pub(crate) unfinished: Option<Unfinished>,
    pub(crate) damage: Option<Damage>,
    pub(crate) scrubber: Scrubber,
    pub(crate) counters: Statistics,
    pub(crate) poisoned: bool,
    pub(crate) buffer: Vec<u8>,
}

impl Store<Native> {
    /// Makes a new store in a directory, which is created if need be. Refuses if anything of a store is there.
    pub fn format(dir: &Path, options: &Options, identity: Identity) -> Result<Store, Error> {
        let geometry = Geometry::for_ring(options.ring_bytes).ok_or(Error::RingSize { bytes: options.ring_bytes })?;
        let (media, new) = directory::create(dir, options, geometry.medium_bytes())?;
        let store = Store::format_on(media, options, identity, directory::random_salt())?;
        new.publish()?;
        Ok(store)
    }

    /// Opens the store in a directory and recovers what it holds.
    pub fn open(dir: &Path, options: &Options) -> Result<(Store, Recovery), Error> {
        Store::open_on(directory::open(dir, options)?, options)
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
        Ok(Store {
            media,
            superblock,
            record,
            control_pending: false,
            line: Line::default(),
            unlined_flushes: 0,
            reach: u64::MAX,
            ring,
            unfinished: None,
            damage: None,
            scrubber: Scrubber::default(),
            counters: Statistics::default(),
            poisoned: false,
            buffer,
        })
    }

    /// Appends a batch. It becomes durable with the next flush; until then a crash keeps or loses it whole, and keeps
    /// it only with everything appended before.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::TooLarge`], [`Error::NotContiguous`]: nothing was written, the store is as before.
    #[inline]
    pub fn append(&mut self, frame: &Frame) -> Result<(), Error> {
        self.check_whole()?;
        let bytes = self.ring.check(frame)?;
        self.reach_for(bytes)?;
        let result = self.ring.append(&mut self.media.store, frame);
        self.counters.appends += 1;
        self.counters.appended_bytes += bytes;
        self.poison_on_io(result)
    }

    /// Sees to it that so many bytes can be stored at the tail without going beyond what a durable line names.
    #[inline]
    pub(crate) fn reach_for(&mut self, bytes: u64) -> Result<(), Error> {
        let end = self.ring.tail() + bytes;
        if end <= self.reach { Ok(()) } else { self.extend_reach(end) }
    }

    #[cold]
    fn extend_reach(&mut self, end: u64) -> Result<(), Error> {
        let mut stored = self.store_line(end);
        if stored.is_ok() {
            stored = self.media.store.flush().map_err(Error::io("flushing the witness line"));
        }
        self.poison_on_io(stored)?;
        self.reach = self.line.reach;
        Ok(())
    }

    /// Drops every op after this one, from the log's head to its last op. A frame like any other: durable with the next
    /// flush, in its place among the appended ones. Does nothing if there is no such op.
    pub fn truncate_after(&mut self, op: u64) -> Result<(), Error> {
        self.check_whole()?;
        let low = self.ring.head().op.max(self.snapshot().map_or(0, |meta| meta.op));
        let high = self.last_op();
        if !(low..=high).contains(&op) {
            return Err(Error::OutOfRange { doing: "truncate after", op, low, high });
        }
        if op == high {
            return Ok(());
        }
        self.reach_for(LINE)?;
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

    /// Begins a snapshot of the state after the op that `meta` names; one that was begun before is forgotten. Appends, flushes and
    /// everything else may come between its parts.
    pub fn begin_snapshot(&mut self, meta: SnapshotMeta) -> Result<(), Error> {
        self.check()?;
        let generation =
            1 + self.newest().and_then(|area| self.record.snapshots[area]).map_or(0, |stored| stored.generation);
        self.unfinished = Some(Unfinished::new(self.superblock.salt, generation, meta));
        Ok(())
    }

    /// Stores the next bytes of the snapshot that was begun, in the spare area, and flushes them there. They count for
    /// nothing until the snapshot is switched to.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::NoSnapshot`]: the snapshot before is still in place.
    pub fn append_snapshot(&mut self, data: &[u8]) -> Result<(), Error> {
        self.check()?;
        let spare = self.spare();
        let unfinished = self.unfinished.as_mut().ok_or(Error::NoSnapshot)?;
        let written = unfinished.append(&mut self.media.areas[spare], data);
        self.poison_on_io(written)
    }

    /// The snapshot that was begun and not finished, and how many bytes of it are stored.
    pub fn unfinished_snapshot(&self) -> Option<(SnapshotMeta, u64)> {
        self.unfinished.as_ref().map(|unfinished| (unfinished.meta, unfinished.bytes()))
    }

    /// Switches to the snapshot that was begun. Durable on return, with all that was pending. The log stays, unless it ends
    /// before the snapshot's op: then it goes on from there.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::OutOfRange`], [`Error::NoSnapshot`]: the snapshot before is still in place.
    pub fn finish_snapshot(&mut self) -> Result<(), Error> {
        self.switch_snapshot(true, None)
    }

    /// Takes over a snapshot from elsewhere, which was begun here: switches to it, drops the log unless the suffix is kept,
    /// and replaces the control blob, in one atomic record. Durable on return. A suffix that does not reach beyond the snapshot
    /// cannot be kept. Dropping the log also settles damage to it.
    ///
    /// # Errors
    /// As [`Store::finish_snapshot`].
    pub fn install_snapshot(&mut self, keep_suffix: bool, control: &[u8]) -> Result<(), Error> {
        check_blob(control)?;
        self.switch_snapshot(keep_suffix, Some(control))
    }

    /// Begins, writes and finishes a small snapshot.
    ///
    /// # Errors
    /// As [`Store::finish_snapshot`].
    pub fn write_snapshot(&mut self, meta: SnapshotMeta, data: &[u8]) -> Result<(), Error> {
        self.begin_snapshot(meta)?;
        self.append_snapshot(data)?;
        self.finish_snapshot()
    }

    fn switch_snapshot(&mut self, keep_suffix: bool, control: Option<&[u8]>) -> Result<(), Error> {
        if keep_suffix {
            self.check_whole()?
        } else {
            self.check()?
        }
        let unfinished = self.unfinished.take().ok_or(Error::NoSnapshot)?;
        let meta = unfinished.meta;
        let keeps = keep_suffix && meta.op <= self.last_op();
        let low = self.ring.head().op.max(self.snapshot().map_or(0, |meta| meta.op));
        if meta.op == u64::MAX || (keeps && meta.op < low) {
            return Err(Error::OutOfRange { doing: "take a snapshot at", op: meta.op, low, high: u64::MAX - 1 });
        }
        let spare = self.spare();
        let written = unfinished.finish(&mut self.media.areas[spare]);
        self.record.snapshots[spare] = Some(self.poison_on_io(written)?);
        self.record.starts[spare] = self.ring.start_after(meta.op);
        if !keeps {
            self.ring.drop_all(meta.view, meta.op);
            self.record.starts[spare] = self.ring.head();
            self.damage = None;
        }
        // A snapshot holds what no other one held any more.
        self.record.lost = (0, 0);
        match control {
            Some(blob) => self.replace_blob(blob),
            None => self.control_pending = true,
        }
        self.flush()
    }

    /// Lets frames that hold nothing after this op be overwritten, once the head that moved past them is durable: with the
    /// next flush. Only what the newest snapshot contains can be released.
    pub fn release_prefix(&mut self, op: u64) -> Result<(), Error> {
        self.check_whole()?;
        let high = self.snapshot().map_or(0, |meta| meta.op);
        if op > high {
            return Err(Error::OutOfRange { doing: "release", op, low: 0, high });
        }
        self.control_pending |= self.ring.release(op);
        let head = self.ring.head().position;
        self.damage = self.damage.filter(|damage| damage.position.is_none_or(|position| position >= head));
        Ok(())
    }

    /// Makes everything since the last flush durable: frames first, then the control record. After an error nothing is known about
    /// what was pending, and the store refuses every later call.
    #[inline]
    pub fn flush(&mut self) -> Result<(), Error> {
        self.check()?;
        let timer = self.counters.time_flush(self.media.store.gathers());
        let result = self.flush_in_order();
        self.counters.flushed(timer);
        self.poison_on_io(result)
    }

    fn flush_in_order(&mut self) -> Result<(), Error> {
        if !self.ring.is_dirty() && !self.control_pending {
            return Ok(());
        }
        let had_control = self.control_pending;
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
            self.record.bridges.retain(|bridge| bridge.from >= self.record.head.position);
            self.control_pending = false;
        }
        // The line that was stored last is durable now.
        self.reach = self.line.reach_or_all();
        self.unlined_flushes += 1;
        if had_control || self.record.witness_sync || self.media.store.gathers() || self.unlined_flushes >= MEMORY_LINE
        {
            self.store_line(self.ring.tail())?;
        }
        Ok(())
    }

    pub(crate) fn store_control(&mut self) -> Result<(), Error> {
        let silent = mutation::active(Mutation::NoWitness);
        self.record.sequence += 1;
        self.record.head = self.ring.head();
        self.record.durable_position = if silent { 0 } else { self.ring.durable() };
        self.record.durable_op = self.durable_op();
        self.record.write(&mut self.media.store, self.superblock.salt, &mut self.buffer)
    }

    /// The log's last op, counting what is lost.
    fn durable_op(&self) -> u64 {
        self.damage.filter(|damage| damage.position.is_none()).map_or(self.last_op(), |damage| damage.last_op)
    }

    /// Stores a line that lets frames reach some way beyond a position.
    fn store_line(&mut self, position: u64) -> Result<(), Error> {
        let silent = mutation::active(Mutation::NoWitness);
        self.unlined_flushes = 0;
        self.line = Line {
            sequence: self.line.sequence.wrapping_add(1),
            epoch: self.record.epoch,
            durable_position: if silent { 0 } else { self.ring.durable() },
            durable_op: self.durable_op(),
            control_sequence: self.record.sequence,
            reach: position + (self.ring_bytes() / REACH_PART).min(REACH_MAX_BYTES),
        };
        self.line.write(&mut self.media.store, self.superblock.salt)?;
        if self.record.witness_sync {
            self.media.store.flush().map_err(Error::io("flushing the witness line"))?;
            self.reach = self.line.reach;
        }
        Ok(())
    }

    /// Flushes, and makes it durable that the flush succeeded; so the next opening has no doubt about the tail. Both witness lines say it:
    /// a page that is damaged later takes the word of one.
    pub fn close(mut self) -> Result<(), Error> {
        self.flush()?;
        for _ in 0..2 {
            self.store_line(self.ring.tail())?;
            self.media.store.flush().map_err(Error::io("flushing the witness line"))?;
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// A damaged log takes nothing but its repair.
    fn check_whole(&self) -> Result<(), Error> {
        self.check()?;
        match self.damage {
            Some(Damage { first_op, last_op, position: None }) => Err(Error::Unrepaired { first_op, last_op }),
            _ => Ok(()),
        }
    }

    pub(crate) fn poison_on_io<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Io { .. }) = &result {
            tracing::error!(%error, "the store stops");
            self.poisoned = true;
        }
        result
    }

    pub(crate) fn newest(&self) -> Option<usize> {
        self.record.newest_snapshot()
    }

    /// The area to which the next snapshot goes.
    fn spare(&self) -> usize {
        let reuses_newest = mutation::active(Mutation::PartsOverNewest);
        self.newest().map_or(0, |area| if reuses_newest { area } else { 1 - area })
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

    /// What was done since the store was opened, and how full the ring is.
    pub fn statistics(&self) -> Statistics {
        let (ring_used_bytes, ring_bytes) = (self.ring.used_bytes(), self.ring_bytes());
        Statistics { ring_used_bytes, ring_bytes, ..self.counters }
    }

    /// Whether the medium is memory: then an append and a flush together take less time than another thread takes to wake up.
    pub fn is_mapped(&self) -> bool {
        !self.media.store.gathers()
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
