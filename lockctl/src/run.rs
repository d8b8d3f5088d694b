//! `lockctl run`: a command under its locks.
//!
//! Why the command does not outlive the lock: `schedule` says when it must end, and the group is signalled then; the locks are
//! given back by nobody else than the last lines of [`run`], after the group has ended. A loss that is learned in another
//! way (the server says that the session is gone) kills at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lock_client::Mode;
use rustix::process::Signal;
use serde::Serialize;

use crate::arguments::{Common, Run};
use crate::dispatch::say;
use crate::failure::{Failure, exit};
use crate::group::{Ended, Group};
use crate::program;
use crate::schedule::{Act, KILL_BEFORE, Schedule, Watch};
use crate::signals::{Children, Requests};
use crate::terminal::Terminal;
use crate::wish::{Held, Patience, Wish, fulfil};

/// A killed process that is still there after so long hangs in the kernel, and is not waited for.
const DYING_MAX: Duration = Duration::from_secs(10);
/// How often what is left of a group is looked for.
const REST_POLL: Duration = Duration::from_millis(10);

/// Runs the command; returns the exit status.
pub(crate) async fn run(options: &Run, common: &Common) -> Result<u8, Failure> {
    if let Some(name) = twice(options) {
        return Err(Failure::usage(format!("the name '{name}' is given twice")));
    }
    Schedule::new(options.lease, options.grace).map_err(Failure::usage)?;
    let [program, ..] = options.command.as_slice() else { return Err(Failure::usage("no command was given")) };
    program::check(program)?;
    let listening = |error| Failure::system(format!("signals cannot be taken: {error}"));
    let mut requests = Requests::listen().map_err(listening)?;
    let children = Children::listen().map_err(listening)?;

    let wish = Wish {
        names: &options.names,
        mode: if options.shared { Mode::Shared } else { Mode::Exclusive },
        lease: options.lease,
        patience: match (options.try_only, options.wait) {
            (true, _) => Patience::Try,
            (false, Some(limit)) => Patience::For(limit),
            (false, None) => Patience::Forever,
        },
    };
    let held = fulfil(&wish, common, &mut requests).await?;
    let tokens = held.tokens();
    let begun = Instant::now();
    let waited = held.waited;
    let done = guard(options, &held, requests, children).await;
    let held_for = begun.elapsed();
    held.release().await;
    let (exit, lost) = done?;
    if common.json {
        tell(&Report { names: &options.names, tokens, exit, lost, waited_ms: ms(waited), held_ms: ms(held_for) });
    }
    Ok(exit)
}

fn twice(options: &Run) -> Option<&lock_client::LockName> {
    let mut seen = BTreeSet::new();
    options.names.iter().find(|name| !seen.insert(*name))
}

/// What `run --json` tells on stderr at the end; stdout is the command's.
#[derive(Debug, Serialize)]
struct Report<'a> {
    names: &'a [lock_client::LockName],
    tokens: Vec<u64>,
    exit: u8,
    lost: bool,
    waited_ms: u64,
    held_ms: u64,
}

fn tell(report: &Report<'_>) {
    if let Ok(text) = serde_json::to_string(report) {
        eprintln!("{text}");
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the command finds in its environment.
fn environment(names: &[lock_client::LockName], tokens: &[u64]) -> Vec<(&'static str, String)> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let tokens: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    let mut environment = Vec::new();
    if let ([name, ..], [token, ..]) = (names.as_slice(), tokens.as_slice()) {
        environment.push(("LOCK_NAME", name.clone()));
        environment.push(("LOCK_TOKEN", token.clone()));
    }
    if names.len() > 1 {
        environment.push(("LOCK_NAMES", names.join("\n")));
        environment.push(("LOCK_TOKENS", tokens.join("\n")));
    }
    environment
}

/// The exit status, and whether the lock was lost.
async fn guard(options: &Run, held: &Held, requests: Requests, children: Children) -> Result<(u8, bool), Failure> {
    // The server may have given another lease than was asked for.
    let schedule = Schedule::new(held.client.lease(), options.grace).map_err(Failure::usage)?;
    if let Some(warning) = schedule.warning() {
        say(&warning);
    }
    let terminal = Terminal::of_this_process();
    let environment = environment(&options.names, &held.tokens());
    let group = Group::start(&options.command, environment, terminal.is_some())?;
    if let Some(terminal) = &terminal {
        terminal.lend(group.id());
    }
    let mut guarded = Guarded { held, group, watch: Watch::new(schedule), terminal, killed_at: None };
    let ended = guarded.attend(requests, children).await;
    guarded.end_rest(schedule.grace()).await;
    let Guarded { group, watch, terminal, .. } = guarded;
    if let Some(terminal) = terminal {
        terminal.take_back(group.id());
    }
    group.reap();
    let lost = watch.has_ended_it() || held.valid_for().is_zero();
    let ended = ended?;
    if !lost {
        return Ok((ended.map_or(exit::SYSTEM, Ended::exit), false));
    }
    say(match watch.has_ended_it() {
        true => "the lock was lost, and the command was ended for it",
        false => {
            "the lease had run out when the command ended: what it did last may have been in another holder's time"
        }
    });
    Ok((exit::LOST, true))
}

/// A running command and what watches over it.
struct Guarded<'a> {
    held: &'a Held,
    group: Group,
    watch: Watch,
    terminal: Option<Terminal>,
    killed_at: Option<Instant>,
}

impl Guarded<'_> {
    /// Until the command's first process has ended; none if it cannot be killed.
    async fn attend(&mut self, mut requests: Requests, mut children: Children) -> Result<Option<Ended>, Failure> {
        loop {
            match self.group.ended() {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(Some(ended)),
                Err(error) => {
                    self.group.signal(Signal::KILL);
                    return Err(Failure::system(format!("the command is lost sight of, and killed: {error}")));
                }
            }
            if self.killed_at.is_some_and(|at| at.elapsed() > DYING_MAX) {
                say("the command does not die: it hangs in the kernel");
                return Ok(None);
            }
            let valid_for = self.held.valid_for();
            if let Some(act) = self.watch.on_time(valid_for) {
                self.act(act);
            }
            tokio::select! {
                () = children.next() => self.on_stopped(),
                signal = requests.next() => self.group.signal(signal),
                () = self.held.lost(), if !self.watch.has_killed() => {
                    if let Some(act) = self.watch.on_lost() {
                        self.act(act);
                    }
                }
                () = tokio::time::sleep(self.watch.look_again(valid_for)) => {}
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Terminate => {
                say("the lease is not renewed: SIGTERM to the command before the lock can pass on");
                self.group.signal(Signal::TERM);
                // A stopped process takes its SIGTERM only when it goes on.
                self.group.signal(Signal::CONT);
            }
            Act::Kill => {
                say("the lock is lost: SIGKILL to the command");
                self.group.signal(Signal::KILL);
                self.killed_at = Some(Instant::now());
            }
        }
    }

    /// A job that is stopped at the terminal would hold its lock for ever, without a shell that knows of it.
    fn on_stopped(&self) {
        let Some(signal) = self.group.stopped() else { return };
        if signal == Signal::TSTP.as_raw() && self.terminal.is_some() {
            say("a guarded command is not suspended, since it holds a lock: it goes on");
            self.group.signal(Signal::CONT);
        } else if signal == Signal::TTIN.as_raw() {
            say("the command is stopped: it wants to read a terminal that it has not got; give it another input");
        }
    }

    /// Ends what the command left running in its group.
    async fn end_rest(&mut self, grace: Duration) {
        if !self.group.runs() {
            return;
        }
        self.group.signal(Signal::TERM);
        self.group.signal(Signal::CONT);
        let begun = Instant::now();
        let mut killed_at: Option<Instant> = None;
        while self.group.runs() {
            let over = begun.elapsed() >= grace || self.held.valid_for() <= KILL_BEFORE;
            match killed_at {
                None if over => {
                    self.group.signal(Signal::KILL);
                    killed_at = Some(Instant::now());
                }
                Some(at) if at.elapsed() > DYING_MAX => {
                    return say("processes of the command's group do not die: they hang in the kernel");
                }
                _ => {}
            }
            tokio::time::sleep(REST_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use lock_client::LockName;

    use super::*;

    #[test]
    fn one_name_has_two_variables_and_several_have_lists_in_the_order_typed() {
        let name = |text| LockName::new(text).expect("a name");
        let one = environment(&[name("b")], &[7]);
        assert_eq!(one, [("LOCK_NAME", "b".to_owned()), ("LOCK_TOKEN", "7".to_owned())]);
        let two = environment(&[name("b"), name("a x")], &[7, 9]);
        assert_eq!(two[..2], one[..]);
        assert_eq!(two[2..], [("LOCK_NAMES", "b\na x".to_owned()), ("LOCK_TOKENS", "7\n9".to_owned())]);
    }
}
