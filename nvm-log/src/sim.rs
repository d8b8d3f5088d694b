//! The `Sim` medium, for tests: memory that remembers every store and flush, so that a crash can be put at any moment
//! and keep any part of what was not flushed.
//!
//! A workload runs once. Then, for each number of events, [`SimDisk::crash_at`] gives what was durable at that moment and the *pieces*
//! that were not: each store since the last flush of its medium, cut into units. [`CrashPoint::image`] keeps the pieces that
//! the test chooses, in the order stored; so a unit that was stored twice may show its old, its first or its second value.
//!
//! A long run cannot keep all its history. [`SimDisk::forgetful`] keeps only what was not flushed; it crashes in place
//! ([`SimDisk::lose_power`]), and goes on.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::medium::{Guarantee, Media, Medium};

/// Contents of the three media: store, area a, area b.
pub type Images = [Vec<u8>; 3];

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Store { which: usize, offset: usize, bytes: Vec<u8> },
    Resize { which: usize, size: usize },
    Flush { which: usize },
}

#[derive(Debug)]
struct Journal {
    unit: usize,
    base: Images,
    visible: Images,
    /// Since `base`.
    events: Vec<Event>,
    keeps_history: bool,
    flushes_left: Option<usize>,
    failure: Option<Failure>,
    gathers: bool,
    boot_id: [u8; 16],
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// Stores and flushes that still succeed.
    operations_left: usize,
    /// How the later ones fail.
    kind: io::ErrorKind,
    /// What of the first store that fails is stored all the same.
    kept_bytes: usize,
}

/// A simulated machine with the media of one store.
#[derive(Clone, Debug)]
pub struct SimDisk {
    journal: Arc<Mutex<Journal>>,
}

/// One medium of a [`SimDisk`].
#[derive(Debug)]
pub struct Sim {
    journal: Arc<Mutex<Journal>>,
    which: usize,
}

/// A moment at which the machine loses power.
#[derive(Clone, Debug)]
pub struct CrashPoint {
    durable: Images,
    pieces: Vec<Event>,
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// Media that hold these bytes, durably. Stores are cut into units of `unit_bytes` (8, 64 or 512, say).
    pub fn new(unit_bytes: usize, images: Images) -> SimDisk {
        let journal = Journal {
            unit: unit_bytes.max(1),
            base: images.clone(),
            visible: images,
            events: Vec::new(),
            keeps_history: true,
            flushes_left: None,
            failure: None,
            gathers: true,
            boot_id: [0; 16],
        };
        SimDisk { journal: Arc::new(Mutex::new(journal)) }
    }

    /// The same, empty, and remembering only what was not flushed: it can crash now, and not at an earlier moment.
    pub fn forgetful(unit_bytes: usize) -> SimDisk {
        let disk = SimDisk::new(unit_bytes, Images::default());
        lock(&disk.journal).keeps_history = false;
        disk
    }

    /// Handles to the media. Taking them again is a crash of the process alone: every store is still visible.
    pub fn media(&self) -> Media<Sim> {
        let medium = |which| Sim { journal: Arc::clone(&self.journal), which };
        Media { store: medium(0), areas: [medium(1), medium(2)] }
    }

    /// Stores and flushes so far.
    pub fn events(&self) -> usize {
        lock(&self.journal).events.len()
    }

    /// What the media held at first, and all that was done since.
    #[cfg(test)]
    pub(crate) fn history(&self) -> (Images, Vec<Event>) {
        let journal = lock(&self.journal);
        (journal.base.clone(), journal.events.clone())
    }

    /// What every process sees now.
    pub fn visible(&self) -> Images {
        lock(&self.journal).visible.clone()
    }

    /// After this many more flushes, every flush fails.
    pub fn fail_after_flushes(&self, flushes: usize) {
        lock(&self.journal).flushes_left = Some(flushes);
    }

    /// After this many more stores and flushes, each fails in this way. Of the first store that fails the beginning is
    /// stored all the same, if that many bytes are fewer than all.
    pub fn fail_after(&self, operations_left: usize, kind: io::ErrorKind, kept_bytes: usize) {
        lock(&self.journal).failure = Some(Failure { operations_left, kind, kept_bytes });
    }

    /// Whether a store or flush would fail now.
    pub fn is_failing(&self) -> bool {
        lock(&self.journal).failure.is_some_and(|failure| failure.operations_left == 0)
    }

    /// Whether frames should be gathered into one store, as for a file; at first they should.
    pub fn set_gathers(&self, gathers: bool) {
        lock(&self.journal).gathers = gathers;
    }

    /// Size of a medium, in bytes. 0 is the store, 1 and 2 are the areas.
    pub fn size(&self, which: usize) -> usize {
        lock(&self.journal).visible[which].len()
    }

    /// Nothing fails any more. Returns whether something had failed, or would have next.
    pub fn mend(&self) -> bool {
        let mut journal = lock(&self.journal);
        journal.flushes_left = None;
        journal.failure.take().is_some_and(|failure| failure.operations_left == 0)
    }

    /// The machine's boot, as the store is told it.
    pub fn set_boot_id(&self, boot_id: [u8; 16]) {
        lock(&self.journal).boot_id = boot_id;
    }

    /// The bytes of a medium go bad, whether flushed or not. 0 is the store, 1 and 2 are the areas.
    ///
    /// # Panics
    /// There is no such medium, or it is smaller.
    pub fn damage(&self, which: usize, range: Range<usize>, change: impl Fn(&mut [u8])) {
        let journal = &mut *lock(&self.journal);
        change(&mut journal.visible[which][range.clone()]);
        if let Some(durable) = journal.base[which].get_mut(range) {
            change(durable);
        }
    }

    /// How many pieces a loss of power may now keep or lose.
    pub fn unflushed_pieces(&self) -> usize {
        let journal = lock(&self.journal);
        let cut = |event: &Event| match event {
            Event::Store { offset, bytes, .. } => (offset + bytes.len()).div_ceil(journal.unit) - offset / journal.unit,
            Event::Resize { .. } => 1,
            Event::Flush { .. } => 0,
        };
        journal.events.iter().map(cut).sum()
    }

    /// The machine loses power, here and now: of what was not flushed these pieces stay, in the order stored.
    pub fn lose_power(&self, mut keep: impl FnMut(usize) -> bool) {
        let journal = &mut *lock(&self.journal);
        let mut point = CrashPoint { durable: Images::default(), pieces: Vec::new() };
        for event in std::mem::take(&mut journal.events) {
            match event {
                Event::Store { which, offset, ref bytes } => {
                    restore(&journal.base[which], &mut journal.visible[which], offset..offset + bytes.len());
                    cut(&mut point.pieces, journal.unit, which, offset, bytes);
                }
                Event::Resize { which, .. } => {
                    let (durable, visible) = (&journal.base[which], &mut journal.visible[which]);
                    visible.truncate(durable.len());
                    visible.extend_from_slice(&durable[visible.len()..]);
                    point.pieces.push(event);
                }
                Event::Flush { .. } => {}
            }
        }
        for (_, piece) in point.pieces.iter().enumerate().filter(|(index, _)| keep(*index)) {
            apply(&mut journal.base, piece);
            apply(&mut journal.visible, piece);
        }
    }

    /// The state of the media when the machine stops after so many events.
    pub fn crash_at(&self, events: usize) -> CrashPoint {
        let journal = lock(&self.journal);
        let mut point = CrashPoint { durable: journal.base.clone(), pieces: Vec::new() };
        for event in &journal.events[..events.min(journal.events.len())] {
            match event {
                Event::Flush { which } => point.flush(*which),
                Event::Resize { .. } => point.pieces.push(event.clone()),
                Event::Store { which, offset, bytes } => cut(&mut point.pieces, journal.unit, *which, *offset, bytes),
            }
        }
        point
    }
}

/// Adds a store to the pieces that a crash keeps or loses each for itself.
pub(crate) fn cut(pieces: &mut Vec<Event>, unit: usize, which: usize, mut offset: usize, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let len = (unit - offset % unit).min(bytes.len());
        pieces.push(Event::Store { which, offset, bytes: bytes[..len].to_vec() });
        (offset, bytes) = (offset + len, &bytes[len..]);
    }
}

impl CrashPoint {
    fn flush(&mut self, flushed: usize) {
        for piece in std::mem::take(&mut self.pieces) {
            match &piece {
                Event::Store { which, .. } | Event::Resize { which, .. } if *which != flushed => {
                    self.pieces.push(piece)
                }
                _ => apply(&mut self.durable, &piece),
            }
        }
    }

    /// How many pieces a crash may keep or lose.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// What is left after a crash that keeps these pieces.
    pub fn image(&self, mut keep: impl FnMut(usize) -> bool) -> Images {
        let mut images = self.durable.clone();
        for (_, piece) in self.pieces.iter().enumerate().filter(|(index, _)| keep(*index)) {
            apply(&mut images, piece);
        }
        images
    }
}

/// Shows again what is durable there.
fn restore(durable: &[u8], visible: &mut [u8], range: Range<usize>) {
    let end = range.end.min(durable.len()).min(visible.len());
    if range.start < end {
        visible[range.start..end].copy_from_slice(&durable[range.start..end]);
    }
}

fn apply(images: &mut Images, event: &Event) {
    match event {
        Event::Store { which, offset, bytes } => {
            let image = &mut images[*which];
            if image.len() < offset + bytes.len() {
                image.resize(offset + bytes.len(), 0);
            }
            image[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Event::Resize { which, size } => images[*which].resize(*size, 0),
        Event::Flush { .. } => {}
    }
}

impl Journal {
    /// Counts a store or a flush.
    fn admit(&mut self) -> io::Result<()> {
        match &mut self.failure {
            Some(Failure { operations_left: 0, kind, .. }) => Err((*kind).into()),
            Some(failure) => {
                failure.operations_left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn record(&mut self, event: Event) {
        apply(&mut self.visible, &event);
        match event {
            Event::Flush { which } if !self.keeps_history => self.settle(which),
            event => self.events.push(event),
        }
    }

    /// A medium was flushed: what was stored to it needs not be remembered.
    fn settle(&mut self, flushed: usize) {
        let (base, events) = (&mut self.base, &mut self.events);
        events.retain(|event| match event {
            Event::Store { which, .. } | Event::Resize { which, .. } if *which == flushed => {
                apply(base, event);
                false
            }
            _ => true,
        });
    }
}

impl Medium for Sim {
    fn size(&self) -> u64 {
        lock(&self.journal).visible[self.which].len() as u64
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        let mut journal = lock(&self.journal);
        journal.admit()?;
        journal.record(Event::Resize { which: self.which, size });
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let journal = lock(&self.journal);
        let image = &journal.visible[self.which];
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(into.len())?));
        let found = range.and_then(|range| image.get(range)).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        into.copy_from_slice(found);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut journal = lock(&self.journal);
        let size = journal.visible[self.which].len() as u64;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let admitted = journal.admit();
        let kept = match &mut journal.failure {
            Some(failure) if admitted.is_err() => std::mem::take(&mut failure.kept_bytes).min(bytes.len()),
            _ => bytes.len(),
        };
        journal.record(Event::Store { which: self.which, offset: offset as usize, bytes: bytes[..kept].to_vec() });
        admitted
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut journal = lock(&self.journal);
        match &mut journal.flushes_left {
            Some(0) => return Err(io::Error::other("simulated")),
            Some(left) => *left -= 1,
            None => {}
        }
        journal.admit()?;
        journal.record(Event::Flush { which: self.which });
        Ok(())
    }

    fn gathers(&self) -> bool {
        lock(&self.journal).gathers
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Volatile
    }

    fn boot_id(&self) -> [u8; 16] {
        lock(&self.journal).boot_id
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores, flushes and resizes of all media, with nothing flushed at the end.
    fn work(disk: &SimDisk) {
        let Media { mut store, areas: [mut a, _] } = disk.media();
        let fill = |medium: &mut Sim, offset: u64, byte: u8| medium.write(offset, &[byte; 20]).expect("within");
        store.resize(64).expect("room");
        a.resize(24).expect("room");
        fill(&mut store, 3, 1);
        store.flush().expect("flushed");
        fill(&mut store, 10, 2);
        fill(&mut a, 0, 3);
        store.flush().expect("flushed");
        a.resize(64).expect("room");
        fill(&mut a, 30, 4);
        fill(&mut store, 5, 5);
        fill(&mut store, 12, 6);
    }

    #[test]
    fn a_disk_without_history_loses_power_like_one_with_it() {
        let whole = SimDisk::new(8, Images::default());
        work(&whole);
        let point = whole.crash_at(whole.events());
        for choice in 0..1 << point.pieces() {
            let disk = SimDisk::forgetful(8);
            work(&disk);
            assert_eq!((disk.unflushed_pieces(), disk.visible()), (point.pieces(), whole.visible()));
            disk.lose_power(|piece| choice >> piece & 1 == 1);
            assert_eq!(disk.visible(), point.image(|piece| choice >> piece & 1 == 1), "pieces {choice:b}");
            assert_eq!((disk.unflushed_pieces(), disk.crash_at(0).durable), (0, disk.visible()));
        }
    }

    #[test]
    fn after_so_many_operations_all_fail_until_it_is_mended() {
        let disk = SimDisk::forgetful(8);
        let mut store = disk.media().store;
        store.resize(8).expect("room");
        disk.fail_after(1, io::ErrorKind::StorageFull, 2);
        assert!(store.write(0, &[1; 8]).is_ok());
        for _ in 0..2 {
            assert_eq!(store.write(0, &[2; 8]).expect_err("fails").kind(), io::ErrorKind::StorageFull);
        }
        assert!(store.flush().is_err());
        assert_eq!(disk.visible()[0], [2, 2, 1, 1, 1, 1, 1, 1]);
        assert!(disk.mend() && store.flush().is_ok());
    }
}
