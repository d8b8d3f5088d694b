//! The pages for people name tests: each of them is there, under that name, and no table lost its rows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_path_buf()
}

/// The names of all functions in all sources of the workspace.
fn functions(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory of the workspace") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            functions(&path, names);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let words = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            names.extend(words.map(str::to_owned));
        }
    }
}

/// What stands in backticks in the last column of a page's rows.
fn named(row: &str) -> Vec<&str> {
    let column = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
    column.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_guarantee_names_tests_that_there_are() {
    let mut names = BTreeSet::new();
    functions(&root(), &mut names);
    let page = fs::read_to_string(root().join("docs/locks.md")).expect("the page");
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| guarantee")).collect();
    assert!(rows.len() >= 12, "only {} guarantees", rows.len());
    for row in rows {
        let tests = named(row);
        assert!(!tests.is_empty(), "no test stands behind: {row}");
        for test in tests {
            assert!(names.contains(test), "there is no test {test}, named behind: {row}");
        }
    }
}

#[test]
fn every_link_of_the_pages_leads_to_a_file() {
    let docs = root().join("docs");
    let pages = fs::read_dir(&docs).expect("the pages").map(|entry| entry.expect("an entry").path());
    let pages: Vec<PathBuf> =
        pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    assert!(!pages.is_empty());
    for page in pages.into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&page).expect("a page");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            let there = page.parent().expect("a page lies in a directory").join(file);
            assert!(there.exists(), "{}: nothing at {target}", page.display());
        }
    }
}
