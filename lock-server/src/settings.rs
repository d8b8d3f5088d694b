//! From flags and a configuration file to what a member is started with.
//!
//! What stands on the command line wins over the environment, that over the file, and the file over the defaults.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rsm::{Backend, Durability, MemberId, NodeSettings};
use wire::{Tls, TlsFiles};

use crate::ServerSettings;
use crate::access::Access;
use crate::flags::ServeFlags;

/// Where every Linux host has a tmpfs.
const SHARED_MEMORY: &str = "/dev/shm";
/// Data directories on these do not survive a loss of power: tmpfs, ramfs.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The defaults, where they are not those of the types.
pub(crate) const NAME: &str = "plumeria";
const LOG_MIB: u64 = 64;

impl ServeFlags {
    /// What to start, or one line that says what is wrong.
    pub(crate) fn settings(&self) -> Result<ServerSettings, String> {
        let id = self.id.ok_or_else(|| missing("id"))?;
        let cluster = self.cluster.as_ref().ok_or_else(|| missing("cluster"))?;
        let data_dir = self.data_dir.as_ref().ok_or_else(|| missing("data-dir"))?;
        let name = self.name.as_deref().unwrap_or(NAME);
        let own = cluster.endpoint(MemberId(id));
        let own = own.ok_or_else(|| format!("member {id} is not in the list {cluster}: add it, or correct the id"))?;
        let log_mib = self.log_mib.unwrap_or(LOG_MIB);
        let node = NodeSettings {
            backend: self.backend(data_dir)?,
            allow_volatile: self.allow_volatile.unwrap_or_default(),
            durability: self.durability.unwrap_or_default(),
            memory_dir: self.memory_dir.clone().unwrap_or_else(|| own_memory_dir(name, id, data_dir)),
            ring_bytes: log_mib << 20,
            snapshot_every_bytes: usize::try_from(log_mib << 16).unwrap_or(usize::MAX),
            tls: self.tls(id, name)?,
            ..NodeSettings::new(MemberId(id), name, cluster.0.clone(), data_dir)
        };
        node.check().map_err(|error| error.to_string())?;
        Ok(ServerSettings {
            node,
            listen: self.listen.clone().unwrap_or_else(|| own.clone()),
            listen_anywhere: self.insecure_listen_anywhere.unwrap_or_default(),
            metrics_listen: self.metrics_listen.clone(),
            access: self.access()?,
        })
    }

    fn tls(&self, id: u64, name: &str) -> Result<Option<Tls>, String> {
        let files = match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (None, None, None) => return Ok(None),
            (Some(certificate), Some(key), Some(authority)) => TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authority: authority.clone(),
                cluster: name.to_owned(),
            },
            _ => return Err("TLS needs all of tls-cert, tls-key and tls-ca: name the files, or none of them".into()),
        };
        Tls::member(files, id).map(Some).map_err(|error| error.to_string())
    }

    fn access(&self) -> Result<Option<Access>, String> {
        match (&self.access_rules, &self.tls_cert) {
            (None, _) => Ok(None),
            (Some(path), Some(_)) => Access::read(path).map(Some),
            (Some(_), None) => {
                Err("access-rules go by the names in certificates: say tls-cert, too, or leave the rules out".into())
            }
        }
    }

    fn backend(&self, data_dir: &Path) -> Result<Backend, String> {
        match (is_in_memory(data_dir), self.allow_volatile.unwrap_or_default()) {
            (false, _) => Ok(Backend::File),
            (true, true) if self.durability == Some(Durability::FullSs) => Ok(Backend::File),
            (true, true) => Ok(Backend::Shm),
            (true, false) => Err(format!(
                "{} is in memory and does not survive a loss of power: choose another directory, or say allow-volatile",
                data_dir.display()
            )),
        }
    }
}

fn missing(flag: &str) -> String {
    format!("{flag} is missing: say --{flag}, or write {flag} = ... in the file of --config (see lock-server --help)")
}

/// Clusters of one name on one host differ in their data directories.
fn own_memory_dir(name: &str, id: u64, data_dir: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()).hash(&mut hasher);
    Path::new(SHARED_MEMORY).join(format!("plumeria-{name}-{id}-{:016x}", hasher.finish()))
}

/// Whether the directory is, or would be, on a file system in memory.
pub(crate) fn is_in_memory(dir: &Path) -> bool {
    let existing = dir.ancestors().find(|dir| dir.exists()).filter(|dir| !dir.as_os_str().is_empty());
    rustix::fs::statfs(existing.unwrap_or(Path::new(".")))
        .is_ok_and(|system| MEMORY_FILE_SYSTEMS.contains(&(system.f_type as u64)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::Flags;

    const DIR: &str = env!("CARGO_MANIFEST_DIR");
    const LIST: &str = "1=127.0.0.1:7101,2=127.0.0.1:7102";

    fn settings(arguments: &[&str]) -> Result<ServerSettings, String> {
        let flags = Flags::try_parse_from(["lock-server"].iter().chain(arguments));
        flags.expect("each flag is right").serve.settings()
    }

    #[test]
    fn flags_that_do_not_fit_together_are_answered_with_one_line_that_says_what_to_do() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "id is missing: say --id"),
            (&["--id", "1"], "cluster is missing: say --cluster"),
            (&["--id", "1", "--cluster", LIST], "data-dir is missing: say --data-dir"),
            (&["--id", "3", "--cluster", LIST, "--data-dir", DIR], "member 3 is not in the list 1=127.0.0.1:7101,2="),
            (
                &["--id", "1", "--cluster", LIST, "--data-dir", DIR, "--tls-cert", "c"],
                "TLS needs all of tls-cert, tls-key and tls-ca",
            ),
            (
                &["--id", "1", "--cluster", LIST, "--data-dir", DIR, "--access-rules", "r"],
                "access-rules go by the names in certificates",
            ),
            (
                &["--id", "1", "--cluster", "1=a:1,2=b:2/witness", "--data-dir", DIR],
                "1 of 2 members are witnesses: fewer than half may be",
            ),
        ];
        for (arguments, expected) in cases {
            let line = settings(arguments).expect_err("refused");
            assert!(line.contains(expected) && !line.contains('\n'), "{arguments:?}: {line}");
        }
    }

    #[test]
    fn a_member_listens_at_its_address_in_the_list_unless_told_otherwise() {
        let plain = ["--id", "2", "--cluster", "1=a:1, 2=b:2", "--data-dir", DIR];
        assert_eq!(settings(&plain).expect("right").listen.to_string(), "b:2");
        let other = [&plain[..], &["--listen", "c:3"]].concat();
        assert_eq!(settings(&other).expect("right").listen.to_string(), "c:3");
    }

    #[test]
    fn full_ss_is_in_files_on_a_disk_in_memory_too() {
        let shared = Path::new(SHARED_MEMORY);
        if !is_in_memory(shared) {
            eprintln!("SKIPPED: {SHARED_MEMORY} is not in memory");
            return;
        }
        let backend = |mode| {
            let plain = ["--id", "1", "--cluster", "1=a:1", "--allow-volatile", "--data-dir", SHARED_MEMORY];
            settings(&[&plain[..], &["--durability", mode]].concat()).expect("right").node.backend
        };
        assert_eq!((backend("nvm"), backend("full-ss")), (Backend::Shm, Backend::File));
    }

    #[test]
    fn a_directory_in_memory_needs_permission() {
        let plain = ["--id", "1", "--cluster", "1=a:1", "--data-dir", "/dev/shm/no/such/directory"];
        if is_in_memory(Path::new("/dev/shm")) {
            assert!(settings(&plain).expect_err("refused").contains("allow-volatile"));
            let allowed = [&plain[..], &["--allow-volatile"]].concat();
            assert_eq!(settings(&allowed).expect("right").node.backend, Backend::Shm);
            let taken_back = [&plain[..], &["--allow-volatile=false"]].concat();
            assert!(settings(&taken_back).expect_err("refused").contains("allow-volatile"));
        }
    }
}
