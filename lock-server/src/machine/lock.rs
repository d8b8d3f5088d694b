//! One lock: its tenures and its queue.
//!
//! A million locks that are simply held must fit in 200 bytes each, so there are two forms. `Single` is a lock that is just
//! as its grant left it: one holder, nobody waiting, last changed by the op that is its token. Everything else is `Many`, in
//! a box. The two are told apart by a bit pattern that a grant cannot have, so a `Single` is 32 bytes.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use lock_protocol::{FencingToken, Mode, RequestNumber, SessionId};

use super::queue::Queue;

/// A tenure: a session that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    /// Whose.
    pub(super) session: SessionId,
    /// The acquire that was granted, or the release that requeued.
    pub(super) acquire: RequestNumber,
    /// Service time of the grant, µs.
    pub(super) since_us: u64,
    /// Token and mode: token * 2 + (1 where exclusive). Tokens are op numbers, from 1 to below 2^53.
    grant: NonZeroU64,
}

impl Tenure {
    pub(super) fn new(
        session: SessionId,
        acquire: RequestNumber,
        since_us: u64,
        token: FencingToken,
        mode: Mode,
    ) -> Self {
        let grant = token.0 << 1 | u64::from(mode == Mode::Exclusive);
        let grant = NonZeroU64::new(grant).filter(|_| token.0 != 0 && token.0 >> 63 == 0);
        Tenure { session, acquire, since_us, grant: grant.expect("tokens are op numbers: from 1 to below 2^53") }
    }

    pub(super) fn token(&self) -> FencingToken {
        FencingToken(self.grant.get() >> 1)
    }

    pub(super) fn mode(&self) -> Mode {
        if self.grant.get() & 1 == 1 { Mode::Exclusive } else { Mode::Shared }
    }

    /// The same tenure, shared.
    pub(super) fn downgraded(self) -> Self {
        Tenure::new(self.session, self.acquire, self.since_us, self.token(), Mode::Shared)
    }
}

/// A lock that somebody holds or waits for.
#[derive(Clone, Debug)]
pub(super) enum Lock {
    /// As its grant left it.
    Single(Tenure),
    /// Any other.
    Many(Box<Many>),
}

const _: () = assert!(size_of::<Lock>() == 32);

/// A lock with several holders, or waiters, or a change since its grant.
#[derive(Clone, Debug)]
pub(super) struct Many {
    /// By session. One, or several that are all shared; none where only sets wait, which are not free to go elsewhere.
    pub(super) holders: BTreeMap<SessionId, Tenure>,
    /// Who waits.
    pub(super) queue: Queue,
    /// The op that last changed this lock.
    pub(super) changed: u64,
}

/// What a lock's queue demands of its holders. If an exclusive one waits anywhere in it, everybody has to leave sooner or
/// later and is told at once: telling an exclusive holder to downgrade first would cost the queue a round trip more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing.
    Nothing,
    /// Only shared ones wait: shared is enough.
    Downgrade,
    /// An exclusive one waits.
    Release,
}

impl Demand {
    /// What a holder in this mode may keep, where it stands in the way: nothing, or shared.
    pub(super) fn target(self, held: Mode) -> Option<Option<Mode>> {
        match (self, held) {
            (Demand::Nothing, _) | (Demand::Downgrade, Mode::Shared) => None,
            (Demand::Downgrade, Mode::Exclusive) => Some(Some(Mode::Shared)),
            (Demand::Release, _) => Some(None),
        }
    }
}

impl Lock {
    pub(super) fn holder(&self, session: SessionId) -> Option<&Tenure> {
        match self {
            Lock::Single(tenure) => (tenure.session == session).then_some(tenure),
            Lock::Many(many) => many.holders.get(&session),
        }
    }

    /// By session.
    pub(super) fn holders(&self) -> impl Iterator<Item = &Tenure> {
        let (single, many) = match self {
            Lock::Single(tenure) => (Some(tenure), None),
            Lock::Many(many) => (None, Some(many.holders.values())),
        };
        single.into_iter().chain(many.into_iter().flatten())
    }

    pub(super) fn queue(&self) -> Option<&Queue> {
        match self {
            Lock::Single(_) => None,
            Lock::Many(many) => Some(&many.queue),
        }
    }

    /// The op that last changed this lock.
    pub(super) fn last_changed(&self) -> u64 {
        match self {
            Lock::Single(tenure) => tenure.token().0,
            Lock::Many(many) => many.changed,
        }
    }

    pub(super) fn demand(&self) -> Demand {
        match self {
            Lock::Single(_) => Demand::Nothing,
            Lock::Many(many) => many.demand(),
        }
    }

    /// Whether one who asks now has to queue.
    pub(super) fn must_queue(&self, mode: Mode) -> bool {
        match self {
            Lock::Single(tenure) => !tenure.mode().is_compatible_with(mode),
            Lock::Many(many) => !many.queue.is_empty() || !many.admits(mode),
        }
    }

    /// Whether somebody's wish conflicts with a tenure in this mode.
    pub(super) fn others_waiting(&self, mode: Mode) -> bool {
        self.queue().is_some_and(|queue| queue.conflicts_with(mode))
    }

    /// The long form, to be changed by `op`.
    pub(super) fn many(&mut self, op: u64) -> &mut Many {
        if let Lock::Single(tenure) = *self {
            let holders = BTreeMap::from([(tenure.session, tenure)]);
            *self = Lock::Many(Box::new(Many { holders, queue: Queue::default(), changed: op }));
        }
        match self {
            Lock::Many(many) => {
                many.changed = op;
                many
            }
            Lock::Single(_) => unreachable!("turned into the long form above"),
        }
    }

    /// Back to the short form where it says as much.
    pub(super) fn compact(&mut self) {
        if let Lock::Many(many) = self
            && many.queue.is_empty()
            && many.holders.len() == 1
            && let Some(&tenure) = many.holders.values().next()
            && tenure.token().0 == many.changed
        {
            *self = Lock::Single(tenure);
        }
    }
}

impl Many {
    /// Nobody holds it, and nobody waits yet.
    pub(super) fn unheld(op: u64) -> Many {
        Many { holders: BTreeMap::new(), queue: Queue::default(), changed: op }
    }

    /// Whether the holders, apart from any queue, admit another in this mode. Several holders are all shared.
    pub(super) fn admits(&self, mode: Mode) -> bool {
        self.holders.values().next().is_none_or(|holder| holder.mode().is_compatible_with(mode))
    }

    pub(super) fn demand(&self) -> Demand {
        if self.queue.is_empty() {
            Demand::Nothing
        } else if self.queue.wants_exclusive() {
            Demand::Release
        } else {
            Demand::Downgrade
        }
    }
}
