//! A replicated state machine: a primary and its backups, ordered by viewstamps, under views that Paxos decides.
//!
//! # Chapter
//!
//! A cluster is a set of **slots**, each a member's number. What fills a slot is one life of that member's store, its
//! **incarnation**. A **view** says who is primary, which incarnation fills each slot, and which of them are **in sync**;
//! view k is decided by Paxos instance k, whose acceptors are the slots of view k-1. With n slots, every quorum is
//! q = ⌊n/2⌋ + 1, and f = n - q may be down.
//!
//! The primary puts commands, many at a time, into **entries**; an entry's **viewstamp** is (view, number of its last op),
//! and op numbers run on through all views without gaps. It sends entries to everybody at the same time as to its own
//! medium. A member acknowledges what is durable in its log *and* matched with the primary's log in this view. What q
//! in-sync members have acknowledged in this view, its first entry (the **barrier**) included, is **committed**; the
//! primary executes it and answers. The others hear of the commit with the next message, and execute too.
//!
//! ```text
//!   submit ─▶ primary: batch ─┬─▶ own log ───────────────┐
//!                             ├─▶ backup: log ─▶ ack ────┼─▶ q hold it: committed ─▶ execute ─▶ answer
//!                             └─▶ backup: log ─▶ ack ────┘
//! ```
//!
//! When the primary is gone, a majority agrees that it is, one member proposes the next view, everybody who learns of it
//! *enters* it (durably, one way) and reports its log's last viewstamp. The new primary takes the log with the highest
//! viewstamp among q reports, puts its barrier on top, and serves once that is committed. Since any q that acknowledged and
//! any q that report share a store, nothing acknowledged is ever missing.
//!
//! Nobody leaves the in-sync set for being down or slow: a majority goes on without it, and it catches up when it is back.
//! Only a store that is *gone* is replaced, by a new incarnation that starts as **syncing**, counts for nothing but votes,
//! and is promoted when it holds everything. So the death of a minority costs its clients nothing, unless the primary was
//! among it.
//!
//! An operator adds, removes and replaces members while the cluster serves ([`Change`]). An added member is first a
//! **learner**, outside n: it gets the log and counts for nothing, until it has caught up and a view counts it in. Of the n, up to f may
//! be **witnesses**: they vote, and hold the log's tail, but have no state and are never primary, so they cost little; two
//! replicas and a witness bear what three replicas bear.
//!
//! It is Viewstamped Replication (Oki and Liskov, PODC 1988; Liskov and Cowling 2012), with the primary of a view decided
//! rather than derived, as in Vertical Paxos (Lamport, Malkhi, Zhou, PODC 2009) and PacificA (Lin et al. 2008).
//!
//! **Rules.** The code cites them by these numbers where it keeps them, and the tests where they break them:
//!
//! | | rule | kept in |
//! |---|---|---|
//! | S1 | A store takes part only in the instance after its last view, and only if that view lists its incarnation. | `paxos`, `replica/views.rs` |
//! | S2 | Entering a view is durable and one-way; then nothing of a lower one is acknowledged, reported or assigned. | `replica/views.rs` |
//! | S3 | Committed: held by q in-sync members, acknowledged in this view, its barrier among it. | `replica/normal.rs` |
//! | S4 | A view starts from the highest viewstamp among q reports of in-sync members, which lack nothing that they acknowledged; it serves once its barrier is committed. | `replica/view_change.rs`, `repair.rs` |
//! | S5 | The primary is in sync, or promoted in this very view. | `view.rs` |
//! | S6 | In-sync sets lose only stores that are gone, and never fall below q. | `view.rs`, `replica/views.rs` |
//! | S7 | A new store enters as syncing, and is promoted once it durably holds everything through the last view's barrier. | `view.rs`, `replica/views.rs` |
//! | S8 | A restarted primary never resumes its view; an op number of a view is assigned once. | `replica/mod.rs`, `replica/normal.rs` |
//! | S9 | Only what is committed is executed, in order, once; answers come out of the execution. | `replica/execution.rs` |
//! | S10 | A lost store is another incarnation. Founding needs the word of all members. | `replica/founding.rs`, `repair.rs` |
//! | S11 | One ballot carries one value; nothing rests on a proposal having failed. | `paxos`, `replica/views.rs` |
//! | S12 | A view adds, removes or counts in one slot; n changes only in the view after one that has started. | `view.rs`, `replica/membership.rs`, `replica/leaving.rs` |
//! | S13 | A witness drops only what q replicas hold; the primary is always a replica. | `replica/witness.rs`, `replica/view_change.rs` |
//! | S14 | In `ring` a member acknowledges what its guard's memory holds too, and is restored from that memory alone. | `ring`, `shell/restoration.rs` |
//!
//! **Durability.** "Durable" in these rules means, for promises, votes and views, on stable storage, always. What it means for log and snapshots
//! is chosen for the whole cluster ([`Durability`]): files or persistent memory, or the memory of the host or the process. A member that has lost
//! its memory is another incarnation, whatever it has on stable storage (S10), and that is all that recovery without a disk needs: no quorum counts what an
//! older incarnation said. The cost: a majority that is lost at once is lost for good, and a restart copies the state. So a planned stop waits until
//! the others have it. In `ring` a member counts what another host holds as well, its guard's, and so may lose its own and stay the same
//! incarnation (S14): of three hosts any two may crash at once. The module `ring` argues it, and says what it costs.
//!
//! **Cores decide, shells act.** [`Replica`] is a plain struct: it takes an [`Input`], fills an [`Output`] (persist, then send,
//! then answer), and knows no clock, thread, socket or file. [`Node`] is the shell around it.
//!
//! # Limits of this implementation
//!
//! - A learner is promoted by itself when it has caught up; an operator cannot hold it back, but can remove it.
//! - With one member more than an odd number nothing more may be down: four bear one failure, like three.
//! - A witness keeps its log in memory, as replicas do; its room is bounded by the same setting.
//! - A member that was removed while it was away stops only when it can reach a member that has been running since.
//! - A removed member stops when a majority of those that stay know of it. Killed before that it counts as lost, should its vote have
//!   been needed; one that reaches too few of them for about two minutes stops too, and says that its store is to be kept.
//! - Entries that were cut off take room on the medium until what stands before them is given back. A running member counts them; after
//!   a restart it does not, so a small log can be found full where whole windows of entries were cut off just before.
//! - A member whose log is damaged takes no part in anything, votes included, until it is repaired; if the log's end is lost, or nobody has the entries
//!   any more, it copies everything, as another incarnation, once a majority serves without it.
//! - Damage on both sides of what the newest snapshot needs is such a case. So is a log that would fill more than half of its room after a repair, for
//!   what was damaged takes its room until what follows it is released. After one more restart that is not counted any more.
//! - A member that is alone refuses to start with a damaged log.
//! - The newest snapshot's image stays in memory, for laggards; while one fetches the one before, both do.
//! - A snapshot is restored in one go on the replica thread: a member that installs one is out of reach meanwhile.
//! - In `ring` a member that lost its memory waits up to five seconds for its guard before it begins anew; and a guard that dies without a
//!   word from its host keeps those that it guards waiting for a quarter of a second.
//! - After the loss of more than n - q stores the service waits for ever; there is no way yet to accept the loss.
#![forbid(unsafe_code)]

mod change;
mod control;
mod entry;
mod ids;
mod image;
mod interface;
pub mod limits;
mod log;
mod message;
#[cfg(any(test, feature = "mutants"))]
pub mod mutant;
mod octets;
mod repair;
mod replica;
mod ring;
mod shell;
mod state_machine;
mod view;

pub use change::{Change, ChangeError};
pub use control::{Control, Identity};
pub use entry::{Entry, Payload};
pub use ids::{ClusterId, Incarnation, MemberId, Viewstamp};
pub use image::SnapshotImage;
pub use interface::{
    Damage, Input, Micros, Output, Record, Recovered, Rejection, Send, Settings, Status, Tag, Timing, Token,
};
pub use message::{Envelope, Founding, Health, Message};
pub use replica::Replica;
#[cfg(any(test, feature = "model"))]
pub use replica::timeless;
pub use ring::{Guard, MemoryId, Ring, RingMember, RingOutput, Word};
pub use shell::{
    Answer, Answers, Backend, BreakPoint, CopyAnswer, CopyRequest, Durability, FormatError, Handle, MemberService,
    Node, NodeSettings, PeerError, Snapshots, StartError, Statistics, highest_op, make_restored_store,
};

/// For other shells: how records become durable in an [`nvm_log::Store`] on any medium, and what an opened one holds.
pub mod storage {
    pub use crate::repair::{Damaged, Repair, Verdict};
    pub use crate::shell::{Contents, RecordStore, RecordWriter, Refusal, contents, identity_of, recovered};
}

pub use state_machine::{Application, SnapshotPart, StateMachine};
pub use view::{Kind, MEMBERS_MAX, Slot, Standing, View};
