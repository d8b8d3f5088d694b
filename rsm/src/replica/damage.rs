//! Damage: what this member gives to one whose log has a hole, and what it does when its own medium has lost something.
//!
//! # Why it is safe
//!
//! - *To give entries is always allowed.* A viewstamp that two logs share means that they are the same up to it. So whoever holds the
//!   viewstamp at the far end of a hole has the very entries that were lost, in whatever role, and committed or not.
//! - *`serves` is no old news.* A member gives its store up when a majority goes on without it. So the asker is left out of that majority:
//!   what it said before it fell down is not counted as a sign of life of anybody.
//! - *A member that runs has everything in memory*, so nothing that it promised is in doubt: the same entries, or the same snapshot, are
//!   stored again. What the log has let go of lies in a snapshot; its place on the medium is given back with the next one. Until then the damaged
//!   place counts as part of the log, for nothing can be stored there.

use std::sync::Arc;

use super::Replica;
use super::roles::Role;
use crate::limits::MESSAGE_MAX_BYTES;
use crate::{Damage, Entry, MemberId, Message, Micros, Output, Record, StateMachine, Viewstamp};

impl<M: StateMachine> Replica<M> {
    /// A member has lost what its log held between two viewstamps.
    pub(super) fn on_fetch_lost(
        &mut self,
        now: Micros,
        from: MemberId,
        after: Viewstamp,
        upto: Option<Viewstamp>,
        out: &mut Output,
    ) {
        if self.view().is_none() {
            return;
        }
        let (previous, entries) = upto.and_then(|upto| self.kept(after, upto)).unwrap_or((after, Vec::new()));
        let serves = self.serves_without(now, from);
        self.send(from, Message::Kept { upto, previous, entries, serves }, out);
    }

    /// The first entries between two viewstamps of another's log; from before the first of them, where that was replaced.
    fn kept(&self, after: Viewstamp, upto: Viewstamp) -> Option<(Viewstamp, Vec<Arc<Entry>>)> {
        if !self.log.contains(upto) {
            return None;
        }
        let previous = if self.log.contains(after) { after } else { self.log.floor(after)? };
        let mut entries = self.log.after(previous, self.within_room(MESSAGE_MAX_BYTES));
        entries.retain(|entry| entry.viewstamp <= upto);
        Some((previous, entries))
    }

    fn serves_without(&self, now: Micros, member: MemberId) -> bool {
        let (Some(view), Role::Primary(primary)) = (self.view(), &self.role) else { return false };
        let recent = self.settings.timing.suspect;
        let others = view.in_sync().filter(|slot| slot.member != member && slot.member != self.identity.member);
        let in_contact = others
            .filter(|slot| primary.progress.get(&slot.member).is_some_and(|other| now < other.heard_at + recent))
            .count();
        primary.is_serving && 1 + in_contact >= view.majority()
    }

    /// The medium has lost something: it is stored again.
    pub(super) fn on_damaged(&mut self, damage: Damage, out: &mut Output) {
        match damage {
            Damage::Log { op } => {
                let entries = self.log.from(op);
                if !entries.is_empty() {
                    self.log.add_dead(entries.iter().map(|entry| entry.size_bytes() as u64).sum());
                    self.persist(Record::Repair { entries }, out);
                }
            }
            // One that is under way takes the damaged one's place.
            Damage::Snapshot if self.snapshot_under_way.is_none() => {
                if let Some(image) = &self.snapshot {
                    let image = Arc::clone(image);
                    self.persist(Record::Snapshot { image, release: 0 }, out);
                }
            }
            Damage::Snapshot => {}
        }
    }
}
