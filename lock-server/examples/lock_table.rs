//! What a million held locks cost: resident memory per lock, the time of an op, names in order and at random, and how long one
//! has to wait for a snapshot: at once, or in parts.
//!
//! `cargo run --release -p lock-server --example lock_table`

use std::time::{Duration, Instant};

use lock_protocol::{ClientIdentity, Command, FencingToken, LockName, Mode, Open, Request, RequestNumber, SessionId};
use lock_server::machine::{Machine, Op};
use rsm::StateMachine;
use rsm::limits::SNAPSHOT_PART_BYTES;

const LOCKS: u64 = 1_000_000;
/// While a part is on its way to the medium, some hundred ops are executed.
const OPS_BETWEEN_PARTS: usize = 200;
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
        in_parts(what, &mut machine, name)?;
        let release =
            |lock| anyhow::Ok(Command::Release { name: name(lock)?, token: FencingToken(lock + 2), requeue: None });
        let first = machine.applied() + 1;
        println!("{what}: release {} ns", timed(&mut machine, first, release)?);
        println!("{what}: {} locks left", machine.lock_count());
    }
    Ok(())
}

/// A snapshot in parts as a replica takes it, with other sessions' ops between them, and a session's mass expiry after it.
fn in_parts(
    what: &str,
    machine: &mut Machine,
    name: impl Fn(u64) -> Result<LockName, lock_protocol::NameError>,
) -> anyhow::Result<()> {
    let mut op = machine.applied();
    let mut longest = [Duration::ZERO; 3];
    let mut measured = |index: usize, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        longest[index] = longest[index].max(started.elapsed());
    };
    op += 1;
    let other = SessionId(op);
    machine.apply(op, &Op::Open(Open { nonce: 2, lease_ms: 60_000, identity: ClientIdentity::default() }).encode());
    let mut part = machine.begin_snapshot(SNAPSHOT_PART_BYTES);
    let (mut parts, mut bytes) = (1, part.bytes.len());
    while !part.is_last {
        for _ in 0..OPS_BETWEEN_PARTS {
            op += 1;
            // A new one, or a place in the queue of one that is held, anywhere in the table.
            let name = name(op.wrapping_mul(7_919) % (2 * LOCKS))?;
            let request = Request { number: RequestNumber(op), command: Command::Acquire { name, mode: Mode::Shared } };
            let command = Op::Request { session: other, floor: RequestNumber(op), request }.encode();
            measured(0, &mut || drop(machine.apply(op, &command)));
        }
        measured(1, &mut || part = machine.next_snapshot_part(SNAPSHOT_PART_BYTES));
        (parts, bytes) = (parts + 1, bytes + part.bytes.len());
    }
    op += 1;
    machine.apply(op, &Op::Close { session: other }.encode());
    while machine.needs_sweep() {
        op += 1;
        measured(2, &mut || drop(machine.apply(op, &Op::Sweep.encode())));
    }
    let [op, part, sweep] = longest;
    println!(
        "{what}: {bytes} bytes in {parts} parts, the longest {part:?}; the longest op between them {op:?}, sweep {sweep:?}"
    );
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
