//! What a member's log says of its last start: what it found in its store, and how it caught up.
//!
//! Why it is right: a field that is missing or no number is a failure, not a default. What the lines say is compared with what is
//! known beside them: who was started, when, and how far the cluster was.

use std::time::Duration;

use rsm::Durability;

use super::cluster::Cluster;
use super::failure::{Checked, wrong};

/// What a store held, as its member says.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Of a [`nvm_log::Outcome`].
    pub outcome: String,
    /// The snapshot's; 0 without one.
    pub snapshot_op: u64,
    /// The snapshot's size.
    pub snapshot_bytes: u64,
    /// The last of the log, or of the snapshot.
    pub last_op: u64,
    /// Of the log, read and verified.
    pub scanned_bytes: u64,
    /// Entries above the snapshot.
    pub replayed_entries: u64,
    /// Entries that the snapshot contains.
    pub skipped_entries: u64,
    /// To open and read the store.
    pub elapsed: Duration,
}

/// How a member caught up, as it says.
#[derive(Clone, Debug, PartialEq)]
pub struct CaughtUp {
    /// What it had at its start.
    pub had_op: u64,
    /// The snapshot that another sent; 0 without one.
    pub installed_op: u64,
    /// Its size.
    pub installed_bytes: u64,
    /// Entries that it got since its start.
    pub appended_entries: u64,
    /// The last op executed then.
    pub executed_op: u64,
    /// From its start to its first acknowledgement; a primary acknowledges nothing.
    pub first_ack: Option<Duration>,
    /// From its start.
    pub elapsed: Duration,
}

/// A start and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Return {
    /// None: it began without memory, as a new incarnation.
    pub found: Option<Found>,
    /// How it caught up.
    pub caught_up: CaughtUp,
}

impl Return {
    /// From what a member logged since its start; `None` while it has not caught up.
    ///
    /// # Errors
    /// A line is missing, or not as it should be.
    pub fn parse(log: &str) -> Checked<Option<Return>> {
        let line_with = |text: &str| log.lines().rfind(|line| line.contains(text));
        let Some(line) = line_with(" caught up ") else { return Ok(None) };
        let caught_up = CaughtUp {
            had_op: number(line, "had_op")?,
            installed_op: number(line, "installed_op")?,
            installed_bytes: number(line, "installed_bytes")?,
            appended_entries: number(line, "appended_entries")?,
            executed_op: number(line, "executed_op")?,
            first_ack: value(line, "first_ack_ms").map(|_| time(line, "first_ack_ms")).transpose()?,
            elapsed: time(line, "elapsed_ms")?,
        };
        let found = match (line_with(" store recovered "), line_with(" starts without log and state")) {
            (Some(line), None) => Some(Found {
                outcome: value(line, "outcome").unwrap_or_default().to_owned(),
                snapshot_op: number(line, "snapshot_op")?,
                snapshot_bytes: number(line, "snapshot_bytes")?,
                last_op: number(line, "last_op")?,
                scanned_bytes: number(line, "scanned_bytes")?,
                replayed_entries: number(line, "replayed_entries")?,
                skipped_entries: number(line, "skipped_entries")?,
                elapsed: time(line, "elapsed_ms")?,
            }),
            (None, Some(_)) => None,
            (recovered, empty) => {
                return wrong(format!("one line should say what was found: {recovered:?}, {empty:?}"));
            }
        };
        Ok(Some(Return { found, caught_up }))
    }

    /// Compares what was said with what is known: the mode, the time since the start, and what the member had executed before.
    ///
    /// # Errors
    /// They do not fit.
    pub fn is_sane(&self, remembers: bool, since_start: Duration, executed_before: u64) -> Checked<()> {
        let Return { found, caught_up } = self;
        let in_time = |time: Duration| time > Duration::ZERO && time <= since_start;
        let found_fits = match found {
            None => !remembers && caught_up.had_op == 0,
            Some(found) => {
                let entries = found.replayed_entries + found.skipped_entries;
                remembers
                    && matches!(found.outcome.as_str(), "Clean" | "Torn" | "Uncertain")
                    && found.last_op > 0
                    && found.last_op >= found.snapshot_op
                    // An entry is a batch of one op or more.
                    && found.last_op - found.snapshot_op >= found.replayed_entries
                    && (found.last_op > found.snapshot_op) == (found.replayed_entries > 0)
                    && caught_up.had_op == found.last_op
                    && (found.scanned_bytes > 0) == (entries > 0)
                    && (found.snapshot_bytes > 0) == (found.snapshot_op > 0)
                    && in_time(found.elapsed)
                    && found.elapsed <= caught_up.elapsed
            }
        };
        let got_what_it_lacked = found.is_some() || caught_up.installed_op > 0 || caught_up.appended_entries > 0;
        let caught_up_fits = in_time(caught_up.elapsed)
            && caught_up.first_ack.is_none_or(|time| time <= caught_up.elapsed)
            && caught_up.executed_op >= executed_before;
        match found_fits && got_what_it_lacked && caught_up_fits {
            true => Ok(()),
            false => wrong(format!(
                "after {since_start:?}, with memory {remembers}, op {executed_before} executed before, a member cannot say {self:?}"
            )),
        }
    }
}

/// Whether a killed process finds its log again.
pub(crate) fn outlives_process(mode: Durability) -> bool {
    mode != Durability::EpochSs
}

impl Cluster {
    /// How long a member's log is, bytes: what is written later is said later.
    ///
    /// # Errors
    /// There is none.
    pub fn log_bytes(&self, id: u64) -> Checked<u64> {
        Ok(std::fs::metadata(self.log(id))?.len())
    }

    /// What a member's log says of its start, which began at this length of it; `None` while it has not caught up.
    ///
    /// # Errors
    /// As [`Return::parse`].
    pub fn returned(&self, id: u64, since_bytes: u64) -> Checked<Option<Return>> {
        let log = std::fs::read(self.log(id))?;
        let since = usize::try_from(since_bytes).unwrap_or(usize::MAX).min(log.len());
        Return::parse(&String::from_utf8_lossy(&log[since..]))
    }
}

fn value<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(field)?.strip_prefix('='))
}

fn number(line: &str, field: &str) -> Checked<u64> {
    match value(line, field).map(str::parse) {
        Some(Ok(number)) => Ok(number),
        _ => wrong(format!("no number {field} in: {line}")),
    }
}

fn time(line: &str, field: &str) -> Checked<Duration> {
    match value(line, field).map(str::parse).map(|ms| ms.map(|ms: f64| Duration::try_from_secs_f64(ms / 1e3))) {
        Some(Ok(Ok(time))) => Ok(time),
        _ => wrong(format!("no time {field} in: {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECOVERED: &str = "t INFO rsm::shell::store: store recovered dir=/d member=1 outcome=Torn { dropped_bytes: 64 } volatile=false \
         snapshot_op=40 snapshot_bytes=900 last_op=50 scanned_frames=20 scanned_bytes=4096 replayed_entries=10 skipped_entries=10 elapsed_ms=1.5";
    const EMPTY: &str =
        "t INFO rsm: starts without log and state, as a new incarnation: the others have them member=1 view=3";
    const CAUGHT_UP: &str = "t INFO rsm::shell::rejoin: caught up member=1 view=3 primary=false had_op=50 installed_op=0 \
         installed_bytes=0 appended_entries=7 executed_op=57 first_ack_ms=3.25 elapsed_ms=12.5";

    fn parsed(lines: &[&str]) -> Option<Return> {
        Return::parse(&lines.join("\n")).expect("lines as members log them")
    }

    #[test]
    fn a_start_is_told_by_what_was_found_and_how_the_member_caught_up() {
        assert_eq!(parsed(&[RECOVERED]), None);
        let told = parsed(&[RECOVERED, CAUGHT_UP]).expect("both lines");
        let found = told.found.as_ref().expect("a store");
        assert_eq!((found.outcome.as_str(), found.last_op, found.scanned_bytes), ("Torn", 50, 4096));
        assert_eq!(told.caught_up.first_ack, Some(Duration::from_micros(3250)));
        told.is_sane(true, Duration::from_millis(20), 57).expect("it fits");
        assert!(told.is_sane(true, Duration::from_millis(20), 58).is_err(), "it has forgotten op 58");
        assert!(told.is_sane(true, Duration::from_millis(12), 57).is_err(), "longer than it runs");
        assert!(told.is_sane(false, Duration::from_millis(20), 57).is_err(), "nothing could be found");
    }

    #[test]
    fn a_line_that_is_missing_or_lacks_a_number_is_a_failure() {
        assert!(Return::parse(CAUGHT_UP).is_err());
        assert!(Return::parse(&format!("{RECOVERED}\n{}", CAUGHT_UP.replace("had_op=50", "had_op=x"))).is_err());
    }

    #[test]
    fn a_member_without_memory_has_nothing_and_gets_all() {
        let came = CAUGHT_UP.replace("had_op=50", "had_op=0");
        let told = parsed(&[EMPTY, &came]).expect("both lines");
        told.is_sane(false, Duration::from_secs(1), 57).expect("it fits");
        assert!(told.is_sane(true, Duration::from_secs(1), 57).is_err(), "its log should have been there");
    }
}
