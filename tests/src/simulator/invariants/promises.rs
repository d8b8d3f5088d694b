//! Promise, vote, proposal and view never go back in a store.

use rsm::{Control, View};

use super::{Check, Invariants, Violation};

impl Invariants {
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
}
