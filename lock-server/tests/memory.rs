//! What the lock table takes of memory, counted at the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use lock_protocol::{
    ClientIdentity, Command, FencingToken, LockName, Mode, Open, Outcome, Request, RequestNumber, SessionId,
};
use lock_server::machine::{Limits, Machine, Op, Reply};
use rsm::StateMachine;

/// The system's allocator, and how many bytes of it are in use.
struct Counting;

static IN_USE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: each call is handed on as it is, and counting touches no memory that was asked for.
#[expect(unsafe_code, reason = "an allocator is made so; this test is all that uses it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LOCKS: u64 = 100_000;
const MAX_BYTES: usize = 200;

struct Client {
    machine: Machine,
    session: SessionId,
    op: u64,
}

impl Client {
    fn ask(&mut self, command: Command) -> Outcome {
        self.op += 1;
        let number = RequestNumber(self.op);
        let request = Request { number, command };
        let op = Op::Request { session: self.session, floor: number, request };
        match Reply::decode(&self.machine.apply(self.op, &op.encode())) {
            Ok(Reply::Outcome(outcome)) => outcome,
            other => panic!("no outcome: {other:?}"),
        }
    }
}

/// Of 32 bytes.
fn name(at: u64) -> LockName {
    LockName::new(format!("volume-07/inode/{at:016}")).expect("a name")
}

#[test]
fn requirement_9_a_held_lock_takes_at_most_200_bytes_and_a_free_one_none() {
    let mut machine = Machine::new(Limits::default());
    let open = Op::Open(Open { nonce: 1, lease_ms: 60_000, identity: ClientIdentity::default() });
    machine.apply(1, &open.encode());
    let mut client = Client { machine, session: SessionId(1), op: 1 };
    let before = IN_USE_BYTES.load(Ordering::Relaxed);
    let mut tokens: Vec<FencingToken> = Vec::with_capacity(LOCKS as usize);
    let list_bytes = tokens.capacity() * size_of::<FencingToken>();
    for at in 0..LOCKS {
        match client.ask(Command::Acquire { name: name(at), mode: Mode::Exclusive }) {
            Outcome::Granted { token, .. } => tokens.push(token),
            other => panic!("not granted: {other:?}"),
        }
    }
    let held = IN_USE_BYTES.load(Ordering::Relaxed) - before - list_bytes;
    let per_lock = held / LOCKS as usize;
    println!("measured: {per_lock} bytes for each of {LOCKS} held locks");
    assert!((40..=MAX_BYTES).contains(&per_lock), "{per_lock} bytes for each held lock");
    for (at, token) in (0..LOCKS).zip(tokens) {
        let outcome = client.ask(Command::Release { name: name(at), token, requeue: None });
        assert_eq!(outcome, Outcome::Released { requeued: None });
    }
    let left = IN_USE_BYTES.load(Ordering::Relaxed).saturating_sub(before);
    assert!(left < 4096, "{left} bytes are left of free locks");
}
