//! `lockctl snapshot`: the file that it makes, and what it does not.

mod member;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use lock_protocol::BackupHeader;
use member::{STATE, backup_header};

/// Exit status and all that is printed.
fn lockctl(endpoints: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockctl"));
    command.env("LOCK_ENDPOINTS", endpoints).env_remove("RUST_LOG").args(arguments).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.into_string().expect("text")).collect()
}

#[test]
fn a_saved_snapshot_is_whole_its_owners_alone_and_shown_again() {
    let members = member::start(&[1, 2]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup");
    let at = file.display().to_string();
    let (exit, text) = lockctl(&members.addresses[1], &["snapshot", "save", &at]);
    assert!(exit == Some(0) && text.contains("cluster test") && text.contains("op 9 of view 4"), "{text}");
    assert_eq!(lockctl("127.0.0.1:1", &["snapshot", "show", &at]), (exit, text), "no cluster is asked");
    let bytes = fs::read(&file).expect("it is there");
    assert_eq!(BackupHeader::read(&bytes), Ok((backup_header(), STATE)));
    assert_eq!(file.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(files(dir.path()), ["backup"], "nothing else is left");

    let (exit, text) = lockctl(&members.addresses[0], &["snapshot", "save", &at]);
    assert!(exit == Some(2) && text.contains("is there already") && text.lines().count() == 1, "{text}");
    fs::write(&file, "old").expect("written");
    let (exit, text) = lockctl(&members.addresses[0], &["--json", "snapshot", "save", "--overwrite", &at]);
    assert!(exit == Some(0) && text.contains(r#""op":9,"state_bytes":16"#), "{text}");
    assert_eq!(fs::read(&file).expect("it is there"), bytes);
}

#[test]
fn what_cannot_be_saved_or_shown_is_one_line_and_leaves_no_file() {
    let members = member::start(&[1, 2]);
    let dir = tempfile::tempdir().expect("a directory");
    let (file, nowhere) = (dir.path().join("backup").display().to_string(), dir.path().join("no/backup"));
    let nowhere = nowhere.display().to_string();
    let second = &members.addresses[1];
    for (endpoint, arguments, status, expected) in [
        (second, &["snapshot", "save", &file, "--member", second][..], 69, "another backup is being fetched"),
        (second, &["snapshot", "save", &nowhere], 71, "No such file"),
        (&"127.0.0.1:1".to_owned(), &["snapshot", "save", &file], 69, "nobody knows a primary"),
        (second, &["snapshot", "show", &file], 2, "No such file"),
        (second, &["snapshot", "show", env!("CARGO_MANIFEST_PATH")], 2, "no backup of a Plumeria cluster"),
    ] {
        let (exit, text) = lockctl(endpoint, arguments);
        assert!(exit == Some(status) && text.contains(expected) && text.lines().count() == 1, "{exit:?} {text}");
    }
    assert_eq!(files(dir.path()), [""; 0]);
}
