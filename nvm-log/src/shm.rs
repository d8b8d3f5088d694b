//! The `Shm` medium: a file on tmpfs, mapped. A store goes into memory and a flush is a fence: no system call.
//! What was stored survives the end of the process, because the pages belong to the file; it does not survive the machine.
//!
//! The instructions are those of persistent memory, although the process's death needs none of them: so what is measured here is
//! what the same log costs there.

use std::fs::File;
use std::io;

use crate::mapping::{Mapping, WriteBack};
use crate::medium::{Guarantee, Medium};

/// One mapped file on tmpfs.
#[derive(Debug)]
pub struct ShmMedium {
    mapping: Mapping,
}

impl ShmMedium {
    /// Maps the whole file. Its pages must have been written, or a full tmpfs ends the process at the first store.
    pub fn new(file: File) -> io::Result<ShmMedium> {
        Ok(ShmMedium { mapping: Mapping::of_tmpfs(file, WriteBack::of_this_processor())? })
    }
}

impl Medium for ShmMedium {
    fn size(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        if size == self.size() { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.mapping.read(offset, into)
    }

    #[inline]
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.mapping.write(offset, bytes)
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        self.mapping.fence();
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
