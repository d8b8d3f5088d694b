//! What must hold in every run, whatever goes wrong. Each check is a function, and its doc is the sentence.
//!
//! | sentence | source |
//! |---|---|
//! | A view number is decided once. | Paxos; rule S1 |
//! | Every in-sync set is a majority. | S6 |
//! | At most one member commits in a view, in one run of its process. | S8 |
//! | An entry is committed only while a majority of the view's in-sync members hold it durably, and the barrier. | S3 |
//! | Committed entries never change. | Viewstamped Replication |
//! | Whoever begins to serve holds everything committed. | S4 |
//! | Equal viewstamps, equal bytes. | S8 |
//! | Promise, vote, proposal and view never go back in a store. | S2, S11 |
//! | An acknowledgement names what is durable and part of the view's log. | S2, S3 |
//! | A report names a durable log. | S4 |
//! | A member says nothing of a view other than the one it entered. | S2 |
//! | Executed histories are one history. | S9 |
//! | An answered command is executed once, and in real-time order. | S9, linearizability |
//! | Each step's output is bounded. | bounds |

use std::collections::{BTreeMap, BTreeSet};

use paxos::Decree;
use rsm::{Control, Identity, Incarnation, MemberId, Message, Output, Record, Standing, View, Viewstamp, limits};

use super::counters::Counters;
use super::ledger::{CommandId, Ledger};
use super::register::{Executed, Register};
use super::store::Image;
use super::trace::brief_view;

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

/// Messages that one group of inputs may cause, per input: the whole window to each member, and some.
const SENDS_PER_INPUT: usize = 4 * rsm::MEMBERS_MAX * limits::WINDOW_ENTRIES;

/// All that the checks remember.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    pub(crate) ledger: Ledger,
    pub(crate) counters: Counters,
    views: BTreeMap<u64, View>,
    /// Who served in a view, in which run.
    served: BTreeMap<u64, (MemberId, Run)>,
    last_server: Option<MemberId>,
    /// The highest op whose answer a client has.
    answered: u64,
}

impl Invariants {
    /// The highest decided view that any store knows, or is about to.
    pub(crate) fn last_view(&self) -> Option<&View> {
        self.views.values().next_back()
    }

    /// A view number is decided once. Every in-sync set is a majority.
    pub(crate) fn decided(&mut self, view: &View) -> Check {
        if let Some(known) = self.views.get(&view.number) {
            if known != view {
                let detail = format!("{} and {}", brief_view(known), brief_view(view));
                return Err(Violation::new("a view number is decided once", detail));
            }
            return Ok(());
        }
        let in_sync: BTreeSet<MemberId> = view.in_sync().map(|slot| slot.member).collect();
        if in_sync.len() < view.majority() || !in_sync.contains(&view.primary) {
            return Err(Violation::new("every in-sync set is a majority", brief_view(view)));
        }
        if let Some(parent) = view.number.checked_sub(1).and_then(|number| self.views.get(&number)) {
            if view.parent != Decree::hash(parent) {
                return Err(Violation::new("a view number is decided once", format!("{} has no parent", view.number)));
            }
            self.count_change(&parent.clone(), view);
        } else if view.number == 1 {
            self.counters.hit("founded");
        }
        self.views.insert(view.number, view.clone());
        Ok(())
    }

    fn count_change(&mut self, parent: &View, view: &View) {
        self.counters.hit("view changes");
        if !self.served.contains_key(&parent.number) {
            self.counters.hit("views decided and never served");
        }
        let mut promoted = 0;
        for (old, new) in parent.slots.iter().zip(&view.slots) {
            if old.incarnation != new.incarnation {
                self.counters.hit("members replaced");
            } else if (old.standing, new.standing) == (Standing::Syncing, Standing::InSync) {
                promoted += 1;
            }
        }
        self.counters.add("promotions", promoted);
        if promoted > 0 && parent.primary != view.primary {
            self.counters.hit("fail-overs that promote");
        }
    }

    /// Promise, vote, proposal and view never go back in a store.
    pub(crate) fn control_follows(&self, old: &Control, new: &Control) -> Check {
        let wrong = |what: &str| Err(Violation::new("promise, vote and view never go back", what.to_owned()));
        let Some(old) = &old.config else { return Ok(()) };
        let Some(new) = &new.config else { return wrong("the view was forgotten") };
        if new.last.number < old.last.number {
            return wrong(&format!("view {} after view {}", new.last.number, old.last.number));
        }
        if new.last.number == old.last.number {
            if new.promised < old.promised {
                return wrong(&format!("promise {:?} after {:?}", new.promised, old.promised));
            }
            let ballot = |vote: &Option<paxos::Vote<View>>| vote.as_ref().map(|vote| vote.ballot);
            if ballot(&new.vote) < ballot(&old.vote) || ballot(&new.proposal) < ballot(&old.proposal) {
                return wrong(&format!("vote {:?} after {:?}", ballot(&new.vote), ballot(&old.vote)));
            }
            if ballot(&new.vote) == ballot(&old.vote) && new.vote != old.vote {
                return wrong("two values were voted for in one ballot");
            }
        }
        Ok(())
    }

    /// Each step's output is bounded.
    pub(crate) fn bounded(&self, inputs: usize, out: &Output) -> Check {
        let records_per_message = limits::MESSAGE_MAX_BYTES / 128 + limits::WINDOW_ENTRIES;
        if out.send.len() > (inputs + 1) * SENDS_PER_INPUT || out.persist.len() > (inputs + 1) * records_per_message {
            let detail = format!("{} messages, {} records by {inputs} inputs", out.send.len(), out.persist.len());
            return Err(Violation::new("each step's output is bounded", detail));
        }
        Ok(())
    }

    /// A record is asked for: nothing goes back.
    pub(crate) fn record(&mut self, before: &Image, record: &Record) -> Check {
        match record {
            Record::Append(_) => Ok(()),
            Record::Control(control) | Record::Install { control, .. } => {
                self.control_follows(&before.control, control)?;
                match record {
                    Record::Install { image, .. } => self.snapshot_is_history(image.viewstamp, &image.state),
                    _ => Ok(()),
                }
            }
            Record::Snapshot { image, .. } => self.snapshot_is_history(image.viewstamp, &image.state),
            Record::TruncateAfter { op } => self.no_committed_entry_goes(before, *op),
        }
    }

    /// A truncation never takes a committed entry away.
    fn no_committed_entry_goes(&self, before: &Image, op: u64) -> Check {
        let gone = before.entries.iter().rev().take_while(|entry| entry.viewstamp.op > op);
        match gone.map(|entry| entry.viewstamp).find(|viewstamp| self.ledger.is_committed(*viewstamp)) {
            Some(gone) => Err(Violation::new("committed entries never change", format!("{gone} is truncated"))),
            None => Ok(()),
        }
    }

    /// A snapshot is a state of the one history.
    fn snapshot_is_history(&self, viewstamp: Viewstamp, state: &[u8]) -> Check {
        let holds = Register::peek(state).zip(self.ledger.op(viewstamp.op));
        if !self.ledger.is_committed(viewstamp) || holds.is_none_or(|(peek, op)| peek.hash != op.hash) {
            let detail = format!("a snapshot at {viewstamp} is not the state there");
            return Err(Violation::new("executed histories are one history", detail));
        }
        Ok(())
    }

    /// A record is durable: only now is a first view in force, and only now (or when it was sent) has an entry its
    /// viewstamp for good. What a crash takes away before that, nobody saw.
    pub(crate) fn durable(&mut self, holder: Incarnation, record: &Record) -> Check {
        self.counters.stored(record);
        match record {
            Record::Append(entry) => {
                self.ledger.see(entry)?;
                self.ledger.hold(holder, entry.viewstamp);
            }
            Record::Install { image, .. } => self.ledger.install(holder, image.viewstamp.op),
            _ => {}
        }
        match record {
            Record::Control(control) | Record::Install { control, .. } => {
                control.config.as_ref().map_or(Ok(()), |config| self.decided(&config.last))
            }
            _ => Ok(()),
        }
    }

    /// A member's commit number moved.
    ///
    /// An entry is committed only while a majority of the view's in-sync members hold it durably, and the barrier; at
    /// most one member commits in a view; committed entries never change.
    pub(crate) fn committed(&mut self, who: Identity, run: Run, entered: Option<&View>, commit: Viewstamp) -> Check {
        if commit.op <= self.ledger.top().op {
            if self.ledger.is_committed(commit) {
                return Ok(());
            }
            let detail = format!("{} says {commit}, but {} was committed", who.member, self.ledger.top());
            return Err(Violation::new("committed entries never change", detail));
        }
        let wrong = |rule, what: &str| Err(Violation::new(rule, format!("{commit} by {}: {what}", who.member)));
        let Some(view) = entered.filter(|view| view.primary == who.member) else {
            return wrong("only the primary of a view commits in it", "no primary said so before");
        };
        match self.served.get(&view.number) {
            Some(server) if *server != (who.member, run) => {
                return wrong("at most one run of one member commits in a view", "another one served in it");
            }
            _ => {}
        }
        if commit.view != view.number {
            return wrong("the barrier commits what is below it", "it is of an older view");
        }
        let holders = view.in_sync().filter(|slot| self.ledger.held(slot.incarnation, commit)).count();
        if holders < view.majority() {
            let what = format!("{holders} in-sync members of {} hold it durably", brief_view(view));
            return wrong("a majority holds what is committed", &what);
        }
        self.ledger.commit(commit)
    }

    /// Whoever begins to serve is the view's primary, in one run of its process, and holds everything committed before.
    pub(crate) fn serves(
        &mut self,
        who: Identity,
        run: Run,
        entered: Option<&View>,
        log: &Image,
        executed: u64,
    ) -> Check {
        let wrong = |rule, what: String| Err(Violation::new(rule, format!("member {}: {what}", who.member)));
        let Some(view) = entered.filter(|view| view.primary == who.member) else {
            return wrong("only the primary of a view serves", "it is none".to_owned());
        };
        if self.served.insert(view.number, (who.member, run)).is_some_and(|server| server != (who.member, run)) {
            return wrong("a restarted primary never resumes its view", format!("view {}", view.number));
        }
        let covered = log.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        let held: BTreeSet<Viewstamp> = log.entries.iter().map(|entry| entry.viewstamp).collect();
        let missing = |viewstamp: &&Viewstamp| viewstamp.view <= view.number && !held.contains(viewstamp);
        if let Some(missing) = self.ledger.committed_above(covered).iter().find(missing) {
            return wrong("whoever serves holds everything committed", format!("{missing} is missing"));
        }
        let barrier = self.ledger.barrier(view.number);
        if barrier.is_none_or(|barrier| executed < barrier.op || !self.ledger.is_committed(barrier)) {
            return wrong("a primary serves after its barrier", format!("{barrier:?}, executed {executed}"));
        }
        if self.last_server.replace(who.member).is_some_and(|last| last != who.member) {
            self.counters.hit("fail-overs");
        }
        Ok(())
    }

    /// A member says nothing of a view other than the one it entered. `entered`: the view before this
    /// group of inputs, and after it.
    pub(crate) fn emitted(&self, who: Identity, entered: (u64, u64), message: &Message) -> Check {
        let view = match message {
            Message::Append { view, .. }
            | Message::Ack { view, .. }
            | Message::Heartbeat { view, .. }
            | Message::Report { view, .. } => *view,
            _ => return Ok(()),
        };
        if view < entered.0 || view > entered.1 {
            let detail = format!("member {} entered {entered:?} and sends {message:?}", who.member);
            return Err(Violation::new("a member speaks of the view it entered only", detail));
        }
        Ok(())
    }

    /// A message leaves: equal viewstamps, equal bytes; an acknowledgement names what is durable and part of the view's log, a report a durable log.
    pub(crate) fn leaves(&mut self, who: Identity, message: &Message) -> Check {
        self.counters.sent(message);
        let wrong = |rule, what: String| Err(Violation::new(rule, format!("member {}: {what}", who.member)));
        match message {
            Message::Ack { view, verified, .. } => {
                if !self.ledger.held(who.incarnation, *verified) {
                    return wrong("acknowledged means durable", format!("{verified} in view {view}"));
                }
                let old = verified.view < *view && !self.ledger.is_committed(*verified);
                let strange = |barrier| old && !self.ledger.is_below(*verified, barrier);
                if self.ledger.barrier(*view).is_some_and(strange) || verified.view > *view {
                    return wrong("acknowledged means part of the view's log", format!("{verified} in view {view}"));
                }
                Ok(())
            }
            Message::Append { entries, .. } | Message::Entries { entries, .. } => {
                entries.iter().try_for_each(|entry| self.ledger.see(entry))
            }
            Message::Paxos(paxos::Message::Decided { value }) => self.decided(value),
            Message::Report { view, last, .. } if !self.ledger.held(who.incarnation, *last) => {
                wrong("reported means durable", format!("{last} in view {view}"))
            }
            _ => Ok(()),
        }
    }

    /// Executed histories are one history, and nothing is executed before it is committed.
    pub(crate) fn executed(&self, who: Identity, executed: Executed) -> Check {
        match self.ledger.op(executed.op) {
            Some(op) if op.hash == executed.hash => Ok(()),
            found => {
                let detail = format!("member {} at op {}: {found:?} is committed", who.member, executed.op);
                Err(Violation::new("executed histories are one history", detail))
            }
        }
    }

    /// An op is executed after the one before, once in a run.
    pub(crate) fn in_order(&self, who: Identity, disorder: Option<(u64, u64)>) -> Check {
        disorder.map_or(Ok(()), |(last, then)| {
            let detail = format!("member {}: op {then} after op {last}", who.member);
            Err(Violation::new("ops are executed in order, once", detail))
        })
    }

    /// The highest op that clients know of at this moment: what is asked for from now on comes after it.
    pub(crate) fn horizon(&self) -> u64 {
        self.answered
    }

    /// An answered command is executed once, with this result, after everything that was answered before it was sent.
    pub(crate) fn answered(&self, command: CommandId, horizon: u64, answer: &[u8]) -> Check {
        let wrong = |what: String| {
            Err(Violation::new(
                "an answered command is executed once, in real-time order",
                format!("{command:?}: {what}"),
            ))
        };
        let Some(told) = Register::peek(answer) else { return wrong("the answer is none".to_owned()) };
        if self.ledger.op_of(command) != Some(told.op) {
            return wrong(format!("answered as op {}, executed as {:?}", told.op, self.ledger.op_of(command)));
        }
        if self.ledger.op(told.op).is_none_or(|op| op.hash != told.hash || op.command != Some(command)) {
            return wrong(format!("the answer at op {} is not the history's", told.op));
        }
        if told.op <= horizon {
            return wrong(format!("op {} was ordered before op {horizon}, answered before it was asked", told.op));
        }
        Ok(())
    }

    /// A client has an answer.
    pub(crate) fn heard(&mut self, answer: &[u8]) {
        self.answered = self.answered.max(Register::peek(answer).map_or(0, |told| told.op));
    }

    /// Whether anybody ever served.
    pub(crate) fn has_served(&self) -> bool {
        self.last_server.is_some()
    }
}
