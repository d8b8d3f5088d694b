//! Who is gone, who says so, and who tries to be next.
//!
//! # Why it is safe, and why it is live
//!
//! Nothing here is needed for safety: a view change at a bad moment costs time only. What it must not do is disturb a
//! working primary. So a backup's suspicion alone changes nothing: it asks for **prevotes** first, and only where a
//! majority of the listed members, having listened long enough, also heard no healthy primary does it propose a view
//! (Ongaro's dissertation, 2014, section 9.6, for Raft). A member that flaps, or hears nobody, thus cannot depose anyone.
//!
//! A primary says in each heartbeat how it is: one that has lost its quorum, or gets nowhere, is suspected although it is
//! heard (partial partitions; Ng, Ghodsi, Haridi et al., "Omni-Paxos", EuroSys 2023). It also steps down by itself, says so,
//! and never resumes that view. A restarted or stepped-down primary proposes without prevotes, since it knows.
//!
//! Candidates wait their rank's delay and a random part, so that one usually goes alone; refused ballots back off.

use super::roles::{Answer, Candidacy, Role};
use super::{Replica, roles};
use crate::message::Health;
use crate::{
    Incarnation, Kind, MemberId, Message, Micros, Output, Rejection, Slot, Standing, StateMachine, View, Viewstamp,
};

/// A proposal that is not decided within this many retransmit times is let go; its instance may still decide it.
const PROPOSAL_PATIENCE: u64 = 15;
/// After fruitless attempts the next waits up to 2^n rank delays longer, n up to this.
const BACKOFF_MAX_DOUBLINGS: u32 = 5;

impl<M: StateMachine> Replica<M> {
    pub(super) fn tick_backup(&mut self, now: Micros, out: &mut Output) {
        let timing = self.settings.timing;
        let Role::Backup(backup) = &mut self.role else { return };
        let unwell = backup.health.is_some_and(|health| {
            health.quorum_contact_ms * 1000 > timing.suspect || health.stalled_ms * 1000 > timing.stall
        });
        backup.silent = unwell || now > backup.heard_at + timing.suspect;
        let waits = backup.health.is_none_or(|health| !health.serving);
        if waits && now >= backup.reported_at + timing.retransmit {
            self.report(now, out);
        }
        self.ask_for_last_view(now, out);
    }

    /// A member that never stands (a learner, a witness, one that has not caught up) hears of a view that it missed from nobody
    /// but those whom it asks; perhaps it has been removed.
    fn ask_for_last_view(&mut self, now: Micros, out: &mut Output) {
        let timing = self.settings.timing;
        if self.suspects(now) && !self.may_stand() && now >= self.asked_at + 2 * timing.suspect {
            self.asked_at = now;
            let above = self.view_number();
            for member in self.others() {
                self.send(member, Message::Paxos(paxos::Message::Fetch { above }), out);
            }
        }
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Micros,
        from: MemberId,
        commit: Viewstamp,
        health: Health,
        out: &mut Output,
    ) {
        if self.view().map(|view| view.primary) != Some(from) {
            return;
        }
        let Role::Backup(backup) = &mut self.role else { return };
        backup.health = Some(health);
        self.hear_primary(now);
        self.learn_commit(commit, out);
        self.send_ack(from, out);
    }

    /// A sign of life from the primary of the entered view.
    pub(super) fn hear_primary(&mut self, now: Micros) {
        if let Role::Backup(backup) = &mut self.role {
            backup.heard_at = now;
            backup.unreachable = false;
        }
    }

    /// A live host says that the member's process is gone. The end of some other process that used the member's number says
    /// nothing.
    pub(super) fn on_unreachable(
        &mut self,
        now: Micros,
        member: MemberId,
        incarnation: Option<Incarnation>,
        out: &mut Output,
    ) {
        let is_primary = self.view().is_some_and(|view| {
            view.primary == member && incarnation.is_none_or(|incarnation| view.lists(member, incarnation))
        });
        if let Role::Backup(backup) = &mut self.role
            && is_primary
        {
            backup.unreachable = true;
            self.tick_candidacy(now, out);
        }
    }

    pub(super) fn on_step_down(&mut self, now: Micros, from: MemberId) {
        let is_primary = self.view().is_some_and(|view| view.primary == from);
        if let Role::Backup(backup) = &mut self.role
            && is_primary
        {
            backup.stepped_down = true;
            backup.heard_at = backup.heard_at.min(now);
        }
    }

    /// Whether this member would have another primary: its own evidence, gathered long enough.
    fn suspects(&self, now: Micros) -> bool {
        match &self.role {
            Role::Backup(backup) => {
                let listened = now >= self.started_at + self.settings.timing.suspect;
                backup.stepped_down || backup.unreachable || (backup.silent && listened)
            }
            Role::Retired { .. } => true,
            Role::Founding(_) | Role::Outsider { .. } | Role::Primary(_) | Role::Leaving(_) => false,
        }
    }

    /// Whether this member may try: in sync, or fit to be promoted in the very view that it proposes.
    fn may_stand(&self) -> bool {
        self.own_slot().is_some_and(|slot| slot.kind == Kind::Replica) && (self.is_in_sync() || self.is_ready())
    }

    fn own_slot(&self) -> Option<&Slot> {
        self.view().and_then(|view| view.slot(self.identity.member))
    }

    /// S7's statement: syncing in the last view, and holding everything through its barrier, durably.
    fn is_ready(&self) -> bool {
        let Role::Backup(backup) = &self.role else { return false };
        let syncing = self.own_slot().is_some_and(|slot| slot.standing == Standing::Syncing);
        syncing && backup.barrier.is_some_and(|barrier| self.verified.min(self.held()) >= barrier)
    }

    pub(super) fn tick_candidacy(&mut self, now: Micros, out: &mut Output) {
        let timing = self.settings.timing;
        if let Some(candidacy) = &self.candidacy
            && candidacy.proposed_at.is_some()
        {
            return self.tick_proposal(now, out);
        }
        if !self.suspects(now) || !self.may_stand() {
            if self.candidacy.as_ref().is_some_and(|candidacy| candidacy.proposed_at.is_none()) {
                self.candidacy = None;
            }
            return;
        }
        if self.candidacy.is_none() {
            self.candidacy = Some(self.new_candidacy(now, self.barren_views));
        }
        let Some(candidacy) = &mut self.candidacy else { return };
        if now < candidacy.not_before {
            return;
        }
        if let Role::Retired { successor } = self.role {
            self.propose(now, successor.unwrap_or(self.identity.member), &[], &[], out);
            return;
        }
        if candidacy.asked_at.is_none_or(|at| now >= at + timing.rank_delay) {
            candidacy.asked_at = Some(now);
            candidacy.answers.clear();
            self.ask_for_pre_votes(now, out);
        }
    }

    fn new_candidacy(&mut self, now: Micros, failures: u32) -> Candidacy {
        let timing = self.settings.timing;
        let me = self.identity.member;
        let rank = self.view().map_or(0, |view| {
            let standing = view.voters().filter(|slot| slot.member != view.primary && slot.kind == Kind::Replica);
            standing.take_while(|slot| slot.member != me).count() as u64
        });
        let rank = if matches!(self.role, Role::Retired { .. }) { 0 } else { rank };
        let backoff = if failures == 0 { 0 } else { timing.rank_delay << failures.min(BACKOFF_MAX_DOUBLINGS) };
        let random = self.random.below(timing.rank_delay / 2 + backoff);
        Candidacy {
            view: self.view_number(),
            not_before: now + rank * timing.rank_delay + random,
            asked_at: None,
            answers: Default::default(),
            proposed_at: None,
            retry_at: None,
            sent_at: now,
            failures,
            hands_over: false,
        }
    }

    fn ask_for_pre_votes(&mut self, now: Micros, out: &mut Output) {
        let view = self.view_number();
        for member in self.others() {
            self.send(member, Message::PreVote { view }, out);
        }
        let own = self.own_answer(now);
        self.on_pre_vote_answer(now, self.identity.member, own, out);
    }

    fn own_answer(&self, now: Micros) -> Answer {
        Answer { yes: self.suspects(now), last: self.log.last(), log_start: self.log.base(), ready: self.is_ready() }
    }

    pub(super) fn on_pre_vote(&mut self, now: Micros, from: MemberId, out: &mut Output) {
        let Answer { yes, last, log_start, ready } = self.own_answer(now);
        let view = self.view_number();
        self.send(from, Message::PreVoteAnswer { view, yes, last, log_start, ready }, out);
    }

    pub(super) fn on_pre_vote_answer(&mut self, now: Micros, from: MemberId, answer: Answer, out: &mut Output) {
        let Some(view) = self.view().cloned() else { return };
        let Some(candidacy) = &mut self.candidacy else { return };
        if candidacy.proposed_at.is_some() || candidacy.asked_at.is_none() || candidacy.view != view.number {
            return;
        }
        candidacy.answers.insert(from, answer);
        let answers = candidacy.answers.clone();
        let voted = |member: &MemberId| view.slot(*member).is_some_and(|slot| slot.standing != Standing::Learner);
        if answers.iter().filter(|(member, answer)| answer.yes && voted(member)).count() < view.majority() {
            return;
        }
        let promoted: Vec<MemberId> = answers
            .iter()
            .filter(|(member, answer)| {
                answer.ready && view.slot(**member).is_some_and(|slot| slot.standing == Standing::Syncing)
            })
            .map(|(member, _)| *member)
            .collect();
        let primary = self.best_primary(&view, &answers, &promoted);
        self.propose(now, primary, &promoted, &[], out);
    }

    /// The candidate itself, unless it would need a snapshot from a member that could be primary as well.
    fn best_primary(
        &self,
        view: &View,
        answers: &std::collections::BTreeMap<MemberId, roles::Answer>,
        promoted: &[MemberId],
    ) -> MemberId {
        let me = self.identity.member;
        let able = |member: MemberId| {
            view.slot(member).is_some_and(|slot| {
                slot.kind == Kind::Replica && (slot.standing == Standing::InSync || promoted.contains(&member))
            })
        };
        let best = answers.iter().filter(|(member, _)| able(**member)).max_by_key(|(_, answer)| answer.last);
        match best {
            Some((member, answer)) if !able(me) || answer.log_start > self.log.last() => *member,
            _ => me,
        }
    }

    /// A proposal under way: sent again, raised above the ballot that refused it, or let go.
    fn tick_proposal(&mut self, now: Micros, out: &mut Output) {
        let timing = self.settings.timing;
        let backoff = timing.rank_delay + self.random.below(timing.rank_delay * 3);
        let (Some(node), Some(candidacy)) = (&mut self.paxos, &mut self.candidacy) else { return };
        let overdue = candidacy.proposed_at.is_some_and(|at| now >= at + PROPOSAL_PATIENCE * timing.retransmit);
        if overdue || candidacy.view != node.last().number {
            self.let_proposal_go(now);
        } else if node.refused_by().is_some() {
            // Somebody else is at it. Ask anew, a little later, whether there is need to outbid it.
            if now >= *candidacy.retry_at.get_or_insert(now + backoff) {
                self.let_proposal_go(now);
            }
        } else if now >= candidacy.sent_at + timing.retransmit / 2 {
            candidacy.sent_at = now;
            let effects = node.retransmit();
            self.carry_out(now, effects, out);
        }
    }

    /// Its instance may still decide it (S11); this member begins again with its suspicion, if it still has one.
    fn let_proposal_go(&mut self, now: Micros) {
        if let Some(node) = &mut self.paxos {
            node.abandon();
        }
        let failures = self.candidacy.take().map_or(0, |candidacy| candidacy.failures) + 1;
        if self.suspects(now) {
            self.candidacy = Some(self.new_candidacy(now, failures));
        }
    }

    /// The primary's clockwork: heartbeats, retransmissions, its own health.
    pub(super) fn tick_primary(&mut self, now: Micros, out: &mut Output) {
        let timing = self.settings.timing;
        let health = self.health(now);
        if !matches!(self.role, Role::Primary(_)) {
            return;
        }
        if self.unflushed.is_empty() {
            self.flushed_at = now;
        }
        let lost_quorum = health.quorum_contact_ms * 1000 > timing.step_down;
        let medium_stalls = now > self.flushed_at + timing.stall;
        if lost_quorum || medium_stalls || health.stalled_ms * 1000 > timing.stall {
            return self.step_down(now, out);
        }
        let Role::Primary(primary) = &mut self.role else { return };
        let due = now >= primary.heartbeat_at + timing.heartbeat;
        if due {
            primary.heartbeat_at = now;
            let message = Message::Heartbeat { view: self.view_number(), commit: self.commit, health };
            for member in self.others() {
                self.send(member, message.clone(), out);
            }
            self.send_releases(out);
        }
        self.tick_start_of_view(now, out);
        self.retransmit_appends(now, out);
        self.propose_planned_changes(now, out);
        self.judge_differences(now, out);
    }

    /// How this primary is: told in heartbeats, and the reason to step down.
    fn health(&self, now: Micros) -> Health {
        let (Some(view), Role::Primary(primary)) = (self.view(), &self.role) else { return Health::default() };
        let me = self.identity.member;
        let mut contacts: Vec<Micros> = view
            .voters()
            .map(|slot| match primary.progress.get(&slot.member) {
                _ if slot.member == me => now,
                Some(progress) => progress.heard_at.max(primary.entered_at),
                None => self.heard.get(&slot.member).copied().unwrap_or(0).max(primary.entered_at),
            })
            .collect();
        contacts.sort_unstable_by(|a, b| b.cmp(a));
        let quorum_contact = contacts.get(view.majority() - 1).copied().unwrap_or(0);
        let waits = !primary.is_serving || self.log.last().op > self.commit.op;
        let stalled = if waits { now.saturating_sub(primary.moved_at) } else { 0 };
        Health {
            quorum_contact_ms: now.saturating_sub(quorum_contact) / 1000,
            stalled_ms: stalled / 1000,
            serving: primary.is_serving,
        }
    }

    /// Gives the view up for good, and says so. A primary that could not start its view names the best reporter next.
    fn step_down(&mut self, now: Micros, out: &mut Output) {
        let view = self.view_number();
        let able = |member: &MemberId| {
            self.view()
                .and_then(|view| view.slot(*member))
                .is_some_and(|slot| slot.kind == Kind::Replica && slot.standing == Standing::InSync)
        };
        let mut successor = None;
        if let Role::Primary(primary) = &self.role
            && !primary.is_serving
        {
            let reporters = primary.reports.iter().filter(|(member, _)| able(member));
            successor = reporters.max_by_key(|(_, report)| report.last).map(|(member, _)| *member);
            self.barren_views += 1;
        }
        self.give_change_up(out);
        self.stop_being_primary(out);
        self.role = Role::Retired { successor };
        for member in self.others() {
            self.send(member, Message::StepDown { view }, out);
        }
        self.tick_candidacy(now, out);
    }

    /// Refuses a command where this member cannot order it.
    pub(super) fn refusal(&self) -> Rejection {
        let me = self.identity.member;
        match self.view() {
            Some(view) if view.primary != me => {
                Rejection::NotPrimary { hint: view.slot(view.primary).map(|slot| slot.address.clone()) }
            }
            _ => Rejection::ViewChanging,
        }
    }
}
