//! What is true for ever once it is true, and the sentences about it.
//!
//! | sentence | source |
//! |---|---|
//! | A view number is decided once, and each view may follow the one before. | Paxos; S1, S6 |
//! | Equal viewstamps, equal bytes. | S8 |
//! | At most one run of one store serves a view. | S8 |
//! | Of two committed logs one is the beginning of the other. | S3, S9 |
//! | Who serves a view holds all that is committed in lower ones. | S4 |
//!
//! None names an order of events: a commit of view 1 that comes to light after view 2 serves is checked as well.

use paxos::Decree;
use rsm::{Entry, Identity, View, Viewstamp};

/// A log from some op on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The last op before it; lies in a snapshot.
    pub base: u64,
    /// What follows.
    pub viewstamps: Vec<Viewstamp>,
}

/// Something that is true for ever.
#[derive(Clone, Debug)]
pub enum Fact {
    /// This view is decided.
    Decided(View),
    /// This entry has its viewstamp.
    Entry(Entry),
    /// This is committed, said one that had entered `view`.
    Committed {
        /// The entered view.
        view: u64,
        /// All of it.
        log: History,
    },
    /// It serves this view, from this log.
    Serves {
        /// The view.
        view: u64,
        /// Whose store.
        who: Identity,
        /// Which run of its process.
        run: u8,
        /// With all that it held then.
        log: History,
    },
}

/// A sentence that two facts break.
pub(super) fn conflict(one: &Fact, other: &Fact) -> Option<String> {
    use Fact::{Committed, Decided, Entry, Serves};
    match (one, other) {
        (Decided(one), Decided(other)) => of_views(one, other),
        (Entry(one), Entry(other)) if one.viewstamp == other.viewstamp && one != other => {
            Some(format!("equal viewstamps, equal bytes: {one:?} and {other:?}"))
        }
        (Serves { view, who, run, .. }, Serves { view: other_view, who: other, run: other_run, .. })
            if view == other_view && (who, run) != (other, other_run) =>
        {
            Some(format!("one run of one store serves a view: {view} by {who:?} run {run}, {other:?} run {other_run}"))
        }
        (Committed { log, .. }, Committed { log: other, .. }) => parting(log, other)
            .map(|(one, other)| format!("of two committed logs one is the beginning of the other: {one} and {other}")),
        (Committed { view, log }, Serves { view: served, who, log: held, .. })
        | (Serves { view: served, who, log: held, .. }, Committed { view, log })
            if view < served =>
        {
            missing(log, held).map(|gone| {
                format!(
                    "who serves holds all that is committed: {gone} of view {view}, view {served} by {}",
                    who.member
                )
            })
        }
        _ => None,
    }
}

/// Whether the first says all that the second says: a longer log, committed in no higher view.
pub(super) fn covers(strong: &Fact, weak: &Fact) -> bool {
    match (strong, weak) {
        (Fact::Committed { view, log }, Fact::Committed { view: later, log: shorter }) => {
            view <= later && log.base == shorter.base && log.viewstamps.starts_with(&shorter.viewstamps)
        }
        _ => false,
    }
}

fn of_views(one: &View, other: &View) -> Option<String> {
    if one.number == other.number && one != other {
        return Some(format!("a view number is decided once: {one:?} and {other:?}"));
    }
    let (old, new) = if one.number < other.number { (one, other) } else { (other, one) };
    if old.number + 1 != new.number {
        return None;
    }
    new.may_follow(old).err().map(|problem| format!("each view may follow the one before: {problem}"))
}

/// Where two logs part.
fn parting(one: &History, other: &History) -> Option<(Viewstamp, Viewstamp)> {
    let pairs = one.viewstamps.iter().flat_map(|mine| other.viewstamps.iter().map(move |theirs| (*mine, *theirs)));
    pairs.into_iter().find(|(mine, theirs)| mine.op == theirs.op && mine != theirs)
}

/// The first committed viewstamp that a log lacks.
fn missing(committed: &History, held: &History) -> Option<Viewstamp> {
    committed.viewstamps.iter().copied().find(|stamp| stamp.op > held.base && !held.viewstamps.contains(stamp))
}
