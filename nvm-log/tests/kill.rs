//! A writer is killed in mid-work, over and over: every op that it acknowledged is there afterwards, in order.
//!
//! The program runs itself as the writer, so it has its own `main`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nvm_log::{Backend, Error, Frame, Identity, Options, Outcome, SnapshotMeta, Store};

const ROUNDS: u64 = 8;

fn options(backend: Backend) -> Options {
    Options { backend, ring_bytes: 256 << 10, ..Options::default() }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let dir = |dir: &str| Path::new(dir).to_owned();
    match words[..] {
        // These are the processes that are killed, here or in a virtual machine.
        ["format", at, backend] => format(&dir(at), backend_of(backend)),
        ["write", at, backend] => write(&dir(at), backend_of(backend)),
        ["check", at, backend, acked] => {
            let acked = acked.parse().expect("a number of an op");
            println!("checked to op {}", check(&dir(at), backend_of(backend), acked));
        }
        ["lose", at] => lose(&dir(at)),
        _ => {
            let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on disk");
            let in_memory = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
            kill_over_and_over(on_disk.path(), Backend::File);
            kill_over_and_over(in_memory.path(), Backend::Shm);
            println!("test a_killed_writer_keeps_all_that_it_acknowledged ... ok");
            a_store_that_is_shortened_under_the_process_ends_it_with_a_message();
        }
    }
}

fn backend_of(name: &str) -> Backend {
    if name == "shm" { Backend::Shm } else { Backend::File }
}

fn format(dir: &Path, backend: Backend) {
    let identity = Identity { cluster: [0; 16], member: 1, incarnation: [1; 16] };
    let store = Store::format(dir, &options(backend), identity).expect("a new store");
    println!("formatted: {}", store.backend());
}

/// Goes on after somebody has cut the file.
fn lose(dir: &Path) {
    let (mut store, _) = Store::open(dir, &options(Backend::Shm)).expect("the store opens");
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("store")).expect("it is there");
    file.set_len(4096).expect("it can be cut");
    let frame = Frame { view: 1, first_op: 1, count: 1, ..Frame::default() };
    let appended = store.append(&frame);
    println!("still alive: {appended:?}");
}

fn a_store_that_is_shortened_under_the_process_ends_it_with_a_message() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    format(dir.path(), Backend::Shm);
    let this = std::env::current_exe().expect("this program has a path");
    let ended = Command::new(this).arg("lose").arg(dir.path()).output().expect("it runs");
    let message = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(74), "{ended:?}");
    let expected = format!("the store in {} is gone from under this process", dir.path().display());
    assert!(message.contains(&expected) && message.ends_with("then restart\n"), "{message}");
    println!("test a_store_that_is_shortened_under_the_process_ends_it_with_a_message ... ok");
}

fn body(op: u64) -> Vec<u8> {
    (0..op % 900).map(|at| (at + op) as u8).collect()
}

/// Appends without end and says each op once it is durable.
fn write(dir: &Path, backend: Backend) {
    let (mut store, _) = Store::open(dir, &options(backend)).expect("the store opens");
    let mut out = std::io::stdout();
    loop {
        let (view, last) = store.last_viewstamp();
        for op in last + 1..=last + 1 + last % 3 {
            let previous = (if op == last + 1 { view } else { 1 }, op - 1);
            let frame = Frame { kind: 0, view: 1, first_op: op, count: 1, previous, body: body(op) };
            if let Err(Error::Full { .. }) = store.append(&frame) {
                let meta = SnapshotMeta { view: 1, op: store.last_op(), tag: 0 };
                store.write_snapshot(meta, &meta.op.to_le_bytes()).expect("a snapshot");
                store.release_prefix(meta.op - 10).expect("a release");
                break;
            }
        }
        store.set_control(&store.last_op().to_le_bytes()).expect("a control blob");
        store.flush().expect("a flush");
        writeln!(out, "{}", store.last_op()).and_then(|()| out.flush()).expect("the parent listens");
    }
}

fn kill_over_and_over(dir: &Path, backend: Backend) {
    format(dir, backend);
    let mut before = 0;
    for round in 0..ROUNDS {
        let name = if backend == Backend::Shm { "shm" } else { "file" };
        let this = std::env::current_exe().expect("this program has a path");
        let mut writer =
            Command::new(this).args(["write"]).arg(dir).arg(name).stdout(Stdio::piped()).spawn().expect("a writer");
        let lines = BufReader::new(writer.stdout.take().expect("its output is piped")).lines();
        let mut acked = before;
        let mut lines = lines.map_while(Result::ok);
        for line in lines.by_ref().take(150 + 37 * round as usize) {
            acked = line.parse().expect("a number of an op");
        }
        writer.kill().expect("the writer is ours");
        // What was said before the kill arrived counts too; the last line may be cut short.
        for line in lines {
            acked = line.parse().unwrap_or(acked).max(acked);
        }
        writer.wait().expect("the writer ends");
        assert!(acked > before, "the writer got nowhere");
        before = check(dir, backend, acked);
    }
}

/// Checks that the store holds every op up to `acked`; says its last.
fn check(dir: &Path, backend: Backend, acked: u64) -> u64 {
    let (store, recovery) = Store::open(dir, &options(backend)).expect("the store opens");
    assert!(matches!(recovery.outcome, Outcome::Clean | Outcome::Torn { .. }), "{:?}", recovery.outcome);
    assert!(recovery.last_op >= acked, "op {acked} was acknowledged, the log ends at {}", recovery.last_op);
    let control = recovery.control.expect("the writer set it");
    let control = u64::from_le_bytes(control.try_into().expect("eight bytes"));
    assert!((acked..=recovery.last_op).contains(&control), "control {control}, acknowledged {acked}");
    let base = recovery.snapshot.map_or(0, |(meta, data)| {
        assert_eq!(data, meta.op.to_le_bytes());
        meta.op
    });
    let mut next = recovery.frames.first().map_or(recovery.last_op + 1, |frame| frame.first_op);
    assert!(next <= base + 1, "ops {base} to {next} are lost");
    for frame in &recovery.frames {
        assert_eq!((frame.first_op, &frame.body), (next, &body(next)));
        next += 1;
    }
    assert_eq!(next, recovery.last_op + 1);
    println!("opened: {}, {:?}", store.backend(), recovery.outcome);
    store.last_op()
}
