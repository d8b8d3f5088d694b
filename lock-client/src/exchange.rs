//! What goes over one connection, and when: a core without clock or IO.
//!
//! Why a change of the primary is harmless: what is unanswered when a connection ends goes back to the outbox, and leaves on the
//! next connection under the same numbers; the replicated session table executes each once. Queued acquires are asked
//! for again on every new connection and every [`ASK_AGAIN`], so that a notice may be lost (M11).
//!
//! Why a dead callback connection is harmless: revokes also come with the answers to keep-alives. One that is news, while the
//! callback connection stays silent, shows that the latter is dead, and it is opened anew (M16).

use std::collections::BTreeMap;
use std::time::Duration;

use lock_protocol::{KeepAlive, Outcome, Refusal, RequestNumber};

use crate::clock::Clocks;
use crate::mutant::{self, Mutant};
use crate::outbox::{Batch, BatchId, Outbox};
use crate::route::Route;
use crate::session::{Session, nanoseconds};

/// Queued acquires are asked for again this often: a lost notice costs at most this.
pub const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Submissions in flight at most: enough to hide the round trip, few enough for batches to grow under load.
pub const SUBMISSIONS_IN_FLIGHT: usize = 4;
/// Keep-alives in flight at most; a connection is given up long before.
pub const KEEP_ALIVES_IN_FLIGHT: usize = 8;
/// A submission without an answer for so long means a dead server or a lost answer: dial again.
pub const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a server said that it is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// For how long the callback connection may stay silent after a revoke came another way.
const CALLBACK_GRACE: Duration = Duration::from_millis(200);
/// How often the cache is searched for what was idle too long.
const SWEEP: Duration = Duration::from_secs(60);
/// How often it may be searched because it is too large.
const SWEEP_FULL: Duration = Duration::from_millis(500);

/// Why a connection is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The session has ended at the server.
    Over,
    /// Another server should be tried.
    Elsewhere {
        /// What this one said or did, for people.
        answer: String,
        /// Whom it takes for the primary.
        hint: Option<String>,
    },
}

impl Departure {
    /// To another server, without a hint.
    pub fn elsewhere(answer: impl Into<String>) -> Self {
        Departure::Elsewhere { answer: answer.into(), hint: None }
    }
}

impl Departure {
    /// A server did not take the callback connection (`answer` says why) and was then asked for a keep-alive, which it refused, answered,
    /// or left without an answer (none). For a session that has ended no server ever takes one.
    pub fn callback_refused(refusal: Option<Refusal>, answer: String) -> Self {
        match refusal {
            Some(Refusal::SessionGone) => Departure::Over,
            Some(Refusal::NotPrimary { hint }) => Departure::Elsewhere { answer, hint },
            _ => Departure::elsewhere(answer),
        }
    }
}

/// What is due, apart from submissions and keep-alives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Put all queued acquires up for being asked again.
    pub ask_again: bool,
    /// Search the cache for what should be given up.
    pub sweep: bool,
    /// Dial the callback connection anew.
    pub callback: bool,
}

/// One connection to one server.
#[derive(Debug)]
pub struct Exchange {
    /// When which unanswered submission was sent, boot time, ns.
    submissions: BTreeMap<BatchId, u64>,
    keep_alives: usize,
    ask_again_ns: u64,
    sweep_ns: u64,
    /// No submission before it.
    hold_until_ns: u64,
    /// The callback connection is taken for dead then, unless a notice comes on it.
    callback_dead_ns: Option<u64>,
}

impl Exchange {
    /// A connection that was made now (boot time, ns). Before anything is sent on it what the last one left unanswered
    /// goes back to the outbox, and the caller asks for all queued acquires again.
    pub fn new(now_ns: u64, session: &mut Session, outbox: &mut Outbox) -> Self {
        session.on_connected();
        outbox.on_disconnected();
        Exchange {
            submissions: BTreeMap::new(),
            keep_alives: 0,
            ask_again_ns: now_ns.saturating_add(nanoseconds(ASK_AGAIN)),
            sweep_ns: now_ns.saturating_add(nanoseconds(SWEEP)),
            hold_until_ns: 0,
            callback_dead_ns: None,
        }
    }

    /// Time went by: what is due. `full` says that the cache holds more locks than it should.
    ///
    /// # Errors
    /// The connection is of no use any longer.
    pub fn due(&mut self, now: Clocks, session: &mut Session, full: bool) -> Result<Due, Departure> {
        let now_ns = now.boot_ns;
        if session.is_overdue(now) {
            session.on_silence();
            return Err(Departure::elsewhere("it does not answer keep-alives"));
        }
        if self.submit_timeout_ns().is_some_and(|timeout_ns| now_ns >= timeout_ns) {
            return Err(Departure::elsewhere("it left a submission without an answer"));
        }
        let ask_again = now_ns >= self.ask_again_ns;
        if ask_again {
            self.ask_again_ns = now_ns.saturating_add(nanoseconds(ASK_AGAIN));
        }
        let full = full && now_ns + nanoseconds(SWEEP) >= self.sweep_ns + nanoseconds(SWEEP_FULL);
        let sweep = now_ns >= self.sweep_ns || full;
        if sweep {
            self.sweep_ns = now_ns.saturating_add(nanoseconds(SWEEP));
        }
        let callback = self.callback_dead_ns.is_some_and(|dead_ns| now_ns >= dead_ns);
        if callback {
            self.callback_dead_ns = None;
        }
        Ok(Due { ask_again, sweep, callback })
    }

    /// The next submission that may be sent now. Its outcome goes to [`Exchange::on_submitted`].
    pub fn submission(&mut self, now_ns: u64, outbox: &mut Outbox) -> Option<Batch> {
        if self.submissions.len() >= SUBMISSIONS_IN_FLIGHT || now_ns < self.hold_until_ns {
            return None;
        }
        let batch = outbox.take()?;
        self.submissions.insert(batch.id, now_ns);
        Some(batch)
    }

    /// The keep-alive that should be sent now. Its answer goes to [`Exchange::on_kept_alive`].
    pub fn keep_alive(&mut self, now: Clocks, session: &mut Session, floor: RequestNumber) -> Option<KeepAlive> {
        if self.keep_alives >= KEEP_ALIVES_IN_FLIGHT || now.boot_ns < session.next_keep_alive_ns() {
            return None;
        }
        self.keep_alives += 1;
        Some(session.keep_alive(now, floor))
    }

    /// The answer to a submission of `asked` requests. Returns the outcomes to be handed to the locks, in the order of the
    /// requests; none where the batch goes back to the outbox.
    ///
    /// # Errors
    /// The connection is left.
    pub fn on_submitted(
        &mut self,
        (batch, asked): (BatchId, usize),
        answer: Result<Vec<Outcome>, Refusal>,
        now_ns: u64,
        outbox: &mut Outbox,
        route: &mut Route,
    ) -> Result<Vec<Outcome>, Departure> {
        self.submissions.remove(&batch);
        match answer {
            Ok(outcomes) if outcomes.len() == asked => {
                route.on_success();
                outbox.on_answered(batch);
                Ok(outcomes)
            }
            Ok(_) => Err(Departure::elsewhere("it answered another number of requests than it was asked")),
            Err(refusal) => {
                outbox.on_unanswered(batch);
                self.on_refusal(refusal, now_ns).map(|()| Vec::new())
            }
        }
    }

    /// A keep-alive was answered. What the answer says is taken in by the session and the locks.
    pub fn on_kept_alive(&mut self, route: &mut Route) {
        self.keep_alives = self.keep_alives.saturating_sub(1);
        route.on_success();
    }

    /// A keep-alive was refused.
    ///
    /// # Errors
    /// The connection is left.
    pub fn on_keep_alive_refused(&mut self, refusal: Refusal, now_ns: u64) -> Result<(), Departure> {
        self.keep_alives = self.keep_alives.saturating_sub(1);
        self.on_refusal(refusal, now_ns)
    }

    /// A report on a recovery was refused; it is sent again.
    ///
    /// # Errors
    /// The connection is left.
    pub fn on_report_refused(&mut self, refusal: Refusal, now_ns: u64) -> Result<(), Departure> {
        self.on_refusal(refusal, now_ns)
    }

    fn on_refusal(&mut self, refusal: Refusal, now_ns: u64) -> Result<(), Departure> {
        let answer = refusal.to_string();
        match refusal {
            Refusal::NotPrimary { hint } => Err(Departure::Elsewhere { answer, hint }),
            Refusal::ViewChanging | Refusal::Unknown | Refusal::Invalid(_) | Refusal::Denied(_) => {
                Err(Departure::elsewhere(answer))
            }
            Refusal::Busy(_) => {
                self.hold_until_ns = now_ns.saturating_add(nanoseconds(BUSY_PAUSE));
                Ok(())
            }
            Refusal::SessionGone => Err(Departure::Over),
        }
    }

    /// A revoke that was news came with the answer to a keep-alive: the callback connection has to show that it lives.
    pub fn on_revoke_news(&mut self, now_ns: u64) {
        if !mutant::is(Mutant::TrustsCallback) {
            self.callback_dead_ns.get_or_insert(now_ns.saturating_add(nanoseconds(CALLBACK_GRACE)));
        }
    }

    /// Notices came on the callback connection.
    pub fn on_callback_heard(&mut self) {
        self.callback_dead_ns = None;
    }

    /// When [`Exchange::due`] or a keep-alive should be looked at next, boot time, ns; may have passed already.
    pub fn next_ns(&self, now_ns: u64, session: &Session) -> u64 {
        let keep_alive = (self.keep_alives < KEEP_ALIVES_IN_FLIGHT).then(|| session.next_keep_alive_ns());
        let hold = (self.hold_until_ns > now_ns).then_some(self.hold_until_ns);
        // Overdue is what lies *after* that moment.
        let overdue = session.overdue_ns().map(|overdue_ns| overdue_ns.saturating_add(1));
        let others = [keep_alive, hold, overdue, self.callback_dead_ns, self.submit_timeout_ns()];
        others.into_iter().flatten().fold(self.ask_again_ns.min(self.sweep_ns), u64::min)
    }

    fn submit_timeout_ns(&self) -> Option<u64> {
        let first_ns = self.submissions.values().min()?;
        Some(first_ns.saturating_add(nanoseconds(SUBMIT_TIMEOUT)))
    }
}
