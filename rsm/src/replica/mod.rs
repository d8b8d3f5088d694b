//! One member's core: takes inputs, returns what is to be persisted, sent and answered.
//!
//! The protocol is split by concern, one file each; each file begins with the argument why its part is safe:
//!
//! | file | concern | rules |
//! |---|---|---|
//! | `founding.rs` | a store without a view: asking, founding, joining | S10 |
//! | `views.rs` | deciding views by Paxos, entering them, proposing planned ones | S1, S2, S5, S6, S7, S11 |
//! | `suspicion.rs` | who is gone, prevote, candidacy, stepping down | section 4 |
//! | `view_change.rs` | reports, choosing a log, fetching it, the barrier | S4, S8 |
//! | `normal.rs` | batches, append, acknowledge, commit | S3, S8 |
//! | `execution.rs` | executing, answering, comparing states | S9 |
//! | `snapshots.rs` | taking snapshots in parts, and when | S9 |
//! | `membership.rs` | changes of the list of members that an operator asks for | S12 |
//! | `leaving.rs` | a store that is no longer listed: what it owes the others before it stops | S1, S12 |
//! | `witness.rs` | a member that holds the log's tail and no state | S13 |
//! | `catch_up.rs` | what a laggard gets: log tail or snapshot | section 4 |
//! | `damage.rs` | entries for a member whose log has a hole; damage to the own medium | S4 |
//! | `recovery.rs` | what a member is when it starts, from what its store held | S8, S10 |
//! | `status.rs` | what it says of itself, for people | |
//! | `abstraction.rs` | the core without its clock, for the model checker only | |

#[cfg(any(test, feature = "model"))]
mod abstraction;
mod catch_up;
mod damage;
mod execution;
mod founding;
mod leaving;
mod membership;
mod normal;
mod random;
mod recovery;
mod roles;
mod snapshots;
mod status;
mod suspicion;
mod view_change;
mod views;
mod witness;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::log::Log;
#[cfg(any(test, feature = "mutants"))]
use crate::mutant::Mutant;
use crate::{
    ClusterId, Control, Entry, Identity, Incarnation, Input, Kind, MemberId, Message, Micros, Output, Record,
    Rejection, Send, Settings, SnapshotImage, StateMachine, Token, View, Viewstamp,
};
#[cfg(any(test, feature = "model"))]
pub use abstraction::timeless;
use random::Random;
use roles::{Candidacy, Command, PendingChange, Role, Transfer};
use snapshots::UnderWay;

/// One member's core. All fields are volatile but those that [`Control`], the log and the snapshot repeat.
#[derive(Clone, Debug)]
pub struct Replica<M> {
    settings: Settings,
    identity: Identity,
    /// What this member stores; fixed for its life.
    kind: Kind,
    machine: M,
    random: Random,
    started_at: Micros,
    role: Role,

    /// View 1 as a founder sent it, not in force.
    founding: Option<View>,
    /// Promises, votes and the last decided view; present once a view in force is known.
    paxos: Option<paxos::Node<View>>,
    /// A view that this member tries to get decided, or the wish to.
    candidacy: Option<Candidacy>,
    /// The view in which this store was last listed, in this run; to be replaced after that is the end of this store.
    listed_in: Option<u64>,
    /// The last message from each member under the incarnation that the view lists.
    heard: BTreeMap<MemberId, Micros>,
    /// Which stores the entered view lists, to see which are new in the next.
    listed: BTreeMap<MemberId, Incarnation>,
    /// A change of the members that waits to be made; on a primary only.
    change: Option<PendingChange>,

    log: Log,
    /// My log is durable up to here.
    durable: Viewstamp,
    /// What another host holds as well, where that is needed (S14).
    guarded: Option<Viewstamp>,
    /// Appended entries on their way to the medium.
    unflushed: VecDeque<(Token, Viewstamp)>,
    /// My log is matched with the primary's log of the entered view up to here. At the start of each view and run that is
    /// what I have executed: it is committed, so each later primary has it.
    verified: Viewstamp,
    /// Known committed up to here; never above what quorums hold.
    commit: Viewstamp,
    /// Executed up to here.
    executed: Viewstamp,
    /// The state's hash after recent entries.
    hashes: VecDeque<(u64, u64)>,

    snapshot: Option<Arc<SnapshotImage>>,
    /// A snapshot of my own on its way to the medium.
    snapshot_under_way: Option<UnderWay>,
    /// A snapshot of this entry, or of a later one, was asked for.
    snapshot_wanted: Viewstamp,
    /// Time has passed, or room has become scarce, since its last part.
    is_part_due: bool,
    /// The snapshot before, on its way out.
    shedding: Option<SnapshotImage>,
    /// The snapshot that a laggard fetches, and when it last asked: it stays while a newer one takes its place.
    lent: Option<(Arc<SnapshotImage>, Micros)>,
    /// The log's growth since the last snapshot, bytes.
    grown_bytes: usize,
    /// A snapshot that is being fetched from another member.
    transfer: Option<Transfer>,
    /// When a witness last asked for a snapshot, or a member that stands for nothing for the last view.
    asked_at: Micros,

    last_token: Token,
    durable_token: Token,
    /// The record with which the last view was entered in this run; 0 when that was in an earlier one.
    entered_token: Token,
    /// When a record last became durable, or when none was on its way.
    flushed_at: Micros,
    /// How many views in a row this member gave up as primary before they served.
    barren_views: u32,
    #[cfg(any(test, feature = "mutants"))]
    mutant: Option<Mutant>,
}

impl<M: StateMachine> Replica<M> {
    /// Takes one input in.
    pub fn step(&mut self, now: Micros, input: Input, out: &mut Output) {
        match input {
            Input::Tick => self.on_tick(now, out),
            Input::Message { cluster, from, message } => self.on_message(now, cluster, from, message, out),
            Input::Submit { tag, command, urgent } => self.on_submit(tag, command, urgent, out),
            Input::Durable { token } => self.on_durable(now, token, out),
            Input::Unreachable { member, incarnation } => self.on_unreachable(now, member, incarnation, out),
            Input::HandOver { to } => self.on_hand_over(now, to, out),
            Input::Guarded { upto } => self.on_guarded(now, upto, out),
            Input::Change { tag, change } => self.on_change(now, tag, change, out),
            Input::Damaged { damage } => self.on_damaged(damage, out),
        }
    }

    /// All inputs that waited were taken in: what waits for a batch goes out as one. To be called after each group of
    /// steps, before the outputs are carried out.
    pub fn settle(&mut self, now: Micros, out: &mut Output) {
        self.form_batches(now, out);
        self.execute(out);
        self.tend_snapshot(out);
    }

    fn on_tick(&mut self, now: Micros, out: &mut Output) {
        match &self.role {
            Role::Founding(_) => self.tick_founding(now, out),
            Role::Outsider { .. } => self.tick_outsider(now, out),
            Role::Backup(_) => self.tick_backup(now, out),
            Role::Primary(_) => self.tick_primary(now, out),
            Role::Retired { .. } => {}
            Role::Leaving(_) => self.tick_leaving(now, out),
        }
        self.is_part_due = true;
        self.tick_candidacy(now, out);
        self.tick_transfer(now, out);
        self.tick_witness(now, out);
        self.tick_change(now, out);
    }

    fn on_message(&mut self, now: Micros, cluster: ClusterId, from: Identity, message: Message, out: &mut Output) {
        let own = self.cluster();
        if from.member == self.identity.member && from.incarnation == self.identity.incarnation {
            return;
        }
        if from.incarnation == Incarnation::NOBODY {
            return;
        }
        if own != ClusterId(0) && cluster != ClusterId(0) && own != cluster {
            return;
        }
        // One that asks for what it has lost is as good as down, and maybe about to give its store up.
        if let Message::FetchLost { after, upto } = message {
            return self.on_fetch_lost(now, from.member, after, upto, out);
        }
        if self.view().is_some_and(|view| view.lists(from.member, from.incarnation)) {
            self.heard.insert(from.member, now);
        }
        match message {
            Message::Paxos(message) => self.on_paxos(now, from, message, out),
            Message::Ask(theirs) => self.on_ask(now, from, theirs, out),
            Message::Standing(theirs) => self.on_standing(now, from, theirs, out),
            Message::Found { view } => self.on_found(from, view, out),
            Message::FoundStored { hash } => self.on_found_stored(now, from, hash, out),
            Message::Join { address, kind } => self.on_join(now, from, address, kind, out),
            Message::JoinRefused { reason } => self.on_join_refused(reason),
            message => self.on_view_message(now, from, message, out),
        }
    }

    /// Messages that belong to a view: acted on only in that very view, and only from stores that it lists.
    fn on_view_message(&mut self, now: Micros, from: Identity, message: Message, out: &mut Output) {
        let Some(view) = self.view() else { return };
        let (number, listed) = (view.number, view.lists(from.member, from.incarnation));
        let Some(theirs) = message.view() else { return };
        if theirs > number {
            self.send(from.member, Message::Paxos(paxos::Message::Fetch { above: number }), out);
            return;
        }
        if theirs < number {
            if expects_an_answer(&message) {
                let value = view.clone();
                self.send(from.member, Message::Paxos(paxos::Message::Decided { value }), out);
            }
            return;
        }
        if !listed || !self.is_listed() {
            return;
        }
        match message {
            Message::Append { previous, entries, commit, .. } => {
                self.on_append(now, from.member, previous, entries, commit, out);
            }
            Message::Ack { verified, executed, .. } => self.on_ack(now, from.member, verified, executed, out),
            Message::Mismatch { refused, have, .. } => self.on_mismatch(now, from.member, refused, have, out),
            Message::Heartbeat { commit, health, .. } => {
                self.on_heartbeat(now, from.member, commit, health, out);
            }
            Message::StepDown { .. } => self.on_step_down(now, from.member),
            Message::PreVote { .. } => self.on_pre_vote(now, from.member, out),
            Message::PreVoteAnswer { yes, last, log_start, ready, .. } => {
                self.on_pre_vote_answer(now, from.member, roles::Answer { yes, last, log_start, ready }, out);
            }
            Message::Report { last, .. } => self.on_report(now, from.member, last, out),
            Message::Fetch { after, .. } => self.on_fetch(now, from.member, after, out),
            Message::Entries { previous, entries, commit, .. } => {
                self.on_entries(now, from.member, previous, entries, commit, out);
            }
            Message::Unmatched { have, .. } => self.on_unmatched(now, from.member, have, out),
            Message::SnapshotOffer { viewstamp, bytes, hash, .. } => {
                self.on_snapshot_offer(now, from.member, viewstamp, bytes, hash, out);
            }
            Message::FetchChunk { viewstamp, offset, .. } => {
                self.on_fetch_chunk(now, from.member, viewstamp, offset, out);
            }
            Message::Chunk { viewstamp, offset, bytes, .. } => {
                self.on_chunk(now, from.member, viewstamp, offset, bytes, out);
            }
            Message::Diverged { op, hash, .. } => self.on_diverged(from.member, op, hash, out),
            Message::Release { upto, .. } => self.on_release(from.member, upto, out),
            Message::WantSnapshot { above, .. } => self.on_want_snapshot(now, from.member, above, out),
            _ => {}
        }
    }

    fn on_durable(&mut self, now: Micros, token: Token, out: &mut Output) {
        assert!(token <= self.last_token, "only what was asked for becomes durable");
        self.durable_token = self.durable_token.max(token);
        self.flushed_at = now;
        let before = self.durable;
        while let Some((_, viewstamp)) = self.unflushed.pop_front_if(|(needed, _)| *needed <= token) {
            self.durable = viewstamp;
        }
        self.finish_own_snapshot(token);
        if self.durable != before {
            self.count_or_acknowledge(now, out);
        }
    }

    fn on_guarded(&mut self, now: Micros, upto: Option<Viewstamp>, out: &mut Output) {
        self.guarded = upto;
        self.count_or_acknowledge(now, out);
    }

    /// There is more that this member may promise: to itself, as primary, or to the primary.
    fn count_or_acknowledge(&mut self, now: Micros, out: &mut Output) {
        match &self.role {
            Role::Primary(_) => self.advance_commit(now, out),
            _ => self.acknowledge(out),
        }
    }

    // ----- small things that every part uses

    /// The last decided view; entered, if it lists this store.
    pub fn view(&self) -> Option<&View> {
        self.paxos.as_ref().map(paxos::Node::last)
    }

    fn view_number(&self) -> u64 {
        self.view().map_or(0, |view| view.number)
    }

    fn cluster(&self) -> ClusterId {
        self.view().map_or(ClusterId(0), |view| view.cluster)
    }

    /// Whose store this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its timers.
    pub fn timing(&self) -> crate::Timing {
        self.settings.timing
    }

    /// The place up to which this member's own log is durable.
    pub fn stored(&self) -> Viewstamp {
        self.durable
    }

    /// The last place of this member's log that it may promise to hold: durable, and guarded where that is needed (S14).
    fn held(&self) -> Viewstamp {
        #[cfg(any(test, feature = "mutants"))]
        if self.is_mutant(Mutant::RingUnguarded) {
            return self.durable;
        }
        match self.guarded {
            Some(upto) if upto < self.durable => self.log.floor(upto).unwrap_or_default(),
            _ => self.durable,
        }
    }

    /// The last snapshot, and the log behind it.
    pub fn parts(&self) -> (Option<Arc<SnapshotImage>>, Vec<Arc<Entry>>) {
        let from = self.snapshot.as_ref().map_or(self.log.base(), |image| image.viewstamp);
        (self.snapshot.clone(), self.log.after(from, usize::MAX))
    }

    /// Whether the last decided view lists this very store; then it has also been entered (S2).
    fn is_listed(&self) -> bool {
        self.view().is_some_and(|view| view.lists(self.identity.member, self.identity.incarnation))
    }

    fn is_in_sync(&self) -> bool {
        self.view().is_some_and(|view| view.is_in_sync(self.identity.member, self.identity.incarnation))
    }

    fn others(&self) -> Vec<MemberId> {
        let me = self.identity.member;
        self.view().map_or_else(Vec::new, |view| {
            view.slots.iter().map(|slot| slot.member).filter(|member| *member != me).collect()
        })
    }

    /// Nothing leaves before it is durable that the view was entered (S2): else a primary that loses that record in a crash
    /// would enter its view a second time, and assign its op numbers again.
    fn send(&self, to: MemberId, message: Message, out: &mut Output) {
        self.send_after(self.entered_token, to, message, out);
    }

    fn send_after(&self, after: Token, to: MemberId, message: Message, out: &mut Output) {
        out.send.push(Send { to, after, message });
    }

    fn persist(&mut self, record: Record, out: &mut Output) -> Token {
        out.persist.push(record);
        self.last_token += 1;
        self.last_token
    }

    fn persist_control(&mut self, out: &mut Output) -> Token {
        let control = self.control();
        self.persist(Record::Control(control), out)
    }

    fn append(&mut self, entry: Arc<Entry>, out: &mut Output) {
        let viewstamp = entry.viewstamp;
        self.grown_bytes += entry.size_bytes();
        self.log.append(Arc::clone(&entry));
        let token = self.persist(Record::Append(entry), out);
        self.unflushed.push_back((token, viewstamp));
    }

    fn fail(&self, line: String, out: &mut Output) {
        out.fault.get_or_insert(line);
    }

    /// Whether a test has put this bug back.
    #[cfg(any(test, feature = "mutants"))]
    fn is_mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Puts a known bug back.
    #[cfg(any(test, feature = "mutants"))]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutant = mutant;
        crate::mutant::set_lenient(mutant == Some(Mutant::TwoSlotsInOneView));
        self.paxos = self.paxos.map(|node| node.with_mutant(mutant.and_then(Mutant::in_paxos)));
        if mutant == Some(Mutant::ResumesView) && matches!(self.role, Role::Retired { .. }) {
            let own = roles::Report { last: self.log.last() };
            let mut primary = roles::Primary::new(self.started_at);
            primary.reports.insert(self.identity.member, own);
            self.role = Role::Primary(Box::new(primary));
        }
        self
    }

    /// What must be durable by now, beside log and snapshot.
    pub fn control(&self) -> Control {
        Control { founding: self.founding.clone(), config: self.paxos.as_ref().map(|node| node.durable().clone()) }
    }

    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The state machine, for its shell: only what is not replicated may be changed.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The log's viewstamps, ascending, from its start; for checks.
    pub fn log_viewstamps(&self) -> Vec<Viewstamp> {
        self.log.viewstamps().collect()
    }

    /// The last viewstamp known committed.
    pub fn commit(&self) -> Viewstamp {
        self.commit
    }

    /// Answers everything that waits on this member as primary; the role must be set anew by the caller.
    fn stop_being_primary(&mut self, out: &mut Output) {
        let Role::Primary(primary) = &mut self.role else { return };
        for (_, tag) in std::mem::take(&mut primary.tags) {
            out.answers.push((tag, Err(Rejection::Unknown)));
        }
        for Command { tag, .. } in primary.urgent.drain(..).chain(primary.waiting.drain(..)) {
            out.answers.push((tag, Err(Rejection::ViewChanging)));
        }
        if primary.is_serving {
            primary.is_serving = false;
            out.serving = Some(false);
        }
    }
}

/// Whether a sender that is behind should be told of the present view (answers to our own old messages should not).
fn expects_an_answer(message: &Message) -> bool {
    matches!(
        message,
        Message::Append { .. }
            | Message::Heartbeat { .. }
            | Message::PreVote { .. }
            | Message::Report { .. }
            | Message::Fetch { .. }
            | Message::FetchChunk { .. }
    )
}
