//! Mutexes, atomics and notifications: parking_lot's, the standard library's and tokio's.
//!
//! Except in this crate's own unit tests: there each operation on one of them is a point at which a checker (shuttle) decides which
//! thread goes on, and the names in the lock table are hashed alike each time, so that a schedule can be repeated. Nothing of that
//! is in any other build.

#[cfg(not(test))]
pub(crate) use std::{hash::RandomState as Hasher, sync::atomic};

#[cfg(test)]
mod notify;

#[cfg(test)]
pub(crate) use notify::Notify;
#[cfg(not(test))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(test)]
pub(crate) use shuttle::sync::{MutexGuard, atomic};
#[cfg(not(test))]
pub(crate) use tokio::sync::Notify;

#[cfg(test)]
pub(crate) type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// With the interface of parking_lot's.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

#[cfg(test)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().expect("a thread that panics fails the whole schedule")
    }
}
