//! What a member is when it starts, from what its store held.
//!
//! # Why it is safe
//!
//! Nothing that was volatile is taken up again. The state is the snapshot's, and nothing above it is executed before the
//! entered view's primary says that it is committed (S9). A member that the last view names as primary entered it in an earlier
//! run: it does not resume it (S8). A store of another cluster, or whose parts do not fit together, is refused (S10).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Replica;
use super::leaving::Leaving;
use super::random::Random;
use super::roles::{Backup, Founder, Role};
use crate::log::Log;
use crate::{Entry, Founding, Identity, Kind, Micros, Recovered, Settings, StateMachine, View, Viewstamp};

impl<M: StateMachine> Replica<M> {
    /// A member as it starts, from what its store held. `seed` feeds the random parts of delays and, in a founder, the
    /// cluster's id.
    ///
    /// # Errors
    /// The store does not fit the settings or the machine; one line that says what to do.
    pub fn new(
        settings: Settings,
        recovered: Recovered,
        mut machine: M,
        seed: u64,
        now: Micros,
    ) -> Result<Self, String> {
        let Recovered { identity, control, snapshot, entries, dead_bytes } = recovered;
        if let Some(config) = &control.config {
            refuse_another_cluster(&settings.founding, &config.last)?;
        }
        let mut executed = Viewstamp::default();
        let kind = settings.founding.kind_of(identity.member);
        if let Some(view) = control.config.as_ref().map(|config| &config.last) {
            refuse_another_kind(view, identity, kind)?;
        }
        if let Some(image) = &snapshot {
            // A witness has no use for a state; what it keeps of one is for others (S13).
            if kind == Kind::Replica {
                machine.restore(&image.joined()).map_err(|problem| format!("the snapshot is unusable: {problem}"))?;
            }
            executed = image.viewstamp;
        }
        let log = recovered_log(entries, executed)?;
        let last = log.last();
        let mut replica = Replica {
            identity,
            kind,
            machine,
            random: Random::new(seed),
            started_at: now,
            role: Role::Outsider { asked_at: None, refused: None },
            founding: control.founding,
            paxos: control.config.map(|config| paxos::Node::new(identity.member.0, identity.incarnation.0, config)),
            candidacy: None,
            listed_in: None,
            heard: BTreeMap::new(),
            listed: BTreeMap::new(),
            change: None,
            durable: last,
            guarded: None,
            unflushed: VecDeque::new(),
            verified: executed,
            commit: executed,
            executed,
            hashes: VecDeque::new(),
            grown_bytes: log.bytes(),
            log,
            snapshot,
            snapshot_under_way: None,
            snapshot_wanted: Viewstamp::default(),
            is_part_due: false,
            shedding: None,
            lent: None,
            transfer: None,
            asked_at: 0,
            last_token: 0,
            durable_token: 0,
            entered_token: 0,
            flushed_at: now,
            barren_views: 0,
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
            settings,
        };
        replica.log.add_dead(dead_bytes);
        replica.take_up_role(now);
        Ok(replica)
    }

    /// What this member is at the start of a run, from the last decided view that its store held.
    pub(super) fn take_up_role(&mut self, now: Micros) {
        let Some(view) = self.view() else {
            self.role = Role::Founding(Founder::default());
            return;
        };
        if !view.lists(self.identity.member, self.identity.incarnation) {
            // A store that waits to be listed for the first time has heard nothing of the log.
            if self.log.last() != Viewstamp::default() || self.snapshot.is_some() {
                self.role = Role::Leaving(Leaving::new(None));
            }
            return;
        }
        let number = view.number;
        let is_primary = view.primary == self.identity.member;
        self.listed_in = Some(number);
        if is_primary {
            // S8: I entered this view in an earlier run of the process; what I sent and then lost with my memory, I
            // might send again with other bytes.
            self.role = Role::Retired { successor: None };
        } else {
            self.role = Role::Backup(Backup::new(now));
        }
    }
}

/// A store of another cluster is refused (S10). Two clusters of one name are told apart by their ids, when the members
/// meet. Who is a member the view says; the configured list, which may be older or newer, only finds peers.
fn refuse_another_cluster(configured: &Founding, view: &View) -> Result<(), String> {
    if !view.cluster.may_be_named(&configured.name) {
        return Err(format!(
            "the data directory belongs to a cluster of another name than '{}': correct the name or the directory",
            configured.name
        ));
    }
    Ok(())
}

/// A replica's store is of no use to a witness, nor the other way round.
fn refuse_another_kind(view: &View, own: Identity, configured: Kind) -> Result<(), String> {
    match view.slot(own.member) {
        Some(slot) if slot.incarnation == own.incarnation && slot.kind != configured => {
            let (listed, member) = (slot.kind, own.member);
            Err(format!("member {member} is listed as {listed}, not as {configured}: correct the configuration"))
        }
        _ => Ok(()),
    }
}

fn recovered_log(entries: Vec<Entry>, executed: Viewstamp) -> Result<Log, String> {
    let mut log = Log::starting_after(entries.first().map_or(executed, |entry| entry.previous));
    if log.base().op > executed.op {
        return Err(format!(
            "the log starts after op {} but the snapshot ends at op {}: entries between are missing",
            log.base().op,
            executed.op
        ));
    }
    for entry in entries {
        if !entry.is_sound() || entry.previous != log.last() {
            return Err(format!("the log does not fit together at {}", entry.viewstamp));
        }
        log.append(Arc::new(entry));
    }
    if log.last().op < executed.op {
        return Ok(Log::starting_after(executed));
    }
    if !log.contains(executed) {
        return Err(format!("the log does not hold the snapshot's last entry {executed}"));
    }
    Ok(log)
}
