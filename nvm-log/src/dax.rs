//! The `Dax` medium: persistent memory, mapped through a file system that gives its pages away directly (`MAP_SYNC`).
//! A flush is one fence.
//!
//! Why it is durable: `MAP_SYNC` is granted only where the mapping is the medium itself, and then the kernel makes a page's place in the file durable before
//! the page can be written. What is left to do is to get the bytes out of the processor's caches, where those are lost with the power; and whether they are,
//! the kernel knows of each region of such memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::mapping::{Mapping, WriteBack};
use crate::medium::{Guarantee, Medium};

/// One mapped file on persistent memory.
#[derive(Debug)]
pub struct DaxMedium {
    mapping: Mapping,
}

impl DaxMedium {
    /// Maps the whole file, which must have been written in full; or gives it back if it does not lie on directly mapped persistent memory.
    pub fn new(file: File) -> io::Result<Result<DaxMedium, File>> {
        if cfg!(not(target_arch = "x86_64")) {
            return Ok(Err(file));
        }
        let write_back = if keeps_caches(&file) { WriteBack::Nothing } else { WriteBack::of_this_processor() };
        match Mapping::of_medium(file.try_clone()?, write_back) {
            Ok(mapping) => Ok(Ok(DaxMedium { mapping })),
            // Not this file system, or no such medium, or a kernel that knows neither flag.
            Err(error) if refuses_sync(&error) => Ok(Err(file)),
            Err(error) => Err(error),
        }
    }
}

fn refuses_sync(error: &io::Error) -> bool {
    let refusals = [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::INVAL];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

/// Whether the processor's caches survive with the memory that holds this file: the kernel says so of the memory's region.
fn keeps_caches(file: &File) -> bool {
    let domain = || {
        let device = file.metadata().ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        device.ancestors().find_map(|dir| fs::read_to_string(dir.join("persistence_domain")).ok())
    };
    domain().is_some_and(|domain| domain.trim() == "cpu_cache")
}

impl Medium for DaxMedium {
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
        Guarantee::Durable
    }

    fn name(&self) -> &'static str {
        match self.mapping.write_back() {
            WriteBack::Nothing => "dax (caches survive)",
            WriteBack::NonTemporal(_) => "dax",
        }
    }
}
