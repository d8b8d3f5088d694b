//! The program as a person meets it: one line and exit 2 for what is wrong, and `dev`.

mod cluster;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use cluster::{Client, Cluster, damage, directory, free_ports, lock_server, output, run, signal, token};
use rustix::process::Signal;

/// The one line on stderr, log lines apart, of a program that ended with status 2.
fn complaint(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("lock-server: ")).collect();
    let [line] = lines[..] else { panic!("not one line: {stderr}") };
    line.to_owned()
}

fn complaint_of(cluster: &Cluster, id: usize) -> String {
    complaint(&lock_server().env("RUST_LOG", "off").args(cluster.arguments(id)).output().expect("it runs"))
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    let dir = directory();
    let at = dir.path().join("1").display().to_string();
    for (arguments, expected) in [
        (&["--lunch"][..], "unexpected argument '--lunch'"),
        (&["--id", "4", "--cluster", "1=127.0.0.1:1", "--data-dir", &at], "member 4 is not in the list"),
        (&["--id", "1", "--cluster", "1=nowhere", "--data-dir", &at], "write HOST:PORT"),
        (&["--id", "1", "--cluster", "1=a:1,1=a:2", "--data-dir", &at], "twice"),
        (
            &["--id", "1", "--cluster", "1=127.0.0.1:1", "--data-dir", &at, "--durability", "epoch"],
            "choose one of nvm, full-ss, epoch-ss, ring",
        ),
        (&["--id", "1", "--cluster", "1=0.0.0.0:0", "--data-dir", &at], "--insecure-listen-anywhere"),
        (&["--id", "1", "--cluster", "1=127.0.0.1:0", "--data-dir", "/dev/null/x"], "/dev/null/x"),
    ] {
        let output = output(arguments);
        assert!(complaint(&output).contains(expected), "{output:?}");
    }
    assert!(!dir.path().join("1").exists(), "nothing is made for a command line that is wrong");
}

#[test]
fn a_member_runs_by_its_file_alone_and_check_config_says_what_it_would_run() {
    let mut cluster = Cluster::stopped(1);
    let [_, id, _, list, _, data_dir, ..] = &cluster.arguments(1)[..] else { panic!("not as it was") };
    let text = format!("id = {id}\ncluster = \"{list}\"\ndata-dir = \"{data_dir}\"\nlog-mib = 8\n");
    let file = cluster.dir.path().join("plumeria.toml").display().to_string();
    std::fs::write(&file, &text).expect("written");

    let checked = output(&["check-config", &file]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.starts_with("ok: member 1 of the cluster plumeria\n") && said.contains("8 MiB"), "{said}");
    let in_environment = lock_server().env("LOCK_SERVER_NAME", "other").args(["check-config", &file]).output();
    let said = String::from_utf8_lossy(&in_environment.expect("it runs").stdout).into_owned();
    assert!(said.starts_with("ok: member 1 of the cluster other\n"), "{said}");
    assert!(!cluster.data_dir(1).exists(), "a check makes nothing");

    let file_alone = vec!["--config".to_owned(), file.clone()];
    cluster.spawn_with(1, &file_alone);
    run(async { assert_eq!(cluster.primary().await, 1) });
    cluster.terminate(1);

    std::fs::write(&file, text.replace("log-mib", "lunch")).expect("written");
    for arguments in [["check-config", &file], ["--config", &file]] {
        let line = complaint(&output(&arguments));
        assert!(
            line.contains("plumeria.toml:4: unknown field `lunch`") && line.contains("correct this line"),
            "{line}"
        );
    }
}

#[test]
fn a_port_in_use_is_one_line_and_the_store_is_not_touched() {
    let mut cluster = Cluster::stopped(1);
    let held = TcpListener::bind(cluster.endpoints[0].to_string()).expect("bound");
    assert!(complaint_of(&cluster, 1).contains("is in use: stop the process that has it"));
    assert!(!cluster.data_dir(1).exists());
    drop(held);
    cluster.spawn(1);
    run(async { assert_eq!(cluster.primary().await, 1) });
}

#[test]
fn a_store_that_is_in_use_or_anothers_or_damaged_is_one_line() {
    run(async {
        let mut cluster = Cluster::start(1).await;
        let mut client = Client::open(&cluster, Duration::from_secs(60)).await;
        token(&client.acquire("a-name-to-find").await);
        let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
        cluster.extra[0] = vec!["--listen".into(), listen];
        let line = complaint_of(&cluster, 1);
        assert!(line.contains("in use by process") && line.contains("stop that process first"), "{line}");

        cluster.terminate(1);
        let endpoint = cluster.endpoints[0].to_string();
        let dir = cluster.data_dir(1);
        let other =
            output(&["--id", "2", "--cluster", &format!("2={endpoint}"), "--data-dir", &dir.display().to_string()]);
        let line = complaint(&other);
        assert!(line.contains("belongs to member 1, not 2"), "{line}");

        assert!(damage(&dir, b"a-name-to-find") > 0);
        let line = complaint_of(&cluster, 1);
        assert!(line.contains("is damaged") && line.contains("move the directory away"), "{line}");
    });
}

#[test]
fn dev_runs_a_command_beside_three_members_and_ends_with_its_status() {
    let dir = directory();
    let script = "test -n \"$LOCK_ENDPOINTS\" && echo \"$LOCK_ENDPOINTS\" && exit 7";
    let mut dev = lock_server();
    dev.args(["dev", "--base-port", "0", "--exec", script]).env("TMPDIR", dir.path());
    let started = Instant::now();
    let output = dev.output().expect("it runs");
    println!("measured: {:?} for dev with three members, start to end", started.elapsed());
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let endpoints = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(endpoints.trim().split(',').count(), 3, "{endpoints}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "its directory is removed");
}

#[test]
fn dev_says_how_to_use_the_cluster_tells_of_a_death_and_stops_on_a_signal() {
    let dir = directory();
    let mut dev = lock_server();
    dev.args(["dev", "--base-port", "0", "--metrics-base-port", "0"]).env("TMPDIR", dir.path());
    let mut dev = dev.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let lines: Vec<String> = BufReader::new(dev.stdout.take().expect("piped"))
        .lines()
        .map(|line| line.expect("text"))
        .take_while(|line| !line.contains("Ctrl-C"))
        .collect();
    assert!(lines.iter().any(|line| line.starts_with("export LOCK_ENDPOINTS=127.0.0.1:")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("lockctl run ")), "{lines:?}");
    let pids: Vec<u32> =
        lines.iter().filter_map(|line| line.strip_prefix("kill -9 ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(pids.len(), 3);
    let watched = lines.iter().filter(|line| line.starts_with("# metrics of member ") && line.ends_with("/metrics"));
    assert_eq!(watched.count(), 3, "{lines:?}");
    // Without certificates there is nothing to read again, and nothing to die of.
    signal(pids[0], Signal::HUP);

    signal(pids[1], Signal::KILL);
    let mut stderr = BufReader::new(dev.stderr.take().expect("piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("a line");
    assert!(line.starts_with("member 2 was ended by signal 9; start it again with: "), "{line}");
    assert!(line.contains("--id=2") && line.contains("--cluster=1="), "{line}");

    signal(dev.id(), Signal::TERM);
    assert_eq!(dev.wait().expect("ended").code(), Some(0));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "");
    assert!(pids.iter().all(|pid| is_gone(*pid)));
}

#[test]
fn the_members_do_not_outlive_a_dev_that_is_killed() {
    let dir = directory();
    let mut dev = lock_server();
    let mut dev = dev
        .args(["dev", "--base-port", "0"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let pids: Vec<u32> = BufReader::new(dev.stdout.take().expect("piped"))
        .lines()
        .map(|line| line.expect("text"))
        .filter_map(|line| line.strip_prefix("kill -9 ")?.split(' ').next()?.parse().ok())
        .take(3)
        .collect();
    dev.kill().expect("killed");
    dev.wait().expect("ended");
    let deadline = Instant::now() + cluster::DEADLINE;
    while !pids.iter().all(|pid| is_gone(*pid)) {
        assert!(Instant::now() < deadline, "they live on");
        std::thread::yield_now();
    }
}

#[test]
fn dev_on_a_port_in_use_is_one_line() {
    let port = free_ports(1)[0];
    let _held = TcpListener::bind(("127.0.0.1", port)).expect("bound");
    let output = output(&["dev", "--replicas", "1", "--base-port", &port.to_string()]);
    assert!(complaint(&output).contains(&format!("port {port} is in use")), "{output:?}");
}

/// Gone, or dead and not yet collected by whoever is its parent now.
fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}
