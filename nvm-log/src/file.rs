//! The `File` medium: `pwrite` and `fdatasync` on a file that was written in full beforehand, so that a flush has no
//! metadata to write. Not mapped: `msync` costs three to five times as much as `pwrite` with `fdatasync`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::medium::{Guarantee, Medium};

/// Magic number of tmpfs, from `statfs(2)`.
const TMPFS: u64 = 0x0102_1994;
/// Magic number of ramfs, from `statfs(2)`.
const RAMFS: u64 = 0x8584_58f6;

/// One ordinary file.
#[derive(Debug)]
pub struct FileMedium {
    file: File,
    size: u64,
    guarantee: Guarantee,
}

impl FileMedium {
    /// Takes the file as it is. On a file system in memory a flush is worth no more than the process.
    pub fn new(file: File) -> io::Result<FileMedium> {
        let size = file.metadata()?.len();
        let guarantee = if is_in_memory(&file)? { Guarantee::Volatile } else { Guarantee::Durable };
        Ok(FileMedium { file, size, guarantee })
    }
}

/// Whether the file's contents are lost with the machine's memory.
pub(crate) fn is_in_memory(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type as u64;
    Ok(kind == TMPFS || kind == RAMFS)
}

impl Medium for FileMedium {
    fn size(&self) -> u64 {
        self.size
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.size = size;
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn gathers(&self) -> bool {
        true
    }

    fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    fn name(&self) -> &'static str {
        "file"
    }
}
