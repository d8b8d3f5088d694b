//! The handshake of TLS, on both sides, and what its errors say to people.
//!
//! Why it is right: a handshake has a deadline, and until it is over nothing of the other side's is read as Plumeria's. One that is refused
//! is told why by an alert; the refusing side then reads on for a moment, because a socket that is closed over unread bytes
//! resets the connection, and the reset overtakes the alert.

use std::io;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::tls::{Expected, Tls};

/// How long, and for how many bytes, a refused caller is read on.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_MAX_BYTES: u64 = 64 << 10;

/// The listening side's. On an error, one line says what is wrong with the caller.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(tls: &Tls, stream: S) -> Result<TlsStream<S>, String> {
    match TlsAcceptor::from(tls.sides().server).accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream.into()),
        Err((error, mut stream)) => {
            let linger = async {
                stream.shutdown().await?;
                tokio::io::copy(&mut stream.take(LINGER_MAX_BYTES), &mut tokio::io::sink()).await
            };
            // The caller is refused whether it hears why or not.
            drop(tokio::time::timeout(LINGER, linger).await);
            Err(reason(&error, "the caller's certificate"))
        }
    }
}

/// The dialling side's. On an error, one line says what is wrong with the other side.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &Tls,
    expected: Expected,
    stream: S,
) -> Result<TlsStream<S>, String> {
    tls.refresh();
    let name = tls.expected_name(expected).map_err(|error| error.to_string())?;
    let client = tls.sides().client;
    match TlsConnector::from(client).connect(name, stream).await {
        Ok(stream) => Ok(stream.into()),
        Err(error) => Err(reason(&error, "the other side's certificate")),
    }
}

/// The certificate that the other side showed.
pub(crate) fn shown<S>(stream: &TlsStream<S>) -> Option<CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates()?.first().map(|certificate| certificate.clone().into_owned())
}

/// The error of a TLS stream in words, if TLS has to do with it.
pub(crate) fn tls_reason(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(|error| words(error, "the other side's certificate"))
}

fn reason(error: &io::Error, whose: &str) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => words(error, whose),
        None => format!("the connection ended within the TLS handshake ({error}): does the other side speak TLS?"),
    }
}

/// One line for people; `whose` is the certificate that was looked at.
pub(crate) fn words(error: &Error, whose: &str) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the other side does not speak TLS, this side speaks nothing else".into()
        }
        Error::NoCertificatesPresented => "the other side shows no certificate".into(),
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("{whose} is not of a CA that is believed here")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!("{whose} has expired"),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("{whose} is not valid yet: compare the clocks")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                format!("{whose} is not for this use: a client's cannot serve")
            }
            CertificateError::NotValidForName => format!("{whose} is not that of the member dialled"),
            CertificateError::NotValidForNameContext { expected, presented } => {
                format!("{whose} is not for {}, but for {}", expected.to_str(), presented.join(", "))
            }
            other => format!("{whose} is not valid: {other}"),
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "the other side asks for a certificate".into(),
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "the other side refused this one's certificate: it is not of a CA that it believes".into()
            }
            AlertDescription::CertificateExpired => {
                "the other side refused this one's certificate: it has expired".into()
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked => {
                format!("the other side refused this one's certificate ({alert:?})")
            }
            other => format!("the other side ended the TLS handshake: {other:?}"),
        },
        other => format!("TLS: {other}"),
    }
}
