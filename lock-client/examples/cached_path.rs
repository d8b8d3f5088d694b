//! What taking and giving back a cached lock costs, per thread count. Run with `--release`.

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::time::Instant;

use lock_client::{Mode, blocking};

const ROUNDS: u32 = 2_000_000;

fn measure(what: &str, mut work: impl FnMut()) {
    for _ in 0..ROUNDS / 10 {
        work();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    println!("{what:<44} {:>7.1} ns", start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS));
}

fn main() {
    let cluster = fake::Cluster::start(1);
    let connect = blocking::LockClient::builder(cluster.addresses()).name("bench");
    let client = blocking::LockClient::connect(connect).expect("the cluster runs in this process");
    let lock = client.lock("bench/1").expect("a name");
    drop(lock.acquire(Mode::Exclusive).expect("the first acquire"));

    measure("acquire + drop, Lock handle, exclusive", || drop(lock.acquire(Mode::Exclusive).expect("cached")));
    measure("acquire + drop, Lock handle, shared", || drop(lock.acquire(Mode::Shared).expect("cached")));
    measure("acquire + drop, by name", || drop(client.acquire("bench/1", Mode::Exclusive).expect("cached")));
    let guard = lock.acquire(Mode::Exclusive).expect("cached");
    measure("is_valid (two clocks)", || assert!(guard.is_valid()));
    drop(guard);
    measure("CLOCK_BOOTTIME", || {
        std::hint::black_box(rustix::time::clock_gettime(rustix::time::ClockId::Boottime));
    });
    measure("CLOCK_MONOTONIC", || {
        std::hint::black_box(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
    });
    client.close().expect("the cluster runs");
}
