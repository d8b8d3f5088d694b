//! The example of a service on rsm, three members in one process, over loopback, on real stores.

#[path = "../examples/kv/main.rs"]
#[allow(dead_code, reason = "the example's command line is not used here")]
mod kv;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kv::{Kv, request, start};
use rsm::{Handle, Kind, MemberId, Node, NodeSettings, StateMachine};
use tokio::task::JoinSet;
use wire::Listener;

const DEADLINE: Duration = Duration::from_secs(30);
/// Clients that compare and set at the same time.
const CONTENDERS: usize = 8;
/// A change of view that nobody asked for (a slow machine) leaves outcomes unknown; then the contest is held again.
const CONTESTS_MAX: usize = 5;

struct Cluster {
    members: BTreeMap<u64, (Node, Handle, JoinSet<()>)>,
    /// Where clients go, by member.
    endpoints: BTreeMap<u64, String>,
}

impl Cluster {
    async fn start(dir: &Path, count: u64) -> Cluster {
        let mut listeners = Vec::new();
        for id in 1..=count {
            listeners.push((id, listener().await, listener().await));
        }
        let address = |listener: &Listener| listener.address().expect("bound over TCP").to_string();
        let listed = listeners
            .iter()
            .map(|(id, peers, _)| (MemberId(*id), address(peers).parse().expect("an address"), Kind::Replica));
        let listed: Vec<_> = listed.collect();
        let mut cluster = Cluster { members: BTreeMap::new(), endpoints: BTreeMap::new() };
        for (id, peers, clients) in listeners {
            cluster.endpoints.insert(id, address(&clients));
            let settings = NodeSettings {
                ring_bytes: 16 << 20,
                ..NodeSettings::new(MemberId(id), "kv", listed.clone(), dir.join(id.to_string()))
            };
            cluster.members.insert(id, start(settings, peers, clients).expect("starts"));
        }
        cluster
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

    /// Ends a member like a crash.
    fn crash(&mut self, id: u64) {
        self.members.remove(&id).expect("it runs");
    }

    fn endpoints(&self) -> Vec<String> {
        self.endpoints.values().cloned().collect()
    }

    /// Asks until the outcome is known; for requests that may be executed twice.
    async fn ask(&self, line: &str) -> String {
        loop {
            let answer = request(&self.endpoints(), line).await;
            if answer != "unknown" {
                return answer;
            }
        }
    }
}

async fn listener() -> Listener {
    Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bound")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") });
}

fn answer(kv: &mut Kv, op: u64, line: &str) -> String {
    String::from_utf8(kv.apply(op, line.as_bytes())).expect("text")
}

#[test]
fn what_was_put_through_the_primary_is_got_from_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut cluster = Cluster::start(dir.path(), 3).await;
        let first = cluster.primary().await;
        let through_first = [cluster.endpoints[&first].clone()];
        assert_eq!(request(&through_first, "put colour green").await, "ok");
        cluster.crash(first);
        assert_eq!(cluster.ask("get colour").await, "value green");
        assert_ne!(cluster.primary().await, first);
        assert_eq!(cluster.ask("put colour red").await, "ok");
        assert_eq!(cluster.ask("get colour").await, "value red");
        assert_eq!(cluster.ask("get size").await, "none");
    });
}

#[test]
fn of_many_that_compare_and_set_one_succeeds() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let cluster = Cluster::start(dir.path(), 3).await;
        for contest in 0..CONTESTS_MAX {
            let key = format!("key-{contest}");
            assert_eq!(cluster.ask(&format!("put {key} old")).await, "ok");
            let mut contenders = JoinSet::new();
            for number in 0..CONTENDERS {
                let (endpoints, line) = (cluster.endpoints(), format!("cas {key} old new-{number}"));
                contenders.spawn(async move { (number, request(&endpoints, &line).await) });
            }
            let answers = contenders.join_all().await;
            if answers.iter().any(|(_, answer)| answer == "unknown") {
                continue;
            }
            let winners: Vec<usize> =
                answers.iter().filter(|(_, answer)| answer == "ok").map(|(number, _)| *number).collect();
            assert_eq!(winners.len(), 1, "{answers:?}");
            let holds = format!("new-{}", winners[0]);
            assert_eq!(cluster.ask(&format!("get {key}")).await, format!("value {holds}"));
            let losers = answers.iter().filter(|(number, _)| *number != winners[0]);
            assert!(
                losers.map(|(_, answer)| answer).all(|answer| *answer == format!("differs {holds}")),
                "{answers:?}"
            );
            return;
        }
        panic!("no contest of {CONTESTS_MAX} went by without a change of view");
    });
}

#[test]
fn a_restored_machine_goes_on_like_the_one_that_was_saved() {
    let mut one = Kv::default();
    for (op, line) in (1..).zip(["put a 1", "cas b 2", "delete a", "cas b 3 4"]) {
        answer(&mut one, op, line);
    }
    let mut other = Kv::default();
    assert_eq!(other.restore(&one.snapshot()), Ok(()));
    for kv in [&mut one, &mut other] {
        assert_eq!(answer(kv, 5, "get a"), "none");
        assert_eq!(answer(kv, 6, "cas b 2 5"), "ok");
        assert_eq!(answer(kv, 7, "cas b 6"), "differs 5");
        assert_eq!(answer(kv, 8, "cas a 7 8"), "none");
    }
    assert_eq!(one.hash(), other.hash());
    assert!(other.restore(b"\xff").is_err());
}

#[test]
fn what_is_no_request_changes_nothing_and_is_answered_with_what_to_write() {
    let mut kv = Kv::default();
    for line in ["", " ", "put", "put a", "get", "cas", "cas a", "cas a 1 2 3", "put a b c", "delete", "take a"] {
        assert!(answer(&mut kv, 1, line).starts_with("error write: "), "{line}");
    }
    assert!(kv.apply(2, b"\xff\xfe \x00").starts_with(b"error write: "));
    for (op, key) in (3..).zip(["a", "put"]) {
        assert_eq!(answer(&mut kv, op, &format!("get {key}")), "none");
    }
}
