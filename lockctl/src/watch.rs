//! `lockctl status --watch`: the cluster as it is, again and again, with what its locks do.
//!
//! At a terminal each look takes the place of the one before, on the terminal's second screen, which is left at the end, so that what was
//! there before is there again. Elsewhere a look follows the other, with a blank line between, or one JSON object a line.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use lock_client::{Activity, member_activity};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::arguments::Common;
use crate::dispatch::{print, print_json};
use crate::failure::{Failure, exit, one_line};
use crate::status::{Gathered, gather};

/// The primary's answer about its tables takes no longer, or is left out.
const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(1);
/// To the second screen, without the cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What is counted at one moment.
#[derive(Clone, Copy, Debug)]
struct Count {
    at: Instant,
    op: u64,
    /// Of the primary's process; none where it did not say.
    activity: Option<Activity>,
}

/// A look at the cluster.
struct Look {
    gathered: Gathered,
    count: Count,
}

/// `lockctl status --watch`, until a signal ends it.
pub(crate) async fn show(every: Duration, common: &Common) -> Result<u8, Failure> {
    let no_signal = |error| Failure::system(format!("no signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let at_terminal = stdout().is_terminal() && !common.json;
    let work = look_again_and_again(every, common, at_terminal);
    if at_terminal {
        print(ENTER);
    }
    let done = tokio::select! {
        failure = work => Err(failure),
        _ = interrupt.recv() => Ok(exit::OK),
        _ = terminate.recv() => Ok(exit::OK),
    };
    if at_terminal {
        print(LEAVE);
    }
    done
}

async fn look_again_and_again(every: Duration, common: &Common, at_terminal: bool) -> Failure {
    let mut moments = interval(every);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        moments.tick().await;
        let look = look(common).await;
        let shown = match (common.json, at_terminal) {
            (true, _) => print_json(&object(&look, before)),
            (false, true) => {
                print(&screen(&text(&look, before)));
                Ok(())
            }
            (false, false) => {
                print(&format!("{}\n", text(&look, before)));
                Ok(())
            }
        };
        if let Err(failure) = shown {
            return failure;
        }
        before = Some(look.count);
    }
}

async fn look(common: &Common) -> Look {
    let gathered = gather(common).await;
    let activity = match gathered.primary() {
        Some(primary) => {
            let asked = timeout(ACTIVITY_TIMEOUT, member_activity(primary, common.tls.as_ref())).await;
            asked.ok().and_then(Result::ok).flatten()
        }
        None => None,
    };
    let count = Count { at: Instant::now(), op: gathered.commit_op(), activity };
    Look { gathered, count }
}

/// How often a second a count that only grows has grown; none where it was begun anew, as another primary's is.
fn rate(before: u64, now: u64, elapsed: Duration) -> Option<u64> {
    let more = now.checked_sub(before)?;
    (!elapsed.is_zero()).then(|| (more as f64 / elapsed.as_secs_f64()).round() as u64)
}

/// Ops and grants a second.
fn rates(count: Count, before: Option<Count>) -> (Option<u64>, Option<u64>) {
    let Some(before) = before else { return (None, None) };
    let elapsed = count.at.duration_since(before.at);
    let grants = before.activity.zip(count.activity);
    (rate(before.op, count.op, elapsed), grants.and_then(|(before, now)| rate(before.grants, now.grants, elapsed)))
}

fn object(look: &Look, before: Option<Count>) -> serde_json::Value {
    let (ops, grants) = rates(look.count, before);
    let activity = look.count.activity.map(|activity| {
        json!({
            "sessions": activity.sessions, "locks": activity.locks, "waiters": activity.waiters,
            "grants": activity.grants, "expired": activity.expired,
        })
    });
    json!({
        "view": look.gathered.status.view, "members": look.gathered.status.members, "activity": activity,
        "ops_per_second": ops, "grants_per_second": grants,
    })
}

fn text(look: &Look, before: Option<Count>) -> String {
    let mut text = format!("{}\n\n{}\n", one_line(&look.gathered.verdict()), look.gathered.table());
    if let Some(activity) = look.count.activity {
        let Activity { sessions, locks, waiters, expired, .. } = activity;
        text += &format!("locks {locks}   waiters {waiters}   sessions {sessions}   expired {expired}\n");
    }
    let (ops, grants) = rates(look.count, before);
    let told = |rate: Option<u64>| rate.map_or("-".to_owned(), |rate| rate.to_string());
    text += &format!("ops/s {}   grants/s {}\n", told(ops), told(grants));
    for warning in look.gathered.warnings() {
        text += &format!("warning: {}\n", one_line(&warning));
    }
    text
}

/// The text in place of what is on the screen: each line overwrites the one before and clears its rest.
fn screen(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[H{lines}\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_what_came_since_the_last_look_and_none_after_a_new_beginning() {
        assert_eq!(rate(10, 40, Duration::from_secs(2)), Some(15));
        assert_eq!(rate(40, 10, Duration::from_secs(2)), None);
        assert_eq!(rate(1, 2, Duration::ZERO), None);
    }

    #[test]
    fn a_shorter_look_leaves_nothing_of_a_longer_one_on_the_screen() {
        assert_eq!(screen("ab\nc\n"), "\x1b[Hab\x1b[K\nc\x1b[K\n\x1b[J");
    }
}
