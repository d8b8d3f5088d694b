//! tokio's `Notify`, where each operation is a point at which the checker decides which thread goes on.
//!
//! A wake-up is lost where the state is looked at before the wait is made, or where the notice comes before the state has changed.
//! Without a decision just before each operation, both happen at one stroke with what stands before them, and no schedule shows it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Notify {
    inner: Arc<tokio::sync::Notify>,
    /// Read for the decision only.
    point: AtomicBool,
}

/// A wait, as tokio's.
#[derive(Debug)]
pub(crate) struct OwnedNotified {
    inner: Pin<Box<tokio::sync::futures::OwnedNotified>>,
    notify: Arc<Notify>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Notify::default()
    }

    pub(crate) fn notify_waiters(&self) {
        self.decide();
        self.inner.notify_waiters();
    }

    pub(crate) fn notify_one(&self) {
        self.decide();
        self.inner.notify_one();
    }

    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.decide();
        self.inner.notified()
    }

    pub(crate) fn notified_owned(self: Arc<Self>) -> OwnedNotified {
        self.decide();
        OwnedNotified { inner: Box::pin(Arc::clone(&self.inner).notified_owned()), notify: self }
    }

    fn decide(&self) {
        self.point.load(Ordering::SeqCst);
    }
}

impl OwnedNotified {
    pub(crate) fn enable(mut self: Pin<&mut Self>) -> bool {
        self.notify.decide();
        self.inner.as_mut().enable()
    }
}

impl Future for OwnedNotified {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.notify.decide();
        self.inner.as_mut().poll(context)
    }
}
