//! Several locks at once, for the shell of many threads.
//!
//! What happens to all locks of a set in one step happens under the mutexes of all its cells, taken by name: joining their queues, so that
//! two sets stand in the same order everywhere; and asking for them, so that none of them has turned to something else
//! meanwhile. See `cache/sets.rs` for why that is enough.

use std::collections::BTreeMap;
use std::sync::Arc;

use lock_protocol::{Command, LockSet, Mode};
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

use crate::cache::{SetId, WaiterId};
use crate::cell::Cell;
use crate::error::AcquireError;
use crate::guard::LockGuard;
use crate::shared::Shared;
use crate::sync::Mutex;

/// The cells of a set, by name.
pub(crate) type Cells = Arc<[(Arc<Cell>, Mode)]>;
type Answer = Receiver<Result<LockGuard, AcquireError>>;

/// The sets that users wait for.
#[derive(Debug)]
pub(crate) struct Sets(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    cells: BTreeMap<SetId, Cells>,
}

impl Default for Sets {
    fn default() -> Self {
        Sets(Mutex::new(Waiting::default()))
    }
}

/// Takes all these locks, each once and by name; guards in the same order.
pub(crate) async fn acquire_all(shared: &Shared, cells: Cells) -> Result<Vec<LockGuard>, AcquireError> {
    loop {
        // Each that is taken is given back where the next is not to be had.
        if let Some(guards) = cells.iter().map(|(cell, mode)| cell.start(*mode)).collect() {
            return Ok(guards);
        }
        if let Some(guards) = wait(shared, &cells).await?
            && guards.iter().all(LockGuard::is_valid)
        {
            return Ok(guards);
        }
        // The lease ran out meanwhile, or a tenure was ended by force: all or none, so again from the beginning.
        if let Some(error) = shared.ending() {
            return Err(error);
        }
    }
}

/// Waits for all of them; none where the set is of no use any more.
async fn wait(shared: &Shared, cells: &Cells) -> Result<Option<Vec<LockGuard>>, AcquireError> {
    let mut queueing = Queueing { shared, cells: Arc::clone(cells), id: None, waiters: Vec::new(), entered: 0 };
    let answers = queueing.join()?;
    let mut guards = Vec::new();
    for answer in answers {
        match answer.await {
            Ok(answer) => guards.push(answer?),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(guards))
}

/// Withdraws the wish when it is dropped; what was granted in the same moment is inside the channels, and freed by being dropped.
struct Queueing<'a> {
    shared: &'a Shared,
    cells: Cells,
    id: Option<SetId>,
    waiters: Vec<WaiterId>,
    entered: usize,
}

impl Queueing<'_> {
    fn join(&mut self) -> Result<Vec<Answer>, AcquireError> {
        for _ in self.cells.iter() {
            self.shared.enter()?;
            self.entered += 1;
        }
        let id = {
            let mut sets = self.shared.sets.0.lock();
            let id = SetId(sets.next);
            sets.next += 1;
            sets.cells.insert(id, Arc::clone(&self.cells));
            id
        };
        self.id = Some(id);
        let mut answers = Vec::new();
        let mut decided = Vec::new();
        {
            let mut caches: Vec<_> = self.cells.iter().map(|(cell, _)| cell.lock()).collect();
            // Asked under the cells' mutexes: who ends the session sets the flag first and then visits every cell.
            if let Some(error) = self.shared.ending() {
                return Err(error);
            }
            let mut outbox = self.shared.outbox.lock();
            for ((cell, mode), cache) in self.cells.iter().zip(&mut caches) {
                let (reply, answer) = oneshot::channel();
                answers.push(answer);
                let (waiter, done) = cell.decide(cache, &mut outbox, |cache, step| cache.join(id, *mode, reply, step));
                self.waiters.push(waiter);
                decided.push(done);
            }
        }
        for ((cell, _), done) in self.cells.iter().zip(decided) {
            cell.after(self.shared, done);
        }
        Ok(answers)
    }
}

impl Drop for Queueing<'_> {
    fn drop(&mut self) {
        // First, so that nobody asks for it any more.
        if let Some(id) = self.id {
            self.shared.sets.0.lock().cells.remove(&id);
        }
        for ((cell, _), waiter) in self.cells.iter().zip(&self.waiters) {
            cell.leave(*waiter);
        }
        for _ in 0..self.entered {
            self.shared.leave();
        }
    }
}

/// A set has its turn at one of its locks: when it has it at all of them, it is asked for.
pub(crate) fn on_ready(shared: &Shared, id: SetId) {
    let Some(cells) = shared.sets.0.lock().cells.get(&id).cloned() else { return };
    {
        let mut caches: Vec<_> = cells.iter().map(|(cell, _)| cell.lock()).collect();
        if !caches.iter().all(|cache| cache.is_gathered(id)) {
            return;
        }
        let locks = cells.iter().map(|(cell, mode)| (cell.name().clone(), *mode));
        let set = LockSet::new(locks).expect("the cells were made from a set");
        let number = shared.outbox.lock().send(Command::AcquireAll { set });
        caches.iter_mut().for_each(|cache| cache.asked(id, number));
    }
    shared.work.notify_one();
}
