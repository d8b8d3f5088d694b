//! Arrows between the crates only go down. The allowed ones stand here; a new one has to be argued for in ARCHITECTURE.md
//! and added.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crate, and which of ours it may use.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("wire", &[]),
    ("nvm-log", &[]),
    ("paxos", &[]),
    ("lock-protocol", &["wire"]),
    ("rsm", &["paxos", "nvm-log", "wire"]),
    ("lock-client", &["lock-protocol", "wire"]),
    ("lock-server", &["rsm", "lock-protocol", "wire"]),
    ("lockctl", &["lock-client"]),
    ("plumeria-tests", &["wire", "nvm-log", "paxos", "lock-protocol", "rsm", "lock-client", "lock-server", "lockctl"]),
];

/// Cores, and what must not appear in their sources: each would be a way for IO, time or chance to get in.
const CORES: [(&str, &[&str]); 3] = [
    ("paxos/src", &["tokio", "std::thread", "std::net", "std::fs", "Instant", "SystemTime", "HashMap", "rand::"]),
    ("rsm/src/replica", &["tokio", "std::thread", "std::net", "std::fs", "Instant", "SystemTime", "HashMap", "rand::"]),
    (
        "lock-server/src/machine",
        &["tokio", "std::thread", "std::net", "std::fs", "Instant", "SystemTime", "RandomState", "rand::"],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_path_buf()
}

/// The names of the packages in the dependency sections of a manifest, `dev-dependencies` apart.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut section = String::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            if let Some(name) = section.strip_prefix("dependencies.") {
                found.insert(name.to_owned());
            }
        } else if section == "dependencies" || section.starts_with("target.") && section.ends_with(".dependencies") {
            let name = line.split(['=', '.']).next().unwrap_or_default().trim().trim_matches('"');
            if !name.is_empty() && !name.starts_with('#') {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

fn package_name(manifest: &str) -> &str {
    let line = manifest.lines().find(|line| line.starts_with("name")).expect("a manifest names its package");
    line.split('"').nth(1).expect("the name is quoted")
}

fn members() -> BTreeMap<String, BTreeSet<String>> {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let list = workspace.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("it lists members");
    list.split(',')
        .map(|item| item.trim().trim_matches('"'))
        .filter(|item| !item.is_empty())
        .map(|folder| {
            let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a member has a manifest");
            (package_name(&manifest).to_owned(), dependencies(&manifest))
        })
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_crate_depends_only_on_those_below_it() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, below)| (*name, below.iter().copied().collect())).collect();
    let members = members();
    let ours: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(ours, allowed.keys().copied().collect(), "each crate of the workspace has a line in ALLOWED");
    for (name, dependencies) in &members {
        let used: BTreeSet<&str> = dependencies.iter().map(String::as_str).filter(|name| ours.contains(name)).collect();
        let new: Vec<&&str> = used.difference(&allowed[name.as_str()]).collect();
        assert!(new.is_empty(), "{name} must not depend on {new:?}: the arrow goes up, or was not argued for");
    }
}

#[test]
fn sources_use_no_crate_of_ours_that_the_manifest_does_not_name() {
    let members = members();
    for (folder, name) in [("rsm", "rsm"), ("lock-client", "lock-client"), ("lockctl", "lockctl"), ("paxos", "paxos")] {
        let mut files = Vec::new();
        sources(&root().join(folder).join("src"), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            for other in members.keys().filter(|other| *other != name && !members[name].contains(*other)) {
                let import = format!("use {}::", other.replace('-', "_"));
                assert!(!text.contains(&import), "{} uses {other}", file.display());
            }
        }
    }
}

#[test]
fn cores_know_no_io_time_thread_or_chance() {
    for (folder, forbidden) in CORES {
        let mut files = Vec::new();
        sources(&root().join(folder), &mut files);
        assert!(!files.is_empty(), "{folder} has sources");
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                for word in forbidden {
                    assert!(!line.contains(word), "{}: code line {}: '{word}' in a core", file.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn the_check_itself_sees_a_forbidden_arrow() {
    let manifest = "[package]\nname = \"rsm\"\n\n[dependencies]\nserde.workspace = true\nlock-server = { path = \"x\" }\n\n\
                    [dev-dependencies]\nlock-client.workspace = true\n";
    assert_eq!(package_name(manifest), "rsm");
    assert_eq!(dependencies(manifest), ["lock-server".to_owned(), "serde".to_owned()].into());
}
