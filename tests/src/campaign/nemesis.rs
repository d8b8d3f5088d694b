//! Who does it: one step after the other, each a fault or two, held for a while, and undone.
//!
//! What a step may do is limited by what the service promises: it never takes a store from a member unless all members are in sync, because
//! two lost stores of three are more than it survives; and of what changes who is a member with which store there is one at a time. What takes
//! a store depends on the durability mode: where logs are in memory each end of a process does, or of a host (see [`Fault::forgets`]).
//! The changes of the list themselves are in `operator.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitStatus;
use std::time::Duration;

use lock_client::MemberStatus;
use rsm::Durability;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::{Fault, Nodes, shape};
use super::fleet::{Client, Crew};
use super::ground::{Disks, Ground, client_node, member_node};
use super::network::Shape;
use super::operator::{Errand, farewell};
use crate::lab::{Blow, Checked, Cluster, Failure, monotonic};
use crate::simulator::dice::{Dice, MILLION};

/// A flapping link changes after at least and at most so many ms.
const FLAP_MS: (u64, u64) = (50, 500);
/// A member in a rolling restart, or all of them, are waited for at most so long.
const BACK_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// With fewer members nobody can lose what it has.
const MEMBERS_MIN: usize = 3;

/// What is to be done about a fault when its time is over.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Heal,
    Launch(u64),
    Continue(u64),
    ContinueClient(usize),
    EmptyDisk(u64),
}

/// A round's cluster and clients, and what was done to them.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) ground: &'a Ground,
    // Dropped in this order: disks are in the cluster's directory.
    pub(crate) disks: Disks,
    pub(crate) cluster: Cluster,
    pub(crate) crew: Crew,
    pub(crate) clients: Vec<Client>,
    pub(crate) dice: Dice,
    pub(crate) faults: BTreeMap<Fault, u64>,
    /// What was done, for people.
    pub(crate) log: Vec<String>,
    pub(crate) aloud: bool,
    pub(crate) began: Instant,
    next_client: u64,
    stopped: BTreeSet<u64>,
    /// Members whose disk was full: they may end by themselves.
    pub(crate) starved: BTreeSet<u64>,
    /// Members that may end any time because their disk is full, and forget what they have.
    full: BTreeSet<u64>,
    flapping: Option<Shape>,
    /// A change of the list that is asked for.
    pub(super) errand: Option<Errand>,
    /// Members that were to be taken off the list, or given another store.
    pub(super) asked_about: BTreeSet<u64>,
    /// Whose store was in sync once: they learn of its removal, and end.
    pub(super) joined: BTreeSet<u64>,
    /// Who ended because the view of this number has no place for its store.
    pub(super) dismissed: BTreeMap<u64, u64>,
    /// Changes of the list that were made.
    pub(super) changes: u64,
    /// Starts of members, each under clocks that are drawn anew.
    pub(super) starts: u64,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(ground: &'a Ground, disks: Disks, cluster: Cluster, crew: Crew, dice: Dice) -> Scene<'a> {
        Scene {
            joined: cluster.listed().clone(),
            ground,
            disks,
            cluster,
            crew,
            clients: Vec::new(),
            dice,
            faults: BTreeMap::new(),
            log: Vec::new(),
            aloud: false,
            began: Instant::now(),
            next_client: 1,
            stopped: BTreeSet::new(),
            starved: BTreeSet::new(),
            full: BTreeSet::new(),
            flapping: None,
            errand: None,
            asked_about: BTreeSet::new(),
            dismissed: BTreeMap::new(),
            changes: 0,
            starts: 0,
        }
    }

    /// Starts a client in this place; another one's, if it is given.
    pub(crate) fn start_client(&mut self, slot: usize) -> Checked<Client> {
        let (number, seed) = (self.next_client, self.dice.number());
        self.next_client += 1;
        let through = self.ground.client_entrance(slot, &mut self.dice);
        self.crew.start(number, seed, &through)
    }

    /// A fault or two from these, held and undone.
    pub(crate) async fn step(&mut self, among: &[Fault]) -> Checked<()> {
        let (members, mode) = (self.cluster.listed().len(), self.cluster.durability());
        let among: Vec<Fault> = among.iter().copied().filter(|fault| fault.suits(members, mode)).collect();
        if among.is_empty() {
            return Ok(());
        }
        let first = *self.dice.pick(&among);
        let mut undone = self.strike(first).await?;
        let is_alike = |other: &Fault| {
            (first.is_of_network() && other.is_of_network()) || (first.is_of_stores() && other.is_of_stores())
        };
        let others: Vec<Fault> = among.into_iter().filter(|other| !is_alike(other)).collect();
        // A change of the list is more interesting while something else is wrong.
        let share = if first.is_of_list() { MILLION / 3 * 2 } else { MILLION / 3 };
        if self.dice.chance(share) && !others.is_empty() {
            let second = *self.dice.pick(&others);
            undone.extend(self.strike(second).await?);
        }
        let hold = self.hold_ms(first);
        self.hold(Duration::from_millis(hold)).await;
        self.undo(undone).await?;
        self.conclude().await?;
        sleep(Duration::from_millis(self.dice.spread((1, 3000)))).await;
        Ok(())
    }

    fn hold_ms(&mut self, fault: Fault) -> u64 {
        let lease_ms = self.crew.lease.as_millis() as u64;
        match fault {
            Fault::Stop | Fault::StopPrimary | Fault::StopClient | Fault::CutClient => {
                self.dice.between((lease_ms, lease_ms * 2))
            }
            fault if fault.is_of_network() => self.dice.spread((500, 8000)),
            _ => self.dice.spread((1, 4000)),
        }
    }

    async fn hold(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut is_cut = true;
        while let (Some(shape), Some(network), true) = (&self.flapping, self.ground.network(), Instant::now() < until) {
            sleep(Duration::from_millis(self.dice.between(FLAP_MS))).await;
            is_cut = !is_cut;
            network.shape(if is_cut { shape } else { &EMPTY });
        }
        sleep_until(until).await;
    }

    async fn strike(&mut self, fault: Fault) -> Checked<Vec<Undo>> {
        let running: Vec<u64> = self.cluster.live().into_iter().filter(|id| !self.stopped.contains(id)).collect();
        let forgets = fault.forgets(self.cluster.durability());
        if running.is_empty() || (forgets && !self.may_forget().await) {
            return Ok(Vec::new());
        }
        let any = *self.dice.pick(&running);
        let member = match fault {
            Fault::KillPrimary | Fault::StopPrimary | Fault::IsolatePrimary => self.primary().await.unwrap_or(any),
            _ => any,
        };
        let slot = self.dice.index(self.clients.len());
        let undo = match fault {
            Fault::Kill | Fault::KillPrimary => {
                self.kill(&[member]).await?;
                vec![Undo::Launch(member)]
            }
            Fault::KillHost => {
                self.kill(&[member]).await?;
                self.cluster.forget(member)?;
                vec![Undo::Launch(member)]
            }
            Fault::KillAll => {
                let all = self.cluster.live();
                self.kill(&all).await?;
                all.into_iter().map(Undo::Launch).collect()
            }
            Fault::Stop | Fault::StopPrimary => {
                self.cluster.signal(member, Signal::STOP)?;
                self.stopped.insert(member);
                vec![Undo::Continue(member)]
            }
            Fault::StopClient => {
                self.clients[slot].signal(Signal::STOP)?;
                vec![Undo::ContinueClient(slot)]
            }
            Fault::KillClient => {
                let heir = self.start_client(slot)?;
                std::mem::replace(&mut self.clients[slot], heir).kill().await?;
                Vec::new()
            }
            Fault::FullDisk if !self.disks.are_small() => return Ok(Vec::new()),
            Fault::FullDisk => {
                self.starved.insert(member);
                if forgets {
                    self.full.insert(member);
                }
                fill(&self.cluster.disk(member).join("filler"))?;
                vec![Undo::EmptyDisk(member)]
            }
            Fault::RollingRestart => self.roll().await?,
            Fault::LostStore => {
                self.kill(&[member]).await?;
                self.empty(member)?;
                vec![Undo::Launch(member)]
            }
            list if list.is_of_list() => match self.change_list(list).await? {
                true => Vec::new(),
                false => return Ok(Vec::new()),
            },
            network => self.warp(network, member, slot),
        };
        *self.faults.entry(fault).or_default() += 1;
        self.note(&format!("{fault}: {undo:?}"));
        Ok(undo)
    }

    fn warp(&mut self, fault: Fault, member: u64, slot: usize) -> Vec<Undo> {
        let Some(network) = self.ground.network() else { return Vec::new() };
        let running = self.cluster.live().into_iter().filter(|id| !self.cluster.listed().contains(id));
        let members: Vec<u8> = self.cluster.listed().iter().copied().chain(running).map(member_node).collect();
        let clients: Vec<u8> = (0..self.clients.len()).map(client_node).collect();
        let nodes = Nodes { members: &members, clients: &clients };
        let victim = if fault == Fault::CutClient { client_node(slot) } else { member_node(member) };
        let shape = shape(fault, nodes, victim, &mut self.dice);
        network.shape(&shape);
        let told: Vec<String> = shape.iter().map(|((from, to), _)| format!("{from}>{to}")).collect();
        let like = shape.values().next().copied().unwrap_or_default();
        self.flapping = (fault == Fault::Flap).then_some(shape);
        self.note(&format!("{fault}: {like:?} on {}", told.join(" ")));
        vec![Undo::Heal]
    }

    pub(super) async fn kill(&mut self, members: &[u64]) -> Checked<()> {
        for id in members {
            self.cluster.signal(*id, Signal::KILL)?;
        }
        for id in members {
            self.cluster.ended(*id).await?;
            self.stopped.remove(id);
        }
        Ok(())
    }

    /// A dead member's store is lost.
    pub(super) fn empty(&mut self, id: u64) -> Checked<()> {
        self.joined.remove(&id);
        self.cluster.wipe(id)
    }

    async fn roll(&mut self) -> Checked<Vec<Undo>> {
        for id in self.cluster.live() {
            // One that was started just now cannot obey yet, and one that is cut off for ever is not waited for.
            let is_member = self.cluster.listed().contains(&id) && !self.stopped.contains(&id);
            if !is_member || !self.is_back(id).await || !self.may_rest().await {
                continue;
            }
            self.cluster.send(id, Blow::Term)?;
            let status = self.cluster.ended(id).await?;
            if status.success() {
                self.launch(id)?;
                self.is_back(id).await;
            } else {
                self.explain_end(id, status)?;
            }
        }
        Ok(Vec::new())
    }

    /// Whether one more member may be stopped in good order. Without memory it needs the others, which have its.
    async fn may_rest(&self) -> bool {
        let mode = self.cluster.durability();
        if !mode.is_volatile() {
            return true;
        }
        let until = Instant::now() + BACK_MAX;
        while Instant::now() < until {
            let is_kept = mode == Durability::Ring && self.all_in_sync().await;
            if is_kept || self.may_forget().await {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }

    /// Whether one member may lose what it has: all others have theirs, and none is about to lose it.
    async fn may_forget(&self) -> bool {
        self.cluster.listed().len() >= MEMBERS_MIN && self.full.is_empty() && self.all_in_sync().await
    }

    async fn is_back(&self, id: u64) -> bool {
        let until = Instant::now() + BACK_MAX;
        while Instant::now() < until {
            if self.cluster.status(id).await.is_some_and(|status| status.serving) {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }

    async fn undo(&mut self, undone: Vec<Undo>) -> Checked<()> {
        for undo in undone {
            match undo {
                Undo::Heal => self.heal_network(),
                Undo::Launch(id) if self.cluster.live().contains(&id) => {}
                Undo::Launch(id) => self.launch(id)?,
                // It may have been killed meanwhile.
                Undo::Continue(id) if !self.stopped.remove(&id) => {}
                Undo::Continue(id) => self.cluster.signal(id, Signal::CONT)?,
                Undo::ContinueClient(slot) => self.clients[slot].signal(Signal::CONT)?,
                Undo::EmptyDisk(id) => {
                    std::fs::remove_file(self.cluster.disk(id).join("filler"))?;
                    self.full.remove(&id);
                }
            }
            self.note(&format!("over: {undo:?}"));
        }
        self.take_in_ends()
    }

    fn heal_network(&mut self) {
        self.flapping = None;
        if let Some(network) = self.ground.network() {
            network.heal();
        }
    }

    /// Looks who has ended by itself.
    pub(super) fn take_in_ends(&mut self) -> Checked<()> {
        for id in self.cluster.live() {
            if let Some(status) = self.cluster.has_ended(id)? {
                self.explain_end(id, status)?;
            }
        }
        Ok(())
    }

    /// Whose disk was full is started again, whose store has no place in the list is dismissed; nobody else may have ended.
    fn explain_end(&mut self, id: u64, status: ExitStatus) -> Checked<()> {
        let log = std::fs::read_to_string(self.cluster.log(id))?;
        if let Some(view) = farewell(&log).filter(|_| self.asked_about.contains(&id)) {
            self.note(&format!("member {id} ended: view {view} has no place for it"));
            self.dismissed.insert(id, view);
        } else if self.starved.contains(&id) {
            self.note(&format!("member {id} ended with {status}, its disk was full"));
            self.launch(id)?;
        } else {
            return Err(Failure::Wrong(format!("member {id} ended by itself with {status}")));
        }
        Ok(())
    }

    pub(super) fn launch(&mut self, id: u64) -> Checked<()> {
        self.starts += 1;
        if let Some(place) = self.ground.place(id, &mut self.dice) {
            self.cluster.set_through(id, place.through);
        }
        self.cluster.launch(id)
    }

    /// The primary of the latest view that anybody knows.
    async fn primary(&self) -> Option<u64> {
        let statuses = self.cluster.statuses().await;
        let latest = statuses.into_values().filter_map(|status| status.view).max_by_key(|view| view.id)?;
        self.cluster.live().contains(&latest.primary).then_some(latest.primary).filter(|id| !self.stopped.contains(id))
    }

    /// All members, and nobody else, in one view; and none is about to be one, or none.
    pub(super) async fn all_in_sync(&self) -> bool {
        let (listed, statuses) = (self.cluster.listed(), self.cluster.statuses().await);
        let views: BTreeSet<u64> = statuses.values().filter_map(|status| Some(status.view.as_ref()?.id)).collect();
        let is_in_sync = |status: &MemberStatus| {
            status.serving && status.view.as_ref().is_some_and(|view| view.in_sync.iter().eq(listed))
        };
        let all_answer = statuses.keys().eq(listed) && self.errand.is_none();
        all_answer && views.len() == 1 && statuses.values().all(is_in_sync)
    }

    pub(crate) fn note(&mut self, what: &str) {
        let line = format!("{:8.3} s ({} ns) {what}", self.began.elapsed().as_secs_f64(), monotonic().as_nanos());
        if self.aloud {
            println!("  {line}");
        }
        self.log.push(line);
    }
}

static EMPTY: Shape = Shape::new();

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) -> Checked<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for block in [vec![0; 1 << 20], vec![0; 4096]] {
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}
