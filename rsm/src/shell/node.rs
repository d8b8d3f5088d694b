//! A running member: its store, core, threads and links, from start to end.
//!
//! Why it is right: everything that can be wrong with the settings or the store is found before anything is sent. The
//! store stays open, and so locked, until the last thread that writes it has ended; only then is the end announced.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use nvm_log::{Backend, Options};
use tokio::sync::watch;
use wire::{Endpoint, Tls};

use super::assembly::{Core, Found, Makes, Opened, Parts, Supervisor, repaired, spawn, writer};
use super::break_point::{BreakPoint, BreakPoints};
use super::durability::Durability;
use super::epoch_store::EpochStore;
use super::format::FormatError;
use super::guarding::RingPart;
use super::handle::{Ended, Handle, Shared};
use super::inbox::{Ending, Inbox};
use super::incoming::Incoming;
use super::link::{Link, LinkContext, Links};
use super::peers::Peers;
use super::repair_thread::BeginAnew;
use super::replica_thread::{Clock, ReplicaThread};
use super::ring_store::{Places, RingStore};
use super::store::{self, RecordStore};
use crate::limits::BATCH_MAX_BYTES;
use crate::{Application, Kind, MEMBERS_MAX, MemberId, Timing, View};

/// The smallest ring: a frame takes a quarter of it at most, and must hold the largest batch.
const RING_MIN_BYTES: u64 = 8 * BATCH_MAX_BYTES as u64;

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its number.
    pub member: MemberId,
    /// The cluster's name, the same on all members.
    pub cluster: String,
    /// All members, this one too, the same on all of them.
    pub members: Vec<(MemberId, Endpoint, Kind)>,
    /// Where its store is, or is to be.
    pub data_dir: PathBuf,
    /// What the store is on, in the modes in which the log is in the data directory.
    pub backend: Backend,
    /// Says yes to a back end that does not survive a loss of power.
    pub allow_volatile: bool,
    /// What the log and the snapshots survive; the same on all members.
    pub durability: Durability,
    /// Where they are in [`Durability::Ring`]: a directory on tmpfs, this member's own.
    pub memory_dir: PathBuf,
    /// Size of the log, bytes; counts when the store is formatted.
    pub ring_bytes: u64,
    /// A snapshot is taken when the log has grown by this much, or by the last one's size if that is more, bytes.
    pub snapshot_every_bytes: usize,
    /// Timers.
    pub timing: Timing,
    /// This member's certificate: with it, members are dialled with TLS, and taken only as whom their certificates name.
    pub tls: Option<Tls>,
    /// Break points that are armed from the start; without effect unless the feature `break-points` is on.
    pub break_points: Vec<BreakPoint>,
}

impl NodeSettings {
    /// Settings with defaults for all but the names: a file of 64 MiB for the log, a snapshot each sixteenth of it while the
    /// state is smaller.
    pub fn new(
        member: MemberId,
        cluster: impl Into<String>,
        members: Vec<(MemberId, Endpoint, Kind)>,
        data_dir: impl Into<PathBuf>,
    ) -> Self {
        NodeSettings {
            member,
            cluster: cluster.into(),
            members,
            data_dir: data_dir.into(),
            backend: Backend::File,
            allow_volatile: false,
            durability: Durability::default(),
            memory_dir: PathBuf::new(),
            ring_bytes: 64 << 20,
            snapshot_every_bytes: 4 << 20,
            timing: Timing::default(),
            tls: None,
            break_points: Vec::new(),
        }
    }

    /// Whether they fit together; nothing is opened or made.
    ///
    /// # Errors
    /// [`StartError::Settings`] or [`StartError::Volatile`]: a start would fail at once, with the same line.
    pub fn check(&self) -> Result<(), StartError> {
        check(self)
    }
}

/// Why a member does not start; one line that says what to do. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not fit together.
    #[error("{0}")]
    Settings(String),
    /// The back end forgets at a loss of power, and nobody said that this is wanted.
    #[error(
        "the {0} back end does not survive a loss of power: choose the file back end, or allow a volatile store explicitly"
    )]
    Volatile(Backend),
    /// The store cannot be opened or formatted.
    #[error("store {}: {error}", dir.display())]
    Store {
        /// Where it is.
        dir: PathBuf,
        /// What is wrong.
        error: nvm_log::Error,
    },
    /// The store is another member's.
    #[error("the store in {} belongs to member {found}, not {member}: correct the id or the data directory", dir.display())]
    OtherMember {
        /// Where it is.
        dir: PathBuf,
        /// Whose it is.
        found: MemberId,
        /// Who wanted it.
        member: MemberId,
    },
    /// Durable entries are damaged or missing, and there is nobody to ask for them.
    #[error(
        "the store in {} is damaged: ops {ops} were durable and are lost; move the directory away and start with an empty \
         one, the member then catches up from the others as a new incarnation", dir.display()
    )]
    Damaged {
        /// Where it is.
        dir: PathBuf,
        /// Which ops.
        ops: String,
    },
    /// Its bytes are whole, and mean nothing to this program.
    #[error("the store in {}: {error}", dir.display())]
    Format {
        /// Where it is.
        dir: PathBuf,
        /// What is wrong.
        error: FormatError,
    },
    /// What it holds does not fit the settings or the state machine.
    #[error("the store in {}: {problem}", dir.display())]
    Content {
        /// Where it is.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system gives no thread.
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
}

/// A running member. Dropping it ends the member like a crash: what was not durable is gone; [`Handle::stop`] ends it in
/// good order.
#[derive(Debug)]
pub struct Node {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    ended: watch::Receiver<Ended>,
}

impl Node {
    /// Opens the store (or formats one, where the directory has none), and starts the member. Its links run on `runtime`;
    /// connections of other members are to be given to [`Handle::accept_peer`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start<A: Application>(
        settings: NodeSettings,
        application: A,
        runtime: tokio::runtime::Handle,
    ) -> Result<(Node, Handle), StartError> {
        check(&settings)?;
        let began = Instant::now();
        let NodeSettings { member, data_dir, memory_dir, backend, ring_bytes, .. } = &settings;
        match settings.durability {
            Durability::Nvm | Durability::FullSs => {
                let may_map = settings.durability == Durability::Nvm;
                let options = Options { backend: *backend, ring_bytes: *ring_bytes, may_map, ..Options::default() };
                let (store, contents) = store::open(data_dir, &options, *member)?;
                let log_bytes = store.ring_bytes();
                let name = store.backend();
                let inline = store.is_mapped();
                let dir = data_dir.clone();
                let begin_anew: BeginAnew<nvm_log::Store> =
                    Box::new(move |store, repair| store::begin_anew(&dir, &options, store, repair));
                let begin_anew = Some(begin_anew);
                let opened = Opened { name, inline, log_bytes, store, contents, begin_anew, pair: None };
                Node::start_on(opened, began, settings, application, runtime)
            }
            Durability::EpochSs => {
                let (store, recovered) = EpochStore::open(data_dir, *member)?;
                let opened = Opened::whole("memory".into(), *ring_bytes, store, recovered);
                Node::start_on(opened, began, settings, application, runtime)
            }
            Durability::Ring => {
                let peers: Vec<_> = settings.members.iter().map(|(id, at, _)| (*id, at.clone())).collect();
                let tls = settings.tls.as_ref();
                let places = Places { dir: data_dir, memory_dir, ring_bytes: *ring_bytes, peers: &peers, tls };
                let (store, recovered) = RingStore::open(&places, *member)?;
                let (log_bytes, pair) = (store.log_bytes(), Some(store.pair()));
                let opened = Opened { pair, ..Opened::whole("shared memory".into(), log_bytes, store, recovered) };
                Node::start_on(opened, began, settings, application, runtime)
            }
        }
    }

    fn start_on<A: Application, S: RecordStore>(
        opened: Opened<S>,
        began: Instant,
        settings: NodeSettings,
        application: A,
        runtime: tokio::runtime::Handle,
    ) -> Result<(Node, Handle), StartError> {
        let clock = Clock::start();
        let Opened { store, name, inline, log_bytes, contents, begin_anew, pair } = opened;
        let (tick, is_volatile) = (settings.timing.tick, settings.durability.is_volatile());
        let found = Found::of(contents.recovered());
        let (guard_sender, guard) = watch::channel(pair.and_then(|(_, guard)| guard).map(|guard| guard.member));
        let makes = Makes { settings: settings.clone(), log_bytes, clock };
        let core = makes.core(contents, application, begin_anew)?;

        let (inbox, requests) = Inbox::new();
        let inbox = Arc::new(inbox);
        let break_points = armed(&settings);
        let context = Arc::new(LinkContext {
            identity: parking_lot::Mutex::new(found.identity),
            cluster: parking_lot::Mutex::new(found.cluster),
            inbox: Arc::clone(&inbox),
            break_points: Arc::clone(&break_points),
            peers: Peers::default(),
            tls: settings.tls.clone(),
        });
        let (status_sender, status) = watch::channel(Arc::new(core.status()));
        let (ended_sender, ended) = watch::channel(None);
        let links = links(&settings, core.status().view.as_ref(), &context, runtime, ended.clone());
        let shared = Shared {
            clock,
            first_view: found.entered,
            durability: name,
            is_inline: inline,
            is_volatile,
            inbox: Arc::clone(&inbox),
            status,
            guard,
            ended: ended.clone(),
            incoming: Incoming::new(Arc::clone(&context)),
        };
        let parts = Parts {
            clock,
            tick,
            requests,
            inbox: Arc::clone(&inbox),
            links,
            status: status_sender,
            break_points,
            began,
        };
        let supervisor = Supervisor { inbox: Arc::clone(&inbox), ended: ended_sender };
        let thread = match core {
            Core::Member(mut replica) => {
                let (writer, log_writer) = writer(store, inline, &inbox)?;
                let ring = pair.map(|pair| RingPart::new(pair, &mut replica, clock.now(), guard_sender));
                let thread = ReplicaThread { ring, ..parts.replica_thread(*replica, writer, &found) };
                spawn("replica", move || supervisor.run(|| Some((thread, log_writer))))?
            }
            Core::Repair(repair, application, begin_anew) => {
                let work = move || repaired(parts, &makes, &context, (store, inline), *repair, application, begin_anew);
                spawn("replica", move || supervisor.run(work))?
            }
        };
        let handle = Handle { shared: Arc::new(shared) };
        Ok((Node { handle: handle.clone(), threads: vec![thread], ended }, handle))
    }

    /// Waits until the member has ended.
    ///
    /// # Errors
    /// It could not go on; one line says why.
    pub async fn wait(&self) -> Result<(), String> {
        match self.ended.clone().wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ok(())),
            Err(_) => Err("the replica thread is gone".into()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.shared.inbox.end(Ending::Abrupt);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn check(settings: &NodeSettings) -> Result<(), StartError> {
    let refuse = |line: String| Err(StartError::Settings(line));
    let NodeSettings { member, members, .. } = settings;
    if members.len() > MEMBERS_MAX {
        return refuse(format!("{} members are configured, {MEMBERS_MAX} at most are possible", members.len()));
    }
    if members.iter().any(|(other, ..)| members.iter().filter(|(id, ..)| id == other).count() > 1) {
        return refuse("two configured members have the same id: give each its own".into());
    }
    if !members.iter().any(|(id, ..)| id == member) {
        return refuse(format!("member {member} is not among the configured members: add it, or correct the id"));
    }
    let witnesses = members.iter().filter(|(_, _, kind)| *kind == Kind::Witness).count();
    if witnesses > (members.len() - 1) / 2 {
        return refuse(format!("{witnesses} of {} members are witnesses: fewer than half may be", members.len()));
    }
    if settings.ring_bytes < RING_MIN_BYTES {
        return refuse(format!("the log has {} bytes: give it {RING_MIN_BYTES} at least", settings.ring_bytes));
    }
    if settings.durability == Durability::FullSs && settings.backend != Backend::File {
        return refuse(format!("the {} back end is no file: choose the file back end for full-ss", settings.backend));
    }
    if settings.durability == Durability::Ring && settings.memory_dir.as_os_str().is_empty() {
        return refuse("ring keeps the log in shared memory: name a directory on tmpfs for it".into());
    }
    if settings.backend == Backend::Shm && !settings.allow_volatile {
        return Err(StartError::Volatile(settings.backend));
    }
    Ok(())
}

fn armed(settings: &NodeSettings) -> Arc<BreakPoints> {
    let break_points = BreakPoints::default();
    #[cfg(feature = "break-points")]
    for point in &settings.break_points {
        break_points.arm(*point);
    }
    if cfg!(not(feature = "break-points")) && !settings.break_points.is_empty() {
        tracing::warn!("break points have no effect: this program was built without them");
    }
    Arc::new(break_points)
}

/// Links to the configured members and to those that the last view lists; new ones run as they come.
fn links(
    settings: &NodeSettings,
    view: Option<&View>,
    context: &Arc<LinkContext>,
    runtime: tokio::runtime::Handle,
    ended: watch::Receiver<Ended>,
) -> Links {
    let spawn = move |link: Link| drop(runtime.spawn(until_the_end(link, ended.clone())));
    let mut links = Links::new(Arc::clone(context), Box::new(spawn));
    for (member, endpoint, _) in settings.members.iter().filter(|(member, ..)| *member != settings.member) {
        links.add(*member, endpoint.clone());
    }
    if let Some(view) = view {
        links.follow(view);
    }
    links
}

async fn until_the_end(link: Link, mut ended: watch::Receiver<Ended>) {
    tokio::select! {
        () = link.run() => {}
        _ = ended.wait_for(Option::is_some) => {}
    }
}
