//! `lock-server restore` and `lock-server show`: a backup becomes the first member of a new cluster, or is read by a person.
//!
//! # Why no token is granted twice, nor one below an older
//!
//! A token is the number of the op that granted it, and the new cluster's first op is above each of these:
//!
//! - the op of the backup; the highest op in each old store that the operator names. What was granted after the backup stands there;
//! - the time of this host in µs since 1970. A cluster begins at op 1, or where the time stood when it was restored, and goes on from there
//!   by less than a million ops a second. So its ops stay below the time, and no old store has to be there, if the clock is right;
//! - `--token-floor`, for who knows better than the clock.
//!
//! The number stays below 2^53, where numbers of other programs are no longer exact; as time it is reached in the year 2255.
//!
//! # Why no two hold a lock
//!
//! All sessions of the old cluster are over, so nobody holds a lock in the new one at first. Somebody may believe so: a client whose lease
//! was renewed just before the old cluster stopped. Its guard is valid until that lease has run out by its own clock. The new cluster opens
//! no session before its service time has advanced by the longest lease of the old one (an hour, the longest there is, unless `--max-lease`
//! says less); that time counts from when it serves, which is after the old one stopped, and never runs faster than real time. So the last
//! old guard is invalid before the first new one is granted. It is the operator's part to have the old cluster stopped: an old store that
//! is named and still in use is refused; of the others this program cannot know. The new cluster has an id of its own, so a member of the
//! old one that comes back talks to nobody in it.
//!
//! # Limits of this implementation
//!
//! - A backup is read whole into memory.
//! - A cluster that began at a `--token-floor` above the time is above it for good: its next restore needs a floor again, or an old store.
//! - Locks whose dead holder's data waited to be recovered are free as all others are: recover everything before the new cluster is used.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lock_protocol::{Answer, BackupHeader, LockEntry, LockName, PAGE_MAX_ENTRIES, Query};
use rsm::{Kind, StateMachine};

use crate::backup::now_us;
use crate::config;
use crate::flags::{ServeFlags, complain};
use crate::machine::Machine;

/// Tokens stay below this: where a number is floating point, it is exact up to here.
const TOKENS_END: u64 = 1 << 53;

/// `lock-server restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreFlags {
    /// What `lockctl snapshot save` wrote. Without it, the new cluster takes nothing over but that tokens rise.
    file: Option<PathBuf>,
    /// Reads what is not said here, nor in the environment, from this file (TOML).
    #[arg(long, env = "LOCK_SERVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A data directory of the old cluster, if there is one left: new tokens are above all in it. May be said several times.
    #[arg(long, value_name = "DIR")]
    old_data_dir: Vec<PathBuf>,
    /// Tokens of the new cluster are above this, too.
    #[arg(long, value_name = "TOKEN", default_value_t = 0)]
    token_floor: u64,
    /// The longest lease that any client of the old cluster had. The new cluster opens no session before it has served for so long.
    #[arg(long, value_name = "DUR", default_value = "1h", value_parser = humantime::parse_duration)]
    max_lease: Duration,
    #[command(flatten)]
    serve: ServeFlags,
}

/// `lock-server show`.
#[derive(Debug, Args)]
pub(crate) struct ShowFlags {
    /// What `lockctl snapshot save` wrote.
    file: PathBuf,
    /// Only locks whose names begin so.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
}

/// Makes the data directory of the new cluster's first member.
pub(crate) fn restore(flags: RestoreFlags) -> ExitCode {
    match restored(flags) {
        Ok(text) => told(&text),
        Err(line) => complain(&line),
    }
}

/// Tells what a backup holds.
pub(crate) fn show(flags: &ShowFlags) -> ExitCode {
    match shown(flags) {
        Ok(text) => told(&text),
        Err(line) => complain(&line),
    }
}

fn told(text: &str) -> ExitCode {
    // Whoever closed the pipe has read enough.
    drop(io::Write::write_all(&mut io::stdout(), text.as_bytes()));
    ExitCode::SUCCESS
}

fn restored(flags: RestoreFlags) -> Result<String, String> {
    let RestoreFlags { file, config, old_data_dir, token_floor, max_lease, serve } = flags;
    let (_, settings) = config::resolve(serve, config.as_deref())?;
    let (bytes, at) = file.as_ref().map_or_else(
        || Ok((nothing(), "nothing".to_owned())),
        |file| read(file).map(|bytes| (bytes, file.display().to_string())),
    )?;
    let (header, state) = BackupHeader::read(&bytes).map_err(|error| format!("{at}: {error}"))?;
    let old_ops = old_data_dir.iter().map(|dir| rsm::highest_op(dir).map_err(|error| error.to_string()));
    let old_op = old_ops.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or_default();
    let op = last_op_before(&header, old_op, token_floor, now_us())?;
    let machine = Machine::restored(state, op, max_lease).map_err(|problem| format!("{at}: {problem}"))?;
    let node = &settings.node;
    let cluster = rsm::make_restored_store(node, op, &machine.snapshot()).map_err(|error| error.to_string())?;
    let wait = humantime::format_duration(machine.waits_after_restore().unwrap_or_default());
    let others = node.members.iter().filter(|(member, ..)| *member != node.member);
    let others = others.map(|(member, at, kind)| {
        let witness = if *kind == Kind::Witness { " --witness" } else { "" };
        format!("then: lockctl members add {member} {at}{witness}\n")
    });
    let others: String = others.collect();
    Ok(format!(
        "{} is the store of member {}, alone in the new cluster {} ({cluster}), from {at}\n\
         its tokens are above {op}; it opens no session before it has served for {wait}\n\
         next: start member {} with the same --cluster and --name, the others with empty data directories\n{others}",
        node.data_dir.display(),
        node.member,
        node.cluster,
        node.member,
    ))
}

/// The backup of a cluster that has done nothing.
fn nothing() -> Vec<u8> {
    let state = Machine::default().snapshot();
    let (state_bytes, state_crc32c) = (state.len() as u64, crc32c::crc32c(&state));
    let header = BackupHeader {
        cluster: 0,
        name: String::new(),
        member: 0,
        view: 0,
        op: 0,
        taken_us: 0,
        state_bytes,
        state_crc32c,
    };
    [header.encode(), state].concat()
}

/// The op after which the new cluster begins.
fn last_op_before(header: &BackupHeader, old_op: u64, token_floor: u64, now_us: u64) -> Result<u64, String> {
    let op = header.op.max(old_op).max(token_floor).max(now_us);
    // Half of the room is for the ops to come.
    match op < TOKENS_END / 2 {
        true => Ok(op),
        false => Err(format!(
            "tokens would begin above {op}, and end at {TOKENS_END}: correct this host's clock (it is {now_us} us since 1970) or \
             --token-floor"
        )),
    }
}

fn shown(flags: &ShowFlags) -> Result<String, String> {
    let (bytes, at) = (read(&flags.file)?, flags.file.display());
    let (header, state) = BackupHeader::read(&bytes).map_err(|error| format!("{at}: {error}"))?;
    let mut machine = Machine::default();
    machine.restore(state).map_err(|problem| format!("{at}: {problem}"))?;
    let taken = std::time::UNIX_EPOCH + Duration::from_micros(header.taken_us);
    let mut text = format!(
        "cluster {} ({})\ntaken   {} by member {}, at op {} of view {}\nstate   {} bytes, service time {}\nholds   {} sessions, {} locks\n",
        header.name,
        rsm::ClusterId(header.cluster),
        humantime::format_rfc3339_seconds(taken),
        header.member,
        header.op,
        header.view,
        header.state_bytes,
        humantime::format_duration(Duration::from_secs(machine.service_time_us() / 1_000_000)),
        machine.session_count(),
        machine.lock_count(),
    );
    let mut after = None;
    while let Some(page) = page(&machine, &flags.prefix, after.take()) {
        page.iter().for_each(|entry| text.push_str(&lines(entry)));
        after = page.last().map(|entry| entry.name.clone());
    }
    Ok(text)
}

/// The locks behind this one; none where there are no more.
fn page(machine: &Machine, prefix: &str, after: Option<LockName>) -> Option<Vec<LockEntry>> {
    let limit = PAGE_MAX_ENTRIES as u32;
    match machine.on_read(&Query::Locks { prefix: prefix.to_owned(), after, limit }) {
        Answer::Locks { entries, .. } if !entries.is_empty() => Some(entries),
        _ => None,
    }
}

/// A line for each holder.
fn lines(entry: &LockEntry) -> String {
    let line = |holder: &lock_protocol::Holder| {
        format!(
            "{}  {}  token {}  {} (host {}, process {})  {} waiting\n",
            entry.name,
            holder.mode,
            holder.token,
            holder.client,
            holder.host,
            holder.pid,
            entry.waiters.len()
        )
    };
    entry.holders.iter().map(line).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| format!("{}: {error}: name what 'lockctl snapshot save' wrote", path.display()))
}

#[cfg(test)]
mod tests {
    use lock_protocol::LEASE_MAX;

    use super::*;

    fn header(op: u64) -> BackupHeader {
        let (name, state_bytes) = (String::new(), 0);
        BackupHeader { cluster: 1, name, member: 1, view: 1, op, taken_us: 0, state_bytes, state_crc32c: 0 }
    }

    #[test]
    fn a_restored_cluster_begins_above_the_backup_the_old_stores_the_clock_and_the_floor() {
        for (op, old, floor, now, expected) in
            [(9, 3, 4, 5, 9), (1, 9, 4, 5, 9), (1, 2, 9, 5, 9), (1, 2, 3, 1 << 50, 1 << 50), (0, 0, 0, 0, 0)]
        {
            assert_eq!(last_op_before(&header(op), old, floor, now), Ok(expected));
        }
        for (floor, now) in [(1 << 53, 1), (1, 1 << 52), (u64::MAX, 1)] {
            let line = last_op_before(&header(1), 1, floor, now).expect_err("no room");
            assert!(line.contains("correct this host's clock"), "{line}");
        }
    }

    #[test]
    fn the_longest_lease_that_is_assumed_is_the_longest_that_there_is() {
        assert_eq!(humantime::parse_duration("1h").expect("as it is written"), LEASE_MAX);
    }
}
