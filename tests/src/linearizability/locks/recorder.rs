//! Takes a history down while threads, tasks or processes work.
//!
//! Why what it records is true: an operation's call is stamped before it is made, its return after it was answered, and the
//! end of a guard before the lock is let go. What is dropped on the way (a cancelled future, a panic) is recorded as an outcome
//! that nobody knows. What another process has stamped is given with its times.

use std::sync::{Arc, Mutex, PoisonError};

use lock_protocol::{FencingToken, Mode, SessionId};

use super::operation::{Action, Answer, History, Operation};

/// Records one history; cheap to clone, and all clones record the same.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<History>>);

impl Recorder {
    /// An empty history.
    pub fn new() -> Self {
        Recorder::default()
    }

    /// The time, ns: of the machine's monotonic clock, so that histories of several processes on it may be merged.
    pub fn now() -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
    }

    /// An operation is called now.
    pub fn call(&self, lock: impl Into<String>, session: SessionId, action: Action) -> Call {
        self.call_at(lock.into(), session, action, Recorder::now())
    }

    fn call_at(&self, lock: String, session: SessionId, action: Action, called: u64) -> Call {
        let operation = Operation { session: session.0, action, called, returned: None };
        Call { recorder: self.clone(), lock: Some(lock), operation }
    }

    /// An acquire is called now.
    pub fn acquire(&self, lock: impl Into<String>, session: SessionId, mode: Mode) -> Call {
        self.call(lock, session, Action::Acquire { mode })
    }

    /// An acquire was called at this time.
    pub fn acquire_at(&self, lock: impl Into<String>, session: SessionId, mode: Mode, called: u64) -> Call {
        self.call_at(lock.into(), session, Action::Acquire { mode }, called)
    }

    /// A session has ended; its client counted on it until `since`, at most. `certain`: the service has said so by now.
    pub fn end(&self, session: SessionId, since: u64, certain: bool) {
        let returned = certain.then(|| Recorder::now().max(since));
        self.history_mut(|history| history.add_end(session.0, since, returned));
    }

    /// What was recorded so far. Operations under way are not in it: let go of every [`Call`] and [`Guard`] before.
    pub fn history(&self) -> History {
        self.history_mut(|history| history.clone())
    }

    fn add(&self, lock: String, operation: Operation) {
        self.history_mut(|history| history.add(lock, operation));
    }

    fn history_mut<T>(&self, act: impl FnOnce(&mut History) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An operation under way. Its outcome is recorded as unknown if this is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that its outcome is unknown"]
pub struct Call {
    recorder: Recorder,
    lock: Option<String>,
    operation: Operation,
}

impl Call {
    /// The acquire was granted: the user has a guard.
    pub fn granted(self, token: FencingToken) -> Guard {
        self.granted_at(token, Recorder::now())
    }

    /// The same, and it returned at this time.
    pub fn granted_at(mut self, token: FencingToken, returned: u64) -> Guard {
        let lock = self.finish(Answer::Granted { token: token.0 }, returned);
        Guard { recorder: self.recorder.clone(), lock: Some(lock), session: self.operation.session, token: token.0 }
    }

    /// The acquire was given up or refused, and never will be granted.
    pub fn withdrawn(self) {
        self.withdrawn_at(Recorder::now());
    }

    /// The same, and it returned at this time.
    pub fn withdrawn_at(mut self, returned: u64) {
        self.finish(Answer::Withdrawn, returned);
    }

    /// It was answered now.
    pub fn answered(mut self, answer: Answer) {
        self.finish(answer, Recorder::now());
    }

    fn finish(&mut self, answer: Answer, returned: u64) -> String {
        let lock = self.lock.take().expect("a call is finished once, by a method that consumes it");
        self.operation.returned = Some((returned, answer));
        self.recorder.add(lock.clone(), self.operation.clone());
        lock
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.recorder.add(lock, self.operation.clone());
        }
    }
}

/// A user's guard. Dropping it says that the user never says when it ended: it counts as held until its session ends.
#[derive(Debug)]
#[must_use = "a guard that is dropped counts as held until its session ends"]
pub struct Guard {
    recorder: Recorder,
    lock: Option<String>,
    session: u64,
    token: u64,
}

impl Guard {
    /// The user is done, and drops its guard after this.
    pub fn release(self) {
        let now = Recorder::now();
        self.lapsed(now);
    }

    /// The guard was last seen valid at `last_valid`, and is gone by now.
    pub fn lapsed(self, last_valid: u64) {
        self.lapsed_at(last_valid, Recorder::now());
    }

    /// The same, and it was gone by this time.
    pub fn lapsed_at(self, last_valid: u64, gone: u64) {
        self.end(last_valid, Some((gone.max(last_valid), Answer::Done)));
    }

    /// The guard was last seen valid at `last_valid`; its user will never say what became of it.
    pub fn lost(self, last_valid: u64) {
        self.end(last_valid, None);
    }

    fn end(mut self, last_valid: u64, returned: Option<(u64, Answer)>) {
        let lock = self.lock.take().expect("a guard ends once, by a method that consumes it");
        let action = Action::Release { token: self.token };
        self.recorder.add(lock, Operation { session: self.session, action, called: last_valid, returned });
    }
}
