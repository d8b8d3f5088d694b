//! A store in a real directory: what is refused, what survives, and what each refusal says.

use std::fs;
use std::path::Path;

use nvm_log::{Backend, Error, Frame, Identity, Options, Outcome, SnapshotMeta, Store};

fn options(backend: Backend) -> Options {
    Options { backend, ring_bytes: 64 << 10, ..Options::default() }
}

fn file() -> Options {
    options(Backend::File)
}

fn identity() -> Identity {
    Identity { cluster: [0; 16], member: 2, incarnation: [4; 16] }
}

fn frame(op: u64, body: &[u8]) -> Frame {
    Frame { kind: 1, view: 1, first_op: op, count: 1, previous: (1, op - 1), body: body.to_vec() }
}

#[test]
fn a_formatted_store_opens_fresh_and_then_with_all_that_was_flushed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::format(&dir.path().join("deep/down"), &file(), identity()).expect("a new store");
    drop(store);
    let dir = dir.path().join("deep/down");
    let (mut store, recovery) = Store::open(&dir, &file()).expect("it opens");
    assert_eq!((recovery.outcome, recovery.identity), (Outcome::Fresh, identity()));
    store.append(&frame(1, b"one")).expect("the medium is sound");
    store.append(&frame(2, b"two")).expect("the medium is sound");
    store.set_control(b"vote").expect("the medium is sound");
    store.set_cluster([8; 16]).expect("the medium is sound");
    store.flush().expect("the medium is sound");
    store.write_snapshot(SnapshotMeta { view: 1, op: 1, tag: 6 }, &[3; 200_000]).expect("the medium is sound");
    store.append(&frame(3, b"never flushed")).expect("the medium is sound");
    // Persistent memory that is mapped has what was stored there, flushed or not, as long as only the process ends.
    let kept = if store.backend().starts_with("dax") { 3 } else { 2 };
    drop(store);
    let (_store, recovery) = Store::open(&dir, &file()).expect("it opens");
    assert_eq!(recovery.outcome, Outcome::Clean);
    assert_eq!(recovery.frames, [frame(1, b"one"), frame(2, b"two"), frame(3, b"never flushed")][..kept]);
    assert_eq!(recovery.control.as_deref(), Some(&b"vote"[..]));
    assert_eq!(recovery.identity.cluster, [8; 16]);
    assert_eq!(recovery.snapshot, Some((SnapshotMeta { view: 1, op: 1, tag: 6 }, vec![3; 200_000])));
}

#[test]
fn a_second_opener_is_told_who_holds_the_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::format(dir.path(), &file(), identity()).expect("a new store");
    let error = Store::open(dir.path(), &file()).expect_err("it is refused");
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().ends_with("stop that process first"), "{error}");
    if let Error::Locked { pid: Some(pid), .. } = error {
        assert_eq!(pid, std::process::id());
    }
    drop(store);
    Store::open(dir.path(), &file()).expect("it opens");
}

#[test]
fn formatting_over_a_store_or_what_is_left_of_one_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Store::format(dir.path(), &file(), identity()).expect("a new store"));
    let before = fs::read(dir.path().join("store")).expect("it is there");
    assert!(matches!(Store::format(dir.path(), &file(), identity()), Err(Error::Exists { .. })));
    assert_eq!(fs::read(dir.path().join("store")).expect("it is there"), before);
    fs::remove_file(dir.path().join("store")).expect("it is there");
    fs::write(dir.path().join("snapshot-b"), b"state").expect("it can be written");
    assert!(matches!(Store::format(dir.path(), &file(), identity()), Err(Error::Exists { .. })));
}

#[test]
fn formatting_that_was_cut_short_leaves_no_store_and_can_be_done_again() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("store.new"), [0x55; 70_000]).expect("it can be written");
    fs::write(dir.path().join("snapshot-a"), b"").expect("it can be written");
    assert!(matches!(Store::open(dir.path(), &file()), Err(Error::NotFound { .. })));
    drop(Store::format(dir.path(), &file(), identity()).expect("a new store"));
    assert_eq!(Store::open(dir.path(), &file()).expect("it opens").1.outcome, Outcome::Fresh);
}

#[test]
fn what_is_no_store_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(Store::open(Path::new("/nowhere/at/all"), &file()), Err(Error::NotFound { .. })));
    assert!(matches!(Store::open(dir.path(), &file()), Err(Error::NotFound { .. })));
    fs::write(dir.path().join("store"), b"not a store").expect("it can be written");
    assert!(matches!(Store::open(dir.path(), &file()), Err(Error::Damaged { .. })));
    fs::write(dir.path().join("store"), vec![7; 1 << 20]).expect("it can be written");
    assert!(matches!(Store::open(dir.path(), &file()), Err(Error::Damaged { .. })));
    let odd = Options { ring_bytes: 100_000, ..file() };
    assert!(matches!(Store::format(dir.path(), &odd, identity()), Err(Error::RingSize { bytes: 100_000 })));
}

#[test]
fn a_later_version_of_the_format_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Store::format(dir.path(), &file(), identity()).expect("a new store"));
    let path = dir.path().join("store");
    let mut bytes = fs::read(&path).expect("it is there");
    (bytes[8], bytes[0x1008]) = (9, 9);
    fs::write(&path, bytes).expect("it can be written");
    assert!(matches!(Store::open(dir.path(), &file()), Err(Error::Version { found: 9, known: 2 })));
}

#[test]
fn both_control_slots_damaged_means_a_new_incarnation() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Store::format(dir.path(), &file(), identity()).expect("a new store"));
    let path = dir.path().join("store");
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[0x4000..0x1_8000].fill(0xff);
    fs::write(&path, bytes).expect("it can be written");
    let error = Store::open(dir.path(), &file()).expect_err("it is refused");
    assert!(error.to_string().contains("new incarnation"), "{error}");
}

#[test]
fn the_newest_control_record_lost_after_it_was_durable_is_damage_not_an_older_promise() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = Store::format(dir.path(), &file(), identity()).expect("a new store");
    store.set_control(b"promised 1").expect("the medium is sound");
    store.flush().expect("the medium is sound");
    store.set_control(b"promised 2").expect("the medium is sound");
    store.close().expect("the medium is sound");
    let path = dir.path().join("store");
    let whole = fs::read(&path).expect("it is there");
    let mut lost = 0;
    for slot in [[0x4000, 0xe000], [0x9000, 0x1_3000]] {
        let mut bytes = whole.clone();
        for at in slot {
            bytes[at + 9] ^= 1;
        }
        fs::write(&path, &bytes).expect("it can be written");
        match Store::open(dir.path(), &file()) {
            Ok((_, recovery)) => assert_eq!(recovery.control.as_deref(), Some(&b"promised 2"[..])),
            Err(error) => {
                assert!(matches!(error, Error::Damaged { .. }), "{error}");
                lost += 1;
            }
        }
    }
    assert_eq!(lost, 1);
}

#[test]
fn shared_memory_is_mapped_on_tmpfs_only_and_called_volatile() {
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let shm = options(Backend::Shm);
    if let Err(error) = Store::format(on_disk.path(), &shm, identity()) {
        assert!(matches!(error, Error::NotTmpfs { .. }), "{error}");
        let unmapped = Options { may_map: false, ..file() };
        let store = Store::format(on_disk.path(), &unmapped, identity()).expect("a new store");
        assert_eq!((store.backend().as_str(), store.is_mapped()), ("file, durable", false));
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let mut store = Store::format(dir.path(), &shm, identity()).expect("a new store");
    assert_eq!((store.backend().as_str(), store.is_mapped()), ("shm, volatile", true));
    for op in 1..=100 {
        store.append(&frame(op, &[op as u8; 300])).expect("the medium is sound");
    }
    // No flush: what was stored survives the process all the same.
    drop(store);
    assert!(matches!(Store::open(dir.path(), &file()), Err(Error::OtherBackend { .. })));
    let (store, recovery) = Store::open(dir.path(), &shm).expect("it opens");
    assert!(recovery.volatile);
    assert_eq!((recovery.last_op, recovery.frames.len(), recovery.outcome), (100, 100, Outcome::Clean));
    drop(store);
    let plain = tempfile::tempdir_in("/dev/shm").expect("a directory");
    assert_eq!(Store::format(plain.path(), &file(), identity()).expect("a new store").backend(), "file, volatile");
}

#[test]
fn a_removed_store_is_gone_and_one_in_use_is_not_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = options(Backend::File);
    let store = Store::format(dir.path(), &options, identity()).expect("formatted");
    assert!(matches!(Store::remove(dir.path()), Err(Error::Locked { .. })));
    drop(store);
    Store::remove(dir.path()).expect("removed");
    assert!(matches!(Store::open(dir.path(), &options), Err(Error::NotFound { .. })));
    Store::remove(dir.path()).expect("nothing to remove");
    Store::format(dir.path(), &options, identity()).expect("formatted anew");
}

#[test]
fn volatile_memory_from_before_the_last_boot_is_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    drop(Store::format(dir.path(), &options(Backend::Shm), identity()).expect("a new store"));
    let path = dir.path().join("store");
    let mut bytes = fs::read(&path).expect("it is there");
    for at in [0, 0x1000] {
        let salt = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().expect("eight bytes"));
        bytes[at + 88] ^= 1;
        bytes[at + 12..at + 16].fill(0);
        let sum = crc32c::crc32c_append((salt ^ (salt >> 32)) as u32, &bytes[at..at + 256]);
        bytes[at + 12..at + 16].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(&path, bytes).expect("it can be written");
    assert!(matches!(Store::open(dir.path(), &options(Backend::Shm)), Err(Error::OtherBoot)));
}
