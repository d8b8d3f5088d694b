//! Each step's output is bounded.

use rsm::{Output, limits};

use super::{Check, Invariants, Violation};

/// Messages that one group of inputs may cause, per input: the whole window to each member, and some.
const SENDS_PER_INPUT: usize = 4 * rsm::MEMBERS_MAX * limits::WINDOW_ENTRIES;

impl Invariants {
    /// Each step's output is bounded.
    pub(crate) fn bounded(&self, inputs: usize, out: &Output) -> Check {
        let records_per_message = limits::MESSAGE_MAX_BYTES / 128 + limits::WINDOW_ENTRIES;
        if out.send.len() > (inputs + 1) * SENDS_PER_INPUT || out.persist.len() > (inputs + 1) * records_per_message {
            let detail = format!("{} messages, {} records by {inputs} inputs", out.send.len(), out.persist.len());
            return Err(Violation::new("each step's output is bounded", detail));
        }
        Ok(())
    }
}
