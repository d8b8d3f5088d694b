//! Pages of locks.

use lock_protocol::{Answer, ClientIdentity, Command, Open, Query, SessionId};

use super::{S, Script, X, name};
use crate::machine::{Op, Reply};

#[test]
fn a_page_of_locks_ends_at_its_limit_and_the_next_begins_behind_it() {
    let mut script = Script::new();
    let session = script.open(1, 60_000);
    for text in ["b/1", "a", "b/3", "b/2", "c"] {
        script.acquire(session, text, X);
    }
    script.pass(1_500, &[session]);
    let mut page = |prefix: &str, after: Option<&str>, limit| {
        let query = Query::Locks { prefix: prefix.into(), after: after.map(name), limit };
        match script.apply(&Op::Read(query)) {
            Reply::Answer(Answer::Locks { entries, more }) => {
                assert!(entries.iter().all(|entry| entry.holders[0].since_ms == 1_500));
                (entries.iter().map(|entry| entry.name.as_str().to_owned()).collect::<Vec<_>>().join(" "), more)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page("b/", None, 2), ("b/1 b/2".into(), true));
    assert_eq!(page("b/", Some("b/2"), 2), ("b/3".into(), false));
    assert_eq!(page("", None, 0), ("a".into(), true));
    assert_eq!(page("", Some("a"), 9), ("b/1 b/2 b/3 c".into(), false));
    assert_eq!(page("b/", Some("a"), 1), ("b/1".into(), true));
    assert_eq!(page("b/", Some("c"), 1), (String::new(), false));
    assert_eq!(page("b\n", None, 9), (String::new(), false));
    assert_eq!(page(&"b".repeat(300), None, 9), (String::new(), false));
}

#[test]
fn a_page_with_very_many_waiters_stays_below_a_frame() {
    let mut script = Script::new();
    let identity = ClientIdentity { client: "c".repeat(255), host: "h".repeat(255), pid: u32::MAX };
    let mut sessions = Vec::new();
    for nonce in 0..1_200 {
        script.apply(&Op::Open(Open { nonce, lease_ms: 60_000, identity: identity.clone() }));
        sessions.push(SessionId(script.op));
    }
    for (number, text) in (1..).zip((0..8).map(|lock| format!("{lock}"))) {
        for &session in &sessions {
            let mode = if session == sessions[0] { X } else { S };
            script.number(session, number, Command::Acquire { name: name(&text), mode });
        }
    }
    let query = Query::Locks { prefix: String::new(), after: None, limit: u32::MAX };
    let bytes = Reply::Answer(script.machine.on_read(&query)).encode();
    assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
    assert!(matches!(script.machine.on_read(&query), Answer::Locks { entries, more: true } if entries.len() == 1));
}
