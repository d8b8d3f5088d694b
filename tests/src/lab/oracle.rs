//! Who may hold a lock, judged beside the service and without it.
//!
//! Why it is right: a client says that it has a lock after the service has granted it, and says that it is done before it lets
//! go; so whoever is entered here and still has a valid guard holds the lock in truth. Tokens are compared under one mutex, in the
//! order of entering. An exclusive tenure ends before the next begins, so its token must be above all that others had before.
//! Shared tenures overlap, and a cached one may be used again after a later one of somebody else; it must only be above the last
//! exclusive one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lock_client::{LockGuard, Mode};

use super::failure::{Checked, wrong};

/// All locks of a test; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Oracle(Arc<Mutex<BTreeMap<String, Lock>>>);

#[derive(Debug, Default)]
struct Lock {
    next: u64,
    holders: BTreeMap<u64, (u64, Arc<LockGuard>)>,
    /// The greatest token of each client, in any mode and exclusive.
    tokens: BTreeMap<u64, Tokens>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    any: u64,
    exclusive: u64,
}

/// A lock that was entered; dropping it leaves, and then frees the lock.
#[derive(Debug)]
pub struct Held {
    oracle: Oracle,
    name: String,
    entry: u64,
    token: u64,
}

impl Held {
    /// The tenure's token.
    pub fn token(&self) -> u64 {
        self.token
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut locks = self.oracle.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped under the mutex: the next holder can enter only after this one has left.
        drop(locks.get_mut(&self.name).and_then(|lock| lock.holders.remove(&self.entry)));
    }
}

impl Oracle {
    /// The client has been granted a lock.
    ///
    /// # Errors
    /// Somebody holds it whose tenure excludes this one, or the token is not above that of an earlier tenure.
    pub fn enter(&self, client: u64, guard: LockGuard) -> Checked<Held> {
        let (name, token, exclusive) = (guard.name().to_string(), guard.token().0, guard.mode() == Mode::Exclusive);
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = locks.entry(name.clone()).or_default();
        let guard = Arc::new(guard);
        for (other, held) in lock.holders.values() {
            let excludes = exclusive || held.mode() == Mode::Exclusive;
            if excludes && guard.is_valid() && held.is_valid() {
                return wrong(format!(
                    "{name} is held twice: by client {other} ({}, token {}) and by client {client} ({}, token {token})",
                    held.mode(),
                    held.token(),
                    guard.mode()
                ));
            }
        }
        let others = lock.tokens.iter().filter(|(other, _)| **other != client).map(|(_, tokens)| tokens);
        let below = others.map(|tokens| if exclusive { tokens.any } else { tokens.exclusive }).max().unwrap_or(0);
        let own = lock.tokens.entry(client).or_default();
        if guard.is_valid() && token <= below {
            return wrong(format!("{name} was granted with token {token}, after another client had it with {below}"));
        }
        if guard.is_valid() && token < own.exclusive {
            return wrong(format!(
                "{name} was granted to client {client} with {token}, which had {} before",
                own.exclusive
            ));
        }
        own.any = own.any.max(token);
        if exclusive {
            own.exclusive = own.exclusive.max(token);
        }
        let entry = lock.next;
        lock.next += 1;
        lock.holders.insert(entry, (client, guard));
        Ok(Held { oracle: self.clone(), name, entry, token })
    }
}
