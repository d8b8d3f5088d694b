//! The normal case: the primary orders batches, the members append and acknowledge, a majority commits.
//!
//! # Why it is safe
//!
//! - *An ack says what is true.* A backup acknowledges the viewstamp up to which its log is durable **and** was matched, in
//!   this view, with the primary's log: an Append whose `previous` it holds, and that message's entries. What lies above is
//!   perhaps an old branch, and acknowledging it would let the primary count entries that nobody has (review M1).
//! - *S3.* The primary commits the highest viewstamp, not below its view's barrier, that q in-sync members, itself included
//!   once its own write is durable, have acknowledged in this view. Syncing members' acks move their own progress only.
//! - *Entries that match are never cut.* Only from the first conflict on is a suffix replaced, logically. What is executed
//!   is committed and cannot conflict; if it does, something is broken beyond repair, and the member stops.
//! - *S8.* An op number of a view is assigned once: only here, only by a primary that entered the view in this run.

use std::sync::Arc;

use super::Replica;
use super::catch_up::is_shorter;
use super::roles::{Command, Role};
use crate::limits::{
    BATCH_MAX_BYTES, BATCH_MAX_OPS, COMMAND_MAX_BYTES, MESSAGE_MAX_BYTES, WAITING_MAX_COMMANDS, WINDOW_ENTRIES,
};
use crate::{Entry, MemberId, Message, Micros, Output, Payload, Record, Rejection, StateMachine, Tag, View, Viewstamp};

impl<M: StateMachine> Replica<M> {
    pub(super) fn on_submit(&mut self, tag: Tag, command: Vec<u8>, urgent: bool, out: &mut Output) {
        let full = !self.has_room();
        let rejection = match &mut self.role {
            Role::Primary(primary) if primary.is_serving => {
                let waiting = primary.waiting.len() + primary.urgent.len();
                if command.len() > COMMAND_MAX_BYTES || (!urgent && (waiting >= WAITING_MAX_COMMANDS || full)) {
                    Rejection::Busy
                } else {
                    let queue = if urgent { &mut primary.urgent } else { &mut primary.waiting };
                    return queue.push_back(Command { tag, bytes: command });
                }
            }
            _ => self.refusal(),
        };
        out.answers.push((tag, Err(rejection)));
    }

    /// Whether the log has room for more than what keeps the service going. A quarter is left for ticks, for barriers, and for
    /// what comes while a snapshot is being written.
    fn has_room(&self) -> bool {
        self.log.bytes() <= self.settings.log_capacity_bytes / 4 * 3
    }

    /// Whether more may be ordered before some of it is committed. A member executes what it knows to be committed, and a snapshot of
    /// that frees its room; what comes after must always fit.
    fn has_window(&self) -> bool {
        let uncommitted_bytes = self.log.bytes_between(self.commit.op, self.log.last().op);
        uncommitted_bytes <= self.settings.log_capacity_bytes as u64 / 4
    }

    /// Whether an entry of another member may come into the log. An eighth of the room is left for the end of the medium's ring,
    /// where a frame that does not fit leaves a gap, for marks, and for the own barrier. Room comes with a snapshot: where none can be taken,
    /// as after a restart, when nothing is known to be committed, what comes may be what that waits for (a barrier, say), and a part of
    /// what is left is for that.
    fn takes(&self, entry: &Entry) -> bool {
        let (used_bytes, room_bytes) = (self.log.bytes() + entry.size_bytes(), self.settings.log_capacity_bytes);
        let is_room_coming = self.snapshot_under_way.is_some() || self.is_snapshot_due() || self.is_witness();
        used_bytes <= room_bytes / 8 * 7 || (!is_room_coming && used_bytes <= room_bytes / 32 * 29)
    }

    /// A bound on a batch or message, for a small log: no member's log may grow by much at once.
    pub(super) fn within_room(&self, bytes: usize) -> usize {
        bytes.min(self.settings.log_capacity_bytes / 16)
    }

    /// All that waits becomes batches, as many as the window takes; what does not fit makes the next batch larger.
    pub(super) fn form_batches(&mut self, now: Micros, out: &mut Output) {
        let view = self.view_number();
        let batch_max_bytes = self.within_room(BATCH_MAX_BYTES);
        let mut formed = false;
        loop {
            let in_flight = self.log.count_after(self.commit.op);
            let previous = self.log.last();
            let has_room = self.has_room() && self.has_window();
            let Role::Primary(primary) = &mut self.role else { return };
            if !primary.is_serving || in_flight >= WINDOW_ENTRIES {
                break;
            }
            let mut commands = Vec::new();
            let mut bytes = 0;
            while commands.len() < BATCH_MAX_OPS && bytes < batch_max_bytes {
                let waiting = if has_room { &mut primary.waiting } else { &mut Default::default() };
                let Some(command) = primary.urgent.pop_front().or_else(|| waiting.pop_front()) else { break };
                bytes += command.bytes.len();
                primary.tags.insert(previous.op + 1 + commands.len() as u64, command.tag);
                commands.push(command.bytes);
            }
            if commands.is_empty() {
                break;
            }
            if in_flight == 0 {
                primary.moved_at = now;
            }
            let viewstamp = Viewstamp { view, op: previous.op + commands.len() as u64 };
            self.append(Arc::new(Entry { viewstamp, previous, payload: Payload::Batch(commands) }), out);
            self.verified = viewstamp;
            formed = true;
        }
        if formed {
            self.send_appends(now, out);
        }
    }

    /// Everything that a member has not been sent, within its window.
    pub(super) fn send_appends(&mut self, now: Micros, out: &mut Output) {
        let view = self.view_number();
        let commit = self.commit;
        let message_max_bytes = self.within_room(MESSAGE_MAX_BYTES);
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.barrier().is_none() {
            return;
        }
        for (member, progress) in &mut primary.progress {
            while progress.fetches_until <= now
                && progress.sent < self.log.last()
                && progress.has_room()
                && self.log.contains(progress.sent)
            {
                let entries = self.log.after(progress.sent, message_max_bytes);
                let Some(last) = entries.last().map(|entry| entry.viewstamp) else { break };
                if progress.outstanding.is_empty() {
                    progress.moved_at = now;
                }
                let previous = progress.sent;
                progress.sent = last;
                let bytes = entries.iter().map(|entry| entry.size_bytes()).sum();
                progress.outstanding.push_back((last, bytes));
                let message = Message::Append { view, previous, entries, commit };
                out.send.push(crate::Send { to: *member, after: self.entered_token, message });
                if progress.probe.is_some() {
                    break; // one message until it is known where the logs part
                }
            }
        }
    }

    /// What was not acknowledged in time is sent again, from the last acknowledged place on.
    pub(super) fn retransmit_appends(&mut self, now: Micros, out: &mut Output) {
        let retransmit = self.settings.timing.retransmit;
        let mut laggards = Vec::new();
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.barrier().is_none() {
            return;
        }
        for (member, progress) in &mut primary.progress {
            let is_busy = now < (progress.moved_at + retransmit).max(progress.fetches_until);
            if progress.acked >= self.log.last() || is_busy {
                continue;
            }
            progress.moved_at = now;
            progress.outstanding.clear();
            if progress.acked != Viewstamp::default() {
                progress.sent = progress.acked;
            } else if let Some(probe) = progress.probe {
                progress.sent = probe;
            } else {
                progress.sent = progress.start;
            }
            if !self.log.contains(progress.sent) || is_shorter(self.snapshot.as_ref(), &self.log, progress.sent) {
                laggards.push(*member);
            }
        }
        for member in laggards {
            self.offer_snapshot(now, member, out);
        }
        self.send_appends(now, out);
    }

    pub(super) fn on_append(
        &mut self,
        now: Micros,
        from: MemberId,
        previous: Viewstamp,
        entries: Vec<Arc<Entry>>,
        commit: Viewstamp,
        out: &mut Output,
    ) {
        if self.view().map(|view| view.primary) != Some(from) || !matches!(self.role, Role::Backup(_)) {
            return;
        }
        self.hear_primary(now);
        // Everything up to my log's base is committed, so the primary's log has it as well.
        if !self.log.contains(previous) && previous.op > self.log.base().op {
            let view = self.view_number();
            let have = self.log.floor(previous).unwrap_or_default();
            return self.send(from, Message::Mismatch { view, refused: previous, have }, out);
        }
        // What is committed of the log as it is, first: a full log has a snapshot taken of it, rather than to grow.
        self.verified = self.verified.max(previous.min(self.log.last()));
        self.learn_commit(commit, out);
        let Some(reached) = self.take_entries(previous, &entries, out) else { return };
        self.verified = self.verified.max(reached);
        self.learn_commit(commit, out);
        self.acknowledge(out);
    }

    /// Entries that follow a place of my log: those that I have are passed over, a conflicting suffix is cut at the first
    /// conflict, the rest is appended while there is room, and as if lost then: it is sent again. Returns the last viewstamp that is now
    /// matched; `None` where the sender's entries make no sense, or contradict what is committed (then this member stops).
    pub(super) fn take_entries(
        &mut self,
        previous: Viewstamp,
        entries: &[Arc<Entry>],
        out: &mut Output,
    ) -> Option<Viewstamp> {
        let mut reached = previous.min(self.log.last());
        let base = self.log.base();
        for entry in entries {
            if entry.viewstamp.op <= base.op {
                reached = reached.max(base.min(entry.viewstamp));
                continue;
            }
            if !entry.is_sound() || !self.log.contains(entry.previous) || entry.viewstamp.view > self.view_number() {
                return None;
            }
            let next = self.log.next(entry.previous).map(|next| next.viewstamp);
            if next != Some(entry.viewstamp) {
                if next.is_some() {
                    self.cut_after(entry.previous, entry.viewstamp, out)?;
                }
                if !self.takes(entry) {
                    break;
                }
                self.append(Arc::clone(entry), out);
            }
            reached = entry.viewstamp;
            if let Role::Backup(backup) = &mut self.role
                && entry.payload == Payload::Barrier
                && entry.viewstamp.view == self.paxos.as_ref().map_or(0, |node| node.last().number)
            {
                backup.barrier = Some(entry.viewstamp);
            }
        }
        Some(reached)
    }

    /// Drops my entries above a place, which another branch replaces.
    fn cut_after(&mut self, place: Viewstamp, conflicting: Viewstamp, out: &mut Output) -> Option<()> {
        if place.op < self.executed.op {
            self.fail(
                format!(
                    "entry {conflicting} contradicts what this member has executed up to {}: it stops",
                    self.executed
                ),
                out,
            );
            return None;
        }
        self.log.truncate_after(place);
        self.unflushed.retain(|(_, viewstamp)| viewstamp.op <= place.op);
        self.durable = self.durable.min(place);
        self.persist(Record::TruncateAfter { op: place.op }, out);
        Some(())
    }

    /// What this member may promise: durable, and matched in this view.
    fn acknowledgeable(&self) -> Viewstamp {
        #[cfg(any(test, feature = "mutants"))]
        match self.mutant {
            Some(crate::mutant::Mutant::AcksUnverified) => return self.durable,
            Some(crate::mutant::Mutant::AcksBeforeDurable) => return self.verified,
            _ => {}
        }
        self.verified.min(self.held())
    }

    /// Tells the primary when there is more to promise than last time.
    pub(super) fn acknowledge(&mut self, out: &mut Output) {
        let promise = self.acknowledgeable();
        let Some(primary) = self.view().map(|view| view.primary) else { return };
        let Role::Backup(backup) = &mut self.role else { return };
        if promise > backup.acknowledged {
            self.send_ack(primary, out);
        }
    }

    pub(super) fn send_ack(&mut self, to: MemberId, out: &mut Output) {
        let view = self.view_number();
        let verified = self.acknowledgeable();
        if let Role::Backup(backup) = &mut self.role {
            backup.acknowledged = backup.acknowledged.max(verified);
        }
        let executed = if self.is_witness() { (0, 0) } else { (self.executed.op, self.machine.hash()) };
        self.send(to, Message::Ack { view, verified, executed }, out);
    }

    pub(super) fn on_ack(
        &mut self,
        now: Micros,
        from: MemberId,
        verified: Viewstamp,
        executed: (u64, u64),
        out: &mut Output,
    ) {
        let (last, view, commit) = (self.log.last(), self.view_number(), self.commit);
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(progress) = primary.progress.get_mut(&from) else { return };
        progress.heard_at = now;
        if verified > last {
            return; // cannot be: in this view only I make entries
        }
        if verified > progress.acked {
            progress.acked = verified;
            progress.moved_at = now;
            progress.probe = None;
            progress.fetches_until = 0;
            if progress.sent < verified || !self.log.contains(progress.sent) {
                progress.sent = verified;
            }
            while progress.outstanding.front().is_some_and(|(last, _)| *last <= verified) {
                progress.outstanding.pop_front();
            }
            self.advance_commit(now, out);
            self.send_appends(now, out);
        } else if verified < progress.acked {
            // It has restarted: its log still holds what it promised, but it must match it anew before it executes it.
            let previous = progress.acked;
            self.send(from, Message::Append { view, previous, entries: Vec::new(), commit }, out);
        }
        self.compare_with_backup(now, from, executed);
    }

    /// S3: what q in-sync members hold, acknowledged in this view, and not below its barrier.
    pub(super) fn advance_commit(&mut self, now: Micros, out: &mut Output) {
        let (Some(view), Role::Primary(primary)) = (self.view(), &self.role) else { return };
        let Some(barrier) = primary.barrier() else { return };
        let me = self.identity.member;
        #[cfg(any(test, feature = "mutants"))]
        let counts_all = self.is_mutant(crate::mutant::Mutant::SyncingCounts);
        #[cfg(not(any(test, feature = "mutants")))]
        let counts_all = false;
        #[cfg(any(test, feature = "mutants"))]
        let counts_learners = self.is_mutant(crate::mutant::Mutant::LearnerCounts);
        #[cfg(not(any(test, feature = "mutants")))]
        let counts_learners = false;
        let mut held: Vec<Viewstamp> = view
            .slots
            .iter()
            .filter(|slot| match slot.standing {
                crate::Standing::InSync => true,
                crate::Standing::Syncing => counts_all,
                crate::Standing::Learner => counts_learners,
            })
            .map(|slot| match primary.progress.get(&slot.member) {
                _ if slot.member == me => self.held(),
                Some(progress) => progress.acked,
                None => Viewstamp::default(),
            })
            .collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let quorum = View::majority(view);
        #[cfg(any(test, feature = "mutants"))]
        let quorum = if self.is_mutant(crate::mutant::Mutant::ExecutesAlone) { 1 } else { quorum };
        let Some(committed) = held.get(quorum - 1).copied() else { return };
        #[cfg(any(test, feature = "mutants"))]
        let barrier = if self.is_mutant(crate::mutant::Mutant::NoBarrier) { Viewstamp::default() } else { barrier };
        if committed >= barrier && committed > self.commit {
            self.commit = committed;
            if let Role::Primary(primary) = &mut self.role {
                primary.moved_at = now;
            }
            self.execute(out);
        }
    }

    /// The primary says what is committed in its view; what that means for my log depends on what I have verified.
    pub(super) fn learn_commit(&mut self, commit: Viewstamp, out: &mut Output) {
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(crate::mutant::Mutant::ExecutesUnverified) {
            let known = self.log.last();
            self.commit = if commit.op < known.op { self.log.floor(commit).unwrap_or(known) } else { known };
            return self.execute(out);
        }
        self.learn(commit.min(self.verified), out);
    }

    /// This is committed.
    pub(super) fn learn(&mut self, known: Viewstamp, out: &mut Output) {
        if known > self.commit && self.log.contains(known) {
            self.commit = known;
            self.execute(out);
        }
    }
}
