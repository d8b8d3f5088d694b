//! Scenarios 17 on: what the labs do not test.
//!
//! The first three are faults that published solutions of the labs have, and pass all of the labs' tests with: a primary that is
//! started again at once serves from an empty table; a backup that is started again at once wedges the group; a revoke that
//! is lost with the primary is never sent again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lock_client::{LockName, Mode};
use lock_protocol::{Command, Outcome};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

use super::agreement::{Agreed, Expected, view};
use super::cluster::{Blow, Cluster, DEADLINE, POLL};
use super::failure::{Checked, Failure, disturbed, wrong};
use super::raw::RawSession;
use super::stage::{Programs, Stage, Way};
use super::storm::connect;

const ROUNDS: u64 = 4;
/// The lease of the client that is killed.
const SHORT_LEASE: Duration = Duration::from_secs(2);
/// Locks whose ops are several times the distance of two snapshots of the lab's members (1 MiB).
const LOCKS_FOR_SNAPSHOT: u64 = 16_000;
/// A member that was down is given the primary's part by one hand-over, as a rule.
const HAND_OVERS_MAX: u64 = 5;

fn name(text: &str) -> Checked<LockName> {
    LockName::new(text).map_err(|error| Failure::Wrong(error.to_string()))
}

fn anybody(number: u64) -> Expected {
    view(number, [1, 2, 3])
}

/// Scenario 17. The primary is killed and started again at once, time and again: it never serves from an empty table.
pub(super) async fn primary_restarts_at_once(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    let mut agreed = Agreed { view: 1, primary: 1 };
    for round in 1..=ROUNDS {
        stage.stop(agreed.primary).await?;
        stage.restart(agreed.primary).await?;
        // A fresh client asks as soon as anybody answers.
        stage.keeper.still_holds(&stage.cluster).await?;
        agreed = stage.agrees(&anybody(round + 1)).await?;
    }
    stage.finish(&view(agreed.view, [agreed.primary])).await
}

/// Scenario 18. Backups are killed and started again at once, time and again: the group never wedges, the view stays.
pub(super) async fn backup_restarts_at_once(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    for round in 0..ROUNDS {
        let backup = 2 + round % 2;
        stage.stop(backup).await?;
        stage.restart(backup).await?;
        stage.agrees(&view(1, [1])).await?;
        stage.serves_without_interruption().await?;
    }
    stage.finish(&view(1, [1])).await
}

/// Scenario 19. The primary dies when a waiter is queued, and its revoke with it: the next primary sends it again.
pub(super) async fn revoke_is_lost(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    let mut agreed = Agreed { view: 1, primary: 1 };
    for round in 1..=ROUNDS {
        // No revoke can reach this holder while the first primary lives.
        let lost = name(&format!("revoked/{round}"))?;
        let mut holder = RawSession::open(&stage.cluster).await?;
        let token = holder.acquire(1, &lost).await?;
        // And this one has the lock idle in its cache; the primary is killed while its revoke is on its way, if it is.
        let idle_name = format!("idle/{round}");
        let idle = connect(&stage.cluster.endpoints(), "idle", Duration::from_secs(60)).await?;
        let idle_token = idle.acquire_timeout(&idle_name, Mode::Exclusive, DEADLINE).await?.token();
        let waiter = connect(&stage.cluster.endpoints(), "waiter", Duration::from_secs(60)).await?;
        let wait_for = |name: String| {
            let waiter = waiter.clone();
            tokio::spawn(async move {
                waiter.acquire_timeout(name, Mode::Exclusive, DEADLINE).await.map(|guard| guard.token())
            })
        };
        let waits = wait_for(lost.to_string());
        is_waited_for(&stage, &lost).await?;
        let wants = wait_for(idle_name);
        tokio::task::yield_now().await;
        stage.cluster.stop(agreed.primary, Blow::Kill).await?;
        let others: Vec<u64> = (1..=3).filter(|id| *id != agreed.primary).collect();
        let next = stage.cluster.agree(&view(agreed.view + 1, others)).await?;

        holder.await_revoke(&lost, token).await?;
        match holder.request(2, Command::Release { name: lost.clone(), token, requeue: None }).await? {
            Outcome::Released { .. } => {}
            other => return wrong(format!("the release of {lost} was answered with {other:?}")),
        }
        for (task, before) in [(waits, token), (wants, idle_token)] {
            let granted = task.await.map_err(|error| Failure::Wrong(format!("a waiter's task ended: {error}")))??;
            if granted <= before {
                return wrong(format!("the waiter was granted token {granted} after {before}"));
            }
        }
        stage.cluster.launch(agreed.primary)?;
        agreed = stage.cluster.agree(&view(next.view, [next.primary])).await?;
        holder.close().await?;
        idle.close().await?;
        waiter.close().await?;
    }
    stage.finish(&view(agreed.view, [agreed.primary])).await
}

/// Waits until the service says that somebody waits for the lock.
async fn is_waited_for(stage: &Stage, name: &LockName) -> Checked<()> {
    let looker = connect(&stage.cluster.endpoints(), "looker", Duration::from_secs(60)).await?;
    let deadline = Instant::now() + DEADLINE;
    while looker.inspect(name.as_str()).await?.waiters.is_empty() {
        if Instant::now() > deadline {
            return wrong(format!("nobody waits for {name}"));
        }
        sleep(POLL).await;
    }
    Ok(looker.close().await?)
}

/// Scenario 20. All members die and come back: they remember who holds what.
pub(super) async fn all_restart(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::stormy(&programs, way, 3).await?;
    let kept = RawSession::open(&stage.cluster).await?;
    let cached = name("kept")?;
    let token = kept.acquire(1, &cached).await?;
    for id in 1..=3 {
        stage.cluster.send(id, way.blow)?;
    }
    for id in 1..=3 {
        stage.cluster.ended(id).await?;
    }
    sleep(way.pause).await;
    for id in 1..=3 {
        stage.cluster.launch(id)?;
    }
    stage.keeper.still_holds(&stage.cluster).await?;
    // The same request again: it was executed before, and is answered as before.
    let again = kept.acquire(1, &cached).await?;
    if again != token {
        return wrong(format!("the same acquire was answered with token {token} and, after a restart of all, {again}"));
    }
    stage.serves().await?;
    let now = stage.cluster.answering().await?;
    let number = now.values().filter_map(|status| status.view.as_ref()).map(|view| view.id).max().unwrap_or(0);
    // By SIGTERM the primary hands over to one who stops as well, and so on: up to a view for each, and one at the end.
    let most = if way.blow == Blow::Kill { 2 } else { 4 };
    if !(2..=most).contains(&number) {
        return disturbed(format!("after a restart of all there should be a view from 2 to {most}, there is {number}"));
    }
    let agreed = stage.agrees(&anybody(number)).await?;
    kept.close().await?;
    stage.finish(&view(number, [agreed.primary])).await
}

/// Scenario 21. A client is killed while it holds a lock: the lock is granted again when the lease has run out and not before.
pub(super) async fn client_dies(programs: Programs, way: Way) -> Checked<()> {
    let stage = Stage::quiet(&programs, way, 3).await?;
    let mut holder = Holder::start(&programs, &stage.cluster, "mortal")?;
    let token = holder.token()?;
    let waiter = connect(&stage.cluster.endpoints(), "heir", Duration::from_secs(60)).await?;
    let waits = waiter.acquire_timeout("mortal", Mode::Exclusive, DEADLINE);
    let death = async {
        // Several renewals, so that the lease is not the first one.
        sleep(SHORT_LEASE).await;
        holder.kill()
    };
    let (granted, valid_until) = tokio::join!(waits, death);
    let (granted, granted_at, valid_until) = (granted?, monotonic(), valid_until?);
    if granted_at < valid_until {
        return wrong(format!(
            "the lock was granted {:?} before its dead holder took its lease as over",
            valid_until.saturating_sub(granted_at)
        ));
    }
    if granted.token().0 <= token {
        return wrong(format!("the heir was granted token {}, after {token}", granted.token()));
    }
    drop(granted);
    waiter.close().await?;
    stage.finish(&view(1, [1])).await
}

/// A process that holds a lock and says until when it may.
struct Holder {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Holder {
    fn start(programs: &Programs, cluster: &Cluster, name: &str) -> Checked<Holder> {
        let mut child = Process::new(&programs.lock_tester)
            .arg(cluster.endpoints().join(","))
            .args(["--hold", name, "--lease-ms", &SHORT_LEASE.as_millis().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let Some(output) = child.stdout.take() else { return wrong("the holder has no output") };
        let (sender, lines) = mpsc::channel();
        // Ends with the process that it reads from.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Holder { child, lines })
    }

    /// The token that it was granted.
    fn token(&self) -> Checked<u64> {
        let line = self.lines.recv_timeout(DEADLINE).map_err(|_| Failure::Wrong("the holder gets no lock".into()))?;
        number_after(&line, "token")
    }

    /// Kills it; the time until which it took itself as the holder, when it said so last.
    fn kill(&mut self) -> Checked<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let last = self.lines.iter().last();
        let Some(last) = last else { return wrong("the holder did not say until when it holds") };
        Ok(Duration::from_nanos(number_after(&last, "until")?))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that is gone already is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn number_after(line: &str, word: &str) -> Checked<u64> {
    let number = line.strip_prefix(word).and_then(|rest| rest.trim().parse().ok());
    number.map_or_else(|| wrong(format!("the holder should say '{word} NUMBER', and says '{line}'")), Ok)
}

/// A clock that all processes of this host read alike.
pub fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// Scenario 22. A member loses its store, is listed anew, catches up from a snapshot, is promoted, and then is primary with one other: it
/// knows of every holder and of every request.
pub(super) async fn lost_store_is_replaced(programs: Programs, way: Way) -> Checked<()> {
    let mut stage = Stage::quiet(&programs, way, 3).await?;
    let kept = RawSession::open(&stage.cluster).await?;
    let cached = name("kept")?;
    let token = kept.acquire(1, &cached).await?;
    // More than the log keeps: whoever comes with nothing needs a snapshot.
    let hoarder = RawSession::open(&stage.cluster).await?;
    hoarder.take_long_names(LOCKS_FOR_SNAPSHOT).await?;
    stage.stop(1).await?;
    stage.cluster.wipe(1)?;
    stage.restart(1).await?;
    // View 2 without it, view 3 lists the new store, view 4 has it in sync: a transfer costs no view.
    let mut agreed = stage.agrees(&view(4, [2, 3])).await?;
    // The lowest of those that are equally far takes over.
    for _ in 0..HAND_OVERS_MAX {
        stage.cluster.settle(&view(agreed.view, [agreed.primary])).await?;
        stage.cluster.stop(agreed.primary, Blow::Term).await?;
        let others: Vec<u64> = (1..=3).filter(|id| *id != agreed.primary).collect();
        let next = stage.agrees(&view(agreed.view + 1, others)).await?;
        if next.primary == 1 {
            stage.keeper.still_holds(&stage.cluster).await?;
            let again = kept.acquire(1, &cached).await?;
            if again != token {
                return wrong(format!("the same acquire was answered with {token}, and by the new store with {again}"));
            }
            stage.serves().await?;
            kept.close().await?;
            hoarder.close().await?;
            return stage.finish(&view(next.view, [1])).await;
        }
        stage.cluster.launch(agreed.primary)?;
        agreed = stage.agrees(&view(next.view, [next.primary])).await?;
    }
    disturbed("member 1 was not made primary by any of several hand-overs")
}
