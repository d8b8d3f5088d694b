//! Mutual TLS: who this process is, and whom it believes.
//!
//! Each process has a certificate of one authority (CA), and each side of a connection checks the other's. A member's certificate bears the
//! DNS names `member-ID.CLUSTER` and `member.CLUSTER`: a client dials whatever member it was told of, and asks for the second; a member
//! dials one member, and asks for the first, and takes a connection as that member's only if the certificate bears it. So a certificate
//! says a place in a cluster, as in Consul and Nomad (`server.dc1.consul`), not a host: members move to other addresses, and what must
//! be proved is "this is member 2", not "this is 10.0.0.2". A client's certificate bears the client's own names, and for its use only
//! "client": it can neither serve nor speak as a member.
//!
//! Why it is right: rustls and webpki do all checking of chains, dates, uses and names; TLS 1.3 alone is spoken, and no session is
//! resumed, so that each connection shows its certificate anew. What is read is checked as the other side will check it before it counts,
//! so files that are damaged, half replaced or expired never take the place of those that work.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::EndEntityCert;

use crate::handshake::words;

/// A longer file holds no certificates.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Where a process's certificate is, and what it must be for; all files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This process's certificate, then those between it and the CA's, if any.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates of the authorities that are believed.
    pub authority: PathBuf,
    /// The cluster's name, which the members' certificates bear.
    pub cluster: String,
}

/// What is wrong with the files; one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("{}: {error}: correct the path, or who may read it", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// One does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The name cannot stand in a certificate.
    #[error(
        "the cluster's name '{0}' cannot stand in a certificate: with TLS it is to be letters, digits, '-' and '.'"
    )]
    Cluster(String),
}

/// A process's certificate and whom it believes, as last read. Clones are the same.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    /// Whose certificate it must be; none: any client's.
    member: Option<u64>,
    sides: RwLock<Sides>,
    /// The files when they were last looked at, whether they were right or not.
    looked_at: Mutex<[Stamp; 3]>,
}

/// For the listening and for the dialling side.
#[derive(Clone)]
pub(crate) struct Sides {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

/// Who is expected at the other end of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This member.
    Member(u64),
    /// Whichever member it is.
    AnyMember,
}

/// Tells a file from its successor; none where it cannot be looked at.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Tls {
    /// Reads a client's certificate.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn client(files: TlsFiles) -> Result<Tls, TlsError> {
        Tls::read(files, None)
    }

    /// Reads the certificate of this member, which must bear its names.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn member(files: TlsFiles, member: u64) -> Result<Tls, TlsError> {
        Tls::read(files, Some(member))
    }

    fn read(files: TlsFiles, member: Option<u64>) -> Result<Tls, TlsError> {
        let looked_at = Mutex::new(files.stamps());
        let sides = RwLock::new(files.read(member)?);
        Ok(Tls(Arc::new(Inner { files, member, sides, looked_at })))
    }

    /// Reads the files again if one of them changed since they were last looked at. Files that are wrong are left alone, and one line is
    /// logged; what was read before stays in force. Connections that are open stay as they are.
    pub fn refresh(&self) {
        let stamps = self.0.files.stamps();
        let changed = *self.0.looked_at.lock() != stamps;
        if changed {
            self.read_again();
        }
    }

    /// The same, whether they changed or not.
    pub fn read_again(&self) {
        let Inner { files, member, sides, looked_at } = &*self.0;
        // Before the reading: what changes meanwhile is read once more.
        *looked_at.lock() = files.stamps();
        match files.read(*member) {
            Ok(read) => {
                *sides.write() = read;
                tracing::info!(certificate = %files.certificate.display(), "the TLS files were read again");
            }
            Err(problem) => {
                tracing::warn!(%problem, "the TLS files are wrong now: those that were read before stay in force");
            }
        }
    }

    /// The name that this member's certificate bears.
    pub fn member_name(&self, member: u64) -> String {
        member_name(member, &self.0.files.cluster)
    }

    pub(crate) fn sides(&self) -> Sides {
        self.0.sides.read().clone()
    }

    pub(crate) fn expected_name(&self, expected: Expected) -> Result<ServerName<'static>, TlsError> {
        let cluster = &self.0.files.cluster;
        let name = match expected {
            Expected::Member(member) => member_name(member, cluster),
            Expected::AnyMember => any_member_name(cluster),
        };
        ServerName::try_from(name).map_err(|_| TlsError::Cluster(cluster.clone()))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

/// The name that a member's certificate bears for the other members.
pub fn member_name(member: u64, cluster: &str) -> String {
    format!("member-{member}.{cluster}")
}

/// The name that each member's certificate bears for clients.
pub fn any_member_name(cluster: &str) -> String {
    format!("member.{cluster}")
}

impl TlsFiles {
    fn stamps(&self) -> [Stamp; 3] {
        let stamp = |path: &PathBuf| {
            fs::metadata(path).ok().map(|found| (found.mtime(), found.mtime_nsec(), found.ino(), found.size()))
        };
        [stamp(&self.certificate), stamp(&self.key), stamp(&self.authority)]
    }

    fn read(&self, member: Option<u64>) -> Result<Sides, TlsError> {
        let content = |path: &Path, problem: String| TlsError::Content { path: path.to_owned(), problem };
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes(&self.key)?)
            .map_err(|error| content(&self.key, format!("no private key in PEM: {error}")))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.authority)? {
            roots.add(root).map_err(|error| content(&self.authority, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| content(&self.authority, error.to_string()))?;
        self.check(&chain, &*verifier, member)?;

        let unfit = |error: rustls::Error| content(&self.key, format!("{error}: is it the certificate's key?"));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let server = server.map_err(unfit)?.with_client_cert_verifier(verifier);
        let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(unfit)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let client = client.map_err(unfit)?.with_root_certificates(roots);
        let mut client = client.with_client_auth_cert(chain, key).map_err(unfit)?;
        client.resumption = Resumption::disabled();
        Ok(Sides { server: Arc::new(server), client: Arc::new(client) })
    }

    /// What the others will find wrong with this certificate.
    fn check(
        &self,
        chain: &[CertificateDer<'static>],
        verifier: &dyn ClientCertVerifier,
        member: Option<u64>,
    ) -> Result<(), TlsError> {
        let content = |problem| TlsError::Content { path: self.certificate.clone(), problem };
        verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map_err(|error| {
            content(format!("{} (the CA is {})", words(&error, "this certificate"), self.authority.display()))
        })?;
        let needed = member.map(|member| [member_name(member, &self.cluster), any_member_name(&self.cluster)]);
        for needed in needed.iter().flatten() {
            if ServerName::try_from(needed.as_str()).is_err() {
                return Err(TlsError::Cluster(self.cluster.clone()));
            }
            if !bears(&chain[0], needed) {
                let names = list(&names(&chain[0]));
                return Err(content(format!(
                    "the certificate is for {names}, not for {needed}: have one made for both names of this member"
                )));
            }
        }
        Ok(())
    }
}

/// Whether the certificate is valid for the name.
pub(crate) fn bears(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let (Ok(certificate), Ok(name)) = (EndEntityCert::try_from(certificate), ServerName::try_from(name)) else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

/// The DNS names in the certificate.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    match EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// For people.
pub(crate) fn list(names: &[String]) -> String {
    if names.is_empty() { "no DNS name".into() } else { names.join(", ") }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |problem| TlsError::Content { path: path.to_owned(), problem };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content("no certificate in PEM".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(content(format!("no certificate in PEM: {error}"))),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| TlsError::File { path: path.to_owned(), error })
}
