//! Real members: started, killed, started again, asked how they are.
//!
//! Why it is right: every child is killed and reaped when the cluster is dropped, however the scenario ended. What they should come
//! to is in `agreement.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use lock_client::MemberStatus;
use rsm::BreakPoint;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::address::own_address;
use super::durability::Kept;
use super::failure::{Checked, Failure, wrong};

/// Whatever has to happen happens within this, on a slow and busy machine too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(5);
/// A member is asked how it is for at most so long.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than members need to suspect, to propose and to step down (250, 30 to 100 and 500 ms): what does not happen within
/// it does not happen.
pub(crate) const WATCHED: Duration = Duration::from_millis(1200);
const PORT: u16 = 7100;
const CONTROL_PORT: u16 = 7200;
const METRICS_PORT: u16 = 7300;
/// Lines of each member's log that a failure shows.
const LOG_LINES: usize = 12;

thread_local! {
    /// The ends of the logs of the cluster that was dropped last in this thread.
    static LAST_WORDS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The ends of the logs of this thread's last cluster, for whoever looks for the reason of a failure.
pub fn last_words() -> String {
    LAST_WORDS.take()
}

/// How a member is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGTERM: it stops in good order, a primary hands over.
    Term,
    /// SIGKILL: it notices nothing.
    Kill,
}

/// Where a member runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its address there.
    pub host: Ipv4Addr,
    /// The program, with arguments, that starts the server there; none for where this process is. It becomes the server itself.
    pub through: Vec<String>,
    /// Whether it is a witness: it has no state, and is never primary.
    pub witness: bool,
}

/// A cluster of server processes on this host.
#[derive(Debug)]
pub struct Cluster {
    server: PathBuf,
    dir: TempDir,
    places: BTreeMap<u64, Place>,
    members: BTreeMap<u64, Option<Child>>,
    /// Who counts as a member; the others are spares.
    listed: BTreeSet<u64>,
    /// What logs and snapshots are on.
    pub(super) kept: Kept,
}

impl Cluster {
    /// Starts members 1 to `size`, each a process of its own.
    ///
    /// # Errors
    /// The system refuses a directory, an address or a process.
    pub fn start(server: &Path, size: u64) -> Checked<Cluster> {
        let mut cluster = Cluster::new(server, Cluster::loopback(size)?)?;
        for id in 1..=size {
            cluster.launch(id)?;
        }
        Ok(cluster)
    }

    /// Places for so many members on a loopback address that no other cluster has.
    ///
    /// # Errors
    /// There is none.
    pub fn loopback(size: u64) -> Checked<BTreeMap<u64, Place>> {
        let of = |id| [PORT, CONTROL_PORT, METRICS_PORT].map(|base| port(base, id));
        let ports: Vec<u16> = (1..=size).flat_map(of).collect();
        let host = own_address(&ports)?;
        Ok((1..=size).map(|id| (id, Place { host, through: Vec::new(), witness: false })).collect())
    }

    /// Members that do not run yet.
    ///
    /// # Errors
    /// The system refuses a directory.
    pub fn new(server: &Path, places: BTreeMap<u64, Place>) -> Checked<Cluster> {
        Cluster::new_in(&std::env::temp_dir(), server, places)
    }

    /// The same, with all they write below this directory.
    ///
    /// # Errors
    /// The system refuses a directory.
    pub fn new_in(above: &Path, server: &Path, places: BTreeMap<u64, Place>) -> Checked<Cluster> {
        let dir = TempDir::with_prefix_in("plumeria-lab-", above)?;
        for id in places.keys() {
            std::fs::create_dir(dir.path().join(format!("member-{id}")))?;
        }
        let members = places.keys().map(|id| (*id, None)).collect();
        let listed = places.keys().copied().collect();
        Ok(Cluster { server: server.to_path_buf(), dir, places, members, listed, kept: Kept::default() })
    }

    /// How a member is to be started next; a witness stays one.
    pub fn set_through(&mut self, id: u64, through: Vec<String>) {
        if let Some(place) = self.places.get_mut(&id) {
            place.through = through;
        }
    }

    /// The program that is started from now on.
    pub fn set_server(&mut self, server: &Path) {
        self.server = server.to_path_buf();
    }

    /// All that have a place, dead ones and spares too.
    pub fn places(&self) -> &BTreeMap<u64, Place> {
        &self.places
    }

    /// Who is a member, dead ones too; at first all that have a place.
    pub fn listed(&self) -> &BTreeSet<u64> {
        &self.listed
    }

    /// From now on these are the members, as an operator sees it: in command lines, and for what they should agree on.
    pub fn list(&mut self, listed: impl IntoIterator<Item = u64>) {
        self.listed = listed.into_iter().collect();
    }

    /// A member's address.
    pub fn endpoint(&self, id: u64) -> String {
        format!("{}:{}", self.places[&id].host, port(PORT, id))
    }

    /// The addresses of all places.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.keys().map(|id| self.endpoint(*id)).collect()
    }

    /// Those whose process runs, as far as is known.
    pub fn live(&self) -> Vec<u64> {
        self.members.iter().filter(|(_, child)| child.is_some()).map(|(id, _)| *id).collect()
    }

    /// What a member's disk is: a directory, or what is mounted there.
    pub fn disk(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("member-{id}"))
    }

    fn data_dir(&self, id: u64) -> PathBuf {
        self.disk(id).join("data")
    }

    /// A member's log.
    pub fn log(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("member-{id}.log"))
    }

    /// Starts a member that does not run, on what its directory holds. Its command line lists the members and itself.
    ///
    /// # Errors
    /// The system refuses the process.
    pub fn launch(&mut self, id: u64) -> Checked<()> {
        let kind = |id| if self.places[id].witness { "/witness" } else { "" };
        let among = self.listed.iter().chain((!self.listed.contains(&id)).then_some(&id));
        let list: Vec<String> = among.map(|id| format!("{id}={}{}", self.endpoint(*id), kind(id))).collect();
        let log = std::fs::File::options().create(true).append(true).open(self.log(id))?;
        let place = &self.places[&id];
        let mut program = place.through.iter().map(OsStr::new).chain([self.server.as_os_str()]);
        let child = Command::new(program.next().unwrap_or_default())
            .args(program)
            .arg(format!("--id={id}"))
            .arg(format!("--cluster={}", list.join(",")))
            .arg(format!("--data-dir={}", self.data_dir(id).display()))
            .arg(format!("--test-control={}:{}", place.host, port(CONTROL_PORT, id)))
            .arg(format!("--metrics-listen={}:{}", place.host, port(METRICS_PORT, id)))
            .args(["--allow-volatile", "--insecure-listen-anywhere"])
            .args(self.kept.flags(id))
            .env("LOCK_SERVER_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.members.insert(id, Some(child));
        Ok(())
    }

    /// Removes a dead member's directory, if it has one, and its host's memory: what it knew is lost.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn wipe(&self, id: u64) -> Checked<()> {
        self.forget(id)?;
        remove(&self.data_dir(id))
    }

    /// Stops a member, and waits until it is gone.
    ///
    /// # Errors
    /// It does not go, or says that it was not well.
    pub async fn stop(&mut self, id: u64, blow: Blow) -> Checked<()> {
        self.send(id, blow)?;
        let status = self.ended(id).await?;
        if blow == Blow::Term && !status.success() {
            return wrong(format!("member {id} was asked to stop and ended with {status}"));
        }
        Ok(())
    }

    /// Sends the signal, and does not wait.
    ///
    /// # Errors
    /// The member does not run.
    pub fn send(&self, id: u64, blow: Blow) -> Checked<()> {
        self.signal(id, if blow == Blow::Term { Signal::TERM } else { Signal::KILL })
    }

    /// Sends any signal, and does not wait.
    ///
    /// # Errors
    /// The member does not run.
    pub fn signal(&self, id: u64, signal: Signal) -> Checked<()> {
        let child = self.members.get(&id).and_then(Option::as_ref);
        let pid = child.and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return wrong(format!("member {id} does not run")) };
        kill_process(pid, signal).map_err(|error| Failure::Wrong(format!("member {id}: {error}")))
    }

    /// Waits for a member's end.
    ///
    /// # Errors
    /// It lives on.
    pub async fn ended(&mut self, id: u64) -> Checked<ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(child) = self.members.get_mut(&id).and_then(Option::as_mut)
                && let Some(status) = child.try_wait()?
            {
                self.members.insert(id, None);
                return Ok(status);
            }
            if Instant::now() > deadline {
                return wrong(format!("member {id} does not end"));
            }
            sleep(POLL).await;
        }
    }

    /// Waits until one of these has died at the break point that was armed in it; says which.
    ///
    /// # Errors
    /// None does, or one ends in another way.
    pub async fn died_at_break_point(&mut self, ids: &[u64]) -> Checked<u64> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            for id in ids {
                let Some(Some(child)) = self.members.get_mut(id) else { continue };
                if let Some(status) = child.try_wait()? {
                    self.members.insert(*id, None);
                    return match status.signal() == Some(Signal::ABORT.as_raw()) {
                        true => Ok(*id),
                        false => wrong(format!("member {id} ended with {status}, not at its break point")),
                    };
                }
            }
            if Instant::now() > deadline {
                return wrong(format!("none of {ids:?} came to its break point"));
            }
            sleep(POLL).await;
        }
    }

    /// Arms a break point of a running member.
    ///
    /// # Errors
    /// The member does not take it.
    pub fn arm(&self, id: u64, point: BreakPoint) -> Checked<()> {
        self.control(id, &format!("arm {point}"))
    }

    /// Disarms all break points of a running member; heals a partition.
    ///
    /// # Errors
    /// The member does not take it.
    pub fn clear(&self, id: u64) -> Checked<()> {
        self.control(id, "clear")
    }

    fn control(&self, id: u64, line: &str) -> Checked<()> {
        let mut stream = TcpStream::connect((self.places[&id].host, port(CONTROL_PORT, id)))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        if answer.trim() == "ok" { Ok(()) } else { wrong(format!("member {id} answers '{line}' with '{answer}'")) }
    }

    /// A running member's page of metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self, id: u64) -> Checked<String> {
        let mut stream = TcpStream::connect((self.places[&id].host, port(METRICS_PORT, id)))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A running member's process.
    pub fn pid(&self, id: u64) -> Option<u32> {
        self.members.get(&id)?.as_ref().map(Child::id)
    }

    /// A member's own account.
    pub async fn status(&self, id: u64) -> Option<MemberStatus> {
        let endpoint = self.endpoint(id);
        timeout(STATUS_TIMEOUT, lock_client::member_status(&endpoint, None)).await.ok()?.ok()
    }

    /// How a member ended that was not stopped through [`Cluster::stop`]; it can be started again.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn has_ended(&mut self, id: u64) -> Checked<Option<ExitStatus>> {
        let Some(child) = self.members.get_mut(&id).and_then(Option::as_mut) else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.members.insert(id, None);
        }
        Ok(status)
    }

    /// The accounts of all that run, as far as they answer.
    pub async fn statuses(&self) -> BTreeMap<u64, MemberStatus> {
        let asked = self.live().into_iter().map(|id| async move { (id, self.status(id).await) });
        let answered = futures::future::join_all(asked).await;
        answered.into_iter().filter_map(|(id, status)| Some((id, status?))).collect()
    }

    fn last_words(&self) -> String {
        let mut text = String::new();
        for id in self.members.keys() {
            let log = std::fs::read_to_string(self.log(*id)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("--- member {id}, the end of its log\n");
            text += &lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            text += "\n";
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        LAST_WORDS.set(self.last_words());
        for child in self.members.values_mut().filter_map(Option::as_mut) {
            // One that is gone already is what we want.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Removes a directory, if there is one.
pub(super) fn remove(dir: &Path) -> Checked<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn port(base: u16, id: u64) -> u16 {
    base + u16::try_from(id).unwrap_or(u16::MAX - base)
}
