//! What must hold in every run, whatever goes wrong: a file for each, whose first line is the sentence.
//!
//! | sentence | source | file |
//! |---|---|---|
//! | A view number is decided once; its parent is the view before. | Paxos; rule S1 | `views` |
//! | Every in-sync set is a majority. | S6 | `views` |
//! | A view changes at most one slot of the list, and majorities of neighbouring views meet. | S12 | `members` |
//! | A removed member stops when a majority of the new list knows the view, or it had no vote for it. | S1, S12 | `members` |
//! | A view is decided by the durable votes of a majority of those that the view before lists. | Paxos; S6 | `votes` |
//! | A list changes only after the view before has served. | S12 | `votes` |
//! | A witness drops only what as many replicas hold as a majority has members. | S13 | `witnesses` |
//! | Promise, vote, proposal and view never go back in a store. | S2, S11 | `promises` |
//! | An entry is committed only while a majority of the view's in-sync members hold it durably, and the barrier. | S3 | `commit` |
//! | At most one run of one member commits in a view. | S8 | `commit` |
//! | Committed entries never change. | Viewstamped Replication | `commit`, `history` |
//! | Whoever begins to serve holds everything committed; so what was acknowledged is executed by every later primary. | S4 | `serving` |
//! | A restarted primary never resumes its view. | S8 | `serving` |
//! | Equal viewstamps, equal bytes. | S8 | `speech` |
//! | An acknowledgement names what is durable and part of the view's log; a report names a durable log. | S2, S3, S4 | `speech` |
//! | In `ring`, what a member acknowledges in a view its guard's memory holds too. | S14 | `guards` |
//! | A member says nothing of a view other than the one it entered. | S2 | `speech` |
//! | Executed histories are one history: every replica's hash is equal at equal op. | S9 | `history` |
//! | An answered command is executed once, and in real-time order. | S9, linearizability | `answers` |
//! | Each step's output is bounded. | bounds | `bounds` |
//!
//! Of the lock service, on each committed op (`lock_truth` sees them and keeps the notes) or in the clients themselves:
//!
//! | sentence | source | file |
//! |---|---|---|
//! | At most one exclusive holder, and no shared one beside it: in the table, and by the clients' valid guards in true time. | Chubby 2.4; sections 5, 6 | `lock_holders` |
//! | No guard is valid past its session. | section 5 | `lock_holders` |
//! | The tokens of a lock's grants increase strictly, over fail-over too. | section 6 | `lock_tokens` |
//! | No expired session is granted a lock, and none is left to it after the sweeps. | section 5 | `lock_sessions` |
//! | A session lives as long as its lease; a tick adds two tick intervals at most; a nonce opens one session. | section 5 | `lock_leases`, `lock_truth` |
//! | A client's count of its lease ends before the service can end it. | section 5 | `lock_leases` |
//! | A release, a cancel and a revoke mean the tenure that they name. | section 6 | `lock_tenures` |
//! | What was ended by force is withheld until its holder knows, or its lease is over; it hears of it until it confirms. | forced release | `lock_tenures` |
//! | A client gives up what others want, after some users at most, and what it has without knowing; a revoke means the tenure that it names. | rules M12, M14 | `lock_clients` |
//! | What was used is flushed before it is given up; a guard that died stays dead; a silent callback connection is dialled anew. | rules M10, M16, M17 | `lock_clients` |
//! | What the dead left passes on when its recovery has ended and its lock delay is over, or an operator freed it. | lock delay, recovery | `lock_kept` |
//! | A dead session is recovered by one live session of its group at a time, and when that one's hook has done it. | recovery | `lock_recovery` |
//! | A query is answered with what is so. | queries | `lock_queries` |
//! | Each request is executed at most once. | section 5, duplicate window | `lock_requests` |
//! | A cancelled waiter is never granted. | section 6 | `lock_requests`, and in the clients `users.rs` |
//! | Waiters are served in the order of the log. | section 6 | `lock_order` |
//! | All locks of a set are granted by one op, and none is held while it waits. | sets of locks | `lock_sets`, and in the clients `sets.rs` |
//! | Service time is never faster than true time. | section 5 | `lock_time` |
//! | What a lock guards takes no older tenure's write after a newer one's, and refuses only what has ended. | section 6 | `lock_fencing` |

mod answers;
mod bounds;
mod commit;
mod guards;
mod history;
mod lock_clients;
mod lock_fencing;
mod lock_holders;
mod lock_kept;
mod lock_leases;
mod lock_order;
mod lock_queries;
mod lock_recovery;
mod lock_requests;
mod lock_sessions;
mod lock_sets;
mod lock_tenures;
mod lock_time;
mod lock_tokens;
mod lock_truth;
mod members;
mod promises;
mod records;
mod serving;
mod speech;
mod views;
mod votes;
mod witnesses;

use std::collections::BTreeMap;

use rsm::{Incarnation, MemberId, View};

use super::counters::Counters;
use super::ledger::Ledger;
pub(crate) use lock_clients::{Conduct, is_paid};
use lock_truth::LockTruth;
pub(crate) use lock_truth::Seen;
use votes::Votes;

/// A sentence that did not hold, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The sentence.
    pub rule: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, detail: String) -> Self {
        Violation { rule, detail }
    }
}

/// Whether it held.
pub(crate) type Check = Result<(), Violation>;

/// A process of a member: its number among all starts.
pub(crate) type Run = u64;

/// All that the checks remember.
#[derive(Debug)]
pub(crate) struct Invariants {
    pub(crate) ledger: Ledger,
    pub(crate) counters: Counters,
    pub(crate) locks: LockTruth,
    views: BTreeMap<u64, View>,
    /// The highest view that each store ever held durably.
    known: BTreeMap<Incarnation, u64>,
    votes: Votes,
    /// Who served in a view, in which run.
    served: BTreeMap<u64, (MemberId, Run)>,
    last_server: Option<MemberId>,
    /// The highest op whose answer a client has.
    answered: u64,
}

impl Invariants {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Invariants {
            ledger,
            counters: Counters::default(),
            locks: LockTruth::default(),
            views: BTreeMap::new(),
            known: BTreeMap::new(),
            votes: Votes::new(),
            served: BTreeMap::new(),
            last_server: None,
            answered: 0,
        }
    }

    /// The highest decided view that any store knows, or is about to.
    pub(crate) fn last_view(&self) -> Option<&View> {
        self.views.values().next_back()
    }
}
