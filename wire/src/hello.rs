//! The first frame in each direction, of a layout that never changes, so that any two versions can refuse each other in
//! words.
//!
//! ```text
//! hello    magic "PLUMERIA" | version u16 | role u8 | cluster u128 | sender u64 | secret u128      (51 bytes)
//! welcome  magic "PLUMERIA" | version u16 | code u8 | cluster u128 | member u64 | length u16 | reason
//! ```
//! All numbers are little endian. The magic and version stand first in both, and are checked before anything else.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of the messages after the hello; both ends must have the same.
pub const VERSION: u16 = 1;
/// How long either end waits for the other's first frame: one that connects and says nothing holds no socket for longer.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

const MAGIC: &[u8; 8] = b"PLUMERIA";
const HELLO_BYTES: usize = 51;
/// What a record of TLS begins with, before its version, whose first byte is 3.
const TLS_ALERT: u8 = 0x15;
const TLS_HANDSHAKE: u8 = 0x16;
const REASON_MAX_BYTES: usize = 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Another member of the cluster: its messages to us.
    Peer = 1,
    /// A client's requests.
    Client = 2,
    /// A connection on which the dialling client serves, and the server calls.
    Callback = 3,
}

/// What the dialling side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub role: Role,
    /// The cluster that the dialler belongs to or expects; 0: not known yet.
    pub cluster: u128,
    /// The dialler's member id (`Peer`), session (`Callback`), or 0.
    pub sender: u64,
    /// The dialler's incarnation (`Peer`), the nonce its session was opened with (`Callback`), or 0.
    pub secret: u128,
}

/// The listening side's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// The connection may be used.
    Accepted {
        /// The listener's cluster; 0 while it has none.
        cluster: u128,
        /// The listener's member id.
        member: u64,
    },
    /// It may not; one line says why, for a person.
    Refused(String),
}

/// Why a first frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The other side does not speak this protocol.
    #[error("the other side does not speak Plumeria's protocol")]
    NotPlumeria,
    /// It speaks TLS.
    #[error("the other side speaks TLS, this side does not: configure both alike")]
    SpeaksTls,
    /// It speaks another version.
    #[error("the other side speaks version {theirs} of the protocol, this one {VERSION}: upgrade the older of the two")]
    Version {
        /// The other side's version.
        theirs: u16,
    },
    /// It sent a role or code that does not exist.
    #[error("the other side's first frame is malformed")]
    Malformed,
    /// The connection broke or was closed first.
    #[error("the connection ended before the first frame: {0}")]
    Io(#[from] io::Error),
    /// Nothing came in time.
    #[error("no first frame within {HELLO_TIMEOUT:?}")]
    Timeout,
}

impl Hello {
    pub(crate) async fn write<W: AsyncWrite + Unpin>(&self, to: &mut W) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HELLO_BYTES);
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&VERSION.to_le_bytes());
        frame.push(self.role as u8);
        frame.extend_from_slice(&self.cluster.to_le_bytes());
        frame.extend_from_slice(&self.sender.to_le_bytes());
        frame.extend_from_slice(&self.secret.to_le_bytes());
        to.write_all(&frame).await?;
        to.flush().await
    }

    pub(crate) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Self, HelloError> {
        read_start(from).await?;
        let role = match from.read_u8().await? {
            1 => Role::Peer,
            2 => Role::Client,
            3 => Role::Callback,
            _ => return Err(HelloError::Malformed),
        };
        Ok(Hello {
            role,
            cluster: from.read_u128_le().await?,
            sender: from.read_u64_le().await?,
            secret: from.read_u128_le().await?,
        })
    }
}

impl Welcome {
    pub(crate) async fn write<W: AsyncWrite + Unpin>(&self, to: &mut W) -> io::Result<()> {
        let (code, cluster, member, reason) = match self {
            Welcome::Accepted { cluster, member } => (0u8, *cluster, *member, ""),
            Welcome::Refused(reason) => (1, 0, 0, reason.as_str()),
        };
        let mut reason = reason.as_bytes();
        reason = &reason[..reason.len().min(REASON_MAX_BYTES)];
        let mut frame = Vec::with_capacity(40 + reason.len());
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&VERSION.to_le_bytes());
        frame.push(code);
        frame.extend_from_slice(&cluster.to_le_bytes());
        frame.extend_from_slice(&member.to_le_bytes());
        frame.extend_from_slice(&(reason.len() as u16).to_le_bytes());
        frame.extend_from_slice(reason);
        to.write_all(&frame).await?;
        to.flush().await
    }

    pub(crate) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Self, HelloError> {
        read_start(from).await?;
        let code = from.read_u8().await?;
        let cluster = from.read_u128_le().await?;
        let member = from.read_u64_le().await?;
        let length = usize::from(from.read_u16_le().await?);
        if length > REASON_MAX_BYTES {
            return Err(HelloError::Malformed);
        }
        let mut reason = vec![0; length];
        from.read_exact(&mut reason).await?;
        match code {
            0 => Ok(Welcome::Accepted { cluster, member }),
            1 => Ok(Welcome::Refused(String::from_utf8_lossy(&reason).into_owned())),
            _ => Err(HelloError::Malformed),
        }
    }
}

async fn read_start<R: AsyncRead + Unpin>(from: &mut R) -> Result<(), HelloError> {
    let mut magic = [0; 8];
    // An alert of TLS has less than eight bytes.
    let (first, rest) = magic.split_at_mut(2);
    from.read_exact(first).await?;
    if matches!(first, [TLS_ALERT | TLS_HANDSHAKE, 3]) {
        return Err(HelloError::SpeaksTls);
    }
    from.read_exact(rest).await?;
    if &magic != MAGIC {
        return Err(HelloError::NotPlumeria);
    }
    let theirs = from.read_u16_le().await?;
    if theirs == VERSION { Ok(()) } else { Err(HelloError::Version { theirs }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn a_hello_arrives_as_it_was_sent() {
        runtime().block_on(async {
            let (mut a, mut b) = tokio::io::duplex(256);
            let hello = Hello { role: Role::Callback, cluster: 7 << 100, sender: 42, secret: u128::MAX };
            hello.write(&mut a).await.expect("written");
            assert_eq!(Hello::read(&mut b).await.expect("read"), hello);
            for welcome in [Welcome::Accepted { cluster: 9, member: 3 }, Welcome::Refused("wrong cluster".into())] {
                welcome.write(&mut b).await.expect("written");
                assert_eq!(Welcome::read(&mut a).await.expect("read"), welcome);
            }
        });
    }

    #[test]
    fn another_protocol_and_another_version_are_told_apart() {
        runtime().block_on(async {
            let mut http: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n0123456789012345678901234567890123456789";
            assert!(matches!(Hello::read(&mut http).await, Err(HelloError::NotPlumeria)));
            let mut old = MAGIC.to_vec();
            old.extend_from_slice(&[9; 43]);
            assert!(matches!(Hello::read(&mut &old[..]).await, Err(HelloError::Version { theirs: 0x0909 })));
        });
    }
}
