//! What the log costs beside the bare loops that it cannot beat, measured in turns within one run.
//!
//! `cargo run --release -p nvm-log --example measure -- DIRECTORY-ON-TMPFS DIRECTORY-ON-DISK`

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use nvm_log::medium::Medium;
use nvm_log::{Backend, Frame, Identity, Options, ShmMedium, SnapshotMeta, Store};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RING_BYTES: u64 = 64 << 20;
/// Turns that each loop gets, and calls in one turn.
const TURNS: usize = 400;
const CALLS: usize = 500;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tmpfs, disk] = &arguments[..] else {
        return Err("name a directory on tmpfs and one on a disk".into());
    };
    let (tmpfs, disk) = (Path::new(tmpfs).join("measure"), Path::new(disk).join("measure"));
    let measured = append(&tmpfs).and_then(|()| scan(&tmpfs)).and_then(|()| append_to_file(&disk));
    drop(std::fs::remove_dir_all(&tmpfs));
    drop(std::fs::remove_dir_all(&disk));
    measured
}

fn store(dir: &Path, backend: Backend) -> Result<Store> {
    drop(std::fs::remove_dir_all(dir));
    let options = Options { backend, ring_bytes: RING_BYTES, ..Options::default() };
    let identity = Identity { cluster: [0; 16], member: 1, incarnation: [1; 16] };
    Ok(Store::format(dir, &options, identity)?)
}

fn next(store: &Store, count: u32, body: &[u8]) -> Frame {
    let (view, op) = store.last_viewstamp();
    Frame { kind: 0, view: view.max(1), first_op: op + 1, count, previous: (view, op), body: body.to_vec() }
}

/// Keeps the log from becoming full, outside what is measured.
fn make_room(store: &mut Store, bytes: u64) -> Result<()> {
    if store.free_bytes() < bytes {
        let (view, op) = store.last_viewstamp();
        store.write_snapshot(SnapshotMeta { view, op, tag: 0 }, b"")?;
        store.release_prefix(op)?;
        store.flush()?;
    }
    Ok(())
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// One turn of `CALLS` calls, in nanoseconds a call.
fn turn(mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    (0..CALLS).try_for_each(&mut call)?;
    Ok(started.elapsed().as_nanos() as f64 / CALLS as f64)
}

fn append(dir: &Path) -> Result<()> {
    let mut store = store(dir, Backend::Shm)?;
    let path = dir.join("bare");
    std::fs::write(&path, vec![0; RING_BYTES as usize])?;
    let mut bare = ShmMedium::new(File::options().read(true).write(true).open(path)?)?;
    for (name, len, ops) in
        [("64-byte frame", 0, 1), ("16-byte op", 16, 1), ("192-byte op", 192, 1), ("64 ops of 16 bytes", 1024, 64)]
    {
        let body = vec![7; len];
        let frame_len = (64 + len).next_multiple_of(64);
        let (mut with_log, mut with_loop) = (Vec::new(), Vec::new());
        let mut at = 0;
        let mut buffer = vec![0; frame_len];
        for _ in 0..TURNS {
            make_room(&mut store, (CALLS * (frame_len + 64)) as u64 + (1 << 20))?;
            let mut frame = next(&store, ops, &body);
            with_log.push(turn(|_| {
                store.append(&frame)?;
                store.flush()?;
                frame.previous = (1, frame.last_op());
                frame.first_op = frame.last_op() + 1;
                Ok(())
            })?);
            with_loop.push(turn(|call| {
                buffer[64.min(frame_len - len)..][..len].copy_from_slice(black_box(&body));
                let sum = crc32c::crc32c(&buffer[64..]);
                buffer[4..8].copy_from_slice(&sum.to_le_bytes());
                buffer[8..16].copy_from_slice(&(call as u64).to_le_bytes());
                let sum = crc32c::crc32c(&buffer[4..64]);
                buffer[..4].copy_from_slice(&sum.to_le_bytes());
                bare.write(at, &buffer)?;
                bare.flush()?;
                at = (at + frame_len as u64) % (RING_BYTES - frame_len as u64) / 64 * 64;
                Ok(())
            })?);
        }
        let (log, bare) = (median(with_log), median(with_loop));
        let each = log / f64::from(ops);
        println!("shm append, {name}: {log:.0} ns ({each:.1} an op), bare loop {bare:.0} ns, ratio {:.2}", log / bare);
    }
    Ok(())
}

fn scan(dir: &Path) -> Result<()> {
    for len in [64, 256, 4096] {
        let mut store = store(dir, Backend::Shm)?;
        let body = vec![3; len];
        while store.free_bytes() > 1 << 20 {
            let frame = next(&store, 1, &body);
            store.append(&frame)?;
        }
        store.close()?;
        let bytes = std::fs::read(dir.join("store"))?;
        let options = Options { backend: Backend::Shm, ..Options::default() };
        let (mut with_log, mut without_copies, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..7 {
            let (mut store, recovery) = Store::open(dir, &options)?;
            with_log.push(recovery.scanned_bytes as f64 / recovery.elapsed.as_nanos() as f64);
            let started = Instant::now();
            let scrubbed = store.scrub(u64::MAX)?;
            without_copies.push(scrubbed.bytes as f64 / started.elapsed().as_nanos() as f64);
            let started = Instant::now();
            let ring = &bytes[2 << 20..];
            let sums = ring.chunks(64 + len).map(crc32c::crc32c).fold(0, |all, sum| all ^ sum);
            black_box(sums);
            bare.push(ring.len() as f64 / started.elapsed().as_nanos() as f64);
        }
        let (log, bare) = (median(with_log), median(bare));
        println!(
            "opening, bodies of {len} bytes: {log:.2} GB/s, bare crc32c of such pieces {bare:.2} GB/s, ratio {:.2}",
            log / bare
        );
    }
    Ok(())
}

fn append_to_file(dir: &Path) -> Result<()> {
    let mut store = store(dir, Backend::File)?;
    let path = dir.join("bare");
    std::fs::write(&path, vec![0; 8 << 20])?;
    let bare = File::options().read(true).write(true).open(path)?;
    bare.sync_all()?;
    let (mut with_log, mut with_loop) = (Vec::new(), Vec::new());
    for call in 0..600 {
        let frame = next(&store, 1, &[5; 100]);
        let started = Instant::now();
        store.append(&frame)?;
        store.flush()?;
        with_log.push(started.elapsed().as_nanos() as f64 / 1e3);
        let started = Instant::now();
        bare.write_all_at(&[5; 192], call * 192)?;
        bare.sync_data()?;
        with_loop.push(started.elapsed().as_nanos() as f64 / 1e3);
    }
    let (log, bare) = (median(with_log), median(with_loop));
    println!(
        "{} append, 100 bytes: {log:.0} us, bare pwrite + fdatasync {bare:.0} us, ratio {:.2}",
        store.backend(),
        log / bare
    );
    Ok(())
}
