//! What the members of a cluster should come to: one view, and one state.
//!
//! Why it is right: each wait has a deadline and says what it saw last; what must never be seen (two views of one number, two
//! states after one op, a view that nobody asked for) ends a wait at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use lock_client::MemberStatus;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, DEADLINE, POLL, WATCHED};
use super::failure::{Checked, disturbed, wrong};

/// What the members should agree on.
#[derive(Clone, Debug)]
pub struct Expected {
    view: RangeInclusive<u64>,
    primary: Vec<u64>,
}

/// The view of this number, whose primary is one of these, and in which all members are in sync.
pub fn view(number: u64, primary: impl IntoIterator<Item = u64>) -> Expected {
    views(number..=number, primary)
}

/// The same, for a number from this range.
pub fn views(numbers: RangeInclusive<u64>, primary: impl IntoIterator<Item = u64>) -> Expected {
    Expected { view: numbers, primary: primary.into_iter().collect() }
}

/// What they agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The view.
    pub view: u64,
    /// Its primary.
    pub primary: u64,
}

impl Cluster {
    /// Waits until all that run serve in the same, expected view.
    ///
    /// # Errors
    /// A later view came, another primary, or two members with different states; or it takes too long.
    pub async fn agree(&self, expected: &Expected) -> Checked<Agreed> {
        self.await_agreement(&self.live(), expected, false).await
    }

    /// The same, of these members only.
    ///
    /// # Errors
    /// As [`Cluster::agree`].
    pub async fn agree_among(&self, members: &[u64], expected: &Expected) -> Checked<Agreed> {
        self.await_agreement(members, expected, false).await
    }

    /// Waits until all that run serve in the expected view, and have had the same state after the same op, one not below any that
    /// was executed before.
    ///
    /// # Errors
    /// As [`Cluster::agree`].
    pub async fn settle(&self, expected: &Expected) -> Checked<Agreed> {
        self.await_agreement(&self.live(), expected, true).await
    }

    /// Waits until a member knows the view of this number, and says who is its primary; none where those that know have gone on to a
    /// later one.
    ///
    /// # Errors
    /// No member came to know it.
    pub async fn primary_of(&self, number: u64) -> Checked<Option<u64>> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let statuses = self.statuses().await;
            let latest = statuses.values().filter_map(|status| status.view.as_ref()).max_by_key(|view| view.id);
            match latest {
                Some(view) if view.id == number => return Ok(Some(view.primary)),
                Some(view) if view.id > number => return Ok(None),
                _ => sleep(POLL).await,
            }
        }
        wrong(format!("within {DEADLINE:?} no member knew view {number}"))
    }

    async fn await_agreement(&self, among: &[u64], expected: &Expected, with_state: bool) -> Checked<Agreed> {
        let deadline = Instant::now() + DEADLINE;
        let mut states = States::default();
        loop {
            let mut statuses = self.statuses().await;
            states.note(statuses.iter().filter(|(id, _)| !self.is_witness(**id)))?;
            statuses.retain(|id, _| among.contains(id));
            let agreed = self.judge(among.len(), expected, &statuses)?;
            if let Some(agreed) = agreed
                && (!with_state || states.are_one(&self.replicas(among)))
            {
                return Ok(agreed);
            }
            if Instant::now() > deadline {
                return wrong(format!(
                    "within {DEADLINE:?} the members did not come to {expected:?}: {}",
                    told(&statuses)
                ));
            }
            sleep(POLL).await;
        }
    }

    fn replicas(&self, among: &[u64]) -> Vec<u64> {
        among.iter().copied().filter(|id| !self.is_witness(*id)).collect()
    }

    fn is_witness(&self, id: u64) -> bool {
        self.places().get(&id).is_some_and(|place| place.witness)
    }

    fn judge(
        &self,
        count: usize,
        expected: &Expected,
        statuses: &BTreeMap<u64, MemberStatus>,
    ) -> Checked<Option<Agreed>> {
        let views: Vec<_> = statuses.values().filter_map(|status| status.view.as_ref()).collect();
        if views.iter().any(|view| view.id > *expected.view.end()) {
            return disturbed(format!("a view above {} was formed: {}", expected.view.end(), told(statuses)));
        }
        let all = statuses.len() == count && views.len() == count;
        let serving = statuses.values().all(|status| status.serving);
        let Some(first) = views.first() else { return Ok(None) };
        if !all || !serving || views.iter().any(|view| view.id != first.id) || !expected.view.contains(&first.id) {
            return Ok(None);
        }
        if views.iter().any(|view| view != first) {
            return wrong(format!("members differ over view {}: {}", first.id, told(statuses)));
        }
        let is_last = first.id == *expected.view.end();
        let in_sync: Vec<u64> = self.listed().iter().copied().collect();
        let (primary_fits, all_in_sync) = (expected.primary.contains(&first.primary), first.in_sync == in_sync);
        if is_last && !(primary_fits && all_in_sync) {
            let Expected { primary, .. } = expected;
            return wrong(format!("the primary should be of {primary:?}, in sync {in_sync:?}: {}", told(statuses)));
        }
        if !primary_fits || !all_in_sync {
            return Ok(None);
        }
        Ok(Some(Agreed { view: first.id, primary: first.primary }))
    }

    /// Watches that no view changes and nothing is committed.
    ///
    /// # Errors
    /// One of them happened.
    pub async fn stands_still(&self) -> Checked<()> {
        let before = self.answering().await?;
        let until = Instant::now() + WATCHED;
        while Instant::now() < until {
            for (id, now) in self.statuses().await {
                let Some(then) = before.get(&id) else { continue };
                if view_of(&now) != view_of(then) || now.commit_op != then.commit_op {
                    return wrong(format!("without a majority member {id} went from {} to {}", line(then), line(&now)));
                }
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The statuses of all that run, once all answer.
    pub(crate) async fn answering(&self) -> Checked<BTreeMap<u64, MemberStatus>> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let statuses = self.statuses().await;
            if statuses.len() == self.live().len() {
                return Ok(statuses);
            }
            if Instant::now() > deadline {
                return wrong(format!("members do not answer; these do: {}", told(&statuses)));
            }
            sleep(POLL).await;
        }
    }

    /// Watches that no view changes.
    ///
    /// # Errors
    /// One did.
    pub async fn keeps_view(&self, number: u64) -> Checked<()> {
        let until = Instant::now() + WATCHED;
        while Instant::now() < until {
            let statuses = self.statuses().await;
            if statuses.values().any(|status| view_of(status) != number) {
                return disturbed(format!("view {number} was left for no reason: {}", told(&statuses)));
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// States seen, by op and member.
#[derive(Debug, Default)]
struct States {
    seen: BTreeMap<u64, BTreeMap<u64, String>>,
    /// The highest op executed when the waiting began.
    floor: Option<u64>,
}

impl States {
    /// Of replicas.
    fn note<'a>(&mut self, statuses: impl Iterator<Item = (&'a u64, &'a MemberStatus)> + Clone) -> Checked<()> {
        let highest = statuses.clone().map(|(_, status)| status.applied_op).max().unwrap_or(0);
        self.floor.get_or_insert(highest);
        for (id, status) in statuses {
            let hashes = self.seen.entry(status.applied_op).or_default();
            hashes.insert(*id, status.state_hash.clone());
            if hashes.values().any(|hash| *hash != status.state_hash) {
                return wrong(format!("states differ after op {}: {hashes:?}", status.applied_op));
            }
        }
        Ok(())
    }

    fn are_one(&self, live: &[u64]) -> bool {
        let floor = self.floor.unwrap_or(0);
        self.seen.range(floor..).any(|(_, hashes)| live.iter().all(|id| hashes.contains_key(id)))
    }
}

fn view_of(status: &MemberStatus) -> u64 {
    status.view.as_ref().map_or(0, |view| view.id)
}

fn line(status: &MemberStatus) -> String {
    let view = status.view.as_ref().map_or("no view".into(), |view| {
        format!("view {} (primary {}, in sync {:?})", view.id, view.primary, view.in_sync)
    });
    format!(
        "{view} as {:?}{}, applied {}, committed {}",
        status.role,
        if status.serving { "" } else { " not serving" },
        status.applied_op,
        status.commit_op
    )
}

fn told(statuses: &BTreeMap<u64, MemberStatus>) -> String {
    let lines: Vec<String> = statuses.iter().map(|(id, status)| format!("member {id}: {}", line(status))).collect();
    if lines.is_empty() { "nobody answers".into() } else { lines.join("; ") }
}
