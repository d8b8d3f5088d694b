//! Checkers for histories of concurrent operations: could each have taken effect at one moment between its call and its
//! return?
//!
//! # Chapter
//!
//! A history is **linearizable** (Herlihy and Wing, TOPLAS 1990) if its operations can be put into one order that one
//! object alone would have given the same answers in, and in which none comes before another that had returned when
//! it was called. Clients of such a service cannot tell it from one machine that is never down.
//!
//! An operation without an answer is **unknown**: its client died, or was told that nobody knows. It may take effect at
//! any time after its call, after everything else too, or never; but once others have seen it, it is there.
//!
//! - A [`History`] is what clients did and were told, on many keys. Keys are checked one by one: a history is
//!   linearizable if it is so for each object by itself (the same paper, section 3.2).
//! - [`check`] searches for the order (`search.rs`); where there is none, a [`Violation`] says how far one goes.
//! - [`locks`] has the same for locks: another specification, the same search.
//!
//! # Limits of this implementation
//!
//! - The problem is NP-complete. What is quick is a history with few operations at a time on a key, and with values that
//!   are written once; after [`CONFIGURATIONS_MAX`] the search gives up, which is neither yes nor no.
//! - One register per key, one lock per name; nothing spans keys.

pub mod key_value;
pub mod locks;
mod register;
mod search;

pub use register::{Action, Answer, History, Operation, check};
pub use search::{CONFIGURATIONS_MAX, Violation};
