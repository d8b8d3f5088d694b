//! Connections between clients and members: first in first out, whole or broken.
//!
//! A link that carries nothing in one direction holds packets back, as a transport would that sends them again; when it
//! heals they arrive, in order, to whoever is still there: so a request can reach a member long after its client gave the connection up. A
//! connection that breaks loses what is sent on it from then on; each end hears of it only where a packet can reach it.

use std::collections::VecDeque;

use lock_client::cores::BatchId;
use lock_protocol::{
    KeepAlive, Notice, OpenWith, Opened, Outcome, RecoveryAnswer, RecoveryReport, Refusal, Renewed, SessionEnd,
    SessionId, Submission,
};

use super::LockEvent;
use crate::simulator::invariants::Run;
use crate::simulator::world::{Event, World};

/// A connection, by the order in which it was made.
pub(crate) type LineId = usize;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// The first from the client; a callback connection names its session.
    Hello(Option<(SessionId, u128)>),
    Welcome,
    Open(OpenWith),
    Opened(Result<Opened, Refusal>),
    Submit(BatchId, Submission),
    Submitted(BatchId, Result<Vec<Outcome>, Refusal>),
    KeepAlive(KeepAlive),
    Renewed(Result<Renewed, Refusal>),
    /// With what is said of its end, where something must be.
    Close(SessionId, Option<SessionEnd>),
    Closed(Result<(), Refusal>),
    Report(RecoveryReport),
    Reported(RecoveryReport, Result<RecoveryAnswer, Refusal>),
    /// The member calls; from the retryer, or from the revoker.
    Notify {
        is_grant: bool,
        number: u64,
        notices: Vec<Notice>,
    },
    Taken {
        is_grant: bool,
        number: u64,
    },
    /// The other end is closed.
    End,
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    last_arrival: u64,
    held: VecDeque<Packet>,
    broken: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) client: usize,
    /// The client's own number for the attempt.
    pub(crate) attempt: u64,
    pub(crate) run: super::ClientRun,
    pub(crate) member: usize,
    /// The process that took it; none before its hello was read.
    pub(crate) member_run: Option<Run>,
    /// A callback connection's session, and its nonce.
    pub(crate) session: Option<(SessionId, u128)>,
    pub(crate) client_open: bool,
    pub(crate) member_open: bool,
    up: Pipe,
    down: Pipe,
}

impl Line {
    /// From now on nothing arrives, in either direction, and nobody hears of it.
    pub(crate) fn silence(&mut self) {
        self.up.broken = true;
        self.down.broken = true;
    }
}

/// All of a run.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Vec<Line>,
    /// `[client][member]`: nothing goes (up, down).
    blocked: Vec<Vec<(bool, bool)>>,
    pub(crate) calm: bool,
}

impl Lines {
    pub(crate) fn get(&self, line: LineId) -> Option<&Line> {
        self.lines.get(line)
    }

    pub(crate) fn get_mut(&mut self, line: LineId) -> Option<&mut Line> {
        self.lines.get_mut(line)
    }

    pub(crate) fn make(&mut self, client: usize, run: super::ClientRun, attempt: u64, member: usize) -> LineId {
        self.lines.push(Line {
            client,
            attempt,
            run,
            member,
            member_run: None,
            session: None,
            client_open: true,
            member_open: true,
            up: Pipe::default(),
            down: Pipe::default(),
        });
        self.lines.len() - 1
    }

    fn is_blocked(&self, client: usize, member: usize) -> (bool, bool) {
        self.blocked.get(client).and_then(|row| row.get(member)).copied().unwrap_or_default()
    }

    /// Blocks a client's links: to one member or all; up, down or both.
    pub(crate) fn block(&mut self, client: usize, members: impl Iterator<Item = usize>, (up, down): (bool, bool)) {
        for member in members {
            if self.blocked.len() <= client {
                self.blocked.resize(client + 1, Vec::new());
            }
            let row = &mut self.blocked[client];
            if row.len() <= member {
                row.resize(member + 1, (false, false));
            }
            row[member] = (row[member].0 || up, row[member].1 || down);
        }
    }

    /// The lines of a client or member that are open at either end.
    pub(crate) fn open_of(&self, of: impl Fn(&Line) -> bool) -> Vec<LineId> {
        let open = |line: &Line| line.client_open || line.member_open;
        let found = self.lines.iter().enumerate().filter(|(_, line)| open(line) && of(line));
        found.map(|(id, _)| id).collect()
    }
}

impl World {
    /// Sends a packet up (to the member) or down. Nothing where the sender's end is closed.
    pub(crate) fn send_on(&mut self, id: LineId, up: bool, packet: Packet) {
        let Some(line) = self.locks.lines.get(id) else { return };
        let (client, member) = (line.client, line.member);
        let (up_blocked, down_blocked) = self.locks.lines.is_blocked(client, member);
        let blocked = if up { up_blocked } else { down_blocked };
        let calm = self.locks.lines.calm;
        let plan = &self.plan.locks;
        let breaks = !calm && self.dice.chance(plan.breaks);
        let late = if !calm && self.dice.chance(plan.late) { self.dice.spread(plan.late_us) } else { 0 };
        let delay = self.dice.between(plan.delay_us) + late;
        let now = self.now;
        let Some(line) = self.locks.lines.get_mut(id) else { return };
        let pipe = if up { &mut line.up } else { &mut line.down };
        if pipe.broken {
            return;
        }
        if blocked || !pipe.held.is_empty() {
            pipe.held.push_back(packet);
            return;
        }
        let arrival = (now + delay).max(pipe.last_arrival);
        pipe.last_arrival = arrival;
        self.schedule(arrival - now, Event::Lock(LockEvent::Packet { line: id, at_member: up, packet }));
        if breaks {
            self.break_line(id);
        }
    }

    /// The connection breaks: nothing that is sent from now on arrives, and both ends hear of the end where they can be reached.
    pub(crate) fn break_line(&mut self, id: LineId) {
        self.send_end(id, true);
        self.send_end(id, false);
        if let Some(line) = self.locks.lines.get_mut(id) {
            line.up.broken = true;
            line.down.broken = true;
            self.invariants.counters.hit("connections broken");
        }
    }

    fn send_end(&mut self, id: LineId, up: bool) {
        let breaks = std::mem::take(&mut self.plan.locks.breaks);
        self.send_on(id, up, Packet::End);
        self.plan.locks.breaks = breaks;
    }

    /// The client closes its end; the member hears of it behind what was sent before.
    pub(crate) fn close_at_client(&mut self, id: LineId) {
        let Some(line) = self.locks.lines.get_mut(id) else { return };
        if std::mem::take(&mut line.client_open) {
            self.send_end(id, true);
        }
    }

    /// The member closes its end.
    pub(crate) fn close_at_member(&mut self, id: LineId) {
        let Some(line) = self.locks.lines.get_mut(id) else { return };
        if std::mem::take(&mut line.member_open) {
            self.send_end(id, false);
        }
    }

    /// A process is gone, and with it its ends of all connections.
    pub(crate) fn lines_of_dead_member(&mut self, index: usize) {
        for id in self.locks.lines.open_of(|line| line.member == index && line.member_open) {
            self.close_at_member(id);
        }
    }

    /// All of a client's links are whole again: what was held back arrives.
    pub(crate) fn heal_lines(&mut self, client: usize) {
        if let Some(row) = self.locks.lines.blocked.get_mut(client) {
            row.clear();
        }
        for id in 0..self.locks.lines.lines.len() {
            let line = &mut self.locks.lines.lines[id];
            if line.client != client || (line.up.held.is_empty() && line.down.held.is_empty()) {
                continue;
            }
            let (up, down) = (std::mem::take(&mut line.up.held), std::mem::take(&mut line.down.held));
            self.invariants.counters.hit("packets held back and delivered");
            up.into_iter().for_each(|packet| self.release(id, true, packet));
            down.into_iter().for_each(|packet| self.release(id, false, packet));
        }
    }

    fn release(&mut self, id: LineId, up: bool, packet: Packet) {
        let delay = self.dice.between(self.plan.locks.delay_us);
        let now = self.now;
        let line = &mut self.locks.lines.lines[id];
        let pipe = if up { &mut line.up } else { &mut line.down };
        let arrival = (now + delay).max(pipe.last_arrival);
        pipe.last_arrival = arrival;
        self.schedule(arrival - now, Event::Lock(LockEvent::Packet { line: id, at_member: up, packet }));
    }
}
