//! Strangers: clients that keep to no rule of ours. They speak the protocol, each request in a submission of its own, in any order,
//! again and again; they cancel what has not arrived yet, give back what is not theirs, and keep no session alive.
//!
//! What they do to themselves is their own affair. What they must not do is harm others: every check of the service's ops holds.

use lock_protocol::{
    ClientIdentity, Command, FencingToken, LockName, Mode, Open, OpenWith, Outcome, RecoveryAnswer, Refusal, Request,
    RequestNumber, Requeued, SUBMISSION_MAX_REQUESTS, SessionId, Submission,
};
use lock_server::machine::Op;

use super::LockEvent;
use super::calls::{Asking, Caller, Told};
use super::wishes::draw_set;
use crate::simulator::dice::Dice;
use crate::simulator::world::{Event, World};

/// Requests and tenures that a stranger remembers.
const REMEMBERED_MAX: usize = 12;
/// Locks that nobody else wants.
const OWN_NAMES: u64 = 12;
/// Numbers from here on are used once each, for what is refused in any case.
const WASTED: u64 = 1 << 40;

/// A stranger.
#[derive(Debug, Default)]
pub(crate) struct Stranger {
    /// Sessions that it asked for.
    life: u64,
    nonce: u128,
    session: Option<SessionId>,
    last_number: u64,
    floor: u64,
    wasted: u64,
    sent: Vec<Request>,
    /// To be sent, though it is cancelled already.
    late: Option<Request>,
    held: Vec<(LockName, FencingToken)>,
}

impl Stranger {
    /// Sessions that it asked for.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    fn next_number(&mut self) -> RequestNumber {
        self.last_number += 1;
        RequestNumber(self.last_number)
    }

    fn remember(&mut self, request: Request) {
        self.sent.push(request);
        self.sent.drain(..self.sent.len().saturating_sub(REMEMBERED_MAX));
    }

    fn has(&mut self, name: &LockName, token: FencingToken) {
        self.held.push((name.clone(), token));
        self.held.drain(..self.held.len().saturating_sub(REMEMBERED_MAX));
    }

    /// What is asked under a new number, or an old one again.
    fn draw(&mut self, dice: &mut Dice, names: &[LockName]) -> Request {
        if let Some(late) = self.late.take_if(|_| dice.chance(700_000)) {
            return late;
        }
        let name = draw_name(dice, names);
        let mode = if dice.chance(500_000) { Mode::Shared } else { Mode::Exclusive };
        let command = match dice.below(100) {
            0..45 => Command::Acquire { name, mode },
            45..60 => match dice.pick_or_none(&self.sent).cloned() {
                Some(request) => Command::Cancel { name: request.command.name().clone(), acquire: request.number },
                None => Command::Acquire { name, mode },
            },
            60..65 => return self.cancel_ahead(name, mode),
            65..90 => self.draw_release(dice, name, mode),
            _ => match dice.pick_or_none(&self.sent).cloned() {
                Some(request) => return request,
                None => Command::Acquire { name, mode },
            },
        };
        Request { number: self.next_number(), command }
    }

    /// A lock that it has not asked for before may be one of several.
    fn widen(&self, mut request: Request, dice: &mut Dice, chance: u64, names: &[LockName]) -> Request {
        let is_new = request.number.0 == self.last_number && self.sent.iter().all(|it| it.number != request.number);
        if is_new && matches!(request.command, Command::Acquire { .. }) && dice.chance(chance) {
            request.command = Command::AcquireAll { set: draw_set(dice, names) };
        }
        request
    }

    /// The cancel of what is sent later.
    fn cancel_ahead(&mut self, name: LockName, mode: Mode) -> Request {
        let command = match self.held.last() {
            Some((held, token)) if mode == Mode::Shared => {
                Command::Release { name: held.clone(), token: *token, requeue: Some(mode) }
            }
            _ => Command::Acquire { name, mode },
        };
        let (name, acquire) = (command.name().clone(), self.next_number());
        self.late = Some(Request { number: acquire, command });
        Request { number: self.next_number(), command: Command::Cancel { name, acquire } }
    }

    /// Of what it has, has had, or has not.
    fn draw_release(&mut self, dice: &mut Dice, name: LockName, mode: Mode) -> Command {
        let (name, token) = dice.pick_or_none(&self.held).cloned().unwrap_or((name, FencingToken(1)));
        let token = if dice.chance(150_000) { FencingToken(token.0.saturating_sub(1)) } else { token };
        match dice.below(5) {
            0 => Command::Downgrade { name, token },
            4 => Command::Upgrade { name, token },
            1 => Command::Release { name, token, requeue: Some(mode) },
            _ => Command::Release { name, token, requeue: None },
        }
    }
}

fn draw_name(dice: &mut Dice, names: &[LockName]) -> LockName {
    let own = match dice.below(100) {
        0..50 => return dice.pick(names).clone(),
        50..98 => format!("stranger/{}", dice.below(OWN_NAMES)),
        _ => "x".repeat(LockName::MAX_BYTES),
    };
    LockName::new(own).expect("a text that is short enough, without control characters")
}

impl World {
    /// A stranger does something, and comes back later.
    pub(crate) fn on_stranger(&mut self, stranger: usize) {
        if !self.unsafe_now {
            return;
        }
        let wait = self.lock_dice.spread(self.plan.locks.others.stranger_think_us);
        self.schedule(wait, Event::Lock(LockEvent::Stranger(stranger)));
        let it = &mut self.locks.strangers[stranger];
        let Some(session) = it.session else { return self.stranger_opens(stranger) };
        if self.meddles() {
            return self.stranger_meddles(stranger, session);
        }
        let it = &mut self.locks.strangers[stranger];
        let caller = Caller::Stranger(stranger, it.life);
        let dice = &mut self.lock_dice;
        let request = match dice.below(100) {
            0 => return self.call(caller, Asking::Op(Op::Close { session })),
            1 => {
                it.wasted += 1;
                let command = Command::Acquire { name: draw_name(dice, &self.locks.names), mode: Mode::Shared };
                Request { number: RequestNumber(WASTED + it.wasted), command }
            }
            _ => {
                let request = it.draw(dice, &self.locks.names);
                it.widen(request, &mut self.wish_dice, self.plan.locks.wishes.sets, &self.locks.names)
            }
        };
        if dice.chance(200_000) {
            it.floor = it.last_number.saturating_sub(dice.below(6)).max(it.floor);
        }
        if request.number.0 < WASTED {
            it.remember(request.clone());
        }
        let times = if dice.chance(3_000) { SUBMISSION_MAX_REQUESTS + 1 } else { 1 };
        let floor = RequestNumber(it.floor);
        let submission = Submission { session, floor, requests: vec![request; times] };
        self.call(caller, Asking::Submission(submission));
    }

    /// Under the nonce that it asked with before, where nothing came of that.
    fn stranger_opens(&mut self, stranger: usize) {
        let dice = &mut self.lock_dice;
        let it = &mut self.locks.strangers[stranger];
        if it.life == 0 || dice.chance(300_000) {
            let life = it.life + 1;
            let nonce = u128::from(dice.number()) << 64 | u128::from(dice.number());
            *it = Stranger { life, nonce, last_number: 1, wasted: it.wasted, ..Stranger::default() };
        }
        let lease_ms = *dice.pick(&[0, 500, 1_000, 3_000, 4_000]);
        let times = *dice.pick(&[1, 1, 1, 200, 100_000]);
        let identity = ClientIdentity { client: "é".repeat(times), host: String::new(), pid: 1 };
        let (caller, nonce) = (Caller::Stranger(stranger, it.life), it.nonce);
        let open = Open { nonce, lease_ms, identity };
        let op = match self.meddles() {
            true => {
                Op::OpenWith(OpenWith { open, options: self.wish_dice.pick(&self.plan.locks.wishes.options).clone() })
            }
            false => Op::Open(open),
        };
        self.call(caller, Asking::Op(op));
    }

    pub(super) fn stranger_hears(&mut self, stranger: usize, life: u64, asking: Asking, answer: Result<Told, Refusal>) {
        let it = &mut self.locks.strangers[stranger];
        if it.life != life {
            return;
        }
        match (asking, answer) {
            (_, Ok(Told::Opened(opened))) => it.session = Some(opened.session),
            (_, Ok(Told::Closed)) => it.session = None,
            (_, Ok(Told::Recovery(RecoveryAnswer::Accepted))) => {
                self.invariants.counters.hit("strangers whose turn it was to recover");
            }
            (Asking::Submission(submission), Ok(Told::Outcomes(outcomes))) => {
                for (request, outcome) in submission.requests.iter().zip(outcomes) {
                    match outcome {
                        Outcome::Granted { token, .. }
                        | Outcome::Upgraded { token }
                        | Outcome::AlreadyHeld { token, .. }
                        | Outcome::Released { requeued: Some(Requeued::Granted { token, .. }) } => {
                            request.command.names().for_each(|name| it.has(name, token));
                        }
                        Outcome::SessionGone => it.session = None,
                        Outcome::LimitReached { .. } => self.invariants.counters.hit("limits reached"),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}
