//! How a member came back after its start, told in one line of its log: what it had, what it got from the others, how long it took.
//!
//! Why it is right: a member has caught up when it serves, is listed in sync under this very incarnation, and knows as
//! committed in its own log what the first serving primary that it heard had committed then. A serving primary itself has all there is.

use std::time::{Duration, Instant};

use crate::{Identity, Message, Record, Standing, Status};

/// What is noted until the member has caught up.
pub(super) struct Rejoin {
    began: Instant,
    /// The last op that it had.
    had_op: u64,
    /// What the first primary that it heard had committed then.
    target_op: Option<u64>,
    first_ack: Option<Duration>,
    installed_op: u64,
    installed_bytes: u64,
    appended_entries: u64,
    is_over: bool,
}

impl Rejoin {
    /// Of a member whose start began then, with a log that ends at this op.
    pub(super) fn new(began: Instant, had_op: u64) -> Self {
        Rejoin {
            began,
            had_op,
            target_op: None,
            first_ack: None,
            installed_op: 0,
            installed_bytes: 0,
            appended_entries: 0,
            is_over: false,
        }
    }

    pub(super) fn on_heard(&mut self, message: &Message) {
        // What a primary knows as committed before its barrier is may be less than what this member executed in its last life.
        if let Message::Heartbeat { commit, health, .. } = message
            && health.serving
        {
            self.target_op.get_or_insert(commit.op);
        }
    }

    pub(super) fn on_sent(&mut self, message: &Message) {
        if let Message::Ack { .. } = message {
            self.first_ack.get_or_insert_with(|| self.began.elapsed());
        }
    }

    pub(super) fn on_record(&mut self, record: &Record) {
        match record {
            Record::Append(_) => self.appended_entries += 1,
            Record::Install { image, .. } => {
                self.installed_op = image.viewstamp.op;
                self.installed_bytes = image.size_bytes();
            }
            _ => {}
        }
    }

    /// Tells it, once, when the member has caught up.
    pub(super) fn look(&mut self, status: &Status) {
        if self.is_over || !self.has_caught_up(status) {
            return;
        }
        self.is_over = true;
        tracing::info!(
            member = status.identity.member.0,
            view = status.view.as_ref().map_or(0, |view| view.number),
            primary = status.is_primary,
            had_op = self.had_op,
            installed_op = self.installed_op,
            installed_bytes = self.installed_bytes,
            appended_entries = self.appended_entries,
            executed_op = status.executed_op,
            first_ack_ms = self.first_ack.map(milliseconds),
            elapsed_ms = milliseconds(self.began.elapsed()),
            "caught up",
        );
    }

    fn has_caught_up(&self, status: &Status) -> bool {
        let is_own = |member, incarnation| Identity { member, incarnation } == status.identity;
        let mut slots = status.view.iter().flat_map(|view| &view.slots);
        let is_in_sync = slots.any(|slot| is_own(slot.member, slot.incarnation) && slot.standing == Standing::InSync);
        let has_all = status.is_primary || self.target_op.is_some_and(|op| status.commit_op >= op);
        status.serving && is_in_sync && has_all
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
