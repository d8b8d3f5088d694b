//! The resource's part of a lock: it refuses who comes late.
//!
//! A holder may be stopped between its last look at [`crate::LockGuard::is_valid`] and the moment at which its write arrives: by its scheduler,
//! by a full network queue, by the machine's owner. Meanwhile its lease ends and another writes. Nothing that the lock service or
//! the holder does can prevent it; only the resource can, because it alone sees both writes. Tokens of one lock grow from tenure to tenure, so
//! the resource needs to remember one number: the greatest token that has written. Whoever comes with a smaller one belongs to a tenure that
//! has ended. (Burrows, "The Chubby lock service for loosely-coupled distributed systems", OSDI 2006, section 2.4.)
//!
//! Why it is right: a write under token *t* is made only while no greater token has written, and check and write are one step. So
//! the writes lie in the order of their tenures, and none of an earlier tenure follows one of a later. What it cannot do: refuse a late write
//! *before* the next tenure's first one. If that matters, the next holder writes once before it reads ([`FencedStore::write`] with a closure
//! that only reads will do).
//!
//! ```
//! use lock_client::{FencedStore, FencingToken, StaleToken};
//!
//! let balance = FencedStore::new(100);
//! let (slow, quick) = (FencingToken(33), FencingToken(34)); // guard.token() of two tenures of "accounts/7"
//!
//! let seen = balance.write(slow, |balance| *balance).expect("the first");
//! // The holder of 33 is stopped for longer than its lease; 34 is granted to another, which withdraws 80.
//! balance.write(quick, |balance| *balance -= 80).expect("newer");
//! // The first goes on, and would bring the money back.
//! let late = balance.write(slow, |balance| *balance = seen - 10);
//! assert_eq!(late, Err(StaleToken { token: slow, greatest: quick }));
//! assert_eq!(balance.read(quick, |balance| *balance), Ok(20));
//! ```

use lock_protocol::FencingToken;
use parking_lot::Mutex;

/// A token of a tenure that has ended: a later one has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fencing token {token} is stale: {greatest} has written since")]
pub struct StaleToken {
    /// What came.
    pub token: FencingToken,
    /// The greatest that has written.
    pub greatest: FencingToken,
}

/// Something that one lock protects, with the greatest token that has written to it.
///
/// One lock, one store: tokens of different locks say nothing about each other. Where the resource outlives the process, the greatest token must
/// be kept with it, as durably as what it protects: see [`FencedStore::with_greatest`].
#[derive(Debug)]
pub struct FencedStore<T> {
    kept: Mutex<(FencingToken, T)>,
}

impl<T> FencedStore<T> {
    /// Nobody has written yet: every token is taken.
    pub fn new(resource: T) -> Self {
        FencedStore::with_greatest(resource, FencingToken(0))
    }

    /// As it was kept: see [`FencedStore::greatest`].
    pub fn with_greatest(resource: T, greatest: FencingToken) -> Self {
        FencedStore { kept: Mutex::new((greatest, resource)) }
    }

    /// Changes the resource in the name of an exclusive tenure. From then on smaller tokens are refused.
    ///
    /// # Errors
    /// A later tenure has written; nothing was done.
    pub fn write<R>(&self, token: FencingToken, write: impl FnOnce(&mut T) -> R) -> Result<R, StaleToken> {
        let mut kept = self.kept.lock();
        let (greatest, resource) = &mut *kept;
        check(token, *greatest)?;
        *greatest = token;
        Ok(write(resource))
    }

    /// Looks at the resource in the name of a tenure. Refuses nobody else: two shared tenures at one time have different tokens, and both may read.
    ///
    /// # Errors
    /// A later tenure has written; nothing was done.
    pub fn read<R>(&self, token: FencingToken, read: impl FnOnce(&T) -> R) -> Result<R, StaleToken> {
        let kept = self.kept.lock();
        check(token, kept.0)?;
        Ok(read(&kept.1))
    }

    /// The greatest token that has written; 0 where nobody has.
    pub fn greatest(&self) -> FencingToken {
        self.kept.lock().0
    }
}

fn check(token: FencingToken, greatest: FencingToken) -> Result<(), StaleToken> {
    if token < greatest { Err(StaleToken { token, greatest }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_below_the_greatest_that_has_written_is_refused_and_changes_nothing() {
        let store = FencedStore::new(Vec::new());
        store.write(FencingToken(5), |all| all.push('a')).expect("the first");
        store.write(FencingToken(5), |all| all.push('b')).expect("the same tenure");
        store.write(FencingToken(9), |all| all.push('c')).expect("a later one");
        let stale = StaleToken { token: FencingToken(8), greatest: FencingToken(9) };
        assert_eq!(store.write(FencingToken(8), |all| all.push('d')), Err(stale));
        assert_eq!(store.read(FencingToken(8), Vec::len), Err(stale));
        assert_eq!(store.read(FencingToken(9), Clone::clone), Ok(vec!['a', 'b', 'c']));
    }

    #[test]
    fn readers_do_not_refuse_each_other() {
        let store = FencedStore::new(7);
        assert_eq!(store.read(FencingToken(6), |value| *value), Ok(7));
        assert_eq!(store.read(FencingToken(4), |value| *value), Ok(7));
        assert_eq!(store.greatest(), FencingToken(0));
    }

    #[test]
    fn what_was_refused_before_a_restart_is_refused_after_it() {
        let before = FencedStore::new(());
        before.write(FencingToken(9), |()| ()).expect("the first");
        let after = FencedStore::with_greatest((), before.greatest());
        assert!(after.write(FencingToken(8), |()| ()).is_err());
    }
}
