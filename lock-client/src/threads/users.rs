//! The program's side: users, the owner's hook, and what all threads of a schedule share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::{Either, select};
use shuttle::future::{block_on, yield_now};
use shuttle::rand::{Rng, thread_rng};
use tokio::sync::Notify;

use super::oracle::Oracle;
use crate::cache::interleavings::Server;
use crate::cell::Cell;
use crate::client::acquire;
use crate::error::{AcquireError, UpgradeError};
use crate::guard::LockGuard;
use crate::releaser::{Job, Work};
use crate::sets;
use crate::shared::Shared;
use lock_protocol::{FencingToken, Mode};

/// What one user does, one after the other.
const WISHES: usize = 2;

/// What the threads of one schedule share. Counters and mutexes of the standard library are no points of decision.
pub(super) struct Bench {
    pub(super) shared: Arc<Shared>,
    pub(super) oracle: Arc<Oracle>,
    pub(super) server: Mutex<Server>,
    users: AtomicUsize,
    /// Tenures whose users wait for their guard to die, until the clerk has looked to it: once, so that nothing makes a lost
    /// wake-up good.
    mourned: Mutex<Vec<FencingToken>>,
    server_ends: AtomicUsize,
    stop: Notify,
}

impl Bench {
    pub(super) fn new(shared: Arc<Shared>, oracle: Arc<Oracle>) -> Self {
        let zero = || AtomicUsize::new(0);
        let (users, server_ends) = (zero(), zero());
        Bench {
            shared,
            oracle,
            server: Mutex::default(),
            users,
            mourned: Mutex::default(),
            server_ends,
            stop: Notify::new(),
        }
    }

    pub(super) fn enter(&self, users: usize) {
        self.users.store(users, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.users.fetch_sub(1, Ordering::SeqCst);
        self.wake_clerk();
    }

    pub(super) fn users_left(&self) -> usize {
        self.users.load(Ordering::SeqCst)
    }

    fn mourn(&self, token: FencingToken) {
        self.mourned.lock().expect("a thread that panics fails the whole schedule").push(token);
        self.wake_clerk();
    }

    pub(super) fn take_mourned(&self) -> Vec<FencingToken> {
        std::mem::take(&mut self.mourned.lock().expect("a thread that panics fails the whole schedule"))
    }

    pub(super) fn wake_clerk(&self) {
        self.shared.work.notify_one();
    }

    /// The server ends the session, as soon as the clerk gets to it.
    pub(super) fn let_server_end(&self) {
        self.server_ends.store(1, Ordering::SeqCst);
        self.wake_clerk();
    }

    pub(super) fn server_ends(&self) -> bool {
        self.server_ends.swap(0, Ordering::SeqCst) == 1
    }

    /// Whether the server has such a tenure of ours, or its end by force is unconfirmed.
    fn holds(&self, token: u64) -> bool {
        let server = self.server.lock().expect("a thread that panics fails the whole schedule");
        server.holders.iter().any(|holder| (holder.0, holder.3) == (0, token)) || server.forced.contains(&(0, token))
    }

    /// Ends the releaser.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }
}

/// A user: takes the lock, uses it, drops it; or gives up waiting, or waits until the guard has died.
pub(super) fn user(bench: &Arc<Bench>) {
    block_on(async {
        for _ in 0..WISHES {
            let mode = if thread_rng().gen_range(0..2) == 0 { Mode::Shared } else { Mode::Exclusive };
            wish(bench, mode).await;
        }
    });
    bench.leave();
}

async fn wish(bench: &Bench, mode: Mode) {
    let shared = &bench.shared;
    let Ok(cell) = shared.table.cell("l", shared.weak()) else { panic!("it is a name") };
    let patience = if thread_rng().gen_range(0..3) == 0 { thread_rng().gen_range(0..6) } else { usize::MAX };
    let result = {
        let waiting = std::pin::pin!(one_or_all(shared, &cell, mode));
        if patience == usize::MAX {
            waiting.await
        } else {
            match select(waiting, std::pin::pin!(yields(patience))).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => return,
            }
        }
    };
    let Ok(guard) = result else { return };
    let held = bench.holds(guard.token().0);
    let id = bench.oracle.begin(&guard, &cell, held);
    let Some(guard) = change_mode(bench, guard, id, &cell).await else { return };
    match thread_rng().gen_range(0..8) {
        0 => {
            bench.mourn(guard.token());
            guard.lost().await;
            assert!(!guard.is_valid());
        }
        pause => yields(pause).await,
    }
    bench.oracle.check_dead(&guard);
    bench.oracle.end(id);
    drop(guard);
}

/// Takes the lock alone, or as a set of one.
async fn one_or_all(shared: &Shared, cell: &Arc<Cell>, mode: Mode) -> Result<LockGuard, AcquireError> {
    if thread_rng().gen_range(0..3) > 0 {
        return acquire(shared, cell, mode).await;
    }
    let guards = sets::acquire_all(shared, Arc::new([(Arc::clone(cell), mode)])).await?;
    Ok(guards.into_iter().next().expect("one for each"))
}

/// Downgrades or upgrades now and then, and gives an upgrade up now and then; none where the guard is gone.
async fn change_mode(bench: &Bench, mut guard: LockGuard, id: u64, cell: &Cell) -> Option<LockGuard> {
    if thread_rng().gen_range(0..4) > 0 {
        return Some(guard);
    }
    if guard.mode() == Mode::Exclusive {
        bench.oracle.lower(id);
        guard.downgrade();
        return Some(guard);
    }
    let is_patient = thread_rng().gen_range(0..2) == 0;
    let patience = async {
        if is_patient {
            std::future::pending::<()>().await;
        }
        yields(2).await;
    };
    let upgrading = std::pin::pin!(guard.upgrade());
    match select(upgrading, std::pin::pin!(patience)).await {
        Either::Left((Ok(guard) | Err(UpgradeError::NotAlone(guard)), _)) => {
            bench.oracle.change(id, &guard, cell);
            Some(guard)
        }
        Either::Left((Err(UpgradeError::Ended(_)), _)) | Either::Right(_) => {
            bench.oracle.end(id);
            None
        }
    }
}

async fn yields(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// The releaser, as the real one, but without its timers: one hook at a time, which never fails.
pub(super) fn release(bench: &Arc<Bench>, work: Work) {
    let mut queue = work.into_queue();
    block_on(async {
        loop {
            let job = match select(std::pin::pin!(queue.recv()), std::pin::pin!(bench.stop.notified())).await {
                Either::Left((Some(job), _)) => job,
                Either::Left((None, _)) | Either::Right(_) => return,
            };
            let Job::Flush(flush) = job else { continue };
            let lease = flush.cell.lease();
            loop {
                let mut changed = std::pin::pin!(Arc::clone(&lease.changed).notified_owned());
                changed.as_mut().enable();
                if bench.shared.is_over() || lease.live_epoch().is_some() {
                    break;
                }
                changed.await;
            }
            if bench.shared.is_over() || flush.is_moot() {
                continue;
            }
            bench.oracle.begin_flush(flush.token, flush.to, &flush.cell);
            yields(2).await;
            bench.oracle.end_flush();
            flush.cell.on_flushed(&bench.shared, flush.token);
        }
    });
}
