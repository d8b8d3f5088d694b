//! Certificates for trying mutual TLS in a minute: an authority, and what it issues to members and clients.
//!
//! Why it is right: a member's certificate is for serving and for dialling, and bears both names that [`wire::Tls`] asks of it; a
//! client's is for dialling only and bears its own name, which is refused where it looks like a member's. Nothing is overwritten, and no key is
//! ever readable by others.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::flags::{CertsFlags, complain};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// An authority outlives what it issues.
const AUTHORITY_DAYS: u32 = 3650;
/// Certificates count from a little earlier on, for hosts whose clocks are behind.
const CLOCKS_APART: Duration = Duration::from_secs(3600);
/// The authority's name, the same for all: it is known by its key.
const AUTHORITY_NAME: &str = "Plumeria CA";
/// The authority's files.
const AUTHORITY_STEM: &str = "ca";

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This member of a cluster of this name.
    Member(u64, String),
    /// A client.
    Client(String),
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// To be shown.
    pub certificate: String,
    /// To be kept.
    pub key: String,
}

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issued: Issued,
}

impl Authority {
    /// A new one, with a key of its own.
    ///
    /// # Errors
    /// As rcgen says; none is known.
    pub fn new() -> Result<Authority, rcgen::Error> {
        let (params, key) = (authority_params(), KeyPair::generate()?);
        let certificate = params.self_signed(&key)?.pem();
        let issued = Issued { certificate, key: key.serialize_pem() };
        Ok(Authority { issuer: Issuer::new(params, key), issued })
    }

    /// The one that [`Authority::issued`] was written of.
    ///
    /// # Errors
    /// It is no key in PEM.
    pub fn again(issued: Issued) -> Result<Authority, rcgen::Error> {
        let key = KeyPair::from_pem(&issued.key)?;
        Ok(Authority { issuer: Issuer::new(authority_params(), key), issued })
    }

    /// Its own certificate and key.
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// A certificate that is valid until then.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn issue(&self, holder: &Holder, until: SystemTime) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new(holder.names())?;
        params.distinguished_name.push(DnType::CommonName, holder.stem());
        valid(&mut params, until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(holder, Holder::Member(..)) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Holder {
    /// What its files are called.
    pub fn stem(&self) -> String {
        match self {
            Holder::Member(member, _) => format!("member-{member}"),
            Holder::Client(name) => name.clone(),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Holder::Member(member, cluster) => {
                vec![wire::member_name(*member, cluster), wire::any_member_name(cluster)]
            }
            Holder::Client(name) => vec![name.clone()],
        }
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, SystemTime::now() + AUTHORITY_DAYS * DAY);
    params
}

fn valid(params: &mut CertificateParams, until: SystemTime) {
    let at = |time: SystemTime| {
        rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    };
    params.not_after = at(until);
    params.not_before = at(until.min(SystemTime::now()) - CLOCKS_APART);
}

/// A client's name as it may stand in a certificate of ours, or one line that says why not.
pub(crate) fn client_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 200 || !text.split('.').all(label) {
        return Err("write small letters, digits, '-' and '.', as in a host's name".into());
    }
    if text == AUTHORITY_STEM || text.starts_with("member") {
        return Err("names that begin with 'member', and 'ca', are not for clients".into());
    }
    Ok(text.to_owned())
}

/// `lock-server certs`.
pub(crate) fn make(flags: &CertsFlags) -> ExitCode {
    match write_all(flags) {
        Ok(lines) => {
            print!("{lines}");
            ExitCode::SUCCESS
        }
        Err(line) => complain(&line),
    }
}

fn write_all(flags: &CertsFlags) -> Result<String, String> {
    let CertsFlags { dir, members, clients, name, days } = flags;
    let members = members.iter().map(|member| Holder::Member(*member, name.clone()));
    let holders: Vec<_> = members.chain(clients.iter().cloned().map(Holder::Client)).collect();
    let impossible = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| format!("{}: {error}: choose another directory", path.display())
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(impossible(dir))?;
    let files = |stem: &str| (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    for holder in &holders {
        let (certificate, key) = files(&holder.stem());
        if let Some(found) = [certificate, key].iter().find(|path| path.exists()) {
            return Err(format!("{} is there already: nothing is overwritten", found.display()));
        }
    }
    let (certificate, key) = files(AUTHORITY_STEM);
    let mut made = Vec::new();
    let authority = match (fs::read_to_string(&certificate), fs::read_to_string(&key)) {
        (Ok(found), Ok(found_key)) => Authority::again(Issued { certificate: found, key: found_key })
            .map_err(|error| format!("{}: {error}: choose another directory", key.display()))?,
        _ => {
            let authority = Authority::new().map_err(|error| error.to_string())?;
            write_pair(authority.issued(), (&certificate, &key)).map_err(impossible(dir))?;
            made.push((certificate, "the CA, to be given to everybody; its key stays with you"));
            authority
        }
    };
    for holder in &holders {
        let until = SystemTime::now() + *days * DAY;
        let issued = authority.issue(holder, until).map_err(|error| format!("{}: {error}", holder.stem()))?;
        let (certificate, key) = files(&holder.stem());
        write_pair(&issued, (&certificate, &key)).map_err(impossible(dir))?;
        let whose = match holder {
            Holder::Member(..) => "a member, with the .key beside it",
            Holder::Client(_) => "a client, with the .key beside it",
        };
        made.push((certificate, whose));
    }
    Ok(made.iter().map(|(path, what)| format!("{}: {what}\n", path.display())).collect())
}

fn write_pair(issued: &Issued, (certificate, key): (&PathBuf, &PathBuf)) -> io::Result<()> {
    write_new(key, &issued.key, 0o600)?;
    write_new(certificate, &issued.certificate, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use wire::{Tls, TlsFiles};

    use super::*;

    fn flags(dir: &Path, members: &[u64], clients: &[&str]) -> CertsFlags {
        let clients = clients.iter().map(|client| client_name(client).expect("a name")).collect();
        CertsFlags { dir: dir.to_owned(), members: members.to_vec(), clients, name: "plumeria".into(), days: 1 }
    }

    fn files(dir: &Path, stem: &str) -> TlsFiles {
        TlsFiles {
            certificate: dir.join(format!("{stem}.crt")),
            key: dir.join(format!("{stem}.key")),
            authority: dir.join("ca.crt"),
            cluster: "plumeria".into(),
        }
    }

    #[test]
    fn what_is_made_can_be_used_and_a_later_client_is_of_the_same_ca() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("tls");
        write_all(&flags(&dir, &[1, 2], &["nightly"])).expect("made");
        Tls::member(files(&dir, "member-2"), 2).expect("right");
        Tls::member(files(&dir, "member-2"), 1).expect_err("another member's");
        Tls::member(files(&dir, "nightly"), 1).expect_err("a client's");
        write_all(&flags(&dir, &[], &["indexer-7"])).expect("made");
        Tls::client(files(&dir, "indexer-7")).expect("of the CA in ca.crt");
    }

    #[test]
    fn keys_are_the_owners_only_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        write_all(&flags(dir.path(), &[1], &["nightly"])).expect("made");
        for stem in ["ca", "member-1", "nightly"] {
            let key = fs::metadata(dir.path().join(format!("{stem}.key"))).expect("a key");
            assert_eq!(key.permissions().mode() & 0o777, 0o600, "{stem}");
        }
        let before = fs::read(dir.path().join("nightly.key")).expect("a key");
        let line = write_all(&flags(dir.path(), &[2], &["nightly"])).expect_err("refused");
        assert!(line.contains("nightly.crt is there already"), "{line}");
        assert_eq!(fs::read(dir.path().join("nightly.key")).expect("a key"), before);
        assert!(!dir.path().join("member-2.key").exists(), "all or nothing");
    }

    #[test]
    fn a_client_cannot_be_named_like_a_member() {
        for name in ["member-1", "member-1.plumeria", "member.plumeria", "ca", "", "A", "a/b", "-a", "a..b"] {
            client_name(name).expect_err(name);
        }
        client_name("indexer-7.example").expect("a name");
    }
}
