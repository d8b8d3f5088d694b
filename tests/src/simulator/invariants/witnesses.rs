//! A witness drops only what a majority's number of replicas hold: otherwise what is committed may be held too seldom.

use rsm::{Incarnation, Kind, SnapshotImage};

use super::{Check, Invariants, Violation};
use crate::simulator::trace::brief_view;

impl Invariants {
    /// A mark of a witness is durable: the log below it goes.
    pub(super) fn witness_drops(&self, holder: Incarnation, image: &SnapshotImage) -> Check {
        let is_it = |slot: &&rsm::Slot| slot.incarnation == holder && slot.kind == Kind::Witness;
        let mut last = None;
        for view in self.views.values().rev().filter(|view| view.slots.iter().any(|slot| is_it(&slot))) {
            let replicas = view.voters().filter(|slot| slot.kind == Kind::Replica);
            let holders = replicas.filter(|slot| self.ledger.held(slot.incarnation, image.viewstamp)).count();
            if holders >= view.majority() {
                return Ok(());
            }
            last.get_or_insert((view, holders));
        }
        match last {
            Some((view, holders)) => {
                let detail =
                    format!("up to {}, which {holders} replicas of {} hold", image.viewstamp, brief_view(view));
                Err(Violation::new("a witness drops what enough replicas hold", detail))
            }
            None => Ok(()),
        }
    }
}
