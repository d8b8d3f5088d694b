//! What a member says of itself, for people: nothing rests on it.

use std::collections::BTreeMap;

use super::Replica;
use super::roles::Role;
use crate::{StateMachine, Status, View};

impl<M: StateMachine> Replica<M> {
    /// What it knows of itself.
    pub fn status(&self) -> Status {
        let acknowledged = match &self.role {
            Role::Primary(primary) => {
                primary.progress.iter().map(|(member, progress)| (*member, progress.acked.op)).collect()
            }
            _ => BTreeMap::new(),
        };
        let waits_for = self.waits_for();
        Status {
            identity: self.identity,
            view: self.view().cloned(),
            serving: waits_for.is_none(),
            is_primary: matches!(self.role, Role::Primary(_)),
            is_leaving: matches!(self.role, Role::Leaving(_)),
            executed_op: self.executed.op,
            state_hash: self.machine.hash(),
            commit_op: self.commit.op,
            last: self.log.last(),
            log_bytes: self.log.bytes(),
            log_capacity_bytes: self.settings.log_capacity_bytes,
            acknowledged,
            waits_for,
        }
    }

    /// One line for a person; `None` while this member does what it is for.
    fn waits_for(&self) -> Option<String> {
        match &self.role {
            Role::Founding(founder) => Some(self.founding_waits_for(founder)),
            Role::Outsider { refused, .. } => Some(match refused {
                Some(reason) => format!("was refused as a member: {reason}"),
                None => "its store is new: waits for the primary to list it as a member".into(),
            }),
            Role::Leaving(leaving) => Some(leaving.waits_for(self.view().map_or(1, View::majority))),
            Role::Retired { .. } => {
                Some("was primary before it restarted or stepped down: waits for the next view".into())
            }
            Role::Primary(primary) => primary.waits_for(self.view().map_or(1, View::majority)),
            Role::Backup(backup) => match backup.health {
                Some(health) if health.serving && !backup.is_suspicious() => None,
                Some(_) if !backup.is_suspicious() => Some("the primary does not serve yet".into()),
                _ => Some("hears of no primary".into()),
            },
        }
    }
}
