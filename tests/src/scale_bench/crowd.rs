//! Many sessions that hold many locks.
//!
//! Why it is right: a lock that a client has cached is held, and no limit of the cache is reached here; at the end the service is asked how
//! many are held.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use lock_client::{LOCKS_MAX, LockClient, Mode};
use rustix::process::setpriority_process;

use crate::lab::{Checked, Failure};

const CONNECT_MAX: Duration = Duration::from_secs(60);
/// No acquire takes longer.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// No lock is given back because nobody used it.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Of the sessions' threads; the members' is that of this program, 0 most often.
const GIVES_WAY: i32 = 15;
/// Sessions that are opened at a time.
const OPENING: usize = 8;
/// Sessions that take locks at a time ...
const TAKING: usize = 16;
/// ... and acquires of each that are under way.
const IN_FLIGHT: usize = 64;

/// The sessions.
#[derive(Debug)]
pub(super) struct Crowd {
    sessions: Vec<LockClient>,
    rounds: u64,
}

impl Crowd {
    /// Opens so many sessions, whose threads give way to the members: in earnest they are on other machines.
    pub(super) fn connect(endpoints: &[String], count: u64, lease: Duration) -> Checked<Crowd> {
        let opened = std::thread::scope(|scope| scope.spawn(|| open_giving_way(endpoints, count, lease)).join());
        let sessions = opened.map_err(|_| Failure::Wrong("the thread that opens sessions panicked".into()))??;
        Ok(Crowd { sessions, rounds: 0 })
    }

    /// Each takes so many locks and keeps them.
    pub(super) async fn take(&self, locks_each: u64) -> Checked<()> {
        let each = (0..).zip(&self.sessions).map(|(number, session)| take(session, number, locks_each));
        stream::iter(each).buffer_unordered(TAKING).try_collect().await
    }

    /// Each takes one lock more, all at once: afterwards the service has served each of them.
    pub(super) async fn is_served(&mut self) -> Checked<()> {
        self.rounds += 1;
        let each = self
            .sessions
            .iter()
            .map(|session| take_one(session, format!("round-{}/{}", self.rounds, session.session())));
        futures::future::try_join_all(each).await.map(drop)
    }

    pub(super) fn len(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// Locks that it has taken in [`Crowd::is_served`].
    pub(super) fn extra_locks(&self) -> u64 {
        self.rounds * self.len()
    }

    /// Lets all of it go without a word: the cluster is at its end.
    pub(super) fn abandon(self) {
        self.sessions.iter().for_each(LockClient::abandon);
    }
}

/// To be called on a thread of its own: on Linux a priority is a thread's, and those that it starts have the same.
fn open_giving_way(endpoints: &[String], count: u64, lease: Duration) -> Checked<Vec<LockClient>> {
    if let Err(error) = setpriority_process(None, GIVES_WAY) {
        eprintln!("the sessions' threads do not give way: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let one = |number| session(endpoints, format!("crowd-{number}"), lease);
    runtime.block_on(stream::iter(0..count).map(one).buffer_unordered(OPENING).try_collect())
}

/// Opens a session that keeps all that it takes.
pub(super) async fn session(endpoints: &[String], name: String, lease: Duration) -> Checked<LockClient> {
    let builder = LockClient::builder(endpoints).name(name).lease(lease).connect_timeout(CONNECT_MAX);
    Ok(builder.cache(LOCKS_MAX, IDLE_MAX).connect().await?)
}

/// A session takes so many locks with names of 32 bytes.
pub(super) async fn take(session: &LockClient, number: u64, locks: u64) -> Checked<()> {
    let each = (0..locks).map(|lock| take_one(session, format!("volume-{number:04}/inode/{lock:014}")));
    stream::iter(each).buffer_unordered(IN_FLIGHT).try_collect().await
}

async fn take_one(session: &LockClient, name: String) -> Result<(), Failure> {
    session.acquire_timeout(name, Mode::Exclusive, ANSWER_MAX).await.map(drop).map_err(Failure::from)
}
