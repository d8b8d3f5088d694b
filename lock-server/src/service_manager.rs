//! What a member tells the service manager that started it, systemd or another that speaks its notification protocol: that it is ready,
//! how it stands, that it is alive, that it stops. One datagram each, to the socket named in the environment.
//!
//! Why it harms nobody: nothing waits for the manager, and a datagram for which it has no room is lost. Who has no manager has no
//! socket, and nothing is sent.

use std::convert::Infallible;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rsm::Handle;

use crate::metrics::{SILENT_MAX, standing_of};

/// Names the socket; a name that begins with @ is in the abstract namespace.
pub(crate) const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// After how long without a sign of life the process is killed, µs; and which process that is.
const WATCHDOG_VARIABLE: &str = "WATCHDOG_USEC";
const WATCHED_VARIABLE: &str = "WATCHDOG_PID";
/// Between two looks at how the member stands, at most.
const LOOK: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Between two signs of life: half of what the manager bears.
    sign_of_life: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names, if any.
    pub(crate) fn from_environment() -> Self {
        let socket = std::env::var(SOCKET_VARIABLE).ok().and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(name, %error, "the service manager is told nothing: its socket cannot be reached");
                None
            }
        });
        let number = |variable| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
        let is_watched = number(WATCHED_VARIABLE).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number(WATCHDOG_VARIABLE).filter(|us| *us > 0 && is_watched).map(Duration::from_micros);
        ServiceManager { socket, sign_of_life: watchdog.map(|after| after / 2) }
    }

    /// The member listens, and what it had stored is read.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// The member begins to stop, on request.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// The member has stopped, for this reason.
    pub(crate) fn failed(&self, line: &str) {
        self.send(&format!("STATUS={line}"));
    }

    /// Tells how the member stands whenever that changes, and gives signs of life while the replica thread does.
    pub(crate) async fn report(&self, handle: &Handle) -> Infallible {
        let mut told = String::new();
        loop {
            let status = handle.status();
            let standing = match &status.waits_for {
                None => standing_of(&status),
                Some(reason) => format!("{}; {reason}", standing_of(&status)),
            };
            if standing != told {
                self.send(&format!("STATUS={standing}"));
                told = standing;
            }
            if self.sign_of_life.is_some() && handle.silent_for() <= SILENT_MAX {
                self.send("WATCHDOG=1");
            }
            tokio::time::sleep(self.sign_of_life.map_or(LOOK, |interval| interval.min(LOOK))).await;
        }
    }

    fn send(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}

fn connect(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::Flags;

    #[test]
    fn what_is_said_arrives_at_a_socket_with_a_path() {
        let dir = tempfile::tempdir_in("/tmp").expect("a directory with a short name");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let socket = connect(path.to_str().expect("text")).expect("connected");
        ServiceManager { socket: Some(socket), sign_of_life: None }.stopping();
        let mut datagram = [0; 100];
        let size = manager.recv(&mut datagram).expect("a datagram");
        assert_eq!(&datagram[..size], b"STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    fn a_manager_that_is_gone_or_was_never_there_stops_nobody() {
        assert!(connect("/no/such/socket").is_err());
        let dir = tempfile::tempdir_in("/tmp").expect("a directory with a short name");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let socket = connect(path.to_str().expect("text")).expect("connected");
        drop(manager);
        ServiceManager { socket: Some(socket), sign_of_life: None }.ready();
        ServiceManager { socket: None, sign_of_life: None }.ready();
    }

    #[test]
    fn the_unit_starts_a_member_by_flags_that_there_are() {
        let unit = include_str!("../../contrib/systemd/plumeria.service");
        let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart")).collect();
        assert_eq!(lines.len(), 2);
        for line in lines {
            let command = line.split_once('=').expect("a command").1;
            Flags::try_parse_from(command.split(' ')).expect("right");
        }
        assert!(unit.contains("\nType=notify\n") && unit.contains("\nWatchdogSec="));
    }
}
