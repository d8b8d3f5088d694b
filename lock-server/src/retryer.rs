//! The retryer's thread: brings events and time to [`primary::Retryer`](crate::primary::Retryer), and makes its calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::application::{Inlet, Outlet};
use crate::callbacks::Callbacks;
use crate::primary::{Call, Retryer, RetryerEvent};

/// The longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Events taken before anything is sent.
const EVENTS_AT_ONCE: usize = 256;

/// What the thread owns.
pub(crate) struct RetryerThread {
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) inlet: Inlet<RetryerEvent>,
    /// For calls that end.
    pub(crate) outlet: Outlet<RetryerEvent>,
}

impl RetryerThread {
    /// Runs until told to end.
    pub(crate) fn run(self) {
        let start = Instant::now();
        let mut core = Retryer::default();
        while !self.inlet.is_ending() {
            let wait = core.due().map_or(IDLE, |at| at.saturating_sub(start.elapsed()).min(IDLE));
            let events = self.inlet.take(wait, EVENTS_AT_ONCE);
            let now = start.elapsed();
            events.into_iter().for_each(|event| core.on_event(now, event));
            // What was lost here is asked for by its clients.
            self.inlet.has_lost();
            while let Some(call) = core.next_call(now) {
                self.call(&mut core, now, call);
            }
        }
    }

    fn call(&self, core: &mut Retryer, now: Duration, call: Call) {
        let outlet = self.outlet.clone();
        let Call { session, number, notices } = call;
        let ended = move |acknowledged| outlet.nudge(RetryerEvent::Ended { session, number, acknowledged });
        if !self.callbacks.notify(session, notices, ended) {
            core.not_connected(now, session);
        }
    }
}
