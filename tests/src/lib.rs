//! What needs more than one crate: simulator, lab scripts, processes, layering, benchmarks

pub mod campaign;
pub mod lab;
pub mod linearizability;
pub mod model;
pub mod simulator;
