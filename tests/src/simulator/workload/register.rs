//! A machine that remembers everything that was ever executed, as one hash; and its clients' commands.
//!
//! Each answer tells the op and the hash after it, so that one answer pins down the whole history before it. A command is
//! a name that is never used twice, and filling.

use rsm::StateMachine;

use super::super::machine::Executed;

/// Names a client's command: client, then a number that it uses once.
pub(crate) type CommandId = (u64, u64);

/// A command's bytes: its name, then filling.
pub(crate) fn encode_command((client, number): CommandId, length_bytes: usize) -> Vec<u8> {
    let mut bytes = [client.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.resize(length_bytes.max(bytes.len()), client as u8);
    bytes
}

/// A command's name.
pub(crate) fn decode_command(bytes: &[u8]) -> Option<CommandId> {
    Some((word(bytes, 0)?, word(bytes, 8)?))
}

/// A history hash, and where it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Register {
    op: u64,
    hash: u64,
    executed: u64,
    ballast_bytes: usize,
}

const HEAD_BYTES: usize = 24;

impl Register {
    pub(crate) fn new(ballast_bytes: usize) -> Self {
        Register { ballast_bytes, ..Register::default() }
    }

    /// Op and hash in a snapshot or an answer.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Executed> {
        Some(Executed { op: word(bytes, 0)?, hash: word(bytes, 8)? })
    }
}

impl StateMachine for Register {
    fn apply(&mut self, op: u64, command: &[u8]) -> Vec<u8> {
        self.op = op;
        self.hash = fold(fold(self.hash, &op.to_le_bytes()), command);
        self.executed += 1;
        [op.to_le_bytes(), self.hash.to_le_bytes()].concat()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = [self.op.to_le_bytes(), self.hash.to_le_bytes(), self.executed.to_le_bytes()].concat();
        bytes.extend((0..self.ballast_bytes).map(|at| (self.hash >> (8 * (at % 8))) as u8 ^ (at / 8) as u8));
        bytes
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let word = |at| word(snapshot, at).ok_or_else(|| format!("{} bytes are too few", snapshot.len()));
        (self.op, self.hash, self.executed) = (word(0)?, word(8)?, word(16)?);
        if snapshot.len() != HEAD_BYTES + self.ballast_bytes || self.snapshot() != snapshot {
            return Err("the snapshot is not whole".to_owned());
        }
        Ok(())
    }

    fn hash(&self) -> u64 {
        self.hash
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// FNV-1a by words, then a stir: fast, and every earlier byte counts.
pub(crate) fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = hash ^ 0xcbf2_9ce4_8422_2325;
    for chunk in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash ^ bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_register_goes_on_like_the_one_that_was_saved() {
        let mut one = Register::new(100);
        one.apply(3, b"first");
        let mut other = Register::new(100);
        assert_eq!(other.restore(&one.snapshot()), Ok(()));
        assert_eq!(one.apply(4, b"second"), other.apply(4, b"second"));
    }

    #[test]
    fn another_order_is_another_hash() {
        let run = |commands: [&[u8]; 2]| {
            let mut register = Register::new(0);
            register.apply(1, commands[0]);
            register.apply(2, commands[1]);
            register.hash()
        };
        assert_ne!(run([b"a", b"b"]), run([b"b", b"a"]));
    }

    #[test]
    fn a_cut_snapshot_is_refused() {
        let whole = Register::new(50).snapshot();
        assert!(Register::new(50).restore(&whole[..whole.len() - 1]).is_err());
    }
}
