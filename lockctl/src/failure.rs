//! What went wrong, as one line for a person and an exit status for a script.

use std::fmt;
use std::time::Duration;

use lock_client::{AcquireError, CloseError, ConnectError, QueryError};

/// Exit statuses of `lockctl`. `run` otherwise ends as its command did: its own status, or 128 and the signal's number.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// Nobody holds the lock with that token.
    pub const NOT_HELD: u8 = 1;
    /// What was typed is wrong.
    pub const USAGE: u8 = 2;
    /// No cluster answered (EX_UNAVAILABLE of sysexits).
    pub const UNAVAILABLE: u8 = 69;
    /// Something of the machine itself failed (EX_OSERR).
    pub const SYSTEM: u8 = 71;
    /// The lock was not had in time (EX_TEMPFAIL).
    pub const NOT_HAD: u8 = 75;
    /// The lock was lost, and the command ended for it.
    pub const LOST: u8 = 76;
    /// The rules of access do not let this client do it (EX_NOPERM).
    pub const DENIED: u8 = 77;
    /// The command is there, but cannot be executed; as shells do.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// There is no such command; as shells do.
    pub const NOT_FOUND: u8 = 127;
    /// What a shell adds to the number of the signal that ended a command.
    pub const SIGNAL: u8 = 128;
}

/// An exit status, and one line that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn new(exit: u8, line: impl fmt::Display) -> Self {
        Failure { exit, line: one_line(&line.to_string()) }
    }

    pub(crate) fn usage(line: impl fmt::Display) -> Self {
        Failure::new(exit::USAGE, line)
    }

    pub(crate) fn system(line: impl fmt::Display) -> Self {
        Failure::new(exit::SYSTEM, line)
    }

    /// A signal ended it before there was a command.
    pub(crate) fn signal(number: i32) -> Self {
        let exit = u8::try_from(number).ok().and_then(|number| number.checked_add(exit::SIGNAL)).unwrap_or(u8::MAX);
        Failure::new(exit, format!("ended by signal {number} before the lock was had"))
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Endpoint(error) => Failure::usage(error),
            ConnectError::NoEndpoint => Failure::usage("no endpoint was given: --endpoints HOST:PORT,HOST:PORT"),
            ConnectError::NoPrimary { waited, tried } => {
                let tried: Vec<_> = tried.iter().map(|tried| format!("{}: {}", tried.endpoint, tried.answer)).collect();
                Failure::new(exit::UNAVAILABLE, no_cluster("no primary opened a session", waited, &tried))
            }
            ConnectError::Refused(tried) => Failure::new(exit::UNAVAILABLE, tried),
            ConnectError::Group(_) => Failure::usage(error),
            ConnectError::Thread(_) | ConnectError::ThreadEnded => Failure::system(error),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Name(error) => Failure::usage(error),
            QueryError::Denied(_) => Failure::new(exit::DENIED, error),
            QueryError::NoPrimary { .. } | QueryError::Refused(_) | QueryError::Closed => {
                Failure::new(exit::UNAVAILABLE, format!("{error}; 'lockctl status' shows what the cluster waits for"))
            }
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Name(error) => Failure::usage(error),
            AcquireError::Set(error) => Failure::usage(error),
            AcquireError::Timeout { .. } | AcquireError::Limit(_) => Failure::new(exit::NOT_HAD, error),
            AcquireError::Denied(_) => Failure::new(exit::DENIED, error),
            AcquireError::SessionLost | AcquireError::Closed => Failure::new(exit::UNAVAILABLE, error),
        }
    }
}

impl From<CloseError> for Failure {
    fn from(error: CloseError) -> Self {
        Failure::new(exit::UNAVAILABLE, error)
    }
}

/// The line for a cluster that does not answer: how long it was tried, what each endpoint said, what to do.
pub(crate) fn no_cluster(what: &str, waited: Duration, tried: &[String]) -> String {
    format!(
        "{what} within {} ({}); is the cluster running? Other endpoints are named with --endpoints or LOCK_ENDPOINTS; \
         --connect-timeout looks for longer",
        seconds(waited),
        tried.join("; ")
    )
}

/// "0.3 s", "12.0 s".
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Text of others (names, answers, arguments) on one line, without what would drive a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_trouble_has_the_exit_status_that_the_help_promises() {
        let timeout = AcquireError::Timeout { waited: Duration::from_secs(1), reason: "others hold it" };
        assert_eq!(Failure::from(timeout).exit, 75);
        assert_eq!(Failure::from(AcquireError::Limit("full".into())).exit, 75);
        assert_eq!(Failure::from(AcquireError::Denied("client a may not".into())).exit, 77);
        assert_eq!(Failure::from(QueryError::Denied("client a may not".into())).exit, 77);
        assert_eq!(Failure::from(AcquireError::SessionLost).exit, 69);
        assert_eq!(Failure::from(ConnectError::NoEndpoint).exit, 2);
        assert_eq!(Failure::from(QueryError::Closed).exit, 69);
        let nobody = ConnectError::NoPrimary { waited: Duration::from_secs(5), tried: vec![] };
        assert_eq!(Failure::from(nobody).exit, 69);
        assert_eq!(Failure::signal(15).exit, 143);
    }

    #[test]
    fn a_line_cannot_drive_a_terminal_or_become_two() {
        assert_eq!(Failure::usage("a\nb \u{1b}[2Jc\r").line, "a b [2Jc");
    }
}
