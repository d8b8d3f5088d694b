//! Why a lock needs a fencing token, shown on a cluster: `lock-server dev --exec 'cargo run --example fenced_store -p lock-client'`.
//!
//! A clerk takes the lock, reads a balance, and is "stopped" in the middle of its work; an operator ends its tenure by force, at
//! once, as the end of a lease would. Another clerk withdraws money. When the first goes on, its late write is refused by the store.

use std::error::Error;

use lock_client::blocking::LockClient;
use lock_client::{FencedStore, ForceRelease, Mode};

const NAME: &str = "accounts/7";

fn main() -> Result<(), Box<dyn Error>> {
    let endpoints = std::env::var("LOCK_ENDPOINTS").unwrap_or("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103".into());
    let connect = |who| LockClient::connect(LockClient::builder(endpoints.split(',')).name(who));
    let (slow, quick) = (connect("slow")?, connect("quick")?);
    let balance = FencedStore::new(100);

    let guard = slow.acquire(NAME, Mode::Exclusive)?;
    let token = guard.token();
    let seen = balance.write(token, |balance| *balance)?;
    println!("slow has token {token}, sees {seen}, and is stopped");

    let name = guard.name().clone();
    slow.force_release(ForceRelease { name, token, now: true })?;
    let other = quick.acquire(NAME, Mode::Exclusive)?;
    balance.write(other.token(), |balance| *balance -= 80)?;
    println!("quick has token {} and withdraws 80", other.token());

    match balance.write(token, |balance| *balance = seen - 10) {
        Ok(()) => return Err("the late write was taken: 70 units came from nowhere".into()),
        Err(stale) => println!("slow goes on and is refused: {stale}"),
    }
    println!("the balance is {}", balance.read(other.token(), |balance| *balance)?);
    drop((guard, other));
    slow.close()?;
    quick.close()?;
    Ok(())
}
