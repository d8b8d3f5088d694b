//! What a million held locks cost: resident memory per lock, and the time of an op, names in order and at random.
//!
//! `cargo run --release -p lock-server --example lock_table`

use std::time::Instant;

use lock_protocol::{ClientIdentity, Command, FencingToken, LockName, Mode, Open, Request, RequestNumber, SessionId};
use lock_server::machine::{Machine, Op};
use rsm::StateMachine;

const LOCKS: u64 = 1_000_000;
/// 4 KiB on the machines that this is run on.
const PAGE_BYTES: u64 = 4096;

fn main() -> anyhow::Result<()> {
    for (what, scatter) in [("in order", 1), ("scattered", 0x9e37_79b1)] {
        let before = resident_bytes()?;
        let mut machine = Machine::default();
        let identity = ClientIdentity::default();
        machine.apply(1, &Op::Open(Open { nonce: 1, lease_ms: 60_000, identity }).encode());
        let name = |lock: u64| LockName::new(format!("orders/{:025}", lock.wrapping_mul(scatter) % (1 << 32)));
        let acquire = |lock| anyhow::Ok(Command::Acquire { name: name(lock)?, mode: Mode::Exclusive });
        let acquire_ns = timed(&mut machine, 2, acquire)?;
        let held = resident_bytes()?.saturating_sub(before);
        println!("{what}: {} bytes a lock, acquire {acquire_ns} ns", held / machine.lock_count() as u64);
        let hot = |lock| anyhow::Ok(Command::Downgrade { name: name(lock % 1000)?, token: FencingToken(1) });
        println!("{what}: refused downgrade {} ns", timed(&mut machine, 2 + LOCKS, hot)?);
        let started = Instant::now();
        let snapshot = machine.snapshot();
        let wrote = started.elapsed();
        let started = Instant::now();
        Machine::default().restore(&snapshot).map_err(anyhow::Error::msg)?;
        println!("{what}: snapshot {} bytes in {wrote:?}, restored in {:?}", snapshot.len(), started.elapsed());
        let release =
            |lock| anyhow::Ok(Command::Release { name: name(lock)?, token: FencingToken(lock + 2), requeue: None });
        println!("{what}: release {} ns", timed(&mut machine, 2 + 2 * LOCKS, release)?);
        println!("{what}: {} locks left", machine.lock_count());
    }
    Ok(())
}

/// Applies one command per lock from op `first` on; ns per op, decoding and the reply's encoding included.
fn timed(machine: &mut Machine, first: u64, command: impl Fn(u64) -> anyhow::Result<Command>) -> anyhow::Result<u128> {
    let mut elapsed = std::time::Duration::ZERO;
    for lock in 0..LOCKS {
        let number = RequestNumber(first + lock);
        let request = Request { number, command: command(lock)? };
        let bytes = Op::Request { session: SessionId(1), floor: number, request }.encode();
        let started = Instant::now();
        machine.apply(first + lock, &bytes);
        elapsed += started.elapsed();
    }
    Ok(elapsed.as_nanos() / u128::from(LOCKS))
}

fn resident_bytes() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).unwrap_or("0").parse::<u64>()?;
    Ok(pages * PAGE_BYTES)
}
