//! In `ring`, what a member acknowledges in a view its guard's memory holds too, while it is the memory that the member's record names.

use rsm::{Identity, Message};

use super::{Check, Invariants, Violation};
use crate::simulator::image::Image;

impl Invariants {
    /// An acknowledgement leaves; `guard`: what the guard's memory holds. In a later view the guard may have cut what this one has no more of.
    pub(crate) fn is_guarded(&self, who: Identity, message: &Message, guard: &Image) -> Check {
        let Message::Ack { view, verified, .. } = message else { return Ok(()) };
        let counts = verified.view == *view;
        if !counts || guard.view() > *view || guard.covers(*verified) {
            return Ok(());
        }
        let detail =
            format!("member {}: {verified} in view {view}, its guard's log ends at {}", who.member, guard.last());
        Err(Violation::new("what is acknowledged is held by the guard, too", detail))
    }
}
