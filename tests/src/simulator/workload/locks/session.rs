//! An open session of a client: what its shell does with what members say, with time, and with what the session's core decides.

use lock_client::LockName;
use lock_client::cores::{SessionEffect, SessionEvent, Stage};
use lock_protocol::{FencingToken, SessionEnd};

use super::client::{Opened, State};
use super::line::{LineId, Packet};
use super::users::Waiter;
use super::{ClientRun, LockEvent};
use crate::simulator::invariants::{Check, is_paid};
use crate::simulator::world::{Event, World};

/// A hook that failed, or that found no lease, is called again after so long, µs.
const HOOK_PAUSE_US: u64 = 50_000;
/// Chance that a notice comes once more, per million, and when, µs: late ones may do no harm.
const NOTICE_REPEATED: u64 = 100_000;
const REPEATED_AFTER_US: (u64, u64) = (100, 3_000_000);

impl World {
    /// A call that nobody answered in time is made again, and both may arrive.
    fn repeat_notice(&mut self, line: LineId, packet: &Packet) {
        if matches!(packet, Packet::Notify { .. }) && self.unsafe_now && self.lock_dice.chance(NOTICE_REPEATED) {
            let wait = self.lock_dice.spread(REPEATED_AFTER_US);
            self.schedule(wait, Event::Lock(LockEvent::Packet { line, at_member: false, packet: packet.clone() }));
        }
    }

    pub(super) fn on_packet_of_session(
        &mut self,
        client: usize,
        id: LineId,
        is_callback: bool,
        packet: Packet,
    ) -> Check {
        self.repeat_notice(id, &packet);
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let (clocks, run) = (it.clock.read(now), it.run);
        let State::Open(opened) = &mut it.state else { return Ok(()) };
        let link = opened.link;
        match packet {
            Packet::Welcome if is_callback => {
                opened.callback_pending = false;
                if !opened.connected {
                    opened.connected = true;
                    opened.session.on_connected(clocks, link);
                }
            }
            Packet::Welcome => self.on_dial(client, run, link.0, true),
            Packet::Submitted(batch, answer) => {
                self.answers_ok += u64::from(answer.is_ok());
                opened.session.on_submitted(clocks, link, batch, answer);
            }
            Packet::Renewed(answer) => {
                self.answers_ok += u64::from(answer.is_ok());
                let Opened { session, conduct, .. } = &mut **opened;
                let is_renewed = answer.is_ok();
                let notices = answer.as_ref().map(|renewed| renewed.notices.as_slice()).unwrap_or_default();
                let owed = self.invariants.owed(session, conduct, notices, clocks.boot_ns);
                session.on_kept_alive(clocks, link, answer);
                is_paid(session, conduct, owed, Some(clocks.boot_ns))?;
                return if is_renewed { self.check_lease_of(client) } else { Ok(()) };
            }
            Packet::Reported(report, answer) => opened.session.on_reported(clocks, link, &report, answer),
            Packet::Closed(answer) => opened.session.on_closed(clocks, link, answer),
            Packet::Notify { is_grant, number, notices } => {
                let Opened { session, conduct, .. } = &mut **opened;
                conduct.callback_is_alive();
                let owed = self.invariants.owed(session, conduct, &notices, clocks.boot_ns);
                session.on_notices(clocks, notices);
                is_paid(session, conduct, owed, None)?;
                self.send_on(id, true, Packet::Taken { is_grant, number });
            }
            Packet::End => opened.session.on_disconnected(clocks, link, "the connection broke"),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn on_client_time(&mut self, client: usize, run: ClientRun) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        if it.run != run {
            return Ok(());
        }
        if it.looks_at.is_some_and(|at| at <= now) {
            it.looks_at = None;
        }
        self.check_dead_guards(client)?;
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        if let Some(opened) = it.opened_mut() {
            opened.session.on_time(clocks);
        }
        self.client_goes_on(client)?;
        self.check_dead_guards(client)?;
        self.locks.clients[client].opened().map_or(Ok(()), |opened| opened.conduct.at_time(clocks))
    }

    pub(crate) fn on_hook_returned(&mut self, client: usize, run: ClientRun, name: &LockName, token: u64) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        if it.run != run {
            return Ok(());
        }
        let clocks = it.clock.read(now);
        let Some(opened) = it.opened_mut() else { return Ok(()) };
        opened.session.on_time(clocks);
        self.client_goes_on(client)?;
        let fails = self.unsafe_now && self.dice.chance(self.plan.locks.flush_fails);
        let it = &mut self.locks.clients[client];
        let is_the_same = it.run == run;
        let Some(opened) = it.opened_mut().filter(|_| is_the_same) else { return Ok(()) };
        if opened.suspended || fails {
            self.invariants.counters.hit("flushes repeated");
            let again = LockEvent::Flushed { client, run, name: name.clone(), token };
            self.schedule(HOOK_PAUSE_US, Event::Lock(again));
            return Ok(());
        }
        opened.conduct.flushed(name, FencingToken(token));
        opened.session.on_flushed(clocks, name, FencingToken(token));
        self.client_goes_on(client)
    }

    pub(crate) fn on_close_client(&mut self, client: usize, run: ClientRun) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        if it.run != run {
            return Ok(());
        }
        let clocks = it.clock.read(now);
        if let Some(opened) = it.opened_mut() {
            opened.session.close(clocks);
        }
        self.client_goes_on(client)
    }

    pub(crate) fn abandon_client(&mut self, client: usize) -> Check {
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let clocks = it.clock.read(now);
        if let Some(opened) = it.opened_mut() {
            opened.session.abandon(clocks);
        }
        self.client_goes_on(client)
    }

    // ----- effects

    /// Carries out what the session decided, and plans the next look at the clock.
    pub(crate) fn client_goes_on(&mut self, client: usize) -> Check {
        while let Some(opened) = self.locks.clients[client].opened_mut() {
            let effects = opened.session.take_effects();
            if effects.is_empty() && !self.settle_sets(client)? {
                break;
            }
            for effect in effects {
                self.on_session_effect(client, effect)?;
            }
        }
        let now = self.now;
        let it = &mut self.locks.clients[client];
        let run = it.run;
        let Some(next) = it.opened().and_then(|opened| opened.session.next_ns()) else { return Ok(()) };
        // A keep-alive that is due but not sent, since too many are in flight, must not spin.
        let wait = it.clock.until(now, next).max(1_000);
        if it.looks_at.is_none_or(|planned| planned > now + wait) {
            it.looks_at = Some(now + wait);
            self.schedule(wait, Event::Lock(LockEvent::Time { client, run }));
        }
        Ok(())
    }

    fn on_session_effect(&mut self, client: usize, effect: SessionEffect<Waiter>) -> Check {
        self.trace
            .note(self.now, [24, client as u64, effect_code(&effect)], || format!("  client {client}: {effect:?}"));
        let it = &mut self.locks.clients[client];
        let run = it.run;
        let Some(opened) = it.opened_mut() else { return Ok(()) };
        let (service, session) = (opened.service, opened.session.id());
        match effect {
            SessionEffect::Submit { batch, submission, .. } => {
                let Opened { session, conduct, .. } = opened;
                conduct.submits(session, &submission)?;
                self.invariants.sets_are_of_what_was_given_back(session, conduct, &submission)?;
                self.send_up(service, Packet::Submit(batch, submission));
            }
            SessionEffect::KeepAlive { keep_alive, .. } => self.send_up(service, Packet::KeepAlive(keep_alive)),
            SessionEffect::Close { .. } => {
                let group = self.plan.locks.wishes.options[client].recovery.as_ref();
                let end = group.filter(|group| group.required).map(|_| SessionEnd::Flushed);
                self.send_up(service, Packet::Close(session, end));
            }
            SessionEffect::Report { report, .. } => self.send_up(service, Packet::Report(report)),
            SessionEffect::Recover(effect) => self.on_recovery_effect(client, effect),
            SessionEffect::Dial { link, endpoint, pause, timeout } => {
                (opened.link, opened.endpoint, opened.connected, opened.callback_pending) =
                    (link, endpoint, false, false);
                opened.dial_timeout_us = timeout.as_micros() as u64;
                let pause = self.shorten(pause);
                let dial = LockEvent::Dial { client, run, attempt: link.0, callback_only: false };
                self.schedule(pause, Event::Lock(dial));
            }
            SessionEffect::Disconnect { .. } => {
                opened.conduct.callback_is_alive();
                let lines = [opened.service.take(), opened.callback.take()];
                lines.into_iter().flatten().for_each(|line| self.close_at_client(line));
            }
            SessionEffect::DialCallback { link, timeout, .. } => {
                opened.dial_timeout_us = timeout.as_micros() as u64;
                self.invariants.counters.hit("callback connections dialled anew");
                opened.conduct.callback_is_alive();
                if let Some(line) = opened.callback.take() {
                    self.close_at_client(line);
                }
                self.on_dial(client, run, link.0, true);
            }
            SessionEffect::Serve { name, waiter, grant } => return self.on_served(client, waiter, name, grant),
            SessionEffect::Fail { name, waiter, .. } => self.on_refused(client, waiter, &name),
            SessionEffect::Dissolve { name, waiter } => {
                self.on_part_ended(client, waiter, &name, false);
            }
            SessionEffect::Flush { name, token, .. } => {
                let wait = self.dice.between(self.plan.locks.flush_us);
                let returned = LockEvent::Flushed { client, run, name, token: token.0 };
                self.schedule(wait, Event::Lock(returned));
                self.invariants.counters.hit("flushes");
            }
            SessionEffect::GuardsDie { .. } => {}
            SessionEffect::Tell(event) => {
                opened.suspended = event == SessionEvent::Suspended;
                self.invariants.counters.hit(match event {
                    SessionEvent::Suspended => "leases suspended",
                    SessionEvent::Resumed => "leases resumed",
                    _ => "sessions lost",
                });
                if event == SessionEvent::Resumed {
                    return self.check_guards_of(client);
                }
            }
            SessionEffect::Over(stage) => self.on_session_over(client, stage),
        }
        Ok(())
    }

    fn send_up(&mut self, line: Option<LineId>, packet: Packet) {
        if let Some(line) = line {
            self.send_on(line, true, packet);
        }
    }

    fn on_session_over(&mut self, client: usize, stage: Stage) {
        if stage == Stage::Closed {
            self.invariants.counters.hit("sessions closed or abandoned");
        }
        let run = self.locks.next_run();
        self.locks.clients[client].die(run);
        if !self.clients_rest {
            let away = self.dice.spread(self.plan.locks.away_us);
            self.schedule(away, Event::Lock(LockEvent::Start(client)));
        }
    }
}

fn effect_code(effect: &SessionEffect<Waiter>) -> u64 {
    match effect {
        SessionEffect::Dial { link, .. } => 1 << 32 | link.0,
        SessionEffect::Submit { submission, .. } => {
            2 << 32 | submission.floor.0 << 8 | submission.requests.len() as u64
        }
        SessionEffect::KeepAlive { keep_alive, .. } => 3 << 32 | keep_alive.stamp,
        SessionEffect::Serve { grant, .. } => 4 << 32 | grant.token.0,
        SessionEffect::Flush { token, .. } => 5 << 32 | token.0,
        SessionEffect::GuardsDie { epoch } => 6 << 32 | epoch,
        SessionEffect::Report { report, .. } => 8 << 32 | report.token.0,
        _ => 7 << 32,
    }
}
