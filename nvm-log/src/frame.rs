//! One frame: a header of one cache line, then the body, padded to a cache line.
//!
//! A frame commits itself. Its header's checksum covers the body's, its position, its epoch and the checksum of the
//! frame before it, so it is whole or it is not a frame, and no pointer elsewhere has to say that it counts: one flush
//! makes a batch durable. The position is the byte count since the store was formatted (lap times ring size plus offset), so a
//! frame that an earlier lap left at the same place can never be taken for one of this lap.

use crate::layout::{Geometry, LINE, checksum, put, u32_at, u64_at};

pub(crate) const HEADER: usize = LINE as usize;

/// One batch of ops, all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The caller's own mark.
    pub kind: u8,
    /// The view in which the ops were appended; the frame's viewstamp is this and its last op.
    pub view: u64,
    /// Number of the first op, from 1.
    pub first_op: u64,
    /// Ops in the frame, at least 1. After a truncation within the frame it is lower, while the body stays whole: the
    /// caller takes the first `count` ops of it.
    pub count: u32,
    /// View and op before the first one; the op is always `first_op - 1`.
    pub previous: (u64, u64),
    /// The ops, in the caller's own form. May be empty.
    pub body: Vec<u8>,
}

impl Frame {
    /// Number of the last op.
    pub fn last_op(&self) -> u64 {
        self.first_op + u64::from(self.count) - 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A batch of the caller's.
    Batch = 1,
    /// Nothing, up to the end of the ring; its body is neither written nor summed.
    Padding = 2,
    /// Every op from `first_op` on is dropped.
    Truncation = 3,
}

/// What a header says. Offsets are in FORMAT.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) class: Class,
    pub(crate) kind: u8,
    pub(crate) body_len: u32,
    pub(crate) body_sum: u32,
    pub(crate) count: u32,
    /// Header checksum of the frame before.
    pub(crate) previous: u32,
    pub(crate) position: u64,
    pub(crate) epoch: u32,
    /// How far back everything was durable when the frame was made, in lines.
    pub(crate) durable_delta: u32,
    pub(crate) first_op: u64,
    pub(crate) view: u64,
    pub(crate) previous_view: u64,
}

impl Header {
    /// The header and its checksum, which the next frame chains to.
    pub(crate) fn encode(&self, salt: u64) -> ([u8; HEADER], u32) {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 4, &self.body_sum.to_le_bytes());
        put(&mut bytes, 8, &self.body_len.to_le_bytes());
        bytes[12] = self.class as u8;
        bytes[13] = self.kind;
        put(&mut bytes, 16, &self.count.to_le_bytes());
        put(&mut bytes, 20, &self.previous.to_le_bytes());
        put(&mut bytes, 24, &self.position.to_le_bytes());
        put(&mut bytes, 32, &self.epoch.to_le_bytes());
        put(&mut bytes, 36, &self.durable_delta.to_le_bytes());
        put(&mut bytes, 40, &self.first_op.to_le_bytes());
        put(&mut bytes, 48, &self.view.to_le_bytes());
        put(&mut bytes, 56, &self.previous_view.to_le_bytes());
        let sum = checksum(salt, &bytes[4..]);
        put(&mut bytes, 0, &sum.to_le_bytes());
        (bytes, sum)
    }

    /// The header, if its checksum is right and it is possible in this ring. Says nothing about the body.
    pub(crate) fn decode(salt: u64, geometry: Geometry, bytes: &[u8]) -> Option<Header> {
        let class = match bytes[12] {
            1 => Class::Batch,
            2 => Class::Padding,
            3 => Class::Truncation,
            _ => return None,
        };
        if u32_at(bytes, 0) != checksum(salt, &bytes[4..HEADER]) {
            return None;
        }
        let header = Header {
            class,
            kind: bytes[13],
            body_sum: u32_at(bytes, 4),
            body_len: u32_at(bytes, 8),
            count: u32_at(bytes, 16),
            previous: u32_at(bytes, 20),
            position: u64_at(bytes, 24),
            epoch: u32_at(bytes, 32),
            durable_delta: u32_at(bytes, 36),
            first_op: u64_at(bytes, 40),
            view: u64_at(bytes, 48),
            previous_view: u64_at(bytes, 56),
        };
        header.is_possible(geometry).then_some(header)
    }

    fn is_possible(&self, geometry: Geometry) -> bool {
        let to_end = geometry.bytes_to_end(self.position);
        let ops_fit = self.first_op.checked_add(u64::from(self.count)).is_some();
        let shape = match self.class {
            Class::Batch => self.count >= 1 && self.first_op >= 1 && self.length() <= geometry.frame_max(),
            Class::Padding => self.count == 0 && self.length() == to_end,
            Class::Truncation => self.count == 0 && self.first_op >= 1 && self.body_len == 0,
        };
        let position_fits = self.position.checked_add(geometry.ring_bytes).is_some();
        shape && ops_fit && position_fits && self.position.is_multiple_of(LINE) && self.length() <= to_end
    }

    /// Header, body and padding, in bytes.
    pub(crate) fn length(&self) -> u64 {
        length_of(self.body_len as usize)
    }

    /// The highest op that the frame holds or leaves; zero for padding.
    pub(crate) fn last_op(&self) -> u64 {
        match self.class {
            Class::Padding => 0,
            Class::Batch | Class::Truncation => self.first_op + u64::from(self.count) - 1,
        }
    }

    /// Everything before this position was durable when the frame was made.
    pub(crate) fn durable_position(&self) -> u64 {
        self.position.saturating_sub(u64::from(self.durable_delta) * LINE)
    }
}

/// Bytes that a frame with this body takes.
pub(crate) fn length_of(body_len: usize) -> u64 {
    (HEADER as u64 + body_len as u64).next_multiple_of(LINE)
}
