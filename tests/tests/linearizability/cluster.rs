//! Clients of the key-value example, on three members in one process, of which the primary crashes again and again.
//!
//! Time is a counter: what one client finished before another began has the lower number, and that is all that counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plumeria_tests::linearizability::{Action, Answer, History, Operation, check, key_value};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};
use rsm::{Kind, MemberId, NodeSettings};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::{Endpoint, Listener};

use super::kv::{Member, request, start};

const DEADLINE: Duration = Duration::from_secs(60);
const CLIENTS: u64 = 6;
const KEYS: u64 = 2;
/// The primary dies so often.
const CRASHES: u64 = 3;
/// Operations that are to be answered before the first crash, between two, and after the last.
const OPERATIONS: u64 = 60;

type Told = Vec<(u64, Operation<String>)>;

struct Cluster {
    dir: PathBuf,
    peers: BTreeMap<u64, Endpoint>,
    clients: BTreeMap<u64, Endpoint>,
    members: BTreeMap<u64, Member>,
}

impl Cluster {
    async fn start(dir: &Path) -> Cluster {
        let (dir, members) = (dir.to_owned(), BTreeMap::new());
        let mut cluster = Cluster { dir, peers: BTreeMap::new(), clients: BTreeMap::new(), members };
        let mut listeners = Vec::new();
        for id in 1..=3 {
            let (peers, clients) = (free().await, free().await);
            cluster.peers.insert(id, address(&peers));
            cluster.clients.insert(id, address(&clients));
            listeners.push((id, peers, clients));
        }
        for (id, peers, clients) in listeners {
            cluster.start_on(id, peers, clients);
        }
        cluster
    }

    fn start_on(&mut self, id: u64, peers: Listener, clients: Listener) {
        let listed = self.peers.iter().map(|(id, at)| (MemberId(*id), at.clone(), Kind::Replica)).collect();
        let settings = NodeSettings {
            ring_bytes: 16 << 20,
            ..NodeSettings::new(MemberId(id), "kv", listed, self.dir.join(id.to_string()))
        };
        self.members.insert(id, start(settings, peers, clients).expect("starts"));
    }

    /// Kills the primary, waits until another serves, and starts the dead one again.
    async fn crash_primary(&mut self) {
        let first = self.primary().await;
        let (node, _, mut accepting) = self.members.remove(&first).expect("it runs");
        drop(node);
        accepting.shutdown().await;
        assert_ne!(self.primary().await, first);
        let peers = Listener::bind(&self.peers[&first]).await.expect("bound again");
        let clients = Listener::bind(&self.clients[&first]).await.expect("bound again");
        self.start_on(first, peers, clients);
    }

    /// The member that serves as primary, once one does.
    async fn primary(&self) -> u64 {
        let mut waits = JoinSet::new();
        for (id, (_, handle, _)) in &self.members {
            let (id, mut changes) = (*id, handle.status_changes());
            waits.spawn(async move {
                changes.wait_for(|status| status.is_primary && status.serving).await.expect("it runs");
                id
            });
        }
        waits.join_next().await.expect("a member").expect("no panic")
    }
}

async fn free() -> Listener {
    Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bound")
}

fn address(listener: &Listener) -> Endpoint {
    listener.address().expect("bound over TCP").to_string().parse().expect("an address")
}

/// A client: one operation after the other, until it is told to stop.
struct Client {
    number: u64,
    endpoints: Vec<String>,
    clock: Arc<AtomicU64>,
    answered: watch::Sender<u64>,
    stops: watch::Receiver<bool>,
}

impl Client {
    async fn run(self) -> Told {
        let mut chance = Pcg64Mcg::seed_from_u64(self.number);
        let mut told = Told::new();
        let mut seen: BTreeMap<u64, Option<String>> = BTreeMap::new();
        while !*self.stops.borrow() {
            let key = chance.next_u64() % KEYS;
            let value = Some(format!("{}-{}", self.number, told.len()));
            let action = match chance.next_u64() % 4 {
                0 => Action::Put(value),
                1 => Action::Cas { expected: seen.get(&key).cloned().flatten(), value },
                _ => Action::Get,
            };
            let called = self.clock.fetch_add(1, Ordering::SeqCst);
            let answer = request(&self.endpoints, &key_value::request(key, &action)).await;
            let returned = read(&action, &answer).map(|answer| (self.clock.fetch_add(1, Ordering::SeqCst), answer));
            if let Some((_, Answer::Holds(held))) = &returned {
                seen.insert(key, held.clone());
            }
            self.answered.send_modify(|count| *count += u64::from(returned.is_some()));
            told.push((key, Operation { action, called, returned }));
        }
        told
    }
}

/// None if nobody knows what became of it.
fn read(action: &Action<String>, line: &str) -> Option<Answer<String>> {
    let answer = (line != "unknown").then(|| key_value::answer(action, line));
    answer.map(|answer| answer.unwrap_or_else(|| panic!("{action:?} was answered by {line}")))
}

async fn crashes(dir: &Path) -> History<u64, String> {
    let mut cluster = Cluster::start(dir).await;
    let (stop, stops) = watch::channel(false);
    let (answered, mut answers) = watch::channel(0);
    let clock = Arc::new(AtomicU64::new(0));
    let endpoints: Vec<String> = cluster.clients.values().map(ToString::to_string).collect();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (endpoints, clock, answered, stops) =
            (endpoints.clone(), Arc::clone(&clock), answered.clone(), stops.clone());
        clients.spawn(Client { number, endpoints, clock, answered, stops }.run());
    }
    for crash in 0..=CRASHES {
        let enough = *answers.borrow() + OPERATIONS;
        answers.wait_for(|count| *count >= enough).await.expect("clients run");
        if crash < CRASHES {
            cluster.crash_primary().await;
        }
    }
    stop.send_replace(true);
    let mut history = History::default();
    for (key, operation) in clients.join_all().await.into_iter().flatten() {
        history.add(key, operation);
    }
    history
}

#[test]
fn what_clients_were_told_while_primaries_crashed_is_linearizable() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let history = tokio::time::timeout(DEADLINE, crashes(dir.path())).await.expect("in time");
        assert!(history.len() as u64 >= (CRASHES + 1) * OPERATIONS, "{} operations", history.len());
        println!("{} operations", history.len());
        check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    });
}
