//! `lockctl snapshot save` and `show`: a backup of what the cluster holds.
//!
//! Why the file can be trusted: it has its name only when all of it is on the disk, and was compared with what the member took. A file that is
//! there is not replaced unless that was said, not even one that appears meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lock_client::{BackupFailure, BackupHeader, Refusal, fetch_backup, member_status};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use crate::arguments::{Common, Save};
use crate::dispatch::{print, print_json};
use crate::failure::{Failure, exit, no_cluster};

/// Only its owner may read it: it tells of sessions what they prove themselves with.
const MODE: u32 = 0o600;

/// What was saved, for programs.
#[derive(Serialize)]
struct Told<'a> {
    file: &'a Path,
    cluster: String,
    name: &'a str,
    member: u64,
    view: u64,
    op: u64,
    state_bytes: u64,
}

/// Saves the state of a member, or else of the primary.
pub(crate) async fn save(save: &Save, common: &Common) -> Result<u8, Failure> {
    refuse_existing(save)?;
    let from = match &save.member {
        Some(endpoint) => endpoint.to_string(),
        None => primary(common).await?,
    };
    let partial = partial(&save.file);
    let header = written((&from, common), save, &partial).await;
    if header.is_err() {
        // Nothing of it is of use; where it cannot be removed, its name says what it is.
        drop(fs::remove_file(&partial));
    }
    told(&save.file, &header?, common)
}

/// Tells what a backup is, if it is whole.
pub(crate) fn show(file: &Path, common: &Common) -> Result<u8, Failure> {
    let at = file.display();
    let bytes = fs::read(file).map_err(|error| Failure::usage(format!("{at}: {error}")))?;
    let (header, _) = BackupHeader::read(&bytes).map_err(|error| Failure::usage(format!("{at}: {error}")))?;
    told(file, &header, common)
}

async fn written((from, common): (&str, &Common), save: &Save, partial: &Path) -> Result<BackupHeader, Failure> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(MODE).open(partial);
    let (header, file) = fetch_backup(from, common.tls.as_ref(), create).await.map_err(|failure| match failure {
        BackupFailure::Write(error) => cannot_write(partial, &error),
        BackupFailure::Refused(Refusal::Denied(why)) => Failure::new(exit::DENIED, why),
        failure => Failure::new(exit::UNAVAILABLE, failure),
    })?;
    file.sync_all().map_err(|error| cannot_write(partial, &error))?;
    let flags = if save.overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, partial, CWD, &save.file, flags) {
        Err(rustix::io::Errno::EXIST) => return Err(exists(&save.file)),
        renamed => renamed.map_err(|error| cannot_write(&save.file, &error.into()))?,
    }
    let dir = save.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| cannot_write(dir, &error))?;
    Ok(header)
}

/// The primary's address, as any member tells it.
async fn primary(common: &Common) -> Result<String, Failure> {
    let begun = Instant::now();
    let mut tried = Vec::new();
    for endpoint in &common.endpoints {
        match member_status(&endpoint.to_string(), common.tls.as_ref()).await {
            Ok(status) => {
                let view = status.view.filter(|_| status.serving);
                let listed = view.and_then(|view| view.members.into_iter().find(|member| member.id == view.primary));
                match listed {
                    Some(primary) => return Ok(primary.address),
                    None => tried.push(format!("{endpoint}: it does not serve")),
                }
            }
            Err(error) => tried.push(error.to_string()),
        }
    }
    let line = no_cluster("nobody knows a primary (a state can be saved from any --member)", begun.elapsed(), &tried);
    Err(Failure::new(exit::UNAVAILABLE, line))
}

fn told(file: &Path, header: &BackupHeader, common: &Common) -> Result<u8, Failure> {
    let BackupHeader { cluster, name, member, view, op, state_bytes, .. } = header;
    if common.json {
        let (cluster, member, view, op, state_bytes) = (format!("{cluster:032x}"), *member, *view, *op, *state_bytes);
        print_json(&Told { file, cluster, name, member, view, op, state_bytes })?;
    } else {
        print(&format!(
            "{}: cluster {name} ({cluster:032x}), at op {op} of view {view}, taken by member {member}, a state of {state_bytes} bytes\n",
            file.display()
        ));
    }
    Ok(exit::OK)
}

fn refuse_existing(save: &Save) -> Result<(), Failure> {
    match save.file.symlink_metadata() {
        Ok(_) if !save.overwrite => Err(exists(&save.file)),
        _ => Ok(()),
    }
}

fn exists(file: &Path) -> Failure {
    Failure::usage(format!("{} is there already: choose another name, or say --overwrite", file.display()))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::system(format!("{}: {error}", path.display()))
}

/// Beside the file, so that it can take its name.
fn partial(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    file.with_file_name(name)
}
