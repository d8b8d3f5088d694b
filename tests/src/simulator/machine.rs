//! What a run's members replicate: one of three machines, and what was executed on it since the last look.
//!
//! Each op's number and the state's hash after it are kept until they are taken: the checks compare them with the one
//! history. They are no part of the state.

use lock_server::machine::Machine;
use rsm::{SnapshotPart, StateMachine};

use super::mutation::Mutation;
use super::plan::{Plan, Workload};
use super::workload::kv::Kv;
use super::workload::register::Register;

/// An execution, for the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Executed {
    pub(crate) op: u64,
    pub(crate) hash: u64,
}

/// The machine itself.
#[derive(Debug)]
pub(crate) enum Service {
    Register(Register),
    Kv(Kv),
    Locks(Box<Machine>),
}

/// A machine that is watched.
#[derive(Debug)]
pub(crate) struct Replicated {
    service: Service,
    /// The last op that was executed here; 0 after a restore.
    op: u64,
    fresh: Vec<Executed>,
    /// An op that did not come after the one before; told once.
    disorder: Option<(u64, u64)>,
    /// No part of a snapshot is to be larger than this, bytes: so that the small states of a run have many.
    part_bytes: usize,
    /// The snapshot in parts that is under way.
    under_way: Option<UnderWay>,
    parted: Parted,
}

/// A snapshot in parts, and what it must be.
#[derive(Debug)]
struct UnderWay {
    whole: Vec<u8>,
    given: usize,
    began_at: u64,
}

/// What became of snapshots in parts since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parted {
    /// One was not what the snapshot at its op was: that op.
    pub(crate) torn: Option<u64>,
    /// How many were finished after ops that came while they were under way.
    pub(crate) overtaken: u64,
}

impl Replicated {
    /// The empty machine of a plan's workload; `ballast_bytes` makes a register's snapshots larger.
    pub(crate) fn new(plan: &Plan, ballast_bytes: usize, part_bytes: usize, mutation: Mutation) -> Self {
        let service = match plan.workload {
            Workload::Register => Service::Register(Register::new(ballast_bytes)),
            Workload::Kv => Service::Kv(Kv::default()),
            Workload::Locks => {
                let machine = Machine::new(plan.locks.others.limits);
                Service::Locks(Box::new(mutation.put_into_machine(machine)))
            }
        };
        let parted = Parted::default();
        Replicated { service, op: 0, fresh: Vec::new(), disorder: None, part_bytes, under_way: None, parted }
    }

    /// What became of snapshots since the last call.
    pub(crate) fn take_parted(&mut self) -> Parted {
        std::mem::take(&mut self.parted)
    }

    /// Whether a snapshot is under way of which parts are missing.
    pub(crate) fn is_in_snapshot(&self) -> bool {
        self.under_way.is_some()
    }

    /// Passes a part on if it is what it must be. Of a machine that gives its snapshot whole the parts are cut here.
    fn check_part(&mut self, part: Option<SnapshotPart>) -> SnapshotPart {
        let Some(under_way) = &mut self.under_way else { return SnapshotPart { bytes: Vec::new(), is_last: true } };
        let UnderWay { whole, given, began_at } = under_way;
        let rest = &whole[*given..];
        let part = part.unwrap_or_else(|| {
            let bytes = rest[..rest.len().min(self.part_bytes)].to_vec();
            SnapshotPart { is_last: bytes.len() == rest.len(), bytes }
        });
        // The last one may be empty: a machine need not know that nothing is left.
        let is_right = rest.starts_with(&part.bytes) && (!part.is_last || part.bytes.len() == rest.len());
        if !is_right {
            self.parted.torn.get_or_insert(*began_at);
        }
        *given = (*given + part.bytes.len()).min(whole.len());
        if part.is_last {
            self.parted.overtaken += u64::from(self.op > *began_at);
            self.under_way = None;
        }
        part
    }

    /// What was executed since the last call; also whether an op came out of order: (last, then).
    pub(crate) fn take_fresh(&mut self) -> (Vec<Executed>, Option<(u64, u64)>) {
        (std::mem::take(&mut self.fresh), self.disorder.take())
    }

    /// The last op executed.
    pub(crate) fn op(&self) -> u64 {
        self.op
    }

    /// The lock machine, where it is one.
    pub(crate) fn locks(&self) -> Option<&Machine> {
        match &self.service {
            Service::Locks(machine) => Some(machine),
            _ => None,
        }
    }

    pub(crate) fn locks_mut(&mut self) -> Option<&mut Machine> {
        match &mut self.service {
            Service::Locks(machine) => Some(machine),
            _ => None,
        }
    }
}

impl StateMachine for Replicated {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        if op <= self.op {
            self.disorder.get_or_insert((self.op, op));
        }
        self.op = op;
        let (answer, hash) = match &mut self.service {
            Service::Register(machine) => (machine.apply(op, command), machine.hash()),
            Service::Kv(machine) => (machine.apply(op, command), machine.hash()),
            Service::Locks(machine) => (machine.apply(op, command), machine.hash()),
        };
        self.fresh.push(Executed { op, hash });
        answer
    }

    fn snapshot(&self) -> Vec<u8> {
        match &self.service {
            Service::Register(machine) => machine.snapshot(),
            Service::Kv(machine) => machine.snapshot(),
            Service::Locks(machine) => machine.snapshot(),
        }
    }

    fn begin_snapshot(&mut self, budget_bytes: usize) -> SnapshotPart {
        self.under_way = Some(UnderWay { whole: self.snapshot(), given: 0, began_at: self.op });
        let budget_bytes = budget_bytes.min(self.part_bytes);
        let part = match &mut self.service {
            Service::Locks(machine) => Some(machine.begin_snapshot(budget_bytes)),
            Service::Register(_) | Service::Kv(_) => None,
        };
        self.check_part(part)
    }

    fn next_snapshot_part(&mut self, budget_bytes: usize) -> SnapshotPart {
        let budget_bytes = budget_bytes.min(self.part_bytes);
        let part = match &mut self.service {
            Service::Locks(machine) => Some(machine.next_snapshot_part(budget_bytes)),
            Service::Register(_) | Service::Kv(_) => None,
        };
        self.check_part(part)
    }

    fn abandon_snapshot(&mut self) {
        self.under_way = None;
        if let Service::Locks(machine) = &mut self.service {
            machine.abandon_snapshot();
        }
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.op = 0;
        self.under_way = None;
        match &mut self.service {
            Service::Register(machine) => machine.restore(snapshot),
            Service::Kv(machine) => machine.restore(snapshot),
            Service::Locks(machine) => machine.restore(snapshot),
        }
    }

    fn hash(&self) -> u64 {
        match &self.service {
            Service::Register(machine) => machine.hash(),
            Service::Kv(machine) => machine.hash(),
            Service::Locks(machine) => machine.hash(),
        }
    }
}
