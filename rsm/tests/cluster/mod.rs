//! A cluster in one process, over loopback, on real stores, and a small state machine for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rsm::{
    Application, Backend, Durability, Handle, Kind, MemberId, Node, NodeSettings, Rejection, StateMachine, Status,
};
use tokio::task::{JoinHandle, JoinSet};
use wire::{Endpoint, Listener};

const DEADLINE: Duration = Duration::from_secs(30);

/// A command that makes the state machine fail an assertion.
pub(crate) const BUG: &[u8] = b"bug";

/// Remembers words; a word that comes again changes nothing. [`BUG`] is one that it cannot bear.
#[derive(Default)]
pub(crate) struct Words {
    pub(crate) words: BTreeSet<Vec<u8>>,
    hash: u64,
    serves: bool,
}

impl StateMachine for Words {
    fn apply(&mut self, _: u64, command: &[u8]) -> Vec<u8> {
        assert_ne!(command, BUG, "a bug, on purpose");
        if self.words.insert(command.to_vec()) {
            for byte in command {
                self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        (self.words.len() as u64).to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&(&self.words, self.hash)).expect("encodes")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        (self.words, self.hash) = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn hash(&self) -> u64 {
        self.hash
    }
}

impl Application for Words {
    fn serving(&mut self) {
        assert!(!self.serves, "told twice");
        self.serves = true;
    }

    fn stopped_serving(&mut self) {
        assert!(self.serves, "told without having served");
        self.serves = false;
    }

    fn executed(&mut self) {
        assert!(self.serves, "told while not serving");
    }
}

pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) handle: Handle,
    pub(crate) accepting: JoinHandle<()>,
}

pub(crate) struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) endpoints: Vec<Endpoint>,
    /// What each member stores; replicas where it does not say.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) backend: Backend,
    pub(crate) durability: Durability,
    /// Where members keep their logs in shared memory.
    pub(crate) memory_dir: PathBuf,
    pub(crate) snapshot_every_bytes: usize,
    pub(crate) members: BTreeMap<u64, Member>,
}

/// Addresses that nobody listens on. Their ports are below those that the system gives to outgoing connections, so that nobody has one
/// by the time at which it is used.
pub(crate) async fn free_endpoints(count: u64) -> Vec<Endpoint> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % 20_000).expect("below 20,000");
    let mut free = Vec::new();
    while free.len() < count as usize {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let endpoint: Endpoint = format!("127.0.0.1:{port}").parse().expect("an address");
        if Listener::bind(&endpoint).await.is_ok() {
            free.push(endpoint);
        }
    }
    free
}

impl Cluster {
    pub(crate) async fn start(dir: &Path, count: u64) -> Cluster {
        let mut cluster = Cluster::stopped(dir, free_endpoints(count).await);
        cluster.start_all().await;
        cluster
    }

    /// A cluster whose members do not run yet.
    pub(crate) fn stopped(dir: &Path, endpoints: Vec<Endpoint>) -> Cluster {
        let (dir, members) = (dir.to_owned(), BTreeMap::new());
        let kinds = vec![Kind::Replica; endpoints.len()];
        Cluster {
            dir,
            endpoints,
            kinds,
            backend: Backend::File,
            durability: Durability::Nvm,
            memory_dir: PathBuf::new(),
            snapshot_every_bytes: 4 << 20,
            members,
        }
    }

    pub(crate) async fn start_all(&mut self) {
        for id in (1..).take(self.endpoints.len()) {
            self.restart(id).await;
        }
    }

    pub(crate) fn settings(&self, id: u64) -> NodeSettings {
        let members = (1..).zip(&self.endpoints).zip(&self.kinds);
        let members = members.map(|((id, at), kind)| (MemberId(id), at.clone(), *kind)).collect();
        NodeSettings {
            ring_bytes: 16 << 20,
            snapshot_every_bytes: self.snapshot_every_bytes,
            backend: self.backend,
            durability: self.durability,
            memory_dir: self.memory_dir.join(id.to_string()),
            allow_volatile: true,
            ..NodeSettings::new(MemberId(id), "test", members, self.dir.join(id.to_string()))
        }
    }

    async fn start_on(&mut self, id: u64, listener: Listener) {
        let (runtime, settings) = (tokio::runtime::Handle::current(), self.settings(id));
        // On a thread of its own: a start may wait for another member of this very process.
        let start = move || Node::start(settings, Words::default(), runtime).expect("starts");
        let (node, handle) = tokio::task::spawn_blocking(start).await.expect("no panic");
        let accepting = tokio::spawn(accept_all(listener, handle.clone()));
        self.members.insert(id, Member { node, handle, accepting });
    }

    pub(crate) async fn restart(&mut self, id: u64) {
        let listener = Listener::bind(&self.endpoints[id as usize - 1]).await.expect("bound again");
        self.start_on(id, listener).await;
    }

    /// Ends a member like a crash.
    pub(crate) async fn kill(&mut self, id: u64) {
        let member = self.members.remove(&id).expect("it runs");
        member.accepting.abort();
        drop(member.accepting.await);
        drop(member.node);
    }

    pub(crate) async fn stop_all(&mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.stop(id).await;
        }
    }

    /// Ends a member in good order.
    pub(crate) async fn stop(&mut self, id: u64) {
        let member = self.members.remove(&id).expect("it runs");
        member.handle.stop().await;
        assert_eq!(member.node.wait().await, Ok(()));
        member.accepting.abort();
        drop(member.accepting.await);
    }

    pub(crate) fn handle(&self, id: u64) -> &Handle {
        &self.members[&id].handle
    }

    /// The member that serves as primary, once one does.
    pub(crate) async fn primary(&self) -> u64 {
        let mut waits = JoinSet::new();
        for (id, member) in &self.members {
            let (id, handle) = (*id, member.handle.clone());
            waits.spawn(async move {
                status(&handle, |status| status.is_primary && status.serving).await;
                id
            });
        }
        waits.join_next().await.expect("a member").expect("no panic")
    }

    /// Has a word remembered, by whoever is primary.
    pub(crate) async fn remember(&self, word: &str) -> u64 {
        loop {
            let primary = self.primary().await;
            match self.handle(primary).submit(word.into(), false).await {
                Ok(answer) => return u64::from_le_bytes(answer.try_into().expect("eight bytes")),
                Err(Rejection::Busy) => panic!("busy with one command"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// All replicas have executed the same, this many words.
    pub(crate) async fn agree(&self, words: usize) {
        let mut hashes = BTreeSet::new();
        let is_replica = |id: &u64| self.kinds[*id as usize - 1] == Kind::Replica;
        for (_, member) in self.members.iter().filter(|(id, _)| is_replica(id)) {
            loop {
                let look = |machine: &mut Words| (machine.words.len(), machine.hash);
                let (count, hash) = member.handle.visit(look).await.expect("it runs");
                if count == words {
                    hashes.insert(hash);
                    break;
                }
                member.handle.status_changes().changed().await.expect("it runs");
            }
        }
        assert_eq!(hashes.len(), 1);
    }
}

async fn accept_all(listener: Listener, handle: Handle) {
    let mut connections = JoinSet::new();
    loop {
        let mut connection = listener.accept().await.expect("a connection");
        let handle = handle.clone();
        connections.spawn(async move {
            if let Ok(hello) = connection.read_hello().await {
                drop(handle.accept_peer(connection, hello).await);
            }
        });
    }
}

pub(crate) async fn status(handle: &Handle, is: impl FnMut(&Arc<Status>) -> bool) -> Arc<Status> {
    let mut changes = handle.status_changes();
    let status = changes.wait_for(is).await.expect("it runs");
    Arc::clone(&status)
}

pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") })
}
