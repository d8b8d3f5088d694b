//! The client processes, as the driver has them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::calls::Calls;
use super::diary::{Said, Told};
use super::stores::Stores;
use crate::lab::{Checked, Failure, monotonic};

/// Whatever a healthy service makes possible is done within it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// What is known of the clients.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) calls: Calls,
    pub(crate) stores: Stores,
    /// Whose each is.
    pub(crate) sessions: BTreeMap<u64, u64>,
    /// The first thing that is wrong.
    pub(crate) violation: Option<String>,
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books(Arc<Mutex<Book>>);

impl Books {
    pub(crate) fn open(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters what a client said; the answer where it asked.
    fn enter(&self, client: u64, said: &Said) -> Option<Told> {
        let mut book = self.open();
        match said {
            Said::Ask(ask) => {
                let now = monotonic().as_nanos() as u64;
                let value = book.stores.serve(client, ask, now).unwrap_or_else(|why| {
                    book.violation.get_or_insert(why);
                    None
                });
                return Some(Told::Store { op: ask.op, value });
            }
            Said::Opened { session } => drop(book.sessions.insert(*session, client)),
            Said::Trouble(why) => {
                book.violation.get_or_insert(format!("client {client}: {why}"));
            }
            said => book.calls.enter(client, said),
        }
        None
    }
}

/// What all clients have in common.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    pub(crate) program: PathBuf,
    pub(crate) endpoints: Vec<String>,
    pub(crate) lease: Duration,
    pub(crate) locks: u64,
    pub(crate) books: Books,
}

/// A client process.
#[derive(Debug)]
pub(crate) struct Client {
    number: u64,
    child: Child,
    tell: mpsc::UnboundedSender<Told>,
    listener: JoinHandle<bool>,
}

impl Crew {
    /// Starts a client through a program that enters its namespace.
    pub(crate) fn start(&self, number: u64, seed: u64, through: &[String]) -> Checked<Client> {
        let mut words = through.iter().map(Into::into).chain([self.program.clone().into_os_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("client");
        command.arg(format!("--endpoints={}", self.endpoints.join(",")));
        command.args([format!("--name=client-{number}"), format!("--seed={seed}")]);
        command.args([format!("--lease-ms={}", self.lease.as_millis()), format!("--locks={}", self.locks)]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Wrong("a client without pipes".into()));
        };
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(forward(told, stdin));
        let listener = tokio::spawn(listen(number, self.books.clone(), stdout, tell.clone()));
        Ok(Client { number, child, tell, listener })
    }
}

async fn forward(mut told: mpsc::UnboundedReceiver<Told>, mut stdin: ChildStdin) {
    while let Some(told) = told.recv().await {
        let Ok(line) = serde_json::to_string(&told) else { continue };
        // A client that was killed hears nothing.
        if stdin.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// True if the client ended in order.
async fn listen(number: u64, books: Books, stdout: ChildStdout, tell: mpsc::UnboundedSender<Told>) -> bool {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A client that is killed may leave half a line behind; it has not said that.
        let Ok(said) = serde_json::from_str::<Said>(&line) else { continue };
        if said == Said::Ended {
            return true;
        }
        if let Some(told) = books.enter(number, &said) {
            // A client that ends hears nothing.
            tell.send(told).ok();
        }
    }
    false
}

impl Client {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn signal(&self, signal: Signal) -> Checked<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return Err(Failure::Wrong(format!("client {} has ended", self.number))) };
        kill_process(pid, signal).map_err(|error| Failure::Wrong(format!("client {}: {error}", self.number)))
    }

    /// Kills it, and takes down its last words.
    pub(crate) async fn kill(mut self) -> Checked<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().await?;
        drop(self.listener.await);
        Ok(())
    }

    /// Lets its users finish.
    pub(crate) fn finish(&self) {
        self.tell.send(Told::Finish).ok();
    }

    /// Waits for its end after [`Client::finish`].
    pub(crate) async fn ended(self) -> Checked<()> {
        let Client { number, mut child, listener, tell: _tell } = self;
        match tokio::time::timeout(PATIENCE, listener).await {
            Ok(Ok(true)) => {}
            Ok(_) => return Err(Failure::Wrong(format!("client {number} ended by itself"))),
            Err(_) => {
                return Err(Failure::Wrong(format!(
                    "client {number} does not finish within {PATIENCE:?} after everything was healed: it waits for a lock, or to close"
                )));
            }
        }
        child.wait().await?;
        Ok(())
    }
}

/// Waits until each of these clients was granted something from now on.
pub(crate) async fn all_are_granted(books: &Books, clients: &[u64]) -> Checked<()> {
    let (since, deadline) = (monotonic().as_nanos() as u64, Instant::now() + PATIENCE);
    loop {
        let is_waiting = |client: &u64| !books.open().calls.was_granted(*client, since);
        let waiting: Vec<u64> = clients.iter().copied().filter(is_waiting).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let text = format!("everything is healed, but clients {waiting:?} are granted nothing within {PATIENCE:?}");
            return Err(Failure::Wrong(text));
        }
        sleep(POLL).await;
    }
}
