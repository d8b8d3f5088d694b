//! Where everything lies on the medium, and how numbers are written. FORMAT.md describes it; the constants here are
//! the only ones that the writers and the readers use.
//!
//! Every number is little-endian at a fixed offset, so that a reader needs no parser and arbitrary bytes cannot make
//! it allocate: a length is believed only after the checksum over it, and is then still compared with the medium.

/// Version of the format, in the superblock. A change of any offset here is a new version.
pub(crate) const VERSION: u32 = 2;
/// The unit of everything outside the ring, in bytes.
pub(crate) const PAGE: u64 = 4096;
/// The two copies of the superblock, in different pages.
pub(crate) const SUPERBLOCKS: [u64; 2] = [0x0000, 0x1000];
/// The two witness lines, in different pages.
pub(crate) const WITNESSES: [u64; 2] = [0x2000, 0x3000];
/// The control copies: `CONTROLS[slot][copy]`. The copies of a slot do not touch, so that one bad page spoils one copy.
pub(crate) const CONTROLS: [[u64; 2]; 2] = [[0x4000, 0xe000], [0x9000, 0x1_3000]];
/// Space of one control copy, in bytes.
pub(crate) const CONTROL_BYTES: u64 = 0x5000;
/// First byte after the fixed parts.
pub(crate) const FIXED_END: u64 = 0x1_8000;
/// Where a ring of at least this size begins, so that huge pages can map it.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;
/// Alignment of a frame, in bytes: a cache line.
pub(crate) const LINE: u64 = 64;
/// Smallest ring, in bytes: room for four of the largest frames.
pub(crate) const RING_MIN: u64 = 16 << 10;
/// Largest ring, in bytes: a frame's distance to what was durable must fit 32 bits, in lines.
pub(crate) const RING_MAX: u64 = 64 << 30;
/// Largest frame, in bytes, whatever the ring: bounds what a reader holds of one frame.
pub(crate) const FRAME_MAX: u64 = 64 << 20;
/// No store counts as far as this, bytes or anything else: arithmetic on what lies below cannot overflow.
pub(crate) const COUNT_END: u64 = 1 << 62;

const _: () = assert!(CONTROLS[1][1] + CONTROL_BYTES <= FIXED_END);
const _: () = assert!(CONTROLS[0][0] + CONTROL_BYTES <= CONTROLS[1][0]);
const _: () = assert!(CONTROLS[1][0] + CONTROL_BYTES <= CONTROLS[0][1]);
const _: () = assert!(CONTROLS[0][1] + CONTROL_BYTES <= CONTROLS[1][1]);
const _: () = assert!(RING_MAX / LINE <= u32::MAX as u64);

/// The ring's place, from the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// First byte of the ring on the medium.
    pub(crate) ring_offset: u64,
    /// Size of the ring, in bytes.
    pub(crate) ring_bytes: u64,
}

impl Geometry {
    /// The place of a ring of this size, or none if it cannot be had.
    pub(crate) fn for_ring(ring_bytes: u64) -> Option<Geometry> {
        let ring_offset = if ring_bytes >= HUGE_PAGE { HUGE_PAGE } else { FIXED_END };
        let possible = (RING_MIN..=RING_MAX).contains(&ring_bytes) && ring_bytes.is_multiple_of(PAGE);
        possible.then_some(Geometry { ring_offset, ring_bytes })
    }

    /// Where a position of the log lies. A position counts bytes since the store was formatted and never goes back.
    pub(crate) fn offset(&self, position: u64) -> u64 {
        self.ring_offset + position % self.ring_bytes
    }

    /// Bytes from a position to the end of the ring.
    pub(crate) fn bytes_to_end(&self, position: u64) -> u64 {
        self.ring_bytes - position % self.ring_bytes
    }

    /// Size of the whole medium, in bytes.
    pub(crate) fn medium_bytes(&self) -> u64 {
        self.ring_offset + self.ring_bytes
    }

    /// Largest frame with its header, in bytes: a quarter of the ring, so that padding at the end cannot eat it up.
    pub(crate) fn frame_max(&self) -> u64 {
        (self.ring_bytes / 4).min(FRAME_MAX)
    }
}

/// Whether a log can have come to this position.
pub(crate) fn is_possible_position(position: u64) -> bool {
    position < COUNT_END && position.is_multiple_of(LINE)
}

/// A checksum that only this store's own bytes can have: the salt is random, from the superblock.
pub(crate) fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    checksum_on((salt ^ (salt >> 32)) as u32, bytes)
}

/// The checksum of bytes that follow others of which this is the checksum.
pub(crate) fn checksum_on(sum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(sum, bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

pub(crate) fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[at..at + 16]);
    id
}

pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}
