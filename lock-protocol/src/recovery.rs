//! Recovery of a dead holder by a live one, after Frangipani (Thekkath, Mann, Lee, SOSP 1997, section 4): what a session had under its
//! exclusive locks, and did not flush, is made good from its log before anybody else may have those locks.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ClientIdentity, LockName, NameError, SessionId};

/// The name of a group of sessions that can recover each other: what a [`LockName`] may be ("volume-7").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupName(LockName);

impl GroupName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        LockName::new(name).map(GroupName)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session's place in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryGroup {
    /// The group, whose dead this session can be asked to recover.
    pub name: GroupName,
    /// If this session dies, its exclusive locks stay held until one of the group has recovered what it left.
    pub required: bool,
}

/// The number of the op that assigned the recovery of a dead session: the exclusive right to its log, until another is assigned.
/// The greater one is the newer one; below 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecoveryToken(pub u64);

impl fmt::Display for RecoveryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session that is dead, and that whoever is told of it is to recover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadSession {
    /// Which.
    pub session: SessionId,
    /// The right to recover it.
    pub token: RecoveryToken,
    /// Its group.
    pub group: GroupName,
    /// Who it was.
    pub identity: ClientIdentity,
}

/// What a session says about a recovery that was assigned to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// Who says it.
    pub session: SessionId,
    /// The dead one.
    pub dead: SessionId,
    /// As it was assigned.
    pub token: RecoveryToken,
    /// What.
    pub step: RecoveryStep,
}

/// How far a recovery has come. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryStep {
    /// It goes on. Without a word for [`RECOVERY_TIMEOUT`] it is assigned anew.
    Progress,
    /// All is made good, durably: the locks are free.
    Recovered,
    /// This session cannot do it: it is assigned to the next.
    Declined,
}

/// The answer to a report. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryAnswer {
    /// Taken in.
    Accepted,
    /// This recovery is not, or no longer, assigned to this session under this token: whoever does it must stop.
    NotAssigned,
}

/// A recovery of which nothing was heard for so long, in service time, is assigned anew; and for so long nobody is asked after all of
/// a group have declined.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The most recoveries in one reply to a keep-alive.
pub const RECOVERIES_MAX: usize = 16;

/// A recovery that is not done, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovering {
    /// Whose group.
    pub group: GroupName,
    /// Who recovers; none where the group has no live session, or all have declined and are asked again later.
    pub by: Option<Recoverer>,
}

/// Who recovers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recoverer {
    /// Its session.
    pub session: SessionId,
    /// Its right to do so.
    pub token: RecoveryToken,
    /// Without a word for so long it is assigned anew, in service time, ms.
    pub patience_ms: u64,
}
