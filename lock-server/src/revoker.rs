//! The revoker's thread: brings events and time to [`primary::Revoker`](crate::primary::Revoker), and does what it says.
//!
//! Why it is a thread of its own, as in the yfs labs: an RPC handler must never make an RPC, because replicas and clients that wait for
//! each other's handlers deadlock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rsm::Handle;
use tokio::runtime;

use crate::application::{Inlet, LockApplication, Outlet};
use crate::callbacks::Callbacks;
use crate::primary::{Action, Call, Revoker, RevokerEvent, pages};

/// The longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Events taken before anything is done.
const EVENTS_AT_ONCE: usize = 256;

/// What the thread owns.
pub(crate) struct RevokerThread {
    pub(crate) handle: Handle,
    pub(crate) runtime: runtime::Handle,
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) inlet: Inlet<RevokerEvent>,
    /// For calls that end.
    pub(crate) outlet: Outlet<RevokerEvent>,
}

impl RevokerThread {
    /// Runs until told to end.
    pub(crate) fn run(self) {
        let start = Instant::now();
        let mut core = Revoker::default();
        while !self.inlet.is_ending() {
            let wait = core.due().map_or(IDLE, |at| at.saturating_sub(start.elapsed()).min(IDLE));
            let events = self.inlet.take(wait, EVENTS_AT_ONCE);
            let now = start.elapsed();
            events.into_iter().for_each(|event| core.on_event(now, event));
            if self.inlet.has_lost() {
                core.on_event(now, RevokerEvent::Lost);
            }
            while let Some(action) = core.next_action(now)
                && !self.inlet.is_ending()
            {
                self.act(&mut core, now, action);
            }
        }
    }

    fn act(&self, core: &mut Revoker, now: Duration, action: Action) {
        match action {
            Action::CloseConnections => self.callbacks.close_all(),
            Action::Call(call) => self.call(core, call),
            Action::Derive { after, limit } => {
                let look = move |application: &mut LockApplication| {
                    application.machine().outstanding_revokes(after.as_ref(), limit)
                };
                core.derived(now, self.runtime.block_on(self.handle.visit(look)));
            }
            Action::Look(wanted) => {
                let asked = wanted.clone();
                let look = move |application: &mut LockApplication| pages(application.machine(), &asked);
                // None where too much waits for the replica thread, or the member ends.
                core.looked(now, wanted, self.runtime.block_on(self.handle.visit(look)));
            }
        }
    }

    fn call(&self, core: &mut Revoker, call: Call) {
        let outlet = self.outlet.clone();
        let Call { session, number, notices } = call;
        let ended = move |_| outlet.nudge(RevokerEvent::Ended(session, number));
        if !self.callbacks.notify(session, notices, ended) {
            core.not_connected(session);
        }
    }
}
