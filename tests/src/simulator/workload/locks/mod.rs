//! The whole lock service: real machines, tickers, revokers and retryers behind real replicas; real sessions with their caches
//! before them; and local users, who use what a lock guards.
//!
//! ```text
//!   users ─▶ LockSession ─▶ line (FIFO, breaks as a whole) ─▶ Edge ─▶ Replica<Machine>
//!     │                          operators, strangers ─ calls ─┘ └─ Ticker, Revoker, Retryer
//!     └──── token ─────────────────────────────────────────▶ Vault: refuses what is older than it has seen
//! ```
//!
//! What the real shells do between these cores (accept, dial, wait, postpone while the process stands still) is done here in
//! a few lines each; what decides is the product's.

mod calls;
pub(crate) mod client;
mod clock;
mod edge;
mod faults;
mod handlers;
mod line;
mod mode_changes;
mod operators;
mod plan;
mod recoveries;
mod rest;
mod session;
mod sets;
mod strangers;
pub(crate) mod users;
mod vault;
mod wishes;

use std::collections::BTreeMap;

use lock_protocol::{LockName, RecoveryToken, Refusal, SessionId};

use super::super::invariants::{Check, Run};
use super::super::world::{Event, World};
use calls::{Asking, CallId, Calls, Told};
pub(crate) use client::LockClient;
pub(crate) use edge::Edge;
pub(crate) use line::{LineId, Lines, Packet};
use operators::Operators;
pub(crate) use plan::LockPlan;
use strangers::Stranger;
pub(crate) use vault::{Vault, VaultEvent};
pub(crate) use wishes::WishPlan;

/// A client process: its number among all starts of client processes and sessions. Events of an earlier one are void.
pub(crate) type ClientRun = u64;

/// Clients, lines and what the locks guard.
#[derive(Debug, Default)]
pub(crate) struct LockWorld {
    pub(crate) names: Vec<LockName>,
    pub(crate) clients: Vec<LockClient>,
    pub(crate) lines: Lines,
    pub(crate) vaults: BTreeMap<LockName, Vault>,
    operators: Operators,
    strangers: Vec<Stranger>,
    calls: Calls,
    runs: ClientRun,
    /// Each client's first user takes each lock once more, and then nothing else happens.
    probing: bool,
}

/// Something that happens in the lock service.
#[derive(Debug)]
pub(crate) enum LockEvent {
    /// A client process starts.
    Start(usize),
    /// A client dials, after its pause.
    Dial { client: usize, run: ClientRun, attempt: u64, callback_only: bool },
    /// A dial took too long, that of the callback connection or the one before it; or an open did.
    DialTimeout { client: usize, run: ClientRun, attempt: u64, is_callback: bool },
    /// A packet reaches the client's end (false) or the member's (true).
    Packet { line: LineId, at_member: bool, packet: Packet },
    /// A client looks at its clock.
    Time { client: usize, run: ClientRun },
    /// A local user goes on.
    User { client: usize, run: ClientRun, user: usize, attempt: u64 },
    /// A local user waits no longer.
    GiveUp { client: usize, run: ClientRun, user: usize, attempt: u64 },
    /// A flush hook returns.
    Flushed { client: usize, run: ClientRun, name: LockName, token: u64 },
    /// A hook for a dead session returns.
    Recovered { client: usize, run: ClientRun, dead: SessionId, token: RecoveryToken },
    /// Something reaches what a lock guards, or comes back.
    Vault(VaultEvent),
    /// A member's edge looks at its clock.
    EdgeTime(usize, Run),
    /// A tick is closed, after what had been read before.
    CloseTick(usize, Run),
    /// A sweep that was refused is tried again.
    Sweep(usize, Run),
    /// A client's process is closed in order.
    Close(usize, ClientRun),
    /// Something goes wrong with a client.
    Fault,
    /// A member's handler has its turn.
    Handle { line: LineId, member: usize, run: Run, packet: Packet },
    /// An operator does something.
    Operator,
    /// A stranger does something.
    Stranger(usize),
    /// A call reaches a member.
    Call { member: usize, call: CallId, asking: Asking },
    /// Its answer reaches the caller.
    Told { call: CallId, answer: Result<Told, Refusal> },
}

impl LockWorld {
    pub(crate) fn new(plan: &LockPlan, dice: &mut super::super::dice::Dice) -> LockWorld {
        let name =
            |number: u64| LockName::new(format!("lock/{number}")).expect("a short text without control characters");
        let names: Vec<LockName> = (0..plan.names).map(name).collect();
        LockWorld {
            vaults: names.iter().map(|name| (name.clone(), Vault::default())).collect(),
            clients: (0..plan.clients).map(|_| LockClient::new(plan, dice)).collect(),
            names,
            strangers: (0..plan.others.strangers).map(|_| Stranger::default()).collect(),
            ..LockWorld::default()
        }
    }

    fn next_run(&mut self) -> ClientRun {
        self.runs += 1;
        self.runs
    }
}

impl World {
    /// Clients start, and their faults begin.
    pub(crate) fn begin_locks(&mut self) {
        for client in 0..self.locks.clients.len() {
            let wait = self.dice.below(500_000);
            self.schedule(wait, Event::Lock(LockEvent::Start(client)));
        }
    }

    /// Whatever goes wrong on the clients' side begins, and what others do.
    pub(crate) fn begin_unsafe_locks(&mut self) {
        let wait = self.dice.spread(self.plan.locks.fault_every_us);
        self.schedule(wait, Event::Lock(LockEvent::Fault));
        self.schedule(wait, Event::Lock(LockEvent::Operator));
        for stranger in 0..self.locks.strangers.len() {
            self.schedule(wait, Event::Lock(LockEvent::Stranger(stranger)));
        }
    }

    pub(crate) fn on_lock(&mut self, event: LockEvent) -> Check {
        let Some(event) = self.postpone(event) else { return Ok(()) };
        match event {
            LockEvent::Start(client) => self.on_client_start(client),
            LockEvent::Dial { client, run, attempt, callback_only } => {
                self.on_dial(client, run, attempt, callback_only)
            }
            LockEvent::DialTimeout { client, run, attempt, is_callback } => {
                return self.on_dial_timeout(client, run, attempt, is_callback);
            }
            LockEvent::Packet { line, at_member: true, packet } => self.on_packet_at_member(line, packet),
            LockEvent::Packet { line, at_member: false, packet } => return self.on_packet_at_client(line, packet),
            LockEvent::Time { client, run } => return self.on_client_time(client, run),
            LockEvent::User { client, run, user, attempt } => return self.on_user(client, run, user, attempt),
            LockEvent::GiveUp { client, run, user, attempt } => return self.on_give_up(client, run, user, attempt),
            LockEvent::Flushed { client, run, name, token } => return self.on_hook_returned(client, run, &name, token),
            LockEvent::Recovered { client, run, dead, token } => {
                return self.on_recovery_hook_returned(client, run, dead, token);
            }
            LockEvent::Vault(event) => return self.on_vault(event),
            LockEvent::EdgeTime(index, run) => self.on_edge_time(index, run),
            LockEvent::CloseTick(index, run) => self.on_close_tick(index, run),
            LockEvent::Sweep(index, run) => self.on_sweep_again(index, run),
            LockEvent::Close(client, run) => return self.on_close_client(client, run),
            LockEvent::Fault => return self.on_client_fault(),
            LockEvent::Handle { line, member, run, packet } => self.handle(line, member, run, packet),
            LockEvent::Operator => self.on_operator(),
            LockEvent::Stranger(stranger) => self.on_stranger(stranger),
            LockEvent::Call { member, call, asking } => self.on_call(member, call, asking),
            LockEvent::Told { call, answer } => return self.on_told(call, answer),
        }
        Ok(())
    }

    /// Whose process stands still takes nothing in before it goes on. Events keep their order.
    fn postpone(&mut self, event: LockEvent) -> Option<LockEvent> {
        let until = match &event {
            LockEvent::Packet { line, at_member: true, .. } => {
                self.locks.lines.get(*line).map_or(0, |line| self.member_stands_until(line.member))
            }
            LockEvent::EdgeTime(index, _)
            | LockEvent::CloseTick(index, _)
            | LockEvent::Sweep(index, _)
            | LockEvent::Handle { member: index, .. }
            | LockEvent::Call { member: index, .. } => self.member_stands_until(*index),
            LockEvent::Packet { line, at_member: false, .. } => {
                self.locks.lines.get(*line).map_or(0, |line| self.locks.clients[line.client].stands_until())
            }
            LockEvent::Dial { client, .. }
            | LockEvent::DialTimeout { client, .. }
            | LockEvent::Time { client, .. }
            | LockEvent::User { client, .. }
            | LockEvent::GiveUp { client, .. }
            | LockEvent::Flushed { client, .. }
            | LockEvent::Recovered { client, .. }
            | LockEvent::Close(client, _)
            | LockEvent::Vault(VaultEvent::Depart { client, .. } | VaultEvent::Answer { client, .. }) => {
                self.locks.clients[*client].stands_until()
            }
            LockEvent::Start(_)
            | LockEvent::Fault
            | LockEvent::Operator
            | LockEvent::Stranger(_)
            | LockEvent::Told { .. }
            | LockEvent::Vault(VaultEvent::Arrive { .. }) => 0,
        };
        if until > self.now {
            self.schedule(until - self.now, Event::Lock(event));
            return None;
        }
        Some(event)
    }

    fn member_stands_until(&self, index: usize) -> u64 {
        self.members[index].process.as_ref().map_or(0, |process| process.paused_until)
    }
}
