//! Model checking over the real cores: every schedule within bounds, rather than many schedules at random.
//!
//! | file | what is checked |
//! |---|---|
//! | `protocol.rs` | what a model has to say of its members |
//! | `search.rs`, `numbered.rs` | the checker itself: states, merging, traces |
//! | `quorums.rs` | the arithmetic of quorums over all sequences of views that [`rsm::View`] allows, exhaustively |
//! | `paxos.rs` | `Node` of the crate paxos: one decree per instance |
//! | `views.rs` | three whole [`rsm::Replica`]s: what a member is, what may happen to it |
//! | `member.rs` | one of them with its medium: records that are not yet durable, messages that wait for them |
//! | `facts.rs` | the invariants of views and logs |
//! | `scenes.rs` | where a search starts and how far it goes, by name |
//!
//! # Why a checker of our own
//!
//! Stateright (0.31) is the maintained one that would fit: its `ActorModel` has an unordered duplicating network and crashes.
//! Three things decided against it. (1) A member's medium: here a record becomes durable some steps after it was asked for,
//! messages wait for a record each, and a crash loses what is not durable; there a handler's storage is one atomic write.
//! (2) Cost: it runs the handler, clones and hashes all actors at each transition, which for a real replica is some
//! 20 µs; here each distinct *local* step is run once, and a transition is two look-ups. (3) Exchanges at one stroke
//! and dead messages, without which three replicas and three views do not fit. The price is the search itself, which
//! is checked against protocols whose counts of states are published: Gray and Lamport's two-phase commit has 288 states with
//! 3 resource managers and 8,832 with 5, with TLC and Stateright as with this one.
//!
//! # What it says, and what not
//!
//! Three members, one command and one fail-over: 6,498 states; two fail-overs: 199,098. Three ballots of Paxos: 101,286; two, with
//! a write put off and a crash: 158,760. Up to 6 members: 195 rows, 26,064 successions of views. All of them, with no violation.
//!
//! Within its bounds a search is complete, and its report says whether a bound cut it. What it cannot say: what happens in
//! four views where three were allowed, with snapshots (only the witness's scene has them), or under a damaged medium. Timers fire at
//! any moment (`rsm`'s `abstraction.rs`), so what is found safe is safe at any speed; whether anything *comes about* is for
//! the simulator. Removals from five members to three are checked as arithmetic only, two slots in one view not at all. A learner learns of
//! a view by asking to join again, never by fetching it: such requests are lost here.

mod facts;
mod member;
mod numbered;
mod paxos;
/// The decree that the tests of paxos use.
#[path = "../../../paxos/tests/plan/mod.rs"]
mod plan;
pub mod protocol;
mod quorums;
mod scenes;
pub mod search;
mod views;

pub use member::Rules;
#[cfg(feature = "mutants")]
pub use member::ViewMutant;
#[cfg(feature = "mutants")]
pub use paxos::PaxosMutant;
pub use paxos::{PaxosBounds, PaxosModel};
pub use quorums::{Found, Without, check_quorums};
pub use scenes::Scene;
pub use views::{Grain, ViewBounds, ViewModel};
