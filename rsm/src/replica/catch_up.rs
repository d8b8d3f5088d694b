//! What a member that has missed something gets: the log's tail from where the logs agree, or a snapshot in chunks and the tail
//! after it; whichever is less to send, where the log still has the choice. The receiver asks for chunk after chunk, so it gets them as
//! fast as it takes them in, and between two of them everything else has its turn.
//!
//! # Why it is safe
//!
//! - A transfer names the view in which it was asked for and is used only while that is the entered view; so an answer
//!   that comes late, after this member has reported or acknowledged more, cannot take anything back (review M6).
//! - A snapshot is installed only if it ends above what is executed here. If my log holds its last viewstamp the suffix
//!   stays; else the log goes, in the same atomic record. What it covers is committed, so it is part of the primary's log:
//!   it counts as verified. It is durable before anything above it, because records become durable in order.
//! - What has come of a snapshot stays when the view changes: bytes are no promise. They are used only if somebody offers the same
//!   snapshot in the entered view, and only where the digest of the whole is right.
//! - It never touches the decided view, promises or votes: the control record is written as it is.

use std::sync::Arc;

use super::Replica;
use super::roles::{Phase, Role, Transfer};
use crate::limits::{CHUNK_MAX_BYTES, SNAPSHOT_MAX_BYTES};
use crate::log::Log;
use crate::{MemberId, Message, Micros, Output, Record, SnapshotImage, StateMachine, Timing, Viewstamp};

/// Who was offered a snapshot and has been silent for so many retransmit times gets entries instead.
const FETCH_PATIENCE: u64 = 3;
/// A snapshot that nobody has asked for during so many stall times is not kept beside a newer one.
const LENT_PATIENCE: u64 = 2;

impl<M: StateMachine> Replica<M> {
    /// A member's log parts from mine below what I sent: try again from the highest place where they may agree.
    pub(super) fn on_mismatch(
        &mut self,
        now: Micros,
        from: MemberId,
        refused: Viewstamp,
        have: Viewstamp,
        out: &mut Output,
    ) {
        let place = self.log.floor(have);
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(progress) = primary.progress.get_mut(&from) else { return };
        progress.heard_at = now;
        if progress.acked >= refused || progress.probe.is_some_and(|probe| refused > probe) {
            return; // about something sent before the last try
        }
        let place = place.map(|place| place.max(progress.acked));
        progress.outstanding.clear();
        progress.moved_at = now;
        match place {
            Some(place) if place < refused && !is_shorter(self.snapshot.as_ref(), &self.log, place) => {
                progress.probe = Some(place);
                progress.sent = place;
                self.send_appends(now, out);
            }
            Some(place) if place >= refused => {}
            _ => {
                progress.probe = Some(have);
                progress.sent = have;
                self.offer_snapshot(now, from, out);
            }
        }
    }

    pub(super) fn offer_snapshot(&mut self, now: Micros, to: MemberId, out: &mut Output) {
        let view = self.view_number();
        let Some(image) = self.snapshot.as_ref().filter(|image| !self.is_mark(image)) else { return };
        let (viewstamp, bytes, hash) = (image.viewstamp, image.size_bytes(), image.digest());
        self.expect_fetches(now, to);
        self.send(to, Message::SnapshotOffer { view, viewstamp, bytes, hash }, out);
    }

    /// The member is busy with a snapshot: entries would only be in its way.
    fn expect_fetches(&mut self, now: Micros, from: MemberId) {
        let until = now + FETCH_PATIENCE * self.settings.timing.retransmit;
        if let Role::Primary(primary) = &mut self.role
            && let Some(progress) = primary.progress.get_mut(&from)
        {
            progress.fetches_until = until;
        }
    }

    /// A witness's mark is no state, and nobody can start from it.
    fn is_mark(&self, image: &SnapshotImage) -> bool {
        self.is_witness() && image.size_bytes() == 0
    }

    /// Whether snapshots and entries are taken from this member now: the primary, or the reporter that I chose.
    fn is_my_source(&self, member: MemberId) -> bool {
        match &self.role {
            Role::Backup(_) => self.view().is_some_and(|view| view.primary == member),
            Role::Primary(primary) => matches!(primary.phase, Phase::Fetching { from, .. } if from == member),
            _ => false,
        }
    }

    pub(super) fn on_snapshot_offer(
        &mut self,
        now: Micros,
        from: MemberId,
        viewstamp: Viewstamp,
        size_bytes: u64,
        hash: u64,
        out: &mut Output,
    ) {
        if !self.is_my_source(from) || size_bytes > SNAPSHOT_MAX_BYTES {
            return;
        }
        if viewstamp.op <= self.executed.op {
            if matches!(self.role, Role::Backup(_)) {
                self.send_ack(from, out); // so that it learns where I am, and sends entries
            }
            return;
        }
        let view = self.view_number();
        let is_same = |transfer: &Transfer| {
            (transfer.image.viewstamp, transfer.size_bytes, transfer.hash) == (viewstamp, size_bytes, hash)
        };
        match &mut self.transfer {
            Some(transfer) if is_same(transfer) => {
                if (transfer.from, transfer.view) == (from, view) {
                    return; // under way; the tick asks again for what was lost
                }
                // The same bytes, from another or in another view: what has come counts.
                (transfer.from, transfer.view) = (from, view);
            }
            _ => {
                let image = SnapshotImage::new(viewstamp);
                self.transfer = Some(Transfer { from, view, size_bytes, hash, image, asked_at: now });
            }
        }
        if !self.install_if_complete(now, out) {
            self.ask_for_chunk(now, out);
        }
    }

    /// Whether a snapshot is on its way to me in this view.
    pub(super) fn is_fetching_snapshot(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.view == self.view_number())
    }

    fn ask_for_chunk(&mut self, now: Micros, out: &mut Output) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.asked_at = now;
        let (view, viewstamp, offset) = (transfer.view, transfer.image.viewstamp, transfer.image.size_bytes());
        let message = Message::FetchChunk { view, viewstamp, offset };
        let from = transfer.from;
        self.send(from, message, out);
    }

    pub(super) fn tick_transfer(&mut self, now: Micros, out: &mut Output) {
        let Timing { retransmit, stall, .. } = self.settings.timing;
        let (view, executed) = (self.view_number(), self.executed);
        self.transfer.take_if(|transfer| transfer.image.viewstamp.op <= executed.op);
        if self.transfer.as_ref().is_some_and(|transfer| transfer.view == view && now >= transfer.asked_at + retransmit)
        {
            self.ask_for_chunk(now, out);
        }
        let is_kept_for_nobody = |(_, asked_at): &mut (_, Micros)| now > *asked_at + LENT_PATIENCE * stall;
        if let Some((image, _)) = self.lent.take_if(is_kept_for_nobody) {
            self.shed_when_free(Some(image));
        }
    }

    /// One who has begun with a snapshot goes on with it while a newer one takes its place; else it would begin again for
    /// ever where snapshots are taken faster than it fetches one.
    pub(super) fn on_fetch_chunk(
        &mut self,
        now: Micros,
        from: MemberId,
        viewstamp: Viewstamp,
        offset: u64,
        out: &mut Output,
    ) {
        let view = self.view_number();
        let lent = self.lent.as_ref().map(|(image, _)| image);
        let wanted =
            self.snapshot.iter().chain(lent).find(|image| image.viewstamp == viewstamp && !self.is_mark(image));
        let Some(image) = wanted.cloned() else {
            return self.offer_snapshot(now, from, out);
        };
        let mut bytes = Vec::new();
        for piece in image.from(offset) {
            bytes.extend_from_slice(&piece[..piece.len().min(CHUNK_MAX_BYTES - bytes.len())]);
            if bytes.len() == CHUNK_MAX_BYTES {
                break;
            }
        }
        let before = self.lent.replace((Arc::clone(&image), now)).map(|(image, _)| image);
        self.shed_when_free(before);
        self.expect_fetches(now, from);
        self.send(from, Message::Chunk { view, viewstamp, offset, bytes }, out);
    }

    pub(super) fn on_chunk(
        &mut self,
        now: Micros,
        from: MemberId,
        viewstamp: Viewstamp,
        offset: u64,
        bytes: Vec<u8>,
        out: &mut Output,
    ) {
        let view = self.view_number();
        let Some(transfer) = &mut self.transfer else { return };
        let expected = (transfer.from, transfer.view, transfer.image.viewstamp, transfer.image.size_bytes());
        if expected != (from, view, viewstamp, offset)
            || bytes.is_empty()
            || offset + bytes.len() as u64 > transfer.size_bytes
        {
            return;
        }
        transfer.image.push(bytes);
        if let Role::Primary(primary) = &mut self.role {
            primary.moved_at = now;
        }
        if !self.install_if_complete(now, out) {
            self.ask_for_chunk(now, out);
        }
    }

    fn install_if_complete(&mut self, now: Micros, out: &mut Output) -> bool {
        let complete = |transfer: &mut Transfer| transfer.image.size_bytes() == transfer.size_bytes;
        let Some(Transfer { from, hash, image, .. }) = self.transfer.take_if(complete) else { return false };
        if image.digest() != hash || image.viewstamp.op <= self.executed.op {
            return true; // damaged on its way, or overtaken by the log: the next offer starts anew
        }
        self.install(image, out);
        if out.fault.is_none() {
            match &self.role {
                Role::Primary(_) => self.resume_fetch_after_snapshot(now, out),
                _ => self.send_ack(from, out),
            }
        }
        true
    }

    fn install(&mut self, image: SnapshotImage, out: &mut Output) {
        #[cfg(any(test, feature = "mutants"))]
        let forgets = self.is_mutant(crate::mutant::Mutant::TransferForgets);
        #[cfg(not(any(test, feature = "mutants")))]
        let forgets = false;
        // A witness keeps the bytes for others, and does not ask what they mean (S13).
        if !self.is_witness()
            && !forgets
            && let Err(problem) = self.machine.restore(&image.joined())
        {
            return self.fail(format!("a snapshot from another member is unusable: {problem}"), out);
        }
        let image = Arc::new(image);
        let viewstamp = image.viewstamp;
        let keep_suffix = self.log.contains(viewstamp);
        let record = Record::Install { image: Arc::clone(&image), keep_suffix, control: self.control() };
        let token = self.persist(record, out);
        if keep_suffix {
            self.log.drop_prefix(viewstamp.op);
        } else {
            self.log = Log::starting_after(viewstamp);
            self.unflushed.clear();
            self.durable = self.durable.min(Viewstamp::default());
            self.unflushed.push_back((token, viewstamp));
            self.verified = viewstamp;
        }
        self.forget_own_snapshot();
        self.replace_snapshot(image);
        self.executed = viewstamp;
        self.commit = self.commit.max(viewstamp);
        self.verified = self.verified.max(viewstamp);
        self.grown_bytes = 0;
        self.hashes.clear();
        self.hashes.push_back((viewstamp.op, self.machine.hash()));
    }
}

/// Whether a primary's snapshot is less to send than the log from a place up to it.
pub(super) fn is_shorter(snapshot: Option<&Arc<SnapshotImage>>, log: &Log, place: Viewstamp) -> bool {
    snapshot.is_some_and(|image| log.bytes_between(place.op, image.viewstamp.op) > image.size_bytes())
}
