//! A store on simulated media that is worked with, and its model beside it.

use super::identity;
use super::model::{LogOp, Model};
use crate::sim::{Images, Sim, SimDisk};
use crate::{Error, Frame, Options, SnapshotMeta, Store};

/// Sets this store's bytes apart from any other's.
pub(super) const SALT: u64 = 0x5a17;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Ops in the frame, bytes of its body.
    Append(u32, usize),
    /// Ops to drop.
    Truncate(u64),
    Control,
    Flush,
    /// Snapshot of everything, then release all but so many ops.
    Snapshot(u64),
    /// So many bytes of a snapshot; of the present state, where none is under way.
    Part(usize),
    /// Switches to the snapshot that is under way, then releases all but so many ops before it.
    Finish(u64),
    /// Ops beyond the last one, and whether the suffix is kept.
    Install(u64, bool),
    /// The process ends and starts again; the machine goes on.
    Reopen,
}

/// How a medium tears, and whether frames are gathered for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tearing {
    /// Memory: words of eight bytes, each for itself.
    Words,
    /// Memory that keeps lines whole.
    Lines,
    /// A disk with sectors of so many bytes.
    Sectors(usize),
}

impl Tearing {
    pub(super) fn unit_bytes(self) -> usize {
        match self {
            Tearing::Words => 8,
            Tearing::Lines => 64,
            Tearing::Sectors(bytes) => bytes,
        }
    }

    pub(super) fn disk(self, images: Images) -> SimDisk {
        let disk = SimDisk::new(self.unit_bytes(), images);
        disk.set_gathers(matches!(self, Tearing::Sectors(_)));
        disk
    }
}

pub(super) struct Run {
    pub(super) disk: SimDisk,
    pub(super) store: Store<Sim>,
    pub(super) model: Model,
    pub(super) view: u64,
    /// Events until it was open.
    pub(super) opened: usize,
    options: Options,
    /// A snapshot that is under way.
    parts: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Run {
    pub(super) fn format(tearing: Tearing, options: &Options) -> Run {
        let disk = tearing.disk(Images::default());
        let store = Store::format_on(disk.media(), options, identity(), SALT).expect("simulated media have room");
        let formatted = disk.visible();
        drop(store);
        Run::open(tearing, formatted, Model::empty(), 1, options).expect("a new store opens")
    }

    /// Opens images that the model explains.
    pub(super) fn open(
        tearing: Tearing,
        images: Images,
        mut model: Model,
        view: u64,
        options: &Options,
    ) -> Result<Run, String> {
        let disk = tearing.disk(images);
        let (store, _) = Store::open_on(disk.media(), options).map_err(|error| error.to_string())?;
        model.start();
        let opened = disk.events();
        Ok(Run { disk, store, model, view, opened, options: options.clone(), parts: None })
    }

    pub(super) fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        steps.iter().try_for_each(|step| self.step(*step))
    }

    pub(super) fn step(&mut self, step: Step) -> Result<(), String> {
        let flushed = match step {
            Step::Append(count, len) => self.append(count, len)?,
            Step::Truncate(ops) => self.truncate(ops)?,
            Step::Control => {
                let records = self.model.records();
                let blob = vec![records as u8; 3 + records * 5 % 90];
                self.store.set_control(&blob).map_err(said)?;
                self.model.tell(|told| told.blob = Some(blob));
                false
            }
            Step::Flush => {
                self.store.flush().map_err(said)?;
                true
            }
            Step::Snapshot(keep) => self.snapshot(keep)?,
            Step::Part(bytes) => self.part(bytes)?,
            Step::Finish(keep) => self.finish(keep)?,
            Step::Install(ahead, keep) => self.install(ahead, keep)?,
            Step::Reopen => {
                let bounds = (self.model.acked(), self.model.asked());
                let (store, found) = Store::open_on(self.disk.media(), &self.options).map_err(said)?;
                (self.store, self.parts) = (store, None);
                let kept = self.model.explain(&found, bounds)?;
                self.model.cut_to(kept);
                true
            }
        };
        self.model.mark(self.disk.events(), flushed);
        Ok(())
    }

    /// The frame that would follow.
    pub(super) fn next_frame(&self, count: u32, len: usize) -> Frame {
        let (last_view, last_op) = self.store.last_viewstamp();
        let body = (0..len).map(|at| (at as u64 * 7 + last_op + self.view * 31 + 1) as u8).collect();
        Frame { kind: 5, view: self.view, first_op: last_op + 1, count, previous: (last_view, last_op), body }
    }

    // Each of these says whether everything asked for is now durable.

    fn append(&mut self, count: u32, len: usize) -> Result<bool, String> {
        let frame = self.next_frame(count, len);
        match self.store.append(&frame) {
            Ok(()) => self.model.push(LogOp::Append(frame)),
            Err(Error::Full { .. }) => return self.snapshot(1),
            Err(error) => return Err(said(error)),
        }
        Ok(false)
    }

    fn truncate(&mut self, ops: u64) -> Result<bool, String> {
        let low = self.store.head_op().max(self.store.snapshot().map_or(0, |meta| meta.op));
        let low = low.max(self.parts.as_ref().map_or(0, |(meta, _)| meta.op));
        let op = self.store.last_op().saturating_sub(ops).max(low);
        self.view += 1;
        match self.store.truncate_after(op) {
            Ok(()) => self.model.push(LogOp::Truncate(op)),
            Err(Error::Full { .. }) => return self.snapshot(1),
            Err(error) => return Err(said(error)),
        }
        Ok(false)
    }

    fn snapshot(&mut self, keep: u64) -> Result<bool, String> {
        self.parts = None;
        self.part(100 + self.store.last_op() as usize % 7)?;
        self.finish(keep)
    }

    fn part(&mut self, bytes: usize) -> Result<bool, String> {
        if self.parts.is_none() {
            let (view, op) = self.store.last_viewstamp();
            let meta = SnapshotMeta { view, op, tag: self.model.records() as u64 };
            self.store.begin_snapshot(meta).map_err(said)?;
            self.parts = Some((meta, Vec::new()));
        }
        let Some((meta, data)) = &mut self.parts else { return Ok(false) };
        let part: Vec<u8> = (0..bytes).map(|at| (meta.tag * 11 + (data.len() + at) as u64 / 8) as u8).collect();
        data.extend_from_slice(&part);
        self.store.append_snapshot(&part).map_err(said)?;
        Ok(false)
    }

    fn finish(&mut self, keep: u64) -> Result<bool, String> {
        let Some((meta, data)) = self.parts.take() else { return Ok(false) };
        self.model.tell(|told| told.snapshot = Some((meta, data)));
        self.store.finish_snapshot().map_err(said)?;
        self.model.mark(self.disk.events(), true);
        let released = meta.op.saturating_sub(keep);
        self.store.release_prefix(released).map_err(said)?;
        self.model.tell(|told| told.released = told.released.max(released));
        Ok(false)
    }

    fn install(&mut self, ahead: u64, keep: bool) -> Result<bool, String> {
        let tag = self.model.records() as u64;
        let meta = SnapshotMeta { view: self.view, op: self.store.last_op() + ahead, tag };
        let (data, blob) = (vec![tag as u8; 70], vec![tag as u8; 9]);
        if !keep || ahead > 0 {
            self.model.push(LogOp::Drop(meta.op, self.model.records()));
        }
        self.model.tell(|told| (told.snapshot, told.blob) = (Some((meta, data.clone())), Some(blob.clone())));
        self.parts = None;
        self.store.begin_snapshot(meta).map_err(said)?;
        self.store.append_snapshot(&data).map_err(said)?;
        self.store.install_snapshot(keep, &blob).map_err(said)?;
        Ok(true)
    }
}

pub(super) fn said(error: Error) -> String {
    error.to_string()
}
