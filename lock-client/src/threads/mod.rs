//! The real cells, table, guards and session under a checker that decides which thread goes on at each mutex and atomic.
//!
//! Threads as in a client: users that take, cancel and drop; the clerk, which carries requests to a model of the server,
//! delivers notices, and lets the lease run out and come back; the releaser with the owner's hook; and whoever ends the session.
//! What must hold is [`oracle`]'s to say. That every waiter ends is the checker's: a thread that waits for ever is a deadlock,
//! because no timer runs that could make a lost wake-up good.
//!
//! Why shuttle and not loom: four threads with a mutex, two clocks and a channel each are far beyond what can be searched
//! exhaustively, and loom would need its own copies of the channels; shuttle draws schedules at random, uniformly and
//! by PCT (Burckhardt et al., ASPLOS 2010), which finds a bug of a given depth with a known probability. It takes all atomics
//! for sequentially consistent: what the weaker orderings allow is argued in [`crate::lease`], not checked.

mod clerk;
mod oracle;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_protocol::{LockName, Opened, SessionId};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;
use shuttle::{Config, Runner};

use crate::clock::{Clocks, set};
use crate::fate::{CacheLimits, Stage};
use crate::releaser::Releaser;
use crate::session::Session;
use crate::shared::Shared;
use clerk::Clerk;
use oracle::Oracle;
use users::{Bench, release, user};

/// Schedules of each test and scheduler; `PLUMERIA_SCHEDULES` sets another number for a longer run.
const SCHEDULES: usize = 400;
/// Bugs of this depth are looked for by PCT: so many preemptions at the wrong moment.
const DEPTH: usize = 4;
/// The deepest stack of a thread, with room for a panic's message.
const STACK_SIZE_BYTES: usize = 0x4_0000;
const SECOND_NS: u64 = 1_000_000_000;
const LEASE_MS: u64 = 10_000;

fn bench() -> (Arc<Bench>, crate::releaser::Work) {
    set::set(Some(Clocks { boot_ns: 100 * SECOND_NS, real_ns: 0 }));
    let opened = Opened { session: SessionId(7), lease_ms: LEASE_MS };
    let session = Session::opened(opened, Clocks::now()).expect("a lease that the protocol allows");
    let (releaser, work) = Releaser::new(Duration::from_secs(10));
    // The hook itself is the oracle's; see `release`.
    releaser.on_revoke(Arc::new(|_| Box::pin(async { Ok(()) })));
    let shared = Shared::new(
        session,
        releaser,
        crate::recoverer::Recoverer::new(None, Duration::ZERO),
        CacheLimits { locks: 1, idle_ns: 0 },
        RUNTIME.with(|handle| handle.handle().clone()),
    );
    (Arc::new(Bench::new(shared, Arc::new(Oracle::default()))), work)
}

thread_local! {
    /// Nobody drives it: no timer of it ever runs.
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without IO needs nothing");
}

/// One schedule: users, clerk, releaser, and `ender`.
fn run(users: usize, steps: usize, ender: fn(&Arc<Bench>)) {
    let (bench, work) = bench();
    bench.enter(users);
    let mut threads = Vec::new();
    for _ in 0..users {
        let bench = Arc::clone(&bench);
        threads.push(thread::spawn(move || user(&bench)));
    }
    let of_clerk = Arc::clone(&bench);
    threads.push(thread::spawn(move || Clerk::new(of_clerk).run(steps)));
    let of_ender = Arc::clone(&bench);
    let ending = thread::spawn(move || ender(&of_ender));
    let of_releaser = Arc::clone(&bench);
    let releasing = thread::spawn(move || release(&of_releaser, work));
    ending.join().expect("the schedule has failed");
    for thread in threads {
        thread.join().expect("the schedule has failed");
    }
    bench.stop();
    releasing.join().expect("the schedule has failed");
    set::set(None);
}

fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = std::env::var("PLUMERIA_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(SCHEDULES);
    check_with("random", RandomScheduler::new(schedules), test.clone());
    check_with("PCT", PctScheduler::new(DEPTH, schedules), test);
}

/// Says how many schedules it took where one fails.
struct Count(&'static str, Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the {} scheduler failed at schedule {}", self.0, self.1.load(Ordering::Relaxed));
        }
    }
}

fn check_with(name: &'static str, scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::default();
    config.stack_size = STACK_SIZE_BYTES;
    config.silence_warnings = true;
    let count = Count(name, Arc::new(AtomicUsize::new(0)));
    let each = Arc::clone(&count.1);
    Runner::new(scheduler, config).run(move || {
        each.fetch_add(1, Ordering::Relaxed);
        test();
    });
    drop(count);
}

#[test]
fn users_meet_revokes_expiries_force_and_evictions() {
    check(|| run(3, 14, |_| {}));
}

#[test]
fn a_close_flushes_everything_and_tells_every_waiter() {
    check(|| {
        run(2, 8, |bench| {
            shuttle::future::block_on(async {
                bench.shared.flush_all().await.expect("every hook succeeds");
                bench.shared.end(Stage::Closed);
            });
            bench.wake_clerk();
        });
    });
}

#[test]
fn an_abandoned_session_tells_every_waiter() {
    check(|| {
        run(2, 8, |bench| {
            bench.shared.end(Stage::Closed);
            bench.wake_clerk();
        });
    });
}

#[test]
fn a_lost_session_tells_every_waiter_and_no_guard_outlives_it() {
    check(|| run(2, 10, |bench| bench.let_server_end()));
}

#[test]
fn an_orphaned_session_is_closed_when_nobody_has_a_guard_or_waits() {
    check(|| {
        run(2, 6, |bench| {
            bench.shared.lease.set_orphaned();
            shuttle::future::block_on(async {
                bench.shared.unused().await;
                bench.shared.flush_all().await.expect("every hook succeeds");
            });
            bench.shared.end(Stage::Closed);
            bench.wake_clerk();
        });
    });
}

#[test]
fn two_look_ups_at_once_and_a_sweep_find_one_cell() {
    check(|| {
        let (bench, _work) = bench();
        let looks: Vec<_> = (0..2)
            .map(|_| {
                let bench = Arc::clone(&bench);
                thread::spawn(move || {
                    let cell = bench.shared.table.cell("l", bench.shared.weak()).expect("a name");
                    bench.shared.table.find("l").is_some_and(|found| Arc::ptr_eq(&found, &cell))
                })
            })
            .collect();
        bench.shared.table.forget_unknown();
        for look in looks {
            assert!(look.join().expect("the schedule has failed"), "another cell took the name while one was held");
        }
        set::set(None);
    });
}

fn name() -> LockName {
    LockName::new("l").expect("a name")
}
