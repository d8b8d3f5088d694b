//! What members say to each other. Every message may be lost, doubled, delayed and overtaken; the column "if lost" of
//! ARCHITECTURE.md's table says what brings it back.
//!
//! A message about a view names it, and is acted on only by a member that has entered that very view; a receiver that is
//! behind asks the sender for its last decided view first, one that is ahead answers with its own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Entry, Incarnation, Kind, MemberId, View, Viewstamp, Word};

/// A message with its sender. The receiver counts it only under the incarnation that its view lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender's cluster; 0 before it knows one.
    pub cluster: ClusterId,
    /// The sender.
    pub from: MemberId,
    /// The life of the sender's store.
    pub incarnation: Incarnation,
    /// What it says.
    pub message: Message,
}

/// A message. Variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Deciding and learning views.
    Paxos(paxos::Message<View>),
    /// A store without a view in force asks who knows one (S10). Answered by a decided view, or `Standing`.
    Ask(Founding),
    /// "I know no view in force either", with what I would found.
    Standing(Founding),
    /// The founder's first view, to be stored as founding.
    Found {
        /// View 1.
        view: View,
    },
    /// Stored durably.
    FoundStored {
        /// Hash of view 1.
        hash: u64,
    },
    /// A new incarnation of a listed member asks to be listed (S6, S7).
    Join {
        /// Where it listens.
        address: String,
        /// What it stores.
        kind: Kind,
    },
    /// It will not be; one line says why, for the operator.
    JoinRefused {
        /// Why.
        reason: String,
    },
    /// The primary's entries, from the one after `previous`.
    Append {
        /// The sender's view.
        view: u64,
        /// The viewstamp before the first entry.
        previous: Viewstamp,
        /// In order; may be empty (a probe).
        entries: Vec<Arc<Entry>>,
        /// What is committed, in the sender's view.
        commit: Viewstamp,
    },
    /// "My log is durable and matched with yours up to here", in this view (M1 of the review: *verified*).
    Ack {
        /// The view.
        view: u64,
        /// Durable and verified up to here.
        verified: Viewstamp,
        /// Executed up to this op, with the state's hash there.
        executed: (u64, u64),
    },
    /// "My log does not hold the viewstamp before your entries."
    Mismatch {
        /// The view.
        view: u64,
        /// The `previous` that did not match.
        refused: Viewstamp,
        /// The highest viewstamp of my log that is not above it.
        have: Viewstamp,
    },
    /// The primary lives, every heartbeat interval.
    Heartbeat {
        /// The view.
        view: u64,
        /// What is committed.
        commit: Viewstamp,
        /// Its health.
        health: Health,
    },
    /// The primary serves this view no longer, and never will again.
    StepDown {
        /// The view.
        view: u64,
    },
    /// "I believe that the primary of this view is gone: do you?"
    PreVote {
        /// The view.
        view: u64,
    },
    /// The answer.
    PreVoteAnswer {
        /// The view.
        view: u64,
        /// I have listened long enough, and heard no healthy primary.
        yes: bool,
        /// The last viewstamp of my log.
        last: Viewstamp,
        /// Where my log starts: who needs earlier entries needs a snapshot.
        log_start: Viewstamp,
        /// I am syncing in this view and hold everything through its barrier durably: I may be promoted (S7).
        ready: bool,
    },
    /// "I have entered this view, durably, and this is my log", to its primary (S4).
    Report {
        /// The view.
        view: u64,
        /// The last viewstamp of my log.
        last: Viewstamp,
    },
    /// "Send me your log after this viewstamp", from the new primary to the reporter that it chose.
    Fetch {
        /// The view in which it is asked; the answer is used in no other.
        view: u64,
        /// The last viewstamp of the asker's log that may be shared.
        after: Viewstamp,
    },
    /// The answer: entries after `previous`.
    Entries {
        /// The view in which it was asked.
        view: u64,
        /// The viewstamp before the first entry.
        previous: Viewstamp,
        /// In order.
        entries: Vec<Arc<Entry>>,
        /// What the answerer knows to be committed; it may lie above these entries.
        commit: Viewstamp,
    },
    /// The answer where `after` is not in the log: the highest viewstamp below it that is.
    Unmatched {
        /// The view in which it was asked.
        view: u64,
        /// The highest viewstamp in the answerer's log that is not above the one asked for.
        have: Viewstamp,
    },
    /// "You need entries that I no longer have: fetch my snapshot."
    SnapshotOffer {
        /// The view.
        view: u64,
        /// The snapshot's last viewstamp.
        viewstamp: Viewstamp,
        /// Its size.
        bytes: u64,
        /// [`crate::SnapshotImage::digest`].
        hash: u64,
    },
    /// "Send me the snapshot from this offset."
    FetchChunk {
        /// The view in which it is asked.
        view: u64,
        /// Which snapshot.
        viewstamp: Viewstamp,
        /// From where, bytes.
        offset: u64,
    },
    /// A piece of it, at most [`crate::limits::CHUNK_MAX_BYTES`].
    Chunk {
        /// The view in which it was asked.
        view: u64,
        /// Which snapshot.
        viewstamp: Viewstamp,
        /// Where the piece starts.
        offset: u64,
        /// The piece.
        #[serde(with = "crate::octets::one")]
        bytes: Vec<u8>,
    },
    /// "The majority's state at this op differs from yours": the receiver stops.
    Diverged {
        /// The view.
        view: u64,
        /// The op.
        op: u64,
        /// The majority's hash.
        hash: u64,
    },
    /// "A majority's worth of replicas hold everything up to here": a witness may drop it (S13).
    Release {
        /// The view.
        view: u64,
        /// The last viewstamp to go.
        upto: Viewstamp,
    },
    /// "I am short of room and may drop nothing: offer me a snapshot", from a witness to its primary (S13).
    WantSnapshot {
        /// The view.
        view: u64,
        /// One that ends above this op.
        above: u64,
    },
    /// "My log held both of these viewstamps, and has lost what lies between": from a member whose store is damaged, to any other.
    FetchLost {
        /// What it has of the log ends here.
        after: Viewstamp,
        /// What it has beyond goes on from here; none where it does not know.
        upto: Option<Viewstamp>,
    },
    /// The answer.
    Kept {
        /// What was asked for.
        upto: Option<Viewstamp>,
        /// The viewstamp before the first entry.
        previous: Viewstamp,
        /// In order, up to `upto` at most; none if the sender's log does not hold that.
        entries: Vec<Arc<Entry>>,
        /// The sender serves as primary, with a majority in contact that the asker is not part of.
        serves: bool,
    },
    /// The ring, and what is stored at the sender; not for the core.
    Ring(Word),
}

impl Message {
    /// The view that it belongs to; none where it belongs to no single one.
    pub fn view(&self) -> Option<u64> {
        match self {
            Message::Append { view, .. }
            | Message::Ack { view, .. }
            | Message::Mismatch { view, .. }
            | Message::Heartbeat { view, .. }
            | Message::StepDown { view }
            | Message::PreVote { view }
            | Message::PreVoteAnswer { view, .. }
            | Message::Report { view, .. }
            | Message::Fetch { view, .. }
            | Message::Entries { view, .. }
            | Message::Unmatched { view, .. }
            | Message::SnapshotOffer { view, .. }
            | Message::FetchChunk { view, .. }
            | Message::Chunk { view, .. }
            | Message::Diverged { view, .. }
            | Message::Release { view, .. }
            | Message::WantSnapshot { view, .. } => Some(*view),
            _ => None,
        }
    }
}

/// How the primary is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Since a quorum was last in contact, ms.
    pub quorum_contact_ms: u64,
    /// Since something moved while something waits (reports, fetch, barrier, commits), ms; 0 when nothing waits.
    pub stalled_ms: u64,
    /// Its barrier is committed.
    pub serving: bool,
}

/// The configuration a cluster is founded with; all members must have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster's name.
    pub name: String,
    /// Ids, addresses and kinds of all members, ascending by id.
    pub members: Vec<(MemberId, String, Kind)>,
    /// The durability mode.
    pub mode: String,
}

impl Founding {
    /// What a member stores; a replica where the list does not say.
    pub fn kind_of(&self, member: MemberId) -> Kind {
        self.members.iter().find(|(other, ..)| *other == member).map_or(Kind::Replica, |(_, _, kind)| *kind)
    }
}
