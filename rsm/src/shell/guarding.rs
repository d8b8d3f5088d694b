//! A member's part in the ring, on the replica thread: `ring` mode only.
//!
//! Why it is right: the record is durable before the core hears of the bound that rests on it, since the store is written inline here; and
//! words say what was durable when the round ended. A view is entered in the ring when its record is durable, too.

use tokio::sync::watch;

use super::replica_thread::ReplicaThread;
use super::restoration::LogCopy;
use super::store::RecordStore;
use crate::ring::{RingMember, RingOutput};
use crate::{
    Application, Guard, Identity, Incarnation, Input, MemberId, MemoryId, Message, Micros, Output, Replica,
    StateMachine, Word,
};

/// What the replica thread has of it.
pub(super) struct RingPart {
    pub(super) ring: RingMember,
    /// Who the guard is, for people.
    pub(super) told: watch::Sender<Option<MemberId>>,
}

impl RingPart {
    /// Of a member that starts with this memory and record: its core has the first bound.
    pub(super) fn new<A: StateMachine>(
        (memory, guard): (MemoryId, Option<Guard>),
        replica: &mut Replica<A>,
        now: Micros,
        told: watch::Sender<Option<MemberId>>,
    ) -> Self {
        let ring = RingMember::new(replica.identity(), memory, guard, replica.stored(), replica.timing());
        replica.step(now, Input::Guarded { upto: ring.first_bound() }, &mut Output::default());
        RingPart { ring, told }
    }
}

impl<A: Application, S: RecordStore> ReplicaThread<A, S> {
    /// Another member's word.
    pub(super) fn on_ring_word(&mut self, from: Identity, word: Word) {
        let is_listed = self.replica.view().is_some_and(|view| view.lists(from.member, from.incarnation));
        if let Some(RingPart { ring, .. }) = &mut self.ring
            && is_listed
        {
            let mut out = RingOutput::default();
            ring.on_word(self.clock.now(), from.member, word, self.replica.stored(), &mut out);
            self.carry_out_ring(out);
        }
    }

    /// A host said that the member's process is gone.
    pub(super) fn on_ring_gone(&mut self, member: MemberId, incarnation: Option<Incarnation>) {
        let view = self.replica.view();
        let is_listed = |incarnation| view.is_some_and(|view| view.lists(member, incarnation));
        if let Some(RingPart { ring, .. }) = &mut self.ring
            && incarnation.is_none_or(is_listed)
        {
            let mut out = RingOutput::default();
            ring.on_gone(self.clock.now(), member, &mut out);
            self.carry_out_ring(out);
        }
    }

    pub(super) fn tick_ring(&mut self) {
        if let Some(RingPart { ring, .. }) = &mut self.ring {
            let mut out = RingOutput::default();
            ring.on_tick(self.clock.now(), &mut out);
            self.carry_out_ring(out);
        }
    }

    /// After what a round asked for is durable. Says whether the core was stepped.
    pub(super) fn tend_ring(&mut self) -> bool {
        let Some(RingPart { ring, .. }) = &mut self.ring else { return false };
        let (now, mut out) = (self.clock.now(), RingOutput::default());
        if let Some(view) = self.replica.view() {
            ring.enter(now, view, &mut out);
        }
        ring.on_stored(now, self.replica.stored(), &mut out);
        self.carry_out_ring(out)
    }

    /// A copy for a member that has lost its memory.
    pub(super) fn copy_for(&self, from: Identity, memory: MemoryId) -> Result<LogCopy, String> {
        let own = self.replica.status().identity.member;
        let part = self.ring.as_ref().ok_or_else(|| format!("member {own} guards nobody in its durability mode"))?;
        if part.ring.memory() != memory {
            return Err(format!("member {own} has lost that memory itself"));
        }
        match self.replica.view() {
            Some(view) if view.lists(from.member, from.incarnation) => {
                let (snapshot, entries) = self.replica.parts();
                Ok(LogCopy { view: view.clone(), snapshot, entries })
            }
            _ => Err(format!("the view lists another store for member {}", from.member)),
        }
    }

    /// Record, bound, words, in this order. Says whether the core was stepped.
    fn carry_out_ring(&mut self, out: RingOutput) -> bool {
        let RingOutput { guard, bound, send } = out;
        if let Some(guard) = guard {
            match guard {
                Some(guard) => tracing::info!(guard = guard.member.0, "this member's log is guarded"),
                None => tracing::info!("this member's log is not guarded: no other member can"),
            }
            if !self.writer.set_guard(guard, &self.inbox) {
                return false; // the member ends with this round
            }
            if let Some(RingPart { told, .. }) = &self.ring {
                told.send_replace(guard.map(|guard| guard.member));
            }
        }
        for (to, word) in send {
            self.send(to, Message::Ring(word));
        }
        if let Some(upto) = bound {
            self.step(Input::Guarded { upto });
        }
        bound.is_some()
    }
}
