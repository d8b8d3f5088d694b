//! Aligned columns for people.
//!
//! The last column is never padded, so no line ends in blanks; numbers stand to the right.

use crate::failure::one_line;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells are made plain, an empty one is shown as a dash.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |text: String| if text.is_empty() { "-".to_owned() } else { one_line(&text) };
        let cells: Vec<String> = cells.into_iter().map(cell).collect();
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// All lines, each with its end.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize, title: &str| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(at, (title, _))| width(at, title)).collect();
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}")),
                    Align::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// "340 ms", "12.4 s", "7m 5s", "3h 20m", "2d 4h": two places are enough to see how old something is.
pub(crate) fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&[("NAME", Align::Left), ("TOKEN", Align::Right), ("BY", Align::Left)]);
        table.row(["orders/42".into(), "7".into(), "x".into()]);
        table.row(["ö".into(), "123456".into(), String::new()]);
        assert_eq!(table.render(), "NAME        TOKEN  BY\norders/42       7  x\nö          123456  -\n");
    }

    #[test]
    fn a_cell_with_control_characters_stays_on_its_line() {
        let mut table = Table::new(&[("NAME", Align::Left)]);
        table.row(["a\n\u{1b}[31mb".into()]);
        assert_eq!(table.render(), "NAME\na [31mb\n");
    }

    #[test]
    fn an_age_has_two_places() {
        let ages = [0, 999, 1000, 12_450, 61_000, 3_599_999, 7_260_000, 90_000_000].map(age);
        assert_eq!(ages, ["0 ms", "999 ms", "1.0 s", "12.4 s", "1m 1s", "59m 59s", "2h 1m", "1d 1h"]);
    }
}
