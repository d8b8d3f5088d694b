//! This program once more, on its way to become the command.
//!
//! The command shall die when `lockctl` does, however that dies. The kernel offers it (PR_SET_PDEATHSIG), but the process itself
//! must ask, between fork and exec. Code that runs there in this process's image would have to be unsafe, so the
//! child first executes `lockctl` again, which asks, looks whether its parent is still there (it could have died before the
//! asking), and then executes the command in its place, under the same process number.

use std::ffi::OsString;
use std::io::stdin;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgrp, getppid, set_parent_process_death_signal};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::arguments::Exec;
use crate::failure::{Failure, exit};
use crate::program;

/// The hidden subcommand that becomes the command.
pub(crate) const EXEC: &str = "__exec";
/// The hidden subcommand that gives the terminal back to a group.
pub(crate) const GIVE_BACK: &str = "__give-terminal-back";
/// This program, also where its file has been replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The parent hands the terminal over right after the start.
const TERMINAL_WAIT: Duration = Duration::from_secs(2);

/// What starts the command as a child that dies with this process.
pub(crate) fn command(command: &[OsString], foreground: bool) -> Command {
    let mut child = Command::new(THIS_PROGRAM);
    child.arg0("lockctl").arg(EXEC).arg("--parent").arg(std::process::id().to_string());
    if foreground {
        child.arg("--foreground");
    }
    child.arg("--").args(command);
    child
}

/// What gives the terminal of standard input back to `to`.
pub(crate) fn giver(to: Pid) -> Command {
    let mut child = Command::new(THIS_PROGRAM);
    child.arg0("lockctl").arg(GIVE_BACK).arg(to.as_raw_pid().to_string());
    child
}

/// Becomes the command; returns only if that fails.
pub(crate) fn become_command(options: &Exec) -> Failure {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::system(format!("the kernel does not promise to end the command with lockctl: {error}"));
    }
    if getppid() != Pid::from_raw(options.parent) {
        return Failure::system("lockctl has ended before the command began");
    }
    if options.foreground {
        wait_for_terminal();
    }
    let [program, arguments @ ..] = options.command.as_slice() else { return Failure::usage("no command") };
    let error = Command::new(program).args(arguments).exec();
    program::exec_failed(program, &error)
}

/// A command that reads before its group has the terminal would be stopped.
fn wait_for_terminal() {
    let until = Instant::now() + TERMINAL_WAIT;
    while tcgetpgrp(stdin()).is_ok_and(|group| group != getpgrp()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Done by a process of the group that has the terminal, which alone may do so without being stopped for it.
pub(crate) fn give_terminal_back(group: i32) -> Result<u8, Failure> {
    let group = Pid::from_raw(group).ok_or_else(|| Failure::usage("0 is no process group"))?;
    tcsetpgrp(stdin(), group).map_err(|error| Failure::system(format!("the terminal was not given back: {error}")))?;
    Ok(exit::OK)
}
