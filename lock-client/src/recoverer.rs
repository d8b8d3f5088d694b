//! The recoverer: runs the owner's hook for dead sessions, each on a thread of its own.
//!
//! A recovery reads a log and writes what is in it: it may take minutes, and may block. So it disturbs neither the clerk, who keeps the lease and
//! reports the progress, nor the releaser, nor another recovery. There are never more threads than [`Recoveries`] has jobs. A hook that is to
//! stop is dropped at its next await; one that blocks goes on, and the recovery token by which the store knows it is an old one by then.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use lock_protocol::{DeadSession, RecoveryGroup, RecoveryToken, SessionId};
use tokio::sync::oneshot;

use crate::error::RecoveryError;
use crate::recovery::{Recoveries, RecoveryEffect};
use crate::session::nanoseconds;
use crate::shared::Shared;
use crate::sync::Mutex;

/// A recovery may take so long, unless the owner says otherwise.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(600);

type Hook = Arc<dyn Fn(DeadSession) -> BoxFuture<'static, Result<(), RecoveryError>> + Send + Sync>;

/// The owner's hook, and the group for which it can be called.
#[derive(Clone)]
pub(crate) struct RecoveryHook {
    pub(crate) group: RecoveryGroup,
    pub(crate) hook: Hook,
}

impl std::fmt::Debug for RecoveryHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecoveryHook").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The recoveries of a session, with the hooks that run.
#[derive(Debug)]
pub(crate) struct Recoverer {
    pub(crate) core: Mutex<Recoveries>,
    hook: Option<RecoveryHook>,
    /// Dropping one stops its hook.
    running: Mutex<BTreeMap<(SessionId, RecoveryToken), oneshot::Sender<()>>>,
}

impl Recoverer {
    pub(crate) fn new(hook: Option<RecoveryHook>, limit: Duration) -> Self {
        let core = Mutex::new(Recoveries::new(nanoseconds(limit)));
        Recoverer { core, hook, running: Mutex::new(BTreeMap::new()) }
    }

    /// Whether the session's end must say that its locks were flushed.
    pub(crate) fn is_required(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.group.required)
    }

    /// Carries out what the core wants.
    pub(crate) fn carry_out(&self, shared: &Weak<Shared>) {
        // Held to the end, so that what another thread wants later is done later.
        let mut core = self.core.lock();
        for effect in core.take_effects() {
            match effect {
                RecoveryEffect::Start(dead) => self.start(&mut core, dead, shared),
                RecoveryEffect::Stop(dead, token) => drop(self.running.lock().remove(&(dead, token))),
            }
        }
    }

    fn start(&self, core: &mut Recoveries, dead: DeadSession, shared: &Weak<Shared>) {
        let (session, token) = (dead.session, dead.token);
        let (stop, stopped) = oneshot::channel();
        let Some(hook) = self.hook.clone() else { return core.on_hook_ended(session, token, false) };
        self.running.lock().insert((session, token), stop);
        tracing::info!(%session, %token, group = %dead.group, "recovering a dead session");
        let of_thread = Weak::clone(shared);
        let work = move || {
            let ended = run(&hook, dead, stopped);
            if let (Some(shared), Some(ended)) = (of_thread.upgrade(), ended) {
                shared.recoverer.ended(&mut shared.recoverer.core.lock(), session, token, &ended);
                shared.work.notify_one();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("plumeria-recovery".to_owned()).spawn(work) {
            self.ended(core, session, token, &Err(RecoveryError::new(error)));
        }
    }

    fn ended(
        &self,
        core: &mut Recoveries,
        session: SessionId,
        token: RecoveryToken,
        ended: &Result<(), RecoveryError>,
    ) {
        match ended {
            Ok(()) => tracing::info!(%session, %token, "recovered a dead session"),
            Err(error) => tracing::error!(%session, %token, %error, "a dead session could not be recovered here"),
        }
        self.running.lock().remove(&(session, token));
        core.on_hook_ended(session, token, ended.is_ok());
    }
}

/// The hook's result; none where it was stopped.
fn run(hook: &RecoveryHook, dead: DeadSession, stopped: oneshot::Receiver<()>) -> Option<Result<(), RecoveryError>> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Some(Err(RecoveryError::new(error))),
    };
    let call = AssertUnwindSafe(async { (hook.hook)(dead).await }).catch_unwind();
    match runtime.block_on(select(std::pin::pin!(call), stopped)) {
        Either::Left((Ok(ended), _)) => Some(ended),
        Either::Left((Err(_), _)) => Some(Err(RecoveryError::new("the hook panicked"))),
        Either::Right(_) => None,
    }
}
