//! Clients that break the rules: each is dropped and counted, and another client is served meanwhile.

mod cluster;

use std::time::{Duration, Instant};

use cluster::metrics::{started, wait_for};
use cluster::{Client, Cluster, DEADLINE, context, run, token};
use futures::SinkExt;
use lock_protocol::{LockServiceRequest, LockServiceResponse, Outcome, Query};
use tarpc::{ClientMessage, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{Connection, Hello, MAX_FRAME_BYTES, Role};

/// One acquire beside them takes at most so long, on a slow and busy machine too.
const ACQUIRE_MAX: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(60);

/// The port that a member listens on.
fn port(cluster: &Cluster) -> u16 {
    let endpoint = cluster.endpoints[0].to_string();
    endpoint.rsplit(':').next().expect("HOST:PORT").parse().expect("a port")
}

async fn plain(cluster: &Cluster) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port(cluster))).await.expect("it listens")
}

async fn client_connection(cluster: &Cluster) -> Connection {
    let hello = Hello { role: Role::Client, cluster: 0, sender: 0, secret: 0 };
    wire::dial(&cluster.endpoints[0], &hello, DEADLINE).await.expect("welcome").0
}

/// Waits until the other side has closed the connection.
async fn closed(connection: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    // A connection that is reset is closed, too.
    drop(tokio::time::timeout(DEADLINE, connection.read_to_end(&mut rest)).await.expect("closed in time"));
}

/// Somebody else takes locks and gives them back.
async fn is_served(client: &mut Client, round: usize) {
    for lock in 0..10 {
        let name = format!("served/{round}/{lock}");
        let began = Instant::now();
        let granted = token(&client.acquire(&name).await);
        assert!(began.elapsed() < ACQUIRE_MAX, "an acquire took {:?}", began.elapsed());
        assert_eq!(client.release(&name, granted).await, Outcome::Released { requeued: None });
    }
}

fn turned_away(reason: &str) -> String {
    format!("plumeria_connections_refused_total{{reason=\"{reason}\"}}")
}

#[test]
fn garbage_before_and_after_the_hello_and_frames_too_large_end_the_connection_and_are_counted() {
    run(async {
        let (cluster, ports) = started(1).await;
        let mut other = Client::open(&cluster, LEASE).await;
        let mut before = 0.0;
        for (round, garbage) in
            [&b"GET / HTTP/1.1\r\n\r\n                                            "[..], &[0; 64], &[0xff; 64]]
                .into_iter()
                .enumerate()
        {
            let mut connection = plain(&cluster).await;
            // It may be closed while this is written.
            drop(connection.write_all(garbage).await);
            closed(&mut connection).await;
            before += 1.0;
            is_served(&mut other, round).await;
        }
        wait_for(ports[0], &turned_away("malformed"), |count| count == before).await;
        let too_large = u32::try_from(MAX_FRAME_BYTES + 1).expect("it is small").to_be_bytes();
        let no_call = [&8u32.to_be_bytes()[..], &[0xff; 8]].concat();
        for (round, garbage) in [&too_large[..], &u32::MAX.to_be_bytes(), &no_call].into_iter().enumerate() {
            let mut connection = client_connection(&cluster).await;
            connection.write_all(garbage).await.expect("it is open");
            connection.flush().await.expect("it is open");
            closed(&mut connection).await;
            before += 1.0;
            is_served(&mut other, 10 + round).await;
        }
        wait_for(ports[0], &turned_away("malformed"), |count| count == before).await;
        // One that breaks off within a frame has sent nothing wrong.
        let mut connection = client_connection(&cluster).await;
        connection.write_all(&no_call[..6]).await.expect("it is open");
        drop(connection);
        // Nor has one that does not wait for its answer: the system resets its connection.
        let mut hasty = wire::transport::<Response<LockServiceResponse>, _>(client_connection(&cluster).await);
        let message = LockServiceRequest::Status {};
        hasty.send(ClientMessage::Request(Request { context: context(), id: 0, message })).await.expect("it is open");
        is_served(&mut other, 20).await;
        drop(hasty);
        wait_for(ports[0], "plumeria_connections{peer=\"client\"}", |count| count == 1.0).await;
        is_served(&mut other, 21).await;
        wait_for(ports[0], &turned_away("malformed"), |count| count == before).await;
    });
}

#[test]
fn a_hello_that_comes_byte_by_byte_is_not_waited_for() {
    run(async {
        let (cluster, ports) = started(1).await;
        let mut other = Client::open(&cluster, LEASE).await;
        let mut slow = plain(&cluster).await;
        let began = Instant::now();
        let mut sent = 0;
        // As long as it is open: some of what stands in every hello.
        while slow.write_all(&b"PLUM"[sent % 4..][..1]).await.is_ok() && slow.writable().await.is_ok() {
            sent += 1;
            is_served(&mut other, sent).await;
            if sent == 4 {
                closed(&mut slow).await;
                break;
            }
        }
        assert!(began.elapsed() < DEADLINE);
        wait_for(ports[0], &turned_away("silent"), |count| count >= 1.0).await;
    });
}

#[test]
fn a_client_that_asks_for_much_and_reads_nothing_is_dropped_and_counted() {
    run(async {
        let (cluster, ports) = started(1).await;
        let mut other = Client::open(&cluster, LEASE).await;
        for lock in 0..150 {
            token(&other.acquire(&format!("{lock:03}{}", "x".repeat(200))).await);
        }
        let connection = client_connection(&cluster).await;
        let mut greedy =
            wire::transport::<Response<LockServiceResponse>, ClientMessage<LockServiceRequest>>(connection);
        let query = Query::Locks { prefix: String::new(), after: None, limit: 1000 };
        for id in 0..800 {
            let message = LockServiceRequest::Query { query: query.clone() };
            let request = ClientMessage::Request(Request { context: context(), id, message });
            // Its own room for what is not sent yet is bounded as well.
            match tokio::time::timeout(Duration::from_secs(1), greedy.send(request)).await {
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        is_served(&mut other, 0).await;
        wait_for(ports[0], &turned_away("not_reading"), |count| count == 1.0).await;
        is_served(&mut other, 1).await;
    });
}
