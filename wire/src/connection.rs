//! Dialling and listening, over TCP or a local socket, up to the end of the hello.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Sleep;

use crate::{Endpoint, HELLO_TIMEOUT, Hello, HelloError, Welcome};

/// A dead host is noticed by the kernel after idle + 3 probes; sessions and heartbeats notice it sooner.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// One open stream.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    patience: Option<Patience>,
}

/// How long the other side may take nothing of what is written.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    /// Since when it takes nothing, and for how much longer it may.
    stalled: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there, or the connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side's first frame was not right.
    #[error("{0}")]
    Hello(#[from] HelloError),
    /// The other side refused, in its own words.
    #[error("refused: {0}")]
    Refused(String),
    /// It took longer than the caller was willing to wait.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl DialError {
    /// True where the kernel of a live host said at once that nobody listens: the process is gone, not merely slow.
    pub fn is_connection_refused(&self) -> bool {
        matches!(self, DialError::Io(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
    }
}

/// Connects, says hello, and waits for the welcome; returns the listener's cluster and member id with the connection.
///
/// # Errors
/// See [`DialError`]; the whole takes no longer than `timeout`.
pub async fn dial(endpoint: &Endpoint, hello: &Hello, timeout: Duration) -> Result<(Connection, u128, u64), DialError> {
    let work = async {
        let mut connection = Connection::open(endpoint).await?;
        hello.write(&mut connection).await?;
        match Welcome::read(&mut connection).await? {
            Welcome::Accepted { cluster, member } => Ok((connection, cluster, member)),
            Welcome::Refused(reason) => Err(DialError::Refused(reason)),
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(DialError::Timeout(timeout)))
}

impl Connection {
    fn new(stream: Stream) -> Self {
        Connection { stream, patience: None }
    }

    /// From now on, a write of which the other side takes no byte for so long fails with [`io::ErrorKind::TimedOut`], and without a
    /// number of the system's. One that does not read keeps what it asked for in this side's memory.
    #[must_use]
    pub fn with_patience(mut self, limit: Duration) -> Self {
        self.patience = Some(Patience { limit, stalled: None });
        self
    }

    async fn open(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(Connection::new(match endpoint {
            Endpoint::Tcp(address) => Stream::Tcp(tuned(TcpStream::connect(address).await?)?),
            Endpoint::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        }))
    }

    /// The dialler's hello, on the listening side.
    ///
    /// # Errors
    /// See [`HelloError`]; takes no longer than [`HELLO_TIMEOUT`].
    pub async fn read_hello(&mut self) -> Result<Hello, HelloError> {
        tokio::time::timeout(HELLO_TIMEOUT, Hello::read(self)).await.unwrap_or(Err(HelloError::Timeout))
    }

    /// Answers the hello.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn welcome(&mut self, welcome: &Welcome) -> io::Result<()> {
        welcome.write(self).await
    }

    /// The other end, for logs.
    pub fn peer(&self) -> String {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().map_or_else(|_| "(gone)".into(), |address| address.to_string()),
            Stream::Unix(_) => "(local socket)".into(),
        }
    }
}

impl Listener {
    /// Binds. A local socket's file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// As the kernel says; `AddrInUse` where somebody listens there.
    pub async fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        let socket = match endpoint {
            Endpoint::Tcp(address) => Socket::Tcp(TcpListener::bind(address).await?),
            Endpoint::Unix(path) => {
                if path.exists() && UnixStream::connect(path).await.is_err() {
                    std::fs::remove_file(path)?;
                }
                Socket::Unix(UnixListener::bind(path)?)
            }
        };
        Ok(Listener { socket })
    }

    /// The address that was bound (tells the port that the kernel chose for port 0); none for a local socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// The next connection; its hello is still to be read.
    ///
    /// # Errors
    /// As the kernel says (for instance: no file descriptors left); the listener stays usable.
    pub async fn accept(&self) -> io::Result<Connection> {
        Ok(Connection::new(match &self.socket {
            Socket::Tcp(listener) => Stream::Tcp(tuned(listener.accept().await?.0)?),
            Socket::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        }))
    }
}

fn tuned(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl Patience {
    /// Ready when nothing was taken for too long.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        stalled.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, "the other side does not read"))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        match &mut self.patience {
            Some(patience) if written.is_pending() => patience.poll_end(cx).map(Err),
            Some(patience) => {
                patience.stalled = None;
                written
            }
            None => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
