//! Snapshots in parts against snapshots at once, and entries executed twice, over random ops.

use rsm::{SnapshotPart, StateMachine};

use super::{LIMITS, Machine, Op, Reply, Run};

const RUNS: u64 = 40;
const SNAPSHOTS_PER_RUN: u64 = 25;
/// The largest record of these runs is far smaller.
const RECORD_MAX_BYTES: usize = 4 << 10;

#[test]
fn parts_with_ops_between_them_are_the_snapshot_at_the_op_where_they_began() {
    let mut overtaken = 0;
    for seed in 0..RUNS {
        let mut run = Run::new(seed);
        for _ in 0..SNAPSHOTS_PER_RUN {
            for _ in 0..run.random.below(60) {
                run.step();
            }
            let whole = run.primary.snapshot();
            let budget = 1 + run.random.below(300) as usize;
            let mut part = run.primary.begin_snapshot(budget);
            let mut parts = Vec::new();
            while !part.is_last && !run.random.one_in(400) {
                for _ in 0..run.random.below(4) {
                    run.step();
                }
                overtaken += u64::from(run.primary.snapshot() != whole);
                parts.push(std::mem::replace(&mut part, run.primary.next_snapshot_part(budget)));
            }
            let is_whole = part.is_last;
            parts.push(part);
            assert!(parts.iter().all(|part| part.bytes.len() <= budget + RECORD_MAX_BYTES));
            let joined: Vec<u8> = parts.into_iter().flat_map(|part: SnapshotPart| part.bytes).collect();
            match is_whole {
                true => assert!(joined == whole, "seed {seed}: the parts are not the snapshot"),
                false => assert!(whole.starts_with(&joined), "seed {seed}: the parts so far are not its beginning"),
            }
            if run.random.one_in(3) {
                run.primary.abandon_snapshot();
            }
        }
    }
    assert!(overtaken > 1_000, "the state changed between only {overtaken} parts");
}

/// The version rule: an entry applies only where it is newer. A replica replays its log from an entry before its snapshot, from the
/// middle of a batch, over a newer state, as often as it likes.
#[test]
fn entries_executed_again_change_nothing_and_are_answered_as_replayed() {
    for seed in 0..RUNS {
        let mut run = Run::new(seed);
        let mut commands: Vec<Vec<u8>> = Vec::new();
        let mut snapshots = vec![(0, Machine::new(LIMITS).snapshot())];
        let mut live = Machine::new(LIMITS);
        for _ in 0..400 {
            run.step();
            commands.push(run.last.encode());
            live.apply(commands.len() as u64, &run.last.encode());
            if run.random.one_in(40) {
                snapshots.push((commands.len(), live.snapshot()));
            }
        }
        let (digest, hash) = (live.digest(), live.hash());
        for (taken_at, snapshot) in snapshots {
            let mut restored = Machine::default();
            restored.restore(&snapshot).expect("own snapshot");
            let first = run.random.below(taken_at as u64 + 1) as usize;
            let again = first + run.random.below((commands.len() - first) as u64) as usize;
            // From before the snapshot into what is new, then from somewhere in the midst of it once more.
            for at in (first..commands.len()).chain(again..commands.len()) {
                let (op, before) = (at as u64 + 1, restored.applied());
                let reply = restored.apply(op, &commands[at]);
                let is_replayed = Reply::decode(&reply) == Ok(Reply::Replayed);
                assert_eq!(is_replayed, op <= before, "seed {seed}, op {op} at {before}");
            }
            assert_eq!((restored.digest(), restored.hash()), (digest, hash), "seed {seed} from op {taken_at}");
        }
    }
}

/// What a part costs is bounded by its bytes, also where a hundred thousand new locks lie in the way of the next record.
#[test]
fn a_part_passes_over_no_more_new_locks_than_its_budget_pays_for() {
    use lock_protocol::{Command, LockName, Mode, Open, Request, RequestNumber, SessionId};
    let mut machine = Machine::default();
    machine.apply(1, &Op::Open(Open { nonce: 1, lease_ms: 60_000, identity: Default::default() }).encode());
    let acquire = |machine: &mut Machine, op: u64, name: String| {
        let command = Command::Acquire { name: LockName::new(name).expect("a name"), mode: Mode::Exclusive };
        let request = Request { number: RequestNumber(op), command };
        machine.apply(op, &Op::Request { session: SessionId(1), floor: RequestNumber(op), request }.encode());
    };
    acquire(&mut machine, 2, "z".into());
    let whole = machine.snapshot();
    let mut part = machine.begin_snapshot(1);
    let mut joined = part.bytes;
    for op in 3..1_003 {
        acquire(&mut machine, op, format!("{op}"));
    }
    let mut parts = 0;
    while !part.is_last {
        part = machine.next_snapshot_part(160);
        joined.extend(part.bytes);
        parts += 1;
    }
    assert_eq!(joined, whole);
    assert!(parts >= 100, "{parts} parts passed over a thousand locks");
}
