//! The core's inputs and outputs. The order of [`Output`]'s fields is the contract: *persist, then send, then answer*.
//!
//! Why it is right: a message that promises something names, as `after`, the record that must be durable before it
//! leaves. The shell cannot forget the rule, and the simulator can crash a member between any record and any message.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Change, ChangeError, ClusterId, Control, Entry, Founding, Identity, Incarnation, MemberId, Message, SnapshotImage,
    View, Viewstamp,
};

/// A moment on the member's own monotonic clock, µs since an arbitrary start. Never compared between members, and never
/// part of the replicated state.
pub type Micros = u64;

/// The number of a record in the order in which the core asked for it, from 1; 0 stands for "nothing".
pub type Token = u64;

/// Names a submitted command until it is answered; chosen by the caller.
pub type Tag = u64;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed; to be given at least every [`Timing::tick`].
    Tick,
    /// A message arrived.
    Message {
        /// The sender's cluster, 0 if it knows none.
        cluster: ClusterId,
        /// The sender.
        from: Identity,
        /// What it says.
        message: Message,
    },
    /// A command to be ordered, executed and answered. Urgent ones go ahead of those that wait.
    Submit {
        /// Comes back with the answer.
        tag: Tag,
        /// For the state machine.
        command: Vec<u8>,
        /// Ahead of others (ticks of the service).
        urgent: bool,
    },
    /// All records up to this one are durable.
    Durable {
        /// The last of them.
        token: Token,
    },
    /// A live host said that the process of this member is gone (connection reset or refused).
    Unreachable {
        /// The member.
        member: MemberId,
        /// The store that the process named when it connected to us; `None` where we could not reach the listed address.
        incarnation: Option<Incarnation>,
    },
    /// This member is about to stop, or is asked to let another be primary: hand over if primary.
    HandOver {
        /// To whom; `None`: whoever is furthest.
        to: Option<MemberId>,
    },
    /// Another host holds what this member stores up to there, or need not (S14).
    Guarded {
        /// Nothing above it is acknowledged; without one, all that is durable may be, as from the start.
        upto: Option<Viewstamp>,
    },
    /// An operator changes the list of members (S12); settled in [`Output::changes`].
    Change {
        /// Comes back with the answer.
        tag: Tag,
        /// What.
        change: Change,
    },
    /// The medium has lost something that was durable: a scrub found it.
    Damaged {
        /// What.
        damage: Damage,
    },
}

/// Damage to the store of a running member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Entries from the one with this op on.
    Log {
        /// The first op that is not whole.
        op: u64,
    },
    /// The newest snapshot.
    Snapshot,
}

/// What the shell has to do. Appended to by each step; the shell empties it.
#[derive(Debug, Default)]
pub struct Output {
    /// To be made durable in this order; the first has the token after the last one given out.
    pub persist: Vec<Record>,
    /// To be sent once the named record is durable; those with `after` 0 at once, even before earlier ones.
    pub send: Vec<Send>,
    /// Answers to submitted commands.
    pub answers: Vec<(Tag, Result<Vec<u8>, Rejection>)>,
    /// Answers to changes of the members: the number of the view that made it.
    pub changes: Vec<(Tag, Result<u64, ChangeError>)>,
    /// Whether this member began (true) or ceased (false) to serve, in this order relative to `executed`: ceased, then
    /// executed, then began.
    pub serving: Option<bool>,
    /// How many ops were executed.
    pub executed_ops: u64,
    /// The member cannot go on; the process must stop with this line, and send nothing of this output.
    pub fault: Option<String>,
}

/// A durable record.
#[derive(Clone, Debug)]
pub enum Record {
    /// Replaces the control record.
    Control(Control),
    /// Appends to the log.
    Append(Arc<Entry>),
    /// Drops all entries whose ops are above this one, as a logical record: never an overwriting in place.
    TruncateAfter {
        /// The last op to stay.
        op: u64,
    },
    /// A part of a snapshot of this member's own state, ahead of the whole: so that it need not be written in one go. It counts
    /// for nothing, and a later one from offset 0 takes its place.
    SnapshotPart {
        /// The snapshot's.
        viewstamp: Viewstamp,
        /// Where the part begins: behind the one before.
        offset: u64,
        /// The part.
        bytes: Arc<Vec<u8>>,
    },
    /// The whole of it, of which the last part at least was not given ahead; once it is durable, entries up to `release` are not needed any more. A witness
    /// has no state: its own are marks, empty, which only say how far it has dropped its log.
    Snapshot {
        /// The state.
        image: Arc<SnapshotImage>,
        /// The op of the snapshot before, back to which the log is kept; or of this one, where room is scarce.
        release: u64,
    },
    /// A snapshot from another member replaces the state; in the same atomic record the log goes, unless it holds the
    /// snapshot's last viewstamp.
    Install {
        /// The state.
        image: Arc<SnapshotImage>,
        /// Keep the entries above it.
        keep_suffix: bool,
        /// Written with it.
        control: Control,
    },
    /// These entries, the last of the log, are stored again where they cannot be read any more. They change nothing that counts.
    Repair {
        /// To the log's end.
        entries: Vec<Arc<Entry>>,
    },
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Send {
    /// To whom.
    pub to: MemberId,
    /// Not before this record is durable.
    pub after: Token,
    /// What.
    pub message: Message,
}

/// Why a command was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not executed; ask the primary.
    #[error("not the primary")]
    NotPrimary {
        /// Its address, where known.
        hint: Option<String>,
    },
    /// Not executed: no primary serves at this moment.
    #[error("a view change is under way")]
    ViewChanging,
    /// Not executed: too much waits.
    #[error("too many commands wait")]
    Busy,
    /// Logged, and then this member ceased to be primary: it may or may not be executed.
    #[error("the primary changed while the command was under way")]
    Unknown,
}

/// What was found at start.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whose store it is.
    pub identity: Identity,
    /// The control record; default for a fresh store.
    pub control: Control,
    /// The newest snapshot.
    pub snapshot: Option<Arc<SnapshotImage>>,
    /// The log from some entry at or before the snapshot (or from op 1), contiguous, ascending.
    pub entries: Vec<Entry>,
    /// Bytes of the log's room that a repair at this start has left dead: the damaged part cannot be overwritten for a while.
    pub dead_bytes: u64,
}

/// What a core is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration for founding; after that the view says who is a member.
    pub founding: Founding,
    /// This member's address, for views that list it.
    pub address: String,
    /// Timers.
    pub timing: Timing,
    /// A snapshot is taken when the log has grown by this much since the last, or by the last one's size if that is more, bytes.
    /// At most by a sixth of the log's room.
    pub snapshot_every_bytes: usize,
    /// The log's room, bytes: at three quarters of it only urgent commands are ordered until a snapshot made room.
    pub log_capacity_bytes: usize,
}

/// Timers, µs. Only liveness depends on them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The shell's tick.
    pub tick: Micros,
    /// Between heartbeats.
    pub heartbeat: Micros,
    /// A primary silent for this long is suspected.
    pub suspect: Micros,
    /// A candidate waits its rank times this, and a random part of it.
    pub rank_delay: Micros,
    /// A primary without quorum contact for this long steps down.
    pub step_down: Micros,
    /// A primary that has something to do and gets nowhere for this long is suspected, and gives up itself.
    pub stall: Micros,
    /// Unanswered messages are sent again after this.
    pub retransmit: Micros,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            tick: 10_000,
            heartbeat: 50_000,
            suspect: 250_000,
            rank_delay: 30_000,
            step_down: 500_000,
            stall: 2_000_000,
            retransmit: 100_000,
        }
    }
}

/// What a member knows of itself, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who.
    pub identity: Identity,
    /// The last decided view known; entered, if it lists this store.
    pub view: Option<View>,
    /// Primary, with its barrier committed; or a backup that hears from a healthy primary.
    pub serving: bool,
    /// Primary of `view`, and not stepped down.
    pub is_primary: bool,
    /// Its store was listed once, and is not in `view`: it stops as soon as the others know.
    pub is_leaving: bool,
    /// Last op executed.
    pub executed_op: u64,
    /// The state's hash there.
    pub state_hash: u64,
    /// Last op known committed.
    pub commit_op: u64,
    /// Last viewstamp in the log.
    pub last: Viewstamp,
    /// Size of the log, bytes.
    pub log_bytes: usize,
    /// Its room, as in [`Settings::log_capacity_bytes`].
    pub log_capacity_bytes: usize,
    /// Ops acknowledged by each other member in this view; on a primary only.
    pub acknowledged: BTreeMap<MemberId, u64>,
    /// What it waits for, where it does not serve; one line for a person.
    pub waits_for: Option<String>,
}
