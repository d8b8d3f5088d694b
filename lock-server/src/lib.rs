//! The Plumeria lock server.
//!
//! # Chapter
//!
//! [`machine`] is the replicated lock table: a pure core that executes ops and knows nothing of clients, clocks or threads.
//!
//! # Limits of this implementation
//!
//! - See [`machine`].
#![forbid(unsafe_code)]

pub mod machine;
