//! What a member says of itself to machines: metrics in Prometheus' text format, and whether it is alive and ready.
//!
//! ```text
//!   replica's status and statistics ─┐
//!   machine's statistics (a visit) ──┼─▶ report ─▶ page ─▶ GET /metrics
//!   counters of the edge ────────────┘
//! ```
//!
//! Why it does not slow the service: what is counted on the way is a plain or an atomic number where it happens. The page is
//! put together when it is asked for, from copies; the replica thread takes part with one short visit.
//!
//! The format and the little of HTTP that a scrape needs are written here by hand. The values lie ready as numbers elsewhere, so a
//! metrics library would be handed them only to print them, and a page of code prints them too; of HTTP there is one method, without a
//! body, and one answer a connection, bounded in size, time and number.

mod counters;
mod families;
mod listener;
mod page;
mod report;

pub(crate) use counters::{Callback, Connected, Counters, Peer, Request, TurnedAway};
pub(crate) use listener::answer_all;
pub(crate) use report::{Probe, SILENT_MAX, standing_of};
