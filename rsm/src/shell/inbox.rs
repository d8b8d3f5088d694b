//! The queue in front of the replica thread, and what other threads tell it beside the queue.
//!
//! Why it is right: no thread ever waits for the replica thread. What may be lost (messages) is dropped when the queue is
//! full, what may be refused (commands) is refused, and what may be neither (durable records, the end) is a value that the
//! replica thread reads in every round, the queue only waking it. So the log writer, for which the replica thread may wait, never
//! waits for the replica thread, and the two cannot deadlock.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::restoration::LogCopy;
use super::statistics::Counts;
use crate::limits::WAITING_MAX_COMMANDS;
use crate::{
    Change, ChangeError, ClusterId, Damage, Identity, Incarnation, MemberId, MemoryId, Message, Rejection,
    SnapshotImage, Token,
};

/// Requests that wait for the replica thread: some milliseconds of its work.
const QUEUE_MAX: usize = 16 << 10;
/// Submissions leave this much of the queue to the other members' messages: overload by clients must not look like the loss of a member.
const KEPT_FOR_MESSAGES: usize = QUEUE_MAX / 2;
/// Messages that wait for the replica thread, bytes; more are dropped. Some dozens of the largest.
const MESSAGES_MAX_BYTES: usize = 64 << 20;

/// An answered command.
pub(super) type Answered = Result<Vec<u8>, Rejection>;

/// What became of a change of the members: the view that made it.
pub(super) type Changed = Result<u64, ChangeError>;

/// A look at the state machine.
pub(super) type Visit = Box<dyn FnOnce(&mut dyn Any) + Send>;

/// What waits for the replica thread.
pub(super) enum Request {
    Message {
        cluster: ClusterId,
        from: Identity,
        message: Message,
        size_bytes: usize,
    },
    Submit {
        command: Vec<u8>,
        urgent: bool,
        reply: oneshot::Sender<Answered>,
    },
    SubmitAll {
        commands: Vec<Vec<u8>>,
        reply: oneshot::Sender<Vec<Answered>>,
    },
    Unreachable(MemberId, Option<Incarnation>),
    HandOver(Option<MemberId>),
    Change(Change, oneshot::Sender<Changed>),
    Visit(Visit),
    /// A member that lost its memory asks for a copy of what this one holds.
    Copy(Identity, MemoryId, oneshot::Sender<Result<LogCopy, String>>),
    /// Somebody wants a snapshot of what is executed now, or of something later.
    Snapshot(oneshot::Sender<Arc<SnapshotImage>>),
    /// Nothing; look at the values beside the queue.
    Wake,
}

/// How the member is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Ending {
    /// Not at all.
    Running = 0,
    /// What was asked for is carried out first.
    Clean = 1,
    /// At once, like a crash.
    Abrupt = 2,
}

/// The side of the queue that all other threads see.
pub(super) struct Inbox {
    requests: Sender<Request>,
    waiting_commands: AtomicUsize,
    message_bytes: AtomicUsize,
    durable: AtomicU64,
    damage: Mutex<Vec<Damage>>,
    ending: AtomicU8,
    fault: Mutex<Option<String>>,
    dropped_messages: AtomicU64,
    pub(super) counts: Counts,
}

impl Inbox {
    pub(super) fn new() -> (Inbox, Receiver<Request>) {
        let (requests, receiver) = bounded(QUEUE_MAX);
        let inbox = Inbox {
            requests,
            waiting_commands: AtomicUsize::new(0),
            message_bytes: AtomicUsize::new(0),
            durable: AtomicU64::new(0),
            damage: Mutex::default(),
            ending: AtomicU8::new(Ending::Running as u8),
            fault: Mutex::new(None),
            dropped_messages: AtomicU64::new(0),
            counts: Counts::default(),
        };
        (inbox, receiver)
    }

    /// A message from another member; dropped where there is no room.
    pub(super) fn message(&self, cluster: ClusterId, from: Identity, message: Message) {
        let size_bytes = size_bytes(&message);
        let before = self.message_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        let room = before + size_bytes <= MESSAGES_MAX_BYTES;
        if !room || self.requests.try_send(Request::Message { cluster, from, message, size_bytes }).is_err() {
            self.message_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            self.dropped_messages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Commands; refused where there is no room, or nobody to execute them.
    pub(super) fn submit(&self, request: Request) -> Result<(), Rejection> {
        let commands = command_count(&request);
        let before = self.waiting_commands.fetch_add(commands, Ordering::Relaxed);
        let room = before + commands <= WAITING_MAX_COMMANDS && self.requests.len() < QUEUE_MAX - KEPT_FOR_MESSAGES;
        let sent = match room {
            true => self.requests.try_send(request),
            false => Err(TrySendError::Full(request)),
        };
        sent.map_err(|error| {
            self.waiting_commands.fetch_sub(commands, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => Rejection::Busy,
                TrySendError::Disconnected(_) => Rejection::NotPrimary { hint: None },
            }
        })
    }

    /// Anything else; false where there is no room.
    pub(super) fn request(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// All records up to this one are durable; told by the log writer's thread.
    pub(super) fn set_durable(&self, token: Token) {
        self.note_durable(token);
        self.wake();
    }

    /// The same, told by the replica thread itself.
    pub(super) fn note_durable(&self, token: Token) {
        self.durable.store(token, Ordering::Release);
    }

    pub(super) fn durable(&self) -> Token {
        self.durable.load(Ordering::Acquire)
    }

    /// The store has lost something that was durable. Of the log the first place is enough.
    pub(super) fn note_damage(&self, damage: Damage) {
        let mut noted = self.damage.lock();
        let known = noted.iter_mut().find(|known| std::mem::discriminant(*known) == std::mem::discriminant(&damage));
        match (known, damage) {
            (Some(Damage::Log { op: first }), Damage::Log { op }) => *first = op.min(*first),
            (Some(_), _) => {}
            (None, damage) => noted.push(damage),
        }
        drop(noted);
        self.wake();
    }

    pub(super) fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut *self.damage.lock())
    }

    /// The member cannot go on, for this reason; the first one counts.
    pub(super) fn fail(&self, line: String) {
        self.fault.lock().get_or_insert(line);
        self.end(Ending::Abrupt);
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    pub(super) fn end(&self, ending: Ending) {
        self.ending.fetch_max(ending as u8, Ordering::AcqRel);
        self.wake();
    }

    pub(super) fn ending(&self) -> Ending {
        match self.ending.load(Ordering::Acquire) {
            0 => Ending::Running,
            1 => Ending::Clean,
            _ => Ending::Abrupt,
        }
    }

    /// The replica thread has taken the request out of the queue.
    pub(super) fn taken(&self, request: &Request) {
        match request {
            Request::Message { size_bytes, .. } => {
                self.message_bytes.fetch_sub(*size_bytes, Ordering::Relaxed);
            }
            request => {
                self.waiting_commands.fetch_sub(command_count(request), Ordering::Relaxed);
            }
        }
    }

    /// Messages from other members dropped so far.
    pub(super) fn dropped_messages(&self) -> u64 {
        self.dropped_messages.load(Ordering::Relaxed)
    }

    /// A full queue needs no waking: the replica thread takes from it after this, and then reads the values.
    fn wake(&self) {
        drop(self.requests.try_send(Request::Wake));
    }
}

fn command_count(request: &Request) -> usize {
    match request {
        Request::Submit { .. } => 1,
        Request::SubmitAll { commands, .. } => commands.len(),
        _ => 0,
    }
}

/// Roughly what a message takes on the wire and in memory, bytes.
pub(super) fn size_bytes(message: &Message) -> usize {
    /// More than any message without entries or a piece takes, views of [`crate::MEMBERS_MAX`] long addresses apart.
    const PLAIN: usize = 256;
    let payload = match message {
        Message::Append { entries, .. } | Message::Entries { entries, .. } | Message::Kept { entries, .. } => {
            entries.iter().map(|entry| entry.size_bytes()).sum()
        }
        Message::Chunk { bytes, .. } => bytes.len(),
        Message::Paxos(_) | Message::Ask(_) | Message::Standing(_) | Message::Found { .. } => 4096,
        _ => 0,
    };
    PLAIN + payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, Viewstamp};

    fn submit(inbox: &Inbox) -> Result<(), Rejection> {
        let (reply, _) = oneshot::channel();
        inbox.submit(Request::Submit { command: vec![1], urgent: false, reply })
    }

    fn chunk(size: usize) -> Message {
        Message::Chunk { view: 1, viewstamp: Viewstamp::default(), offset: 0, bytes: vec![0; size] }
    }

    const FROM: Identity = Identity { member: MemberId(2), incarnation: Incarnation(2) };

    #[test]
    fn a_flood_of_commands_is_refused_and_leaves_room_for_messages() {
        let (inbox, requests) = Inbox::new();
        while submit(&inbox).is_ok() {}
        assert_eq!(submit(&inbox), Err(Rejection::Busy));
        assert_eq!(requests.len(), QUEUE_MAX - KEPT_FOR_MESSAGES);
        inbox.message(ClusterId(1), FROM, chunk(1));
        assert_eq!((requests.len(), inbox.dropped_messages()), (QUEUE_MAX - KEPT_FOR_MESSAGES + 1, 0));
        inbox.taken(&requests.recv().expect("a command"));
        inbox.taken(&requests.recv().expect("a command"));
        assert_eq!(submit(&inbox), Ok(()));
    }

    #[test]
    fn messages_beyond_the_bound_in_bytes_are_dropped_until_some_are_taken() {
        let (inbox, requests) = Inbox::new();
        for _ in 0..65 {
            inbox.message(ClusterId(1), FROM, chunk(1 << 20));
        }
        assert_eq!((requests.len(), inbox.dropped_messages()), (63, 2));
        inbox.taken(&requests.recv().expect("a message"));
        inbox.message(ClusterId(1), FROM, chunk(1 << 20));
        assert_eq!(inbox.dropped_messages(), 2);
    }

    #[test]
    fn commands_for_a_member_that_has_ended_are_not_executed() {
        let (inbox, requests) = Inbox::new();
        drop(requests);
        assert_eq!(submit(&inbox), Err(Rejection::NotPrimary { hint: None }));
    }

    #[test]
    fn the_first_fault_counts_and_an_end_is_never_taken_back() {
        let (inbox, _requests) = Inbox::new();
        inbox.end(Ending::Clean);
        inbox.fail("first".into());
        inbox.fail("second".into());
        inbox.end(Ending::Clean);
        assert_eq!((inbox.fault().as_deref(), inbox.ending()), (Some("first"), Ending::Abrupt));
    }
}
