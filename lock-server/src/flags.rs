//! The command line. Whatever is wrong with it is told in one line, with what to do.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rsm::{Backend, Durability, Kind, MemberId, NodeSettings};
use wire::Endpoint;

use crate::ServerSettings;

/// Something in what the user typed, or in what he pointed at, is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;
/// After a member's address, where it is one.
const WITNESS: &str = "/witness";
/// Where every Linux host has a tmpfs.
const SHARED_MEMORY: &str = "/dev/shm";
/// Data directories on these do not survive a loss of power: tmpfs, ramfs.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// A member of a Plumeria cluster: a replicated lock service.
#[derive(Debug, Parser)]
#[command(name = "lock-server", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a whole cluster on this host, as real processes, to try things out.
    Dev(DevFlags),
}

#[derive(Debug, Args)]
pub(crate) struct ServeFlags {
    /// This member's number.
    #[arg(long, env = "LOCK_SERVER_ID", required = true)]
    id: Option<u64>,
    /// All members, the same list for each of them: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT. A witness, which keeps the log's
    /// tail only and is never primary: 3=HOST:PORT/witness
    #[arg(long, env = "LOCK_SERVER_CLUSTER", required = true)]
    cluster: Option<String>,
    /// Where this member's log and snapshots are kept; made if it does not exist.
    #[arg(long, env = "LOCK_SERVER_DATA_DIR", required = true)]
    data_dir: Option<PathBuf>,
    /// The cluster's name, the same for all members.
    #[arg(long, env = "LOCK_SERVER_NAME", default_value = "plumeria")]
    name: String,
    /// What the log and the snapshots survive, the same for all members. nvm: a loss of power, in persistent memory or files.
    /// full-ss: the same, in files. epoch-ss: nothing, they are in memory and fetched from the others after each start. ring: the
    /// end of the process, in shared memory. In the last two the cluster forgets all if a majority is lost at once.
    #[arg(long, env = "LOCK_SERVER_DURABILITY", default_value_t, value_name = "MODE")]
    durability: Durability,
    /// Where the log is kept in the mode ring, on tmpfs. Without it, a directory of its own under /dev/shm, to be removed with
    /// the data directory.
    #[arg(long)]
    memory_dir: Option<PathBuf>,
    /// The data directory may be in memory, and be gone after a loss of power.
    #[arg(long)]
    allow_volatile: bool,
    /// Where to listen, if not at this member's address in the list.
    #[arg(long, env = "LOCK_SERVER_LISTEN")]
    listen: Option<Endpoint>,
    /// Listen where other hosts can connect, although nothing is encrypted and nobody is asked who he is.
    #[arg(long)]
    insecure_listen_anywhere: bool,
    /// Size of the log, MiB; counts when the data directory is made.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=65536))]
    log_mib: u64,
    /// Where tests arm break points.
    #[cfg(feature = "break-points")]
    #[arg(long, hide = true)]
    pub(crate) test_control: Option<Endpoint>,
}

#[derive(Debug, Args)]
pub(crate) struct DevFlags {
    /// How many members.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) replicas: u16,
    /// The first member's port, the others' follow; 0: any free ports.
    #[arg(long, default_value_t = 7101)]
    pub(crate) base_port: u16,
    /// Where the members' data and logs are kept; without it, a new directory that is removed at the end.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Runs this through sh, with LOCK_ENDPOINTS set, then stops the cluster and ends with its status.
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,
    /// Starts a member again when it dies.
    #[arg(long)]
    pub(crate) restart: bool,
}

/// Reads the command line; what is to be printed instead (help, one line of error) is printed.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Flags, ExitCode> {
    Flags::try_parse_from(arguments).map_err(|error| {
        if !error.use_stderr() {
            // Nobody to tell if help cannot be printed.
            drop(error.print());
            return ExitCode::SUCCESS;
        }
        complain(&one_line(&error.to_string()))
    })
}

/// Prints the line, for an exit with [`EXIT_USAGE`].
pub(crate) fn complain(line: &str) -> ExitCode {
    eprintln!("lock-server: {line}");
    ExitCode::from(EXIT_USAGE)
}

/// clap's first paragraph, and its tip, on one line.
fn one_line(text: &str) -> String {
    let text = text.split("\n\nUsage:").next().unwrap_or(text);
    let words = text.strip_prefix("error: ").unwrap_or(text).split_whitespace();
    format!("{} (see lock-server --help)", words.collect::<Vec<_>>().join(" "))
}

impl ServeFlags {
    /// What to start, or one line that says what is wrong.
    pub(crate) fn settings(&self) -> Result<ServerSettings, String> {
        let (Some(id), Some(cluster), Some(data_dir)) = (self.id, &self.cluster, &self.data_dir) else {
            return Err("--id, --cluster and --data-dir are needed (see lock-server --help)".into());
        };
        let members = members(cluster)?;
        let Some((_, own, _)) = members.iter().find(|(member, ..)| *member == MemberId(id)) else {
            return Err(format!("member {id} is not in --cluster {cluster}: add it, or correct --id"));
        };
        let listen = self.listen.clone().unwrap_or_else(|| own.clone());
        let backend = self.backend(data_dir)?;
        let node = NodeSettings {
            backend,
            allow_volatile: self.allow_volatile,
            durability: self.durability,
            memory_dir: self.memory_dir(id, data_dir),
            ring_bytes: self.log_mib << 20,
            snapshot_every_bytes: usize::try_from(self.log_mib << 16).unwrap_or(usize::MAX),
            ..NodeSettings::new(MemberId(id), self.name.clone(), members, data_dir)
        };
        Ok(ServerSettings { node, listen, listen_anywhere: self.insecure_listen_anywhere })
    }

    /// Clusters of one name on one host differ in their data directories.
    fn memory_dir(&self, id: u64, data_dir: &Path) -> PathBuf {
        let own = || {
            let mut hasher = DefaultHasher::new();
            std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()).hash(&mut hasher);
            Path::new(SHARED_MEMORY).join(format!("plumeria-{}-{id}-{:016x}", self.name, hasher.finish()))
        };
        self.memory_dir.clone().unwrap_or_else(own)
    }

    fn backend(&self, data_dir: &Path) -> Result<Backend, String> {
        match (is_in_memory(data_dir), self.allow_volatile) {
            (false, _) => Ok(Backend::File),
            (true, true) if self.durability == Durability::FullSs => Ok(Backend::File),
            (true, true) => Ok(Backend::Shm),
            (true, false) => Err(format!(
                "{} is in memory and does not survive a loss of power: choose another directory, or say --allow-volatile",
                data_dir.display()
            )),
        }
    }
}

/// Whether the directory is, or would be, on a file system in memory.
pub(crate) fn is_in_memory(dir: &Path) -> bool {
    let existing = dir.ancestors().find(|dir| dir.exists()).filter(|dir| !dir.as_os_str().is_empty());
    rustix::fs::statfs(existing.unwrap_or(Path::new(".")))
        .is_ok_and(|system| MEMORY_FILE_SYSTEMS.contains(&(system.f_type as u64)))
}

fn members(list: &str) -> Result<Vec<(MemberId, Endpoint, Kind)>, String> {
    let mut members: Vec<(MemberId, Endpoint, Kind)> = Vec::new();
    for item in list.split(',').map(str::trim) {
        let Some((id, address)) = item.split_once('=') else {
            return Err(format!("'{item}' in --cluster is no member: write ID=HOST:PORT, as in 1=127.0.0.1:7101"));
        };
        let id: u64 =
            id.trim().parse().map_err(|_| format!("'{id}' in --cluster is no member's number: write 1=HOST:PORT"))?;
        let (address, kind) = match address.trim().strip_suffix(WITNESS) {
            Some(address) => (address, Kind::Witness),
            None => (address, Kind::Replica),
        };
        let endpoint: Endpoint =
            address.trim().parse().map_err(|error| format!("member {id} in --cluster: {error}"))?;
        if members.iter().any(|(other, ..)| *other == MemberId(id)) {
            return Err(format!("member {id} is in --cluster twice: give each member its own number"));
        }
        if let Some((other, ..)) = members.iter().find(|(_, other, _)| *other == endpoint) {
            return Err(format!("members {other} and {id} in --cluster have the same address {endpoint}: correct one"));
        }
        members.push((MemberId(id), endpoint, kind));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Result<Flags, String> {
        let arguments = ["lock-server"].iter().chain(arguments);
        Flags::try_parse_from(arguments).map_err(|error| one_line(&error.to_string()))
    }

    fn settings(arguments: &[&str]) -> Result<ServerSettings, String> {
        flags(arguments)?.serve.settings()
    }

    #[test]
    fn a_wrong_command_line_is_answered_with_one_line_that_says_what_to_do() {
        let list = "1=127.0.0.1:7101,2=127.0.0.1:7102";
        let dir = env!("CARGO_MANIFEST_DIR");
        let cases: &[(&[&str], &str)] = &[
            (&[], "required arguments were not provided: --id"),
            (&["--lunch"], "unexpected argument '--lunch'"),
            (&["--id", "x", "--cluster", list, "--data-dir", dir], "invalid value 'x'"),
            (&["--id", "3", "--cluster", list, "--data-dir", dir], "member 3 is not in --cluster"),
            (&["--id", "1", "--cluster", "1=127.0.0.1", "--data-dir", dir], "write HOST:PORT"),
            (&["--id", "1", "--cluster", "127.0.0.1:1", "--data-dir", dir], "write ID=HOST:PORT"),
            (&["--id", "1", "--cluster", "1=a:1,1=b:2", "--data-dir", dir], "member 1 is in --cluster twice"),
            (&["--id", "1", "--cluster", "1=a:1,2=a:1", "--data-dir", dir], "have the same address"),
            (
                &["--id", "1", "--cluster", list, "--data-dir", dir, "--durability", "rong"],
                "choose one of nvm, full-ss, epoch-ss, ring",
            ),
            (&["--id", "1", "--cluster", list, "--data-dir", dir, "--listen", "here"], "write HOST:PORT"),
            (&["dev", "--replicas", "0"], "invalid value '0'"),
            (&["dev", "--id", "1"], "unexpected argument '--id'"),
        ];
        for (arguments, expected) in cases {
            let line = settings(arguments).expect_err("refused");
            assert!(line.contains(expected) && !line.contains('\n'), "{arguments:?}: {line}");
        }
    }

    #[test]
    fn a_member_listens_at_its_address_in_the_list_unless_told_otherwise() {
        let dir = env!("CARGO_MANIFEST_DIR");
        let plain = ["--id", "2", "--cluster", "1=a:1, 2=b:2", "--data-dir", dir];
        assert_eq!(settings(&plain).expect("right").listen.to_string(), "b:2");
        let other = [&plain[..], &["--listen", "c:3"]].concat();
        assert_eq!(settings(&other).expect("right").listen.to_string(), "c:3");
        assert!(matches!(flags(&["dev"]).expect("right").command, Some(Command::Dev(_))));
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
    fn a_witness_is_one_in_every_members_list() {
        let list = "1=a:1,2=b:2,3=c:3/witness";
        for id in ["1", "3"] {
            let dir = env!("CARGO_MANIFEST_DIR");
            let members = settings(&["--id", id, "--cluster", list, "--data-dir", dir]).expect("right").node.members;
            let kinds: Vec<Kind> = members.iter().map(|(.., kind)| *kind).collect();
            assert_eq!(kinds, [Kind::Replica, Kind::Replica, Kind::Witness]);
            assert_eq!(members[2].1.to_string(), "c:3");
        }
    }

    #[test]
    fn a_directory_in_memory_needs_permission() {
        let plain = ["--id", "1", "--cluster", "1=a:1", "--data-dir", "/dev/shm/no/such/directory"];
        if is_in_memory(Path::new("/dev/shm")) {
            assert!(settings(&plain).expect_err("refused").contains("--allow-volatile"));
            let allowed = [&plain[..], &["--allow-volatile"]].concat();
            assert_eq!(settings(&allowed).expect("right").node.backend, Backend::Shm);
        }
    }
}
