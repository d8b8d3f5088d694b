//! The `Shm` medium: a file on tmpfs, mapped. A store is a copy into memory and a flush is a fence: no system call.
//! What was stored survives the end of the process, because the pages belong to the file; it does not survive the machine.
//!
//! The only file of this crate with `unsafe` in it.
#![allow(unsafe_code, reason = "memory maps live here and nowhere else")]

use std::fs::File;
use std::io;
use std::sync::atomic::{Ordering, fence};

use memmap2::MmapMut;

use crate::medium::{Guarantee, Medium};

/// One mapped file on tmpfs.
#[derive(Debug)]
pub struct ShmMedium {
    map: MmapMut,
    /// Holds the lock.
    _file: File,
}

impl ShmMedium {
    /// Maps the whole file. Its pages must have been written, or a full tmpfs ends the process at the first store.
    pub fn new(file: File) -> io::Result<ShmMedium> {
        // SAFETY: a mapping is sound while nobody else changes the file under it. The caller holds the store's exclusive
        // lock, which every opener of a store takes first, so no other mapping of it is in use; and the file is never
        // shortened. A process that ignores the lock can break this, as it can with any file-backed memory.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(ShmMedium { map, _file: file })
    }

    fn range(&self, offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(len)).filter(|&end| end <= self.map.len());
        start.zip(end).map(|(start, end)| start..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Medium for ShmMedium {
    fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        if size == self.size() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.map[self.range(offset, into.len())?]);
        Ok(())
    }

    #[inline]
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = self.range(offset, bytes.len())?;
        self.map[range].copy_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        // The process may end between any two instructions, but what it stored before is in the page. The fence keeps the
        // compiler from moving stores over it.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn gathers(&self) -> bool {
        false
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Volatile
    }

    fn name(&self) -> &'static str {
        "shm"
    }
}
