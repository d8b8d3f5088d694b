//! What a person is told while a lock is waited for: who has it, and since when.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use lock_client::{Holder, LockClient, LockEntry, LockName, SessionId};
use rustix::termios::{isatty, tcgetwinsize};

use crate::dispatch::say;
use crate::failure::{one_line, seconds};
use crate::table::age;

/// Shorter waits are not worth a line; and how often it is renewed.
const INTERVAL: Duration = Duration::from_secs(1);
/// Who holds a lock is asked for so long.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Where a terminal does not tell its width.
const COLUMNS: usize = 80;

/// One line that is written over again at a terminal, and said once elsewhere.
#[derive(Debug)]
pub(crate) struct Waiting {
    at_terminal: bool,
    shown: bool,
    since: Instant,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Waiting { at_terminal: isatty(stderr()), shown: false, since: Instant::now() }
    }

    /// Since the first wish.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Tells who stands in the way, for as long as it is polled.
    pub(crate) async fn tell(&mut self, client: &LockClient, name: &LockName) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let obstacle = obstacle(client, name).await;
            let obstacle = obstacle.unwrap_or_else(|| "the cluster does not answer at the moment".to_owned());
            self.show(&format!("waiting for {name} ({}): {obstacle}", seconds(self.elapsed())));
        }
    }

    fn show(&mut self, line: &str) {
        let line = one_line(line);
        if self.at_terminal {
            let columns = tcgetwinsize(stderr()).map_or(COLUMNS, |size| usize::from(size.ws_col)).max(20);
            let line: String = format!("lockctl: {line}").chars().take(columns - 1).collect();
            drop(write!(stderr(), "\r\x1b[K{line}").and_then(|()| stderr().flush()));
        } else if !self.shown {
            say(&line);
        }
        self.shown = true;
    }

    /// Leaves the terminal's line empty.
    pub(crate) fn clear(&mut self) {
        if self.at_terminal && self.shown {
            drop(write!(stderr(), "\r\x1b[K").and_then(|()| stderr().flush()));
        }
    }
}

/// Who has the lock, as far as can be learned soon.
pub(crate) async fn obstacle(client: &LockClient, name: &LockName) -> Option<String> {
    let asked = tokio::time::timeout(INSPECT_TIMEOUT, client.inspect(name.as_str())).await;
    asked.ok()?.ok().map(|entry| describe(&entry, client.session()))
}

fn describe(entry: &LockEntry, own: SessionId) -> String {
    let before = entry.waiters.iter().take_while(|waiter| waiter.session != own).count();
    let holders = match entry.holders.as_slice() {
        [] => "nobody holds it now".to_owned(),
        [one] => format!("held by {} for {}", holder(one), age(one.since_ms)),
        [first, rest @ ..] => {
            format!("held by {} for {} and {} more", holder(first), age(first.since_ms), rest.len())
        }
    };
    match before {
        0 => holders,
        1 => format!("{holders}; 1 waits before this one"),
        _ => format!("{holders}; {before} wait before this one"),
    }
}

/// "indexer-7 (host db1, pid 42)".
pub(crate) fn holder(holder: &Holder) -> String {
    one_line(&format!("{} (host {}, pid {})", holder.client, holder.host, holder.pid))
}

#[cfg(test)]
mod tests {
    use lock_client::{FencingToken, Mode, Waiter};

    use super::*;

    fn held_by(pid: u32) -> Holder {
        Holder {
            session: SessionId(u64::from(pid)),
            client: "indexer-7\u{1b}[31m".into(),
            host: "db1".into(),
            pid,
            mode: Mode::Shared,
            token: FencingToken(9),
            since_ms: 3200,
        }
    }

    #[test]
    fn the_holder_and_those_before_are_named_in_one_plain_line() {
        let mut entry =
            LockEntry { name: LockName::new("a").expect("a name"), holders: vec![held_by(42)], waiters: vec![] };
        assert_eq!(describe(&entry, SessionId(7)), "held by indexer-7 [31m (host db1, pid 42) for 3.2 s");
        entry.holders.push(held_by(43));
        entry.waiters = [5, 6, 7]
            .map(|id| Waiter {
                session: SessionId(id),
                client: String::new(),
                host: String::new(),
                pid: 1,
                mode: Mode::Exclusive,
                since_ms: 0,
            })
            .into();
        assert!(describe(&entry, SessionId(7)).ends_with("for 3.2 s and 1 more; 2 wait before this one"));
    }
}
