//! The parts of a running member, and how they become its threads: the core from what the store holds, the writer, the replica thread.
//!
//! Why it is right: the core is made from a whole store only; a damaged one is repaired first, on the replica thread itself, since the others are to be asked.
//! However that thread ends, the log writer has ended, and the store is closed, before the end is announced.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Receiver;
use tokio::sync::watch;

use super::break_point::BreakPoints;
use super::handle::Ended;
use super::inbox::{Inbox, Request};
use super::link::{LinkContext, Links};
use super::log_writer::{self, Writer};
use super::node::{NodeSettings, StartError};
use super::record_writer::RecordWriter;
use super::rejoin::Rejoin;
use super::repair_thread::{BeginAnew, RepairThread};
use super::replica_thread::{Clock, ReplicaThread, ThreadState};
use super::store::{Contents, RecordStore};
use crate::repair::{Damaged, Repair};
use crate::{
    Application, ClusterId, Founding, Guard, Identity, MemberId, MemoryId, Micros, Recovered, Replica, Settings,
    StateMachine, Status, Viewstamp,
};

/// An opened store, of whichever mode.
pub(super) struct Opened<S> {
    pub(super) store: S,
    /// For people, as in "file, durable".
    pub(super) name: String,
    /// A record is written faster than another thread wakes up.
    pub(super) inline: bool,
    /// Room for the log.
    pub(super) log_bytes: u64,
    pub(super) contents: Contents,
    /// In the modes in which a damaged store is not given up at once.
    pub(super) begin_anew: Option<BeginAnew<S>>,
    /// In the mode `ring`: its memory, and whose memory is its second.
    pub(super) pair: Option<(MemoryId, Option<Guard>)>,
}

impl<S> Opened<S> {
    pub(super) fn whole(name: String, log_bytes: u64, store: S, recovered: Recovered) -> Self {
        let contents = Contents::Whole(recovered);
        Opened { store, name, inline: true, log_bytes, contents, begin_anew: None, pair: None }
    }
}

/// What the member begins as.
pub(super) enum Core<A, S> {
    Member(Box<Replica<A>>),
    /// Its log is damaged: the replica is made when it is whole.
    Repair(Box<Repair>, A, BeginAnew<S>),
}

impl<A: StateMachine, S> Core<A, S> {
    pub(super) fn status(&self) -> Status {
        match self {
            Core::Member(replica) => replica.status(),
            Core::Repair(repair, ..) => repair.status(),
        }
    }
}

/// What the shell itself needs of what was found.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) cluster: ClusterId,
    pub(super) entered: u64,
    pub(super) last: Viewstamp,
}

impl Found {
    pub(super) fn of(recovered: &Recovered) -> Self {
        let snapshot = recovered.snapshot.as_ref().map(|image| image.viewstamp);
        let logged = recovered.entries.last().map(|entry| entry.viewstamp);
        Found {
            identity: recovered.identity,
            cluster: recovered.control.cluster(),
            entered: recovered.control.config.as_ref().map_or(0, |config| config.last.number),
            last: logged.or(snapshot).unwrap_or_default(),
        }
    }
}

/// What a core is made with.
pub(super) struct Makes {
    pub(super) settings: NodeSettings,
    pub(super) log_bytes: u64,
    pub(super) clock: Clock,
}

impl Makes {
    pub(super) fn core<A: StateMachine, S>(
        &self,
        contents: Contents,
        application: A,
        begin_anew: Option<BeginAnew<S>>,
    ) -> Result<Core<A, S>, StartError> {
        match (contents, begin_anew) {
            (Contents::Whole(recovered), _) => Ok(Core::Member(Box::new(self.replica(recovered, application)?))),
            (Contents::Damaged(damaged), Some(begin_anew)) => {
                Ok(Core::Repair(Box::new(self.repair(damaged)?), application, begin_anew))
            }
            (Contents::Damaged(damaged), None) => Err(self.damaged(damaged.ops)),
        }
    }

    pub(super) fn replica<A: StateMachine>(
        &self,
        recovered: Recovered,
        application: A,
    ) -> Result<Replica<A>, StartError> {
        let settings = &self.settings;
        let mut members: Vec<_> =
            settings.members.iter().map(|(id, endpoint, kind)| (*id, endpoint.to_string(), *kind)).collect();
        members.sort_by_key(|(id, ..)| *id);
        let own = members.iter().find(|(id, ..)| *id == settings.member);
        let core_settings = Settings {
            address: own.map_or_else(String::new, |own| own.1.clone()),
            founding: Founding { name: settings.cluster.clone(), members, mode: settings.durability.to_string() },
            timing: settings.timing,
            snapshot_every_bytes: settings.snapshot_every_bytes,
            log_capacity_bytes: usize::try_from(self.log_bytes).unwrap_or(usize::MAX),
        };
        Replica::new(core_settings, recovered, application, rand::random(), self.clock.now())
            .map_err(|problem| StartError::Content { dir: settings.data_dir.clone(), problem })
    }

    fn repair(&self, damaged: Damaged) -> Result<Repair, StartError> {
        let told: Vec<MemberId> = self.settings.members.iter().map(|(member, ..)| *member).collect();
        let ops = damaged.ops.clone();
        let repair = Repair::new(damaged, &told, self.settings.timing);
        if repair.has_others() { Ok(repair) } else { Err(self.damaged(ops)) }
    }

    fn damaged(&self, ops: String) -> StartError {
        StartError::Damaged { dir: self.settings.data_dir.clone(), ops }
    }
}

/// Where records go, and the thread that writes them, if there is one.
pub(super) fn writer<S: RecordStore>(
    store: S,
    inline: bool,
    inbox: &Arc<Inbox>,
) -> Result<(Writer<S>, Option<JoinHandle<()>>), StartError> {
    let writer = RecordWriter::new(store);
    if inline {
        return Ok((Writer::Inline(writer, Default::default()), None));
    }
    let (groups, waiting) = log_writer::queue();
    let inbox = Arc::clone(inbox);
    let thread = spawn("log-writer", move || {
        let run = std::panic::AssertUnwindSafe(|| log_writer::run(writer, &waiting, &inbox));
        if std::panic::catch_unwind(run).is_err() {
            inbox.fail("the log writer failed an assertion: this is a bug".into());
        }
    })?;
    Ok((Writer::Thread(groups), Some(thread)))
}

/// What the replica thread is made of, beside the core and the store.
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) tick: Micros,
    pub(super) requests: Receiver<Request>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) links: Links,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) break_points: Arc<BreakPoints>,
    pub(super) began: Instant,
}

impl Parts {
    pub(super) fn replica_thread<A, S>(
        self,
        replica: Replica<A>,
        writer: Writer<S>,
        found: &Found,
    ) -> ReplicaThread<A, S> {
        let Parts { clock, tick, requests, inbox, links, status, break_points, began } = self;
        let rejoin = Rejoin::new(began, found.last.op);
        let state = ThreadState::new(found.entered, found.last);
        let ring = None;
        ReplicaThread {
            replica,
            clock,
            tick,
            requests,
            inbox,
            writer,
            links,
            status,
            break_points,
            rejoin,
            ring,
            state,
        }
    }
}

/// A replica thread that is ready, and the thread that writes its records.
pub(super) type Ready<A, S> = (ReplicaThread<A, S>, Option<JoinHandle<()>>);

/// Repairs the log of a member first; none if it cannot go on, or is to end.
pub(super) fn repaired<A: Application, S: RecordStore>(
    parts: Parts,
    makes: &Makes,
    context: &LinkContext,
    (store, inline): (S, bool),
    repair: Repair,
    mut application: A,
    begin_anew: BeginAnew<S>,
) -> Option<Ready<A, S>> {
    let Parts { clock, tick, requests, inbox, links, status, .. } = &parts;
    let (clock, tick) = (*clock, *tick);
    let application_while = &mut application;
    let mut thread =
        RepairThread { clock, tick, requests, inbox, links, context, status, application: application_while };
    let fail = |line: String| inbox.fail(line);
    let repaired = thread.run(repair, store, begin_anew);
    let (store, recovered) = repaired.map_err(|error| fail(log_writer::fault_line(&error))).ok()??;
    let found = Found::of(&recovered);
    let replica = makes.replica(recovered, application).map_err(|error| fail(error.to_string())).ok()?;
    let (writer, log_writer) = writer(store, inline, inbox).map_err(|error| fail(error.to_string())).ok()?;
    Some((parts.replica_thread(replica, writer, &found), log_writer))
}

/// Runs the replica thread's work, and announces how it ended once the store is closed.
pub(super) struct Supervisor {
    pub(super) inbox: Arc<Inbox>,
    pub(super) ended: watch::Sender<Ended>,
}

impl Supervisor {
    pub(super) fn run<A: Application, S: RecordStore>(self, begin: impl FnOnce() -> Option<Ready<A, S>>) {
        let Supervisor { inbox, ended } = self;
        let mut log_writer = None;
        let run = std::panic::AssertUnwindSafe(|| {
            if let Some((thread, writer)) = begin() {
                log_writer = writer;
                thread.run();
            }
        });
        if std::panic::catch_unwind(run).is_err() {
            inbox.fail("the replica failed an assertion: this is a bug".into());
        }
        if let Some(log_writer) = log_writer {
            drop(log_writer.join());
        }
        let fault = inbox.fault();
        if let Some(line) = &fault {
            tracing::error!("this member stops: {line}");
        }
        ended.send_replace(Some(fault.map_or(Ok(()), Err)));
    }
}

pub(super) fn spawn(
    name: &str,
    work: impl FnOnce() + std::marker::Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(StartError::Thread)
}
