//! Ops as they stand in the log, and the replies to them.
//!
//! Both are a format version byte and one postcard value. Logs and snapshots outlive a release, so the enums are
//! append-only: a variant's number is its place, and golden bytes in the tests hold them to it. Bytes that do not decode to
//! their last byte are refused as a whole: a half-understood op must not be half executed.

use lock_protocol::{
    Answer, FencingToken, ForceRelease, ForcedTenure, LockName, Open, OpenWith, Opened, Outcome, Query, RecoveryAnswer,
    RecoveryReport, Request, RequestNumber, SessionEnd, SessionId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version byte before each op and reply.
const FORMAT: u8 = 1;

/// A command in the replicated log. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Opens a session, or finds the one that the nonce opened. Reply: `Opened` or `Busy`.
    Open(Open),
    /// Executes a session's request once. Reply: `Outcome`.
    Request {
        /// Whose.
        session: SessionId,
        /// The client's floor when it sent the request.
        floor: RequestNumber,
        /// What.
        request: Request,
    },
    /// Advances service time, then renews leases. Reply: `Ticked`.
    Tick {
        /// Real time since the last tick's clock reading, µs; the clock is read after the last keep-alive was taken in.
        elapsed_us: u64,
        /// The sessions that are to be renewed, with their floors.
        keep_alives: Vec<(SessionId, RequestNumber)>,
    },
    /// Cleans up behind dead sessions. Reply: `Swept`.
    Sweep,
    /// Ends a session. Reply: `Closed`, also where it was gone; `Refused` where it must say more.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Reads. Reply: `Answer`.
    Read(Query),
    /// Ends a tenure by force. Reply: `Forced`, `Busy`, or `Refused` where a dead session keeps it.
    ForceRelease(ForceRelease),
    /// As `Open`, with options.
    OpenWith(OpenWith),
    /// Ends a session, as its client says. Reply: `Closed`, also where it was gone.
    End {
        /// Which.
        session: SessionId,
        /// How.
        end: SessionEnd,
    },
    /// What a session says about a recovery that was assigned to it. Reply: `Recovery` or `SessionGone`.
    Recovery(RecoveryReport),
    /// Frees a lock that a dead session keeps, whatever it waits for. Reply: `Forced`.
    ForceKept {
        /// The lock.
        name: LockName,
        /// The tenure.
        token: FencingToken,
    },
}

/// What an op is answered. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Open` and `OpenWith`.
    Opened(Opened),
    /// To those that open a session, and to `ForceRelease`: a limit on sessions is reached; nothing was executed.
    Busy(String),
    /// To `Request`.
    Outcome(Outcome),
    /// To `Tick`: every session that it named was renewed, but these. None of them was to be told of force.
    Ticked {
        /// Named, but dead or unknown; in the order in which they were named.
        gone: Vec<SessionId>,
        /// How many sessions this tick ended.
        expired: u64,
    },
    /// To `Sweep`.
    Swept {
        /// Another is needed.
        more: bool,
    },
    /// To `Close` and `End`.
    Closed,
    /// To `Read`.
    Answer(Answer),
    /// The bytes are no op that this release knows; nothing was executed.
    Malformed,
    /// The op number was executed before; nothing was executed.
    Replayed,
    /// To `ForceRelease` and `ForceKept`: the tenures that are ended; none where nobody holds the lock with that token.
    Forced(Vec<ForcedTenure>),
    /// To `Tick`, as `Ticked`, where sessions are to be told of force.
    TickedForced {
        /// As in `Ticked`.
        gone: Vec<SessionId>,
        /// As in `Ticked`.
        expired: u64,
        /// Renewed, but to be answered only together with the notices of what was ended by force; ascending.
        forced: Vec<SessionId>,
    },
    /// Not executed; why, for a person.
    Refused(String),
    /// To `Recovery`.
    Recovery(RecoveryAnswer),
    /// To `Recovery`: who asks is dead or unknown.
    SessionGone,
}

/// Bytes that are no op or reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Written by another release.
    #[error("format version {found}, this release reads {FORMAT}")]
    Version {
        /// Its version byte.
        found: u8,
    },
    /// Empty, cut short, or with something behind its end.
    #[error("the bytes are cut short, damaged, or of a later release")]
    Damaged,
}

impl Op {
    /// The op's bytes in the log.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The op of these bytes. Allocates no more than a small multiple of their number, and a megabyte.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(bytes)
    }
}

impl Reply {
    /// The reply's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The reply of these bytes.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(bytes)
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(FORMAT);
    postcard::to_extend(value, bytes).expect("postcard fails only on types of unknown length, and these have none")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            _ => Err(FormatError::Damaged),
        },
        Some((&found, _)) => Err(FormatError::Version { found }),
        None => Err(FormatError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_protocol::{
        ClientIdentity, Command, GroupName, LockSet, Mode, RecoveryGroup, RecoveryStep, RecoveryToken, SessionOptions,
    };

    fn release() -> Op {
        let command = Command::Release {
            name: LockName::new("a/b").expect("a name"),
            token: FencingToken(300),
            requeue: Some(Mode::Exclusive),
        };
        let request = Request { number: RequestNumber(5), command };
        Op::Request { session: SessionId(7), floor: RequestNumber(4), request }
    }

    #[test]
    fn the_bytes_of_a_logged_op_never_change() {
        let bytes = [1, 1, 7, 4, 5, 2, 3, b'a', b'/', b'b', 0xac, 2, 1, 1];
        assert_eq!(release().encode(), bytes);
        assert_eq!(Op::decode(&bytes), Ok(release()));
        assert_eq!(Op::Tick { elapsed_us: 1, keep_alives: vec![] }.encode(), [1, 2, 1, 0]);
        assert_eq!(Op::Sweep.encode(), [1, 3]);
        assert_eq!(Op::Close { session: SessionId(9) }.encode(), [1, 4, 9]);
        assert_eq!(Op::Read(Query::Locks { prefix: "p".into(), after: None, limit: 2 }).encode()[..2], [1, 5]);
        assert_eq!(Reply::Closed.encode(), [1, 5]);
        assert_eq!(Reply::Malformed.encode(), [1, 7]);
        assert_eq!(Reply::Replayed.encode(), [1, 8]);
        assert_eq!(Reply::Outcome(Outcome::BelowFloor).encode(), [1, 2, 9]);
        let name = LockName::new("a").expect("a name");
        let command = Command::Upgrade { name: name.clone(), token: FencingToken(300) };
        let request = Request { number: RequestNumber(5), command };
        let upgrade = Op::Request { session: SessionId(7), floor: RequestNumber(4), request };
        assert_eq!(upgrade.encode(), [1, 1, 7, 4, 5, 4, 1, b'a', 0xac, 2]);
        assert_eq!(Reply::Outcome(Outcome::Upgraded { token: FencingToken(300) }).encode(), [1, 2, 11, 0xac, 2]);
        assert_eq!(Reply::Outcome(Outcome::NotUpgraded).encode(), [1, 2, 12]);
        let set = LockSet::new([(name.clone(), Mode::Exclusive)]).expect("one lock");
        let request = Request { number: RequestNumber(5), command: Command::AcquireAll { set } };
        let all = Op::Request { session: SessionId(7), floor: RequestNumber(4), request };
        assert_eq!(all.encode(), [1, 1, 7, 4, 5, 5, 1, 1, b'a', 1]);
        assert_eq!(Op::decode(&[1, 1, 7, 4, 5, 5, 0]), Err(FormatError::Damaged), "a set of none");
        let force = Op::ForceRelease(ForceRelease { name, token: FencingToken(300), now: true });
        assert_eq!(force.encode(), [1, 6, 1, b'a', 0xac, 2, 1]);
        let forced = Reply::Forced(vec![ForcedTenure { session: SessionId(9), withheld_ms: Some(7) }]);
        assert_eq!(forced.encode(), [1, 9, 1, 9, 1, 7]);
        assert_eq!(
            Reply::TickedForced { gone: vec![], expired: 2, forced: vec![SessionId(9)] }.encode(),
            [1, 10, 0, 2, 1, 9]
        );
    }

    #[test]
    fn the_bytes_of_a_logged_open_with_options_never_change() {
        let open = Open { nonce: 1, lease_ms: 500, identity: ClientIdentity::default() };
        assert_eq!(Op::Open(open.clone()).encode(), [1, 0, 1, 0xf4, 3, 0, 0, 0]);
        let group = RecoveryGroup { name: GroupName::new("v").expect("a name"), required: true };
        let options = SessionOptions { lock_delay_ms: 300, recovery: Some(group) };
        let bytes = [1, 7, 1, 0xf4, 3, 0, 0, 0, 0xac, 2, 1, 1, b'v', 1];
        assert_eq!(Op::OpenWith(OpenWith { open, options }).encode(), bytes);
        assert_eq!(Op::End { session: SessionId(9), end: SessionEnd::Flushed }.encode(), [1, 8, 9, 0]);
        assert_eq!(Op::End { session: SessionId(9), end: SessionEnd::Abandoned }.encode(), [1, 8, 9, 1]);
        let (session, dead, token) = (SessionId(9), SessionId(7), RecoveryToken(300));
        let report = |step| Op::Recovery(RecoveryReport { session, dead, token, step }).encode();
        assert_eq!(report(RecoveryStep::Progress), [1, 9, 9, 7, 0xac, 2, 0]);
        assert_eq!(report(RecoveryStep::Recovered)[6], 1);
        assert_eq!(report(RecoveryStep::Declined)[6], 2);
        let name = LockName::new("a").expect("a name");
        assert_eq!(Op::ForceKept { name, token: FencingToken(300) }.encode(), [1, 10, 1, b'a', 0xac, 2]);
        assert_eq!(Reply::Refused("no".into()).encode(), [1, 11, 2, b'n', b'o']);
        assert_eq!(Reply::Recovery(RecoveryAnswer::Accepted).encode(), [1, 12, 0]);
        assert_eq!(Reply::Recovery(RecoveryAnswer::NotAssigned).encode(), [1, 12, 1]);
        assert_eq!(Reply::SessionGone.encode(), [1, 13]);
    }

    #[test]
    fn cut_extended_and_foreign_bytes_are_refused() {
        let bytes = release().encode();
        for length in 0..bytes.len() {
            assert!(Op::decode(&bytes[..length]).is_err());
        }
        assert_eq!(Op::decode(&[bytes.clone(), vec![0]].concat()), Err(FormatError::Damaged));
        assert_eq!(Op::decode(&[2, 3]), Err(FormatError::Version { found: 2 }));
    }

    #[test]
    fn a_name_with_a_control_character_does_not_decode() {
        let mut bytes = release().encode();
        bytes[8] = b'\n';
        assert_eq!(Op::decode(&bytes), Err(FormatError::Damaged));
    }
}
