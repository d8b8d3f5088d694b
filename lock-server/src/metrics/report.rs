//! What a member says of itself, at this moment.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lock_protocol::Role;
use rsm::{Handle, Standing, Status, View};

use super::counters::Counters;
use super::families::*;
use super::page::Page;
use crate::application::LockApplication;
use crate::machine::{KeptCounts, Statistics};
use crate::status::own_role;

/// The replica thread begins a round every few milliseconds. One that has not for so long hangs, or its medium does: to install a
/// snapshot of a million locks takes seconds, on a slow machine ten.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(30);
/// A visit that takes longer is left out of the page.
const VISIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Classes of the medium's histogram below this power of two, ns, are told as one: a microsecond.
const FLUSH_FIRST_POWER: usize = 10;
const ROLES: [(Role, &str); 7] = [
    (Role::Primary, "primary"),
    (Role::Backup, "backup"),
    (Role::Syncing, "syncing"),
    (Role::Learner, "learner"),
    (Role::Witness, "witness"),
    (Role::Unlisted, "unlisted"),
    (Role::Leaving, "leaving"),
];

/// Where a member is asked about itself.
pub(crate) struct Probe {
    pub(crate) handle: Handle,
    pub(crate) counters: Arc<Counters>,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The durability mode's name.
    pub(crate) mode: String,
    pub(crate) started: SystemTime,
}

/// What the machine says.
struct Account {
    statistics: Statistics,
    sessions: usize,
    locks: usize,
    kept: KeptCounts,
    terms: u64,
}

impl Probe {
    /// Whether the member works at all; one line either way.
    pub(crate) fn health(&self) -> Result<String, String> {
        let silent = self.handle.silent_for();
        match silent <= SILENT_MAX {
            true => Ok("alive".into()),
            false => {
                Err(format!("the replica thread has done nothing for {} s: it or its medium hangs", silent.as_secs()))
            }
        }
    }

    /// Whether the member does what it is for; one line either way.
    pub(crate) fn readiness(&self) -> Result<String, String> {
        self.health()?;
        let status = self.handle.status();
        match &status.waits_for {
            None => Ok(standing_of(&status)),
            Some(reason) => Err(format!("not ready: {reason}")),
        }
    }

    /// The page of metrics. Without what the machine says where the replica thread has too much to do to be visited.
    pub(crate) async fn metrics(&self) -> String {
        let visit = self.handle.visit(|application: &mut LockApplication| Account {
            statistics: application.machine().statistics().clone(),
            sessions: application.machine().session_count(),
            locks: application.machine().lock_count(),
            kept: application.machine().kept_counts(),
            terms: application.terms(),
        });
        let account = tokio::time::timeout(VISIT_TIMEOUT, visit).await.ok().flatten();
        let mut page = Page::default();
        self.process(&mut page);
        self.replica(&mut page);
        self.medium(&mut page);
        if let Some(account) = account {
            machine(&mut page, &account);
        }
        self.edge(&mut page);
        page.text()
    }

    fn process(&self, page: &mut Page) {
        let member = self.handle.member().to_string();
        let version = env!("CARGO_PKG_VERSION");
        let durability = [("durability", self.mode.as_str()), ("medium", self.handle.durability())];
        let own = [("version", version), ("member", &member), ("cluster", &self.cluster)];
        page.facts(&INFO, &[&own[..], &durability].concat());
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        page.value(&START, started.as_secs_f64());
        page.value(&MEMORY, resident_bytes());
    }

    fn replica(&self, page: &mut Page) {
        let status = self.handle.status();
        let statistics = self.handle.statistics();
        let role = own_role(&status);
        page.value(&SERVING, u8::from(status.serving));
        page.labelled(&ROLE, "role", ROLES.map(|(other, name)| (name, u8::from(other == role))));
        page.value(&VIEW, view_number(&status));
        page.value(&VIEW_CHANGES, statistics.views);
        page.labelled(&MEMBERS, "standing", members(status.view.as_ref()));
        page.value(&LAST_OP, status.last.op);
        page.value(&COMMIT_OP, status.commit_op);
        page.value(&APPLIED_OP, status.executed_op);
        let lag = status.acknowledged.iter().map(|(member, op)| (member, status.last.op.saturating_sub(*op)));
        page.labelled(&LAG, "member", lag);
        page.value(&MESSAGES_DROPPED, statistics.dropped_messages);
        page.value(&MEMBERS_BROKEN, statistics.broken_peers);
        page.value(&LOG, status.log_bytes);
        page.value(&LOG_ROOM, status.log_capacity_bytes);
    }

    fn medium(&self, page: &mut Page) {
        let rsm::Statistics { store, snapshots, .. } = self.handle.statistics();
        page.value(&LOG_WRITTEN, store.appended_bytes);
        let classes = store.flush_histogram;
        let first: u64 = classes[..=FLUSH_FIRST_POWER].iter().sum();
        // The last class has no bound.
        let bounded = (FLUSH_FIRST_POWER + 1..classes.len() - 1).map(|power| (power, classes[power]));
        let classes = std::iter::once((FLUSH_FIRST_POWER, first)).chain(bounded);
        let classes = classes.map(|(power, count)| ((1_u64 << power) as f64 / 1e9, count));
        page.histogram(&FLUSH, classes, store.timed_flushes, store.flush_sum_ns as f64 / 1e9);
        page.value(&SCRUBBED, store.scrubbed_bytes);
        page.value(&SCRUB_FOUND, store.scrub_findings);
        page.value(&SNAPSHOTS, snapshots.count);
        page.value(&SNAPSHOT_TIME, snapshots.sum_us as f64 / 1e6);
        page.value(&SNAPSHOT_LAST, snapshots.last_us as f64 / 1e6);
        page.value(&SNAPSHOT_SIZE, snapshots.last_bytes);
    }

    fn edge(&self, page: &mut Page) {
        let counters = &self.counters;
        page.value(&REVOKES, counters.revoke_count());
        page.labelled(&REQUESTS, "kind", counters.requests.iter());
        page.labelled(&REFUSALS, "reason", counters.refusals.iter());
        page.durations(&ACQUIRE, &counters.acquires());
        page.labelled(&CALLBACKS, "result", counters.callbacks.iter());
        page.labelled(&CONNECTIONS, "peer", counters.connections.iter());
        page.labelled(&TURNED_AWAY, "reason", counters.turned_away.iter());
    }
}

/// One line: what the member is, in which view.
pub(crate) fn standing_of(status: &Status) -> String {
    let role = own_role(status);
    let name = ROLES.iter().find(|(other, _)| *other == role).map_or("unknown", |(_, name)| name);
    let primary = status.view.as_ref().map(|view| format!(", member {} is primary", view.primary));
    let primary = primary.filter(|_| role != Role::Primary).unwrap_or_default();
    format!("{name} in view {}{primary}", view_number(status))
}

fn view_number(status: &Status) -> u64 {
    status.view.as_ref().map_or(0, |view| view.number)
}

fn members(view: Option<&View>) -> [(&'static str, usize); 3] {
    let standing = [("in_sync", Standing::InSync), ("syncing", Standing::Syncing), ("learner", Standing::Learner)];
    let slots = view.map_or(&[][..], |view| &view.slots);
    standing.map(|(name, standing)| (name, slots.iter().filter(|slot| slot.standing == standing).count()))
}

fn machine(page: &mut Page, account: &Account) {
    let Account { statistics, sessions, locks, kept, terms } = account;
    page.value(&TERMS, terms);
    page.value(&SESSIONS, sessions);
    page.value(&LOCKS, locks);
    page.value(&WAITERS, statistics.waiters);
    let kept = [("delay", kept.delay), ("recovery", kept.recovery), ("recoverer", kept.recoverer)];
    page.labelled(&KEPT, "waits_for", kept);
    page.value(&OPENED, statistics.opened);
    page.value(&CLOSED, statistics.closed);
    page.value(&EXPIRED, statistics.expired);
    page.value(&LOST, statistics.lost);
    page.value(&FORCED, statistics.forced);
    let grants = [("at_once", statistics.granted_at_once), ("queued", statistics.waits.count())];
    page.labelled(&GRANTS, "how", grants);
    page.durations(&WAIT, &statistics.waits);
    page.durations(&HOLD, &statistics.holds);
}

/// 0 where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib << 10)
}
