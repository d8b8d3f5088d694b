//! What a primary decides besides executing ops: when service time is ticked, who is told what and when, and what clients are answered.
//!
//! # Chapter
//!
//! Each part is a core: plain data that takes events and gives back what is to be done. It has no clock, thread, socket or lock;
//! whoever drives it brings the time, as a [`std::time::Duration`] since an arbitrary start of the driver's own. The server's
//! threads and tasks drive them, and so can a simulator.
//!
//! ```text
//!   keep-alives, clock ─▶ Ticker ──▶ tick ops, answers
//!   revokes, the state ─▶ Revoker ─▶ calls to holders          Machine's effects ─▶ news() ─▶ Revoker, Retryer
//!   grants             ─▶ Retryer ─▶ calls to waiters          replies, rejections ─▶ answers ─▶ what clients hear
//! ```
//!
//! None of them owns a truth. All that they know may be lost at any time: it costs time and nothing else.
//!
//! **Sweeps** need no core: while this member serves and [`needs_sweep`](crate::machine::Machine::needs_sweep), one [`Op::Sweep`](crate::machine::Op::Sweep) is
//! under way; one that was rejected is submitted again after [`SWEEP_PAUSE`].

pub mod answers;
mod retryer;
mod revoker;
mod ticker;

use std::time::Duration;

use lock_protocol::{Notice, SessionId};

pub use crate::clock::RawTime;
use crate::machine::{Effect, Revoke};
pub use retryer::{Retryer, RetryerEvent};
pub use revoker::{Action, Revoker, RevokerEvent, Wanted, pages};
pub use ticker::{Renewals, Ticker, notices_of};

/// Before a sweep that was rejected is submitted again.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// A call to a client takes at most so long. Taking a notice in is quick; acting on it is no part of the call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// A call of which nothing was heard for so long has failed: its end was not reported.
const CALL_LOST: Duration = CALL_TIMEOUT.saturating_add(Duration::from_millis(250));

/// A call to a client's callback connection. Its end is to be reported, under its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// To whom.
    pub session: SessionId,
    /// Greater than that of the driver's calls before.
    pub number: u64,
    /// What it is told; at most [`lock_protocol::NOTICES_MAX`].
    pub notices: Vec<Notice>,
}

/// What the effects of some ops mean for [`Revoker`] and [`Retryer`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// New revokes, each with whether the grant itself told of it.
    pub revokes: Vec<(Revoke, bool)>,
    /// Queued acquires that were granted.
    pub grants: Vec<(SessionId, Notice)>,
    /// Tenures that were ended by force, and recoveries that were assigned.
    pub notices: Vec<(SessionId, Notice)>,
}

/// Sorts effects, in their order.
pub fn news(effects: Vec<Effect>) -> News {
    let mut news = News::default();
    for effect in effects {
        match effect {
            Effect::Revoke { revoke, told_by_grant } => news.revokes.push((revoke, told_by_grant)),
            Effect::Granted { session, name, acquire, token, others_waiting } => {
                news.grants.push((session, Notice::Granted { name, acquire, token, others_waiting }));
            }
            Effect::Forced { session, name, token } => news.notices.push((session, Notice::Forced { name, token })),
            Effect::Recover { session, dead } => news.notices.push((session, Notice::Recover(dead))),
            // Before it repeats a revoke, the revoker asks the machine whether it still stands.
            Effect::RevokeMoot { .. } => {}
        }
    }
    news
}
