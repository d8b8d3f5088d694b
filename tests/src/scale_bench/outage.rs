//! Changes of the primary: for how long a client gets nothing.
//!
//! Why it is right: the gap is the longest acquire of a client that does nothing but acquire, over a window that begins before the change
//! is asked for and ends behind its end. An acquire that waited for something else would make it longer, never shorter.

use std::time::Instant;

use lock_client::{MemberChange, change_members};

use super::crowd::Crowd;
use super::probe::{Latencies, Probe};
use super::run::REPLICAS;
use super::table::Row;
use crate::lab::{Blow, Checked, Cluster, Expected, views, wrong};

/// On a machine that stood still another view may have come meanwhile; then it is tried again, at most so often.
const REFUSED_MAX: u64 = 10;

/// In what way the primary is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// `lockctl members promote`.
    Promote,
    /// SIGTERM, and a new start: a step of a rolling restart.
    Restart,
    /// SIGKILL, and a new start.
    Kill,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Promote => "hand-over by command",
            Change::Restart => "clean stop of the primary (rolling restart)",
            Change::Kill => "SIGKILL of the primary",
        }
    }
}

/// All serve, whoever is primary.
pub(super) fn anywhere() -> Expected {
    views(1..=u64::MAX, 1..=REPLICAS)
}

/// Changes the primary so many times; who the crowd is stands in the rows.
pub(super) async fn outages(
    cluster: &mut Cluster,
    mut crowd: Option<&mut Crowd>,
    change: Change,
    times: u64,
    who: &str,
) -> Checked<Vec<Row>> {
    let probe = Probe::start(&cluster.endpoints())?;
    let (mut gaps, mut all_served) = (Vec::new(), Vec::new());
    let mut refused = 0;
    while (gaps.len() as u64) < times {
        let primary = cluster.agree(&anywhere()).await?.primary;
        let mark = probe.mark();
        let began = Instant::now();
        if let Some(why) = make(cluster, primary, change).await? {
            refused += 1;
            match refused > REFUSED_MAX {
                true => return wrong(format!("no other member is made primary: {why}")),
                false => continue,
            }
        }
        if let Some(crowd) = crowd.as_deref_mut() {
            crowd.is_served().await?;
            all_served.push(began.elapsed());
        }
        gaps.push(probe.since(mark).await?.longest());
        if change != Change::Promote {
            cluster.launch(primary)?;
        }
    }
    probe.stop()?;
    cluster.agree(&anywhere()).await?;
    let mut rows = Vec::new();
    if times > 0 {
        let name = change.name();
        rows.push(Row::new(format!("{name}, gap of service, {who}"), Latencies::new(gaps).middle_and_worst()));
        if crowd.is_some() {
            let what = format!("{name}, until each of the sessions was granted a lock");
            rows.push(Row::new(what, Latencies::new(all_served).middle_and_worst()));
        }
    }
    Ok(rows)
}

/// Why nothing was changed, where it was not.
async fn make(cluster: &mut Cluster, primary: u64, change: Change) -> Checked<Option<String>> {
    match change {
        Change::Kill => cluster.stop(primary, Blow::Kill).await.map(|()| None),
        Change::Restart => cluster.stop(primary, Blow::Term).await.map(|()| None),
        Change::Promote => {
            let change = MemberChange::Promote { member: primary % REPLICAS + 1 };
            Ok(match change_members(&cluster.endpoint(primary), None, change).await {
                Ok(Ok(_)) => None,
                Ok(Err(refusal)) => Some(refusal.to_string()),
                Err(error) => Some(error.to_string()),
            })
        }
    }
}
