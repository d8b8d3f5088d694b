//! A core without its clock, for the model checker: two members that differ only in *when* things happened become equal.
//!
//! # Why it is sound
//!
//! Safety rests on no timer, so the checker lets any timer fire at any moment. [`Replica::forget_time`] rewrites a core
//! between two steps as if everything that it remembers had happened just now; the checker then gives a tick a time so far
//! ahead that the timers it means are due. What is rewritten, and why nothing but a delay can depend on it:
//!
//! | field | becomes |
//! |---|---|
//! | every moment, and the delays of a candidacy | now |
//! | who was heard | everybody that the view lists, now |
//! | the random generator, counts of failed attempts | the beginning |
//! | how often a leaving member told the others | once: it never gives up |
//! | a suspicion that has not led to a proposal | none: a later tick suspects again |
//! | tokens of records | the same less what is durable: only their order counts |
//! | how often a store asked to be listed | at most as often as it has to |
//! | hashes for comparing states, hints to people | none: a net and a text |
//! | a snapshot that a newer one has replaced | gone: who fetches it is offered the newer one |
//!
//! All else stays. A fingerprint is to be taken of the whole `Debug` text, so a field that is not named here, or is added
//! later, can only keep states apart that could be one; it never makes one of two that differ.

use super::random::Random;
use super::roles::{Primary, Role};
use super::snapshots::UnderWay;
use super::{Replica, views};
use crate::{Health, Message, Micros, StateMachine, Token};

impl<M: StateMachine> Replica<M> {
    /// Rewrites the core as if all that it remembers had happened at `now`. Returns by how much its tokens were lowered:
    /// what the shell keeps under a token is to be lowered by as much.
    pub fn forget_time(&mut self, now: Micros) -> Token {
        self.random = Random::new(0);
        self.started_at = now;
        self.flushed_at = now;
        self.barren_views = 0;
        self.hashes.clear();
        self.lent = None;
        self.shedding = None;
        self.listed.clear();
        self.heard = self.others().into_iter().map(|member| (member, now)).collect();
        self.asked_at = 0;
        if let Some(change) = &mut self.change {
            change.asked_at = now;
        }
        if let Some(transfer) = &mut self.transfer {
            transfer.asked_at = now;
        }
        self.forget_candidacy(now);
        match &mut self.role {
            Role::Founding(founder) => {
                founder.asked_at = None;
                if let Some((_, since, _)) = &mut founder.proposal {
                    *since = now;
                }
            }
            Role::Outsider { asked_at, refused } => (*asked_at, *refused) = (None, None),
            Role::Backup(backup) => {
                (backup.heard_at, backup.reported_at) = (now, now);
                (backup.silent, backup.unreachable) = (false, false);
                backup.health = backup.health.map(without_time);
            }
            Role::Primary(primary) => forget_time_of_primary(primary, now),
            Role::Leaving(leaving) => leaving.forget_time(now),
            Role::Retired { .. } => {}
        }
        self.lower_tokens()
    }

    fn forget_candidacy(&mut self, now: Micros) {
        self.candidacy = self.candidacy.take().filter(|candidacy| candidacy.proposed_at.is_some());
        if let Some(candidacy) = &mut self.candidacy {
            (candidacy.not_before, candidacy.sent_at, candidacy.failures) = (now, now, 0);
            (candidacy.asked_at, candidacy.proposed_at, candidacy.retry_at) = (None, Some(now), None);
            candidacy.answers.clear();
        }
    }

    fn lower_tokens(&mut self) -> Token {
        let by = self.durable_token;
        self.durable_token = 0;
        self.last_token -= by;
        self.entered_token = self.entered_token.saturating_sub(by);
        for (token, _) in &mut self.unflushed {
            *token -= by;
        }
        if let Some(UnderWay::Making { token, .. } | UnderWay::Storing { token, .. }) = &mut self.snapshot_under_way {
            *token = token.saturating_sub(by);
        }
        by
    }
}

fn forget_time_of_primary(primary: &mut Primary, now: Micros) {
    (primary.heartbeat_at, primary.moved_at, primary.entered_at) = (now, now, now);
    primary.agreeing.clear();
    primary.differing.clear();
    for progress in primary.progress.values_mut() {
        (progress.moved_at, progress.heard_at, progress.fetches_until) = (now, now, 0);
    }
    for (_, asked) in primary.joins.values_mut() {
        *asked = (*asked).min(views::JOINS_NEEDED);
    }
    if let super::roles::Phase::Fetching { asked_at, .. } = &mut primary.phase {
        *asked_at = now;
    }
}

fn without_time(health: Health) -> Health {
    Health { quorum_contact_ms: 0, stalled_ms: 0, ..health }
}

/// A message without what only tells of time or of the executed state, which is a net and no rule.
#[must_use]
pub fn timeless(message: Message) -> Message {
    match message {
        Message::Heartbeat { view, commit, health } => {
            Message::Heartbeat { view, commit, health: without_time(health) }
        }
        Message::Ack { view, verified, .. } => Message::Ack { view, verified, executed: (0, 0) },
        message => message,
    }
}
