//! Taking snapshots of the own state, part by part, and when.
//!
//! # Why it is right
//!
//! A snapshot is the state after one entry, although the machine goes on while it is taken: the machine keeps what is changed
//! meanwhile (see [`StateMachine::begin_snapshot`]). Among the ways to do that, copy-on-write was chosen over a *fuzzy* snapshot with
//! redo by version, because its bytes are a function of the executed ops alone: they can be compared between members, a transfer can go on
//! with another sender, and no entry is ever applied to an object that is newer than it.
//!
//! Parts go to the medium as they are made, as records like any other, so a crash between them leaves the snapshot before. The
//! record that switches to the new one comes after all entries that it covers (records become durable in order), and only when
//! it is durable does the log lose a prefix: up to the snapshot *before*, so that a laggard can still be served from the log; or up to
//! this one, where the log is more than half full, for room goes before laggards.
//!
//! # Why it stops nobody
//!
//! One step makes one part at most, [`SNAPSHOT_PART_BYTES`] long or one object longer, and the next is made only when that is durable; so
//! no entry waits for more than one part, in the core as on the medium. Parts come with ticks, and where the log is more than half full
//! also with entries, so that a snapshot is done before the log is full, however fast it grows. What is not needed any more,
//! a prefix of the log or the image before, goes a little with each step as well: to free a hundred thousand commands takes longer
//! than to write them.
//!
//! # When one is taken
//!
//! A snapshot of S bytes for each L bytes of log costs S / L written bytes for each byte of log. The log is kept back to the snapshot before
//! the last, so a member that starts replays up to L, and a laggard is sent the tail, up to 2 L, or snapshot and tail, up to
//! S + L. Growing L beyond S makes the one hardly cheaper and the other dearer; so L is S, but not below what the settings say (a
//! snapshot has costs of its own), and not above a share of the room, which must hold two intervals and what comes while one is taken.
//! One is also taken when somebody asks for it, for a backup.

use std::sync::Arc;

use super::Replica;
use crate::limits::{RELEASED_MAX_COMMANDS, SHED_MAX_PARTS, SNAPSHOT_PART_BYTES};
use crate::{Output, Record, SnapshotImage, SnapshotPart, StateMachine, Token, Viewstamp};

/// Two intervals, and what comes while a snapshot is taken, fit into half of the log's room: this is the part of it that one may have.
const INTERVAL_SHARE: usize = 6;

/// A snapshot of the own state that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum UnderWay {
    /// Parts are being made.
    Making {
        /// Those that there are.
        image: SnapshotImage,
        /// The record of the last.
        token: Token,
    },
    /// The record that switches to it is on its way.
    Storing {
        /// The whole.
        image: Arc<SnapshotImage>,
        /// The op up to which the log goes.
        release: u64,
        /// The record.
        token: Token,
    },
}

impl<M: StateMachine> Replica<M> {
    /// What one step may do for snapshots.
    pub(super) fn tend_snapshot(&mut self, out: &mut Output) {
        self.shed();
        let is_turn = std::mem::take(&mut self.is_part_due);
        match &self.snapshot_under_way {
            None if self.is_snapshot_due() => self.begin_snapshot(out),
            Some(UnderWay::Making { token, .. }) if is_turn && *token <= self.durable_token => {
                let part = self.machine.next_snapshot_part(SNAPSHOT_PART_BYTES);
                self.take_part(part, out);
            }
            _ => {}
        }
    }

    /// Whether the log has grown so far that something must go.
    pub(super) fn is_crowded(&self) -> bool {
        self.log.bytes() > self.settings.log_capacity_bytes / 2
    }

    pub(super) fn is_snapshot_due(&self) -> bool {
        let last = self.snapshot.as_ref();
        let size = last.map_or(0, |image| usize::try_from(image.size_bytes()).unwrap_or(usize::MAX));
        let interval =
            size.max(self.settings.snapshot_every_bytes).min(self.settings.log_capacity_bytes / INTERVAL_SHARE);
        !self.is_witness()
            && (self.is_crowded() || self.grown_bytes >= interval || self.is_snapshot_wanted())
            && self.executed > last.map_or(Viewstamp::default(), |image| image.viewstamp)
    }

    /// Has a snapshot taken, if there is none of what is executed now, and tells of which entry one is good enough: it or a later
    /// one. None on a witness, and where nothing was executed.
    pub fn want_snapshot(&mut self) -> Option<Viewstamp> {
        let is_possible = !self.is_witness() && self.executed > Viewstamp::default();
        is_possible.then(|| {
            self.snapshot_wanted = self.executed;
            self.executed
        })
    }

    /// The newest snapshot that is durable.
    pub fn newest_snapshot(&self) -> Option<&Arc<SnapshotImage>> {
        self.snapshot.as_ref()
    }

    fn is_snapshot_wanted(&self) -> bool {
        self.snapshot.as_ref().map_or(Viewstamp::default(), |image| image.viewstamp) < self.snapshot_wanted
    }

    fn begin_snapshot(&mut self, out: &mut Output) {
        self.grown_bytes = 0;
        let image = SnapshotImage::new(self.executed);
        self.snapshot_under_way = Some(UnderWay::Making { image, token: 0 });
        let part = self.machine.begin_snapshot(SNAPSHOT_PART_BYTES);
        self.take_part(part, out);
    }

    fn take_part(&mut self, part: SnapshotPart, out: &mut Output) {
        let Some(UnderWay::Making { mut image, .. }) = self.snapshot_under_way.take() else { return };
        let SnapshotPart { bytes, is_last } = part;
        let (offset, bytes) = image.push(bytes);
        let viewstamp = image.viewstamp;
        self.snapshot_under_way = Some(if is_last {
            let previous = self.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
            let release = if self.is_crowded() { viewstamp.op } else { previous };
            let image = Arc::new(image);
            let token = self.persist(Record::Snapshot { image: Arc::clone(&image), release }, out);
            UnderWay::Storing { image, release, token }
        } else {
            let token = self.persist(Record::SnapshotPart { viewstamp, offset, bytes }, out);
            UnderWay::Making { image, token }
        });
    }

    /// The record that switches is durable.
    pub(super) fn finish_own_snapshot(&mut self, token: Token) {
        let is_durable =
            |under_way: &mut UnderWay| matches!(under_way, UnderWay::Storing { token: needed, .. } if *needed <= token);
        if let Some(UnderWay::Storing { image, release, .. }) = self.snapshot_under_way.take_if(is_durable) {
            self.replace_snapshot(image);
            self.log.release(release);
        }
    }

    pub(super) fn replace_snapshot(&mut self, image: Arc<SnapshotImage>) {
        let before = self.snapshot.replace(image);
        self.shed_when_free(before);
    }

    /// Lets go of an image; it goes bit by bit if nobody else has it.
    pub(super) fn shed_when_free(&mut self, image: Option<Arc<SnapshotImage>>) {
        if let Some(image) = image.and_then(Arc::into_inner) {
            self.shedding = Some(image);
        }
    }

    /// Another state takes the place of the own.
    pub(super) fn forget_own_snapshot(&mut self) {
        self.snapshot_under_way = None;
        self.machine.abandon_snapshot();
    }

    fn shed(&mut self) {
        self.log.drop_released(RELEASED_MAX_COMMANDS);
        if let Some(image) = &mut self.shedding {
            image.shed(SHED_MAX_PARTS);
            self.shedding.take_if(|image| image.part_count() == 0);
        }
    }
}
