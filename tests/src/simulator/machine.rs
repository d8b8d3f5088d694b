//! What a run's members replicate: one of three machines, and what was executed on it since the last look.
//!
//! Each op's number and the state's hash after it are kept until they are taken: the checks compare them with the one
//! history. They are no part of the state.

use lock_server::machine::Machine;
use rsm::StateMachine;

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
}

impl Replicated {
    /// The empty machine of a plan's workload; `ballast_bytes` makes a register's snapshots larger.
    pub(crate) fn new(plan: &Plan, ballast_bytes: usize, mutation: Mutation) -> Self {
        let service = match plan.workload {
            Workload::Register => Service::Register(Register::new(ballast_bytes)),
            Workload::Kv => Service::Kv(Kv::default()),
            Workload::Locks => {
                let machine = Machine::new(plan.locks.others.limits);
                Service::Locks(Box::new(mutation.put_into_machine(machine)))
            }
        };
        Replicated { service, op: 0, fresh: Vec::new(), disorder: None }
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

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.op = 0;
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
