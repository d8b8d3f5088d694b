//! The five tests of the labs' lock tester, with an oracle beside each grant.
//!
//! Each takes six clients of its own, one process, one session each. The oracle knows who holds what, and that tokens only grow.

use std::time::Duration;

use lock_client::{LockClient, Mode};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::cluster::DEADLINE;
use super::failure::{Checked, wrong};
use super::oracle::Oracle;
use super::storm::connect;

/// Six, as in the labs.
const CLIENTS: usize = 6;

/// How the tests are run.
#[derive(Clone, Debug)]
pub struct LockTestSettings {
    /// Where the servers are.
    pub endpoints: Vec<String>,
    /// How often each task of tests 3, 4 and 5 takes the lock; 10 in the labs.
    pub rounds: u32,
    /// For how long test 2 holds the lock; 1 s in the labs.
    pub hold: Duration,
    /// The clients' lease.
    pub lease: Duration,
}

impl LockTestSettings {
    /// As in the labs.
    pub fn new(endpoints: Vec<String>) -> Self {
        LockTestSettings { endpoints, rounds: 10, hold: Duration::from_secs(1), lease: Duration::from_secs(10) }
    }
}

/// What each test does.
pub const LOCK_TESTS: [(u32, &str); 5] = [
    (1, "one client takes two locks, and a cached one again under the same token"),
    (2, "six clients hold one lock, each for a while"),
    (3, "six clients fight for one lock"),
    (4, "two users of one client hand a lock to each other"),
    (5, "five users of one client and one of another fight for a lock"),
];

/// Runs one of them.
///
/// # Errors
/// A lock held twice, a token that does not grow, or a lock that is not granted in time.
pub async fn run_lock_test(number: u32, settings: &LockTestSettings) -> Checked<()> {
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        clients.push(connect(&settings.endpoints, &format!("lock-tester-{index}"), settings.lease).await?);
    }
    let name = format!("lock-tester/{number}/a");
    let oracle = Oracle::default();
    let once = (1, settings.hold);
    let often = (settings.rounds, Duration::ZERO);
    match number {
        1 => one_client(&oracle, &clients[0], &name).await?,
        2 => users(&oracle, &clients, &[0, 1, 2, 3, 4, 5], &name, once).await?,
        3 => users(&oracle, &clients, &[0, 1, 2, 3, 4, 5], &name, often).await?,
        4 => users(&oracle, &clients, &[0, 0], &name, often).await?,
        5 => users(&oracle, &clients, &[0, 0, 0, 0, 0, 1], &name, often).await?,
        other => return wrong(format!("there is no test {other}: choose 1 to 5")),
    }
    for client in &clients {
        client.close().await?;
    }
    Ok(())
}

async fn one_client(oracle: &Oracle, client: &LockClient, name: &str) -> Checked<()> {
    let other = format!("{name}/b");
    let first = take(oracle, 0, client, name).await?.token();
    let again = take(oracle, 0, client, name).await?.token();
    if first != again {
        return wrong(format!(
            "a cached lock changed its token from {first} to {again}, although nobody else wanted it"
        ));
    }
    let outer = take(oracle, 0, client, name).await?;
    let inner = take(oracle, 0, client, &other).await?;
    drop(inner);
    drop(outer);
    Ok(())
}

/// One task for each entry of `users`, on the client of that index: so many rounds, holding the lock for so long.
async fn users(
    oracle: &Oracle,
    clients: &[LockClient],
    users: &[usize],
    name: &str,
    (rounds, hold): (u32, Duration),
) -> Checked<()> {
    let mut tasks: JoinSet<Checked<()>> = JoinSet::new();
    for index in users {
        let (oracle, client, name, index) = (oracle.clone(), clients[*index].clone(), name.to_owned(), *index as u64);
        tasks.spawn(async move {
            for _ in 0..rounds {
                let held = take(&oracle, index, &client, &name).await?;
                sleep(hold).await;
                drop(held);
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(result) => result?,
            Err(error) => return wrong(format!("a user's task did not end well: {error}")),
        }
    }
    Ok(())
}

async fn take(oracle: &Oracle, index: u64, client: &LockClient, name: &str) -> Checked<super::oracle::Held> {
    match timeout(DEADLINE, client.acquire(name, Mode::Exclusive)).await {
        Ok(guard) => oracle.enter(index, guard?),
        Err(_) => wrong(format!("client {index} did not get {name} within {DEADLINE:?}")),
    }
}
