//! Dialling and listening, over TCP or a local socket, with TLS or without, up to the end of the hello.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::TlsStream;

use crate::tls::{Expected, Tls, bears, list, names};
use crate::{Endpoint, HELLO_TIMEOUT, Hello, HelloError, Welcome, handshake};

/// A dead host is noticed by the kernel after idle + 3 probes; sessions and heartbeats notice it sooner.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// One open stream.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// What the other side showed; none without TLS.
    certificate: Option<CertificateDer<'static>>,
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
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there, or the connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS was not agreed on: a certificate was refused, or one side does not speak it.
    #[error("{0}")]
    Tls(String),
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
    dial_with(None, endpoint, hello, timeout).await
}

/// The same, with TLS where it is given: the other side must be whom it names.
///
/// # Errors
/// See [`DialError`]; the whole takes no longer than `timeout`.
pub async fn dial_with(
    tls: Option<(&Tls, Expected)>,
    endpoint: &Endpoint,
    hello: &Hello,
    timeout: Duration,
) -> Result<(Connection, u128, u64), DialError> {
    let work = async {
        let socket = open(endpoint).await?;
        let mut connection = match tls {
            None => Connection::plain(socket),
            Some((tls, expected)) => {
                Connection::secure(handshake::connect(tls, expected, socket).await.map_err(DialError::Tls)?)
            }
        };
        match connection.greet(hello).await.map_err(told)? {
            Welcome::Accepted { cluster, member } => Ok((connection, cluster, member)),
            Welcome::Refused(reason) => Err(DialError::Refused(reason)),
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(DialError::Timeout(timeout)))
}

async fn open(endpoint: &Endpoint) -> io::Result<Socket> {
    Ok(match endpoint {
        Endpoint::Tcp(address) => Socket::Tcp(tuned(TcpStream::connect(address).await?)?),
        Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
    })
}

/// In TLS 1.3 the dialling side hears that its certificate was refused with the first bytes that it reads.
fn told(error: HelloError) -> DialError {
    match &error {
        HelloError::Io(io) => handshake::tls_reason(io).map_or(DialError::Hello(error), DialError::Tls),
        _ => DialError::Hello(error),
    }
}

impl Connection {
    /// From now on, a write of which the other side takes no byte for so long fails with [`io::ErrorKind::TimedOut`], and without a
    /// number of the system's. One that does not read keeps what it asked for in this side's memory.
    #[must_use]
    pub fn with_patience(mut self, limit: Duration) -> Self {
        self.patience = Some(Patience { limit, stalled: None });
        self
    }

    fn plain(socket: Socket) -> Self {
        Connection { stream: Stream::Plain(socket), certificate: None, patience: None }
    }

    fn secure(stream: TlsStream<Socket>) -> Self {
        let certificate = handshake::shown(&stream);
        Connection { stream: Stream::Tls(Box::new(stream)), certificate, patience: None }
    }

    /// Lets the caller show its certificate, on the listening side; to be called before anything is read. Takes no longer than
    /// [`HELLO_TIMEOUT`].
    ///
    /// # Errors
    /// One line says why the caller was refused; it was told as far as it listens.
    pub async fn secured(self, tls: &Tls) -> Result<Self, String> {
        let Stream::Plain(socket) = self.stream else { return Ok(self) };
        let handshake = tokio::time::timeout(HELLO_TIMEOUT, handshake::accept(tls, socket)).await;
        handshake.unwrap_or_else(|_| Err(format!("no TLS handshake within {HELLO_TIMEOUT:?}"))).map(Connection::secure)
    }

    async fn greet(&mut self, hello: &Hello) -> Result<Welcome, HelloError> {
        hello.write(self).await?;
        Welcome::read(self).await
    }

    /// Whether the other side showed a certificate for this name.
    pub fn bears(&self, name: &str) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| bears(certificate, name))
    }

    /// The DNS names in the certificate that the other side showed.
    pub fn names(&self) -> Vec<String> {
        self.certificate.as_ref().map(names).unwrap_or_default()
    }

    /// The same, for people.
    pub fn names_line(&self) -> String {
        list(&self.names())
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
        let socket = match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        match socket {
            Socket::Tcp(stream) => stream.peer_addr().map_or_else(|_| "(gone)".into(), |address| address.to_string()),
            Socket::Unix(_) => "(local socket)".into(),
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
            Endpoint::Tcp(address) => Bound::Tcp(TcpListener::bind(address).await?),
            Endpoint::Unix(path) => {
                if path.exists() && UnixStream::connect(path).await.is_err() {
                    std::fs::remove_file(path)?;
                }
                Bound::Unix(UnixListener::bind(path)?)
            }
        };
        Ok(Listener { socket })
    }

    /// The address that was bound (tells the port that the kernel chose for port 0); none for a local socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }

    /// The next connection; its hello is still to be read.
    ///
    /// # Errors
    /// As the kernel says (for instance: no file descriptors left); the listener stays usable.
    pub async fn accept(&self) -> io::Result<Connection> {
        Ok(Connection::plain(match &self.socket {
            Bound::Tcp(listener) => Socket::Tcp(tuned(listener.accept().await?.0)?),
            Bound::Unix(listener) => Socket::Unix(listener.accept().await?.0),
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

/// The same, or an error where nothing was taken for too long.
fn patient<T>(patience: &mut Option<Patience>, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    match patience {
        Some(patience) if poll.is_pending() => patience.poll_end(cx).map(Err),
        Some(patience) => {
            patience.stalled = None;
            poll
        }
        None => poll,
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            // Without TLS, too, a stream may end at any byte: frames have a length, and what asked is told that there was no answer.
            Stream::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                poll => poll,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Connection { stream, patience, .. } = &mut *self;
        let written = match stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        patient(patience, written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Connection { stream, patience, .. } = &mut *self;
        let flushed = match stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        // TLS keeps what was written until the other side takes it.
        match flushed.is_pending() {
            true => patient(patience, flushed, cx),
            false => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
