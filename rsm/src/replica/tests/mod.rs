//! Scripted scenarios, at least one for each rule, with the order of messages and flushes chosen by hand. Where a rule can
//! be left out (see [`crate::mutant`]) the same scenario shows what then goes wrong.

mod commit;
mod damage;
mod forged;
mod founding;
mod guarded;
mod input;
mod leaving;
mod membership;
mod paxos_rules;
mod review;
mod script;
mod snapshots;
mod suspicion;
mod view_change;
mod witness;
