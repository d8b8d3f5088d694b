//! What the rest of the program holds of a running member.
//!
//! Why it is right: a handle owns no state of the member. A command enters the queue when it is submitted, not when its answer is
//! first polled, so two submissions of one thread keep their order; dropping the answer takes nothing back. A command that
//! the member did not live to answer is reported as unknown, one that it never took as not executed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::answers::SUBMIT_ALL_MAX_COMMANDS;
use super::inbox::{Answered, Ending, Inbox, Request};
use super::incoming::Incoming;
use super::replica_thread::Clock;
use super::statistics::Statistics;
use crate::{Application, Change, ChangeError, Identity, MemberId, Rejection, Slot, SnapshotImage, Standing, Status};

/// How long a clean stop waits until another member is primary.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// How long a clean stop of a member whose log is in memory waits until the others have it all.
const LEAVING_MAX: Duration = Duration::from_secs(10);
/// Until it is known that another's process is gone.
const NOTICE: Duration = Duration::from_millis(100);
/// Between two looks at them.
const LEAVING_POLL: Duration = Duration::from_millis(20);

/// How a member ended; `None` while it runs.
pub(super) type Ended = Option<Result<(), String>>;

/// A running member, for any number of tasks and threads.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

/// What all parts of the shell share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    /// The last view known at the start; 0 for none.
    pub(super) first_view: u64,
    pub(super) durability: String,
    /// The replica thread writes the store itself.
    pub(super) is_inline: bool,
    /// A stop of this member costs the cluster a copy of everything.
    pub(super) is_volatile: bool,
    pub(super) inbox: Arc<Inbox>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) guard: watch::Receiver<Option<MemberId>>,
    pub(super) ended: watch::Receiver<Ended>,
    pub(super) incoming: Incoming,
}

/// The answer to one command, when it comes.
#[derive(Debug)]
#[must_use = "the command is under way already; its answer is here"]
pub struct Answer(Outcome<Answered>);

/// The answers to commands submitted as one, in their order, when all are there.
#[derive(Debug)]
#[must_use = "the commands are under way already; their answers are here"]
pub struct Answers(Outcome<Vec<Answered>>, usize);

#[derive(Debug)]
enum Outcome<T> {
    Refused(Rejection),
    Waits(oneshot::Receiver<T>),
}

impl Handle {
    /// Submits a command, to be ordered, executed and answered. Urgent ones go ahead of those that wait.
    pub fn submit(&self, command: Vec<u8>, urgent: bool) -> Answer {
        let (reply, answer) = oneshot::channel();
        let refused = self.shared.inbox.submit(Request::Submit { command, urgent, reply });
        Answer(refused.map_or_else(Outcome::Refused, |()| Outcome::Waits(answer)))
    }

    /// Submits commands as one, at most 4096; more are refused as busy, all of them. They are ordered one after the other, maybe with
    /// others between them.
    pub fn submit_all(&self, commands: Vec<Vec<u8>>) -> Answers {
        let count = commands.len();
        let (reply, answers) = oneshot::channel();
        let refused = match count {
            0 => {
                drop(reply.send(Vec::new()));
                Ok(())
            }
            1..=SUBMIT_ALL_MAX_COMMANDS => self.shared.inbox.submit(Request::SubmitAll { commands, reply }),
            _ => Err(Rejection::Busy),
        };
        Answers(refused.map_or_else(Outcome::Refused, |()| Outcome::Waits(answers)), count)
    }

    /// Runs `look` on the replica thread, between two steps, with the application as it is then; it has to be short. `None` if
    /// the member has ended, too much waits, or the application is no `A`. Only what is not replicated may be changed.
    pub async fn visit<A, T>(&self, look: impl FnOnce(&mut A) -> T + Send + 'static) -> Option<T>
    where
        A: Application,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let visit = Request::Visit(Box::new(move |application| {
            if let Some(application) = application.downcast_mut::<A>() {
                drop(reply.send(look(application)));
            }
        }));
        if !self.shared.inbox.request(visit) {
            return None;
        }
        answer.await.ok()
    }

    /// A snapshot, durable, of what is executed now or later. `None` if the member has ended, too much waits, or it holds no state.
    pub async fn snapshot(&self) -> Option<Arc<SnapshotImage>> {
        let (reply, answer) = oneshot::channel();
        if !self.shared.inbox.request(Request::Snapshot(reply)) {
            return None;
        }
        answer.await.ok()
    }

    /// What the member knows of itself: as old as a tick at most, and never older than a change of who serves.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.shared.status.borrow())
    }

    /// The same, for waiting until it changes.
    pub fn status_changes(&self) -> watch::Receiver<Arc<Status>> {
        self.shared.status.clone()
    }

    /// The member's number.
    pub fn member(&self) -> MemberId {
        self.identity().member
    }

    /// Whose store it is. Another incarnation's, once a damaged store was given up.
    pub fn identity(&self) -> Identity {
        self.shared.incoming.context.identity()
    }

    /// The back end and what it is worth, for people, as in "file, durable".
    pub fn durability(&self) -> &str {
        &self.shared.durability
    }

    /// Whether the replica thread writes the store itself: memory, persistent or not, is written faster than another thread wakes up. Else a
    /// thread of its own does.
    pub fn is_inline(&self) -> bool {
        self.shared.is_inline
    }

    /// In the mode `ring`, whose memory holds what this member acknowledges; `None` where its own alone does. For waiting, too.
    pub fn guard(&self) -> watch::Receiver<Option<MemberId>> {
        self.shared.guard.clone()
    }

    /// What the member has done since it started, some milliseconds old at most.
    pub fn statistics(&self) -> Statistics {
        let view = self.status().view.as_ref().map_or(0, |view| view.number);
        let counts = &self.shared.inbox.counts;
        Statistics {
            store: counts.store(),
            snapshots: counts.snapshots(),
            views: view.saturating_sub(self.shared.first_view),
            dropped_messages: self.dropped_messages(),
            broken_peers: self.broken_peers(),
        }
    }

    /// How long ago the replica thread began a round. It begins one with every tick ([`crate::Timing::tick`]), so this is short
    /// while it works, however much it has to do; it is long where the medium stalls or the thread is gone.
    pub fn silent_for(&self) -> Duration {
        let now = self.shared.clock.now();
        Duration::from_micros(now.saturating_sub(self.shared.inbox.counts.round_at()))
    }

    /// Messages from other members that were dropped because too much waited.
    pub fn dropped_messages(&self) -> u64 {
        self.shared.inbox.dropped_messages()
    }

    /// Connections of other members that were closed because of what came over them.
    pub fn broken_peers(&self) -> u64 {
        self.shared.incoming.broken()
    }

    /// If primary, lets another member be it: the one named, or whoever is furthest. Returns false where too much waits.
    pub fn hand_over(&self, to: Option<MemberId>) -> bool {
        self.shared.inbox.request(Request::HandOver(to))
    }

    /// Changes the list of members (S12), if this member is the primary; returns the number of the view that made the change.
    /// An added member is a learner there: it is promoted when it has caught up, which the status shows.
    ///
    /// # Errors
    /// [`ChangeError`]: the change was not made, or nobody knows.
    pub async fn change(&self, change: Change) -> Result<u64, ChangeError> {
        if let Change::Add { address, .. } | Change::Replace { address, .. } = &change
            && let Err(problem) = address.parse::<wire::Endpoint>()
        {
            return Err(ChangeError::Refused(format!("'{address}' is no address: {problem}")));
        }
        let (reply, answer) = oneshot::channel();
        if !self.shared.inbox.request(Request::Change(change, reply)) {
            return Err(ChangeError::ViewChanging);
        }
        answer.await.unwrap_or(Err(ChangeError::Unknown))
    }

    /// Stops the member in good order: hands over if it is primary (and waits for that up to a second), then writes out all that
    /// waits. Returns when its threads have ended and its store is closed. Where logs are in memory it waits first, up to ten seconds, until
    /// all other members are in sync: two that are stopped in quick succession could be the majority that knew something.
    pub async fn stop(&self) {
        if self.shared.is_volatile {
            self.wait_for_others().await;
        }
        if self.status().is_primary && self.hand_over(None) {
            let mut status = self.status_changes();
            let mut ended = self.shared.ended.clone();
            let handed_over = async {
                tokio::select! {
                    changed = status.wait_for(|status| !status.is_primary) => drop(changed),
                    ended = ended.wait_for(Option::is_some) => drop(ended),
                }
            };
            if tokio::time::timeout(HAND_OVER_MAX, handed_over).await.is_err() {
                tracing::info!("stopping as primary: no other member took over in time");
            }
        }
        self.shared.inbox.end(Ending::Clean);
        drop(self.shared.ended.clone().wait_for(Option::is_some).await);
    }

    /// Waits until every other slot of the view is in sync; not for ever, since whoever stops it has his reasons.
    async fn wait_for_others(&self) {
        // A process that has just ended seems to be there until the system has said that its connection broke.
        tokio::time::sleep(NOTICE).await;
        let Some(other) = self.not_in_sync() else { return };
        tracing::info!("the stop waits until member {other} is in sync: its log is in memory, as this one's is");
        let in_sync = async {
            while self.not_in_sync().is_some() {
                tokio::time::sleep(LEAVING_POLL).await;
            }
        };
        if tokio::time::timeout(LEAVING_MAX, in_sync).await.is_err() {
            tracing::warn!("stopping although member {other} is not in sync: stop no other member before it is");
        }
    }

    /// Another slot that is not in sync, or whose listed store is not connected: the process that had its memory may be gone.
    fn not_in_sync(&self) -> Option<MemberId> {
        let own = self.member();
        let status = self.status();
        let others = status.view.iter().flat_map(|view| &view.slots).filter(|slot| slot.member != own);
        let is_there = |slot: &&Slot| {
            let listed = Identity { member: slot.member, incarnation: slot.incarnation };
            slot.standing == Standing::InSync && self.shared.incoming.is_connected(listed)
        };
        others.filter(|slot| !is_there(slot)).map(|slot| slot.member).next()
    }

    /// Arms a break point, for what happens from now on.
    #[cfg(feature = "break-points")]
    pub fn set_break_point(&self, point: super::BreakPoint) {
        self.shared.incoming.context.break_points.arm(point);
    }

    /// Disarms all break points; heals a partition.
    #[cfg(feature = "break-points")]
    pub fn clear_break_points(&self) {
        self.shared.incoming.context.break_points.disarm();
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl<T: Unpin> Outcome<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Rejection>> {
        match self {
            Outcome::Refused(rejection) => Poll::Ready(Err(rejection.clone())),
            Outcome::Waits(answer) => Pin::new(answer).poll(cx).map(|answer| answer.map_err(|_| Rejection::Unknown)),
        }
    }
}

impl Future for Answer {
    type Output = Result<Vec<u8>, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(|answer| answer.and_then(|answered| answered))
    }
}

impl Future for Answers {
    type Output = Vec<Result<Vec<u8>, Rejection>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let count = self.1;
        self.0.poll(cx).map(|answers| answers.unwrap_or_else(|rejection| vec![Err(rejection); count]))
    }
}
