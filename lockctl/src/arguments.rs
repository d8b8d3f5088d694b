//! What a person can type, and the help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lock_client::{Endpoint, LockName, Tls, TlsFiles};

/// Where `lock-server dev` listens.
const DEV_CLUSTER: &str = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103";

/// Between two looks of `status --watch`.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  lockctl run backup -- ./backup.sh          run it here, and nowhere else at the same time
  lockctl run --try backup -- ./backup.sh    or not at all, where somebody else runs it (exit 75)
  lockctl locks orders/                      who holds what
  lockctl status                             how the cluster is

Exit status:
  0 well   2 typed wrong   69 no cluster answers   71 the machine itself refused something
  77 the cluster's rules of access do not let this client do it
  'run' ends as its command does; what else it can end with, 'lockctl run --help' tells.";

const RUN_HELP: &str = "\
The command finds the lock in its environment:
  LOCK_NAME, LOCK_TOKEN      the (first) name, and its fencing token
  LOCK_NAMES, LOCK_TOKENS    with several names: all, one a line, in the order given

If the lease cannot be renewed, all of the command's process group gets SIGTERM, and
after the grace SIGKILL, before anybody else can have the lock. The lock is given back
when the whole group has ended; what the command leaves running in its group is ended.
SIGTERM, SIGINT, SIGHUP and SIGQUIT to lockctl go to the group; at a terminal the command
has the terminal.

Several names are taken one after the other, sorted, so that two runs never wait for each
other; while it waits for the second, a run holds the first.

Not covered: processes that leave the group (daemons), a stopped lockctl, a stopped
machine, children of the command when lockctl itself is killed by SIGKILL. There the token decides: send LOCK_TOKEN along with each write, and let the
resource refuse smaller ones.

Exit status: the command's own (128 + n if signal n ended it), or
  75 the lock was not had in time      76 the lock was lost, and the command ended for it
  126 the command is not executable    127 there is no such command
  2 typed wrong    69 no cluster answers    71 the machine refused something
  77 the rules of access do not let this client have the lock

Examples:
  lockctl run backup -- ./backup.sh
  lockctl run --try nightly -- make report || echo 'runs elsewhere'
  lockctl run --wait 30s --lease 1m deploy/web -- ./deploy.sh
  lockctl run --shared data -- ./read.sh       with other readers, without writers
  lockctl run a b -- sh -c 'echo \"$LOCK_NAMES\"'";

const FORCE_HELP: &str = "\
The holder is told, and its guards become invalid. Others may have the lock when the holder
confirms, or when its lease would have ended, whichever is first. With --now they may have it at
once, while the holder may still believe that it does: then only the token tells them apart.

A lock that a dead session keeps, for its lock delay or until a session of its group has
recovered it, is freed only with --without-recovery: what was not flushed may then be lost.

Exit status: 1 if nobody holds the lock with that token.

Examples:
  lockctl inspect deploy/web                 shows the token
  lockctl force-release deploy/web --token 4711";

const MEMBERS_HELP: &str = "\
Examples:
  lockctl members                            who is there, and in sync
  lockctl members add 4 10.0.0.4:7100        then start it there, with an empty directory and
                                             --cluster naming itself and running members
  lockctl members add 5 10.0.0.5:7100 --witness
  lockctl members promote 2                  before member 1, the primary, is to rest
  lockctl members remove 1";

const SNAPSHOT_HELP: &str = "\
Not to be restored are sessions: all locks are free in a cluster that is made from a backup.
What it keeps is that fencing tokens go on rising.

Examples:
  lockctl snapshot save locks.backup         while the cluster serves
  lock-server show locks.backup              what was held then
  lock-server restore locks.backup --id 1 --cluster 1=HOST:PORT --data-dir DIR
                                             makes the first member of a new cluster";

const COMPLETIONS_HELP: &str = "\
Examples:
  lockctl completions bash > /etc/bash_completion.d/lockctl
  lockctl completions zsh > \"${fpath[1]}/_lockctl\"
  lockctl completions fish > ~/.config/fish/completions/lockctl.fish";

const BENCH_HELP: &str = "\
What is measured, each for --duration:
  cached      taking and giving back a lock that the session has: ns, median of rounds
  uncached    a new name each time, one at a time: us
  throughput  new names; --clients sessions, a thread each, with --in-flight acquires each
  hand-over   one lock, wanted all the time by --clients sessions: changes of its holder
  fail-over   with --kill-primary: the longest time without a success of one client that
              takes new names all the time

Its locks are named PREFIX/...; all are given back at the end.

Examples:
  lockctl bench
  lockctl bench --duration 1s --json
  lockctl bench --kill-primary               kills a process of this machine: for test clusters";

/// Locks for people and scripts: run a command under a lock, see who holds what, see how the cluster is.
#[derive(Debug, Parser)]
#[command(name = "lockctl", version, after_help = EXAMPLES, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What every subcommand takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of all subcommands")]
pub(crate) struct Common {
    /// Any servers of the cluster: HOST:PORT or unix:PATH, separated by commas.
    #[arg(long, global = true, env = "LOCK_ENDPOINTS", value_delimiter = ',', default_value = DEV_CLUSTER,
          value_name = "A,B,C", value_parser = endpoint)]
    pub(crate) endpoints: Vec<Endpoint>,
    /// Print JSON (of 'run': one object on stderr at the end).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What people see as the holder [default: USER@HOST/lockctl].
    #[arg(long = "name", global = true, value_name = "TEXT")]
    pub(crate) client_name: Option<String>,
    /// How long to look for the cluster.
    #[arg(long, global = true, value_name = "DUR", default_value = "5s", value_parser = duration)]
    pub(crate) connect_timeout: Duration,
    /// Tell what the client does, on stderr.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) tls_files: TlsFlags,
    /// What these files hold, once they are read.
    #[arg(skip)]
    pub(crate) tls: Option<Tls>,
}

/// With the first three, TLS is spoken, and nothing else.
#[derive(Clone, Debug, Args)]
pub(crate) struct TlsFlags {
    /// Show this certificate to the servers (PEM); needs --tls-key and --tls-ca.
    #[arg(long, global = true, env = "LOCK_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, env = "LOCK_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Take only servers whose certificates are of this CA (PEM).
    #[arg(long, global = true, env = "LOCK_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The cluster's name, which its members' certificates bear.
    #[arg(long, global = true, env = "LOCK_TLS_CLUSTER", value_name = "NAME", default_value = "plumeria")]
    tls_cluster: String,
}

impl TlsFlags {
    /// None where no file is named; or one line that says what is wrong.
    pub(crate) fn read(&self) -> Result<Option<Tls>, String> {
        let files = match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (None, None, None) => return Ok(None),
            (Some(certificate), Some(key), Some(authority)) => TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authority: authority.clone(),
                cluster: self.tls_cluster.clone(),
            },
            _ => return Err("TLS needs all of --tls-cert, --tls-key and --tls-ca".to_owned()),
        };
        Tls::client(files).map(Some).map_err(|error| error.to_string())
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Run a command while holding locks; it is ended before they could pass on.
    #[command(after_help = RUN_HELP, override_usage = "lockctl run [OPTIONS] NAME... -- COMMAND [ARGUMENT]...")]
    Run(Run),
    /// List the locks that are held or waited for.
    Locks {
        /// Only names that begin so.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show who holds a lock, and who waits for it.
    Inspect {
        /// Its name.
        #[arg(value_parser = lock_name)]
        name: LockName,
    },
    /// End a tenure though its holder does not give it back.
    #[command(after_help = FORCE_HELP)]
    ForceRelease {
        /// The lock.
        #[arg(value_parser = lock_name)]
        name: LockName,
        /// The tenure, as 'inspect' shows it.
        #[arg(long, value_name = "T")]
        token: u64,
        /// Do not wait until the holder knows.
        #[arg(long)]
        now: bool,
        /// Free a lock that a dead session keeps, though nobody has recovered what it left.
        #[arg(long, conflicts_with = "now")]
        without_recovery: bool,
    },
    /// Show the cluster: each member, and whether it serves.
    Status {
        /// Go on showing it, with what the locks do, until Ctrl-C.
        #[arg(long)]
        watch: bool,
        /// Between two looks.
        #[arg(long, value_name = "DUR", default_value = "1s", value_parser = interval, requires = "watch")]
        interval: Duration,
    },
    /// List the cluster's members, or change the list.
    #[command(after_help = MEMBERS_HELP)]
    Members {
        /// Without it, they are listed.
        #[command(subcommand)]
        change: Option<MembersAction>,
    },
    /// Save a backup of what the cluster holds.
    #[command(subcommand, after_help = SNAPSHOT_HELP)]
    Snapshot(SnapshotAction),
    /// Measure the cluster at the endpoints.
    #[command(after_help = BENCH_HELP)]
    Bench(Bench),
    /// Print what a shell needs to complete lockctl's arguments.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, one a subcommand.
    Man {
        /// A directory that is there.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Becomes the command that `run` guards.
    #[command(name = crate::launch::EXEC, hide = true)]
    Exec(Exec),
    /// Gives a terminal back.
    #[command(name = crate::launch::GIVE_BACK, hide = true)]
    GiveBack {
        /// To this process group.
        #[arg(value_name = "GROUP")]
        group: i32,
    },
}

impl Action {
    /// Whether it needs a connection.
    pub(crate) fn asks_the_cluster(&self) -> bool {
        use Action::{Completions, Exec, GiveBack, Man, Snapshot};
        !matches!(
            self,
            Completions { .. } | Man { .. } | Exec(_) | GiveBack { .. } | Snapshot(SnapshotAction::Show { .. })
        )
    }
}

/// `lockctl members ...`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MembersAction {
    /// Add a member; it counts when it has caught up.
    Add {
        /// A number that no member has.
        id: u64,
        /// Where it listens.
        #[arg(value_parser = endpoint)]
        address: Endpoint,
        /// It keeps the log's tail only, and is never primary.
        #[arg(long)]
        witness: bool,
    },
    /// Take a member off the list for good. Its process stops by itself; then its directory may go.
    Remove {
        /// Its number.
        id: u64,
    },
    /// Declare a member's directory lost, so that the same member with an empty one takes its place.
    Replace {
        /// Its number.
        id: u64,
        /// Where it will listen.
        #[arg(value_parser = endpoint)]
        address: Endpoint,
    },
    /// Make a member primary that is in sync; clients notice a pause of some milliseconds.
    Promote {
        /// Its number.
        id: u64,
    },
}

/// `lockctl snapshot ...`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SnapshotAction {
    /// Write the state after an op that is committed to a file.
    Save(Save),
    /// Say of which cluster and op a backup is, if it is whole.
    Show {
        /// The backup.
        file: PathBuf,
    },
}

/// `lockctl snapshot save`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Save {
    /// Where to; only its owner may read it.
    pub(crate) file: PathBuf,
    /// Whose state; it may be a little older than the primary's [default: the primary's].
    #[arg(long, value_name = "ADDR", value_parser = endpoint)]
    pub(crate) member: Option<Endpoint>,
    /// Replace the file if it is there.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// `lockctl run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Share the lock with other shared holders.
    #[arg(long)]
    pub(crate) shared: bool,
    /// Give up after so long (exit 75) [default: wait as long as it takes].
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Give up at once where somebody uses it (exit 75).
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) try_only: bool,
    /// How long the cluster keeps the lock for this run when it hears nothing of it.
    #[arg(long, value_name = "DUR", default_value = "15s", value_parser = lease)]
    pub(crate) lease: Duration,
    /// Between SIGTERM and SIGKILL [default: a fifth of the lease].
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// The locks.
    #[arg(required = true, value_name = "NAME", value_parser = lock_name)]
    pub(crate) names: Vec<LockName>,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// `lockctl bench`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    /// Of each measurement.
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Sessions in the measurements with many.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) clients: u16,
    /// Acquires that each of these has under way at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) in_flight: u16,
    /// What its locks' names begin with.
    #[arg(long, value_name = "TEXT", default_value = "bench", value_parser = bench_prefix)]
    pub(crate) prefix: LockName,
    /// Also kill -9 the primary, where it runs on this machine, and measure the gap in service.
    #[arg(long)]
    pub(crate) kill_primary: bool,
}

/// The hidden subcommand that becomes the command.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The `lockctl` that guards it.
    #[arg(long)]
    pub(crate) parent: i32,
    /// Wait until its group has the terminal.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    text.trim().parse().map_err(|error: lock_client::EndpointError| error.to_string())
}

fn lock_name(text: &str) -> Result<LockName, String> {
    LockName::new(text).map_err(|error| error.to_string())
}

fn bench_prefix(text: &str) -> Result<LockName, String> {
    match text.len() {
        0..=128 => lock_name(text),
        _ => Err("at most 128 bytes, so that there is room for what is appended".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 500ms, 30s, 5m"))
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval < INTERVAL_MIN => Err(format!(
            "at least {}, so that looking is not what keeps the cluster busy",
            humantime::format_duration(INTERVAL_MIN)
        )),
        interval => Ok(interval),
    }
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if (lock_client::LEASE_MIN..=lock_client::LEASE_MAX).contains(&lease) {
        return Ok(lease);
    }
    let (min, max) = (lock_client::LEASE_MIN, lock_client::LEASE_MAX);
    Err(format!("a lease has {} to {}", humantime::format_duration(min), humantime::format_duration(max)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_has_no_conflicts() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_follows_the_two_dashes_is_the_command_with_all_its_flags() {
        let line = ["lockctl", "run", "--shared", "a", "b", "--wait", "2s", "--", "cmd", "--json", "--", "x"];
        let Action::Run(run) = Arguments::try_parse_from(line).expect("a line that is right").action else {
            panic!("run")
        };
        assert_eq!(run.names.iter().map(LockName::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(run.command, ["cmd", "--json", "--", "x"]);
        assert!(run.shared && run.wait == Some(Duration::from_secs(2)) && run.lease == Duration::from_secs(15));
    }

    #[test]
    fn global_flags_stand_before_or_after_the_subcommand() {
        for line in [
            ["lockctl", "--json", "--endpoints", "h:1,h:2", "status"],
            ["lockctl", "status", "--json", "--endpoints", "h:1,h:2"],
        ] {
            let arguments = Arguments::try_parse_from(line).expect("a line that is right");
            assert!(arguments.common.json);
            assert_eq!(arguments.common.endpoints.len(), 2);
        }
    }
}
