//! Members whose metrics are looked at.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Cluster, DEADLINE, free_ports};

/// Members that are not started yet, each with a port for its metrics.
pub(crate) fn watched(count: usize) -> (Cluster, Vec<u16>) {
    let mut cluster = Cluster::stopped(count);
    let ports = free_ports(count);
    for (extra, port) in cluster.extra.iter_mut().zip(&ports) {
        extra.extend(["--metrics-listen".into(), format!("127.0.0.1:{port}")]);
    }
    (cluster, ports)
}

pub(crate) async fn started(count: usize) -> (Cluster, Vec<u16>) {
    let (mut cluster, ports) = watched(count);
    (1..=count).for_each(|id| cluster.spawn(id));
    cluster.primary().await;
    (cluster, ports)
}

/// What is answered to these bytes.
pub(crate) async fn ask(port: u16, request: &[u8]) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(request).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).expect("text"))
}

/// Status and body; none where nothing is answered.
pub(crate) async fn try_get(port: u16, path: &str) -> Option<(String, String)> {
    let answer = ask(port, format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()))
}

pub(crate) async fn get(port: u16, path: &str) -> (String, String) {
    try_get(port, path).await.expect("an answer")
}

/// A sample of a page; none where it is not there.
pub(crate) fn sample(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

/// Waits until a sample of this member's page is as it should be.
pub(crate) async fn wait_for(port: u16, name: &str, expected: impl Fn(f64) -> bool) {
    let started = Instant::now();
    loop {
        let (_, page) = get(port, "/metrics").await;
        if sample(&page, name).is_some_and(&expected) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{name}: {:?} in\n{page}", sample(&page, name));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
