//! A mapped file: stores go into memory, past the processor's caches, and a fence makes them durable where the medium can.
//!
//! The only file of this crate with `unsafe` in it. Why it is sound: the memory is reached through copies in and out within checked bounds, and
//! no reference to it is ever made; so it does not matter that another process could change it. A page that is gone, because the file was
//! shortened or the medium failed, raises SIGBUS: then the process ends with a message, for the store cannot be believed any more.
//!
//! Why it is durable: every store is followed by a write-back of each line it touched (or went around the caches), and [`Mapping::fence`] by
//! the fence that orders them, before the caller tells anyone.
#![allow(unsafe_code, reason = "memory maps and the instructions for them live here and nowhere else")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// How a process ends whose store is gone from under it: an input or output error, as in `sysexits.h`.
const EXIT_CODE: i32 = 74;
/// Mappings whose loss is told; those beyond end the process without a message.
const TOLD_MAX: usize = 64;

/// How a store leaves the processor's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// Not at all: the caches are part of what survives (eADR).
    Nothing,
    /// Around the caches, with non-temporal stores; what is not whole words of 16 bytes is written back by the other way.
    NonTemporal(Line),
}

/// How a line is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// `clwb`: the line may stay in the cache.
    Clwb,
    /// `clflushopt`: the line leaves the cache, in any order.
    Clflushopt,
    /// `clflush`, which every processor has.
    Clflush,
}

impl WriteBack {
    /// The cheapest way that this processor has, where caches are lost with the power.
    pub(crate) fn of_this_processor() -> WriteBack {
        WriteBack::NonTemporal(arch::line())
    }
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    write_back: WriteBack,
    told: Option<&'static Told>,
    /// Holds the lock.
    _file: File,
}

// SAFETY: the pointer is to memory that belongs to this value alone within the process, and is not tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the whole file. Its pages must have been written, or a full file system ends the process at the first store.
    pub(crate) fn of_tmpfs(file: File, write_back: WriteBack) -> io::Result<Mapping> {
        Mapping::map(file, MapFlags::SHARED, write_back)
    }

    /// Maps the whole file so that what is written back is durable without a system call: only where the medium itself is mapped.
    pub(crate) fn of_medium(file: File, write_back: WriteBack) -> io::Result<Mapping> {
        Mapping::map(file, MapFlags::SHARED_VALIDATE | MapFlags::SYNC, write_back)
    }

    /// All pages are made present at once: a fault for each would cost more than what is read or stored there.
    fn map(file: File, flags: MapFlags, write_back: WriteBack) -> io::Result<Mapping> {
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let flags = flags | MapFlags::POPULATE;
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, &file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let told = Told::register(start.as_ptr() as usize, len, file.as_raw_fd());
        Ok(Mapping { start, len, write_back, told, _file: file })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn write_back(&self) -> WriteBack {
        self.write_back
    }

    fn at(&self, offset: u64, len: usize) -> io::Result<*mut u8> {
        let start = usize::try_from(offset).ok();
        let within = start.filter(|start| start.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the offset is within the mapping, as was just checked.
        within.map(|start| unsafe { self.start.as_ptr().add(start) }).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = self.at(offset, into.len())?;
        // SAFETY: `from` has that many bytes within the mapping, and `into` is memory of ours, elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    #[inline]
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: `to` has that many bytes within the mapping, and `bytes` is memory of ours, elsewhere.
        unsafe {
            match self.write_back {
                WriteBack::Nothing => std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()),
                WriteBack::NonTemporal(line) => arch::store(to, bytes, line),
            }
        }
        Ok(())
    }

    /// Returns when everything stored before is where it stays.
    #[inline]
    pub(crate) fn fence(&self) {
        arch::fence();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(told) = self.told {
            told.start.store(0, Ordering::Release);
        }
        // SAFETY: the mapping is ours, whole, and nothing points into it any more.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::warn!(%error, "a store stays mapped");
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::asm;
    use std::arch::x86_64::{
        __cpuid, __cpuid_count, __m128i, _mm_clflush, _mm_loadu_si128, _mm_sfence, _mm_stream_si128,
    };

    use super::Line;

    /// Bytes of a cache line.
    const LINE: usize = 64;
    /// Bytes of one non-temporal store.
    const WORD: usize = 16;

    pub(super) fn line() -> Line {
        // Leaf 7 says what there is, in EBX: bit 24 clwb, bit 23 clflushopt.
        let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        match (features >> 24 & 1, features >> 23 & 1) {
            (1, _) => Line::Clwb,
            (_, 1) => Line::Clflushopt,
            _ => Line::Clflush,
        }
    }

    /// Stores around the caches what is aligned words, and the rest through them, written back.
    ///
    /// # Safety
    /// `to` must be valid for writes of that many bytes, which no reference covers.
    #[inline]
    pub(super) unsafe fn store(to: *mut u8, bytes: &[u8], line: Line) {
        let before = to.align_offset(WORD).min(bytes.len());
        let streamed = (bytes.len() - before) / WORD * WORD;
        // SAFETY: all of it lies within the range that the caller vouches for; the streamed part is aligned to a word.
        unsafe {
            through(to, &bytes[..before], line);
            for at in (before..before + streamed).step_by(WORD) {
                let word = _mm_loadu_si128(bytes.as_ptr().add(at).cast::<__m128i>());
                _mm_stream_si128(to.add(at).cast::<__m128i>(), word);
            }
            let rest = before + streamed;
            through(to.add(rest), &bytes[rest..], line);
        }
    }

    /// # Safety
    /// As for [`store`].
    #[inline]
    unsafe fn through(to: *mut u8, bytes: &[u8], line: Line) {
        if bytes.is_empty() {
            return;
        }
        // SAFETY: the caller vouches for the range. A line is written back by any address in it, also one before the range: it begins on the
        // page of the range's first byte, which is mapped.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            let first = to.sub(to as usize % LINE);
            for at in (0..to as usize % LINE + bytes.len()).step_by(LINE) {
                write_back(first.add(at), line);
            }
        }
    }

    /// # Safety
    /// The address must be mapped.
    #[inline]
    unsafe fn write_back(at: *mut u8, line: Line) {
        // SAFETY: the instructions change no memory and no register. They must not be moved before the store that they write back, so the compiler
        // is not told that they leave memory alone.
        unsafe {
            match line {
                Line::Clwb => asm!("clwb [{}]", in(reg) at, options(nostack, preserves_flags)),
                Line::Clflushopt => asm!("clflushopt [{}]", in(reg) at, options(nostack, preserves_flags)),
                Line::Clflush => _mm_clflush(at),
            }
        }
    }

    #[inline]
    pub(super) fn fence() {
        // SAFETY: every processor of this architecture has it. As inline assembly it also keeps the compiler from moving stores over it.
        unsafe {
            asm!("", options(nostack, preserves_flags));
            _mm_sfence();
            asm!("", options(nostack, preserves_flags));
        }
    }
}

/// No instructions for persistent memory: good for memory that survives the process alone.
#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use super::Line;

    pub(super) fn line() -> Line {
        Line::Clflush
    }

    /// # Safety
    /// `to` must be valid for writes of that many bytes, which no reference covers.
    pub(super) unsafe fn store(to: *mut u8, bytes: &[u8], _: Line) {
        // SAFETY: the caller vouches for the range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    pub(super) fn fence() {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
}

/// Where a mapping lies, and what to say if a page of it is gone.
#[derive(Debug)]
struct Told {
    /// Zero if the place is free.
    start: AtomicUsize,
    end: AtomicUsize,
    message: AtomicPtr<u8>,
    message_len: AtomicUsize,
}

static TOLD: [Told; TOLD_MAX] = [const {
    Told {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        message: AtomicPtr::new(std::ptr::null_mut()),
        message_len: AtomicUsize::new(0),
    }
}; TOLD_MAX];

impl Told {
    fn register(start: usize, len: usize, file: RawFd) -> Option<&'static Told> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install);
        let path = std::fs::read_link(format!("/proc/self/fd/{file}")).unwrap_or_default();
        let dir = path.parent().unwrap_or(&path).display().to_string();
        let message = format!(
            "error: the store in {dir} is gone from under this process (SIGBUS): its file was shortened or its medium failed; check the medium, then restart\n"
        );
        // Taken for good: the handler may read it at any time. A place that is used again gives back none of it.
        let message: &'static mut str = message.leak();
        let claimed =
            TOLD.iter().find(|told| told.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
        claimed.end.store(start + len, Ordering::Relaxed);
        claimed.message.store(message.as_mut_ptr(), Ordering::Relaxed);
        claimed.message_len.store(message.len(), Ordering::Relaxed);
        claimed.start.store(start, Ordering::Release);
        Some(claimed)
    }
}

fn install() {
    // SAFETY: an all-zero `sigaction` is a valid one, and the handler keeps to what a signal handler may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Says what happened, with nothing but atomic loads and two system calls, and ends the process.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands over a valid `info`. The message of a place was set before its start, and is never freed.
    unsafe {
        let at = (*info).si_addr() as usize;
        for told in &TOLD {
            let start = told.start.load(Ordering::Acquire);
            if start > 1 && (start..told.end.load(Ordering::Relaxed)).contains(&at) {
                let message = told.message.load(Ordering::Relaxed);
                libc::write(2, message.cast(), told.message_len.load(Ordering::Relaxed));
                libc::_exit(EXIT_CODE);
            }
        }
        // Not ours: the instruction is tried again, and then ends the process as if there were no handler.
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}
