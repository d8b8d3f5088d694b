//! A snapshot area: a manifest with a checksum for each chunk, then the bytes.
//!
//! Two areas are used in turn. A snapshot goes to the one that the control record does not name as newest, is flushed
//! there, and counts only when a control record that names it is durable. The record carries the manifest's checksum, so a half-written
//! area is never taken for what it held before.

use std::io;

use crate::layout::{PAGE, checksum, put, u32_at, u64_at};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::{Error, SnapshotMeta};

/// Bytes under one checksum.
const CHUNK_BYTES: usize = 64 << 10;
const MAGIC: u32 = u32::from_le_bytes(*b"SNP1");
const HEADER: usize = 64;

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

/// Where the bytes begin, for a snapshot of this size.
fn data_offset(bytes: u64) -> Option<u64> {
    let table = bytes.div_ceil(CHUNK_BYTES as u64).checked_mul(4)?;
    table.checked_add(HEADER as u64)?.checked_next_multiple_of(PAGE)
}

/// Writes a snapshot and makes it durable. It counts only when a control record names it.
pub(crate) fn write(
    area: &mut impl Medium,
    salt: u64,
    generation: u64,
    meta: SnapshotMeta,
    data: &[u8],
) -> Result<Stored, Error> {
    let size = data.len() as u64;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { bytes: size },
        _ => Error::Io { doing: "writing the snapshot", source },
    };
    let limit_bytes = u64::MAX / 2;
    let Some(start) = data_offset(size) else {
        return Err(Error::TooLarge { what: "snapshot", bytes: size, limit_bytes });
    };
    let mut manifest = vec![0; HEADER];
    put(&mut manifest, 0, &MAGIC.to_le_bytes());
    for (index, word) in [generation, meta.view, meta.op, meta.tag, size].iter().enumerate() {
        put(&mut manifest, 8 + 8 * index, &word.to_le_bytes());
    }
    for chunk in data.chunks(CHUNK_BYTES) {
        manifest.extend_from_slice(&checksum(salt, chunk).to_le_bytes());
    }
    let manifest_sum = checksum(salt, &manifest[8..]);
    put(&mut manifest, 4, &manifest_sum.to_le_bytes());
    if area.size() < start + size {
        area.resize(start + size).map_err(failed)?;
    }
    area.write(start, data).map_err(failed)?;
    area.write(0, &manifest).map_err(failed)?;
    if !mutation::active(Mutation::SwitchBeforeSnapshot) {
        area.flush().map_err(Error::io("flushing the snapshot"))?;
    }
    Ok(Stored { generation, meta, bytes: size, manifest_sum })
}

/// The bytes of a snapshot that the control record names, or none if any of them is damaged.
pub(crate) fn read(area: &impl Medium, salt: u64, stored: &Stored) -> Result<Option<Vec<u8>>, Error> {
    let end = data_offset(stored.bytes).and_then(|start| Some((start, start.checked_add(stored.bytes)?)));
    let Some((start, _)) = end.filter(|&(_, end)| end <= area.size()) else { return Ok(None) };
    let chunks = stored.bytes.div_ceil(CHUNK_BYTES as u64) as usize;
    let mut manifest = vec![0; HEADER + 4 * chunks];
    area.read(0, &mut manifest).map_err(Error::io("reading the snapshot"))?;
    let sum = checksum(salt, &manifest[8..]);
    if u32_at(&manifest, 0) != MAGIC || sum != u32_at(&manifest, 4) || sum != stored.manifest_sum {
        return Ok(None);
    }
    let mut data = vec![0; stored.bytes as usize];
    area.read(start, &mut data).map_err(Error::io("reading the snapshot"))?;
    let whole = data
        .chunks(CHUNK_BYTES)
        .enumerate()
        .all(|(index, chunk)| checksum(salt, chunk) == u32_at(&manifest, HEADER + 4 * index));
    Ok(whole.then_some(data))
}
