//! A store in a directory: `store`, `snapshot-a` and `snapshot-b`, and the lock.
//!
//! Formatting writes `store.new` in full and renames it at the end; so a crash leaves a directory without a store, and a
//! later attempt starts over. All who format hold the lock on `store.new`, and whoever opens holds the lock on `store`; the
//! rename carries the lock along, since it is the same file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::dax::DaxMedium;
use crate::file::{FileMedium, is_in_memory};
use crate::medium::{Guarantee, Media, Medium};
use crate::shm::ShmMedium;
use crate::superblock::Superblock;
use crate::{Backend, Error, Options};

const STORE: &str = "store";
const UNFINISHED: &str = "store.new";
const AREAS: [&str; 2] = ["snapshot-a", "snapshot-b"];

/// A medium of a store in a directory.
#[derive(Debug)]
pub enum Native {
    /// An ordinary file. Snapshot areas are of this kind in both back ends: they grow, and are written in one go.
    File(FileMedium),
    /// A mapped file on tmpfs.
    Shm(ShmMedium),
    /// A mapped file on persistent memory: what the file back end turns into where it can.
    Dax(DaxMedium),
}

/// A store that is being formatted.
pub(crate) struct New {
    dir: PathBuf,
}

impl New {
    /// Gives the finished store its name, for good.
    pub(crate) fn publish(self) -> Result<(), Error> {
        let sync = |dir: &Path| File::open(dir)?.sync_all();
        sync(&self.dir).map_err(Error::io("flushing the directory"))?;
        fs::rename(self.dir.join(UNFINISHED), self.dir.join(STORE)).map_err(Error::io("naming the store"))?;
        sync(&self.dir).map_err(Error::io("flushing the directory"))
    }
}

/// Files for a new store of this size, locked and written in full.
pub(crate) fn create(dir: &Path, options: &Options, size: u64) -> Result<(Media<Native>, New), Error> {
    let preparing = Error::io("preparing the store");
    fs::create_dir_all(dir).map_err(&preparing)?;
    refuse_if_occupied(dir)?;
    let path = dir.join(UNFINISHED);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(&preparing)?;
    lock(dir, &file)?;
    // Whoever held the lock before may have finished: then this is a finished store, or no longer the file of that name.
    refuse_if_occupied(dir)?;
    let same = fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| now.ino() == ours.ino()));
    if !same {
        return Err(Error::Exists { dir: dir.to_owned() });
    }
    if options.backend == Backend::Shm && !is_in_memory(&file).map_err(&preparing)? {
        fs::remove_file(&path).map_err(&preparing)?;
        return Err(Error::NotTmpfs { dir: dir.to_owned() });
    }
    let written = file.set_len(0).and_then(|()| write_zeros(&file, size)).and_then(|()| file.sync_all());
    written.map_err(|source| give_up(dir, &path, size, source))?;
    Ok((media(dir, file, options)?, New { dir: dir.to_owned() }))
}

/// A store that has no room leaves none of it behind.
fn give_up(dir: &Path, unfinished: &Path, bytes: u64, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            drop(fs::remove_file(unfinished));
            Error::NoRoom { dir: dir.to_owned(), bytes }
        }
        _ => Error::Io { doing: "preparing the store", source },
    }
}

fn refuse_if_occupied(dir: &Path) -> Result<(), Error> {
    let filled = |name: &str| fs::metadata(dir.join(name)).is_ok_and(|found| found.len() > 0);
    let occupied = dir.join(STORE).exists() || AREAS.into_iter().any(filled);
    if occupied { Err(Error::Exists { dir: dir.to_owned() }) } else { Ok(()) }
}

/// Allocates every block, so that later stores change no metadata and meet no full file system.
fn write_zeros(file: &File, size: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < size {
        let len = (size - offset).min(zeros.len() as u64);
        file.write_all_at(&zeros[..len as usize], offset)?;
        offset += len;
    }
    Ok(())
}

/// The files of a store that is there, locked.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Media<Native>, Error> {
    let file = match OpenOptions::new().read(true).write(true).open(dir.join(STORE)) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(Error::NotFound { dir: dir.to_owned() });
        }
        Err(source) => return Err(Error::Io { doing: "opening the store", source }),
    };
    lock(dir, &file)?;
    let mut plain = FileMedium::new(file.try_clone().map_err(Error::io("opening the store"))?)
        .map_err(Error::io("opening the store"))?;
    let stored = Superblock::read(&mut plain)?.0.backend;
    if stored != options.backend {
        return Err(Error::OtherBackend { stored, asked: options.backend });
    }
    media(dir, file, options)
}

/// Removes the files of a store, once its lock is held. The store goes last, so that a crash leaves something to remove.
pub(crate) fn remove(dir: &Path) -> Result<(), Error> {
    let file = match OpenOptions::new().read(true).write(true).open(dir.join(STORE)) {
        Ok(file) => Some(file),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(source) => return Err(Error::Io { doing: "opening the store", source }),
    };
    if let Some(file) = &file {
        lock(dir, file)?;
    }
    for name in [AREAS[0], AREAS[1], STORE] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory => {
                return Err(Error::Io { doing: "removing the store", source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

fn media(dir: &Path, file: File, options: &Options) -> Result<Media<Native>, Error> {
    let opening = Error::io("opening the store");
    let area = |name: &str| {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(name));
        options.and_then(FileMedium::new).map(Native::File)
    };
    let areas = [area(AREAS[0]).map_err(&opening)?, area(AREAS[1]).map_err(&opening)?];
    if options.backend == Backend::Shm && !is_in_memory(&file).map_err(&opening)? {
        return Err(Error::NotTmpfs { dir: dir.to_owned() });
    }
    let store = match options.backend {
        Backend::File if options.may_map => match DaxMedium::new(file).map_err(&opening)? {
            Ok(medium) => Ok(Native::Dax(medium)),
            Err(file) => FileMedium::new(file).map(Native::File),
        },
        Backend::File => FileMedium::new(file).map(Native::File),
        Backend::Shm => ShmMedium::new(file).map(Native::Shm),
    };
    Ok(Media { store: store.map_err(&opening)?, areas })
}

fn lock(dir: &Path, file: &File) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned(), pid: lock_holder(file) }),
        Err(TryLockError::Error(source)) => Err(Error::Io { doing: "locking the store", source }),
    }
}

/// The process that holds the lock, from the kernel's list of locks.
fn lock_holder(file: &File) -> Option<u32> {
    let found = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let id = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let line = locks.lines().find(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word == id))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// Refuses memory that was written before the machine last started: what of it was whole then is not known.
pub(crate) fn check_boot(superblock: &Superblock, now: [u8; 16]) -> Result<(), Error> {
    let known = now != [0; 16] && superblock.boot_id != [0; 16];
    let other = superblock.backend == Backend::Shm && known && superblock.boot_id != now;
    if other { Err(Error::OtherBoot) } else { Ok(()) }
}

/// The machine's present boot, or zero if the system does not tell.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or([0; 16], u128::to_be_bytes)
}

/// A number that no other store has, from the standard library's seed.
pub(crate) fn random_salt() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

macro_rules! on_any {
    ($self:ident, $medium:ident => $call:expr) => {
        match $self {
            Native::File($medium) => $call,
            Native::Shm($medium) => $call,
            Native::Dax($medium) => $call,
        }
    };
}

impl Medium for Native {
    fn size(&self) -> u64 {
        on_any!(self, medium => medium.size())
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        on_any!(self, medium => medium.resize(size))
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        on_any!(self, medium => medium.read(offset, into))
    }

    #[inline]
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        on_any!(self, medium => medium.write(offset, bytes))
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        on_any!(self, medium => medium.flush())
    }

    #[inline]
    fn gathers(&self) -> bool {
        on_any!(self, medium => medium.gathers())
    }

    fn guarantee(&self) -> Guarantee {
        on_any!(self, medium => medium.guarantee())
    }

    fn name(&self) -> &'static str {
        on_any!(self, medium => medium.name())
    }
}
