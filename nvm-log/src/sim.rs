//! The `Sim` medium, for tests: memory that remembers every store and flush, so that a crash can be put at any moment
//! and keep any part of what was not flushed.
//!
//! A workload runs once. Then, for each number of events, [`SimDisk::crash_at`] gives what was durable at that moment and the *pieces*
//! that were not: each store since the last flush of its medium, cut into units. [`CrashPoint::image`] keeps the pieces that
//! the test chooses, in the order stored; so a unit that was stored twice may show its old, its first or its second value.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::medium::{Guarantee, Media, Medium};

/// Contents of the three media: store, area a, area b.
pub type Images = [Vec<u8>; 3];

#[derive(Clone, Debug)]
enum Event {
    Store { which: usize, offset: usize, bytes: Vec<u8> },
    Resize { which: usize, size: usize },
    Flush { which: usize },
}

#[derive(Debug)]
struct Journal {
    unit: usize,
    base: Images,
    visible: Images,
    events: Vec<Event>,
    flushes_left: Option<usize>,
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
            flushes_left: None,
        };
        SimDisk { journal: Arc::new(Mutex::new(journal)) }
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

    /// What every process sees now.
    pub fn visible(&self) -> Images {
        lock(&self.journal).visible.clone()
    }

    /// After this many more flushes, every flush fails.
    pub fn fail_after_flushes(&self, flushes: usize) {
        lock(&self.journal).flushes_left = Some(flushes);
    }

    /// The state of the media when the machine stops after so many events.
    pub fn crash_at(&self, events: usize) -> CrashPoint {
        let journal = lock(&self.journal);
        let mut point = CrashPoint { durable: journal.base.clone(), pieces: Vec::new() };
        for event in &journal.events[..events.min(journal.events.len())] {
            match event {
                Event::Flush { which } => point.flush(*which),
                Event::Resize { .. } => point.pieces.push(event.clone()),
                Event::Store { which, offset, bytes } => point.cut(journal.unit, *which, *offset, bytes),
            }
        }
        point
    }
}

impl CrashPoint {
    fn cut(&mut self, unit: usize, which: usize, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = (unit - offset % unit).min(bytes.len());
            self.pieces.push(Event::Store { which, offset, bytes: bytes[..len].to_vec() });
            (offset, bytes) = (offset + len, &bytes[len..]);
        }
    }

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

impl Sim {
    fn record(&self, event: Event) {
        let mut journal = lock(&self.journal);
        apply(&mut journal.visible, &event);
        journal.events.push(event);
    }
}

impl Medium for Sim {
    fn size(&self) -> u64 {
        lock(&self.journal).visible[self.which].len() as u64
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        self.record(Event::Resize { which: self.which, size });
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
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= self.size());
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.record(Event::Store { which: self.which, offset: offset as usize, bytes: bytes.to_vec() });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        {
            let mut journal = lock(&self.journal);
            match &mut journal.flushes_left {
                Some(0) => return Err(io::Error::other("simulated")),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        self.record(Event::Flush { which: self.which });
        Ok(())
    }

    fn gathers(&self) -> bool {
        true
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Volatile
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}
