//! A small cluster for the client's tests: real sockets, one table in memory, and switches for what can go wrong.
#![allow(dead_code, reason = "each user uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures::StreamExt;
use lock_protocol::{
    Activity, Answer, BackupAnswer, BackupRequest, Command, FencingToken, ForceRelease, ForcedTenure, Holder,
    KeepAlive, LockCallbackClient, LockEntry, LockName, LockService, MemberChange, MemberStatus, Mode, Notice, Open,
    OpenWith, Opened, Outcome, Query, RecoveryAnswer, RecoveryReport, Refusal, Renewed, Request, RequestNumber,
    Requeued, Role, SessionEnd, SessionId, Submission, Waiter,
};
use parking_lot::Mutex;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wire::{Connection, Endpoint, Listener, Welcome};

type Place = (SessionId, RequestNumber, Mode);

#[derive(Default)]
struct Entry {
    holders: Vec<(Place, FencingToken)>,
    queue: Vec<Place>,
    /// Tenures that were ended by force; nobody is granted the lock before their release.
    forced: Vec<(SessionId, FencingToken)>,
}

/// The replicated part.
#[derive(Default)]
struct Table {
    ops: u64,
    locks: BTreeMap<LockName, Entry>,
    executed: BTreeMap<(SessionId, RequestNumber), Outcome>,
    sessions: BTreeMap<u128, (SessionId, u64)>,
    gone: BTreeSet<SessionId>,
}

impl Table {
    fn execute(&mut self, session: SessionId, request: &Request) -> Outcome {
        if self.gone.contains(&session) {
            return Outcome::SessionGone;
        }
        let number = request.number;
        let known = self.executed.get(&(session, number)).cloned();
        if let Command::Acquire { name, mode } = &request.command {
            if known.is_some() {
                return self.place(name, session, number).unwrap_or(Outcome::Gone);
            }
            self.executed.insert((session, number), Outcome::Queued);
            let entry = self.locks.entry(name.clone()).or_default();
            if let Some((place, token)) = entry.holders.iter().find(|(place, _)| place.0 == session) {
                return Outcome::AlreadyHeld { token: *token, mode: place.2 };
            }
            entry.queue.push((session, number, *mode));
            self.grant(name);
            return self.place(name, session, number).expect("queued or granted");
        }
        if let Some(outcome) = known {
            return outcome;
        }
        let name = request.command.name().clone();
        let entry = self.locks.entry(name.clone()).or_default();
        let outcome = match &request.command {
            Command::Acquire { .. } => unreachable!("answered above"),
            Command::AcquireAll { .. } => panic!("this server knows no sets"),
            Command::Cancel { acquire, .. } => {
                entry.queue.retain(|place| (place.0, place.1) != (session, *acquire));
                entry.holders.retain(|(place, _)| (place.0, place.1) != (session, *acquire));
                self.executed.insert((session, *acquire), Outcome::Gone);
                Outcome::Cancelled
            }
            Command::Upgrade { token, .. } => match entry.holders.as_mut_slice() {
                [((holder, ..), held)] if (*holder, *held) != (session, *token) => Outcome::NotHeld,
                [holder] if entry.queue.is_empty() && entry.forced.is_empty() => {
                    self.ops += 1;
                    *holder = ((session, number, Mode::Exclusive), FencingToken(self.ops));
                    Outcome::Upgraded { token: holder.1 }
                }
                _ => Outcome::NotUpgraded,
            },
            Command::Downgrade { token, .. } => {
                match entry.holders.iter_mut().find(|(place, held)| place.0 == session && held == token) {
                    Some((place, _)) => {
                        place.2 = Mode::Shared;
                        Outcome::Downgraded
                    }
                    None => Outcome::NotHeld,
                }
            }
            Command::Release { token, requeue, .. } => {
                entry.forced.retain(|forced| *forced != (session, *token));
                let before = entry.holders.len();
                entry.holders.retain(|(place, held)| (place.0, held) != (session, token));
                match (before == entry.holders.len(), requeue) {
                    (true, _) => Outcome::NotHeld,
                    (false, None) => Outcome::Released { requeued: None },
                    (false, Some(mode)) => {
                        entry.queue.push((session, number, *mode));
                        self.grant(&name);
                        let requeued = match self.place(&name, session, number) {
                            Some(Outcome::Granted { token, others_waiting }) => {
                                Requeued::Granted { token, others_waiting }
                            }
                            _ => Requeued::Queued,
                        };
                        Outcome::Released { requeued: Some(requeued) }
                    }
                }
            }
        };
        self.executed.insert((session, number), outcome.clone());
        self.grant(&name);
        outcome
    }

    fn place(&self, name: &LockName, session: SessionId, number: RequestNumber) -> Option<Outcome> {
        let entry = self.locks.get(name)?;
        let mine = |place: &Place| (place.0, place.1) == (session, number);
        if let Some((place, token)) = entry.holders.iter().find(|(place, _)| mine(place)) {
            let others_waiting = entry.queue.iter().any(|other| !other.2.is_compatible_with(place.2));
            return Some(Outcome::Granted { token: *token, others_waiting });
        }
        entry.queue.iter().any(mine).then_some(Outcome::Queued)
    }

    fn grant(&mut self, name: &LockName) {
        let Some(entry) = self.locks.get_mut(name) else { return };
        while let Some(first) = entry.queue.first().copied() {
            if !entry.forced.is_empty() || !entry.holders.iter().all(|(place, _)| place.2.is_compatible_with(first.2)) {
                return;
            }
            entry.queue.remove(0);
            self.ops += 1;
            entry.holders.push((first, FencingToken(self.ops)));
        }
    }

    fn end(&mut self, session: SessionId) {
        self.gone.insert(session);
        let names: Vec<LockName> = self.locks.keys().cloned().collect();
        for name in names {
            if let Some(entry) = self.locks.get_mut(&name) {
                entry.queue.retain(|place| place.0 != session);
                entry.holders.retain(|(place, _)| place.0 != session);
            }
            self.grant(&name);
        }
    }

    /// What the state has to tell whom: (session, notice).
    fn notices(&self) -> Vec<(SessionId, Notice)> {
        let mut notices = Vec::new();
        for (name, entry) in &self.locks {
            for (session, token) in &entry.forced {
                notices.push((*session, Notice::Forced { name: name.clone(), token: *token }));
            }
            for (place, token) in &entry.holders {
                let others_waiting = entry.queue.iter().any(|other| !other.2.is_compatible_with(place.2));
                let (name, acquire, token) = (name.clone(), place.1, *token);
                notices.push((place.0, Notice::Granted { name: name.clone(), acquire, token, others_waiting }));
                if let Some(first) = entry.queue.first().filter(|first| !first.2.is_compatible_with(place.2)) {
                    let target = (first.2 == Mode::Shared).then_some(Mode::Shared);
                    notices.push((place.0, Notice::Revoke { name, token, target }));
                }
            }
        }
        notices
    }
}

/// The switches.
#[derive(Default)]
pub(crate) struct Control {
    table: Mutex<Table>,
    callbacks: Mutex<BTreeMap<SessionId, LockCallbackClient>>,
    tasks: Mutex<BTreeMap<usize, Vec<AbortHandle>>>,
    pub(crate) addresses: Mutex<Vec<String>>,
    primary: AtomicUsize,
    /// So many submissions are executed, and then their connection dropped instead of an answer.
    pub(crate) lose_answers: AtomicUsize,
    /// Callback connections are accepted, but nothing is sent on them.
    pub(crate) mute_callbacks: AtomicBool,
    /// Keep-alives are taken, and never answered.
    pub(crate) freeze: AtomicBool,
    pub(crate) submissions: AtomicUsize,
    pub(crate) callbacks_opened: AtomicUsize,
    pub(crate) closes: AtomicUsize,
}

impl Control {
    pub(crate) fn set_primary(&self, member: usize) {
        self.primary.store(member, Ordering::SeqCst);
    }

    /// Every session ends, as by expiry.
    pub(crate) fn expire_all(&self) {
        let mut table = self.table.lock();
        let sessions: Vec<SessionId> = table.sessions.values().map(|(session, _)| *session).collect();
        for session in sessions {
            table.end(session);
        }
    }

    /// Ends every tenure of that lock by force.
    pub(crate) fn force(&self, name: &str) {
        let mut table = self.table.lock();
        let entry = table.locks.get_mut(name).expect("it is held");
        let holders = std::mem::take(&mut entry.holders);
        entry.forced.extend(holders.into_iter().map(|(place, token)| (place.0, token)));
    }

    pub(crate) fn waiters(&self, name: &str) -> usize {
        self.table.lock().locks.get(name).map_or(0, |entry| entry.queue.len())
    }

    pub(crate) fn holders(&self, name: &str) -> usize {
        self.table.lock().locks.get(name).map_or(0, |entry| entry.holders.len())
    }

    pub(crate) fn grants(&self) -> u64 {
        self.table.lock().ops
    }

    /// Drops every connection of that member, and its listener.
    pub(crate) fn kill(&self, member: usize) {
        for task in self.tasks.lock().remove(&member).unwrap_or_default() {
            task.abort();
        }
        self.callbacks.lock().clear();
    }

    fn notify_all(&self) {
        if self.mute_callbacks.load(Ordering::SeqCst) {
            return;
        }
        let notices = self.table.lock().notices();
        for (session, notice) in notices.into_iter().filter(|(_, notice)| !matches!(notice, Notice::Forced { .. })) {
            if let Some(client) = self.callbacks.lock().get(&session).cloned() {
                tokio::spawn(async move { drop(client.notify(tarpc::context::current(), vec![notice]).await) });
            }
        }
    }
}

/// A cluster on a thread of its own.
pub(crate) struct Cluster {
    pub(crate) control: Arc<Control>,
    handle: tokio::runtime::Handle,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Cluster {
    pub(crate) fn start(members: usize) -> Self {
        let control = Arc::new(Control::default());
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let of_thread = Arc::clone(&control);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                for member in 0..members {
                    let address = listen(Arc::clone(&of_thread), member, "127.0.0.1:0").await;
                    of_thread.addresses.lock().push(address);
                }
                ready.send(tokio::runtime::Handle::current()).expect("the thread is there");
                drop(stopped.await);
            });
        });
        Cluster { control, handle: started.recv().expect("the thread is there"), _stop: stop }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.control.addresses.lock().clone()
    }

    /// After [`Control::kill`]: the same address again.
    pub(crate) async fn restart(&self, member: usize) {
        let address = self.addresses()[member].clone();
        let control = Arc::clone(&self.control);
        self.handle.spawn(async move { listen(control, member, &address).await }).await.expect("it listens");
    }
}

async fn listen(control: Arc<Control>, member: usize, address: &str) -> String {
    let endpoint: Endpoint = address.parse().expect("as it is written");
    let until = Instant::now() + Duration::from_secs(10);
    let listener = loop {
        match Listener::bind(&endpoint).await {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let address = listener.address().expect("it has one").to_string();
    let of_task = Arc::clone(&control);
    let task = tokio::spawn(async move {
        loop {
            let connection = listener.accept().await.expect("a connection");
            let serving = tokio::spawn(serve(Arc::clone(&of_task), member, connection));
            of_task.tasks.lock().entry(member).or_default().push(serving.abort_handle());
        }
    });
    control.tasks.lock().entry(member).or_default().push(task.abort_handle());
    address
}

async fn serve(control: Arc<Control>, member: usize, mut connection: Connection) {
    let Ok(hello) = connection.read_hello().await else { return };
    let cluster = 7;
    let session = SessionId(hello.sender);
    if hello.role == wire::Role::Callback && control.table.lock().gone.contains(&session) {
        drop(connection.welcome(&Welcome::Refused(format!("session {session} has ended"))).await);
        return;
    }
    if connection.welcome(&Welcome::Accepted { cluster, member: member as u64 }).await.is_err() {
        return;
    }
    match hello.role {
        wire::Role::Client => {
            let cut = Arc::new(Notify::new());
            let server = Server { control, member, cut: Arc::clone(&cut) };
            let channel = BaseChannel::with_defaults(wire::transport(connection)).max_concurrent_requests(64);
            let work = channel.execute(server.serve()).for_each(|handler| async move { drop(tokio::spawn(handler)) });
            tokio::select! { () = work => {}, () = cut.notified() => {} }
        }
        wire::Role::Callback => {
            control.callbacks_opened.fetch_add(1, Ordering::SeqCst);
            let known = control.table.lock().sessions.get(&hello.secret).is_some_and(|known| known.0 == session);
            assert!(known, "the callback's secret is the nonce of the session");
            let new = LockCallbackClient::new(tarpc::client::Config::default(), wire::transport(connection));
            control.callbacks.lock().insert(session, new.client);
            control.notify_all();
            drop(new.dispatch.await);
        }
        wire::Role::Peer => {}
    }
}

#[derive(Clone)]
struct Server {
    control: Arc<Control>,
    member: usize,
    cut: Arc<Notify>,
}

impl Server {
    fn check_primary(&self) -> Result<(), Refusal> {
        let primary = self.control.primary.load(Ordering::SeqCst);
        if primary == self.member {
            return Ok(());
        }
        Err(Refusal::NotPrimary { hint: self.control.addresses.lock().get(primary).cloned() })
    }
}

impl LockService for Server {
    async fn open(self, _: Context, open: Open) -> Result<Opened, Refusal> {
        self.check_primary()?;
        let mut table = self.control.table.lock();
        table.ops += 1;
        let fresh = (SessionId(table.ops), open.lease_ms);
        let (session, lease_ms) = *table.sessions.entry(open.nonce).or_insert(fresh);
        Ok(Opened { session, lease_ms })
    }

    async fn open_with(self, context: Context, open: OpenWith) -> Result<Opened, Refusal> {
        self.open(context, open.open).await
    }

    async fn end(self, context: Context, session: SessionId, _: SessionEnd) -> Result<(), Refusal> {
        self.close(context, session).await
    }

    async fn report_recovery(self, _: Context, _: RecoveryReport) -> Result<RecoveryAnswer, Refusal> {
        Ok(RecoveryAnswer::NotAssigned)
    }

    async fn force_kept(self, _: Context, _: LockName, _: FencingToken) -> Result<Vec<ForcedTenure>, Refusal> {
        Ok(Vec::new())
    }

    async fn submit(self, _: Context, submission: Submission) -> Result<Vec<Outcome>, Refusal> {
        self.check_primary()?;
        self.control.submissions.fetch_add(1, Ordering::SeqCst);
        let outcomes = {
            let mut table = self.control.table.lock();
            submission.requests.iter().map(|request| table.execute(submission.session, request)).collect()
        };
        self.control.notify_all();
        let lose = &self.control.lose_answers;
        if lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            self.cut.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(outcomes)
    }

    async fn backup(self, _: Context, _: BackupRequest) -> Result<BackupAnswer, Refusal> {
        Err(Refusal::ViewChanging)
    }

    async fn keep_alive(self, _: Context, keep_alive: KeepAlive) -> Result<Renewed, Refusal> {
        self.check_primary()?;
        if self.control.freeze.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let table = self.control.table.lock();
        if table.gone.contains(&keep_alive.session) {
            return Err(Refusal::SessionGone);
        }
        let notices = table
            .notices()
            .into_iter()
            .filter(|(session, notice)| *session == keep_alive.session && !matches!(notice, Notice::Granted { .. }));
        Ok(Renewed { stamp: keep_alive.stamp, notices: notices.map(|(_, notice)| notice).collect(), more: false })
    }

    async fn close(self, _: Context, session: SessionId) -> Result<(), Refusal> {
        self.check_primary()?;
        self.control.closes.fetch_add(1, Ordering::SeqCst);
        self.control.table.lock().end(session);
        self.control.notify_all();
        Ok(())
    }

    async fn query(self, _: Context, query: Query) -> Result<Answer, Refusal> {
        self.check_primary()?;
        let table = self.control.table.lock();
        let person = |session: &SessionId| (*session, "someone".to_owned(), "host".to_owned(), 1);
        let show = |name: &LockName, entry: &Entry| LockEntry {
            name: name.clone(),
            holders: entry
                .holders
                .iter()
                .map(|((session, _, mode), token)| {
                    let (session, client, host, pid) = person(session);
                    Holder { session, client, host, pid, mode: *mode, token: *token, since_ms: 0 }
                })
                .collect(),
            waiters: entry
                .queue
                .iter()
                .map(|(session, _, mode)| {
                    let (session, client, host, pid) = person(session);
                    Waiter { session, client, host, pid, mode: *mode, since_ms: 0 }
                })
                .collect(),
        };
        Ok(match query {
            Query::Forced { .. } => Answer::Forced(Vec::new()),
            Query::Kept { .. } => Answer::Kept { entries: Vec::new(), more: false },
            Query::Inspect { name } => {
                Answer::Inspect(show(&name, table.locks.get(&name).unwrap_or(&Entry::default())))
            }
            Query::Locks { prefix, after, .. } => {
                // One entry a page, so that paging is seen to work.
                let mut rest = table.locks.iter().filter(|(name, _)| {
                    name.as_str().starts_with(&prefix) && after.as_ref().is_none_or(|after| *name > after)
                });
                let entries = rest.next().map(|(name, entry)| show(name, entry)).into_iter().collect();
                Answer::Locks { entries, more: rest.next().is_some() }
            }
        })
    }

    async fn force_release(self, _: Context, force: ForceRelease) -> Result<Vec<ForcedTenure>, Refusal> {
        self.check_primary()?;
        let ended = {
            let mut table = self.control.table.lock();
            let Some(entry) = table.locks.get_mut(&force.name) else { return Ok(Vec::new()) };
            let ended: Vec<_> = entry.holders.extract_if(.., |(_, token)| *token == force.token).collect();
            entry.forced.extend(ended.iter().map(|(place, token)| (place.0, *token)));
            ended
        };
        self.control.notify_all();
        let withheld_ms = (!force.now).then_some(1_000);
        Ok(ended.iter().map(|(place, _)| ForcedTenure { session: place.0, withheld_ms }).collect())
    }

    async fn change_members(self, _: Context, _: MemberChange) -> Result<u64, Refusal> {
        Err(Refusal::Invalid("this cluster stays as it is".into()))
    }

    async fn activity(self, _: Context) -> Option<Activity> {
        None
    }

    async fn status(self, _: Context) -> MemberStatus {
        MemberStatus {
            id: self.member as u64,
            cluster: 7,
            role: if self.check_primary().is_ok() { Role::Primary } else { Role::Backup },
            serving: true,
            waits_for: None,
            view: None,
            applied_op: 0,
            commit_op: 0,
            last_op: 0,
            state_hash: String::new(),
            durability: String::new(),
            pid: 1,
        }
    }
}

/// Waits until it holds; fails after ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The future's result; fails after ten seconds.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(output) => output,
        Err(_) => panic!("never came: {what}"),
    }
}
