//! What a member tells those who watch it: metrics, health, readiness.

mod cluster;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use cluster::metrics::{ask, get, sample, started, try_get, wait_for, watched};
use cluster::{Client, Cluster, DEADLINE, run, token};
use tokio::net::TcpStream;
/// Waits until a path is answered with this status; gives the body.
async fn wait_for_status(port: u16, path: &str, status: &str) -> String {
    let started = Instant::now();
    loop {
        let answer = try_get(port, path).await;
        if let Some((found, body)) = &answer
            && found == status
        {
            return body.clone();
        }
        assert!(started.elapsed() < DEADLINE, "{path} is answered {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn requirement_12_waits_holds_queues_grants_revokes_and_durability_are_told_out_of_the_box() {
    run(async {
        let (cluster, ports) = started(1).await;
        let lease = Duration::from_secs(60);
        let mut holder = Client::open_with_callback(&cluster, lease).await;
        let mut waiter = Client::open(&cluster, lease).await;
        let held = token(&holder.acquire("a").await);
        waiter.acquire("a").await;
        holder.hears_revoke("a", held).await;
        for (name, expected) in [
            ("plumeria_sessions", 2.0),
            ("plumeria_locks", 1.0),
            ("plumeria_waiters", 1.0),
            ("plumeria_grants_total{how=\"at_once\"}", 1.0),
            ("plumeria_connections{peer=\"callback\"}", 1.0),
        ] {
            wait_for(ports[0], name, |value| value == expected).await;
        }
        holder.release("a", held).await;
        for (name, expected) in [
            ("plumeria_locks", 1.0),
            ("plumeria_waiters", 0.0),
            ("plumeria_grants_total{how=\"queued\"}", 1.0),
            ("plumeria_wait_seconds_count", 1.0),
            ("plumeria_hold_seconds_count", 1.0),
        ] {
            wait_for(ports[0], name, |value| value == expected).await;
        }
        // Where a call takes so long that it is repeated, there are more.
        for (name, at_least) in [
            ("plumeria_requests_total{kind=\"acquire\"}", 2.0),
            ("plumeria_acquire_seconds_count", 2.0),
            ("plumeria_revokes_total", 1.0),
            ("plumeria_callbacks_total{result=\"acknowledged\"}", 1.0),
            ("plumeria_terms_total", 1.0),
            ("plumeria_view_changes_total", 1.0),
            ("plumeria_flush_seconds_count", 1.0),
            ("plumeria_log_bytes", 1.0),
            ("plumeria_log_written_bytes_total", 1.0),
            ("plumeria_resident_memory_bytes", 1e6),
        ] {
            wait_for(ports[0], name, |value| value >= at_least).await;
        }
        let (_, page) = get(ports[0], "/metrics").await;
        assert!(page.contains("durability=\"nvm\",medium=\"file, durable\"} 1"), "{page}");
    });
}

#[test]
fn requirement_12_roles_views_and_lag_of_all_members_are_told() {
    run(async {
        let (_cluster, ports) = started(3).await;
        let started = Instant::now();
        loop {
            let mut pages = Vec::new();
            for port in &ports {
                pages.push(get(*port, "/metrics").await.1);
            }
            let count = |name: &str| pages.iter().filter(|page| sample(page, name) == Some(1.0)).count();
            let roles = [count("plumeria_role{role=\"primary\"}"), count("plumeria_role{role=\"backup\"}")];
            let in_sync = "plumeria_members{standing=\"in_sync\"}";
            let lags = pages.iter().map(|page| page.matches("plumeria_member_lag_ops{member=").count());
            let agreed = pages.iter().all(|page| {
                let same = |name| sample(page, name) == sample(&pages[0], name);
                same("plumeria_view") && same("plumeria_applied_op") && sample(page, in_sync) == Some(3.0)
            });
            // The primary tells the lag of both others, the others tell none.
            if roles == [1, 2] && count("plumeria_serving") == 3 && agreed && lags.sum::<usize>() == 2 {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "{}", pages.join("\n---\n"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn the_guide_says_of_every_metric_what_the_page_says_and_names_no_other() {
    let guide = include_str!("../../docs/operations.md");
    let in_guide: Vec<(String, String, String)> = guide
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| `plumeria_")?.trim_end_matches(" |").split(" | ").collect();
            // Others are in the table of alerts.
            let [name, kind, help] = cells[..] else { return None };
            Some((format!("plumeria_{}", name.trim_end_matches('`')), kind.to_owned(), help.to_owned()))
        })
        .collect();
    run(async {
        let (_cluster, ports) = started(1).await;
        // What the machine says is left out where the member has too much to do.
        wait_for(ports[0], "plumeria_terms_total", |_| true).await;
        let (_, page) = get(ports[0], "/metrics").await;
        let mut on_page = Vec::new();
        for (help, kind) in page.lines().zip(page.lines().skip(1)) {
            if let (Some(help), Some(kind)) = (help.strip_prefix("# HELP "), kind.strip_prefix("# TYPE ")) {
                let ((name, help), (same, kind)) =
                    (help.split_once(' ').expect("a help"), kind.split_once(' ').expect("a type"));
                assert_eq!(name, same);
                on_page.push((name.to_owned(), kind.to_owned(), help.to_owned()));
            }
        }
        on_page.sort();
        let mut in_guide = in_guide;
        in_guide.sort();
        assert!(on_page.len() > 30);
        assert_eq!(in_guide, on_page);
    });
}

#[test]
fn a_member_without_a_majority_is_alive_and_not_ready_and_says_why() {
    run(async {
        let (mut cluster, ports) = watched(3);
        cluster.spawn(1);
        assert_eq!(wait_for_status(ports[0], "/healthz", "200").await, "alive\n");
        let (status, reason) = get(ports[0], "/readyz").await;
        assert!(status == "503" && reason.starts_with("not ready: "), "{status} {reason}");

        cluster.spawn(2);
        cluster.spawn(3);
        cluster.primary().await;
        let ready = wait_for_status(ports[0], "/readyz", "200").await;
        assert!(ready.contains(" in view "), "{ready}");
        cluster.kill(2);
        cluster.kill(3);
        wait_for_status(ports[0], "/readyz", "503").await;
        assert_eq!(get(ports[0], "/healthz").await.0, "200");
    });
}

#[test]
fn what_is_no_get_of_a_known_path_is_refused_and_costs_the_member_nothing() {
    run(async {
        let (cluster, ports) = started(1).await;
        for (request, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 404 "),
            (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405 "),
            (b"\xff\xfe\r\n\r\n", "HTTP/1.1 400 "),
            // As long as a request may be, and without an end.
            (&[b'a'; 8 << 10], "HTTP/1.1 431 "),
        ] {
            let answer = ask(ports[0], request).await.expect("an answer");
            assert!(answer.starts_with(expected), "{answer}");
        }
        // As many that say nothing as there are places: the locks are served, and the places are free when they are gone.
        let mut silent = Vec::new();
        for _ in 0..16 {
            silent.push(TcpStream::connect(("127.0.0.1", ports[0])).await.expect("connected"));
        }
        let mut client = Client::open(&cluster, Duration::from_secs(60)).await;
        token(&client.acquire("a").await);
        drop(silent);
        wait_for_status(ports[0], "/healthz", "200").await;
    });
}

#[test]
fn whoever_is_turned_away_is_counted_by_the_reason() {
    run(async {
        let (cluster, ports) = started(1).await;
        let port: u16 =
            cluster.endpoints[0].to_string().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        // Longer than any hello, so that it is judged at once.
        drop(ask(port, &[b'x'; 4096]).await);
        wait_for(ports[0], "plumeria_connections_refused_total{reason=\"malformed\"}", |count| count == 1.0).await;
        let stranger = wire::Hello { role: wire::Role::Client, cluster: 7, sender: 0, secret: 0 };
        wire::dial(&cluster.endpoints[0], &stranger, DEADLINE).await.expect_err("refused");
        wait_for(ports[0], "plumeria_connections_refused_total{reason=\"other_cluster\"}", |count| count == 1.0).await;
    });
}

/// What the service manager hears, up to a datagram that this holds for.
fn hears(manager: &UnixDatagram, expected: impl Fn(&str) -> bool) -> Vec<String> {
    let mut heard = Vec::new();
    let mut datagram = [0; 4096];
    while !heard.last().is_some_and(|last: &String| expected(last)) {
        let size = manager.recv(&mut datagram).unwrap_or_else(|error| panic!("{error} after {heard:?}"));
        heard.push(String::from_utf8_lossy(&datagram[..size]).into_owned());
    }
    heard
}

#[test]
fn the_service_manager_hears_when_a_member_listens_how_it_stands_that_it_lives_and_that_it_stops() {
    let mut cluster = Cluster::stopped(1);
    let name = format!("plumeria-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("bound");
    manager.set_read_timeout(Some(DEADLINE)).expect("set");
    cluster.environment = vec![("NOTIFY_SOCKET".into(), format!("@{name}")), ("WATCHDOG_USEC".into(), "200000".into())];
    cluster.spawn(1);

    assert_eq!(hears(&manager, |said| said == "READY=1").len(), 1, "that it is ready comes first");
    let endpoint = cluster.endpoints[0].to_string();
    std::net::TcpStream::connect(&endpoint).expect("it listens when it says so");
    let heard = hears(&manager, |said| said.starts_with("STATUS=primary in view "));
    assert!(heard.iter().all(|said| said.starts_with("STATUS=") || said == "WATCHDOG=1"), "{heard:?}");
    for _ in 0..3 {
        hears(&manager, |said| said == "WATCHDOG=1");
    }
    assert!(cluster.terminate(1).success());
    hears(&manager, |said| said == "STOPPING=1\nSTATUS=stopping");
}

#[test]
fn in_json_every_line_of_the_log_is_an_object_and_has_view_and_op_where_it_belongs_to_one() {
    run(async {
        let mut cluster = Cluster::stopped(1);
        cluster.extra[0].extend(["--log-format".into(), "json".into()]);
        cluster.spawn(1);
        cluster.primary().await;
        assert!(cluster.terminate(1).success());
        let log = cluster.logged(1);
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        for line in &lines {
            let keys = ["timestamp", "level", "target", "message"];
            assert!(keys.iter().all(|key| line[key].is_string()), "{line}");
        }
        let serving = lines.iter().find(|line| line["message"] == "serving").expect("that it serves is logged");
        assert!(serving["op"].is_u64(), "{serving}");
        assert!(serving["spans"][0]["view"].as_u64() > Some(0), "{serving}");
    });
}
