//! The replica thread of a member whose log is damaged, until it is whole: a round round [`Repair`], with the store at its end.
//!
//! Why it is right: the core of the member is made from what the store holds once it is whole, and not before; so nothing is said in
//! this member's name but "what have you of this?". Until then nobody's command is taken. A store that is given up is removed before an empty one is formatted, and a crash
//! between the two leaves a directory without a store: the same, seen from outside.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::watch;

use super::inbox::{Ending, Inbox, Request};
use super::link::{LinkContext, Links};
use super::replica_thread::Clock;
use super::store::RecordStore;
use crate::repair::{Repair, Verdict};
use crate::{ChangeError, Message, Micros, Output, Recovered, Rejection, Send, Status};

/// Puts an empty store of a new incarnation in a damaged one's place.
pub(super) type BeginAnew<S> =
    Box<dyn FnOnce(S, &Repair) -> Result<(S, Recovered), nvm_log::Error> + std::marker::Send>;

/// What the thread has until the log is whole.
pub(super) struct RepairThread<'a, A> {
    pub(super) clock: Clock,
    pub(super) tick: Micros,
    pub(super) requests: &'a Receiver<Request>,
    pub(super) inbox: &'a Inbox,
    pub(super) links: &'a Links,
    pub(super) context: &'a LinkContext,
    pub(super) status: &'a watch::Sender<Arc<Status>>,
    pub(super) application: &'a mut A,
}

impl<A: Any> RepairThread<'_, A> {
    /// Runs until the store is whole, or another; none if the member is to end before.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(super) fn run<S: RecordStore>(
        &mut self,
        mut repair: Repair,
        mut store: S,
        begin_anew: BeginAnew<S>,
    ) -> Result<Option<(S, Recovered)>, nvm_log::Error> {
        let began = Instant::now();
        loop {
            self.status.send_replace(Arc::new(repair.status()));
            let Some(verdict) = self.until_verdict(&mut repair) else { return Ok(None) };
            match verdict {
                Verdict::Whole(entries) if store.repair(&entries)? => {
                    told(&repair, began, "the log was damaged, and is whole again: the others had what was lost");
                    return Ok(Some((store, repair.into_recovered())));
                }
                Verdict::Whole(_) => repair.cannot_be_stored(),
                Verdict::GivenUp => {
                    let (store, recovered) = begin_anew(store, &repair)?;
                    *self.context.identity.lock() = recovered.identity;
                    let line = "the log is damaged beyond repair: a majority serves, so this member begins anew with an empty store";
                    told(&repair, began, line);
                    return Ok(Some((store, recovered)));
                }
            }
        }
    }

    fn until_verdict(&mut self, repair: &mut Repair) -> Option<Verdict> {
        let mut next_tick = 0;
        loop {
            let now = self.clock.now();
            self.inbox.counts.begin_round(now);
            let mut out = Output::default();
            match self.requests.recv_timeout(Duration::from_micros(self.tick.min(next_tick.max(now) - now))) {
                Ok(request) => self.take(request, repair, &mut out),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            let now = self.clock.now();
            if now >= next_tick {
                next_tick = now + self.tick;
                repair.on_tick(now, &mut out);
            }
            for Send { to, message, .. } in out.send {
                self.links.send(to, message);
            }
            if self.inbox.ending() != Ending::Running {
                return None;
            }
            if let Some(verdict) = repair.take_verdict() {
                return Some(verdict);
            }
        }
    }

    fn take(&mut self, request: Request, repair: &mut Repair, out: &mut Output) {
        self.inbox.taken(&request);
        let refused = || Err(Rejection::NotPrimary { hint: None });
        match request {
            Request::Message {
                from, message: message @ (Message::FetchLost { .. } | Message::Kept { .. }), ..
            } => {
                repair.on_message(self.clock.now(), from, message, out);
            }
            // Whoever does not wait for the answer any more does not need it.
            Request::Submit { reply, .. } => drop(reply.send(refused())),
            Request::SubmitAll { commands, reply } => {
                drop(reply.send(commands.iter().map(|_| refused()).collect()));
            }
            Request::Change(_, reply) => drop(reply.send(Err(ChangeError::NotPrimary { hint: None }))),
            Request::Visit(visit) => visit(self.application),
            Request::Copy(..)
            | Request::Snapshot(_)
            | Request::Message { .. }
            | Request::Unreachable(..)
            | Request::HandOver(_)
            | Request::Wake => {}
        }
    }
}

/// One line on what became of the damage.
fn told(repair: &Repair, began: Instant, what: &'static str) {
    let fetched: Vec<String> =
        repair.fetched_ops().iter().map(|(member, ops)| format!("{ops} from member {member}")).collect();
    tracing::warn!(
        member = repair.status().identity.member.0,
        damaged_ops = repair.ops(),
        fetched_ops = fetched.join(", "),
        elapsed_ms = began.elapsed().as_secs_f64() * 1e3,
        "{what}"
    );
}
