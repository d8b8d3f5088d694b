//! Mutual TLS on real server processes: who is served, who is refused, and that nobody else is harmed by it.

#![expect(clippy::disallowed_methods, reason = "certificates live in real time; the bans are for the simulator")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lock_client::{
    AcquireError, ForceRelease, LockClient, MemberChange, Mode, QueryError, Refusal, Tls, TlsFiles, change_members,
    member_status,
};
use lock_server::certificates::{Authority, Holder, Issued};
use plumeria_tests::lab::Cluster;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use wire::{DialError, Endpoint, Expected, Hello, Role};

/// Whatever has to happen happens within this, on a busy machine too.
const DEADLINE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CLUSTER: &str = "plumeria";

/// Three members with certificates of their own, and the directory of all files.
struct Secured {
    cluster: Cluster,
    authority: Authority,
    dir: TempDir,
}

fn authority() -> Authority {
    Authority::new().expect("an authority")
}

fn member(id: u64) -> Holder {
    Holder::Member(id, CLUSTER.into())
}

fn client(name: &str) -> Holder {
    Holder::Client(name.into())
}

/// Renamed into place, as tools that renew certificates do.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(new, path).expect("renamed");
}

/// Writes a pair, and says where it is.
fn write_pair(dir: &Path, stem: &str, issued: &Issued, cluster: &str) -> TlsFiles {
    let at = |extension| dir.join(format!("{stem}.{extension}"));
    let files =
        TlsFiles { certificate: at("crt"), key: at("key"), authority: dir.join("ca.crt"), cluster: cluster.into() };
    write(&files.key, &issued.key);
    write(&files.certificate, &issued.certificate);
    files
}

impl Secured {
    fn start(more: &[(&str, &str)]) -> Secured {
        let (authority, dir) = (authority(), tempfile::tempdir().expect("a directory"));
        write(&dir.path().join("ca.crt"), &authority.issued().certificate);
        let server = Path::new(env!("CARGO_BIN_EXE_lock-server-under-test"));
        let places = Cluster::loopback(3).expect("an address");
        let mut cluster = Cluster::new(server, places).expect("a directory");
        for id in 1..=3 {
            let issued = authority.issue(&member(id), SystemTime::now() + DAY).expect("issued");
            let files = write_pair(dir.path(), &format!("member-{id}"), &issued, CLUSTER);
            let variable = |name: &str, path: &PathBuf| format!("LOCK_SERVER_TLS_{name}={}", path.display());
            let mut through = vec![
                "env".to_owned(),
                variable("CERT", &files.certificate),
                variable("KEY", &files.key),
                variable("CA", &files.authority),
            ];
            through.extend(more.iter().map(|(name, value)| format!("{name}={value}")));
            cluster.set_through(id, through);
            cluster.launch(id).expect("a process");
        }
        Secured { cluster, authority, dir }
    }

    /// A pair of this authority, and the files in which it is.
    fn issue(&self, holder: &Holder) -> TlsFiles {
        let issued = self.authority.issue(holder, SystemTime::now() + DAY).expect("issued");
        write_pair(self.dir.path(), &format!("{}-of-a-test", holder.stem()), &issued, CLUSTER)
    }

    fn tls(&self, holder: &Holder) -> Tls {
        Tls::client(self.issue(holder)).expect("right")
    }

    async fn connect(&self, name: &str) -> LockClient {
        connect(&self.cluster.endpoints(), self.tls(&client(name))).await
    }

    fn endpoint(&self, id: u64) -> Endpoint {
        self.cluster.endpoint(id).parse().expect("an address")
    }
}

async fn connect(endpoints: &[String], tls: Tls) -> LockClient {
    let builder = LockClient::builder(endpoints.iter().cloned()).tls(tls).lease(LEASE).connect_timeout(DEADLINE);
    builder.connect().await.expect("a session")
}

async fn takes(client: &LockClient, name: &str) {
    drop(client.acquire_timeout(name, Mode::Exclusive, DEADLINE).await.expect("the lock is free"));
}

/// Until it holds; whoever waits in vain hears for what.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

/// Dials as a member, and gives what was said against it.
async fn speaks_as_member(at: &Endpoint, tls: &Tls, sender: u64) -> String {
    let hello = Hello { role: Role::Peer, cluster: 0, sender, secret: 7 };
    match wire::dial_with(Some((tls, Expected::AnyMember)), at, &hello, DEADLINE).await {
        Err(DialError::Refused(reason)) => reason,
        Err(error) => panic!("not refused in words: {error}"),
        Ok(_) => panic!("taken as member {sender}"),
    }
}

#[test]
fn three_members_with_mutual_tls_serve_a_lock_while_strangers_are_refused_in_words() {
    run(async {
        let secured = Secured::start(&[]);
        let endpoints = secured.cluster.endpoints();
        let ours = secured.connect("indexer-7").await;
        takes(&ours, "a").await;

        let strangers = authority();
        let dir = tempfile::tempdir().expect("a directory");
        let both = format!("{}{}", strangers.issued().certificate, secured.authority.issued().certificate);
        write(&dir.path().join("ca.crt"), &both);
        let issued = strangers.issue(&client("indexer-7"), SystemTime::now() + DAY).expect("issued");
        let stranger = Tls::client(write_pair(dir.path(), "stranger", &issued, CLUSTER)).expect("right for itself");
        for (tls, words) in [
            (None, "the other side speaks TLS, this side does not"),
            (Some(&stranger), "refused this one's certificate: it is not of a CA that it believes"),
        ] {
            let line = member_status(&endpoints[0], tls).await.expect_err("refused").to_string();
            assert!(line.contains(words), "{line}");
            let builder = LockClient::builder(endpoints.clone()).connect_timeout(Duration::from_millis(300));
            let builder = tls.into_iter().fold(builder, |builder, tls| builder.tls(tls.clone()));
            let line = builder.connect().await.expect_err("refused").to_string();
            assert!(line.contains(words), "{line}");
            takes(&ours, "b").await;
        }
        let issued = secured.authority.issue(&client("late"), SystemTime::now() - DAY).expect("issued");
        write(&dir.path().join("ca.crt"), &secured.authority.issued().certificate);
        let late = Tls::client(write_pair(dir.path(), "late", &issued, CLUSTER)).expect_err("it is over").to_string();
        assert!(late.contains("late.crt: this certificate has expired"), "{late}");
        takes(&ours, "c").await;
        let log = fs::read_to_string(secured.cluster.log(1)).expect("its log");
        assert!(log.contains("a connection was refused by TLS"), "{log}");
    });
}

#[test]
fn a_member_is_spoken_for_by_its_own_certificate_only() {
    run(async {
        let secured = Secured::start(&[]);
        takes(&secured.connect("indexer-7").await, "a").await;
        let at = secured.endpoint(1);
        let line = speaks_as_member(&at, &secured.tls(&client("indexer-7")), 2).await;
        assert!(line.contains("a certificate for indexer-7 does not speak for member-2.plumeria"), "{line}");
        let line = speaks_as_member(&at, &secured.tls(&member(3)), 2).await;
        assert!(line.contains("does not speak for member-2.plumeria"), "{line}");
        let other_cluster = Holder::Member(2, "other".into());
        let line = speaks_as_member(&at, &secured.tls(&other_cluster), 2).await;
        assert!(line.contains("does not speak for member-2.plumeria"), "{line}");
    });
}

#[test]
fn the_ca_is_changed_under_a_cluster_that_serves_and_a_damaged_file_changes_nothing() {
    run(async {
        let secured = Secured::start(&[]);
        let (endpoints, dir) = (secured.cluster.endpoints(), secured.dir.path());
        let ours = secured.connect("indexer-7").await;
        takes(&ours, "a").await;
        let (new, new_dir) = (authority(), tempfile::tempdir().expect("a directory"));
        let (old_pem, new_pem) = (&secured.authority.issued().certificate, &new.issued().certificate);
        write(&new_dir.path().join("ca.crt"), &format!("{old_pem}{new_pem}"));
        let issued = new.issue(&client("indexer-8"), SystemTime::now() + DAY).expect("issued");
        let newcomer = Tls::client(write_pair(new_dir.path(), "client", &issued, CLUSTER)).expect("right");
        member_status(&endpoints[0], Some(&newcomer)).await.expect_err("not yet");

        let log = || fs::read_to_string(secured.cluster.log(1)).expect("its log");
        write(&dir.join("member-1.crt"), "half a certificate");
        until("damage is logged", || async { log().contains("the TLS files are wrong now") }).await;
        assert_eq!(log().matches("the TLS files are wrong now").count(), 1, "once, not at each look");
        takes(&secured.connect("indexer-9").await, "b").await;

        for id in 1..=3 {
            let issued = secured.authority.issue(&member(id), SystemTime::now() + DAY).expect("issued");
            write_pair(dir, &format!("member-{id}"), &issued, CLUSTER);
        }
        write(&dir.join("ca.crt"), &format!("{old_pem}{new_pem}"));
        for id in 1..=3 {
            secured.cluster.signal(id, Signal::HUP).expect("it runs");
        }
        for endpoint in &endpoints {
            until("the new CA is believed", || async { member_status(endpoint, Some(&newcomer)).await.is_ok() }).await;
        }
        takes(&connect(&endpoints, newcomer).await, "c").await;
        takes(&ours, "d").await;
    });
}

#[test]
fn an_operator_asks_with_a_certificate_and_is_answered_by_the_primary() {
    run(async {
        let secured = Secured::start(&[]);
        takes(&secured.connect("indexer-7").await, "a").await;
        let operator = secured.tls(&client("operator"));
        let endpoint = secured.cluster.endpoint(1);
        let change = MemberChange::Remove { member: 9 };
        let refusal = change_members(&endpoint, Some(&operator), change).await.expect("an answer");
        refusal.expect_err("there is no member 9");
    });
}

const RULES: &str = r#"
    [[rule]]
    client = "indexer-7"
    prefix = "index/"
    may = ["acquire", "list"]
    [[rule]]
    client = "operator"
    may = ["list", "force-release", "members", "promote"]
"#;

#[test]
fn each_client_does_what_the_rules_of_access_allow_it_and_is_refused_the_rest_in_words() {
    run(async {
        let rules = tempfile::tempdir().expect("a directory");
        let path = rules.path().join("access.toml");
        write(&path, RULES);
        let secured = Secured::start(&[("LOCK_SERVER_ACCESS_RULES", &path.display().to_string())]);
        let (indexer, operator) = (secured.connect("indexer-7").await, secured.connect("operator").await);
        let denied = async |client: &LockClient, name: &str| match client.acquire(name, Mode::Exclusive).await {
            Err(AcquireError::Denied(reason)) => reason,
            other => panic!("not denied: {other:?}"),
        };
        let guard = indexer.acquire("index/a", Mode::Exclusive).await.expect("allowed");
        let line = denied(&indexer, "billing/a").await;
        assert_eq!(line, "no rule of access lets the client indexer-7 acquire 'billing/a'");
        denied(&operator, "index/b").await;
        // In one submission: what is denied keeps nothing from what is allowed.
        let (refused, allowed) =
            tokio::join!(denied(&indexer, "billing/b"), indexer.acquire("index/b", Mode::Exclusive));
        assert!(refused.contains("'billing/b'") && allowed.is_ok());

        assert_eq!(indexer.locks("index/").await.expect("allowed").len(), 2);
        assert!(matches!(indexer.locks("").await, Err(QueryError::Denied(_))));
        assert_eq!(operator.locks("").await.expect("allowed").len(), 2, "nothing denied is in the table");
        let force = ForceRelease { name: guard.name().clone(), token: guard.token(), now: true };
        assert!(matches!(indexer.force_release(force.clone()).await, Err(QueryError::Denied(_))));
        assert!(guard.is_valid());
        assert_eq!(operator.force_release(force).await.expect("allowed").len(), 1);

        let endpoint = secured.cluster.endpoint(1);
        for change in [MemberChange::Promote { member: 9 }, MemberChange::Remove { member: 9 }] {
            let ask = async |name| change_members(&endpoint, Some(&secured.tls(&client(name))), change.clone()).await;
            assert!(matches!(ask("indexer-7").await.expect("an answer"), Err(Refusal::Denied(_))));
            let allowed = ask("operator").await.expect("an answer").expect_err("there is no member 9");
            assert!(!matches!(allowed, Refusal::Denied(_)), "{allowed}");
        }

        write(&path, &RULES.replace("index/", "billing/"));
        for id in 1..=3 {
            secured.cluster.signal(id, Signal::HUP).expect("it runs");
        }
        until("the new rules are in force", || async { indexer.acquire("billing/a", Mode::Exclusive).await.is_ok() })
            .await;
        denied(&indexer, "index/c").await;
    });
}
