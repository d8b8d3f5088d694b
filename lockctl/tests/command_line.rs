//! The program itself, as people and scripts call it, against nobody and against a small cluster in memory.

#[path = "../../lock-client/tests/fake/mod.rs"]
mod fake;
mod member;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::Cluster;
use lock_client::{LockGuard, Mode, blocking};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Port 1 of this host: nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

fn lockctl(endpoints: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockctl"));
    command.env("LOCK_ENDPOINTS", endpoints).env_remove("RUST_LOG").args(arguments).stdin(Stdio::null());
    command
}

fn output(endpoints: &str, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = lockctl(endpoints, arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

fn endpoints(cluster: &Cluster) -> String {
    cluster.addresses().join(",")
}

/// Another program that holds `name`.
fn held_elsewhere(cluster: &Cluster, name: &str) -> (blocking::LockClient, LockGuard) {
    let builder = blocking::LockClient::builder(cluster.addresses()).lease(Duration::from_secs(60));
    let client = blocking::LockClient::connect(builder).expect("a session");
    let guard = client.acquire(name, Mode::Exclusive).expect("the lock");
    (client, guard)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}

fn pid_in(file: &Path) -> i32 {
    let mut pid = None;
    until("the command writes a process number", || {
        pid =
            fs::read_to_string(file).ok().filter(|text| text.ends_with('\n')).and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.expect("just written")
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The exit status of a child; one that goes on for too long is killed, and has none.
fn exit_of(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if Instant::now() >= deadline {
            child.kill().expect("a child");
        }
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}

#[test]
fn what_is_typed_wrong_is_one_line_and_exit_2() {
    let long = "x".repeat(256);
    let cases: &[(&[&str], &str)] = &[
        (&["inspect", &long], "a lock name has 1 to 255 bytes, this one has 256"),
        (&["inspect", ""], "this one is empty"),
        (&["run", "a\nb", "--", "true"], "no control characters"),
        (&["run", "a", "--", ""], "command not found"),
        (&["--nonsense", "status"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["--endpoints", "localhost", "status"], "write HOST:PORT"),
        (&["--endpoints", "h:1,h:x", "locks"], "the port is a number"),
        (&["run", "--lease", "10", "a", "--", "true"], "write 500ms, 30s, 5m"),
        (&["run", "--lease", "2h", "a", "--", "true"], "a lease has 500ms to 1h"),
        (&["run", "--lease", "600ms", "a", "--", "true"], "a lease of 0.60 s is too short"),
        (&["run", "--try", "--wait", "1s", "a", "--", "true"], "cannot be used with"),
        (&["run", "a", "a", "--", "true"], "the name 'a' is given twice"),
        (&["run", "a"], "COMMAND"),
    ];
    for (arguments, expected) in cases {
        let (exit, stdout, stderr) = output(NOBODY, arguments);
        assert_eq!(exit, if arguments.ends_with(&[""]) && arguments[0] == "run" { 127 } else { 2 }, "{stderr}");
        assert!(stdout.is_empty() && stderr.lines().count() == 1 && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_command_that_cannot_run_takes_no_lock_and_ends_as_shells_do() {
    let (exit, _, stderr) = output(NOBODY, &["run", "a", "--", "no-such-command-anywhere"]);
    assert_eq!(exit, 127, "{stderr}");
    let (exit, _, stderr) = output(NOBODY, &["run", "a", "--", "/proc/self/status"]);
    assert_eq!(exit, 126, "{stderr}");
}

#[test]
fn without_a_cluster_each_endpoint_is_named_with_its_answer_and_exit_69() {
    for arguments in
        [&["locks"][..], &["inspect", "a"], &["status"], &["members"], &["bench"], &["run", "a", "--", "true"]]
    {
        let arguments = [&["--connect-timeout", "200ms", "--endpoints", "127.0.0.1:1,127.0.0.1:2"], arguments].concat();
        let (exit, stdout, stderr) = output(NOBODY, &arguments);
        assert_eq!(exit, 69, "{stderr}");
        assert!(stdout.is_empty() && stderr.lines().count() == 1, "{stderr}");
        for expected in ["127.0.0.1:1: Connection refused", "127.0.0.1:2: Connection refused", " s (", "--endpoints"] {
            assert!(stderr.contains(expected), "{stderr}");
        }
    }
    let (exit, stdout, _) = output(NOBODY, &["status", "--json"]);
    let status: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((exit, &status["view"], &status["members"][0]["role"]), (69, &Value::Null, &"unreachable".into()));
}

#[test]
fn a_command_has_its_lock_in_the_environment_and_its_own_exit_status() {
    let cluster = Cluster::start(1);
    let script = "echo \"$LOCK_NAME/$LOCK_TOKEN/$LOCK_NAMES\"; exit 7";
    let (exit, stdout, stderr) = output(&endpoints(&cluster), &["run", "orders", "--", "sh", "-c", script]);
    assert_eq!(exit, 7, "{stderr}");
    let (name, token) = stdout.trim().strip_suffix('/').and_then(|text| text.split_once('/')).expect("both of them");
    assert!(
        name == "orders" && token.parse::<u64>().expect("as it is written") > 0 && stderr.is_empty(),
        "{stdout}{stderr}"
    );
    assert_eq!(cluster.control.holders("orders"), 0);
    assert_eq!(cluster.control.closes.load(Ordering::SeqCst), 1);
    let (exit, _, _) = output(&endpoints(&cluster), &["run", "orders", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(exit, 137);
}

#[test]
fn several_names_are_taken_sorted_and_told_as_typed() {
    let cluster = Cluster::start(1);
    let script = "echo \"$LOCK_NAME\"; echo \"$LOCK_NAMES\"; echo \"$LOCK_TOKEN\"; echo \"$LOCK_TOKENS\"";
    let arguments = ["run", "--json", "b", "a", "--", "sh", "-c", script];
    let (exit, stdout, stderr) = output(&endpoints(&cluster), &arguments);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((exit, &lines[..3]), (0, &["b", "b", "a"][..]), "{stderr}");
    let tokens: Vec<u64> = lines[3..].iter().map(|line| line.parse().expect("as it is written")).collect();
    assert!(tokens[0] == tokens[1] && tokens[2] < tokens[1], "a before b: {tokens:?}");
    let report: Value = serde_json::from_str(&stderr).expect("JSON");
    assert_eq!((&report["exit"], &report["lost"], &report["tokens"][1]), (&0.into(), &false.into(), &tokens[2].into()));
}

#[test]
fn a_lock_in_use_elsewhere_is_not_had_in_time_and_its_holder_is_named() {
    let cluster = Cluster::start(1);
    let held = held_elsewhere(&cluster, "l");
    let (exit, _, stderr) = output(&endpoints(&cluster), &["run", "--try", "l", "--", "true"]);
    assert_eq!((exit, stderr.lines().count()), (75, 1), "{stderr}");
    assert!(
        stderr.contains("l was not had within") && stderr.contains("held by someone (host host, pid 1)"),
        "{stderr}"
    );
    let (exit, _, stderr) = output(&endpoints(&cluster), &["run", "--wait", "1500ms", "l", "--", "true"]);
    assert_eq!((exit, stderr.lines().count()), (75, 2), "{stderr}");
    assert!(stderr.starts_with("lockctl: waiting for l (1."), "{stderr}");
    drop(held);
}

#[test]
fn requirement_4_a_run_that_waits_leaves_the_queue_when_it_is_ended_and_goes_on_when_the_lock_is_free() {
    let cluster = Cluster::start(1);
    let (client, guard) = held_elsewhere(&cluster, "l");
    let mut ended = lockctl(&endpoints(&cluster), &["run", "l", "--", "true"]).spawn().expect("it starts");
    until("it waits", || cluster.control.waiters("l") == 1);
    signal(&ended, Signal::TERM);
    assert_eq!(exit_of(&mut ended), Some(143));
    assert_eq!(cluster.control.waiters("l"), 0);
    let mut waiting = lockctl(&endpoints(&cluster), &["run", "l", "--", "true"]).spawn().expect("it starts");
    until("it waits", || cluster.control.waiters("l") == 1);
    drop(guard);
    assert_eq!(exit_of(&mut waiting), Some(0));
    drop(client);
}

#[test]
fn shared_runs_hold_a_lock_together() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let script = format!("while [ ! -e {}/stop ]; do sleep 0.02; done", directory.path().display());
    let arguments = ["run", "--shared", "l", "--", "sh", "-c", &script];
    let mut both = [(); 2].map(|()| lockctl(&endpoints(&cluster), &arguments).spawn().expect("it starts"));
    until("both hold it", || cluster.control.holders("l") == 2);
    fs::write(directory.path().join("stop"), "").expect("it can be written");
    for child in &mut both {
        assert_eq!(exit_of(child), Some(0));
    }
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let ready = directory.path().join("ready");
    let script = format!("trap 'exit 5' TERM; echo $$ > {}; while :; do sleep 0.02; done", ready.display());
    let mut child = lockctl(&endpoints(&cluster), &["run", "l", "--", "sh", "-c", &script]).spawn().expect("it starts");
    let pid = pid_in(&ready);
    signal(&child, Signal::TERM);
    assert_eq!(exit_of(&mut child), Some(5));
    assert!(!runs(pid));
    assert_eq!(cluster.control.holders("l"), 0);
}

#[test]
fn a_hang_up_that_was_ignored_at_the_start_stays_ignored_in_the_command() {
    let cluster = Cluster::start(1);
    let program = env!("CARGO_BIN_EXE_lockctl");
    let script = format!("trap '' HUP; exec {program} run l -- sh -c 'kill -HUP $$; exit 4'");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("LOCK_ENDPOINTS", endpoints(&cluster));
    assert_eq!(shell.status().expect("it runs").code(), Some(4));
}

#[test]
fn requirement_10_what_the_command_leaves_running_ends_before_the_lock_is_given_back() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pid");
    let script = format!("sleep 20 > /dev/null 2>&1 & echo $! > {}; exit 3", file.display());
    let (exit, _, stderr) = output(&endpoints(&cluster), &["run", "l", "--", "sh", "-c", &script]);
    assert_eq!(exit, 3, "{stderr}");
    assert!(!runs(pid_in(&file)));
    assert_eq!(cluster.control.holders("l"), 0);
}

#[test]
fn m22_a_command_that_takes_no_sigterm_is_dead_before_the_lease_is_over() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let (file, termed) = (directory.path().join("pid"), directory.path().join("termed"));
    let script = format!(
        "trap 'echo > {}' TERM; sh -c 'trap \"\" TERM; while :; do sleep 0.02; done' & echo $! > {}; while :; do sleep 0.02; done",
        termed.display(),
        file.display()
    );
    let lease = Duration::from_secs(3);
    let mut command = lockctl(&endpoints(&cluster), &["run", "--lease", "3s", "l", "--", "sh", "-c", &script]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let grandchild = pid_in(&file);
    cluster.control.freeze.store(true, Ordering::SeqCst);
    let frozen = Instant::now();
    until("the command's group is dead", || !runs(grandchild));
    assert!(frozen.elapsed() < lease, "{:?}", frozen.elapsed());
    assert!(termed.exists(), "SIGTERM came first");
    cluster.control.freeze.store(false, Ordering::SeqCst);
    assert_eq!(exit_of(&mut child), Some(76));
}

#[test]
fn a_loss_that_is_learned_kills_at_once() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pid");
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.02; done", file.display());
    let mut child = lockctl(&endpoints(&cluster), &["run", "l", "--", "sh", "-c", &script]).spawn().expect("it starts");
    let pid = pid_in(&file);
    let asked = Instant::now();
    cluster.control.expire_all();
    assert_eq!(exit_of(&mut child), Some(76));
    assert!(!runs(pid));
    assert!(asked.elapsed() < Duration::from_secs(8), "with the next keep-alive, long before the deadline");
}

#[test]
fn a_command_dies_with_a_lockctl_that_is_killed() {
    let cluster = Cluster::start(1);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", file.display());
    let mut child = lockctl(&endpoints(&cluster), &["run", "l", "--", "sh", "-c", &script]).spawn().expect("it starts");
    let pid = pid_in(&file);
    assert!(runs(pid));
    signal(&child, Signal::KILL);
    child.wait().expect("a child");
    until("the command is dead", || !runs(pid));
}

#[test]
fn requirement_11_a_tenure_is_ended_by_force_with_its_token_and_not_with_another() {
    let cluster = Cluster::start(1);
    let (_client, guard) = held_elsewhere(&cluster, "orders");
    let (endpoints, token) = (endpoints(&cluster), guard.token().0);
    let other = (token + 1).to_string();
    let (exit, stdout, stderr) = output(&endpoints, &["force-release", "orders", "--token", &other]);
    assert!(exit == 1 && stdout.is_empty() && stderr.contains("nobody holds 'orders' with token"), "{stderr}");
    assert!(guard.is_valid());
    let (exit, stdout, stderr) = output(&endpoints, &["force-release", "orders", "--token", &token.to_string()]);
    assert!(exit == 0 && stdout.contains("has lost it; others may have it when") && stderr.is_empty(), "{stderr}");
    until("the guard is invalid", || !guard.is_valid());
    let (exit, stdout, stderr) = output(&endpoints, &["run", "--wait", "10s", "orders", "--", "echo", "mine"]);
    assert!(exit == 0 && stdout == "mine\n", "{stderr}");
}

#[test]
fn locks_and_inspect_show_who_holds_and_who_waits() {
    let cluster = Cluster::start(1);
    let held: Vec<_> = ["a/1", "a/2", "b/1"].map(|name| held_elsewhere(&cluster, name)).into();
    let (exit, stdout, _) = output(&endpoints(&cluster), &["locks", "a/"]);
    assert_eq!((exit, stdout.lines().count()), (0, 3), "{stdout}");
    assert!(
        stdout.starts_with("NAME  MODE ") && stdout.contains("a/2   exclusive  someone (host host, pid 1)"),
        "{stdout}"
    );
    let (_, stdout, _) = output(&endpoints(&cluster), &["locks", "--json"]);
    let listed: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(listed.as_array().expect("a list").len(), 3);
    assert_eq!((&listed[2]["name"], &listed[2]["holders"][0]["mode"]), (&"b/1".into(), &"exclusive".into()));
    let (_, stdout, _) = output(&endpoints(&cluster), &["inspect", "a/1", "--json"]);
    let entry: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&entry["name"], &entry["waiters"]), (&"a/1".into(), &Value::Array(vec![])));
    let (_, stdout, _) = output(&endpoints(&cluster), &["inspect", "free"]);
    assert_eq!(stdout, "free is free\n");
    drop(held);
}

#[test]
fn status_shows_the_newest_view_and_who_is_down() {
    let members = member::start(&[1, 2]);
    let endpoint = members.addresses[1].clone();
    let (exit, stdout, stderr) = output(&endpoint, &["status", "--json"]);
    assert_eq!(exit, 0, "{stderr}");
    let status: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(status["view"], serde_json::json!({"id": 4, "primary": 1, "in_sync": [1, 2]}));
    let roles: Vec<&str> =
        status["members"].as_array().expect("a list").iter().map(|it| it["role"].as_str().expect("text")).collect();
    assert_eq!(roles, ["primary", "backup", "unreachable"]);
    assert_eq!(status["members"][0]["address"], members.addresses[0].as_str(), "found through the view");
    assert_eq!((&status["members"][2]["id"], &status["members"][2]["pid"]), (&3.into(), &Value::Null));
    let (_, stdout, _) = output(&endpoint, &["status"]);
    let serving = "serving: view 4, primary 1, 2 of 3 members in sync; member 3 does not answer";
    assert_eq!(stdout.lines().last(), Some(serving), "{stdout}");
    let (_, stdout, _) = output(&endpoint, &["members"]);
    assert!(
        stdout.lines().nth(3).is_some_and(|line| line.trim_start().starts_with("3  ") && line.contains("  no  ")),
        "{stdout}"
    );
}

#[test]
fn the_benchmark_tells_each_figure() {
    let cluster = Cluster::start(1);
    let arguments = ["bench", "--duration", "200ms", "--clients", "3", "--in-flight", "4", "--json"];
    let (exit, stdout, stderr) = output(&endpoints(&cluster), &arguments);
    assert_eq!(exit, 0, "{stderr}");
    let figures: Value = serde_json::from_str(&stdout).expect("JSON");
    for figure in ["/cached_ns", "/uncached_us/p50", "/uncached_us/p99", "/uncached_per_s", "/hand_overs_per_s"] {
        assert!(
            figures.pointer(figure).and_then(Value::as_f64).is_some_and(|figure| figure > 0.0),
            "{figure}: {stdout}"
        );
    }
    assert_eq!(figures["fail_over_gap_ms"], Value::Null);
    assert_eq!(cluster.control.closes.load(Ordering::SeqCst), 3, "all locks are given back");
}

#[test]
fn the_benchmark_kills_no_process_but_a_server() {
    let members = member::start(&[1]);
    let (exit, _, stderr) = output(&members.addresses[0], &["bench", "--kill-primary"]);
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains("is no lock-server"), "{stderr}");
}
