//! The operator: members are added, removed and replaced while other things go wrong.
//!
//! Why no round asks for more than is promised: a store is emptied only where it is lost while all others are whole, or when its
//! member said at its end that the list has no place for it *and* somebody on the list serves in that view or a later one.
//! Until then the store may hold a vote that the others need, and its process is started again. Where logs are in memory the end of a
//! removed member's process loses its own, so there a removal counts as such a loss.
//!
//! Who may end by itself is exactly who says why ([`farewell`]), and only if its removal was asked for. What the list is, the
//! members say: a change that nobody answered may have been made.

use std::collections::BTreeSet;
use std::time::Duration;

use lock_client::{MemberChange, Role, ViewSummary, change_members, member_status};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::fault::Fault;
use super::fleet::PATIENCE;
use super::nemesis::Scene;
use crate::lab::{Checked, Failure};
use crate::simulator::dice::MILLION;

/// Between two rounds over all members.
const PAUSE: Duration = Duration::from_millis(50);
/// For one member's answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// When all is healed a change is made within it, or will not be: some are refused for good.
const GRACE: Duration = Duration::from_secs(5);
/// A store is lost only where so many members are left with theirs, and are a majority.
const WHOLE_MIN: usize = 3;

/// A change of the list, asked for until it is made.
#[derive(Debug)]
pub(crate) struct Errand {
    change: MemberChange,
    task: JoinHandle<u64>,
}

impl Errand {
    fn begin(endpoints: Vec<String>, change: MemberChange) -> Errand {
        let task = tokio::spawn(ask(endpoints, change.clone()));
        Errand { change, task }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends with the view that made the change, or in which it is found made.
async fn ask(endpoints: Vec<String>, change: MemberChange) -> u64 {
    loop {
        for endpoint in &endpoints {
            if let Ok(Ok(Ok(view))) = timeout(ANSWER_MAX, change_members(endpoint, None, change.clone())).await {
                return view;
            }
            let status = timeout(ANSWER_MAX, member_status(endpoint, None)).await;
            if let Ok(Ok(status)) = status
                && let Some(view) = status.view.filter(|_| status.serving)
                && is_made(&change, &numbers(&view))
            {
                return view.id;
            }
        }
        sleep(PAUSE).await;
    }
}

/// As far as a list of numbers tells: it does not say which store a member has.
fn is_made(change: &MemberChange, listed: &BTreeSet<u64>) -> bool {
    match change {
        MemberChange::Add { member, .. } => listed.contains(member),
        MemberChange::Remove { member } => !listed.contains(member),
        MemberChange::Replace { .. } | MemberChange::Promote { .. } => false,
    }
}

fn numbers(view: &ViewSummary) -> BTreeSet<u64> {
    view.members.iter().map(|member| member.id).collect()
}

fn member_of(change: &MemberChange) -> u64 {
    match change {
        MemberChange::Add { member, .. }
        | MemberChange::Remove { member }
        | MemberChange::Replace { member, .. }
        | MemberChange::Promote { member } => *member,
    }
}

/// The view whose list has no place for this store, where that is the last that its member said.
pub(crate) fn farewell(log: &str) -> Option<u64> {
    log.lines().next_back().filter(|line| line.starts_with("lock-server: ")).and_then(dismissal)
}

fn dismissal(line: &str) -> Option<u64> {
    let (before, listed) = line.split_once(" lists ")?;
    let (_, number) = before.rsplit_once("view ")?;
    (listed.starts_with("no member") || listed.starts_with("another store")).then(|| number.parse().ok())?
}

impl Scene<'_> {
    /// Whether a member may log this line: that its store has no place in the list any more, if that was asked for.
    pub(crate) fn expects(&self, id: u64, line: &str) -> bool {
        self.asked_about.contains(&id) && dismissal(line).is_some()
    }

    /// Begins a change, where one makes sense.
    pub(super) async fn change_list(&mut self, fault: Fault) -> Checked<bool> {
        let Some(change) = self.draw_change(fault).await else { return Ok(false) };
        let member = member_of(&change);
        self.asked_about.insert(member);
        let early = self.dice.chance(MILLION / 2);
        match change {
            MemberChange::Replace { .. } if early => {
                self.kill(&[member]).await?;
                self.empty(member)?;
                self.note(&format!("member {member} has lost its store"));
            }
            MemberChange::Add { .. } if early => self.launch(member)?,
            _ => {}
        }
        self.note(&format!("asked for: {change:?}"));
        self.errand = Some(Errand::begin(self.cluster.endpoints(), change));
        Ok(true)
    }

    async fn draw_change(&mut self, fault: Fault) -> Option<MemberChange> {
        let listed: Vec<u64> = self.cluster.listed().iter().copied().collect();
        match fault {
            Fault::AddMember => {
                let member = *self.spares().first()?;
                let witness = self.cluster.places()[&member].witness;
                Some(MemberChange::Add { member, address: self.cluster.endpoint(member), witness })
            }
            Fault::RemoveMember if listed.len() > 1 => Some(MemberChange::Remove { member: *self.dice.pick(&listed) }),
            Fault::ReplaceMember if listed.len() >= WHOLE_MIN && self.all_in_sync().await => {
                let member = *self.dice.pick(&listed);
                Some(MemberChange::Replace { member, address: self.cluster.endpoint(member) })
            }
            _ => None,
        }
    }

    /// Who could be added: fewer than half may be witnesses.
    fn spares(&self) -> Vec<u64> {
        let (listed, places, live) = (self.cluster.listed(), self.cluster.places(), self.cluster.live());
        let witnesses = listed.iter().filter(|id| places[id].witness).count();
        let fits = |id: &u64| !places[id].witness || 2 * (witnesses + 1) < listed.len() + 1;
        places.keys().copied().filter(|id| !listed.contains(id) && !live.contains(id) && fits(id)).collect()
    }

    /// With everything healed: the change is made, or given up; then who runs is who is listed. Where nothing was asked for nobody
    /// is waited for, so that the next fault meets members that are still busy with the last.
    pub(super) async fn conclude(&mut self) -> Checked<()> {
        if self.errand.is_none() && self.dismissed.is_empty() {
            return Ok(());
        }
        if let Some(mut errand) = self.errand.take() {
            let what = format!("{:?}", errand.change);
            match timeout(GRACE, &mut errand.task).await {
                Ok(Ok(view)) => {
                    self.changes += 1;
                    self.note(&format!("made by view {view}: {what}"));
                }
                _ => self.note(&format!("given up: {what}")),
            }
        }
        self.follow_list().await
    }

    /// Until all are in sync that the list names.
    pub(crate) async fn converge(&mut self) -> Checked<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            self.follow_list().await?;
            if self.all_in_sync().await || Instant::now() > until {
                // If they are not, `Cluster::agree` will say how they are.
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Starts who is listed and does not run, and waits for the end of those who run and are not.
    async fn follow_list(&mut self) -> Checked<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            self.take_in_ends()?;
            let served = self.served_list().await;
            self.clear_away(served.as_ref().map(|view| view.id))?;
            if let Some(view) = served {
                self.cluster.list(numbers(&view));
                if self.only_listed_run().await? {
                    return Ok(());
                }
            }
            if Instant::now() > until {
                let is_served = self.served_list().await.is_some();
                let (live, listed) = (self.cluster.live(), self.cluster.listed());
                let wrong = match is_served {
                    true => format!("{live:?} run where {listed:?} are members"),
                    false => format!("none of {live:?} serves in the latest view, or one does not answer"),
                };
                return Err(Failure::Wrong(format!("everything is healed, but within {PATIENCE:?} {wrong}")));
            }
            sleep(PAUSE).await;
        }
    }

    /// The latest view, once all that run say which they know, and one serves in it.
    async fn served_list(&mut self) -> Option<ViewSummary> {
        let statuses = self.cluster.statuses().await;
        // What a member says of its own role is of its store, not of another with its number.
        for (id, status) in &statuses {
            match status.role {
                Role::Unlisted => _ = self.joined.remove(id), // its memory is lost, and with it what it was
                Role::Syncing | Role::Learner | Role::Unreachable => {}
                Role::Primary | Role::Backup | Role::Witness | Role::Leaving => _ = self.joined.insert(*id),
            }
        }
        let all_answer = statuses.len() == self.cluster.live().len();
        let latest = statuses.values().filter_map(|status| status.view.as_ref()).map(|view| view.id).max();
        let views = statuses.values().filter(|status| status.serving).filter_map(|status| status.view.as_ref());
        views.max_by_key(|view| view.id).filter(|view| all_answer && Some(view.id) == latest).cloned()
    }

    /// Stores of those who said farewell are emptied once somebody serves in the view that has no place for them, and started
    /// again until then.
    fn clear_away(&mut self, served: Option<u64>) -> Checked<()> {
        for (id, gone_in) in std::mem::take(&mut self.dismissed) {
            if served.is_some_and(|view| view >= gone_in) {
                self.empty(id)?;
                self.note(&format!("member {id}'s store is cleared away"));
            } else {
                self.launch(id)?;
            }
        }
        Ok(())
    }

    async fn only_listed_run(&mut self) -> Checked<bool> {
        let listed = self.cluster.listed().clone();
        let live: BTreeSet<u64> = self.cluster.live().into_iter().collect();
        for id in listed.difference(&live) {
            self.launch(*id)?;
        }
        let mut alone = true;
        for id in live.difference(&listed) {
            if self.joined.contains(id) {
                alone = false; // it learns of its removal, and ends
            } else {
                self.kill(&[*id]).await?;
                self.empty(*id)?;
            }
        }
        Ok(alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_is_the_last_that_a_member_says() {
        let removed = "lock-server: view 7 lists no member 3 any more (view 6 did): it was removed from the cluster\n";
        let replaced = "x\nlock-server: view 12 lists another store for member 3 than this one (listed in view 11)\n";
        assert_eq!(farewell(removed), Some(7));
        assert_eq!(farewell(replaced), Some(12));
        assert_eq!(farewell(&format!("{removed}and then it was started again")), None);
        assert_eq!(farewell("lock-server: the store is damaged"), None);
    }
}
