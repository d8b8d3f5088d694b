//! Recovery of a dead holder by a live one, after Frangipani (Thekkath, Mann, Lee, SOSP 1997, section 4): what a session had under its
//! exclusive locks, and did not flush, is made good from its log before anybody else may have those locks.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LockName, NameError};

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
