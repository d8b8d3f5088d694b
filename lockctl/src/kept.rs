//! Dead sessions whose exclusive locks are not free yet, and why.

use lock_client::{KeptLocks, LockClient, QueryError, SessionId};

use crate::table::age;

/// Pages that are asked for: the dead of thousands of pages are nothing that a person reads.
const PAGES_MAX: usize = 10;

/// All of them, by session; as many as fit into some pages.
pub(crate) async fn all(client: &LockClient) -> Result<Vec<KeptLocks>, QueryError> {
    let mut all: Vec<KeptLocks> = Vec::new();
    for _ in 0..PAGES_MAX {
        let (page, more) = match client.kept_page(all.last().map(|last| last.session)).await {
            // Who may list a part of the locks only is shown them without this.
            Err(QueryError::Denied(_)) => break,
            page => page?,
        };
        let goes_on = page.first().is_some_and(|first| all.last().is_none_or(|last| first.session > last.session));
        all.extend(page);
        if !more || !goes_on {
            break;
        }
    }
    Ok(all)
}

/// What holds of a session that died with this lock, or of several that were asked for.
pub(crate) fn of(kept: Vec<KeptLocks>, mut is_meant: impl FnMut(SessionId) -> bool) -> Vec<KeptLocks> {
    kept.into_iter().filter(|kept| is_meant(kept.session)).collect()
}

/// A line for each.
pub(crate) fn text(kept: &[KeptLocks]) -> String {
    kept.iter().map(|kept| format!("{}: {}\n", who(kept), why(kept))).collect()
}

fn who(kept: &KeptLocks) -> String {
    let KeptLocks { session, client, host, pid, locks, .. } = kept;
    let locks = if *locks == 1 { "1 lock".to_owned() } else { format!("{locks} locks") };
    format!("session {session} ({client} on {host}, pid {pid}) is dead and keeps {locks}")
}

fn why(kept: &KeptLocks) -> String {
    let delay = || format!("withheld for {} more, its lock delay", age(kept.delay_left_ms));
    let Some(recovery) = &kept.recovery else { return delay() };
    match &recovery.by {
        Some(by) => {
            format!("session {} of group '{}' recovers it, under token {}", by.session, recovery.group, by.token)
        }
        None => format!("they wait for recovery, and nobody of group '{}' is there to do it", recovery.group),
    }
}

#[cfg(test)]
mod tests {
    use lock_client::{GroupName, Recoverer, Recovering, RecoveryToken};

    use super::*;

    fn dead(delay_left_ms: u64) -> KeptLocks {
        KeptLocks {
            session: SessionId(3),
            client: "indexer-7".into(),
            host: "db1".into(),
            pid: 42,
            locks: 12,
            delay_left_ms,
            recovery: None,
        }
    }

    #[test]
    fn each_dead_session_has_a_line_that_says_why_its_locks_are_not_free() {
        let line = "session 3 (indexer-7 on db1, pid 42) is dead and keeps 12 locks: \
                    withheld for 1.5 s more, its lock delay\n";
        assert_eq!(text(&[dead(1_500)]), line);
        let group = GroupName::new("volume-7").expect("a name");
        let by = Recoverer { session: SessionId(5), token: RecoveryToken(77), patience_ms: 1 };
        let recovering = |by| why(&KeptLocks { recovery: Some(Recovering { group: group.clone(), by }), ..dead(0) });
        assert_eq!(recovering(Some(by)), "session 5 of group 'volume-7' recovers it, under token 77");
        assert!(recovering(None).ends_with("nobody of group 'volume-7' is there to do it"));
        assert!(text(&[KeptLocks { locks: 1, ..dead(0) }]).contains("keeps 1 lock:"));
        assert_eq!(of(vec![dead(1)], |session| session == SessionId(4)), []);
    }
}
