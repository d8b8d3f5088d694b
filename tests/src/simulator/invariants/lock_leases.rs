//! A session lives as long as its lease says, in service time, and no longer; and its client's count of the lease ends before the
//! service could end it.
//!
//! The second is looked at whenever a client takes an answer: the lease that it believes in then must be over, in true time, before
//! service time can reach the deadline. Service time is at most as fast as the fastest clock, counted from the closing of
//! the last tick; so that moment is known.

use std::collections::BTreeMap;

use lock_protocol::{LEASE_MAX, RequestNumber, SessionId};

use super::lock_tenures::cap_us;
use super::lock_truth::Seen;
use super::{Check, Invariants, Violation};
use crate::simulator::dice::MILLION;
use crate::simulator::world::World;

/// Readings of clocks are cut to whole µs.
const SLACK_US: u64 = 20;

/// A lease, µs.
#[derive(Clone, Copy, Debug)]
struct Lease {
    length_us: u64,
    /// In service time.
    deadline_us: u64,
}

/// The notes.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    of: BTreeMap<SessionId, Lease>,
    time_us: u64,
    /// The last tick: when it was closed, in true time, and service time after it; none where that is not known.
    pub(super) last_tick: Option<(u64, u64)>,
}

impl Leases {
    pub(super) fn opened(&mut self, session: SessionId, length_us: u64) {
        let deadline_us = self.time_us + length_us + cap_us(length_us);
        self.of.insert(session, Lease { length_us, deadline_us });
    }

    pub(super) fn ended(&mut self, session: SessionId) {
        self.of.remove(&session);
    }

    pub(super) fn lease_us(&self, session: SessionId) -> u64 {
        self.of.get(&session).map_or(0, |lease| lease.length_us)
    }
}

impl Invariants {
    /// Time went on: by no more than a tick may add; who is over is ended and nobody else; the rest of those who asked is renewed.
    pub(super) fn leases_at_tick(
        &mut self,
        seen: &Seen<'_>,
        keep_alives: &[(SessionId, RequestNumber)],
        gone: &[SessionId],
    ) -> Check {
        let shortest_us = seen.machine.shortest_lease().unwrap_or(LEASE_MAX).as_micros() as u64;
        let time_us = seen.machine.service_time_us();
        let leases = &mut self.locks.leases;
        let before_us = std::mem::replace(&mut leases.time_us, time_us);
        if time_us > before_us + cap_us(shortest_us) {
            let detail = format!("op {} adds {} µs, with leases of {shortest_us} µs", seen.op, time_us - before_us);
            return Err(Violation::new("a tick adds two tick intervals at most", detail));
        }
        for (session, lease) in &leases.of {
            let nonce = self.locks.sessions.get(session).copied().unwrap_or_default();
            let lives = seen.machine.is_opened_by(*session, nonce);
            if lives != (lease.deadline_us > time_us) {
                let detail = format!("session {session} lives: {lives}, at {time_us} µs with {lease:?}");
                return Err(Violation::new("a session lives as long as its lease", detail));
            }
        }
        for (session, _) in keep_alives.iter().filter(|(session, _)| !gone.contains(session)) {
            if let Some(lease) = leases.of.get_mut(session) {
                lease.deadline_us = lease.deadline_us.max(time_us + lease.length_us);
            }
        }
        Ok(())
    }
}

impl World {
    /// A client counts on its lease from now on: not beyond the moment at which the service can end it first.
    pub(crate) fn check_lease_of(&self, client: usize) -> Check {
        let it = &self.locks.clients[client];
        let Some(opened) = it.opened() else { return Ok(()) };
        let clocks = it.clock.read(self.now);
        let left_ns = opened.session.lease_left(clocks).as_nanos() as u64;
        let leases = &self.invariants.locks.leases;
        let (Some(lease), Some((closed_at, time_us))) = (leases.of.get(&opened.session.id()), leases.last_tick) else {
            return Ok(());
        };
        if left_ns == 0 {
            return Ok(());
        }
        let counts_until = self.now + it.clock.until(self.now, clocks.boot_ns + left_ns);
        let rate_max = self.invariants.locks.rate_max.max(MILLION);
        let ends_at = closed_at + lease.deadline_us.saturating_sub(time_us) * MILLION / rate_max;
        if counts_until > ends_at + SLACK_US {
            let detail =
                format!("client {client} counts on it until {counts_until}, the service until {ends_at} or later");
            return Err(Violation::new("a client's lease ends before the service's", detail));
        }
        Ok(())
    }
}
