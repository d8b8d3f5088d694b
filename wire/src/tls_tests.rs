//! TLS between two ends in memory and on loopback: who is taken, who is refused, and in which words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{DialError, Endpoint, Expected, Hello, Listener, Role, Tls, TlsFiles, Welcome, dial, dial_with};

const DEADLINE: Duration = Duration::from_secs(20);
const HELLO: Hello = Hello { role: Role::Client, cluster: 0, sender: 0, secret: 0 };

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let pem = params.self_signed(&key).expect("a certificate").pem();
    Ca { issuer: Issuer::new(params, key), pem }
}

impl Ca {
    fn issue(&self, names: &[&str], serves: bool, until_year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if serves {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    fn member(&self, member: u64) -> (String, String) {
        self.issue(&[&format!("member-{member}.plumeria"), "member.plumeria"], true, 3000)
    }

    fn client(&self, name: &str) -> (String, String) {
        self.issue(&[name], false, 3000)
    }
}

fn write(dir: &Path, ca: &Ca, (certificate, key): &(String, String)) {
    for (name, text) in [("it.crt", certificate), ("it.key", key), ("ca.crt", &ca.pem)] {
        std::fs::write(dir.join(name), text).expect("written");
    }
}

fn files(dir: &Path) -> TlsFiles {
    let (certificate, key, authority) = (dir.join("it.crt"), dir.join("it.key"), dir.join("ca.crt"));
    TlsFiles { certificate, key, authority, cluster: "plumeria".into() }
}

/// A process's files, as long as the test runs, and what they hold.
fn held(ca: &Ca, pair: &(String, String), member: Option<u64>) -> (TempDir, Tls) {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), ca, pair);
    let tls = match member {
        Some(member) => Tls::member(files(dir.path()), member),
        None => Tls::client(files(dir.path())),
    };
    let tls = tls.expect("they are right");
    (dir, tls)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") });
}

/// A listener that takes one connection after the other, welcomes who is taken, and tells of each: its names, or why it was refused.
async fn server(tls: Tls) -> (Endpoint, tokio::sync::mpsc::UnboundedReceiver<Result<Vec<String>, String>>) {
    let listener = Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bound");
    let endpoint = Endpoint::Tcp(listener.address().expect("a port").to_string());
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(connection) = listener.accept().await {
            let outcome = async {
                let mut connection = connection.secured(&tls).await?;
                connection.read_hello().await.map_err(|error| error.to_string())?;
                let welcome = Welcome::Accepted { cluster: 0, member: 1 };
                connection.welcome(&welcome).await.map_err(|error| error.to_string())?;
                Ok(connection.names())
            };
            if tell.send(outcome.await).is_err() {
                return;
            }
        }
    });
    (endpoint, told)
}

fn refused(error: DialError) -> String {
    match error {
        DialError::Tls(line) => line,
        other => other.to_string(),
    }
}

/// The first bytes that a caller reads who shows this, or nothing: an error of TLS, in words.
async fn shows(endpoint: &Endpoint, ca: &Ca, shown: Option<&(String, String)>) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots);
    let config = match shown {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    let stream = TcpStream::connect(endpoint.to_string()).await.expect("connected");
    let name = "member.plumeria".try_into().expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("the server is right");
    drop(stream.write_all(&[0; 51]).await);
    let error = stream.read_u8().await.expect_err("refused");
    crate::handshake::tls_reason(&error).unwrap_or_else(|| error.to_string())
}

#[test]
fn both_sides_know_each_other_by_their_certificates() {
    run(async {
        let ca = ca("ours");
        let (_kept, member) = held(&ca, &ca.member(1), Some(1));
        let (_dir, client) = held(&ca, &ca.client("indexer-7"), None);
        let (endpoint, mut told) = server(member).await;
        for expected in [Expected::AnyMember, Expected::Member(1)] {
            let dialled = dial_with(Some((&client, expected)), &endpoint, &HELLO, DEADLINE).await;
            let (connection, ..) = dialled.expect("welcomed");
            assert!(connection.bears("member-1.plumeria") && !connection.bears("member-2.plumeria"));
            assert_eq!(told.recv().await.expect("told"), Ok(vec!["indexer-7".to_owned()]));
        }
        let other = dial_with(Some((&client, Expected::Member(2))), &endpoint, &HELLO, DEADLINE).await;
        let line = refused(other.expect_err("it is member 1"));
        assert!(line.contains("is not for member-2.plumeria, but for"), "{line}");
    });
}

#[test]
fn whoever_has_no_certificate_of_the_ca_is_refused_in_words_on_both_sides_and_the_next_is_served() {
    run(async {
        let (ca, other) = (ca("ours"), ca("theirs"));
        let (_kept, member) = held(&ca, &ca.member(1), Some(1));
        let (_dir, client) = held(&ca, &ca.client("indexer-7"), None);
        let (endpoint, mut told) = server(member).await;
        let (stranger, late) = (other.client("indexer-7"), ca.issue(&["indexer-7"], false, 2020));
        for (shown, here, there) in [
            (None, "shows no certificate", "asks for a certificate"),
            (Some(&stranger), "is not of a CA that is believed", "not of a CA that it believes"),
            (Some(&late), "the caller's certificate has expired", "certificate: it has expired"),
        ] {
            let line = shows(&endpoint, &ca, shown).await;
            assert!(line.contains(there), "{line}");
            let line = told.recv().await.expect("told").expect_err("refused");
            assert!(line.contains(here), "{line}");
            let dialled = dial_with(Some((&client, Expected::AnyMember)), &endpoint, &HELLO, DEADLINE).await;
            dialled.expect("the next is served");
            told.recv().await.expect("told").expect("taken");
        }
    });
}

#[test]
fn one_side_without_tls_is_told_so_in_words() {
    run(async {
        let ca = ca("ours");
        let (_kept, member) = held(&ca, &ca.member(1), Some(1));
        let (_dir, client) = held(&ca, &ca.client("indexer-7"), None);
        let (endpoint, mut told) = server(member).await;
        let line = dial(&endpoint, &HELLO, DEADLINE).await.expect_err("refused").to_string();
        assert!(line.contains("the other side speaks TLS, this side does not"), "{line}");
        let line = told.recv().await.expect("told").expect_err("refused");
        assert!(line.contains("does not speak TLS"), "{line}");

        let plain = Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bound");
        let at = Endpoint::Tcp(plain.address().expect("a port").to_string());
        let serving = async {
            let mut connection = plain.accept().await.expect("a connection");
            connection.read_hello().await.expect_err("no hello").to_string()
        };
        let (dialled, line) =
            tokio::join!(dial_with(Some((&client, Expected::AnyMember)), &at, &HELLO, DEADLINE), serving);
        assert!(line.contains("the other side speaks TLS"), "{line}");
        let line = refused(dialled.expect_err("refused"));
        assert!(line.contains("does the other side speak TLS?"), "{line}");
    });
}

#[test]
fn a_clients_certificate_does_not_serve_even_with_a_members_names() {
    run(async {
        let ca = ca("ours");
        let false_member = ca.issue(&["member-1.plumeria", "member.plumeria"], false, 3000);
        let (_kept, server_tls) = held(&ca, &false_member, None);
        let (_dir, client) = held(&ca, &ca.client("indexer-7"), None);
        let (endpoint, _told) = server(server_tls).await;
        let dialled = dial_with(Some((&client, Expected::AnyMember)), &endpoint, &HELLO, DEADLINE).await;
        let line = refused(dialled.expect_err("refused"));
        assert!(line.contains("a client's cannot serve"), "{line}");
    });
}

#[test]
fn files_that_are_wrong_are_refused_with_what_to_do() {
    let (ca, other) = (ca("ours"), ca("theirs"));
    let dir = tempfile::tempdir().expect("a directory");
    let late = ca.issue(&["member-1.plumeria", "member.plumeria"], true, 2020);
    let mixed = (ca.member(1).0, ca.member(1).1);
    for (pair, expected) in [
        (other.member(1), "is not of a CA that is believed here (the CA is"),
        (late, "this certificate has expired"),
        (mixed, "is it the certificate's key?"),
        (ca.member(2), "the certificate is for member-2.plumeria, member.plumeria, not for member-1.plumeria"),
        (ca.issue(&["member-1.plumeria"], true, 3000), "not for member.plumeria"),
        (("no".into(), ca.member(1).1), "it.crt: no certificate in PEM"),
        ((ca.member(1).0, "no".into()), "it.key: no private key in PEM"),
    ] {
        write(dir.path(), &ca, &pair);
        let line = Tls::member(files(dir.path()), 1).expect_err("refused").to_string();
        assert!(line.contains(expected) && !line.contains('\n'), "wanted: {expected}\n{line}");
    }
    write(dir.path(), &ca, &ca.member(1));
    std::fs::remove_file(dir.path().join("ca.crt")).expect("removed");
    let line = Tls::client(files(dir.path())).expect_err("refused").to_string();
    assert!(line.contains("ca.crt: No such file"), "{line}");
    let unfit = TlsFiles { cluster: "two words".into(), ..files(dir.path()) };
    write(dir.path(), &ca, &ca.member(1));
    let line = Tls::member(unfit, 1).expect_err("refused").to_string();
    assert!(line.contains("cannot stand in a certificate"), "{line}");
}

#[test]
fn new_files_are_taken_up_and_damaged_ones_leave_the_old_in_force() {
    run(async {
        let (old, new) = (ca("old"), ca("new"));
        let (dir, member) = held(&old, &old.member(1), Some(1));
        let (_old_dir, old_client) = held(&old, &old.client("indexer-7"), None);
        let (_new_dir, new_client) = held(&new, &new.client("indexer-7"), None);
        let (endpoint, _told) = server(member.clone()).await;
        let dials = async |client: &Tls| {
            dial_with(Some((client, Expected::AnyMember)), &endpoint, &HELLO, DEADLINE).await.map(drop)
        };
        dials(&old_client).await.expect("the old CA");
        std::fs::write(dir.path().join("it.crt"), "half a certi").expect("written");
        member.refresh();
        dials(&old_client).await.expect("the old files stay in force");
        write(dir.path(), &new, &new.member(2));
        member.refresh();
        dials(&old_client).await.expect("another member's certificate is not taken up");
        write(dir.path(), &new, &new.member(1));
        member.refresh();
        dials(&new_client).await.expect("the new CA");
        dials(&old_client).await.expect_err("the old CA is believed no more");
    });
}
