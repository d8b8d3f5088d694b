//! A member's own account of itself, for people and tools.

use std::time::Duration;

use lock_protocol::{Activity, MemberStatus, Role, ViewMember, ViewSummary};
use rsm::{Handle, Kind, Slot, Standing, Status, View};

use crate::application::LockApplication;

/// Whoever asks for a look at the tables is not kept waiting longer.
const VISIT_TIMEOUT: Duration = Duration::from_millis(500);

/// What the member knows of itself, some milliseconds old at most.
pub(crate) fn member_status(handle: &Handle, mode: &str) -> MemberStatus {
    let status = handle.status();
    MemberStatus {
        id: status.identity.member.0,
        cluster: status.view.as_ref().map_or(0, |view| view.cluster.0),
        role: own_role(&status),
        serving: status.serving,
        waits_for: status.waits_for.clone(),
        view: status.view.as_ref().map(summary),
        applied_op: status.executed_op,
        commit_op: status.commit_op,
        last_op: status.last.op,
        state_hash: format!("{:016x}", status.state_hash),
        durability: durability(handle, mode),
        pid: std::process::id(),
    }
}

/// The mode, what it is on, and who else holds it.
fn durability(handle: &Handle, mode: &str) -> String {
    let on = handle.durability();
    match *handle.guard().borrow() {
        Some(guard) => format!("{mode}: {on}, guarded by member {guard}"),
        None => format!("{mode}: {on}"),
    }
}

/// What its tables hold; none where the replica thread has too much to do to say, and on a witness.
pub(crate) async fn activity(handle: &Handle) -> Option<Activity> {
    let visit = handle.visit(|application: &mut LockApplication| {
        let machine = application.machine();
        let statistics = machine.statistics();
        Activity {
            sessions: machine.session_count() as u64,
            locks: machine.lock_count() as u64,
            waiters: statistics.waiters,
            grants: statistics.granted_at_once + statistics.waits.count(),
            expired: statistics.expired,
        }
    });
    tokio::time::timeout(VISIT_TIMEOUT, visit).await.ok().flatten()
}

/// What the member is in its view.
pub(crate) fn own_role(status: &Status) -> Role {
    if status.is_primary {
        return Role::Primary;
    }
    let identity = status.identity;
    let listed = status.view.as_ref().filter(|view| view.lists(identity.member, identity.incarnation));
    match listed.and_then(|view| view.slot(identity.member)) {
        Some(slot) => standing(slot),
        None if status.is_leaving => Role::Leaving,
        None => Role::Unlisted,
    }
}

fn standing(slot: &Slot) -> Role {
    match (slot.kind, slot.standing) {
        (_, Standing::Learner) => Role::Learner,
        (Kind::Witness, _) => Role::Witness,
        (Kind::Replica, Standing::InSync) => Role::Backup,
        (Kind::Replica, Standing::Syncing) => Role::Syncing,
    }
}

fn summary(view: &View) -> ViewSummary {
    let in_sync = view.slots.iter().filter(|slot| slot.standing == Standing::InSync).map(|slot| slot.member.0);
    let member = |slot: &Slot| ViewMember {
        id: slot.member.0,
        address: slot.address.clone(),
        role: if slot.member == view.primary { Role::Primary } else { standing(slot) },
    };
    ViewSummary {
        id: view.number,
        primary: view.primary.0,
        in_sync: in_sync.collect(),
        members: view.slots.iter().map(member).collect(),
    }
}
