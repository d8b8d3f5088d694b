//! Named places at which a member dies, for tests of fail-over with real processes.
//!
//! Why it is right: they are compiled in only with the feature `break-points`; without it every check is the constant
//! `false`. They watch what goes into and comes out of the core, and change nothing in it. Dying is an abort: like
//! `kill -9`, nothing is flushed, sent or answered after it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// A place at which a member dies once it is armed; `Partition` cuts it off instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakPoint {
    /// Primary: the first backup's acknowledgement of an entry appended after arming has arrived.
    AfterFirstAck,
    /// Backup: an entry is durable, its acknowledgement not sent.
    BeforeAck,
    /// Any member: it has entered a higher view, durably, and told nobody.
    OnEnterView,
    /// Proposer: it has its promises, and would send its first Accept.
    BetweenPrepareAndAccept,
    /// Proposer: its value is voted for by a quorum, and it would tell the first other member.
    BetweenAcceptAndDecide,
    /// Until healed, no message from or to another member gets through; connections stay.
    Partition,
}

impl BreakPoint {
    /// All of them.
    pub const ALL: [BreakPoint; 6] = [
        BreakPoint::AfterFirstAck,
        BreakPoint::BeforeAck,
        BreakPoint::OnEnterView,
        BreakPoint::BetweenPrepareAndAccept,
        BreakPoint::BetweenAcceptAndDecide,
        BreakPoint::Partition,
    ];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for BreakPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BreakPoint::AfterFirstAck => "after-first-ack",
            BreakPoint::BeforeAck => "before-ack",
            BreakPoint::OnEnterView => "on-enter-view",
            BreakPoint::BetweenPrepareAndAccept => "between-prepare-and-accept",
            BreakPoint::BetweenAcceptAndDecide => "between-accept-and-decide",
            BreakPoint::Partition => "partition",
        })
    }
}

impl FromStr for BreakPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        BreakPoint::ALL.into_iter().find(|point| point.to_string() == text).ok_or_else(|| {
            let names = BreakPoint::ALL.map(|point| point.to_string()).join(", ");
            format!("'{text}' is no break point; there are {names}")
        })
    }
}

/// Which of them are armed.
#[derive(Debug, Default)]
pub(super) struct BreakPoints(AtomicU8);

impl BreakPoints {
    pub(super) fn is_armed(&self, point: BreakPoint) -> bool {
        cfg!(feature = "break-points") && self.0.load(Ordering::Relaxed) & point.bit() != 0
    }

    /// Whether one is armed that kills.
    pub(super) fn may_die(&self) -> bool {
        cfg!(feature = "break-points") && self.0.load(Ordering::Relaxed) & !BreakPoint::Partition.bit() != 0
    }

    #[cfg(feature = "break-points")]
    pub(super) fn arm(&self, point: BreakPoint) {
        self.0.fetch_or(point.bit(), Ordering::Relaxed);
    }

    #[cfg(feature = "break-points")]
    pub(super) fn disarm(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Dies, if the point is armed.
    pub(super) fn pass(&self, point: BreakPoint) {
        if self.is_armed(point) {
            tracing::error!(%point, "break point: this process dies now");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_point_is_found_by_its_name() {
        for point in BreakPoint::ALL {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert!("lunch".parse::<BreakPoint>().expect_err("no such point").contains("before-ack, on-enter-view"));
    }

    #[test]
    fn an_unarmed_point_is_passed() {
        let points = BreakPoints::default();
        for point in BreakPoint::ALL {
            points.pass(point);
        }
        assert!(!points.may_die());
    }
}
