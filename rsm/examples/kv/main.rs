//! A replicated key-value server in two small files: how a service is built on rsm.
//!
//! ```text
//! kv="cargo run -q -p rsm --example kv --"; cluster=1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103
//! for n in 1 2 3; do $kv --id $n --cluster $cluster --data-dir kv-$n --listen 127.0.0.1:720$n & done
//! $kv put 127.0.0.1:7201,127.0.0.1:7202,127.0.0.1:7203 colour green      # and get, cas, delete; then kill a member
//! ```
//!
//! 1. **A machine.** [`Kv`] (`machine.rs`) holds the state. `StateMachine::apply` turns a command into an answer: from the state and the
//!    command alone, on every member alike, and whatever the bytes are. Time or chance has to be put into the command.
//! 2. **Snapshot and hash.** A log is cut and a laggard fed by snapshots, so they hold all that later answers depend on.
//!    The hash lets a member that went another way notice, and stop.
//! 3. **An application.** [`Application`] says when this member begins and ceases to serve: for what is *not* replicated,
//!    as watchers or timers. There is nothing of that kind here.
//! 4. **A node.** [`Node::start`] opens the store and runs the member. Connections of other members come in by a listener
//!    of the service and go to [`Handle::accept_peer`].
//! 5. **Clients.** [`Handle::submit`] answers when a majority holds the command and this member has executed it. A refusal
//!    says that nothing happened, so another member is asked. [`Rejection::Unknown`] says that nobody knows yet, and so does
//!    a broken connection: the client is told, for a `put` sent again could undo another client's. To repeat commands
//!    safely, name them, and remember the last answers in the machine's state.
//!
//! Reads go through the log like writes: a primary that was replaced without knowing can answer nothing stale.
//!
//! A request is a line: `put KEY VALUE`, `get KEY`, `cas KEY OLD NEW` (`cas KEY NEW` where there is none), `delete KEY`. So
//! is the answer: `ok`, `value VALUE`, `none`, `differs VALUE`, `retry` (not executed), `unknown`, `error TEXT`.

use anyhow::Context;
use rsm::{Application, Handle, Kind, MemberId, Node, NodeSettings, Rejection, StartError};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};
use wire::{Connection, Endpoint, Listener};
mod machine;
pub(crate) use machine::Kv;

/// The longest request, bytes; an answer is a value and a word at most. rsm takes commands of 64 KiB.
const REQUEST_MAX_BYTES: u64 = 16 << 10;
/// Connections at a time, of clients and of members each.
const CONNECTIONS_MAX: usize = 256;
/// Between two attempts, of accepting as of asking.
const PAUSE: Duration = Duration::from_millis(50);
/// A client waits so long for an answer, and a server for a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client asks all members so often.
const ROUNDS_MAX: u32 = 200;

impl Application for Kv {
    fn serving(&mut self) {}
    fn stopped_serving(&mut self) {}
    fn executed(&mut self) {}
}

/// A running member; to drop it is a crash.
pub(crate) type Member = (Node, Handle, JoinSet<()>);

/// Starts a member that takes the other members' connections from one listener, and clients' from the other.
pub(crate) fn start(settings: NodeSettings, peers: Listener, clients: Listener) -> Result<Member, StartError> {
    let (node, handle) = Node::start(settings, Kv::default(), tokio::runtime::Handle::current())?;
    let (member, server) = (handle.clone(), handle.clone());
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(peers, move |connection| accept_peer(connection, member.clone())));
    accepting.spawn(accept(clients, move |connection| serve(connection, server.clone())));
    Ok((node, handle, accepting))
}

async fn accept<F: Future<Output = ()> + Send + 'static>(listener: Listener, work: impl Fn(Connection) -> F) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await.map(&work) {
            Ok(work) => drop(tokio::spawn(async move { drop((work.await, permit)) })),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn accept_peer(mut connection: Connection, handle: Handle) {
    let Ok(hello) = connection.read_hello().await else { return };
    handle.accept_peer(connection, hello).await.unwrap_or_else(|error| eprintln!("kv: {error}"));
}

async fn serve(connection: Connection, handle: Handle) {
    let mut stream = BufReader::new(connection);
    while let Ok(Ok(Some(line))) = timeout(PATIENCE, read_line(&mut stream, REQUEST_MAX_BYTES)).await {
        let answer = match handle.submit(line.into_bytes(), false).await {
            Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
            Err(Rejection::Unknown) => "unknown".into(),
            Err(_) => "retry".into(),
        };
        let Ok(Ok(())) = timeout(PATIENCE, stream.write_all(format!("{answer}\n").as_bytes())).await else { return };
    }
}

/// The next line; none at the end, or where it is cut or too long.
async fn read_line(stream: &mut BufReader<impl AsyncRead + Unpin>, max_bytes: u64) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    stream.take(max_bytes).read_line(&mut line).await?;
    Ok(line.strip_suffix('\n').map(str::to_owned))
}

/// Asks the members one after the other until one says more than `retry`.
pub(crate) async fn request(endpoints: &[String], line: &str) -> String {
    for _ in 0..ROUNDS_MAX {
        for endpoint in endpoints {
            let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(endpoint)).await else { continue };
            let mut stream = BufReader::new(stream);
            let exchange = async {
                stream.write_all(format!("{line}\n").as_bytes()).await?;
                read_line(&mut stream, 2 * REQUEST_MAX_BYTES).await
            };
            match timeout(PATIENCE, exchange).await {
                Ok(Ok(Some(answer))) if answer == "retry" => {}
                Ok(Ok(Some(answer))) => return answer,
                _ => return "unknown".into(),
            }
        }
        sleep(PAUSE).await;
    }
    "error no member serves".into()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [name @ ("put" | "get" | "cas" | "delete"), endpoints, words @ ..] = &arguments[..] {
        let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
        println!("{}", request(&endpoints, &format!("{name} {}", words.join(" "))).await);
        return Ok(());
    }
    let option = |name: &'static str| {
        arguments.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]).context(format!("{name} is missing"))
    };
    let member = |text: &str| {
        let (id, endpoint) = text.split_once('=').context("--cluster is 1=HOST:PORT,2=HOST:PORT and so on")?;
        anyhow::Ok((MemberId(id.parse()?), endpoint.parse::<Endpoint>()?, Kind::Replica))
    };
    let members = option("--cluster")?.split(',').map(member).collect::<anyhow::Result<Vec<_>>>()?;
    let id = MemberId(option("--id")?.parse().context("--id is a number")?);
    let own = members.iter().find(|member| member.0 == id).context("--cluster does not list --id")?;
    let (peers, clients) = (Listener::bind(&own.1).await?, Listener::bind(&option("--listen")?.parse()?).await?);
    let (node, handle, _accepting) =
        start(NodeSettings::new(id, "kv", members, option("--data-dir")?), peers, clients)?;
    tokio::select! {
        ended = node.wait() => ended.map_err(anyhow::Error::msg)?,
        _ = tokio::signal::ctrl_c() => handle.stop().await,
    }
    Ok(())
}
