//! What goes wrong with clients, their machines and their connections.

use super::{ClientRun, LockEvent};
use crate::simulator::invariants::Check;
use crate::simulator::world::{Event, World};

/// Something that can go wrong with a client, or be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientFault {
    /// The process dies, and with it all that it knew; another is started later.
    Die,
    /// All of them die.
    AllDie,
    /// The process stands still, maybe for longer than its lease; clocks go on.
    Pause,
    /// The machine stands still, and so does its boot time; real time is set right when it goes on.
    StopMachine,
    /// Real time is set forwards or back.
    Jump,
    /// Nothing goes to one member, or to all.
    CutUp,
    /// Nothing comes from one member, or from any.
    CutDown,
    /// Neither.
    Cut,
    /// A client's links are whole again.
    Heal,
    /// All of a client's connections break.
    Break,
    /// One connection breaks.
    BreakOne,
    /// The callback connection carries nothing any more, and nobody says so.
    SilenceCallback,
    /// The session is closed in order.
    Close,
    /// The session is abandoned.
    Abandon,
}

impl ClientFault {
    pub(crate) const ALL: [ClientFault; 14] = [
        ClientFault::Die,
        ClientFault::AllDie,
        ClientFault::Pause,
        ClientFault::StopMachine,
        ClientFault::Jump,
        ClientFault::CutUp,
        ClientFault::CutDown,
        ClientFault::Cut,
        ClientFault::Heal,
        ClientFault::Break,
        ClientFault::BreakOne,
        ClientFault::SilenceCallback,
        ClientFault::Close,
        ClientFault::Abandon,
    ];

    /// Whether links stay cut until they are healed.
    pub(crate) fn cuts(self) -> bool {
        matches!(self, ClientFault::CutUp | ClientFault::CutDown | ClientFault::Cut)
    }
}

impl World {
    pub(crate) fn on_client_fault(&mut self) -> Check {
        if !self.unsafe_now || self.plan.locks.faults.is_empty() {
            return Ok(());
        }
        let wait = self.dice.spread(self.plan.locks.fault_every_us);
        self.schedule(wait, Event::Lock(LockEvent::Fault));
        let fault = *self.dice.pick(&self.plan.locks.faults);
        let client = self.dice.index(self.locks.clients.len());
        self.trace.note(self.now, [21, fault as u64, client as u64], || format!("FAULT {fault:?} (client {client})"));
        match fault {
            ClientFault::Die => self.client_dies(client),
            ClientFault::AllDie => (0..self.locks.clients.len()).for_each(|client| self.client_dies(client)),
            ClientFault::Pause | ClientFault::StopMachine => {
                let time = self.dice.spread(self.plan.locks.pause_us);
                let (now, client) = (self.now, &mut self.locks.clients[client]);
                if client.stands_until() <= now {
                    client.paused_until = now + time;
                    if fault == ClientFault::StopMachine {
                        client.clock.stop(now, time);
                        self.invariants.counters.hit("machines of clients stood still");
                    }
                }
                self.invariants.counters.hit("pauses of clients");
            }
            ClientFault::Jump => {
                let by = self.dice.spread((1_000, 5_000_000));
                // Set back, real time would hide that the machine stood still: nobody promises anything then.
                let back = self.dice.chance(500_000) && !self.plan.locks.faults.contains(&ClientFault::StopMachine);
                let clock = &mut self.locks.clients[client].clock;
                if back {
                    clock.jump_back(by)
                } else {
                    clock.jump(by)
                }
                self.invariants.counters.hit("clock jumps");
            }
            ClientFault::CutUp => self.cut_client(client, (true, false)),
            ClientFault::CutDown => self.cut_client(client, (false, true)),
            ClientFault::Cut => self.cut_client(client, (true, true)),
            ClientFault::Heal => self.heal_lines(client),
            ClientFault::Break | ClientFault::BreakOne => {
                let mut lines = self.locks.lines.open_of(|line| line.client == client && line.client_open);
                if fault == ClientFault::BreakOne && lines.len() > 1 {
                    let one = self.dice.index(lines.len());
                    lines = vec![lines[one]];
                }
                lines.into_iter().for_each(|line| self.break_line(line));
            }
            ClientFault::SilenceCallback => {
                let callback = self.locks.clients[client].opened().and_then(|opened| opened.callback);
                if let Some(line) = callback.and_then(|line| self.locks.lines.get_mut(line)) {
                    line.silence();
                }
            }
            ClientFault::Close => {
                let run = self.locks.clients[client].run;
                self.schedule(0, Event::Lock(LockEvent::Close(client, run)));
            }
            ClientFault::Abandon => return self.abandon_client(client),
        }
        Ok(())
    }

    fn cut_client(&mut self, client: usize, how: (bool, bool)) {
        let members = self.members.len();
        let one = self.dice.index(members);
        match self.dice.chance(500_000) {
            true => self.locks.lines.block(client, one..one + 1, how),
            false => self.locks.lines.block(client, 0..members, how),
        }
    }

    /// The process is gone; another starts later.
    pub(crate) fn client_dies(&mut self, client: usize) {
        if self.locks.clients[client].is_down() {
            return;
        }
        self.invariants.counters.hit("deaths of clients");
        for line in self.locks.lines.open_of(|line| line.client == client && line.client_open) {
            // A dead machine closes nothing.
            if self.dice.chance(500_000) {
                self.close_at_client(line);
            } else if let Some(line) = self.locks.lines.get_mut(line) {
                line.client_open = false;
            }
        }
        let run: ClientRun = self.locks.next_run();
        self.locks.clients[client].die(run);
        let away = self.dice.spread(self.plan.locks.away_us);
        self.schedule(away, Event::Lock(LockEvent::Start(client)));
    }
}
