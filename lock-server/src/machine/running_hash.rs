//! The running hash: a chain over everything executed, by which members find out that one of them went wrong.
//!
//! Each step is a bijection of the 64-bit state for a given input word (exclusive or, multiplication by an odd number,
//! exclusive or with a shift of itself). So two members that differed once stay different under equal input; only a second
//! difference could cancel the first, by chance one in 2^64. It guards against faults, not against an adversary. It is our
//! own function of a few lines because it goes into snapshots and is compared between releases: hash crates do not
//! promise the same value across versions, and a checksum of 32 bits collides too easily over a cluster's life.

/// 2^64 divided by the golden ratio, made odd: spreads each input bit over the high half.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The state of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RunningHash(pub(super) u64);

impl RunningHash {
    /// Takes in an executed op.
    pub(super) fn absorb(&mut self, op: u64, command: &[u8], reply: &[u8]) {
        self.word(op);
        self.bytes(command);
        self.bytes(reply);
    }

    /// The hash of bytes alone, for checks of whole snapshots.
    pub(super) fn of(bytes: &[u8]) -> u64 {
        let mut hash = RunningHash::default();
        hash.bytes(bytes);
        hash.0
    }

    /// The length goes first, so that bytes cannot move between command and reply unseen.
    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(u64::from_le_bytes(word.try_into().expect("chunks_exact(8) gives 8 bytes")));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_add(1).wrapping_mul(MULTIPLIER);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_the_same_in_every_release() {
        let mut hash = RunningHash::default();
        hash.absorb(1, b"command", b"and its reply");
        assert_eq!(hash.0, GOLDEN);
    }

    #[test]
    fn bytes_that_move_between_command_and_reply_change_the_hash() {
        let (mut left, mut right) = (RunningHash::default(), RunningHash::default());
        left.absorb(1, b"ab", b"c");
        right.absorb(1, b"a", b"bc");
        assert_ne!(left, right);
    }

    #[test]
    fn members_that_differed_once_stay_different() {
        let (mut left, mut right) = (RunningHash::default(), RunningHash::default());
        left.absorb(1, b"x", b"granted");
        right.absorb(1, b"x", b"queued");
        for op in 2..1000 {
            left.absorb(op, b"same", b"same");
            right.absorb(op, b"same", b"same");
            assert_ne!(left, right);
        }
    }

    /// Computed once; a change of this number is a change of the format.
    const GOLDEN: u64 = 11_771_474_761_860_484_886;
}
