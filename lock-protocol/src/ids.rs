//! Names and numbers. Each is its own type, so that mixing them does not compile.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a lock: 1 to 255 bytes of UTF-8 without control characters; by custom a path ("orders/42").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockName(Arc<str>);

/// Why a text is no lock name; one line that says what one is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NameError {
    /// It is empty.
    #[error("a lock name has 1 to {} bytes, this one is empty", LockName::MAX_BYTES)]
    Empty,
    /// It is too long.
    #[error("a lock name has 1 to {} bytes, this one has {bytes}", LockName::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It would garble a terminal or a list.
    #[error("a lock name has no control characters, this one has one at byte {at}")]
    ControlCharacter {
        /// Where.
        at: usize,
    },
}

impl LockName {
    /// The longest name, bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks and takes a name.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        if let Some((at, _)) = name.char_indices().find(|(_, character)| character.is_control()) {
            return Err(NameError::ControlCharacter { at });
        }
        Ok(LockName(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hash and order of a name are those of its text, so maps by name can be asked with a text.
impl Borrow<str> for LockName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LockName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        LockName::new(name)
    }
}

impl From<LockName> for String {
    fn from(name: LockName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// With any number of other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

impl Mode {
    /// Whether two sessions may hold a lock in these modes at once.
    pub fn is_compatible_with(self, other: Mode) -> bool {
        self == Mode::Shared && other == Mode::Shared
    }

    /// Whether a tenure in this mode serves a user who asked for `wanted`.
    pub fn covers(self, wanted: Mode) -> bool {
        self == Mode::Exclusive || wanted == Mode::Shared
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "shared",
            Mode::Exclusive => "exclusive",
        })
    }
}

/// A session: the number of the op that opened it, so never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// A request within its session, counted from 1; the same in each retransmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestNumber(pub u64);

/// The number of the op that granted a tenure. Greater for each later tenure of the same name; below 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RequestNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_255_bytes_is_taken_and_one_of_256_refused_with_the_limit() {
        assert!(LockName::new("x".repeat(255)).is_ok());
        let error = LockName::new("x".repeat(256)).expect_err("too long");
        assert_eq!(error.to_string(), "a lock name has 1 to 255 bytes, this one has 256");
        assert_eq!(LockName::new(""), Err(NameError::Empty));
        assert_eq!(LockName::new("a\nb"), Err(NameError::ControlCharacter { at: 1 }));
    }

    #[test]
    fn only_two_shared_holders_go_together() {
        assert!(Mode::Shared.is_compatible_with(Mode::Shared));
        assert!(!Mode::Shared.is_compatible_with(Mode::Exclusive));
        assert!(!Mode::Exclusive.is_compatible_with(Mode::Exclusive));
        assert!(Mode::Exclusive.covers(Mode::Shared) && !Mode::Shared.covers(Mode::Exclusive));
    }
}
