//! How the cluster is, from what each member says of itself.
//!
//! Every endpoint is asked, and every member that the newest view lists, all at once and with a short limit, so that members
//! that are down cost one second in all. A member can be cut off and believe in an old view: the view with the highest
//! number counts, and only its primary is shown as one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use lock_client::{KeptLocks, MemberStatus, Role, Tls, ViewSummary, member_kept, member_status};
use serde::Serialize;

use crate::arguments::Common;
use crate::dispatch::{print, print_json, say};
use crate::failure::{Failure, exit, no_cluster, one_line};
use crate::kept;
use crate::table::{Align, Table};

/// One member's answer takes no longer, or it counts as unreachable.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);
/// The most members of a view that are asked: a view comes from a peer, and may say anything.
const MEMBERS_MAX: usize = 64;

/// What `status --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterStatus {
    pub(crate) view: Option<View>,
    pub(crate) members: Vec<Member>,
    /// Dead sessions whose locks are not free, where there are any and the primary tells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) kept: Vec<KeptLocks>,
}

/// The newest view that a member has entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct View {
    pub(crate) id: u64,
    pub(crate) primary: u64,
    pub(crate) in_sync: Vec<u64>,
}

/// A member; what only it can tell is null where it did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Member {
    pub(crate) id: Option<u64>,
    pub(crate) address: String,
    pub(crate) role: Role,
    pub(crate) applied_op: Option<u64>,
    pub(crate) state_hash: Option<String>,
    pub(crate) durability: Option<String>,
    pub(crate) pid: Option<u32>,
}

/// What one address answered.
type Answer = (String, Result<MemberStatus, String>);

/// All answers, and what they come to.
#[derive(Debug)]
pub(crate) struct Gathered {
    answers: Vec<Answer>,
    pub(crate) status: ClusterStatus,
}

/// `lockctl status`.
pub(crate) async fn show(common: &Common) -> Result<u8, Failure> {
    let begun = Instant::now();
    let mut gathered = gather(common).await;
    let (kept, more) = kept_locks(&gathered, common.tls.as_ref()).await;
    if common.json {
        gathered.status.kept = kept;
        print_json(&gathered.status)?;
    } else if gathered.is_answered() {
        print(&gathered.table());
        print(&format!("{}\n", gathered.verdict()));
        print(&kept::text(&kept));
        print(if more { "and more dead sessions keep locks\n" } else { "" });
        gathered.warnings().iter().for_each(|warning| say(warning));
    }
    gathered.check(begun.elapsed())
}

/// Dead sessions whose locks are not free, and whether there are more; where the primary tells.
async fn kept_locks(gathered: &Gathered, tls: Option<&Tls>) -> (Vec<KeptLocks>, bool) {
    let Some(primary) = gathered.primary() else { return Default::default() };
    match tokio::time::timeout(MEMBER_TIMEOUT, member_kept(primary, tls)).await {
        Ok(Ok(told)) => told,
        _ => Default::default(),
    }
}

/// `lockctl members`.
pub(crate) async fn members(common: &Common) -> Result<u8, Failure> {
    let begun = Instant::now();
    let gathered = gather(common).await;
    let in_sync = |member: &Member| gathered.in_sync(member);
    if common.json {
        let listed = gathered.status.members.iter().map(|member| Listed {
            id: member.id,
            address: &member.address,
            role: member.role,
            in_sync: in_sync(member),
            durability: member.durability.as_deref(),
            pid: member.pid,
        });
        print_json(&listed.collect::<Vec<_>>())?;
    } else if gathered.is_answered() {
        use Align::{Left, Right};
        let columns =
            [("ID", Right), ("ADDRESS", Left), ("ROLE", Left), ("IN-SYNC", Left), ("DURABILITY", Left), ("PID", Right)];
        let mut table = Table::new(&columns);
        for member in &gathered.status.members {
            table.row([
                or_dash(member.id),
                member.address.clone(),
                role(member.role).to_owned(),
                yes_no(in_sync(member)).to_owned(),
                or_dash(member.durability.as_ref()),
                or_dash(member.pid),
            ]);
        }
        print(&table.render());
    }
    gathered.check(begun.elapsed())
}

/// A member as `members --json` lists it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    id: Option<u64>,
    address: &'a str,
    role: Role,
    in_sync: bool,
    durability: Option<&'a str>,
    pid: Option<u32>,
}

/// Asks every endpoint, then the members of the view that were not among them.
pub(crate) async fn gather(common: &Common) -> Gathered {
    let endpoints: BTreeSet<String> = common.endpoints.iter().map(ToString::to_string).collect();
    let mut answers = ask(endpoints.clone(), common.tls.as_ref()).await;
    let known: BTreeSet<u64> =
        answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(|status| status.id).collect();
    if let Some(view) = newest_view(&answers) {
        let rest =
            view.members.iter().filter(|member| !known.contains(&member.id) && !endpoints.contains(&member.address));
        let rest = rest.map(|member| member.address.clone()).take(MEMBERS_MAX).collect();
        answers.extend(ask(rest, common.tls.as_ref()).await);
    }
    let status = merge(&answers);
    Gathered { answers, status }
}

async fn ask(addresses: BTreeSet<String>, tls: Option<&Tls>) -> Vec<Answer> {
    let asking = addresses.into_iter().map(|address| async move {
        let answer = match tokio::time::timeout(MEMBER_TIMEOUT, member_status(&address, tls)).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => {
                let error = error.to_string();
                Err(error.strip_prefix(&format!("{address}: ")).unwrap_or(&error).to_owned())
            }
            Err(_) => Err(format!("no answer within {MEMBER_TIMEOUT:?}")),
        };
        (address, answer)
    });
    join_all(asking).await
}

fn statuses(answers: &[Answer]) -> impl Iterator<Item = &MemberStatus> {
    answers.iter().filter_map(|(_, answer)| answer.as_ref().ok())
}

fn newest_view(answers: &[Answer]) -> Option<&ViewSummary> {
    statuses(answers).filter_map(|status| status.view.as_ref()).max_by_key(|view| view.id)
}

fn merge(answers: &[Answer]) -> ClusterStatus {
    let Some(view) = newest_view(answers) else {
        let members = answers.iter().map(member_without_view).collect();
        return ClusterStatus { view: None, members, kept: Vec::new() };
    };
    let by_id: BTreeMap<u64, &MemberStatus> = statuses(answers).map(|status| (status.id, status)).collect();
    let members = view.members.iter().map(|listed| {
        let status = by_id.get(&listed.id);
        let role = match status {
            None => Role::Unreachable,
            Some(status) if status.view.as_ref().is_some_and(|own| own.id == view.id) => status.role,
            // It has not entered the view yet: what the view has it for.
            Some(_) if listed.id == view.primary => Role::Primary,
            Some(_) => listed.role,
        };
        member(Some(listed.id), listed.address.clone(), role, status.copied())
    });
    let members = members.collect();
    let view = View { id: view.id, primary: view.primary, in_sync: view.in_sync.clone() };
    ClusterStatus { view: Some(view), members, kept: Vec::new() }
}

fn member_without_view((address, answer): &Answer) -> Member {
    match answer {
        Ok(status) => member(Some(status.id), address.clone(), status.role, Some(status)),
        Err(_) => member(None, address.clone(), Role::Unreachable, None),
    }
}

fn member(id: Option<u64>, address: String, role: Role, status: Option<&MemberStatus>) -> Member {
    Member {
        id,
        address,
        role,
        applied_op: status.map(|status| status.applied_op),
        state_hash: status.map(|status| status.state_hash.clone()),
        durability: status.map(|status| status.durability.clone()),
        pid: status.map(|status| status.pid),
    }
}

impl Gathered {
    fn is_answered(&self) -> bool {
        statuses(&self.answers).next().is_some()
    }

    fn check(&self, waited: Duration) -> Result<u8, Failure> {
        if self.is_answered() {
            return Ok(exit::OK);
        }
        let said =
            |(address, answer): &Answer| format!("{address}: {}", answer.as_ref().err().map_or("", String::as_str));
        let tried: Vec<String> = self.answers.iter().map(said).collect();
        Err(Failure::new(exit::UNAVAILABLE, no_cluster("no member answered", waited, &tried)))
    }

    fn in_sync(&self, member: &Member) -> bool {
        let view = self.status.view.as_ref();
        view.is_some_and(|view| member.id.is_some_and(|id| view.in_sync.contains(&id)))
    }

    /// A line for each member.
    pub(crate) fn table(&self) -> String {
        use Align::{Left, Right};
        let mut table = Table::new(&[
            ("MEMBER", Right),
            ("ADDRESS", Left),
            ("ROLE", Left),
            ("IN-SYNC", Left),
            ("APPLIED-OP", Right),
            ("STATE-HASH", Left),
            ("PID", Right),
            ("DURABILITY", Left),
        ]);
        for member in &self.status.members {
            table.row([
                or_dash(member.id),
                member.address.clone(),
                role(member.role).to_owned(),
                yes_no(self.in_sync(member)).to_owned(),
                or_dash(member.applied_op),
                or_dash(member.state_hash.as_ref()),
                or_dash(member.pid),
                or_dash(member.durability.as_ref()),
            ]);
        }
        table.render()
    }

    /// Whether the cluster serves, and if not, what it waits for.
    pub(crate) fn verdict(&self) -> String {
        let Some(view) = &self.status.view else {
            return format!("not serving: the cluster has no view yet{}", self.waits());
        };
        let serves = |status: &&MemberStatus| {
            status.serving && status.id == view.primary && status.view.as_ref().is_some_and(|own| own.id == view.id)
        };
        if statuses(&self.answers).any(|status| serves(&status)) {
            let (in_sync, all) = (view.in_sync.len(), self.status.members.len());
            return format!(
                "serving: view {}, primary {}, {in_sync} of {all} members in sync{}",
                view.id,
                view.primary,
                self.silent()
            );
        }
        let primary = self.status.members.iter().find(|member| member.id == Some(view.primary));
        let unreachable = primary.is_none_or(|primary| primary.role == Role::Unreachable);
        let unreachable = if unreachable { " does not answer" } else { "" };
        format!("not serving: view {}, whose primary {}{unreachable}{}", view.id, view.primary, self.waits())
    }

    /// Where the primary of the newest view listens, if it answered.
    pub(crate) fn primary(&self) -> Option<&str> {
        let primary = self.status.members.iter().find(|member| member.role == Role::Primary)?;
        Some(&primary.address)
    }

    /// The last op that is known committed.
    pub(crate) fn commit_op(&self) -> u64 {
        statuses(&self.answers).map(|status| status.commit_op).max().unwrap_or(0)
    }

    fn silent(&self) -> String {
        let silent = self.status.members.iter().filter(|member| member.role == Role::Unreachable);
        silent.map(|member| format!("; member {} does not answer", or_dash(member.id))).collect()
    }

    fn waits(&self) -> String {
        let waits = statuses(&self.answers)
            .filter_map(|status| Some(format!("; member {}: {}", status.id, one_line(status.waits_for.as_ref()?))));
        waits.collect()
    }

    /// What must never be: states that differ at the same op, and endpoints of several clusters.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut hashes: BTreeMap<u64, BTreeMap<&str, u64>> = BTreeMap::new();
        for status in statuses(&self.answers) {
            hashes.entry(status.applied_op).or_default().insert(&status.state_hash, status.id);
        }
        for (op, hashes) in hashes.iter().filter(|(_, hashes)| hashes.len() > 1) {
            let members: Vec<String> = hashes.iter().map(|(hash, id)| format!("{id} has {hash}")).collect();
            warnings.push(format!("the members' states differ at op {op}: {}", members.join(", ")));
        }
        let clusters: BTreeSet<u128> =
            statuses(&self.answers).map(|status| status.cluster).filter(|id| *id != 0).collect();
        if clusters.len() > 1 {
            warnings.push(format!("the endpoints belong to {} different clusters", clusters.len()));
        }
        warnings
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::Syncing => "syncing",
        Role::Witness => "witness",
        Role::Unreachable => "unreachable",
        Role::Learner => "learner",
        Role::Unlisted => "unlisted",
        Role::Leaving => "leaving",
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use lock_client::ViewMember;

    use super::*;

    fn view(id: u64, primary: u64) -> ViewSummary {
        let member = |id| ViewMember { id, address: format!("h:{id}"), role: Role::Backup };
        ViewSummary { id, primary, in_sync: vec![1, 2], members: [1, 2, 3].map(member).into() }
    }

    fn answer(id: u64, role: Role, view: Option<ViewSummary>) -> Answer {
        let serving = role == Role::Primary;
        let status = MemberStatus {
            id,
            cluster: 7,
            role,
            serving,
            waits_for: (!serving).then(|| "the primary".to_owned()),
            view,
            applied_op: 9,
            commit_op: 9,
            last_op: 9,
            state_hash: "00000000000000aa".into(),
            durability: "nvm: file, durable".into(),
            pid: 100 + u32::try_from(id).expect("a small number"),
        };
        (format!("h:{id}"), Ok(status))
    }

    fn gathered(answers: Vec<Answer>) -> Gathered {
        let status = merge(&answers);
        Gathered { answers, status }
    }

    #[test]
    fn the_newest_view_counts_and_an_old_primary_is_not_shown_as_one() {
        let answers = vec![
            answer(1, Role::Primary, Some(view(3, 1))),
            answer(2, Role::Primary, Some(view(4, 2))),
            ("h:3".into(), Err("refused".into())),
        ];
        let gathered = gathered(answers);
        let roles: Vec<Role> = gathered.status.members.iter().map(|member| member.role).collect();
        assert_eq!(roles, [Role::Backup, Role::Primary, Role::Unreachable]);
        assert_eq!(gathered.status.view.as_ref().map(|view| view.id), Some(4));
        assert_eq!(gathered.verdict(), "serving: view 4, primary 2, 2 of 3 members in sync; member 3 does not answer");
        assert!(gathered.warnings().is_empty());
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys_and_nulls_for_the_unreachable() {
        let mut answers = vec![answer(1, Role::Primary, Some(view(4, 1)))];
        answers.push(("h:3".into(), Err("refused".into())));
        let json = serde_json::to_string(&merge(&answers)).expect("plain data");
        let down = |id| {
            format!(
                r#"{{"id":{id},"address":"h:{id}","role":"unreachable","applied_op":null,"state_hash":null,"durability":null,"pid":null}}"#
            )
        };
        let up = concat!(
            r#"{"id":1,"address":"h:1","role":"primary","applied_op":9,"state_hash":"00000000000000aa","#,
            r#""durability":"nvm: file, durable","pid":101}"#
        );
        let expected =
            format!(r#"{{"view":{{"id":4,"primary":1,"in_sync":[1,2]}},"members":[{up},{},{}]}}"#, down(2), down(3));
        assert_eq!(json, expected);
    }

    #[test]
    fn a_cluster_without_its_primary_says_what_it_waits_for() {
        let mut answers = vec![answer(2, Role::Backup, Some(view(4, 1)))];
        answers.push(("h:1".into(), Err("refused".into())));
        let verdict = gathered(answers).verdict();
        assert_eq!(verdict, "not serving: view 4, whose primary 1 does not answer; member 2: the primary");
        let verdict = gathered(vec![answer(2, Role::Syncing, None)]).verdict();
        assert_eq!(verdict, "not serving: the cluster has no view yet; member 2: the primary");
    }

    #[test]
    fn nobody_answering_is_a_failure_that_names_each_endpoint() {
        let gathered = gathered(vec![("h:1".into(), Err("refused".into())), ("h:2".into(), Err("silent".into()))]);
        let failure = gathered.check(Duration::from_secs(1)).expect_err("nobody answered");
        assert_eq!(failure.exit, 69);
        assert!(failure.line.contains("within 1.0 s (h:1: refused; h:2: silent)"), "{}", failure.line);
        assert_eq!(gathered.status.view, None);
        assert_eq!(gathered.status.members.len(), 2);
    }

    #[test]
    fn states_that_differ_at_one_op_are_warned_of() {
        let mut other = answer(2, Role::Backup, Some(view(4, 1)));
        if let Ok(status) = &mut other.1 {
            status.state_hash = "bb".into();
            status.cluster = 8;
        }
        let warnings = gathered(vec![answer(1, Role::Primary, Some(view(4, 1))), other]).warnings();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("differ at op 9"), "{warnings:?}");
    }
}
