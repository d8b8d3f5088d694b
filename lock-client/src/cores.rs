//! The client's cores, for the simulator and for shells other than this crate's own.
//!
//! **Not the API of programs**, which is [`crate::LockClient`]; it may change with any version. Everything here is without IO, clock,
//! thread or random number: events and the time go in, effects come out.
//!
//! - [`Opening`] opens a session, [`Route`] says at which server.
//! - [`LockSession`] is a session with all its locks for a shell of one thread: the way in for a simulator.
//! - The rest are its parts, of which this crate's shell of many threads is made, too: [`Session`] (the lease), [`Outbox`] (requests without an
//!   answer), [`Exchange`] (one connection), [`CachedLock`] (one lock), and the functions by which what befalls the session
//!   reaches every lock ([`on_lease_change`], [`on_notices`], [`on_outcomes`], over [`Locks`]).
//!
//! A [`Route`]'s pauses are shortened at random by the shell. The clocks are CLOCK_BOOTTIME and CLOCK_REALTIME, ns ([`Clocks`]).

pub use crate::cache::{CachedLock, Effect, Grant, SetId, Step, Upgrade, WaiterId, YIELD_STARTS_MAX, YIELD_STARTS_NS};
pub use crate::clock::Clocks;
pub use crate::exchange::{
    ASK_AGAIN, Departure, Due, Exchange, KEEP_ALIVES_IN_FLIGHT, SUBMISSIONS_IN_FLIGHT, SUBMIT_TIMEOUT,
};
pub use crate::fate::{
    CacheLimits, Locks, SessionEvent, SessionGone, Stage, ask_again, begin_close, end, on_lease_change, on_notices,
    on_outcomes,
};
pub use crate::lease::valid_for;
pub use crate::lock_session::{Acquired, LinkId, LockSession, SessionEffect};
pub use crate::opening::{OpenStep, Opening};
pub use crate::outbox::{Batch, BatchId, Outbox};
pub use crate::recovery::{Recoveries, RecoveryEffect};
pub use crate::route::Route;
pub use crate::session::{LeaseChange, Session};
