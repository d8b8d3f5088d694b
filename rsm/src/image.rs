//! A state at a viewstamp, in parts that are never joined while anybody waits.
//!
//! Why it is right: parts are shared and never change, so the medium, a laggard and the next one can read the same bytes, and a
//! hundred megabytes are neither copied nor moved when one more part comes. The digest is a function of the bytes alone, however they
//! are cut: it is computed as they come, and two members that took a snapshot at the same op have the same.

use std::borrow::Cow;
use std::sync::Arc;

use crate::Viewstamp;
use crate::limits::SNAPSHOT_PART_BYTES;

/// A state at a viewstamp.
#[derive(Clone, Debug, Default)]
pub struct SnapshotImage {
    /// The last entry executed.
    pub viewstamp: Viewstamp,
    /// Each with the place behind it.
    parts: Vec<(u64, Arc<Vec<u8>>)>,
    digest: Digest,
}

impl SnapshotImage {
    /// One without bytes yet; a witness's mark stays so.
    pub fn new(viewstamp: Viewstamp) -> Self {
        SnapshotImage { viewstamp, ..SnapshotImage::default() }
    }

    /// Of a state that is all there: [`crate::StateMachine::snapshot`].
    pub fn of(viewstamp: Viewstamp, state: &[u8]) -> Self {
        let mut image = SnapshotImage::new(viewstamp);
        state.chunks(SNAPSHOT_PART_BYTES).for_each(|part| drop(image.push(part.to_vec())));
        image
    }

    /// Adds a part; returns where it begins, and itself.
    pub fn push(&mut self, part: Vec<u8>) -> (u64, Arc<Vec<u8>>) {
        let offset = self.size_bytes();
        self.digest.take_in(&part);
        let part = Arc::new(part);
        if !part.is_empty() {
            self.parts.push((offset + part.len() as u64, Arc::clone(&part)));
        }
        (offset, part)
    }

    /// How large it is.
    pub fn size_bytes(&self) -> u64 {
        self.parts.last().map_or(0, |(end, _)| *end)
    }

    /// A hash of the bytes, however they are cut: against faults, not against forgery.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// The bytes from a place on, as pieces as they lie; none beyond the end.
    pub fn from(&self, offset: u64) -> impl Iterator<Item = &[u8]> {
        let first = self.parts.partition_point(|(end, _)| *end <= offset);
        self.parts[first..].iter().map(move |(end, part)| {
            let start = end - part.len() as u64;
            &part[offset.saturating_sub(start).min(part.len() as u64) as usize..]
        })
    }

    /// The whole, joined if need be: for a machine to restore from.
    pub fn joined(&self) -> Cow<'_, [u8]> {
        match &*self.parts {
            [(_, only)] => Cow::Borrowed(only),
            _ => Cow::Owned(self.from(0).collect::<Vec<_>>().concat()),
        }
    }

    /// How many parts there are.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Lets go of the last parts, at most so many.
    pub(crate) fn shed(&mut self, count: usize) {
        self.parts.truncate(self.parts.len().saturating_sub(count));
    }
}

impl PartialEq for SnapshotImage {
    /// The same bytes at the same place, however they are cut.
    fn eq(&self, other: &Self) -> bool {
        (self.viewstamp, self.size_bytes(), self.digest()) == (other.viewstamp, other.size_bytes(), other.digest())
            && self.from(0).flatten().eq(other.from(0).flatten())
    }
}

impl Eq for SnapshotImage {}

/// A hash of bytes that come in pieces: words of eight are multiplied in, the length goes last. One difference always shows,
/// since each step is a bijection of the state for a given word; chance hides a second in one of 2^64 cases.
#[derive(Clone, Copy, Debug, Default)]
struct Digest {
    state: u64,
    /// The bytes that do not fill a word yet, little endian.
    word: u64,
    bytes: u64,
}

/// 2^64 divided by the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Digest {
    fn take_in(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.bytes.is_multiple_of(8) {
            self.byte(bytes[0]);
            bytes = &bytes[1..];
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.state = mixed(self.state, u64::from_le_bytes(*word));
        }
        self.bytes += 8 * words.len() as u64;
        rest.iter().for_each(|byte| self.byte(*byte));
    }

    fn byte(&mut self, byte: u8) {
        self.word |= u64::from(byte) << (8 * (self.bytes % 8));
        self.bytes += 1;
        if self.bytes.is_multiple_of(8) {
            self.state = mixed(self.state, std::mem::take(&mut self.word));
        }
    }

    fn finish(&self) -> u64 {
        mixed(mixed(self.state, self.word), self.bytes)
    }
}

fn mixed(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_add(1).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(state: &[u8], sizes: &[usize]) -> SnapshotImage {
        let mut image = SnapshotImage::new(Viewstamp { view: 1, op: 2 });
        let mut rest = state;
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let (now, later) = rest.split_at(size.min(rest.len()));
            image.push(now.to_vec());
            rest = later;
        }
        image
    }

    #[test]
    fn images_are_equal_however_their_bytes_are_cut() {
        let state: Vec<u8> = (0..100).collect();
        let whole = cut(&state, &[]);
        for sizes in [&[1, 2, 3][..], &[8, 8], &[0, 50], &[13, 7, 1, 1, 60], &[100]] {
            let image = cut(&state, sizes);
            assert_eq!((&image, image.digest(), &*image.joined()), (&whole, whole.digest(), &*state));
            for offset in 0..=100 {
                assert_eq!(image.from(offset).collect::<Vec<_>>().concat(), state[offset as usize..]);
            }
            assert_eq!(image.from(101).count(), 0);
        }
        let other: Vec<u8> = (1..101).collect();
        assert_ne!(cut(&other, &[]).digest(), whole.digest());
        assert_ne!(cut(&[], &[]).digest(), cut(&[0], &[]).digest(), "zeros at the end count");
    }
}
