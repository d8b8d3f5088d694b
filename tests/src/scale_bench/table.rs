//! The figures as a table of a page.

use std::time::{Duration, UNIX_EPOCH};

use crate::recovery_bench::Machine;

/// Between these lines of a page stands the table.
const BEGIN: &str = "<!-- scale -->";
const END: &str = "<!-- end of scale -->";

/// A figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What came of it, with its unit.
    pub figure: String,
}

impl Row {
    pub(super) fn new(what: impl Into<String>, figure: impl Into<String>) -> Row {
        Row { what: what.into(), figure: figure.into() }
    }
}

/// Rows as Markdown, above them where they were taken.
pub fn table(machine: &Machine, load: &str, rows: &[Row]) -> String {
    let build = if machine.optimised { "an optimised build" } else { "a debug build" };
    let mut text = format!(
        "Taken on {}, {} cores (load before the run {:.1}), Linux {}, {build}; {load}.\n\n| what | figure |\n|---|---|\n",
        day(machine.unix_time_s),
        machine.cores,
        machine.load,
        machine.kernel
    );
    for row in rows {
        text += &format!("| {} | {} |\n", row.what, row.figure);
    }
    text
}

/// The page with this table in the place of the one before; none where it has no place for it.
pub fn page_with(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn day(unix_time_s: u64) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_time_s)).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_before_and_nothing_else() {
        let page = "a\n<!-- scale -->\nold\n<!-- end of scale -->\nb\n";
        let new = page_with(page, "| new |\n").expect("there is a place");
        assert_eq!(new, "a\n<!-- scale -->\n| new |\n<!-- end of scale -->\nb\n");
        assert_eq!(page_with(&new, "| new |\n"), Some(new.clone()));
        assert_eq!(page_with("a page without a place\n", "| new |\n"), None);
    }

    #[test]
    fn the_guide_has_a_place_for_the_table() {
        let guide = include_str!("../../../docs/operations.md");
        assert!(page_with(guide, "").is_some());
    }
}
