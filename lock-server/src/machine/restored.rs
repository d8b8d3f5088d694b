//! The state with which a cluster begins that was restored from a backup.
//!
//! Of the state that a backup holds, three things are taken over: the limits, service time and the running hash. Its sessions are over, and
//! with them every lock is free: what they did after the backup was taken nobody knows. What has to be true of the new cluster is this:
//!
//! - *Its tokens are above all that were ever granted.* Tokens are op numbers, and the caller chooses the op after which this state stands;
//!   see `restore.rs`.
//! - *No lock is granted while a guard of the old cluster may still be valid.* Such a guard's lease is at most the longest that the old
//!   cluster gave, and none was renewed after the old cluster stopped. So no session is opened before service time has advanced by that
//!   much, and by the lock delays that the backup tells of: it never runs faster than real time, and begins to run when the new cluster
//!   serves. Without a session there is no grant. Nor is anything else kept from working by it: no lock, queue or request has to know of
//!   the wait.
//!
//! The wait is part of the state, and of snapshots as long as it lasts, in front of what stands in all of them. So a snapshot of a cluster
//! that does not wait has the bytes that it always had.

use std::time::Duration;

use lock_protocol::{LEASE_MAX, LOCK_DELAY_MAX};
use rsm::StateMachine;

use super::Machine;
use super::apply::OP_END;
use super::op::Reply;
use super::time::ServiceTime;

/// "PLUMRS", then the format's version: in front of a snapshot, with the service time (µs, little endian) at which the wait ends.
const MAGIC: [u8; 8] = *b"PLUMRS\x00\x01";
/// No session stands in anybody's way for longer after its last renewal.
const WAIT_MAX: Duration = LEASE_MAX.saturating_add(LOCK_DELAY_MAX);

impl Machine {
    /// The state after this op of a new cluster, from the snapshot of an old one. It waits for the longest lease of its clients, lock delay
    /// included: of the one that is named and those that the snapshot tells of.
    ///
    /// # Errors
    /// The bytes are no snapshot of this machine, or the op is not above theirs; one line.
    pub fn restored(snapshot: &[u8], op: u64, longest_lease: Duration) -> Result<Machine, String> {
        let mut old = Machine::default();
        old.restore(snapshot)?;
        if op < old.applied || op >= OP_END {
            return Err(format!(
                "it cannot begin after op {op}: the backup is of op {}, and the last is {OP_END}",
                old.applied
            ));
        }
        let known = old.sessions.iter().map(|(_, session)| session.lease + session.lock_delay()).max();
        let longest = known.unwrap_or_default().max(longest_lease).min(WAIT_MAX);
        let opens_from_us = old.time.renewed_until(longest).max(old.opens_from_us);
        let Machine { limits, hash, time, .. } = old;
        Ok(Machine { limits, hash, time, applied: op, opens_from_us, ..Machine::default() })
    }

    /// For how much of service time no session is opened yet; none in a cluster that was not restored, or long ago.
    pub fn waits_after_restore(&self) -> Option<Duration> {
        let left_us = self.opens_from_us.saturating_sub(self.time.0);
        (left_us > 0).then(|| Duration::from_micros(left_us))
    }

    /// What an open is answered while the cluster waits.
    pub(super) fn refusal_after_restore(&self) -> Option<Reply> {
        let seconds = self.waits_after_restore()?.as_millis().div_ceil(1000);
        Some(Reply::Busy(format!(
            "restored from a backup: sessions are opened in {seconds} s, when no old lease is left"
        )))
    }

    /// What stands in front of a snapshot.
    pub(super) fn write_wait(&self) -> Vec<u8> {
        match self.waits_after_restore() {
            Some(_) => [MAGIC, self.opens_from_us.to_le_bytes()].concat(),
            None => Vec::new(),
        }
    }
}

/// The end of the wait that a snapshot tells of, 0 where it tells of none; and the rest of it.
pub(super) fn take_wait(snapshot: &[u8]) -> (u64, &[u8]) {
    let wait = snapshot.strip_prefix(&MAGIC).and_then(|rest| rest.split_first_chunk());
    wait.map_or((0, snapshot), |(until_us, rest)| (u64::from_le_bytes(*until_us), rest))
}

/// Whether a state can be one that waits until then.
pub(super) fn may_wait(until_us: u64, now: ServiceTime, sessions: u64) -> bool {
    until_us == 0 || (until_us > now.0 && until_us <= now.renewed_until(WAIT_MAX) && sessions == 0)
}
