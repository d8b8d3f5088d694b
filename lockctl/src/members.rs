//! `lockctl members add`, `remove`, `replace`: changes of the list of members; and `promote`, of the primary.
//!
//! Why it may ask again: a change is made by one view or not at all, and one that was made is refused the second time. So only the
//! primary's own words end the search for it, or the time that was given.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lock_client::{MemberChange, Refusal, change_members};

use crate::arguments::{Common, MembersAction};
use crate::dispatch::{print, print_json};
use crate::failure::{Failure, exit, no_cluster};

/// Between two rounds over all endpoints.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks whoever is primary to make the change.
pub(crate) async fn change(action: &MembersAction, common: &Common) -> Result<u8, Failure> {
    let (change, begun) = (change_of(action), Instant::now());
    let endpoints: Vec<String> = common.endpoints.iter().map(ToString::to_string).collect();
    loop {
        let mut tried = Vec::new();
        let mut to_ask: VecDeque<String> = endpoints.clone().into();
        // Only so many hints are followed in a round as there are endpoints: two members that point at each other must not hide a third.
        while let Some(endpoint) = to_ask.pop_front() {
            let refusal = match change_members(&endpoint, common.tls.as_ref(), change.clone()).await {
                Ok(Ok(view)) => return made(action, view, common),
                Ok(Err(refusal)) => refusal,
                Err(error) => {
                    tried.push(error.to_string());
                    continue;
                }
            };
            match &refusal {
                Refusal::Invalid(why) => return Err(Failure::usage(why)),
                Refusal::Denied(why) => return Err(Failure::new(exit::DENIED, why)),
                Refusal::Unknown => {
                    return Err(Failure::new(exit::UNAVAILABLE, format!("{refusal}: 'lockctl members' tells")));
                }
                Refusal::NotPrimary { hint: Some(hint) } if tried.len() < endpoints.len() => {
                    to_ask.push_front(hint.clone());
                }
                _ => {}
            }
            tried.push(format!("{endpoint}: {refusal}"));
        }
        if begun.elapsed() > common.connect_timeout {
            let line = no_cluster("no primary took the change", begun.elapsed(), &tried);
            return Err(Failure::new(exit::UNAVAILABLE, line));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn change_of(action: &MembersAction) -> MemberChange {
    match action {
        MembersAction::Add { id, address, witness } => {
            MemberChange::Add { member: *id, address: address.to_string(), witness: *witness }
        }
        MembersAction::Remove { id } => MemberChange::Remove { member: *id },
        MembersAction::Replace { id, address } => MemberChange::Replace { member: *id, address: address.to_string() },
        MembersAction::Promote { id } => MemberChange::Promote { member: *id },
    }
}

fn made(action: &MembersAction, view: u64, common: &Common) -> Result<u8, Failure> {
    if common.json {
        print_json(&serde_json::json!({ "view": view }))?;
    } else if let MembersAction::Promote { id } = action {
        print(&format!("member {id} is primary of view {view}\n"));
    } else {
        print(&format!("changed by view {view}; 'lockctl members' shows when all are in sync\n"));
    }
    Ok(exit::OK)
}
