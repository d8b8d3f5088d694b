//! What a member that has missed something gets: the log's tail from where the logs agree, else a snapshot in chunks.
//!
//! # Why it is safe
//!
//! - A transfer names the view in which it was asked for and is used only while that is the entered view; so an answer
//!   that comes late, after this member has reported or acknowledged more, cannot take anything back (review M6).
//! - A snapshot is installed only if it ends above what is executed here. If my log holds its last viewstamp the suffix
//!   stays; else the log goes, in the same atomic record. What it covers is committed, so it is part of the primary's log:
//!   it counts as verified. It is durable before anything above it, because records become durable in order.
//! - It never touches the decided view, promises or votes: the control record is written as it is.

use std::sync::Arc;

use super::Replica;
use super::roles::{Phase, Role, Transfer};
use crate::limits::{CHUNK_MAX_BYTES, SNAPSHOT_MAX_BYTES};
use crate::log::Log;
use crate::view::Fnv;
use crate::{MemberId, Message, Micros, Output, Record, SnapshotImage, StateMachine, Viewstamp};

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
            Some(place) if place < refused => {
                progress.probe = Some(place);
                progress.sent = place;
                self.send_appends(now, out);
            }
            Some(_) => {}
            None => {
                progress.probe = Some(have);
                progress.sent = have;
                self.offer_snapshot(from, out);
            }
        }
    }

    pub(super) fn offer_snapshot(&mut self, to: MemberId, out: &mut Output) {
        let view = self.view_number();
        let Some(image) = self.snapshot.as_ref().filter(|image| !self.is_mark(image)) else { return };
        let (viewstamp, bytes) = (image.viewstamp, image.state.len() as u64);
        let hash = match self.offered_hash {
            Some((known, hash)) if known == viewstamp => hash,
            _ => hash_of(&image.state),
        };
        self.offered_hash = Some((viewstamp, hash));
        self.send(to, Message::SnapshotOffer { view, viewstamp, bytes, hash }, out);
    }

    /// A witness's mark is no state, and nobody can start from it.
    fn is_mark(&self, image: &SnapshotImage) -> bool {
        self.is_witness() && image.state.is_empty()
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
        if !self.is_my_source(from) || viewstamp.op <= self.executed.op || size_bytes > SNAPSHOT_MAX_BYTES {
            return;
        }
        let same = self
            .transfer
            .as_ref()
            .is_some_and(|transfer| (transfer.from, transfer.viewstamp, transfer.hash) == (from, viewstamp, hash));
        if same {
            return; // under way; the tick asks again for what was lost
        }
        let view = self.view_number();
        self.transfer = Some(Transfer { from, view, viewstamp, size_bytes, hash, buffer: Vec::new(), asked_at: now });
        self.ask_for_chunk(now, out);
        self.install_if_complete(now, out);
    }

    fn ask_for_chunk(&mut self, now: Micros, out: &mut Output) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.asked_at = now;
        let offset = transfer.buffer.len() as u64;
        let message = Message::FetchChunk { view: transfer.view, viewstamp: transfer.viewstamp, offset };
        let from = transfer.from;
        self.send(from, message, out);
    }

    pub(super) fn tick_transfer(&mut self, now: Micros, out: &mut Output) {
        let retransmit = self.settings.timing.retransmit;
        if self.transfer.as_ref().is_some_and(|transfer| now >= transfer.asked_at + retransmit) {
            self.ask_for_chunk(now, out);
        }
    }

    pub(super) fn on_fetch_chunk(&mut self, from: MemberId, viewstamp: Viewstamp, offset: u64, out: &mut Output) {
        let view = self.view_number();
        let Some(image) = self.snapshot.clone().filter(|image| !self.is_mark(image)) else { return };
        if image.viewstamp != viewstamp {
            return self.offer_snapshot(from, out); // a newer one has taken its place
        }
        let Some(rest) = usize::try_from(offset).ok().and_then(|offset| image.state.get(offset..)) else { return };
        let bytes = rest[..rest.len().min(CHUNK_MAX_BYTES)].to_vec();
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
        let expected = (transfer.from, transfer.view, transfer.viewstamp, transfer.buffer.len() as u64);
        if expected != (from, view, viewstamp, offset)
            || bytes.is_empty()
            || offset + bytes.len() as u64 > transfer.size_bytes
        {
            return;
        }
        transfer.buffer.extend_from_slice(&bytes);
        if let Role::Primary(primary) = &mut self.role {
            primary.moved_at = now;
        }
        if !self.install_if_complete(now, out) {
            self.ask_for_chunk(now, out);
        }
    }

    fn install_if_complete(&mut self, now: Micros, out: &mut Output) -> bool {
        let complete = |transfer: &mut Transfer| transfer.buffer.len() as u64 == transfer.size_bytes;
        let Some(transfer) = self.transfer.take_if(complete) else { return false };
        if hash_of(&transfer.buffer) != transfer.hash || transfer.viewstamp.op <= self.executed.op {
            return true; // damaged on its way, or overtaken by the log: the next offer starts anew
        }
        self.install(SnapshotImage { viewstamp: transfer.viewstamp, state: transfer.buffer }, out);
        if out.fault.is_none() {
            match &self.role {
                Role::Primary(_) => self.resume_fetch_after_snapshot(now, out),
                _ => self.send_ack(transfer.from, out),
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
            && let Err(problem) = self.machine.restore(&image.state)
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
        self.snapshot_under_way = None;
        self.snapshot = Some(image);
        self.executed = viewstamp;
        self.commit = self.commit.max(viewstamp);
        self.verified = self.verified.max(viewstamp);
        self.grown_bytes = 0;
        self.hashes.clear();
        self.hashes.push_back((viewstamp.op, self.machine.hash()));
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = Fnv::new();
    hash.bytes(bytes);
    hash.finish()
}
