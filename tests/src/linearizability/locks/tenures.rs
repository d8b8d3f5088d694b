//! What is certain without a search: holds that overlap, tokens that fall, releases of nothing.
//!
//! Why no right history is refused: everything here follows from the specification and from real time alone. A lock is held
//! for certain from the moment at which a grant returned to the moment at which its end was called. Where one session has
//! several guards of one tenure, the n-th grant and the n-th end bound such a time, whichever belongs to which: so many more
//! grants have returned by then than ends were called. And of two grants, of which one had returned when the other was called, the
//! service executed that one first.
//!
//! It is not exact: it puts no two facts together. It takes O(n log n).

use std::collections::{BTreeMap, BTreeSet};

use lock_protocol::Mode;

use super::View;
use super::operation::{Action, Answer, History, Operation};

/// What is wrong, and with which operations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenureViolation {
    /// Two have the lock that exclude each other.
    #[error("lock {lock:?} is held twice:\n  {first}\n  {second}")]
    HeldTwice {
        /// Its name.
        lock: String,
        /// The grant of the one.
        first: String,
        /// The grant of the other.
        second: String,
    },
    /// A grant's token is not above that of an earlier grant.
    #[error("lock {lock:?} was granted with a token that is not above {above}:\n  {grant}")]
    TokenNotAbove {
        /// Its name.
        lock: String,
        /// An earlier token.
        above: u64,
        /// The grant.
        grant: String,
    },
    /// A release was done more often than there was a grant with its token.
    #[error("lock {lock:?} was released, and there was no such tenure:\n  {release}")]
    NoSuchTenure {
        /// Its name.
        lock: String,
        /// The release.
        release: String,
    },
    /// A session was granted something after its end.
    #[error("lock {lock:?} was granted to a session that had ended by {ended}:\n  {grant}")]
    GrantedAfterEnd {
        /// Its name.
        lock: String,
        /// When the end was certain.
        ended: u64,
        /// The grant.
        grant: String,
    },
}

/// Looks at what is certain.
///
/// # Errors
/// The first thing that is wrong, of the first lock in the order of names.
pub fn check_tenures(history: &History, view: View) -> Result<(), TenureViolation> {
    for (lock, operations) in history.locks() {
        let tenures = Tenures::new(lock, view, operations);
        tenures.overlap_only_where_shared()?;
        tenures.have_rising_tokens()?;
        tenures.were_granted_to_be_released()?;
        tenures.end_with_their_sessions()?;
    }
    Ok(())
}

/// A known grant.
#[derive(Clone, Copy, Debug)]
struct Grant<'a> {
    operation: &'a Operation,
    exclusive: bool,
    token: u64,
    returned: u64,
}

/// One lock's history.
#[derive(Debug)]
struct Tenures<'a> {
    lock: &'a str,
    view: View,
    operations: Vec<&'a Operation>,
    /// By the time of their return.
    grants: Vec<Grant<'a>>,
    /// Tokens that an operator may have ended without waiting for the holder.
    voided: BTreeSet<u64>,
}

impl<'a> Tenures<'a> {
    fn new(lock: &'a str, view: View, operations: Vec<&'a Operation>) -> Self {
        let mut grants: Vec<_> = operations.iter().filter_map(|operation| grant(operation)).collect();
        grants.sort_by_key(|grant| grant.returned);
        let voided = operations.iter().filter_map(|operation| match operation.action {
            Action::ForceRelease { token, now: true } => Some(token),
            _ => None,
        });
        Tenures { lock, view, voided: voided.collect(), grants, operations }
    }

    fn overlap_only_where_shared(&self) -> Result<(), TenureViolation> {
        let mut holds = self.holds();
        holds.sort_by_key(|hold| hold.from);
        let (mut exclusive, mut any): (Option<Hold<'_>>, Option<Hold<'_>>) = (None, None);
        for hold in holds {
            let before = if hold.exclusive { any } else { exclusive };
            if let Some(before) = before.filter(|before| before.until > hold.from) {
                let (first, second) = (before.grant.to_string(), hold.grant.to_string());
                return Err(TenureViolation::HeldTwice { lock: self.lock.to_owned(), first, second });
            }
            let later = |one: Option<Hold<'a>>| one.filter(|one| one.until >= hold.until).or(Some(hold));
            any = later(any);
            exclusive = if hold.exclusive { later(exclusive) } else { exclusive };
        }
        Ok(())
    }

    /// When the lock was held for certain.
    fn holds(&self) -> Vec<Hold<'a>> {
        let mut releases: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
        let mut downgrades = BTreeMap::new();
        let (mut ended, mut forced) = (BTreeMap::new(), BTreeMap::new());
        for operation in &self.operations {
            let Operation { session, action, called, .. } = **operation;
            match action {
                Action::Release { token } => releases.entry((session, token)).or_default().push(called),
                Action::Downgrade { token } => earliest(&mut downgrades, (session, token), called),
                Action::Expire => earliest(&mut ended, session, called),
                Action::ForceRelease { token, now } if now || self.view == View::Service => {
                    earliest(&mut forced, token, called);
                }
                _ => {}
            }
        }
        releases.values_mut().for_each(|times| times.sort_unstable_by(|one, other| other.cmp(one)));
        let mut holds = Vec::new();
        for Grant { operation, exclusive, token, returned: from } in self.grants.iter().copied() {
            let tenure = (operation.session, token);
            let released = releases.get_mut(&tenure).and_then(Vec::pop);
            let ends = [released, ended.get(&operation.session).copied(), forced.get(&token).copied()];
            let until = ends.into_iter().flatten().min().unwrap_or(u64::MAX);
            let downgraded = downgrades.get(&tenure).copied().filter(|at| exclusive && *at < until);
            let exclusive_until = downgraded.unwrap_or(until);
            if from < exclusive_until {
                holds.push(Hold { grant: operation, exclusive, from, until: exclusive_until });
            }
            if let Some(at) = downgraded.map(|at| at.max(from)).filter(|at| *at < until) {
                holds.push(Hold { grant: operation, exclusive: false, from: at, until });
            }
        }
        holds
    }

    fn have_rising_tokens(&self) -> Result<(), TenureViolation> {
        let mut by_call: Vec<_> = self.grants.iter().filter(|grant| !self.voided.contains(&grant.token)).collect();
        let mut returned = by_call.clone().into_iter().peekable();
        by_call.sort_by_key(|grant| grant.operation.called);
        let (mut any, mut exclusive, mut own) = (Highest::default(), Highest::default(), BTreeMap::new());
        for grant in by_call {
            let session = grant.operation.session;
            while let Some(before) = returned.next_if(|before| before.returned < grant.operation.called) {
                any.raise(before.operation.session, before.token);
                if before.exclusive {
                    exclusive.raise(before.operation.session, before.token);
                }
                let own: &mut u64 = own.entry(before.operation.session).or_default();
                *own = before.token.max(*own);
            }
            let own = own.get(&session).copied();
            // The greatest token that this one must be above; for one that it may equal, the one before.
            let above = match (self.view, grant.exclusive) {
                (View::Users, true) => any.of_others(session).max(own.map(|own| own.saturating_sub(1))),
                (View::Users, false) => exclusive.of_others(session).max(own.map(|own| own.saturating_sub(1))),
                (View::Service, true) => any.of_all(),
                (View::Service, false) => {
                    any.of_all().map(|top| top.saturating_sub(1)).max(exclusive.of_all()).max(own)
                }
            };
            if let Some(above) = above.filter(|above| grant.token <= *above) {
                let (lock, grant) = (self.lock.to_owned(), grant.operation.to_string());
                return Err(TenureViolation::TokenNotAbove { lock, above, grant });
            }
        }
        Ok(())
    }

    fn were_granted_to_be_released(&self) -> Result<(), TenureViolation> {
        let mut left: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for grant in &self.grants {
            *left.entry((grant.operation.session, grant.token)).or_default() += 1;
        }
        let is_unknown = |operation: &&&Operation| {
            matches!(operation.action, Action::Acquire { .. }) && operation.returned.is_none()
        };
        let perhaps: BTreeSet<u64> = self.operations.iter().filter(is_unknown).map(|acquire| acquire.session).collect();
        for release in &self.operations {
            let (Action::Release { token }, Some((_, Answer::Done))) = (release.action, &release.returned) else {
                continue;
            };
            let left = left.get_mut(&(release.session, token)).filter(|left| **left > 0);
            match left {
                Some(left) => *left -= 1,
                None if perhaps.contains(&release.session) => {}
                None => {
                    let (lock, release) = (self.lock.to_owned(), release.to_string());
                    return Err(TenureViolation::NoSuchTenure { lock, release });
                }
            }
        }
        Ok(())
    }

    fn end_with_their_sessions(&self) -> Result<(), TenureViolation> {
        let mut ends = BTreeMap::new();
        for end in self.operations.iter().filter(|operation| operation.action == Action::Expire) {
            if let Some((returned, _)) = end.returned {
                earliest(&mut ends, end.session, returned);
            }
        }
        for grant in &self.grants {
            let ended = ends.get(&grant.operation.session).copied();
            if let Some(ended) = ended.filter(|ended| *ended < grant.operation.called) {
                let (lock, grant) = (self.lock.to_owned(), grant.operation.to_string());
                return Err(TenureViolation::GrantedAfterEnd { lock, ended, grant });
            }
        }
        Ok(())
    }
}

fn grant(operation: &Operation) -> Option<Grant<'_>> {
    match (operation.action, &operation.returned) {
        (Action::Acquire { mode }, Some((returned, Answer::Granted { token }))) => {
            let exclusive = mode == Mode::Exclusive;
            Some(Grant { operation, exclusive, token: *token, returned: *returned })
        }
        _ => None,
    }
}

fn earliest<K: Ord>(times: &mut BTreeMap<K, u64>, key: K, time: u64) {
    let known = times.entry(key).or_insert(time);
    *known = time.min(*known);
}

/// A time in which a lock is held for certain, without its end.
#[derive(Clone, Copy, Debug)]
struct Hold<'a> {
    grant: &'a Operation,
    exclusive: bool,
    from: u64,
    until: u64,
}

/// The highest token, and the highest that another session has.
#[derive(Debug, Default)]
struct Highest {
    first: Option<(u64, u64)>,
    of_another: Option<u64>,
}

impl Highest {
    fn raise(&mut self, session: u64, token: u64) {
        match self.first {
            Some((holder, first)) if holder == session => self.first = Some((session, first.max(token))),
            Some((_, first)) if token >= first => {
                (self.first, self.of_another) = (Some((session, token)), Some(first));
            }
            Some(_) => self.of_another = self.of_another.max(Some(token)),
            None => self.first = Some((session, token)),
        }
    }

    fn of_all(&self) -> Option<u64> {
        self.first.map(|(_, token)| token)
    }

    fn of_others(&self, session: u64) -> Option<u64> {
        match self.first {
            Some((holder, token)) if holder != session => Some(token),
            _ => self.of_another,
        }
    }
}
