//! Measures appends on a directory: `append DIRECTORY file|shm [BODY_BYTES]`. The directory must not hold a store.

use std::path::PathBuf;
use std::time::Instant;

use nvm_log::{Backend, Error, Frame, Identity, Options, SnapshotMeta, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("name a directory")?);
    let backend = if arguments.next().as_deref() == Some("shm") { Backend::Shm } else { Backend::File };
    let body_bytes = arguments.next().map_or(Ok(48), |text| text.parse())?;
    let options = Options { backend, ..Options::default() };
    let mut store = Store::format(&dir, &options, Identity { cluster: [0; 16], member: 1, incarnation: [1; 16] })?;
    println!("{}", store.backend());
    let mut frame = Frame { view: 1, body: vec![7; body_bytes], count: 1, ..Frame::default() };
    let total = if backend == Backend::Shm { 2_000_000 } else { 3_000 };
    for batch in [1, 8, 64] {
        let mut flushes = Vec::new();
        while flushes.len() < total / batch {
            let started = Instant::now();
            for _ in 0..batch.min(64) {
                (frame.first_op, frame.previous) = (store.last_op() + 1, (1, store.last_op()));
                if let Err(Error::Full { .. }) = store.append(&frame) {
                    store.write_snapshot(SnapshotMeta { view: 1, op: store.last_op(), tag: 0 }, b"")?;
                    store.release_prefix(store.last_op())?;
                    store.flush()?;
                    store.append(&Frame { first_op: store.last_op() + 1, ..frame.clone() })?;
                }
            }
            store.flush()?;
            flushes.push(started.elapsed());
        }
        flushes.sort_unstable();
        let median = flushes[flushes.len() / 2];
        println!(
            "{batch:3} frames of {body_bytes} bytes a flush: median {median:?}, {:?} a frame",
            median / batch as u32
        );
    }
    let (last_op, free_bytes) = (store.last_op(), store.free_bytes());
    store.close()?;
    let (_store, recovery) = Store::open(&dir, &options)?;
    println!(
        "recovery: {:?}, {} frames in {} bytes scanned in {:?} (last op {last_op}, {free_bytes} bytes were free)",
        recovery.outcome, recovery.scanned_frames, recovery.scanned_bytes, recovery.elapsed
    );
    Ok(())
}
