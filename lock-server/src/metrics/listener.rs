//! The port for machines that watch: `/metrics`, `/healthz`, `/readyz`.
//!
//! Why it harms nobody: a connection gets one answer and is closed. It has [`TIMEOUT`] for all of it, its request at most
//! [`REQUEST_MAX_BYTES`], and there are at most [`CONNECTIONS_MAX`] of them; what is above that is closed unanswered.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wire::{Connection, Listener};

use super::page::CONTENT_TYPE;
use super::report::Probe;

/// A handful of scrapers and probes, at the same time.
const CONNECTIONS_MAX: usize = 16;
/// For reading a request and writing its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What Prometheus sends has a few hundred bytes.
const REQUEST_MAX_BYTES: usize = 8 << 10;
/// Before the next try to accept, when the system has no room (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PLAIN: &str = "text/plain; charset=utf-8";

/// An answer.
struct Answer {
    /// Status line without the protocol.
    status: &'static str,
    content_type: &'static str,
    body: String,
}

/// Answers until the task is dropped, and with it all answers under way.
pub(crate) async fn answer_all(listener: Listener, probe: Arc<Probe>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut answers = JoinSet::new();
    loop {
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "no connection for metrics can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while answers.try_join_next().is_some() {}
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let probe = Arc::clone(&probe);
            answers.spawn(async move {
                // A watcher that is gone or slow is not told anything.
                drop(tokio::time::timeout(TIMEOUT, serve(connection, &probe)).await);
                drop(place);
            });
        }
    }
}

async fn serve(mut connection: Connection, probe: &Probe) -> io::Result<()> {
    let answer = match read_path(&mut connection).await? {
        Ok(path) => answer(&path, probe).await,
        Err(refused) => refused,
    };
    let Answer { status, content_type, body } = answer;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    connection.shutdown().await
}

async fn answer(path: &str, probe: &Probe) -> Answer {
    let verdict = match path {
        "/metrics" => return Answer { status: "200 OK", content_type: CONTENT_TYPE, body: probe.metrics().await },
        "/healthz" => probe.health(),
        "/readyz" => probe.readiness(),
        _ => return plain("404 Not Found", "there are /metrics, /healthz and /readyz"),
    };
    match verdict {
        Ok(line) => plain("200 OK", &line),
        Err(line) => plain("503 Service Unavailable", &line),
    }
}

fn plain(status: &'static str, line: &str) -> Answer {
    Answer { status, content_type: PLAIN, body: format!("{line}\n") }
}

/// The path that is asked for, once the whole request was read, or what is answered instead.
async fn read_path(connection: &mut Connection) -> io::Result<Result<String, Answer>> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= REQUEST_MAX_BYTES {
            return Ok(Err(plain("431 Request Header Fields Too Large", "the request is too long")));
        }
        let mut part = [0; 1024];
        match connection.read(&mut part).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&part[..count]),
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(path_of(&String::from_utf8_lossy(line)))
}

/// The path in a request's first line.
fn path_of(line: &str) -> Result<String, Answer> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["GET", target, version] if version.starts_with("HTTP/1.") => {
            Ok(target.split('?').next().unwrap_or_default().to_owned())
        }
        [_, _, version] if version.starts_with("HTTP/1.") => {
            Err(plain("405 Method Not Allowed", "only GET is answered"))
        }
        _ => Err(plain("400 Bad Request", "this is no request of HTTP/1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_http_1_has_a_path() {
        let status = |line| path_of(line).map_err(|answer| answer.status);
        assert_eq!(status("GET /metrics?name[]=a HTTP/1.1").as_deref(), Ok("/metrics"));
        assert_eq!(status("GET /healthz HTTP/1.0").as_deref(), Ok("/healthz"));
        assert_eq!(status("POST /metrics HTTP/1.1"), Err("405 Method Not Allowed"));
        for line in ["", "GET /metrics", "GET  /metrics HTTP/1.1", "GET /metrics HTTP/2.0", "\u{fffd}\u{fffd}"] {
            assert_eq!(status(line), Err("400 Bad Request"), "{line}");
        }
    }
}
