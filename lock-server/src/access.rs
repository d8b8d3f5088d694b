//! Who may do what to which locks: rules by the names in clients' certificates.
//!
//! The rules stand in a TOML file of their own, because it is read again while the member runs:
//!
//! ```toml
//! [[rule]]
//! client = "indexer-7"            # a DNS name in the client's certificate, or "*"
//! prefix = "index/"               # of locks' names; without it, all
//! may = ["acquire", "list"]       # and force-release; and, without a prefix, members, promote and backup
//! ```
//!
//! Why it is right: with a file, what no rule allows is refused, and it is refused by the member that was asked, before anything enters the
//! log: members whose files differ for a moment still execute the same. Nothing that a client has is ever kept from being given
//! back: releases, cancellations, keep-alives and the end of a session need no rule, and neither does the upgrade of a lock that is held. A file
//! that is damaged leaves the rules in force that were read before.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lock_protocol::{Command, MemberChange, Outcome, Query, Refusal, Request};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;

use crate::config;

/// What a rule can allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Take locks.
    Acquire,
    /// See who holds locks and waits for them.
    List,
    /// End tenures by force.
    ForceRelease,
    /// Add, remove and replace members.
    Members,
    /// Make another member primary.
    Promote,
    /// Have all of the state, with the secrets by which sessions are known.
    Backup,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    client: String,
    #[serde(default)]
    prefix: String,
    may: Vec<Action>,
}

/// A file's rules.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(default)]
    rule: Vec<Rule>,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub(crate) struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    rules: RwLock<Rules>,
    /// The file when it was last looked at, whether it was right or not.
    looked_at: Mutex<Stamp>,
}

type Stamp = Option<(i64, i64, u64, u64)>;

/// A client, by the names in its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    names: Arc<[String]>,
    access: Option<Access>,
}

impl Access {
    /// Reads the file.
    ///
    /// # Errors
    /// One line with its place that says what to do.
    pub(crate) fn read(path: &Path) -> Result<Access, String> {
        let looked_at = Mutex::new(stamp(path));
        let rules = RwLock::new(Rules::read(path)?);
        Ok(Access(Arc::new(Inner { path: path.to_owned(), rules, looked_at })))
    }

    /// Reads the file again if it changed since it was last looked at.
    pub(crate) fn refresh(&self) {
        let changed = *self.0.looked_at.lock() != stamp(&self.0.path);
        if changed {
            self.read_again();
        }
    }

    /// The same, whether it changed or not.
    pub(crate) fn read_again(&self) {
        let Inner { path, rules, looked_at } = &*self.0;
        // Before the reading: what changes meanwhile is read once more.
        *looked_at.lock() = stamp(path);
        match Rules::read(path) {
            Ok(read) => {
                *rules.write() = read;
                tracing::info!(path = %path.display(), "the rules of access were read again");
            }
            Err(problem) => {
                tracing::warn!(problem, "the rules of access are wrong now: those that were read before stay in force");
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.ino(), found.size()))
}

impl Rules {
    fn read(path: &Path) -> Result<Rules, String> {
        let rules: Rules = config::read(path)?;
        for (number, rule) in rules.rule.iter().enumerate() {
            let place = format!("{}: rule {}", path.display(), number + 1);
            if rule.client.is_empty() || rule.may.is_empty() {
                return Err(format!("{place} allows nobody anything: name a client or \"*\", and what it may do"));
            }
            let of_the_cluster = |action: &Action| matches!(action, Action::Members | Action::Promote | Action::Backup);
            if !rule.prefix.is_empty() && rule.may.iter().any(of_the_cluster) {
                return Err(format!(
                    "{place}: members, promote and backup have no prefix: give them a rule of their own"
                ));
            }
        }
        Ok(rules)
    }

    /// Whether one of the names may do it to everything whose name begins so.
    fn allow(&self, names: &[String], action: Action, target: &str) -> bool {
        let is_meant =
            |rule: &Rule| rule.client == "*" || names.iter().any(|name| name.eq_ignore_ascii_case(&rule.client));
        self.rule.iter().any(|rule| rule.may.contains(&action) && target.starts_with(&rule.prefix) && is_meant(rule))
    }
}

impl Caller {
    pub(crate) fn new(names: Vec<String>, access: Option<Access>) -> Self {
        Caller { names: names.into(), access }
    }

    /// The refusals of a submission's requests, by their places.
    pub(crate) fn denied(&self, requests: &[Request]) -> Vec<Option<Outcome>> {
        let denied = |request: &Request| {
            let takes = match &request.command {
                Command::Acquire { .. } | Command::AcquireAll { .. } => true,
                Command::Release { requeue, .. } => requeue.is_some(),
                Command::Cancel { .. } | Command::Downgrade { .. } | Command::Upgrade { .. } => false,
            };
            let mut names = request.command.names().filter(|_| takes);
            let refused = names.find_map(|name| self.check(Action::Acquire, name.as_str()).err());
            refused.map(|reason| Outcome::Denied { reason })
        };
        requests.iter().map(denied).collect()
    }

    pub(crate) fn may_ask(&self, query: &Query) -> Result<(), Refusal> {
        let target = match query {
            Query::Locks { prefix, .. } => prefix.as_str(),
            Query::Inspect { name } | Query::Forced { name } => name.as_str(),
            Query::Kept { .. } => "",
        };
        self.may(Action::List, target)
    }

    pub(crate) fn may_change(&self, change: &MemberChange) -> Result<(), Refusal> {
        match change {
            MemberChange::Promote { .. } => self.may(Action::Promote, ""),
            MemberChange::Add { .. } | MemberChange::Remove { .. } | MemberChange::Replace { .. } => {
                self.may(Action::Members, "")
            }
        }
    }

    pub(crate) fn may(&self, action: Action, target: &str) -> Result<(), Refusal> {
        self.check(action, target).map_err(Refusal::Denied)
    }

    fn check(&self, action: Action, target: &str) -> Result<(), String> {
        let Some(access) = &self.access else { return Ok(()) };
        match access.0.rules.read().allow(&self.names, action, target) {
            true => Ok(()),
            false => Err(format!("no rule of access lets {self} {}", action.of(target))),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.names {
            [] => f.write_str("a client whose certificate has no DNS name"),
            names => write!(f, "the client {}", names.join(", ")),
        }
    }
}

impl Action {
    /// What it would be done to.
    fn of(self, target: &str) -> String {
        match self {
            Action::Acquire => format!("acquire '{target}'"),
            Action::List if target.is_empty() => "list all locks: ask for those with a prefix".into(),
            Action::List => format!("list '{target}'"),
            Action::ForceRelease => format!("force-release '{target}'"),
            Action::Members => "change the members".into(),
            Action::Promote => "promote a member".into(),
            Action::Backup => "save the state".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lock_protocol::{FencingToken, LockName, Mode, RequestNumber};

    use super::*;

    const RULES: &str = r#"
        [[rule]]
        client = "indexer-7"
        prefix = "index/"
        may = ["acquire", "list"]
        [[rule]]
        client = "*"
        prefix = "public/"
        may = ["list"]
        [[rule]]
        client = "operator"
        may = ["list", "force-release", "members", "promote", "backup"]
    "#;

    fn access(text: &str) -> (tempfile::TempDir, Result<Access, String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.toml");
        std::fs::write(&path, text).expect("written");
        let access = Access::read(&path);
        (dir, access)
    }

    fn caller(name: &str, access: &Access) -> Caller {
        Caller::new(vec![name.to_owned()], Some(access.clone()))
    }

    #[test]
    fn each_action_is_allowed_by_a_rule_and_refused_without_one() {
        let (_dir, access) = access(RULES);
        let access = access.expect("right");
        for (name, action, target, allowed) in [
            ("indexer-7", Action::Acquire, "index/a", true),
            ("Indexer-7", Action::Acquire, "index/a", true),
            ("indexer-7", Action::Acquire, "index", false),
            ("indexer-7", Action::Acquire, "billing/a", false),
            ("indexer-8", Action::Acquire, "index/a", false),
            ("operator", Action::Acquire, "index/a", false),
            ("indexer-7", Action::List, "index/", true),
            ("indexer-7", Action::List, "ind", false),
            ("indexer-8", Action::List, "public/a", true),
            ("indexer-8", Action::List, "", false),
            ("operator", Action::List, "", true),
            ("operator", Action::ForceRelease, "index/a", true),
            ("indexer-7", Action::ForceRelease, "index/a", false),
            ("operator", Action::Members, "", true),
            ("indexer-7", Action::Members, "", false),
            ("operator", Action::Promote, "", true),
            ("indexer-7", Action::Promote, "", false),
            ("operator", Action::Backup, "", true),
            ("indexer-7", Action::Backup, "", false),
        ] {
            let answer = caller(name, &access).may(action, target);
            assert_eq!(answer.is_ok(), allowed, "{name} {action:?} '{target}': {answer:?}");
        }
        let nobody = Caller::new(Vec::new(), Some(access));
        nobody.may(Action::List, "public/").expect("everybody may");
        let line = nobody.may(Action::List, "").expect_err("refused").to_string();
        assert!(line.contains("whose certificate has no DNS name"), "{line}");
    }

    #[test]
    fn without_rules_everything_is_allowed() {
        let anybody = Caller::new(Vec::new(), None);
        anybody.may(Action::Members, "").expect("allowed");
        anybody.may(Action::Acquire, "a").expect("allowed");
    }

    #[test]
    fn of_a_submission_only_what_takes_a_lock_is_refused() {
        let (_dir, access) = access(RULES);
        let caller = caller("indexer-7", &access.expect("right"));
        let name = || LockName::new("billing/a").expect("a name");
        let (token, mode) = (FencingToken(1), Mode::Exclusive);
        let commands = [
            Command::Acquire { name: name(), mode },
            Command::Acquire { name: LockName::new("index/a").expect("a name"), mode },
            Command::Release { name: name(), token, requeue: Some(mode) },
            Command::Release { name: name(), token, requeue: None },
            Command::Cancel { name: name(), acquire: RequestNumber(1) },
            Command::Downgrade { name: name(), token },
            Command::Upgrade { name: name(), token },
        ];
        let requests: Vec<_> =
            commands.into_iter().map(|command| Request { number: RequestNumber(1), command }).collect();
        let denied = caller.denied(&requests);
        assert_eq!(
            denied.iter().map(Option::is_some).collect::<Vec<_>>(),
            [true, false, true, false, false, false, false]
        );
        let reason = "no rule of access lets the client indexer-7 acquire 'billing/a'";
        assert_eq!(denied[0], Some(Outcome::Denied { reason: reason.into() }));
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_in_one_line_with_its_place() {
        for (text, expected) in [
            (
                "[[rule]]\nclient = \"a\"\nmay = [\"fly\"]",
                "access.toml:3: unknown variant `fly`, expected one of `acquire`",
            ),
            ("[[rule]]\nclient = \"a\"\n", "missing field `may`"),
            ("[[rules]]\n", "unknown field `rules`"),
            ("[[rule]]\nclient = \"a\"\nmay = []", "rule 1 allows nobody anything"),
            (
                "[[rule]]\nclient = \"a\"\nprefix = \"b\"\nmay = [\"promote\"]",
                "rule 1: members, promote and backup have no prefix",
            ),
        ] {
            let line = access(text).1.expect_err("refused");
            assert!(line.contains(expected) && !line.contains('\n'), "wanted: {expected}\n{line}");
        }
    }

    #[test]
    fn rules_that_change_count_at_once_and_damaged_ones_leave_the_old_in_force() {
        let (dir, access) = access(RULES);
        let access = access.expect("right");
        let (path, indexer) = (dir.path().join("access.toml"), caller("indexer-7", &access));
        std::fs::write(&path, "[[rule").expect("written");
        access.refresh();
        indexer.may(Action::Acquire, "index/a").expect("as before");
        std::fs::write(&path, "").expect("written");
        access.refresh();
        indexer.may(Action::Acquire, "index/a").expect_err("nobody may anything");
        std::fs::remove_file(&path).expect("removed");
        access.refresh();
        indexer.may(Action::Acquire, "index/a").expect_err("a file that is gone opens nothing");
    }
}
