//! What was done to a lock, what was answered, and a file of it: one JSON object a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, Write};

use lock_protocol::Mode;
use serde::{Deserialize, Serialize};

/// What is done to a lock, or to a session and all its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Take it; waiting or trying differ in the answers only. Answers: `Granted`, `Busy`, `Withdrawn`.
    Acquire {
        /// How.
        mode: Mode,
    },
    /// Give the tenure back; of a user: drop the guard. Answers: `Done`, `NotHeld`.
    Release {
        /// Of the tenure.
        token: u64,
    },
    /// Turn an exclusive tenure into a shared one, in the service's view. Answers: `Done`, `NotHeld`.
    Downgrade {
        /// Of the tenure.
        token: u64,
    },
    /// The session ends. Called when its client stopped to count on it. Answer: `Done`, when it was certain.
    Expire,
    /// An operator ends a tenure. The holder's guards die first, unless `now`. Answers: `Done`, `NotHeld`.
    ForceRelease {
        /// Of the tenure.
        token: u64,
        /// Without waiting for the holder: its guards may believe for a while that they are valid.
        now: bool,
    },
    /// Look who holds it. Answer: `Holders`.
    Inspect,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The lock is had.
    Granted {
        /// Of the tenure.
        token: u64,
    },
    /// Somebody else has it; nothing was done.
    Busy,
    /// Not granted, for whatever reason (a timeout, a cancel, a refusal), and never will be.
    Withdrawn,
    /// Done.
    Done,
    /// There is no such tenure; nothing was done.
    NotHeld,
    /// Who holds it: sessions with token and mode.
    Holders(Vec<(u64, u64, Mode)>),
}

/// One operation. Times are of any one clock that all who record share; a counter will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Whose; 0 for an operator without a session.
    pub session: u64,
    /// What was asked for.
    pub action: Action,
    /// When it was called.
    pub called: u64,
    /// When it returned, and with what; `None` if its outcome is unknown. What returns at the very time at which another
    /// is called counts as concurrent with it.
    pub returned: Option<(u64, Answer)>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { session, action, called, returned } = self;
        match returned {
            Some((returned, answer)) => write!(f, "{called}..{returned} session {session} {action:?} = {answer:?}"),
            None => write!(f, "{called}.. session {session} {action:?} = unknown"),
        }
    }
}

/// A line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// None: the session's end, for each lock that it had to do with.
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<String>,
    #[serde(flatten)]
    operation: Operation,
}

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line is wrong.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// For a person.
        reason: String,
    },
}

/// Operations by lock, in no order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    locks: BTreeMap<String, Vec<Operation>>,
    /// Ends of sessions.
    ends: Vec<Operation>,
}

impl History {
    /// Adds an operation on a lock.
    ///
    /// # Panics
    /// It returned before it was called, or is the end of a session: the one who keeps the history is wrong.
    pub fn add(&mut self, lock: impl Into<String>, operation: Operation) {
        if let Err(reason) = self.try_add(Some(lock.into()), operation) {
            panic!("{reason}");
        }
    }

    /// Adds the end of a session: its client stopped to count on it at `called`, and it was certain at `returned`.
    ///
    /// # Panics
    /// As [`History::add`].
    pub fn add_end(&mut self, session: u64, called: u64, returned: Option<u64>) {
        let returned = returned.map(|returned| (returned, Answer::Done));
        if let Err(reason) = self.try_add(None, Operation { session, action: Action::Expire, called, returned }) {
            panic!("{reason}");
        }
    }

    fn try_add(&mut self, lock: Option<String>, operation: Operation) -> Result<(), String> {
        if operation.returned.as_ref().is_some_and(|(returned, _)| *returned < operation.called) {
            return Err(format!("it returned before it was called: {operation}"));
        }
        match (lock, operation.action) {
            (None, Action::Expire) => self.ends.push(operation),
            (Some(lock), action) if action != Action::Expire => self.locks.entry(lock).or_default().push(operation),
            _ => return Err(format!("a session ends, and all else is done to a lock: {operation}")),
        }
        Ok(())
    }

    /// Puts another history in, of the same clock.
    pub fn merge(&mut self, other: History) {
        for (lock, operations) in other.locks {
            self.locks.entry(lock).or_default().extend(operations);
        }
        self.ends.extend(other.ends);
    }

    /// How many operations there are; the end of a session is one.
    pub fn len(&self) -> usize {
        self.locks.values().map(Vec::len).sum::<usize>() + self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each lock with its operations, and the ends of the sessions that had to do with it.
    pub fn locks(&self) -> impl Iterator<Item = (&str, Vec<&Operation>)> {
        self.locks.iter().map(|(name, operations)| {
            let sessions: BTreeSet<u64> = operations.iter().map(|operation| operation.session).collect();
            let ends = self.ends.iter().filter(|end| sessions.contains(&end.session));
            (name.as_str(), operations.iter().chain(ends).collect())
        })
    }

    /// Writes it, one operation a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let on_locks = self.locks.iter().flat_map(|(name, all)| all.iter().map(move |one| (Some(name), one)));
        for (lock, operation) in on_locks.chain(self.ends.iter().map(|end| (None, end))) {
            let line = Line { lock: lock.cloned(), operation: operation.clone() };
            serde_json::to_writer(&mut *to, &line)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }

    /// Reads what [`History::write`] wrote; histories of several processes may follow each other.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn read(from: impl BufRead) -> Result<History, FormatError> {
        let mut history = History::default();
        for (at, text) in from.lines().enumerate() {
            let wrong = |reason: String| FormatError::Line { line: at + 1, reason };
            let line: Line = serde_json::from_str(&text?).map_err(|error| wrong(error.to_string()))?;
            history.try_add(line.lock, line.operation).map_err(wrong)?;
        }
        Ok(history)
    }
}
