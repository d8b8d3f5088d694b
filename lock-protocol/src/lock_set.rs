//! Several locks that are taken at once.

use serde::{Deserialize, Serialize};

use crate::{LockName, Mode};

/// The most locks in a [`LockSet`]: all of them are granted by one op, and an op must stay short.
pub const LOCK_SET_MAX: usize = 64;

/// Locks and the modes in which they are wanted, all or none. One at least, at most [`LOCK_SET_MAX`]; by name, each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(LockName, Mode)>")]
pub struct LockSet(Vec<(LockName, Mode)>);

/// Why some locks are no [`LockSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockSetError {
    /// There is none.
    #[error("no lock is named: name at least one")]
    Empty,
    /// There are too many.
    #[error("{0} locks are named, at most {LOCK_SET_MAX} are taken at once: take fewer, or one lock for all of them")]
    TooMany(usize),
    /// Only in bytes from elsewhere.
    #[error("the names are not in ascending order")]
    Order,
}

impl LockSet {
    /// These locks, in any order. One that is named twice is wanted in the stronger mode.
    ///
    /// # Errors
    /// See [`LockSetError`].
    pub fn new(locks: impl IntoIterator<Item = (LockName, Mode)>) -> Result<Self, LockSetError> {
        let mut locks: Vec<_> = locks.into_iter().collect();
        // The stronger mode comes first and is the one that stays.
        locks.sort_by(|(one, mode), (other, wish)| one.cmp(other).then(wish.cmp(mode)));
        locks.dedup_by(|(later, _), (earlier, _)| later == earlier);
        LockSet::try_from(locks)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&LockName, Mode)> {
        self.0.iter().map(|(name, mode)| (name, *mode))
    }

    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The first of them, by name.
    pub fn first(&self) -> &LockName {
        &self.0[0].0
    }
}

impl TryFrom<Vec<(LockName, Mode)>> for LockSet {
    type Error = LockSetError;

    fn try_from(locks: Vec<(LockName, Mode)>) -> Result<Self, LockSetError> {
        match locks.len() {
            0 => Err(LockSetError::Empty),
            1..=LOCK_SET_MAX if locks.is_sorted_by(|(one, _), (next, _)| one < next) => Ok(LockSet(locks)),
            1..=LOCK_SET_MAX => Err(LockSetError::Order),
            many => Err(LockSetError::TooMany(many)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).expect("a name")
    }

    #[test]
    fn a_lock_that_is_named_twice_is_wanted_in_the_stronger_mode() {
        let named = [("b", Mode::Shared), ("a", Mode::Shared), ("b", Mode::Exclusive), ("a", Mode::Shared)];
        let set = LockSet::new(named.map(|(text, mode)| (name(text), mode))).expect("a set");
        assert!(set.iter().eq([(&name("a"), Mode::Shared), (&name("b"), Mode::Exclusive)]));
    }

    #[test]
    fn sets_of_none_of_too_many_and_out_of_order_do_not_decode() {
        let many = |count: usize| (0..count).map(|at| (name(&format!("{at:03}")), Mode::Shared)).collect::<Vec<_>>();
        // What decoding a set goes through.
        let decoded = |locks: &[(LockName, Mode)]| LockSet::try_from(locks.to_vec()).is_ok();
        assert!(decoded(&many(1)) && decoded(&many(LOCK_SET_MAX)));
        assert!(!decoded(&[]) && !decoded(&many(LOCK_SET_MAX + 1)));
        assert!(!decoded(&[many(2), many(1)].concat()) && !decoded(&[many(1), many(1)].concat()));
        assert_eq!(LockSet::new(many(LOCK_SET_MAX + 1)), Err(LockSetError::TooMany(LOCK_SET_MAX + 1)));
    }
}
