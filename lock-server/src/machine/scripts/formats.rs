//! Snapshots in the format of the former release.

use lock_protocol::{Command, LockSet, OpenWith, SessionOptions};
use rsm::StateMachine;

use super::{ClientIdentity, FencingToken, Mode, Op, Open, Outcome, S, Script, SessionId, X, name, token};
use crate::machine::Machine;

/// What the lock server of the former release wrote, in hexadecimal: holders and waiters of either mode, a dead session that is not cleaned up, a
/// tenure that was ended by force and is withheld, answers that are kept; after op [`FORMER_OP`].
const FORMER: &str = include_str!("former-snapshot.hex");
const FORMER_OP: u64 = 53;
/// Its hash of all ops so far.
const FORMER_HASH: u64 = 0xb31f8f6bca90867a;

fn former() -> Vec<u8> {
    let digits: Vec<u8> = FORMER.bytes().filter(u8::is_ascii_hexdigit).collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks_exact(2).map(octet).collect()
}

fn format_of(script: &Script) -> u8 {
    script.machine.snapshot()[7]
}

#[test]
fn a_snapshot_of_the_former_release_is_read_and_written_again_to_the_byte() {
    let mut machine = Machine::default();
    machine.restore(&former()).expect("a snapshot of the former release");
    assert_eq!((machine.applied(), machine.hash()), (FORMER_OP, FORMER_HASH));
    assert!(machine.snapshot() == former(), "a member of the former release would not find its own state in it");
}

#[test]
fn the_state_of_the_former_release_goes_on_where_it_stopped() {
    let mut script = Script::new();
    script.machine.restore(&former()).expect("a snapshot of the former release");
    script.machine.set_serving(true);
    script.op = FORMER_OP;
    let [one, two] = [SessionId(1), SessionId(2)];
    assert_eq!((script.holders("alone"), script.waiters("alone")), (vec![one], vec![two]));
    assert_eq!(script.holders("shared"), vec![one, two]);
    let again = script.number(one, 1, Command::Acquire { name: name("alone"), mode: X });
    assert_eq!(token(&again), FencingToken(4), "a request that was answered is answered alike");
    let released =
        script.number(one, 9, Command::Release { name: name("alone"), token: FencingToken(4), requeue: None });
    assert_eq!(released, Outcome::Released { requeued: None });
    assert_eq!(script.holders("alone"), vec![two]);
    while script.machine.needs_sweep() {
        script.apply(&Op::Sweep);
    }
    assert_eq!((script.holders("doomed"), script.waiters("shared")), (vec![one], vec![]));
}

#[test]
fn what_the_former_release_cannot_say_is_written_in_the_format_of_this_one_as_long_as_it_is_there() {
    let mut script = Script::new();
    let [plain, other] = [1, 2].map(|nonce| script.open(nonce, 60_000));
    let held = token(&script.acquire(plain, "a", X));
    assert_eq!(format_of(&script), 3);
    let set = LockSet::new([(name("a"), X), (name("b"), Mode::Shared)]).expect("two locks");
    assert_eq!(script.number(other, 50, Command::AcquireAll { set }), Outcome::Queued);
    assert_eq!(format_of(&script), 6, "a set waits");
    script.release(plain, "a", held, None);
    assert_eq!(format_of(&script), 3, "it is granted, and holds locks like any others");
    let options = SessionOptions { lock_delay_ms: 100, recovery: None };
    let open = Open { nonce: 3, lease_ms: 60_000, identity: ClientIdentity::default() };
    script.apply(&Op::OpenWith(OpenWith { open, options }));
    let delayed = SessionId(script.op);
    script.acquire(delayed, "c", S);
    assert_eq!(format_of(&script), 6, "a session has a lock delay");
    script.restart_from_snapshot();
    script.apply(&Op::Close { session: delayed });
    while script.machine.needs_sweep() {
        script.apply(&Op::Sweep);
    }
    assert_eq!(format_of(&script), 3);
    script.restart_from_snapshot();
}

#[test]
fn snapshots_of_formats_that_were_never_released_are_refused() {
    for format in [0, 1, 2, 4, 5, 7] {
        let mut bytes = former();
        bytes[7] = format;
        let mut machine = Machine::default();
        assert!(machine.restore(&bytes).is_err(), "format {format}");
    }
    let mut cut = former();
    cut.truncate(cut.len() - 1);
    assert!(Machine::default().restore(&cut).is_err());
}
