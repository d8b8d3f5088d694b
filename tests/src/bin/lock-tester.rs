//! Clients that fight for locks, against servers that run already.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lock_client::{LockClient, Mode};
use plumeria_tests::lab::{Checked, LOCK_TESTS, LockTestSettings, Storm, StormSettings, monotonic, run_lock_test};
use plumeria_tests::program;

/// Between two lines of a holder.
const HOLDER_TICK: Duration = Duration::from_millis(10);

/// Tests a lock service with six clients and an oracle that knows who holds what.
#[derive(Debug, Parser)]
struct Arguments {
    /// The servers: HOST:PORT,HOST:PORT,...
    endpoints: String,
    /// Which tests; 1 to 5 if none is named.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=5))]
    tests: Vec<u32>,
    /// How often each user takes the lock in tests 3 to 5.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// For how long test 2 holds the lock, ms.
    #[arg(long, default_value_t = 1000)]
    hold_ms: u64,
    /// The clients' lease, ms.
    #[arg(long, default_value_t = 10_000)]
    lease_ms: u64,
    /// No tests, but a storm over several locks for so long.
    #[arg(long, conflicts_with = "tests")]
    seconds: Option<u64>,
    /// How many locks the storm has.
    #[arg(long, default_value_t = 3)]
    locks: u64,
    /// No tests, but holds this lock until it is killed, and says until when it may.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tests", "seconds"])]
    hold: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let obeyed = program::runtime().and_then(|runtime| {
        let obeyed = runtime.block_on(obey(&arguments));
        obeyed.map_err(|failure| failure.to_string())
    });
    program::ended("lock-tester", obeyed)
}

async fn obey(arguments: &Arguments) -> Checked<()> {
    let lease = Duration::from_millis(arguments.lease_ms);
    if let Some(name) = &arguments.hold {
        return hold(arguments, name, lease).await;
    }
    if let Some(seconds) = arguments.seconds {
        let settings = StormSettings { locks: arguments.locks, lease, ..StormSettings::default() };
        let storm = Storm::start(&endpoints(arguments), &settings).await?;
        storm.measure_from_now();
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            storm.progress(1).await?;
        }
        let report = storm.stop().await?;
        println!("storm: {} locks granted, the longest time without one {:?}", report.grants, report.longest_gap);
        return Ok(());
    }
    let settings = LockTestSettings {
        endpoints: endpoints(arguments),
        rounds: arguments.rounds,
        hold: Duration::from_millis(arguments.hold_ms),
        lease,
    };
    for (number, name) in LOCK_TESTS {
        if arguments.tests.is_empty() || arguments.tests.contains(&number) {
            run_lock_test(number, &settings).await?;
            println!("test {number}, {name}: no lock was held twice, every token grew");
        }
    }
    Ok(())
}

fn endpoints(arguments: &Arguments) -> Vec<String> {
    arguments.endpoints.split(',').map(str::to_owned).collect()
}

/// Prints the token, then again and again until when the guard is valid, on a clock that all processes read alike.
async fn hold(arguments: &Arguments, name: &str, lease: Duration) -> Checked<()> {
    let client = LockClient::builder(endpoints(arguments)).name("holder").lease(lease).connect().await?;
    let guard = client.acquire(name, Mode::Exclusive).await?;
    println!("token {}", guard.token());
    loop {
        // Read before, so that what is said is never later than what is true.
        let now = monotonic();
        println!("until {}", (now + guard.valid_for()).as_nanos());
        tokio::time::sleep(HOLDER_TICK).await;
    }
}
