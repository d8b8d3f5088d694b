//! The terminal is lent to the command, and taken back.
//!
//! A command in a process group of its own is a background job, unless its group is made the terminal's foreground group: else
//! it would be stopped when it reads, and Ctrl-C would not reach it. It is lent only where this process is in the foreground
//! itself and both its input and its output are the terminal (in a pipeline the others need it as much).
//!
//! Taking it back is forbidden to a background process, as this one is then, on pain of being stopped. So a child does it
//! that joins the command's group, which still exists while its leader is not reaped.

use std::io::{stdin, stdout};
use std::os::unix::process::CommandExt;

use rustix::process::{Pid, getpgrp};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

use crate::launch;

/// The terminal of standard input, while this process's group has it.
#[derive(Debug)]
pub(crate) struct Terminal {
    own: Pid,
}

impl Terminal {
    /// None where there is nothing to lend.
    pub(crate) fn of_this_process() -> Option<Self> {
        let own = getpgrp();
        let ours = isatty(stdin()) && isatty(stdout()) && tcgetpgrp(stdin()) == Ok(own);
        ours.then_some(Terminal { own })
    }

    /// Makes `group` the foreground group; it has to do without where that fails.
    pub(crate) fn lend(&self, group: Pid) {
        tcsetpgrp(stdin(), group).ok();
    }

    /// Takes it back from `group`, whose leader is not reaped yet. If somebody else has it by now, it is left there.
    pub(crate) fn take_back(&self, group: Pid) {
        if tcgetpgrp(stdin()) == Ok(group) {
            // An interactive shell takes the terminal back by itself; that is what remains where this fails.
            drop(launch::giver(self.own).process_group(group.as_raw_pid()).status());
        }
    }
}
