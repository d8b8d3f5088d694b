//! A client process: it opens a session, dials, and carries out what the session's core decides.

use std::collections::BTreeSet;

use lock_client::Endpoint;
use lock_client::cores::{CacheLimits, LinkId, LockSession, OpenStep, Opening, Route};
use lock_protocol::{ClientIdentity, Open, OpenWith, RecoveryToken, SessionId};

use super::clock::ClientClock;
use super::line::{LineId, Packet};
use super::plan::LockPlan;
use super::users::{User, Waiter};
use super::{ClientRun, LockEvent};
use crate::simulator::dice::Dice;
use crate::simulator::invariants::{Check, Conduct};
use crate::simulator::workload::asking::{address_of, index_of};
use crate::simulator::world::{Event, World};

/// While there is no session a dial and hello take at most so long, µs.
const DIAL_TIMEOUT_US: u64 = 1_000_000;
/// So does the answer to an open.
const OPEN_TIMEOUT_US: u64 = 3_000_000;
/// Attempts to open are numbered from here, so that they are no links of a session.
const FIRST_OPENING: u64 = 1 << 32;

/// A client machine, and the process on it.
#[derive(Debug)]
pub(crate) struct LockClient {
    pub(crate) run: ClientRun,
    pub(crate) clock: ClientClock,
    /// Process or machine stands still until then, true time.
    pub(crate) paused_until: u64,
    pub(crate) state: State,
    pub(crate) users: Vec<User>,
    /// How many locks were had again at the end of the run.
    pub(crate) probed: usize,
    pub(super) looks_at: Option<u64>,
}

/// How far it is.
#[derive(Debug)]
pub(crate) enum State {
    Down,
    Opening(Box<Opener>),
    Open(Box<Opened>),
}

/// The search for a session.
#[derive(Debug)]
pub(crate) struct Opener {
    opening: Opening,
    route: Route,
    endpoint: Endpoint,
    attempt: u64,
    line: Option<LineId>,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) session: LockSession<Waiter>,
    pub(super) nonce: u128,
    pub(super) link: LinkId,
    pub(super) endpoint: Endpoint,
    pub(super) service: Option<LineId>,
    pub(crate) callback: Option<LineId>,
    pub(super) connected: bool,
    /// For each connection with its welcome.
    pub(super) dial_timeout_us: u64,
    /// A callback connection was dialled and not welcomed yet.
    pub(super) callback_pending: bool,
    pub(super) suspended: bool,
    /// Dead sessions for which the owner's hook runs.
    pub(super) hooks: BTreeSet<(SessionId, RecoveryToken)>,
    pub(crate) conduct: Conduct,
}

impl Opened {
    /// Whether this connection of the link was dialled, and is not there yet.
    fn waits_for_welcome(&self, is_callback: bool) -> bool {
        match is_callback {
            true => !self.connected || self.callback_pending,
            // The second is dialled when the first is there.
            false => !self.connected && self.callback.is_none(),
        }
    }
}

impl State {
    pub(crate) fn opened(&self) -> Option<&Opened> {
        if let State::Open(opened) = self { Some(opened) } else { None }
    }
}

impl LockClient {
    pub(crate) fn new(plan: &LockPlan, dice: &mut Dice) -> Self {
        LockClient {
            run: 0,
            clock: ClientClock::new(dice, plan.clock_rate),
            paused_until: 0,
            state: State::Down,
            users: Vec::new(),
            probed: 0,
            looks_at: None,
        }
    }

    pub(crate) fn stands_until(&self) -> u64 {
        self.paused_until
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    /// Everything it knew is gone.
    pub(crate) fn die(&mut self, run: ClientRun) {
        self.run = run;
        self.state = State::Down;
        self.users.clear();
        self.looks_at = None;
    }

    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.state.opened()
    }

    pub(crate) fn opened_mut(&mut self) -> Option<&mut Opened> {
        if let State::Open(opened) = &mut self.state { Some(opened) } else { None }
    }

    /// Its session, where it has one.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.opened().map(|opened| opened.session.id())
    }
}

impl World {
    // ----- opening

    pub(crate) fn on_client_start(&mut self, client: usize) {
        if !self.locks.clients[client].is_down() || self.clients_rest {
            return;
        }
        let run = self.locks.next_run();
        let nonce = self.draw_nonce();
        let endpoints = (0..self.members.len()).map(|index| endpoint(&address_of(index))).collect();
        let mut route = Route::new(endpoints).expect("a cluster has members");
        let (first, _) = route.next_server();
        let identity = ClientIdentity { client: format!("client-{client}"), ..ClientIdentity::default() };
        let opening = Opening::new(Open { nonce, lease_ms: self.plan.locks.lease_ms, identity });
        let users = self.plan.locks.users;
        self.trace.note(self.now, [22, client as u64, run], || format!("client {client} starts (run {run})"));
        let it = &mut self.locks.clients[client];
        it.run = run;
        it.users = (0..users).map(|_| User::default()).collect();
        let opener = Opener { opening, route, endpoint: first, attempt: FIRST_OPENING, line: None };
        it.state = State::Opening(Box::new(opener));
        let dial = LockEvent::Dial { client, run, attempt: FIRST_OPENING, callback_only: false };
        self.schedule(0, Event::Lock(dial));
    }

    fn draw_nonce(&mut self) -> u128 {
        u128::from(self.dice.number()) << 64 | u128::from(self.dice.number())
    }

    fn opening_failed(&mut self, client: usize, answer: &str, hint: Option<&str>) {
        self.dial_next(client, |route, endpoint| route.on_failure(endpoint, answer.to_owned(), hint));
    }

    fn dial_next(&mut self, client: usize, learn: impl FnOnce(&mut Route, &Endpoint)) {
        let State::Opening(opener) = &mut self.locks.clients[client].state else { return };
        let line = opener.line.take();
        learn(&mut opener.route, &opener.endpoint);
        let (next, pause) = opener.route.next_server();
        opener.endpoint = next;
        opener.attempt += 1;
        let (attempt, run) = (opener.attempt, self.locks.clients[client].run);
        if let Some(line) = line {
            self.close_at_client(line);
        }
        let pause = self.shorten(pause);
        self.schedule(pause, Event::Lock(LockEvent::Dial { client, run, attempt, callback_only: false }));
    }

    /// A pause is shortened at random, by up to a half; µs. Refused dials take a moment, too.
    pub(super) fn shorten(&mut self, pause: std::time::Duration) -> u64 {
        let most = pause.as_micros() as u64;
        self.dice.between((most / 2, most)) + 100
    }

    // ----- dialling

    pub(crate) fn on_dial(&mut self, client: usize, run: ClientRun, attempt: u64, callback_only: bool) {
        let it = &self.locks.clients[client];
        if it.run != run {
            return;
        }
        let endpoint = match &it.state {
            State::Opening(opener) if opener.attempt == attempt => opener.endpoint.clone(),
            State::Open(opened) if opened.link.0 == attempt => opened.endpoint.clone(),
            _ => return,
        };
        let member = index_of(&endpoint.to_string()).filter(|index| *index < self.members.len()).unwrap_or(0);
        self.trace.note(self.now, [25, client as u64, attempt], || {
            let what = if callback_only { " to be called back" } else { "" };
            format!("  client {client} dials {endpoint}{what}")
        });
        let line = self.locks.lines.make(client, run, attempt, member);
        let mut hello = None;
        match &mut self.locks.clients[client].state {
            State::Opening(opener) => opener.line = Some(line),
            State::Open(opened) if callback_only => {
                opened.callback = Some(line);
                opened.callback_pending = true;
                hello = Some((opened.session.id(), opened.nonce));
            }
            State::Open(opened) => opened.service = Some(line),
            State::Down => return,
        }
        self.send_on(line, true, Packet::Hello(hello));
        let timeout_us = self.locks.clients[client].opened().map_or(DIAL_TIMEOUT_US, |opened| opened.dial_timeout_us);
        let timeout = LockEvent::DialTimeout { client, run, attempt, is_callback: callback_only };
        self.schedule(timeout_us, Event::Lock(timeout));
    }

    pub(crate) fn on_dial_timeout(&mut self, client: usize, run: ClientRun, attempt: u64, is_callback: bool) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        if it.run != run {
            return Ok(());
        }
        let clocks = it.clock.read(now);
        match &mut it.state {
            State::Opening(opener) if opener.attempt == attempt => self.opening_failed(client, "no answer", None),
            State::Open(opened) if opened.link.0 == attempt && opened.waits_for_welcome(is_callback) => {
                let link = opened.link;
                opened.session.on_disconnected(clocks, link, "no answer");
                return self.client_goes_on(client);
            }
            _ => {}
        }
        Ok(())
    }

    // ----- what comes from members

    pub(crate) fn on_packet_at_client(&mut self, id: LineId, packet: Packet) -> Check {
        let Some(line) = self.locks.lines.get(id) else { return Ok(()) };
        let (client, attempt) = (line.client, line.attempt);
        if !line.client_open || line.run != self.locks.clients[client].run {
            return Ok(());
        }
        match &self.locks.clients[client].state {
            State::Opening(opener) if opener.line == Some(id) => self.on_packet_while_opening(client, id, packet),
            State::Open(opened) if opened.link.0 == attempt => {
                let is_callback = opened.callback == Some(id);
                if is_callback || opened.service == Some(id) {
                    self.check_dead_guards(client)?;
                    self.on_packet_of_session(client, id, is_callback, packet)?;
                    return self.client_goes_on(client);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_packet_while_opening(&mut self, client: usize, id: LineId, packet: Packet) {
        let (now, nonce) = (self.now, self.draw_nonce());
        let it = &mut self.locks.clients[client];
        let (clocks, run) = (it.clock.read(now), it.run);
        let State::Opening(opener) = &mut it.state else { return };
        self.trace.note(now, [26, client as u64, opener.attempt], || format!("  client {client} hears {packet:?}"));
        match packet {
            Packet::Welcome => {
                opener.attempt += 1;
                let attempt = opener.attempt;
                let options = self.plan.locks.wishes.options[client].clone();
                let open = OpenWith { open: opener.opening.transmit(clocks, nonce), options };
                self.send_on(id, true, Packet::Open(open));
                let timeout = LockEvent::DialTimeout { client, run, attempt, is_callback: false };
                self.schedule(OPEN_TIMEOUT_US, Event::Lock(timeout));
            }
            Packet::Opened(answer) => match opener.opening.on_answer(answer, clocks) {
                OpenStep::Opened(session, nonce) => {
                    self.close_at_client(id);
                    self.session_opened(client, session, nonce);
                }
                OpenStep::Again { answer, hint } => self.opening_failed(client, &answer, hint.as_deref()),
                OpenStep::Anew { answer } => self.dial_next(client, |route, endpoint| route.on_stale(endpoint, answer)),
                OpenStep::Refused(answer) => self.opening_failed(client, &answer, None),
            },
            Packet::End => self.opening_failed(client, "the connection broke", None),
            _ => {}
        }
    }

    fn session_opened(&mut self, client: usize, session: lock_client::cores::Session, nonce: u128) {
        let run = self.locks.clients[client].run;
        let plan = &self.plan.locks;
        let limits = CacheLimits { locks: plan.cache_locks, idle_ns: 60_000_000_000 };
        let flushes = plan.flushes;
        let it = &mut self.locks.clients[client];
        let State::Opening(opener) = std::mem::replace(&mut it.state, State::Down) else { return };
        let Opener { route, endpoint, .. } = *opener;
        let id = session.id();
        let session = LockSession::new(session, endpoint.clone(), route, limits, flushes);
        it.state = State::Open(Box::new(Opened {
            session,
            nonce,
            link: LinkId(0),
            endpoint,
            service: None,
            callback: None,
            connected: false,
            dial_timeout_us: DIAL_TIMEOUT_US,
            callback_pending: false,
            suspended: false,
            hooks: BTreeSet::new(),
            conduct: Conduct::new(flushes, limits),
        }));
        self.trace.note(self.now, [23, client as u64, id.0], || format!("client {client} has session {id}"));
        self.invariants.counters.hit("sessions opened");
        for user in 0..self.plan.locks.users {
            let wait = self.dice.between(self.plan.locks.think_us);
            self.schedule(wait, Event::Lock(LockEvent::User { client, run, user, attempt: 0 }));
        }
        self.schedule(0, Event::Lock(LockEvent::Time { client, run }));
    }
}

fn endpoint(address: &str) -> Endpoint {
    address.parse().expect("an address of the simulator is an endpoint")
}
