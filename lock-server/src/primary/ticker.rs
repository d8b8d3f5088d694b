//! When service time is ticked, and which keep-alives a tick renews.
//!
//! Why it is right, rule by rule (each has its counter-example in a script):
//!
//! - [`Ticker::close`] takes the keep-alives that have arrived, *then* reads the clock. Read before, a pause between the two would let
//!   the elapsed time miss what the client has counted, and its lease would end on the server first.
//! - A keep-alive is answered only by a tick that was closed after it arrived, so its lease counts from a time after it was sent.
//! - One tick is uncommitted at a time, and counts from the clock reading of the one before, whether or not that was executed. So an
//!   outage, or a tick whose fate is unknown, makes service time slower and never faster than real time.
//! - A new primary counts from its barrier, whatever it measured before. Without sessions time stands still.
//!
//! The cap on what one tick adds is the machine's: no member has to be trusted with it.

use std::collections::BTreeSet;
use std::time::Duration;

use lock_protocol::{KeepAlive, LEASE_MIN, NOTICES_MAX, Notice, Refusal, Renewed, SessionId, tick_interval};
use rsm::Rejection;

use super::answers::refusal_of;
use crate::clock::RawTime;
use crate::machine::{Machine, Op, Reply};
use crate::mutant::{Mutant, Mutation};

/// Keep-alives in one tick op. Each takes 20 bytes at most, so an op stays below [`rsm::limits::COMMAND_MAX_BYTES`]; more go into
/// further ops that add no time.
const KEEP_ALIVES_PER_OP: usize = 3_000;
const _: () = assert!(KEEP_ALIVES_PER_OP * 20 + 100 < rsm::limits::COMMAND_MAX_BYTES);

/// The ticker. `A` is how its driver finds whoever sent a keep-alive. What waits is bounded by the calls under way on all
/// connections.
#[derive(Debug)]
pub struct Ticker<A> {
    /// For the next tick, in the order of arrival.
    waiting: Vec<Waiting<A>>,
    counting: Option<Counting>,
    is_serving: bool,
    uncommitted: Option<Uncommitted<A>>,
    mutation: Mutation,
}

#[derive(Debug)]
struct Waiting<A> {
    keep_alive: KeepAlive,
    who: A,
}

/// How time is counted while this member serves.
#[derive(Debug)]
struct Counting {
    /// The reading that the next tick's elapsed time begins with.
    last: RawTime,
    /// When the tick before was due.
    before: Duration,
    /// When the next is due, where that is planned.
    next: Option<Duration>,
    /// There is nothing to tick for.
    is_idle: bool,
    /// Mutants' own: the reading before `last`, and that of when the next tick was planned.
    before_last: RawTime,
    planned: RawTime,
}

impl Counting {
    fn from(now: Duration, since: RawTime) -> Self {
        Counting { last: since, before: now, next: None, is_idle: false, before_last: since, planned: since }
    }
}

/// The tick under way.
#[derive(Debug)]
struct Uncommitted<A> {
    /// In the op that was submitted.
    taken: Vec<Waiting<A>>,
    /// For the tick's further ops.
    rest: Vec<Waiting<A>>,
}

impl<A> Default for Ticker<A> {
    fn default() -> Self {
        Ticker {
            waiting: Vec::new(),
            counting: None,
            is_serving: false,
            uncommitted: None,
            mutation: Mutation::default(),
        }
    }
}

impl<A> Ticker<A> {
    /// The same ticker with a known bug.
    #[cfg(any(test, feature = "mutants"))]
    pub fn with_mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutation = Mutation::new(mutant);
        self
    }

    /// A keep-alive has arrived; the next tick that is closed renews its session.
    pub fn take_in(&mut self, keep_alive: KeepAlive, who: A) {
        self.waiting.push(Waiting { keep_alive, who });
    }

    /// This member begins to serve. `since` was read when the barrier was executed: service time counts from there.
    pub fn begin(&mut self, now: Duration, since: RawTime) {
        let since = match &self.counting {
            Some(former) if self.mutation.is(Mutant::FormerTerm) => former.last,
            _ => since,
        };
        self.counting = Some(Counting::from(now, since));
        self.is_serving = true;
    }

    /// This member serves no longer. Gives back whoever waits for the next tick, to be refused; a tick under way still comes to its
    /// end.
    pub fn end(&mut self) -> Vec<A> {
        self.is_serving = false;
        self.waiting.drain(..).map(|waiting| waiting.who).collect()
    }

    /// When the next tick is to be closed; none while one is under way, while there is nothing to tick for, or while this member does
    /// not serve. To be asked after each event, and when the shortest of all leases has changed.
    pub fn due(
        &mut self,
        now: Duration,
        shortest_lease: Option<Duration>,
        read_clock: impl FnOnce() -> RawTime,
    ) -> Option<Duration> {
        let counting = self.counting.as_mut().filter(|_| self.is_serving && self.uncommitted.is_none())?;
        if shortest_lease.is_none() && self.waiting.is_empty() {
            counting.is_idle = true;
            return None;
        }
        let interval = tick_interval(shortest_lease.unwrap_or(LEASE_MIN));
        if std::mem::take(&mut counting.is_idle) {
            // Without sessions time stood still; it goes on from here.
            *counting = Counting::from(now, read_clock());
        } else if self.mutation.is(Mutant::ClockFirst) && counting.next.is_none() {
            counting.planned = read_clock();
        }
        let at = match counting.next {
            // Where a session with a shorter lease appears meanwhile, the tick comes sooner.
            Some(next) => next.min(now + interval),
            None => (counting.before + interval).max(now),
        };
        counting.next = Some(at);
        Some(at)
    }

    /// Closes a tick: takes the keep-alives, then reads the clock. The op is to be submitted as urgent; none where none may be closed.
    pub fn close(&mut self, read_clock: impl FnOnce() -> RawTime) -> Option<Op> {
        let counting = self.counting.as_mut().filter(|_| self.is_serving && self.uncommitted.is_none())?;
        let taken = std::mem::take(&mut self.waiting);
        let reading = match self.mutation.is(Mutant::ClockFirst) {
            true => counting.planned,
            false => read_clock(),
        };
        let from = if self.mutation.is(Mutant::ElapsedTwice) { counting.before_last } else { counting.last };
        let elapsed = reading.since(from);
        counting.before_last = counting.last;
        counting.last = reading;
        counting.before = counting.next.take().unwrap_or(counting.before);
        Some(self.submit(elapsed, taken))
    }

    fn submit(&mut self, elapsed: Duration, mut taken: Vec<Waiting<A>>) -> Op {
        let rest = taken.split_off(taken.len().min(KEEP_ALIVES_PER_OP));
        let keep_alives = taken.iter().map(|waiting| (waiting.keep_alive.session, waiting.keep_alive.floor)).collect();
        self.uncommitted = Some(Uncommitted { taken, rest });
        Op::Tick { elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), keep_alives }
    }

    /// The op under way was executed: whom to answer, and the tick's next op, which is to be submitted.
    pub fn executed(&mut self, reply: &[u8]) -> (Renewals<A>, Option<Op>) {
        let Some(Uncommitted { taken, rest }) = self.uncommitted.take() else {
            return (Renewals { waiting: Vec::new(), sorts: None }, None);
        };
        let sorts = match Reply::decode(reply) {
            Ok(Reply::Ticked { gone, .. }) => Some(Sorts { gone: gone.into_iter().collect(), forced: BTreeSet::new() }),
            Ok(Reply::TickedForced { gone, forced, .. }) => {
                Some(Sorts { gone: gone.into_iter().collect(), forced: forced.into_iter().collect() })
            }
            other => {
                tracing::error!(?other, "a tick has an answer of another op: this is a bug");
                None
            }
        };
        let mut taken = taken;
        if self.mutation.is(Mutant::AnswersLater) {
            taken.append(&mut self.waiting);
        }
        let next = (!rest.is_empty()).then(|| self.submit(Duration::ZERO, rest));
        (Renewals { waiting: taken, sorts }, next)
    }

    /// The op under way was rejected: who is to be refused, and how. What is busy is no refusal: the next tick takes them.
    pub fn rejected(&mut self, rejection: Rejection) -> Vec<(A, Refusal)> {
        let Some(Uncommitted { taken: mut all, rest }) = self.uncommitted.take() else { return Vec::new() };
        all.extend(rest);
        match rejection {
            Rejection::Busy => {
                // Before those that arrived since.
                all.append(&mut self.waiting);
                self.waiting = all;
                Vec::new()
            }
            rejection => {
                let refusal = refusal_of(rejection);
                all.into_iter().map(|waiting| (waiting.who, refusal.clone())).collect()
            }
        }
    }
}

/// The keep-alives of an executed tick op, to be answered.
#[derive(Debug)]
#[must_use]
pub struct Renewals<A> {
    waiting: Vec<Waiting<A>>,
    /// None where the reply makes no sense.
    sorts: Option<Sorts>,
}

/// Sessions that are not answered as others are.
#[derive(Debug)]
struct Sorts {
    /// They were not renewed.
    gone: BTreeSet<SessionId>,
    /// They must hear what was ended by force: without it, the answer would let them go on with it.
    forced: BTreeSet<SessionId>,
}

impl<A> Renewals<A> {
    /// For which sessions [`notices_of`] is asked before they are answered; empty where nobody is.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.waiting.iter().map(|waiting| waiting.keep_alive.session).collect()
    }

    /// The answers. Without notices (nobody could look) a client is told that there are more: it then makes sure of its callback
    /// connection.
    pub fn answers(self, notices: Option<Vec<(Vec<Notice>, bool)>>) -> Vec<(A, Result<Renewed, Refusal>)> {
        let could_look = notices.is_some();
        let mut notices = notices.unwrap_or_default().into_iter();
        let Renewals { waiting, sorts } = self;
        let answer = |Waiting { keep_alive, who }| {
            let (notices, more) = notices.next().unwrap_or((Vec::new(), true));
            let answer = match &sorts {
                None => Err(Refusal::Unknown),
                Some(sorts) if sorts.gone.contains(&keep_alive.session) => Err(Refusal::SessionGone),
                Some(sorts) if !could_look && sorts.forced.contains(&keep_alive.session) => Err(Refusal::Unknown),
                Some(_) => Ok(Renewed { stamp: keep_alive.stamp, notices, more }),
            };
            (who, answer)
        };
        waiting.into_iter().map(answer).collect()
    }
}

/// What is wanted of each of these sessions, and whether there is more: for [`Renewals::answers`], not before the tick was executed.
pub fn notices_of(machine: &Machine, sessions: &[SessionId]) -> Vec<(Vec<Notice>, bool)> {
    match machine.is_mutant(Mutant::LostRevoke) || machine.is_mutant(Mutant::RevokesOnce) {
        true => sessions.iter().map(|_| (Vec::new(), false)).collect(),
        false => sessions.iter().map(|&session| machine.revokes_of(session, NOTICES_MAX)).collect(),
    }
}
