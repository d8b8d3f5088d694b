//! The replica (being written).
use crate::{Control, Input, Micros, Output, Recovered, Settings, StateMachine, Status, Viewstamp};

/// One member's core.
pub struct Replica<M> {
    machine: M,
}

impl<M: StateMachine> Replica<M> {
    /// A member as it starts, from what its store held. `seed` feeds the random parts of delays and, in a founder, the
    /// cluster's id.
    ///
    /// # Errors
    /// The store does not fit the settings or the machine; one line that says what to do.
    pub fn new(settings: Settings, recovered: Recovered, machine: M, seed: u64, now: Micros) -> Result<Self, String> {
        let _ = (settings, recovered, seed, now);
        Ok(Replica { machine })
    }
    /// Takes one input in.
    pub fn step(&mut self, now: Micros, input: Input, out: &mut Output) {
        let _ = (now, input, out);
    }
    /// All inputs that waited were taken in: what waits for a batch goes out as one. To be called after each group of
    /// steps, before the outputs are carried out.
    pub fn settle(&mut self, now: Micros, out: &mut Output) {
        let _ = (now, out);
    }
    /// What it knows of itself.
    pub fn status(&self) -> Status {
        unreachable!()
    }
    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }
    /// The state machine, for its shell: only what is not replicated may be changed.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }
    /// What must be durable by now: for checks.
    pub fn control(&self) -> Control {
        unreachable!()
    }
    /// The log's viewstamps, ascending, from its start; for checks.
    pub fn log_viewstamps(&self) -> Vec<Viewstamp> {
        unreachable!()
    }
    /// The last viewstamp known committed.
    pub fn commit(&self) -> Viewstamp {
        unreachable!()
    }
}
