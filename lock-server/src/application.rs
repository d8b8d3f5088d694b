//! The lock machine as rsm's application: what its ops mean for the threads and tasks around it.
//!
//! Why it is right: the replica thread calls it between two steps, and it never waits. What it passes on is volatile: effects that
//! find no room are dropped and flagged, and who reads the flag derives them anew from the state. What the ticker has to
//! know (who serves, how often to tick, whether to sweep) is a value, not a queue, so it cannot be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rsm::{Application, SnapshotPart, StateMachine};
use tokio::sync::watch;

use crate::clock::RawTime;
use crate::machine::Machine;
use crate::metrics::Counters;
use crate::primary::{News, RetryerEvent, RevokerEvent, news};

/// Events that wait for the revoker or the retryer; one carries the effects of one round of the replica thread.
const EVENTS_MAX: usize = 16 << 10;

/// The lock machine, with its outlets.
#[derive(Debug)]
pub struct LockApplication {
    machine: Machine,
    outlets: Outlets,
    /// How often this member began to serve.
    terms: u64,
}

/// What the ticker acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// This member serves as primary.
    pub(crate) serving: Option<Serving>,
    /// Of all sessions; none where there is no session.
    pub(crate) shortest_lease: Option<Duration>,
    /// There are dead sessions to clean up behind.
    pub(crate) needs_sweep: bool,
}

/// A time in which this member serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    /// When the barrier was executed: service time counts from here, whatever was measured before.
    pub(crate) since: RawTime,
    /// Told apart by this.
    pub(crate) term: u64,
}

/// Where effects go.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub(crate) pulse: watch::Sender<Pulse>,
    pub(crate) revoker: Outlet<RevokerEvent>,
    pub(crate) retryer: Outlet<RetryerEvent>,
    pub(crate) counters: Arc<Counters>,
}

/// A bounded queue towards a thread that no sender ever waits for.
#[derive(Debug)]
pub(crate) struct Outlet<E> {
    /// None wakes the thread.
    events: Sender<Option<E>>,
    flags: Arc<Flags>,
}

/// The thread's end of it.
#[derive(Debug)]
pub(crate) struct Inlet<E> {
    events: Receiver<Option<E>>,
    flags: Arc<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    lost: AtomicBool,
    ending: AtomicBool,
}

/// The two ends of a queue.
pub(crate) fn outlet<E>() -> (Outlet<E>, Inlet<E>) {
    let (sender, events) = bounded(EVENTS_MAX);
    let flags = Arc::new(Flags::default());
    (Outlet { events: sender, flags: Arc::clone(&flags) }, Inlet { events, flags })
}

impl<E> Clone for Outlet<E> {
    fn clone(&self) -> Self {
        Outlet { events: self.events.clone(), flags: Arc::clone(&self.flags) }
    }
}

impl<E> Outlet<E> {
    /// Passes the event on; where there is no room it is lost, and the thread will know.
    pub(crate) fn give(&self, event: E) {
        if self.events.try_send(Some(event)).is_err() {
            self.flags.lost.store(true, Ordering::Release);
        }
    }

    /// Passes on what may be lost without notice: a full queue needs no waking.
    pub(crate) fn nudge(&self, event: E) {
        drop(self.events.try_send(Some(event)));
    }

    /// Tells the thread to end.
    pub(crate) fn end(&self) {
        self.flags.ending.store(true, Ordering::Release);
        drop(self.events.try_send(None));
    }
}

impl<E> Inlet<E> {
    /// Waits so long for an event, and takes it with those behind it, at most `limit`.
    pub(crate) fn take(&self, wait: Duration, limit: usize) -> Vec<E> {
        let Ok(first) = self.events.recv_timeout(wait) else { return Vec::new() };
        let rest = self.events.try_iter().take(limit.saturating_sub(1));
        std::iter::once(first).chain(rest).flatten().collect()
    }

    /// Whether events were lost since the last call.
    pub(crate) fn has_lost(&self) -> bool {
        self.flags.lost.swap(false, Ordering::AcqRel)
    }

    /// Whether the thread is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.flags.ending.load(Ordering::Acquire)
    }
}

impl LockApplication {
    /// An empty machine.
    pub(crate) fn new(outlets: Outlets) -> Self {
        LockApplication { machine: Machine::default(), outlets, terms: 0 }
    }

    /// The state, for a look at it.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How often this member began to serve as primary.
    pub(crate) fn terms(&self) -> u64 {
        self.terms
    }

    fn beat(&self, serving: impl FnOnce(Option<Serving>) -> Option<Serving>) {
        let (shortest_lease, needs_sweep) = (self.machine.shortest_lease(), self.machine.needs_sweep());
        self.outlets.pulse.send_if_modified(|pulse| {
            let next = Pulse { serving: serving(pulse.serving), shortest_lease, needs_sweep };
            let differs = *pulse != next;
            *pulse = next;
            differs
        });
    }
}

impl StateMachine for LockApplication {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        self.machine.apply(op, command)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.machine.snapshot()
    }

    fn begin_snapshot(&mut self, budget_bytes: usize) -> SnapshotPart {
        self.machine.begin_snapshot(budget_bytes)
    }

    fn next_snapshot_part(&mut self, budget_bytes: usize) -> SnapshotPart {
        self.machine.next_snapshot_part(budget_bytes)
    }

    fn abandon_snapshot(&mut self) {
        self.machine.abandon_snapshot();
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.machine.restore(snapshot)
    }

    fn hash(&self) -> u64 {
        self.machine.hash()
    }
}

impl Application for LockApplication {
    fn serving(&mut self) {
        self.machine.set_serving(true);
        self.terms += 1;
        let serving = Serving { since: RawTime::now(), term: self.terms };
        tracing::info!(op = self.machine.applied(), sessions = self.machine.session_count(), "serving");
        if let Some(wait) = self.machine.waits_after_restore() {
            tracing::warn!(?wait, "restored from a backup: no session is opened before no old lease can be left");
        }
        self.beat(|_| Some(serving));
        self.outlets.revoker.give(RevokerEvent::Serving);
    }

    fn stopped_serving(&mut self) {
        self.machine.set_serving(false);
        tracing::info!("no longer serving");
        self.beat(|_| None);
        self.outlets.revoker.give(RevokerEvent::Stopped);
        self.outlets.retryer.give(RetryerEvent::Stopped);
    }

    fn executed(&mut self) {
        let News { revokes, grants, notices } = news(self.machine.take_effects());
        if !grants.is_empty() {
            self.outlets.retryer.give(RetryerEvent::Granted(grants));
        }
        if !notices.is_empty() {
            self.outlets.revoker.give(RevokerEvent::Notices(notices));
        }
        if !revokes.is_empty() {
            self.outlets.counters.revokes(revokes.len());
            self.outlets.revoker.give(RevokerEvent::Revokes(revokes));
        }
        self.beat(|serving| serving);
    }
}
