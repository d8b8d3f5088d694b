//! Media images that are changed in place and changed back, so that a crash image costs what differs and not the whole.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use crate::medium::{Guarantee, Media, Medium};
use crate::sim::{Event, Images};

#[derive(Debug)]
struct State {
    images: Images,
    /// What was changed: medium, offset, how many bytes of `old` were there, and the medium's size.
    undo: Vec<(usize, usize, usize, usize)>,
    old: Vec<u8>,
    journal: Option<Vec<Event>>,
}

/// Three media on which every change can be taken back.
#[derive(Clone, Debug)]
pub(super) struct Canvas {
    state: Rc<RefCell<State>>,
}

/// One medium of a canvas.
#[derive(Debug)]
pub(super) struct Sheet {
    state: Rc<RefCell<State>>,
    which: usize,
}

/// A moment to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(usize);

impl Canvas {
    pub(super) fn new(images: Images) -> Canvas {
        let state = State { images, undo: Vec::new(), old: Vec::new(), journal: None };
        Canvas { state: Rc::new(RefCell::new(state)) }
    }

    pub(super) fn media(&self) -> Media<Sheet> {
        let sheet = |which| Sheet { state: Rc::clone(&self.state), which };
        Media { store: sheet(0), areas: [sheet(1), sheet(2)] }
    }

    pub(super) fn images(&self) -> Images {
        self.state.borrow().images.clone()
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.state.borrow().undo.len())
    }

    /// Takes back all that was done since the mark.
    pub(super) fn go_back(&self, mark: Mark) {
        let state = &mut *self.state.borrow_mut();
        while state.undo.len() > mark.0 {
            let Some((which, offset, len, size)) = state.undo.pop() else { break };
            let image = &mut state.images[which];
            image.resize(size, 0);
            let from = state.old.len() - len;
            image[offset..offset + len].copy_from_slice(&state.old[from..]);
            state.old.truncate(from);
        }
    }

    pub(super) fn apply(&self, event: &Event) {
        self.state.borrow_mut().apply(event);
    }

    /// Runs `work` and tells what it stored and flushed.
    pub(super) fn recording<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Event>) {
        self.state.borrow_mut().journal = Some(Vec::new());
        let result = work();
        let events = self.state.borrow_mut().journal.take().unwrap_or_default();
        (result, events)
    }
}

impl State {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Store { which, offset, bytes } => self.store(*which, *offset, bytes),
            Event::Resize { which, size } => self.resize(*which, *size),
            Event::Flush { .. } => {}
        }
    }

    fn store(&mut self, which: usize, offset: usize, bytes: &[u8]) {
        let image = &mut self.images[which];
        let (size, end) = (image.len(), offset + bytes.len());
        let kept = size.min(end).saturating_sub(offset);
        self.undo.push((which, offset.min(size), kept, size));
        self.old.extend_from_slice(&image[offset.min(size)..offset.min(size) + kept]);
        // A crash may keep a store and lose the growth before it.
        if size < end {
            image.resize(end, 0);
        }
        image[offset..end].copy_from_slice(bytes);
    }

    fn resize(&mut self, which: usize, size: usize) {
        let image = &mut self.images[which];
        let cut = size.min(image.len());
        self.undo.push((which, cut, image.len() - cut, image.len()));
        self.old.extend_from_slice(&image[cut..]);
        image.resize(size, 0);
    }
}

impl Medium for Sheet {
    fn size(&self) -> u64 {
        self.state.borrow().images[self.which].len() as u64
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        state.resize(self.which, size as usize);
        if let Some(journal) = &mut state.journal {
            journal.push(Event::Resize { which: self.which, size: size as usize });
        }
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let state = self.state.borrow();
        let found = state.images[self.which].get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        assert!(offset as usize + bytes.len() <= state.images[self.which].len(), "stores stay within the medium");
        state.store(self.which, offset as usize, bytes);
        if let Some(journal) = &mut state.journal {
            journal.push(Event::Store { which: self.which, offset: offset as usize, bytes: bytes.to_vec() });
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(journal) = &mut self.state.borrow_mut().journal {
            journal.push(Event::Flush { which: self.which });
        }
        Ok(())
    }

    fn gathers(&self) -> bool {
        false
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Volatile
    }

    fn boot_id(&self) -> [u8; 16] {
        [0; 16]
    }

    fn name(&self) -> &'static str {
        "canvas"
    }
}
