//! The start of a view: reports, the choice of a log, its fetching, the barrier.
//!
//! # Why it is safe (S4)
//!
//! Claim: among any q reports of in-sync members of view k is a log that holds every entry committed in a view below k.
//!
//! 1. An entry committed in view k-1 was acknowledged, in that view, by q in-sync members of k-1. The q reporters lie in the
//!    in-sync set of k, which is that of k-1 less lost stores plus promoted ones, all within n slots: the two sets share a
//!    slot. Its store is the same one (a lost store's successor is promoted only in a later view than the one that lists
//!    it), and it acknowledged before it entered k (S2), so its report has the entry.
//! 2. An entry committed in an older view: members kept from k-1 have it by the claim for k-1; a promoted one holds
//!    everything through the barrier of k-1, and that barrier stands on the log that k-1 started from.
//!    A view in which n changes follows only one that has started; then what is older lies under that one's barrier, and what is not
//!    was acknowledged by q of its members, who share a slot with any q of this view: see [`View`]'s module.
//! 3. The log with the highest last **viewstamp** has all of them: a log whose last entry is of view v extends the log that
//!    v started from, and within one view logs are prefixes of each other. (The longest log may be an old branch.)
//!
//! Where the best reporter is a witness, the best replica's log comes before it: see `witness.rs`. A log that is taken in place of
//! mine is never below mine, and what I acknowledged in the view in which it was committed is in it, by 3.
//!
//! The chosen log is fetched from its reporter, in order, so that at each moment my log is a prefix of it, or of what I
//! had where the two agree. Then comes the barrier. No client is answered before the barrier is
//! committed, and entries of older views are never counted by themselves (Raft's figure 8). What the reporter knew to be committed is
//! executed before: else a member that is far behind what is committed might have no room for the rest of a log, and no state
//! to take a snapshot of that would make some.

use std::sync::Arc;

use super::Replica;
use super::roles::{Phase, Progress, Report, Role};
use crate::limits::MESSAGE_MAX_BYTES;
use crate::{Entry, Kind, MemberId, Message, Micros, Output, Payload, StateMachine, View, Viewstamp};

impl<M: StateMachine> Replica<M> {
    /// A backup tells the primary of the view that it has just entered (or found itself in) what its log holds.
    pub(super) fn report(&mut self, now: Micros, out: &mut Output) {
        let Some(view) = self.view() else { return };
        let (number, primary, in_sync) = (view.number, view.primary, self.is_in_sync());
        let last = self.log.last();
        if let Role::Backup(backup) = &mut self.role {
            backup.reported_at = now;
        }
        // What a report says must be durable: that the view was entered, and every entry that it names.
        if in_sync {
            self.send_after(self.last_token, primary, Message::Report { view: number, last }, out);
        }
    }

    /// The new primary's own report is the first.
    pub(super) fn begin_collecting(&mut self, now: Micros, out: &mut Output) {
        let own = Report { last: self.log.last() };
        let me = self.identity.member;
        if let Role::Primary(primary) = &mut self.role {
            primary.reports.insert(me, own);
        }
        self.choose_a_log(now, out);
        self.tick_primary(now, out);
    }

    pub(super) fn on_report(&mut self, now: Micros, from: MemberId, last: Viewstamp, out: &mut Output) {
        if !self.view().and_then(|view| view.slot(from)).is_some_and(|slot| slot.standing == crate::Standing::InSync) {
            return;
        }
        let Role::Primary(primary) = &mut self.role else { return };
        if !matches!(primary.phase, Phase::Collecting) {
            return;
        }
        if primary.reports.insert(from, Report { last }).is_none() {
            primary.moved_at = now;
        }
        self.choose_a_log(now, out);
    }

    /// S4: with q reports, the log with the highest last viewstamp; my own where it is as high.
    fn choose_a_log(&mut self, now: Micros, out: &mut Output) {
        let quorum = self.view().map_or(1, View::majority);
        #[cfg(any(test, feature = "mutants"))]
        let quorum = if self.is_mutant(crate::mutant::Mutant::OwnLogOnly) { 1 } else { quorum };
        let Role::Primary(primary) = &self.role else { return };
        if !matches!(primary.phase, Phase::Collecting) || primary.reports.len() < quorum {
            return;
        }
        let best = primary.reports.iter().max_by_key(|(_, report)| report.last);
        #[cfg(any(test, feature = "mutants"))]
        let best = if self.is_mutant(crate::mutant::Mutant::LongestLog) {
            primary.reports.iter().max_by_key(|(_, report)| report.last.op)
        } else {
            best
        };
        let Some((from, target)) = best.map(|(member, report)| (*member, report.last)) else { return };
        let (from, target) = self.replica_before_witness(from, target);
        if from == self.identity.member || target == self.log.last() {
            self.start_view(now, out);
        } else {
            self.fetch(now, from, target, self.log.last(), out);
        }
    }

    /// S13: a witness may have dropped what I lack. The best replica that reported has it, so its log comes first, if it is
    /// ahead of mine; then, with that, the choice is made again.
    fn replica_before_witness(&self, best: MemberId, target: Viewstamp) -> (MemberId, Viewstamp) {
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(crate::mutant::Mutant::WitnessLogAlone) {
            return (best, target);
        }
        let (Some(view), Role::Primary(primary)) = (self.view(), &self.role) else { return (best, target) };
        let is_replica = |member: MemberId| view.slot(member).is_some_and(|slot| slot.kind == Kind::Replica);
        if is_replica(best) {
            return (best, target);
        }
        let replicas = primary.reports.iter().filter(|(member, _)| is_replica(**member));
        match replicas.max_by_key(|(_, report)| report.last) {
            Some((member, report)) if report.last > self.log.last() => (*member, report.last),
            _ => (best, target),
        }
    }

    /// What was to be fetched is in my log: choose again, for there may be a higher one.
    fn choose_again(&mut self, now: Micros, out: &mut Output) {
        let own = Report { last: self.log.last() };
        let me = self.identity.member;
        if let Role::Primary(primary) = &mut self.role {
            primary.reports.insert(me, own);
            primary.phase = Phase::Collecting;
        }
        self.choose_a_log(now, out);
    }

    fn fetch(&mut self, now: Micros, from: MemberId, target: Viewstamp, after: Viewstamp, out: &mut Output) {
        let view = self.view_number();
        if let Role::Primary(primary) = &mut self.role {
            primary.phase = Phase::Fetching { from, target, after, asked_at: now };
        }
        self.send(from, Message::Fetch { view, after }, out);
    }

    /// Lost requests are sent again.
    pub(super) fn tick_start_of_view(&mut self, now: Micros, out: &mut Output) {
        let Role::Primary(primary) = &self.role else { return };
        if let Phase::Fetching { from, target, after, asked_at } = primary.phase
            && now >= asked_at + self.settings.timing.retransmit
            && !self.is_fetching_snapshot()
        {
            self.fetch(now, from, target, after, out);
        }
    }

    /// A new primary asks for my log after a viewstamp.
    pub(super) fn on_fetch(&mut self, now: Micros, from: MemberId, after: Viewstamp, out: &mut Output) {
        let view = self.view_number();
        if self.view().map(|view| view.primary) != Some(from) {
            return;
        }
        if self.log.contains(after) {
            let entries = self.log.after(after, self.within_room(MESSAGE_MAX_BYTES));
            return self.send(from, Message::Entries { view, previous: after, entries, commit: self.commit }, out);
        }
        match self.log.floor(after) {
            Some(have) => self.send(from, Message::Unmatched { view, have }, out),
            None => self.offer_snapshot(now, from, out),
        }
    }

    pub(super) fn on_unmatched(&mut self, now: Micros, from: MemberId, have: Viewstamp, out: &mut Output) {
        let Role::Primary(primary) = &self.role else { return };
        let Phase::Fetching { from: asked, target, after, .. } = primary.phase else { return };
        if asked != from || have >= after {
            return;
        }
        // My own log may not hold it either; then the highest place below, down to what I have executed.
        let next = self.log.floor(have).unwrap_or(self.executed);
        if next < after {
            self.fetch(now, from, target, next, out);
        }
    }

    pub(super) fn on_entries(
        &mut self,
        now: Micros,
        from: MemberId,
        previous: Viewstamp,
        entries: Vec<Arc<Entry>>,
        commit: Viewstamp,
        out: &mut Output,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Phase::Fetching { from: asked, target, after, .. } = primary.phase else { return };
        if asked != from || previous != after || !self.log.contains(previous) {
            return;
        }
        primary.moved_at = now;
        let Some(reached) = self.take_entries(previous, &entries, out) else { return };
        // Both lie in the reporter's log, and up to the lower one mine is the same.
        self.learn(commit.min(reached), out);
        if reached >= target {
            self.choose_again(now, out);
        } else if reached > after {
            self.fetch(now, from, target, reached, out);
        }
    }

    /// A snapshot from the reporter is installed: go on behind it.
    pub(super) fn resume_fetch_after_snapshot(&mut self, now: Micros, out: &mut Output) {
        let Role::Primary(primary) = &self.role else { return };
        if let Phase::Fetching { from, target, .. } = primary.phase {
            if self.log.last() >= target {
                self.choose_again(now, out);
            } else {
                self.fetch(now, from, target, self.log.last(), out);
            }
        }
    }

    /// My log is the chosen one: the barrier goes on top of it, and both to everybody.
    ///
    /// It may be sent before my own write is durable, because this view is never resumed after a restart (S8); I count
    /// myself only after.
    fn start_view(&mut self, now: Micros, out: &mut Output) {
        let previous = self.log.last();
        let barrier = Viewstamp { view: self.view_number(), op: previous.op + 1 };
        let others = self.others();
        let Role::Primary(primary) = &mut self.role else { return };
        primary.phase = Phase::Started { barrier };
        primary.moved_at = now;
        for member in others {
            // Guess that its log agrees with mine up to its last viewstamp; a mismatch corrects the guess.
            let guess = primary.reports.get(&member).map_or(previous, |report| report.last);
            let sent = self.log.floor(guess).unwrap_or(self.log.base());
            let mut progress = Progress::new(sent, now);
            progress.heard_at = self.heard.get(&member).copied().unwrap_or(0);
            primary.progress.insert(member, progress);
        }
        self.verified = barrier;
        self.append(Arc::new(Entry { viewstamp: barrier, previous, payload: Payload::Barrier }), out);
        self.send_appends(now, out);
    }
}
