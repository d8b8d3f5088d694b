//! A snapshot area: a header, the bytes, then a checksum for each chunk of them.
//!
//! Two areas are used in turn. A snapshot goes to the one that the control record does not name as newest, piece by piece as
//! its bytes come, with frames and control records between the pieces. Header and checksums are stored last, since nobody knows the size
//! before; then the area is flushed, and the snapshot counts only when a control record that names it is durable. The record carries the
//! sum of header and checksums, so a half-written area is never taken for a snapshot: neither for the one that it will be, nor, in chunks that
//! were written over, for the one that it was.
//!
//! Each piece is flushed as it is stored. Nothing rests on that: it is so that the last flush has little left to do, for frames wait behind it.

use std::io;

use crate::layout::{PAGE, checksum, checksum_on, put, u32_at, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::{Error, SnapshotMeta};

/// Bytes under one checksum.
const CHUNK_BYTES: u64 = 64 << 10;
const MAGIC: u32 = u32::from_le_bytes(*b"SNP2");
const HEADER: usize = 64;
/// Where the bytes begin.
const DATA: u64 = PAGE;

/// A snapshot that an area holds, as the control record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) generation: u64,
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: u64,
    pub(crate) manifest_sum: u32,
}

impl Stored {
    pub(crate) fn encode(stored: Option<&Stored>) -> [u8; 48] {
        let mut bytes = [0; 48];
        if let Some(stored) = stored {
            let words = [stored.generation, stored.meta.view, stored.meta.op, stored.meta.tag, stored.bytes];
            for (index, word) in words.iter().enumerate() {
                put(&mut bytes, 8 * index, &word.to_le_bytes());
            }
            put(&mut bytes, 40, &stored.manifest_sum.to_le_bytes());
            put(&mut bytes, 44, &1u32.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Stored> {
        let meta = SnapshotMeta { view: u64_at(bytes, 8), op: u64_at(bytes, 16), tag: u64_at(bytes, 24) };
        let (generation, size, manifest_sum) = (u64_at(bytes, 0), u64_at(bytes, 32), u32_at(bytes, 40));
        (u32_at(bytes, 44) == 1).then_some(Stored { generation, meta, bytes: size, manifest_sum })
    }
}

/// Where the checksums lie, behind so many bytes.
fn sums_offset(bytes: u64) -> Option<u64> {
    bytes.checked_add(DATA)?.checked_next_multiple_of(PAGE)
}

/// The header, its own sum still missing.
fn header(generation: u64, meta: SnapshotMeta, bytes: u64) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    put(&mut header, 0, &MAGIC.to_le_bytes());
    for (index, word) in [generation, meta.view, meta.op, meta.tag, bytes].iter().enumerate() {
        put(&mut header, 8 + 8 * index, &word.to_le_bytes());
    }
    header
}

/// A snapshot on its way into an area. Forgotten, it leaves bytes that count for nothing.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) meta: SnapshotMeta,
    generation: u64,
    salt: u64,
    bytes: u64,
    /// Of the chunks so far; the last may still grow.
    sums: Vec<u32>,
}

impl Unfinished {
    pub(crate) fn new(salt: u64, generation: u64, meta: SnapshotMeta) -> Unfinished {
        Unfinished { meta, generation, salt, bytes: 0, sums: Vec::new() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stores the next bytes, and flushes them.
    pub(crate) fn append(&mut self, area: &mut impl Medium, data: &[u8]) -> Result<(), Error> {
        let size = self.bytes.saturating_add(data.len() as u64);
        let end = sums_offset(size).filter(|&end| end <= u64::MAX / 2);
        let too_large = Error::TooLarge { what: "snapshot", bytes: size, limit_bytes: u64::MAX / 2 };
        self.reserve(area, end.ok_or(too_large)?)?;
        area.write(DATA + self.bytes, data).map_err(|source| self.failed(source))?;
        self.sum(data);
        self.flush(area)
    }

    /// Stores header and checksums, and makes the whole durable. It counts only when a control record names it.
    pub(crate) fn finish(self, area: &mut impl Medium) -> Result<Stored, Error> {
        let mut manifest = header(self.generation, self.meta, self.bytes);
        manifest.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        let manifest_sum = checksum(self.salt, &manifest[8..]);
        put(&mut manifest, 4, &manifest_sum.to_le_bytes());
        let at = DATA + self.bytes.next_multiple_of(PAGE);
        let sums = &manifest[HEADER..];
        self.reserve(area, at + sums.len() as u64)?;
        area.write(at, sums).map_err(|source| self.failed(source))?;
        area.write(0, &manifest[..HEADER]).map_err(|source| self.failed(source))?;
        self.flush(area)?;
        Ok(Stored { generation: self.generation, meta: self.meta, bytes: self.bytes, manifest_sum })
    }

    fn sum(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let within = self.bytes % CHUNK_BYTES;
            let (now, later) = data.split_at(data.len().min((CHUNK_BYTES - within) as usize));
            match self.sums.last_mut().filter(|_| within > 0) {
                Some(sum) => *sum = checksum_on(*sum, now),
                None => self.sums.push(checksum(self.salt, now)),
            }
            self.bytes += now.len() as u64;
            data = later;
        }
    }

    /// Grows the area by halves, so that its size seldom changes.
    fn reserve(&self, area: &mut impl Medium, end: u64) -> Result<(), Error> {
        let size = area.size();
        if size >= end {
            return Ok(());
        }
        area.resize(end.max(size + size / 2)).map_err(|source| self.failed(source))
    }

    fn flush(&self, area: &mut impl Medium) -> Result<(), Error> {
        if mutation::active(Mutation::SwitchBeforeSnapshot) {
            return Ok(());
        }
        area.flush().map_err(Error::io("flushing the snapshot"))
    }

    fn failed(&self, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { bytes: self.bytes },
            _ => Error::Io { doing: "writing the snapshot", source },
        }
    }
}

/// How many chunks so many bytes have.
pub(crate) fn chunks(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES)
}

/// Reads one part of a snapshot that the control record names: its header and checksums at index 0, then chunk by chunk. Returns how many bytes were
/// read, and whether they are those that were written.
pub(crate) fn check(
    area: &impl Medium,
    salt: u64,
    stored: &Stored,
    index: u64,
    buffer: &mut Vec<u8>,
) -> Result<(u64, bool), Error> {
    let reading = Error::io("scrubbing the snapshot");
    let count = chunks(stored.bytes);
    let at = sums_offset(stored.bytes).and_then(|at| Some((at, at.checked_add(4 * count)?)));
    let Some((at, _)) = at.filter(|&(_, end)| end <= area.size()) else { return Ok((0, false)) };
    let Some(chunk) = index.checked_sub(1) else {
        buffer.resize(HEADER + 4 * count as usize, 0);
        area.read(0, &mut buffer[..HEADER]).map_err(&reading)?;
        area.read(at, &mut buffer[HEADER..]).map_err(&reading)?;
        let sum = checksum(salt, &buffer[8..]);
        let is_whole = u32_at(buffer, 0) == MAGIC && sum == u32_at(buffer, 4) && sum == stored.manifest_sum;
        return Ok((buffer.len() as u64, is_whole));
    };
    let begin = chunk * CHUNK_BYTES;
    let len = CHUNK_BYTES.min(stored.bytes - begin);
    let mut sum = [0; 4];
    area.read(at + 4 * chunk, &mut sum).map_err(&reading)?;
    buffer.resize(len as usize, 0);
    area.read(DATA + begin, buffer).map_err(&reading)?;
    Ok((len, checksum(salt, buffer) == u32::from_le_bytes(sum)))
}

/// The bytes of a snapshot that the control record names, or none if any of them is damaged.
pub(crate) fn read(area: &impl Medium, salt: u64, stored: &Stored) -> Result<Option<Vec<u8>>, Error> {
    let count = chunks(stored.bytes);
    let at = sums_offset(stored.bytes).and_then(|at| Some((at, at.checked_add(4 * count)?)));
    let Some((at, _)) = at.filter(|&(_, end)| end <= area.size()) else { return Ok(None) };
    let mut manifest = vec![0; HEADER + 4 * count as usize];
    let (header, sums) = manifest.split_at_mut(HEADER);
    area.read(0, header).map_err(Error::io("reading the snapshot"))?;
    area.read(at, sums).map_err(Error::io("reading the snapshot"))?;
    let sum = checksum(salt, &manifest[8..]);
    if u32_at(&manifest, 0) != MAGIC || sum != u32_at(&manifest, 4) || sum != stored.manifest_sum {
        return Ok(None);
    }
    let mut data = vec![0; stored.bytes as usize];
    area.read(DATA, &mut data).map_err(Error::io("reading the snapshot"))?;
    let whole = data
        .chunks(CHUNK_BYTES as usize)
        .enumerate()
        .all(|(index, chunk)| checksum(salt, chunk) == u32_at(&manifest, HEADER + 4 * index));
    Ok(whole.then_some(data))
}
