//! What needs more than one crate: simulator, lab scripts, processes, layering, benchmarks

pub mod campaign;
pub mod kill_loops;
pub mod lab;
pub mod linearizability;
pub mod model;
pub mod program;
pub mod recovery_bench;
pub mod rolling_upgrade;
pub mod scale_bench;
pub mod simulator;
