//! What a lock guards: a counter in a store of its own, which checks fencing tokens.
//!
//! A user under an exclusive guard reads the counter, and writes one more. Both carry the guard's token, and the store refuses tokens
//! below the greatest that it has seen. The user looks at its guard before it writes; but it may be paused between the look
//! and the write, past the end of its lease, and then only the token is left to stop it.

use lock_protocol::{FencingToken, LockName, SessionId};

use super::{ClientRun, LockEvent};
use crate::simulator::invariants::{Check, Violation};
use crate::simulator::world::{Event, World};

/// The counter of one lock.
#[derive(Debug, Default)]
pub(crate) struct Vault {
    value: u64,
    seen: Option<(FencingToken, SessionId)>,
}

/// Who asks, and under what.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) client: usize,
    pub(crate) run: ClientRun,
    pub(crate) user: usize,
    pub(crate) attempt: u64,
    pub(crate) name: LockName,
    pub(crate) session: SessionId,
    pub(crate) token: FencingToken,
    /// None to read.
    pub(crate) write: Option<u64>,
}

/// Steps on the way to it and back.
#[derive(Debug)]
pub(crate) enum VaultEvent {
    /// The user acts, if its process still runs.
    Depart {
        client: usize,
        ask: Ask,
    },
    Arrive {
        ask: Ask,
    },
    /// The counter; none where the token was refused.
    Answer {
        client: usize,
        ask: Ask,
        value: Option<u64>,
    },
}

impl World {
    /// A user asks; it acts a moment after it decided to.
    pub(crate) fn ask_vault(&mut self, ask: Ask) {
        let descheduled = self.unsafe_now && self.dice.chance(30_000);
        let longest = self.plan.locks.lease_ms * 3_000;
        let moment = if descheduled { self.dice.spread((1_000, longest)) } else { self.dice.below(300) };
        let event = VaultEvent::Depart { client: ask.client, ask };
        self.schedule(moment, Event::Lock(LockEvent::Vault(event)));
    }

    pub(crate) fn on_vault(&mut self, event: VaultEvent) -> Check {
        match event {
            VaultEvent::Depart { client, ask } => {
                if self.locks.clients[client].run == ask.run {
                    let late = if self.dice.chance(30_000) { self.dice.spread((1_000, 2_000_000)) } else { 0 };
                    let delay = self.dice.between(self.plan.locks.delay_us) + if self.unsafe_now { late } else { 0 };
                    self.schedule(delay, Event::Lock(LockEvent::Vault(VaultEvent::Arrive { ask })));
                }
            }
            VaultEvent::Arrive { ask } => {
                let value = self.vault_takes(&ask)?;
                let delay = self.dice.between(self.plan.locks.delay_us);
                let event = VaultEvent::Answer { client: ask.client, ask, value };
                self.schedule(delay, Event::Lock(LockEvent::Vault(event)));
            }
            VaultEvent::Answer { ask, value, .. } => self.on_vault_answer(&ask, value),
        }
        Ok(())
    }

    fn vault_takes(&mut self, ask: &Ask) -> Result<Option<u64>, Violation> {
        let Some(vault) = self.locks.vaults.get_mut(&ask.name) else { return Ok(None) };
        let note = [20, ask.token.0, vault.value];
        self.trace.note(self.now, note, || format!("  the store of {} is asked: {ask:?}", ask.name));
        if vault.seen.is_some_and(|(seen, _)| ask.token < seen) {
            let what =
                if ask.write.is_some() { "writes stopped by their token" } else { "reads stopped by their token" };
            self.invariants.counters.hit(what);
            self.invariants.refused_token(ask.session, &ask.name, ask.token)?;
            return Ok(None);
        }
        vault.seen = Some((ask.token, ask.session));
        if let Some(value) = ask.write {
            self.invariants.accepted_write(&ask.name, ask.token, vault.value, value)?;
            vault.value = value;
            self.invariants.counters.hit("writes under a lock");
        }
        Ok(Some(vault.value))
    }
}
