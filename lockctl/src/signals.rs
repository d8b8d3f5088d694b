//! Signals as futures, but not those that this process was started to ignore.
//!
//! A handler would be replaced by the default when the command is executed, so `nohup lockctl run` would guard a command
//! that a hang-up ends after all. Ignored signals stay ignored, here and in the command.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// What is passed on to the command's group.
const PASSED_ON: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// What people and supervisors want of us.
#[derive(Debug)]
pub(crate) struct Requests {
    streams: Vec<(Signal, tokio::signal::unix::Signal)>,
}

impl Requests {
    /// From now on they end nothing by themselves.
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let mut streams = Vec::new();
        for wanted in PASSED_ON.into_iter().filter(|wanted| ignored & bit(*wanted) == 0) {
            streams.push((wanted, signal(SignalKind::from_raw(wanted.as_raw()))?));
        }
        Ok(Requests { streams })
    }

    /// The next one; none is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.streams {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Something happened to a child.
#[derive(Debug)]
pub(crate) struct Children(tokio::signal::unix::Signal);

impl Children {
    /// Before the first is started.
    pub(crate) fn listen() -> io::Result<Self> {
        signal(SignalKind::child()).map(Children)
    }

    /// Many may come as one.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// The mask of ignored signals in the kernel's account of a process; none where it is unreadable.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hang_up_is_seen_in_the_kernels_mask() {
        let mask = ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t00\n");
        assert_ne!(mask & bit(Signal::HUP), 0);
        assert_eq!(mask & bit(Signal::INT), 0);
        assert_eq!(ignored("SigIgn:\tnonsense"), 0);
    }
}
