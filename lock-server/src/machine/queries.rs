//! What people ask: a page of locks, or one lock.
//!
//! Answers stay far below a frame: a page ends early where it grows large, and a lock with more holders or waiters than a
//! page has entries shows the first of them.

use std::ops::Bound;

use lock_protocol::{Answer, Holder, LockEntry, LockName, PAGE_MAX_ENTRIES, Query, Waiter};

use super::Machine;
use super::lock::Lock;

/// A page ends with the entry that brings it here, bytes: small, because an answer that is not read stays in memory. One
/// entry alone has at most `2 * PAGE_MAX_ENTRIES` people of some 600 bytes, so an answer has at most 1.2 MB.
const PAGE_BYTES: usize = 32 << 10;

impl Machine {
    /// Answers from the state as it is: what the op of a query does.
    pub fn on_read(&self, query: &Query) -> Answer {
        match query {
            Query::Forced { name } => self.on_read_forced(name),
            Query::Kept { after, limit } => self.on_read_kept(*after, *limit),
            Query::Locks { prefix, after, limit } => self.page(prefix, after.as_ref(), *limit),
            Query::Inspect { name } => Answer::Inspect(match self.table.get(name) {
                Some(lock) => self.entry(name, lock),
                None => LockEntry { name: name.clone(), holders: Vec::new(), waiters: Vec::new() },
            }),
        }
    }

    fn page(&self, prefix: &str, after: Option<&LockName>, limit: u32) -> Answer {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, PAGE_MAX_ENTRIES);
        let start = match (after, LockName::new(prefix)) {
            (Some(after), _) if after.as_str() >= prefix => Bound::Excluded(after.clone()),
            (_, Ok(first)) => Bound::Included(first),
            (_, Err(_)) if prefix.is_empty() => Bound::Unbounded,
            // Too long, or with control characters: no name begins so.
            (_, Err(_)) => return Answer::Locks { entries: Vec::new(), more: false },
        };
        let mut locks = self.table.from(start).take_while(|(name, _)| name.as_str().starts_with(prefix));
        let mut entries = Vec::new();
        let mut size_bytes = 0;
        for (name, lock) in locks.by_ref() {
            let entry = self.entry(name, lock);
            size_bytes += entry_bytes(&entry);
            entries.push(entry);
            if entries.len() == limit || size_bytes >= PAGE_BYTES {
                break;
            }
        }
        Answer::Locks { entries, more: locks.next().is_some() }
    }

    fn entry(&self, name: &LockName, lock: &Lock) -> LockEntry {
        let mut holders: Vec<Holder> = lock
            .holders()
            .take(PAGE_MAX_ENTRIES)
            .map(|tenure| {
                let identity = self.sessions.get(tenure.session).map(|session| session.identity.clone());
                let identity = identity.unwrap_or_default();
                Holder {
                    session: tenure.session,
                    client: identity.client,
                    host: identity.host,
                    pid: identity.pid,
                    mode: tenure.mode(),
                    token: tenure.token(),
                    since_ms: self.time.ms_since(tenure.since_us),
                }
            })
            .collect();
        holders.sort_by_key(|holder| (holder.token, holder.session));
        let queue = lock.queue().into_iter().flat_map(|queue| queue.iter());
        let waiters = queue.take(PAGE_MAX_ENTRIES).map(|(_, waiter)| {
            let identity = self.sessions.get(waiter.session).map(|session| session.identity.clone());
            let identity = identity.unwrap_or_default();
            Waiter {
                session: waiter.session,
                client: identity.client,
                host: identity.host,
                pid: identity.pid,
                mode: waiter.mode,
                since_ms: self.time.ms_since(waiter.since_us),
            }
        });
        LockEntry { name: name.clone(), holders, waiters: waiters.collect() }
    }
}

/// An upper bound of its encoding, but for a factor that does not matter: numbers are at most 10 bytes.
fn entry_bytes(entry: &LockEntry) -> usize {
    let holders: usize = entry.holders.iter().map(|holder| holder.client.len() + holder.host.len() + 50).sum();
    let waiters: usize = entry.waiters.iter().map(|waiter| waiter.client.len() + waiter.host.len() + 50).sum();
    entry.name.as_str().len() + 10 + holders + waiters
}
