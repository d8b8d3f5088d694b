//! What a member is at the moment, and what it remembers only while it is that. All of it is volatile on purpose: after a
//! restart none of it may be taken up again (S8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::leaving::Leaving;
use crate::limits::{OUTSTANDING_MAX_BYTES, WINDOW_ENTRIES};
use crate::message::Health;
use crate::{Change, Founding, Incarnation, MemberId, Micros, Slot, SnapshotImage, Tag, View, Viewstamp};

/// Unanswered appends to one member at a time; one that is slow holds no more than so many messages.
const OUTSTANDING_MAX: usize = 2 * WINDOW_ENTRIES;

/// What a member is.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Its store knows no view in force.
    Founding(Founder),
    /// It knows a view, which does not list its store.
    Outsider {
        /// When it last asked to be listed.
        asked_at: Option<Micros>,
        /// Why it was refused.
        refused: Option<String>,
    },
    /// Listed, and another is primary.
    Backup(Backup),
    /// Primary of the entered view, since it entered it in this run.
    Primary(Box<Primary>),
    /// Primary of the entered view by name, but never again in fact: restarted or stepped down (S8).
    Retired {
        /// Whom it names as the next primary, where it knows somebody better than itself.
        successor: Option<MemberId>,
    },
    /// Its store was listed, and is not any more: it stops when the others know.
    Leaving(Leaving),
}

/// A store without a view: what the others said.
#[derive(Clone, Debug, Default)]
pub(super) struct Founder {
    pub(super) asked_at: Option<Micros>,
    /// Who knows no view either, under which incarnation, with which configuration.
    pub(super) standings: BTreeMap<MemberId, (Incarnation, Founding)>,
    /// The view that this founder has sent, since when, and who has stored it.
    pub(super) proposal: Option<(View, Micros, BTreeSet<MemberId>)>,
}

/// What a backup knows of its primary.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    /// The last sign of life in this view, or when the view was entered.
    pub(super) heard_at: Micros,
    /// What the primary last said of itself.
    pub(super) health: Option<Health>,
    /// It said that it stepped down.
    pub(super) stepped_down: bool,
    /// Its process is gone, said its host.
    pub(super) unreachable: bool,
    /// Silent for too long; set by the tick.
    pub(super) silent: bool,
    /// When the report was last sent.
    pub(super) reported_at: Micros,
    /// The barrier of this view, once it is in the log.
    pub(super) barrier: Option<Viewstamp>,
    /// The last ack's content, so that nothing is said twice.
    pub(super) acknowledged: Viewstamp,
}

impl Backup {
    pub(super) fn new(now: Micros) -> Self {
        Backup {
            heard_at: now,
            health: None,
            stepped_down: false,
            unreachable: false,
            silent: false,
            reported_at: 0,
            barrier: None,
            acknowledged: Viewstamp::default(),
        }
    }

    /// Whether there is any evidence against the primary.
    pub(super) fn is_suspicious(&self) -> bool {
        self.stepped_down || self.unreachable || self.silent
    }
}

/// A command that waits for a batch.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) tag: Tag,
    pub(super) bytes: Vec<u8>,
}

/// The primary's work.
#[derive(Clone, Debug)]
pub(super) struct Primary {
    pub(super) phase: Phase,
    /// Reports of in-sync members, its own included: last viewstamps.
    pub(super) reports: BTreeMap<MemberId, Report>,
    /// What each other member has.
    pub(super) progress: BTreeMap<MemberId, Progress>,
    /// Who waits for the answer of which op.
    pub(super) tags: BTreeMap<u64, Tag>,
    pub(super) urgent: VecDeque<Command>,
    pub(super) waiting: VecDeque<Command>,
    pub(super) heartbeat_at: Micros,
    /// When something last moved: a report, a fetched entry, a commit; or when nothing waited.
    pub(super) moved_at: Micros,
    /// When this view was entered: contact counts from then.
    pub(super) entered_at: Micros,
    /// The barrier is committed and executed.
    pub(super) is_serving: bool,
    /// New stores that ask to be listed, and how often they did.
    pub(super) joins: BTreeMap<MemberId, (Slot, u32)>,
    /// Who differs from this primary's state, since when.
    pub(super) differing: BTreeMap<MemberId, (u64, u64, Micros)>,
    /// Who agreed last.
    pub(super) agreeing: BTreeSet<MemberId>,
}

/// How far the start of the view is (S4).
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Reports are awaited.
    Collecting,
    /// The chosen log is fetched.
    Fetching {
        /// From whom.
        from: MemberId,
        /// Up to here.
        target: Viewstamp,
        /// The last request: after which viewstamp.
        after: Viewstamp,
        /// When it was sent.
        asked_at: Micros,
    },
    /// The barrier is in the log: not to be served before it is committed.
    Started {
        /// The barrier.
        barrier: Viewstamp,
    },
}

/// A report (S4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) last: Viewstamp,
}

/// What the primary knows of another member in this view.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Acknowledged in this view: durable and verified.
    pub(super) acked: Viewstamp,
    /// Sent up to here.
    pub(super) sent: Viewstamp,
    /// After a mismatch: the place from which it was tried again. Mismatches of what was sent before are old news.
    pub(super) probe: Option<Viewstamp>,
    /// A snapshot was offered to it, or it asked for a piece of one: until then nothing else is sent.
    pub(super) fetches_until: Micros,
    /// The last viewstamps of unanswered appends, and their bytes.
    pub(super) outstanding: VecDeque<(Viewstamp, usize)>,
    /// When it last acknowledged more, or was sent something after all was acknowledged.
    pub(super) moved_at: Micros,
    /// When it was last heard.
    pub(super) heard_at: Micros,
    /// The place from which the view's start was sent first: tried again until something is acknowledged.
    pub(super) start: Viewstamp,
}

impl Progress {
    pub(super) fn new(sent: Viewstamp, now: Micros) -> Self {
        Progress {
            acked: Viewstamp::default(),
            sent,
            probe: None,
            fetches_until: 0,
            outstanding: VecDeque::new(),
            moved_at: now,
            heard_at: 0,
            start: sent,
        }
    }
}

impl Progress {
    /// Whether one more append may be on its way to the member.
    pub(super) fn has_room(&self) -> bool {
        let bytes: usize = self.outstanding.iter().map(|(_, bytes)| bytes).sum();
        self.outstanding.len() < OUTSTANDING_MAX && bytes < OUTSTANDING_MAX_BYTES
    }
}

impl Primary {
    pub(super) fn new(now: Micros) -> Self {
        Primary {
            phase: Phase::Collecting,
            reports: BTreeMap::new(),
            progress: BTreeMap::new(),
            tags: BTreeMap::new(),
            urgent: VecDeque::new(),
            waiting: VecDeque::new(),
            heartbeat_at: 0,
            moved_at: now,
            entered_at: now,
            is_serving: false,
            joins: BTreeMap::new(),
            differing: BTreeMap::new(),
            agreeing: BTreeSet::new(),
        }
    }

    pub(super) fn barrier(&self) -> Option<Viewstamp> {
        match self.phase {
            Phase::Started { barrier } => Some(barrier),
            _ => None,
        }
    }

    pub(super) fn waits_for(&self, majority: usize) -> Option<String> {
        let reports = self.reports.len();
        match &self.phase {
            _ if self.is_serving => None,
            Phase::Collecting => {
                Some(format!("waits for the logs of {majority} in-sync members to start its view, has {reports}"))
            }
            Phase::Fetching { from, .. } => Some(format!("fetches missing entries from member {from}")),
            Phase::Started { .. } => Some(format!("waits for {majority} in-sync members to hold its view's barrier")),
        }
    }
}

/// A change of the members that an operator waits for.
#[derive(Clone, Debug)]
pub(super) struct PendingChange {
    pub(super) tag: Tag,
    pub(super) change: Change,
    pub(super) asked_at: Micros,
    /// The view in which it was proposed last; none if it was not, or that instance is decided.
    pub(super) proposed_in: Option<u64>,
}

/// An attempt to get a view decided, from the first suspicion on.
#[derive(Clone, Debug)]
pub(super) struct Candidacy {
    /// The view that it would follow.
    pub(super) view: u64,
    /// Nothing is sent before.
    pub(super) not_before: Micros,
    /// When votes were last asked for.
    pub(super) asked_at: Option<Micros>,
    /// What the members answered.
    pub(super) answers: BTreeMap<MemberId, Answer>,
    /// When the proposal was made.
    pub(super) proposed_at: Option<Micros>,
    /// When a refused ballot is tried again.
    pub(super) retry_at: Option<Micros>,
    /// When the proposal's messages were last sent.
    pub(super) sent_at: Micros,
    /// How often it came to nothing.
    pub(super) failures: u32,
    /// It names another member as primary.
    pub(super) hands_over: bool,
}

/// An answer to a prevote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) yes: bool,
    pub(super) last: Viewstamp,
    pub(super) log_start: Viewstamp,
    pub(super) ready: bool,
}

/// A snapshot on its way in.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) from: MemberId,
    /// The view in which it is asked for. In another it stands still, until somebody offers the same snapshot there.
    pub(super) view: u64,
    pub(super) size_bytes: u64,
    pub(super) hash: u64,
    /// What has come.
    pub(super) image: SnapshotImage,
    pub(super) asked_at: Micros,
}
