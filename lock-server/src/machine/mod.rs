//! The replicated state machine of the lock service: sessions, locks and service time, as a pure core.
//!
//! # Chapter
//!
//! Every member executes the same ops in the same order on a [`Machine`]; only the primary talks to clients. The machine
//! has no clock, thread, socket or random number. Time comes in with `Tick` ops, and what clients must be told comes out
//! as [`Effect`]s, which are volatile: losing all of them costs time and nothing else.
//!
//! ```text
//!   op bytes ─▶ Machine::apply ─▶ reply bytes
//!                 │  Sessions   leases in service time, the duplicate window
//!                 │  Table      name ─▶ holders, queue
//!                 └─▶ effects (primary only): revokes wanted or moot, queued acquires granted, tenures ended by force
//! ```
//!
//! **Time.** Service time T advances only in a tick op, which also carries the keep-alives that arrived before the clock
//! was read. `apply` adds the elapsed time first, ends the sessions whose deadline T has reached, and only then renews
//! what is left to T + lease. So a keep-alive never revives a session, and T never runs ahead of real time.
//!
//! **Sessions.** A session is dead from the op that brings T to its deadline, or closes it. Everything it asks from then on
//! is answered `SessionGone`, and it is granted nothing, even where its waiters still stand in queues: sweep ops clean up
//! behind it in bounded steps.
//!
//! **Requests.** A request number is executed at most once. Its outcome is kept until the client's floor has passed it. An
//! acquire's outcome is not kept but derived: from the lock's entry, which knows the acquire's number, because "queued" may
//! have turned into "granted" since.
//!
//! **Force.** An operator ends a tenure by its token. It stays in the way of others until its holder confirms with a release, or until
//! its lease and a cap have passed; the holder hears of it with every keep-alive until it confirms.
//!
//! **Lock delay.** The exclusive locks of a session that expired or was abandoned can stay held for a while, by its own wish.
//!
//! **Recovery.** Where the session asked for it, they stay held until a live session of its group, to which this is assigned by an op,
//! says that it has recovered what the dead one left.
//!
//! **Locks.** A lock exists while somebody holds it. Whoever finds it in the way joins the end of its queue; what frees it
//! grants it to the head of the queue in the same op, and a waiting exclusive stops later shared ones. The token of a
//! tenure is the number of the op that granted it. A holder who is alone, with nobody waiting, may turn its shared tenure into an exclusive
//! one; otherwise it is refused at once, because two that wait for each other to leave would wait for ever.
//!
//! **After a restore** no session is opened before service time has advanced by the longest lease of the cluster before.
//!
//! # Invariants
//!
//! Each is asserted by the tests after every op of long random runs.
//!
//! - A lock has one exclusive holder, or any number of shared ones, never none. A free lock is not in the table.
//! - The head of a queue conflicts with a holder, or its session is dead.
//! - A session holds a name, or waits for it, or neither; never both, and never twice.
//! - Tokens of a name rise from tenure to tenure; those granted by one op (a group of shared waiters) are equal. So a
//!   tenure is (session, name, token), never the token alone.
//! - `apply` of the same ops gives the same state, replies and running hash; a snapshot holds all of it. Maps that are
//!   iterated are ordered, and no hash map is used.
//!
//! # Limits of this implementation
//!
//! - One name per request: sets of locks are not there. They would be appended to [`Op`] and to the wire's commands.
//! - A group of shared waiters is granted in one op, however large.
//! - Tenures with one token (shared ones, granted by one op) are ended by force together, in one op, however many.
//! - Who is of a release that does not know an op executes nothing for it: force and upgrades are to be used when all members know them.
//! - [`Limits`] are fixed when the machine is made; there is no op that changes them.

mod apply;
mod effects;
mod force;
mod kept;
mod limits;
mod lock;
mod op;
mod queries;
mod queue;
mod recovery;
mod requests;
mod restored;
mod running_hash;
mod sessions;
mod sets;
mod snapshot;
mod statistics;
mod sweep;
mod table;
mod time;
mod versioned;
mod window;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod scripts;

pub use apply::Machine;
pub use effects::{Effect, Revoke};
pub use force::FORCED_MAX;
pub use kept::KeptCounts;
pub use limits::Limits;
pub use op::{FormatError, Op, Reply};
pub use statistics::{DURATION_BOUNDS_US, Durations, Statistics};
pub use sweep::SWEEP_MAX_STEPS;
