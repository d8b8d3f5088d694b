//! The tokens of a lock's tenures increase strictly, over fail-over too; one op that grants to several shared waiters gives all the
//! same.

use super::lock_truth::{Granted, Seen};
use super::{Check, Invariants, Violation};

impl Invariants {
    pub(super) fn grant_has_a_new_token(&mut self, seen: &Seen<'_>, grant: &Granted) -> Check {
        let last = self.locks.last_token.insert(grant.name.clone(), grant.token);
        let together = last == Some(grant.token) && grant.token.0 == seen.op;
        if grant.token.0 != seen.op || (last >= Some(grant.token) && !together) {
            let detail = format!("{grant:?} by op {}, after token {last:?}", seen.op);
            return Err(Violation::new("tokens of a lock increase strictly", detail));
        }
        Ok(())
    }
}
