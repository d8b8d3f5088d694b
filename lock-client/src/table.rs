//! All locks that the client knows, by name.
//!
//! Sharded, so that threads that use different locks seldom meet. A cell is taken out only under its shard's mutex and
//! only while nobody else has a handle to it, so that two cells of one name never exist at once.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use lock_protocol::{LockName, NameError};

use crate::cell::Cell;
use crate::fate::CacheLimits;
use crate::lease::Lease;
use crate::shared::Shared;
use crate::sync::{Hasher, Mutex};

/// More than the threads of any machine that meet in a lock table at one moment.
#[cfg(not(test))]
const SHARDS: usize = 32;
/// Few, so that a checker's schedules are short.
#[cfg(test)]
const SHARDS: usize = 2;

/// Names to cells.
#[derive(Debug)]
pub(crate) struct Table {
    hash: Hasher,
    shards: Vec<Mutex<HashMap<LockName, Arc<Cell>, Hasher>>>,
    lease: Arc<Lease>,
}

impl Table {
    pub(crate) fn new(lease: Arc<Lease>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::default())).collect();
        Table { hash: Hasher::default(), shards, lease }
    }

    /// The cell of that name, made where there is none.
    pub(crate) fn cell(&self, name: &str, shared: &Weak<Shared>) -> Result<Arc<Cell>, NameError> {
        let mut shard = self.shard(name).lock();
        if let Some(cell) = shard.get(name) {
            return Ok(Arc::clone(cell));
        }
        let name = LockName::new(name)?;
        let cell = Arc::new(Cell::new(name.clone(), Arc::clone(&self.lease), Weak::clone(shared)));
        shard.insert(name, Arc::clone(&cell));
        Ok(cell)
    }

    /// The cell of that name, where there is one.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Cell>> {
        self.shard(name).lock().get(name).map(Arc::clone)
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Every cell at this moment.
    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().map(Arc::clone).collect::<Vec<_>>()).collect()
    }

    /// Takes out the cells that say nothing and that nobody has a handle to.
    pub(crate) fn forget_unknown(&self) {
        for shard in &self.shards {
            shard.lock().retain(|_, cell| Arc::strong_count(cell) > 1 || !cell.look(|cache| cache.is_unknown()));
        }
    }

    /// The cached locks that should be given up.
    pub(crate) fn overdue(&self, now_ns: u64, limits: CacheLimits) -> Vec<Arc<Cell>> {
        let cells = self.cells();
        let count = cells.len();
        let idle = cells.into_iter().filter_map(|cell| {
            cell.look(|cache| cache.is_idle().then(|| cache.last_used_ns())).map(|used_ns| (used_ns, cell))
        });
        limits.overdue(idle.collect(), count, now_ns)
    }

    fn shard(&self, name: &str) -> &Mutex<HashMap<LockName, Arc<Cell>, Hasher>> {
        // The length of `shards` is SHARDS, so the remainder is an index.
        &self.shards[usize::try_from(self.hash.hash_one(name) >> 32).unwrap_or(0) % SHARDS]
    }
}
