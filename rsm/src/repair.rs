//! A member whose log has lost entries that were durable: how it gets them from the others, before it takes part in anything.
//!
//! # Why it is right
//!
//! *A member that repairs its log is down.* It acknowledges, reports, votes and promises nothing; all that it does is ask for entries, and
//! give to others that repair theirs. A cluster bears f members that are down; the repair needs no rule of its own in the protocol, if what
//! comes up again is a store that is allowed to come up. There are two such stores.
//!
//! 1. **The log as it was.** A hole lies between two viewstamps: that of the last whole entry before it, and the one that the first
//!    whole entry beyond it names as its predecessor. Two logs that share a viewstamp are the same up to it; so each log that holds the upper one
//!    has the very entries that were lost, whoever's it is, in whatever role he is, committed or not. What comes is taken only if
//!    it forms a chain, and the log is written only when the chain reaches the upper viewstamp, in one atomic step
//!    ([`nvm_log::Store::repair`]). A member with that log, its promises (which were whole) and its incarnation is the member that it was.
//!    Where the others' chain leaves mine before the hole, a truncation was lost with it, and what I have above that place was dropped by it.
//! 2. **An empty store of a new incarnation** (S10), where that cannot be had: the log's end is lost and nothing says what it
//!    was, nobody has the entries any more, or the log has no room for a repair. It is safe at any time; but each store that is given up counts
//!    as one of the f that may be lost. So it is done only on the word of a primary that serves, with a majority in contact without me:
//!    they hold all that was ever committed, and none of them needs mine.
//!
//! So members that are damaged in different places repair each other, all of them at once if need be: each entry must be
//! whole somewhere. What cannot be repaired like that waits for a majority, rather than lie. Nothing here is durable before the end: a
//! crash finds the damaged store as it was.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::{
    Control, Entry, Identity, MemberId, Message, Micros, Output, Recovered, Send, SnapshotImage, Status, Timing, View,
    Viewstamp, limits,
};

/// So often all others are asked in vain before a store is given up.
const ROUNDS_IN_VAIN: u32 = 5;

/// A store whose log is damaged.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// What it holds. The entries are in order, and have gaps.
    pub recovered: Recovered,
    /// For people: the ops that are lost.
    pub ops: String,
    /// The last op that is lost.
    pub last_lost: u64,
}

/// What a repair has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log is whole: these are its entries from the first that was missing on.
    Whole(Vec<Arc<Entry>>),
    /// The store is to be given up, for an empty one of a new incarnation.
    GivenUp,
}

/// The repair of one member's log.
#[derive(Debug)]
pub struct Repair {
    identity: Identity,
    control: Control,
    snapshot: Option<Arc<SnapshotImage>>,
    others: Vec<MemberId>,
    timing: Timing,
    /// The viewstamp before the first entry.
    base: Viewstamp,
    /// By the last op of each.
    entries: BTreeMap<u64, Arc<Entry>>,
    /// Up to here the log is as the store has it.
    untouched: Viewstamp,
    /// Nothing says how the log ended: only a new incarnation is safe.
    end_is_lost: bool,
    ops: String,
    /// Who is asked, as a place among the others, and since when.
    asked: Option<(usize, Micros)>,
    rounds_in_vain: u32,
    verdict: Option<Verdict>,
    /// For people: how many ops came from whom.
    fetched_ops: BTreeMap<MemberId, u64>,
}

impl Repair {
    /// Of this store. The members that can help are those of its last view, and the others that it was told of.
    pub fn new(damaged: Damaged, told: &[MemberId], timing: Timing) -> Repair {
        let Damaged { recovered: Recovered { identity, control, snapshot, entries, .. }, ops, last_lost } = damaged;
        let listed = control.config.iter().flat_map(|config| &config.last.slots).map(|slot| slot.member);
        let mut others: Vec<_> =
            listed.chain(told.iter().copied()).filter(|member| *member != identity.member).collect();
        others.sort_unstable();
        others.dedup();
        let covered = snapshot.as_ref().map_or(Viewstamp::default(), |image| image.viewstamp);
        // What the snapshot covers is of use to others only; where the log's beginning is lost nobody knows its viewstamp.
        let first = entries.first().map(|entry| entry.previous);
        let base = first.filter(|previous| previous.op <= covered.op).unwrap_or(covered);
        let end_is_lost = entries.last().is_none_or(|last| last_lost >= last.viewstamp.op);
        let entries = entries.into_iter().map(|entry| (entry.viewstamp.op, Arc::new(entry)));
        let mut repair = Repair {
            identity,
            control,
            snapshot,
            others,
            timing,
            base,
            entries: entries.collect(),
            untouched: base,
            end_is_lost,
            ops,
            asked: None,
            rounds_in_vain: 0,
            verdict: None,
            fetched_ops: BTreeMap::new(),
        };
        repair.untouched = repair.hole().map_or(repair.last(), |(after, _)| after);
        // Entries that hang together where something is said to be missing are not the log as it was.
        repair.end_is_lost |= repair.hole().is_none();
        repair
    }

    /// Whether there is anybody to ask.
    pub fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// Asks the next member, if the last one has had its time.
    pub fn on_tick(&mut self, now: Micros, out: &mut Output) {
        let is_due = self.asked.is_none_or(|(_, at)| now >= at + self.timing.retransmit);
        if is_due && self.verdict.is_none() {
            self.ask_next(now, out);
        }
    }

    /// A message of another member.
    pub fn on_message(&mut self, now: Micros, from: Identity, message: Message, out: &mut Output) {
        match message {
            Message::FetchLost { after, upto } => {
                let (previous, entries) = (after, upto.map_or_else(Vec::new, |upto| self.kept(after, upto)));
                let message = Message::Kept { upto, previous, entries, serves: false };
                out.send.push(Send { to: from.member, after: 0, message });
            }
            Message::Kept { upto, previous, entries, serves } if self.verdict.is_none() => {
                self.on_kept(now, from.member, upto, previous, entries, serves, out);
            }
            _ => {}
        }
    }

    /// What it has come to; once, then the repair is at its end.
    pub fn take_verdict(&mut self) -> Option<Verdict> {
        self.verdict.take()
    }

    /// The log could not be written: what it held has to come from elsewhere.
    pub fn cannot_be_stored(&mut self) {
        self.end_is_lost = true;
    }

    /// What the store holds, with its log whole: so that what was damaged takes its room twice.
    pub fn into_recovered(self) -> Recovered {
        let dead_bytes = self.since_untouched().iter().map(|entry| entry.size_bytes() as u64).sum();
        let Repair { identity, control, snapshot, entries, .. } = self;
        let entries = entries.into_values().map(Arc::unwrap_or_clone).collect();
        Recovered { identity, control, snapshot, entries, dead_bytes }
    }

    /// Whose store it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The last view, for a successor of this store.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// For people: the ops that were lost.
    pub fn ops(&self) -> &str {
        &self.ops
    }

    /// For people: how many ops came from whom.
    pub fn fetched_ops(&self) -> &BTreeMap<MemberId, u64> {
        &self.fetched_ops
    }

    /// What the member says of itself meanwhile.
    pub fn status(&self) -> Status {
        let view: Option<View> = self.control.config.as_ref().map(|config| config.last.clone());
        let executed_op = self.snapshot.as_ref().map_or(0, |image| image.viewstamp.op);
        let asked: Vec<String> = self.others.iter().map(MemberId::to_string).collect();
        let asked = asked.join(", ");
        let waits_for = match self.end_is_lost {
            false => format!("ops {} of its log are damaged: asks member {asked} for them", self.ops),
            true => format!(
                "ops {} of its log are damaged and cannot be had one by one: waits until a majority serves, to begin anew",
                self.ops
            ),
        };
        Status {
            identity: self.identity,
            view,
            serving: false,
            is_primary: false,
            is_leaving: false,
            executed_op,
            state_hash: 0,
            commit_op: executed_op,
            last: self.last(),
            acknowledged: BTreeMap::new(),
            log_bytes: 0,
            log_capacity_bytes: 0,
            waits_for: Some(waits_for),
        }
    }

    fn last(&self) -> Viewstamp {
        self.entries.values().next_back().map_or(self.base, |entry| entry.viewstamp)
    }

    fn contains(&self, viewstamp: Viewstamp) -> bool {
        viewstamp == self.base || self.entries.get(&viewstamp.op).is_some_and(|entry| entry.viewstamp == viewstamp)
    }

    /// The first hole: what lies before, and what the entry beyond names as its predecessor.
    fn hole(&self) -> Option<(Viewstamp, Viewstamp)> {
        let mut before = self.base;
        for entry in self.entries.values() {
            if entry.previous != before {
                return Some((before, entry.previous));
            }
            before = entry.viewstamp;
        }
        None
    }

    /// What I can give to another that repairs its log: what follows a place that we share. With a hole of my own I may not know whether
    /// the upper end of his is on my log; he does, when the chain reaches it, and begins again where it does not.
    fn kept(&self, after: Viewstamp, upto: Viewstamp) -> Vec<Arc<Entry>> {
        let mut kept = Vec::new();
        if !self.holds(after) || after.op >= upto.op {
            return kept;
        }
        let (mut place, mut bytes) = (after, 0);
        for entry in self.entries.range(after.op + 1..=upto.op).map(|(_, entry)| entry) {
            bytes += entry.size_bytes();
            let is_too_much = bytes > limits::MESSAGE_MAX_BYTES && !kept.is_empty();
            if entry.previous != place || entry.viewstamp > upto || is_too_much {
                break;
            }
            place = entry.viewstamp;
            kept.push(Arc::clone(entry));
        }
        kept
    }

    /// Whether a viewstamp is on my log: its entry may be lost, where the next one names it.
    fn holds(&self, viewstamp: Viewstamp) -> bool {
        let next = self.entries.range((Bound::Excluded(viewstamp.op), Bound::Unbounded)).next();
        self.contains(viewstamp) || next.is_some_and(|(_, entry)| entry.previous == viewstamp)
    }

    fn ask_next(&mut self, now: Micros, out: &mut Output) {
        let next = match self.asked {
            Some((place, _)) if place + 1 < self.others.len() => place + 1,
            Some(_) => {
                self.rounds_in_vain = self.rounds_in_vain.saturating_add(1);
                0
            }
            None => 0,
        };
        self.ask(now, next, out);
    }

    fn ask(&mut self, now: Micros, place: usize, out: &mut Output) {
        let Some(to) = self.others.get(place).copied() else { return };
        self.asked = Some((place, now));
        let (after, upto) = match self.hole() {
            Some((after, upto)) if !self.end_is_lost => (after, Some(upto)),
            _ => (self.last(), None),
        };
        out.send.push(Send { to, after: 0, message: Message::FetchLost { after, upto } });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn on_kept(
        &mut self,
        now: Micros,
        from: MemberId,
        upto: Option<Viewstamp>,
        previous: Viewstamp,
        entries: Vec<Arc<Entry>>,
        serves: bool,
        out: &mut Output,
    ) {
        let hole = self.hole();
        if !self.end_is_lost && upto.is_some() && upto == hole.map(|(_, upto)| upto) && self.fill(previous, &entries) {
            *self.fetched_ops.entry(from).or_default() +=
                entries.iter().map(|entry| entry.op_count() as u64).sum::<u64>();
            self.rounds_in_vain = 0;
            return match (self.hole(), self.asked) {
                (None, _) => self.verdict = Some(Verdict::Whole(self.since_untouched())),
                (Some(_), Some((place, _))) => self.ask(now, place, out),
                (Some(_), None) => {}
            };
        }
        let is_in_vain = self.end_is_lost || self.rounds_in_vain >= ROUNDS_IN_VAIN;
        if serves && is_in_vain {
            self.verdict = Some(Verdict::GivenUp);
        }
    }

    /// Takes entries into the first hole. They follow the place before it, or one before that, from which on the log had been
    /// replaced; false if they do neither, or bring nothing.
    fn fill(&mut self, previous: Viewstamp, entries: &[Arc<Entry>]) -> bool {
        let Some((after, upto)) = self.hole() else { return false };
        let mut reached = previous;
        for entry in entries {
            if !entry.is_sound() || entry.previous != reached || entry.viewstamp > upto || entry.viewstamp.op > upto.op
            {
                return false;
            }
            reached = entry.viewstamp;
        }
        let brings = previous == after || reached.view > after.view || reached.op > after.op;
        if entries.is_empty() || !brings || previous.op > after.op || !self.contains(previous) {
            return false;
        }
        self.untouched = self.untouched.min(previous);
        let dropped: Vec<u64> = self.entries.range(previous.op + 1..=upto.op).map(|(op, _)| *op).collect();
        for op in dropped {
            self.entries.remove(&op);
        }
        self.entries.extend(entries.iter().map(|entry| (entry.viewstamp.op, Arc::clone(entry))));
        true
    }

    fn since_untouched(&self) -> Vec<Arc<Entry>> {
        self.entries.range(self.untouched.op + 1..).map(|(_, entry)| Arc::clone(entry)).collect()
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
