//! What the log holds: an entry is one batch of ops, all or nothing.

use serde::{Deserialize, Serialize};

use crate::Viewstamp;

/// One batch, or a view's barrier.
///
/// Equal viewstamps, equal bytes: a primary assigns each op number of its view once (S8), so entries can be compared by
/// their viewstamps alone, and two logs that share a viewstamp are the same up to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The view that ordered it, and the number of its *last* op.
    pub viewstamp: Viewstamp,
    /// The viewstamp of the entry before it; its first op is `previous.op + 1`.
    pub previous: Viewstamp,
    /// Its ops.
    pub payload: Payload,
}

/// An entry's ops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The first entry of each view. It takes one op number and executes as nothing; when it is committed, so is
    /// everything before it (S3).
    Barrier,
    /// Commands for the state machine, one op each.
    Batch(#[serde(with = "crate::octets::many")] Vec<Vec<u8>>),
}

/// Bytes that an entry costs beyond its commands, roughly: what bounds count.
const ENTRY_OVERHEAD_BYTES: usize = 128;

impl Entry {
    /// The number of its first op.
    pub fn first_op(&self) -> u64 {
        self.previous.op + 1
    }

    /// How many op numbers it takes.
    pub fn op_count(&self) -> usize {
        match &self.payload {
            Payload::Barrier => 1,
            Payload::Batch(commands) => commands.len(),
        }
    }

    /// Whether its numbers fit together; an entry from a peer or a medium that fails this is dropped.
    pub fn is_sound(&self) -> bool {
        let ops = self.op_count() as u64;
        ops > 0
            && self.viewstamp.view >= self.previous.view
            && self.previous.op.checked_add(ops) == Some(self.viewstamp.op)
            && (self.payload != Payload::Barrier || self.viewstamp.view > self.previous.view)
    }

    /// Roughly what it takes in memory and on the medium, bytes.
    pub fn size_bytes(&self) -> usize {
        let commands = match &self.payload {
            Payload::Barrier => 0,
            Payload::Batch(commands) => commands.iter().map(|command| command.len() + 8).sum(),
        };
        ENTRY_OVERHEAD_BYTES + commands
    }
}
