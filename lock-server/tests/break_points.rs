//! Members that are cut off or die at a named place, with real processes.
//!
//! `cargo test -p lock-server --features break-points --test break_points`
#![cfg(feature = "break-points")]

mod cluster;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use cluster::{Client, Cluster, free_ports, run, token};
use lock_protocol::{Outcome, Role};

const LONG: Duration = Duration::from_secs(60);

/// A cluster of three whose members can be controlled, and where.
async fn controlled() -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::stopped(3);
    let controls: Vec<_> = free_ports(3).iter().map(|port| format!("127.0.0.1:{port}")).collect();
    for (extra, control) in cluster.extra.iter_mut().zip(&controls) {
        *extra = vec!["--test-control".into(), control.clone()];
    }
    (1..=3).for_each(|id| cluster.spawn(id));
    cluster.primary().await;
    (cluster, controls)
}

fn tell(control: &str, line: &str) -> String {
    let mut stream = TcpStream::connect(control).expect("connected");
    writeln!(stream, "{line}").expect("told");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("answered");
    answer.trim().to_owned()
}

#[test]
fn a_primary_that_is_cut_off_is_followed_by_another_and_comes_back_as_backup() {
    run(async {
        let (cluster, controls) = controlled().await;
        let mut holder = Client::open(&cluster, LONG).await;
        token(&holder.acquire("orders/1").await);
        let cut_off = cluster.primary().await;
        assert_eq!(tell(&controls[cut_off - 1], "arm partition"), "ok");
        let other = cut_off % 3 + 1;
        // The one that is cut off may think for a while that it is primary.
        while cluster
            .status(other)
            .await
            .and_then(|status| status.view)
            .is_none_or(|view| view.primary == cut_off as u64)
        {}
        while cluster.status(cut_off).await.is_some_and(|status| status.serving) {}
        let mut waiter = Client::open(&cluster, LONG).await;
        assert_eq!(waiter.acquire("orders/1").await, Outcome::Queued);
        assert_eq!(tell(&controls[cut_off - 1], "clear"), "ok");
        while !cluster.status(cut_off).await.is_some_and(|status| status.serving && status.role == Role::Backup) {}
    });
}

#[test]
fn a_backup_that_dies_before_its_acknowledgement_is_not_missed() {
    run(async {
        let (cluster, controls) = controlled().await;
        let backup = cluster.primary().await % 3 + 1;
        assert_eq!(tell(&controls[backup - 1], "arm before-ack"), "ok");
        let mut client = Client::open(&cluster, LONG).await;
        token(&client.acquire("orders/1").await);
        while cluster.status(backup).await.is_some() {}
        token(&client.acquire("orders/2").await);
    });
}

#[test]
fn a_word_that_is_no_command_is_answered_in_words() {
    run(async {
        let (_cluster, controls) = controlled().await;
        assert!(tell(&controls[0], "arm lunch").contains("is no break point"));
        assert!(tell(&controls[0], "lunch").contains("is no command"));
    });
}
