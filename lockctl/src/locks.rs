//! Who holds what.

use std::collections::BTreeSet;

use lock_client::{Answer, ForcedTenure, KeptLocks, LockEntry, LockName, Mode, Query, SessionId};
use serde::Serialize;

use crate::arguments::Common;
use crate::dispatch::{close, connect_to_ask, print, print_json};
use crate::failure::{Failure, exit};
use crate::kept;
use crate::table::{Align, Table, age};
use crate::waiting::holder;

/// `lockctl locks`: all pages.
pub(crate) async fn list(prefix: &str, common: &Common) -> Result<u8, Failure> {
    let client = connect_to_ask(common).await?;
    let entries = client.locks(prefix).await;
    let kept = kept::all(&client).await;
    close(&client).await;
    let entries = entries?;
    let holders: BTreeSet<SessionId> =
        entries.iter().flat_map(|entry| &entry.holders).map(|holder| holder.session).collect();
    let kept = kept::of(kept?, |session| holders.contains(&session));
    if common.json {
        print_json(&entries)?;
    } else {
        print(&(lock_table(&entries) + &kept::text(&kept)));
    }
    Ok(exit::OK)
}

/// `lockctl inspect`.
pub(crate) async fn inspect(name: &LockName, common: &Common) -> Result<u8, Failure> {
    let client = connect_to_ask(common).await?;
    let entry = client.inspect(name.as_str()).await;
    let forced = client.query(Query::Forced { name: name.clone() }).await;
    let kept = kept::all(&client).await;
    close(&client).await;
    let entry = entry?;
    let kept = kept::of(kept?, |session| entry.holders.iter().any(|holder| holder.session == session));
    let Answer::Forced(forced) = forced? else {
        return Err(Failure::new(exit::UNAVAILABLE, "the server answered another question"));
    };
    if common.json {
        print_json(&Inspected { entry: &entry, forced: &forced, kept: &kept })?;
    } else {
        print(&(details(&entry) + &withheld(&forced) + &kept::text(&kept)));
    }
    Ok(exit::OK)
}

/// A line for each lock: its first holder, and how many more share it.
fn lock_table(entries: &[LockEntry]) -> String {
    use Align::{Left, Right};
    let columns =
        [("NAME", Left), ("MODE", Left), ("HOLDER", Left), ("TOKEN", Right), ("HELD-FOR", Right), ("WAITING", Right)];
    let mut table = Table::new(&columns);
    for entry in entries {
        let first = entry.holders.first();
        let more = match entry.holders.len() {
            0 | 1 => String::new(),
            holders => format!(" +{} more", holders - 1),
        };
        table.row([
            entry.name.to_string(),
            first.map_or("free".to_owned(), |first| first.mode.to_string()),
            first.map(|first| holder(first) + &more).unwrap_or_default(),
            first.map(|first| first.token.to_string()).unwrap_or_default(),
            first.map(|first| age(first.since_ms)).unwrap_or_default(),
            entry.waiters.len().to_string(),
        ]);
    }
    table.render()
}

/// One lock, for programs; without force, and with a holder that lives, it is as it always was.
#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    entry: &'a LockEntry,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    forced: &'a [ForcedTenure],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kept: &'a [KeptLocks],
}

/// A line for each tenure that was ended by force.
fn withheld(forced: &[ForcedTenure]) -> String {
    let line = |tenure: &ForcedTenure| {
        let left = age(tenure.withheld_ms.unwrap_or(0));
        format!("session {}: ended by force, not confirmed; withheld for {left} more at most\n", tenure.session)
    };
    forced.iter().map(line).collect()
}

/// A line for each holder, and then for each waiter in its order.
fn details(entry: &LockEntry) -> String {
    if entry.holders.is_empty() && entry.waiters.is_empty() {
        return format!("{} is free\n", entry.name);
    }
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("PLACE", Left),
        ("MODE", Left),
        ("CLIENT", Left),
        ("HOST", Left),
        ("PID", Right),
        ("SESSION", Right),
        ("TOKEN", Right),
        ("FOR", Right),
    ]);
    let mut row = |place: String, mode: Mode, who: (&str, &str, u32, u64), token: String, since_ms: u64| {
        let (client, host, pid, session) = who;
        table.row([
            place,
            mode.to_string(),
            client.to_owned(),
            host.to_owned(),
            pid.to_string(),
            session.to_string(),
            token,
            age(since_ms),
        ]);
    };
    for it in &entry.holders {
        let who = (it.client.as_str(), it.host.as_str(), it.pid, it.session.0);
        row("holds".to_owned(), it.mode, who, it.token.to_string(), it.since_ms);
    }
    for (place, it) in entry.waiters.iter().enumerate() {
        let who = (it.client.as_str(), it.host.as_str(), it.pid, it.session.0);
        row(format!("waits, {}.", place + 1), it.mode, who, String::new(), it.since_ms);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use lock_client::{FencingToken, Holder, SessionId, Waiter};

    use super::*;

    fn entry() -> LockEntry {
        let held_by = |pid| Holder {
            session: SessionId(3),
            client: "indexer-7".into(),
            host: "db1".into(),
            pid,
            mode: Mode::Shared,
            token: FencingToken(17),
            since_ms: 61_000,
        };
        let waiter = Waiter {
            session: SessionId(4),
            client: "web".into(),
            host: "db2".into(),
            pid: 9,
            mode: Mode::Exclusive,
            since_ms: 1500,
        };
        LockEntry {
            name: LockName::new("a").expect("a name"),
            holders: vec![held_by(42), held_by(43)],
            waiters: vec![waiter],
        }
    }

    #[test]
    fn a_lock_is_one_line_with_its_first_holder() {
        let text = lock_table(&[entry()]);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect()).collect();
        assert_eq!(lines[0].len(), 6, "{text}");
        let cells: Vec<&str> = lines[1].iter().map(|cell| cell.trim()).collect();
        assert_eq!(cells, ["a", "shared", "indexer-7 (host db1, pid 42) +1 more", "17", "1m 1s", "1"]);
    }

    #[test]
    fn the_details_have_a_line_for_each_holder_and_waiter() {
        let lines: Vec<String> = details(&entry()).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("holds") && lines[1].ends_with("17  1m 1s"), "{lines:?}");
        assert!(lines[3].starts_with("waits, 1.  exclusive  web") && lines[3].ends_with("-  1.5 s"), "{lines:?}");
        assert_eq!(
            details(&LockEntry { name: LockName::new("x").expect("a name"), holders: vec![], waiters: vec![] }),
            "x is free\n"
        );
    }

    #[test]
    fn what_was_ended_by_force_is_shown_and_otherwise_the_json_is_that_of_the_entry() {
        let forced = [ForcedTenure { session: SessionId(3), withheld_ms: Some(1_500) }];
        let line = "session 3: ended by force, not confirmed; withheld for 1.5 s more at most\n";
        assert_eq!((withheld(&forced).as_str(), withheld(&[])), (line, String::new()));
        let json =
            |forced| serde_json::to_string(&Inspected { entry: &entry(), forced, kept: &[] }).expect("plain data");
        assert_eq!(json(&[]), serde_json::to_string(&entry()).expect("plain data"));
        assert!(json(&forced).ends_with(r#","forced":[{"session":3,"withheld_ms":1500}]}"#));
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let json = serde_json::to_string(&entry()).expect("plain data");
        assert!(json.starts_with(concat!(
            r#"{"name":"a","holders":[{"session":3,"client":"indexer-7","host":"db1","pid":42,"mode":"shared","token":17,"#,
            r#""since_ms":61000},"#
        )));
        let waiters =
            r#""waiters":[{"session":4,"client":"web","host":"db2","pid":9,"mode":"exclusive","since_ms":1500}]}"#;
        assert!(json.ends_with(waiters));
    }
}
