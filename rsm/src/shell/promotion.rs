//! Another primary, because somebody asks for it.
//!
//! Why it is right: nothing is decided here. The primary proposes the next view with the wished member as its primary, as it does when it
//! stops; whoever asked is told what the next view that this member knows of says, whoever proposed it.

use std::time::Duration;

use super::Handle;
use crate::{ChangeError, Kind, MemberId, Standing, View};

/// A member that is in sync takes over in some milliseconds.
const PROMOTION_MAX: Duration = Duration::from_secs(3);

impl Handle {
    /// Lets `member` be primary, if this member is; returns the number of the view in which it is. One that is primary already is
    /// no error.
    ///
    /// # Errors
    /// [`ChangeError`]: it is not primary, or nobody knows.
    pub async fn promote(&self, member: MemberId) -> Result<u64, ChangeError> {
        let status = self.status();
        let Some(view) = status.view.clone().filter(|_| status.is_primary) else {
            let hint = status.view.as_ref().and_then(|view| view.slot(view.primary)).map(|slot| slot.address.clone());
            return Err(ChangeError::NotPrimary { hint });
        };
        if view.primary == member {
            return Ok(view.number);
        }
        is_fit(&view, member).map_err(ChangeError::Refused)?;
        let mut changes = self.status_changes();
        if !status.serving || !self.hand_over(Some(member)) {
            return Err(ChangeError::ViewChanging);
        }
        let is_later = |later: &View| later.number > view.number;
        let next = changes.wait_for(|status| status.view.as_ref().is_some_and(is_later));
        let Ok(next) = tokio::time::timeout(PROMOTION_MAX, next).await else {
            return Err(ChangeError::Refused(format!(
                "member {member} has not become primary within {PROMOTION_MAX:?}: it does not answer, or is too far behind"
            )));
        };
        match next.ok().and_then(|status| status.view.clone()) {
            Some(next) if next.primary == member => Ok(next.number),
            Some(next) => Err(ChangeError::Refused(format!(
                "view {} came about meanwhile, with member {} as its primary: ask again",
                next.number, next.primary
            ))),
            None => Err(ChangeError::Unknown),
        }
    }
}

/// Whether the view lists it as one that can be primary.
///
/// # Errors
/// Why not; one line for the operator.
fn is_fit(view: &View, member: MemberId) -> Result<(), String> {
    match view.slot(member) {
        None => Err(format!("there is no member {member} in view {}", view.number)),
        Some(slot) if slot.kind == Kind::Witness => {
            Err(format!("member {member} is a witness, which is never primary: it has no state"))
        }
        Some(slot) if slot.standing != Standing::InSync => {
            Err(format!("member {member} is not in sync yet: ask again when it is"))
        }
        Some(_) => Ok(()),
    }
}
