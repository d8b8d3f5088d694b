//! The command line. Whatever is wrong with it is told in one line, with what to do.
//!
//! The flags of a member are also the keys of its configuration file: both are this one struct, so neither can lack what
//! the other has. What is not said stays open here, for the file and then the defaults; see [`crate::settings`].

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use rsm::Durability;
use serde::de::{Deserialize, Deserializer, Error};
use wire::Endpoint;

use crate::certificates::client_name;
use crate::collector::Collector;
use crate::logging::LogFormat;
use crate::member_list::MemberList;
use crate::restore::{RestoreFlags, ShowFlags};

/// Something in what the user typed, or in what he pointed at, is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Sizes of the log, MiB: the least holds what one batch may need, the most is mapped whole.
const LOG_MIB: RangeInclusive<u64> = 4..=65536;

/// A member of a Plumeria cluster: a replicated lock service.
#[derive(Debug, Parser)]
#[command(name = "lock-server", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Reads what is not said here, nor in the environment, from this file (TOML; its keys are the names of the flags).
    #[arg(long, env = "LOCK_SERVER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) serve: ServeFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a whole cluster on this host, as real processes, to try things out.
    Dev(DevFlags),
    /// Says what a member with this configuration file would run, or what is wrong with the file. Starts and makes nothing.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Makes the first member of a new cluster from a backup. Say what this member will be started with, and start it then.
    Restore(Box<RestoreFlags>),
    /// Shows what a backup holds.
    Show(ShowFlags),
    /// Makes certificates to try TLS with: a CA, if the directory has none, and a pair of files for each member and client.
    Certs(CertsFlags),
}

/// What a member is told, on the command line, in the environment or in a file.
#[derive(Debug, Default, Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServeFlags {
    /// This member's number.
    #[arg(long, env = "LOCK_SERVER_ID")]
    pub(crate) id: Option<u64>,
    /// All members, the same list for each of them: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT. A witness, which keeps the log's
    /// tail only and is never primary: 3=HOST:PORT/witness
    #[arg(long, env = "LOCK_SERVER_CLUSTER")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) cluster: Option<MemberList>,
    /// Where this member's log and snapshots are kept; made if it does not exist. On a file system that gives persistent memory away (mounted
    /// with dax) the log is mapped in the mode nvm. What it is on stands in the line with which the server says that it listens.
    #[arg(long, env = "LOCK_SERVER_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The cluster's name, the same for all members [default: plumeria].
    #[arg(long, env = "LOCK_SERVER_NAME")]
    pub(crate) name: Option<String>,
    /// What the log and the snapshots survive, the same for all members [default: nvm]. nvm: a loss of power, in persistent memory where
    /// the data directory is on some, else in files. full-ss: the same, always in files. epoch-ss: nothing, they are in memory and fetched from
    /// the others after each start. ring: the end of the process, in shared memory, and that of the host, in the shared memory of the member
    /// before it. In epoch-ss the cluster stops for good if a majority is lost at once; in ring, if a majority of hosts is lost with those before them.
    #[arg(long, env = "LOCK_SERVER_DURABILITY", value_name = "MODE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) durability: Option<Durability>,
    /// Where the log is kept in the mode ring, on tmpfs. Without it, a directory of its own under /dev/shm, to be removed with
    /// the data directory.
    #[arg(long)]
    pub(crate) memory_dir: Option<PathBuf>,
    /// The data directory may be in memory, and be gone after a loss of power.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    pub(crate) allow_volatile: Option<bool>,
    /// Where to listen, if not at this member's address in the list.
    #[arg(long, env = "LOCK_SERVER_LISTEN")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) listen: Option<Endpoint>,
    /// With TLS: this member's certificate (PEM), for the names member-ID.CLUSTER and member.CLUSTER. Needs --tls-key and --tls-ca; then
    /// the port speaks TLS only, to those who show a certificate of the CA.
    #[arg(long, env = "LOCK_SERVER_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "LOCK_SERVER_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The CA of members and clients (PEM). The three files are read again when they change, and on SIGHUP.
    #[arg(long, env = "LOCK_SERVER_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// With TLS: what clients may do, by the names in their certificates (TOML). Each [[rule]] has client = "NAME" or "*", prefix = "TEXT"
    /// of locks' names, or none for all, and may = [...]: acquire, list, force-release, members, promote, backup. What no rule
    /// allows is refused. Read again like the certificates; without it, all may do all.
    #[arg(long, env = "LOCK_SERVER_ACCESS_RULES", value_name = "FILE")]
    pub(crate) access_rules: Option<PathBuf>,
    /// Without TLS: listen where other hosts can connect, although nothing is encrypted and nobody is asked who he is.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    pub(crate) insecure_listen_anywhere: Option<bool>,
    /// Where to answer GET /metrics (Prometheus), /healthz and /readyz; nowhere unless this is said. Nobody is asked there who
    /// he is, and no lock's name is told.
    #[arg(long, env = "LOCK_SERVER_METRICS_LISTEN", value_name = "ADDR")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) metrics_listen: Option<Endpoint>,
    /// How lines of the log on stderr look [default: text]: text, or json for machines. What is logged, the environment says, as in
    /// RUST_LOG=info,tarpc=warn.
    #[arg(long, env = "LOCK_SERVER_LOG_FORMAT", value_name = "text|json")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) log_format: Option<LogFormat>,
    /// Where spans are sent, to a collector that takes OTLP over HTTP: http://HOST:PORT, or with a path; nowhere unless this is said.
    #[arg(long, env = "LOCK_SERVER_OTLP_ENDPOINT", value_name = "URL")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) otlp_endpoint: Option<Collector>,
    /// Size of the log, MiB; counts when the data directory is made [default: 64].
    #[arg(long, value_parser = clap::value_parser!(u64).range(LOG_MIB))]
    #[serde(deserialize_with = "log_mib")]
    pub(crate) log_mib: Option<u64>,
    /// Where tests arm break points.
    #[cfg(feature = "break-points")]
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(crate) test_control: Option<Endpoint>,
}

impl ServeFlags {
    /// What is not said here is taken from there.
    pub(crate) fn or(self, other: ServeFlags) -> ServeFlags {
        ServeFlags {
            id: self.id.or(other.id),
            cluster: self.cluster.or(other.cluster),
            data_dir: self.data_dir.or(other.data_dir),
            name: self.name.or(other.name),
            durability: self.durability.or(other.durability),
            memory_dir: self.memory_dir.or(other.memory_dir),
            allow_volatile: self.allow_volatile.or(other.allow_volatile),
            listen: self.listen.or(other.listen),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_ca: self.tls_ca.or(other.tls_ca),
            access_rules: self.access_rules.or(other.access_rules),
            insecure_listen_anywhere: self.insecure_listen_anywhere.or(other.insecure_listen_anywhere),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            log_format: self.log_format.or(other.log_format),
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
            log_mib: self.log_mib.or(other.log_mib),
            #[cfg(feature = "break-points")]
            test_control: self.test_control.or(other.test_control),
        }
    }
}

/// A value that is written in the file as on the command line.
fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<Option<T>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn log_mib<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let mib = u64::deserialize(deserializer)?;
    let problem = || D::Error::custom(format!("{mib} MiB: write {} to {}", LOG_MIB.start(), LOG_MIB.end()));
    LOG_MIB.contains(&mib).then_some(Some(mib)).ok_or_else(problem)
}

#[derive(Debug, Args)]
pub(crate) struct DevFlags {
    /// How many members.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) replicas: u16,
    /// The first member's port, the others' follow; 0: any free ports.
    #[arg(long, default_value_t = 7101)]
    pub(crate) base_port: u16,
    /// The first member's port for metrics and health, the others' follow; none unless this is said.
    #[arg(long)]
    pub(crate) metrics_base_port: Option<u16>,
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

#[derive(Debug, Args)]
pub(crate) struct CertsFlags {
    /// Where to; made if it does not exist. Nothing in it is overwritten.
    pub(crate) dir: PathBuf,
    /// A member's number; once for each member.
    #[arg(long = "member", value_name = "ID")]
    pub(crate) members: Vec<u64>,
    /// A client's name, which rules of access go by; once for each client.
    #[arg(long = "client", value_name = "NAME", value_parser = client_name)]
    pub(crate) clients: Vec<String>,
    /// The cluster's name, as the members have it.
    #[arg(long, default_value = crate::settings::NAME)]
    pub(crate) name: String,
    /// For how long they are valid; a CA has ten years.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_line_is_answered_with_one_line_that_says_what_to_do() {
        let cases: &[(&[&str], &str)] = &[
            (&["--lunch"], "unexpected argument '--lunch'"),
            (&["--id", "x"], "invalid value 'x'"),
            (&["--cluster", "1=127.0.0.1"], "write HOST:PORT"),
            (&["--cluster", "1=a:1,1=b:2"], "member 1 is in the list twice"),
            (&["--durability", "rong"], "choose one of nvm, full-ss, epoch-ss, ring"),
            (&["--listen", "here"], "write HOST:PORT"),
            (&["--otlp-endpoint", "https://a:1"], "plain http only"),
            (&["--log-mib", "3"], "3 is not in 4..=65536"),
            (&["--allow-volatile=perhaps"], "invalid value 'perhaps'"),
            (&["dev", "--replicas", "0"], "invalid value '0'"),
            (&["dev", "--id", "1"], "unexpected argument '--id'"),
            (&["--id", "1", "dev"], "cannot be used with"),
            (&["check-config"], "required arguments were not provided: <FILE>"),
        ];
        for (arguments, expected) in cases {
            let arguments_of_process = ["lock-server"].iter().chain(*arguments);
            let error = Flags::try_parse_from(arguments_of_process).expect_err("refused");
            let line = one_line(&error.to_string());
            assert!(line.contains(expected) && !line.contains('\n'), "{arguments:?}: {line}");
        }
    }
}
