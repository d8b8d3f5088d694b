//! A replicated state machine.
mod state_machine;
pub use state_machine::{Application, StateMachine};
