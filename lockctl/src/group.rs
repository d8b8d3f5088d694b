//! The command's process group: started, signalled, watched, reaped.
//!
//! Its first process, the leader, is looked at without being reaped until the whole group has ended. So the group's number
//! cannot be given to other processes meanwhile, and a signal never hits a stranger.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Child;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::failure::{Failure, exit};
use crate::launch;

/// How the leader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// As a shell tells it.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Ended::Status(status) => u8::try_from(status & 0xff).unwrap_or(u8::MAX),
            Ended::Signal(signal) => u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(exit::SIGNAL)),
        }
    }
}

/// A running command.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    leader: Pid,
}

impl Group {
    /// Starts the command in a group of its own. Call it on a thread that lives on: when that thread ends, the kernel
    /// kills the command.
    pub(crate) fn start(
        command: &[OsString],
        environment: Vec<(&'static str, String)>,
        foreground: bool,
    ) -> Result<Self, Failure> {
        let child = launch::command(command, foreground)
            .envs(environment)
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::system(format!("the command could not be started: {error}")))?;
        let leader = Pid::from_child(&child);
        Ok(Group { child, leader })
    }

    /// Its number.
    pub(crate) fn id(&self) -> Pid {
        self.leader
    }

    /// To every process of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        // The group exists while its leader is not reaped; what may not be signalled (another user's) is not ours to end.
        kill_process_group(self.leader, signal).ok();
    }

    /// How the leader ended, once it has; it stays unreaped.
    pub(crate) fn ended(&self) -> io::Result<Option<Ended>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Some(status) = waitid(WaitId::Pid(self.leader), options)? else { return Ok(None) };
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Some(Ended::Status(status)),
            (None, Some(signal)) => Some(Ended::Signal(signal)),
            (None, None) => None,
        })
    }

    /// The signal that stopped the leader, told once for each stop.
    pub(crate) fn stopped(&self) -> Option<i32> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(self.leader), options).ok().flatten().and_then(|status| status.stopping_signal())
    }

    /// Whether any process of the group runs; processes that only wait to be reaped do not count.
    pub(crate) fn runs(&self) -> bool {
        let Ok(processes) = std::fs::read_dir("/proc") else { return true };
        let stats = processes.flatten().filter_map(|process| {
            let name = process.file_name();
            name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
            std::fs::read_to_string(process.path().join("stat")).ok()
        });
        let group = self.leader.as_raw_pid();
        stats.into_iter().any(|stat| runs_in_group(&stat, group))
    }

    /// Lets go of the leader; its number, and the group's, may be used again.
    pub(crate) fn reap(mut self) {
        // It has ended, so this does not wait; where it has not (it cannot be killed), the system reaps it after us.
        drop(self.child.try_wait());
    }
}

/// `PID (NAME) STATE PARENT GROUP ...`; the name may hold anything, so the last parenthesis counts.
fn runs_in_group(stat: &str, group: i32) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next();
    let of_group = fields.nth(1).and_then(|field| field.parse().ok());
    of_group == Some(group) && !matches!(state, Some("Z" | "X" | "x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_one_that_waits_to_be_reaped_whatever_its_name() {
        assert!(runs_in_group("42 (a) b (c) S 1 40 40 0 -1", 40));
        assert!(!runs_in_group("42 (a) Z 1 40 40 0 -1", 40));
        assert!(!runs_in_group("42 (S 1 40) S 1 41 40 0 -1", 40));
        assert!(!runs_in_group("", 40));
    }

    #[test]
    fn an_end_is_told_as_shells_do() {
        assert_eq!(Ended::Status(7).exit(), 7);
        assert_eq!(Ended::Signal(15).exit(), 143);
        assert_eq!(Ended::Signal(9).exit(), 137);
    }
}
