//! A page in Prometheus' text format, version 0.0.4.
//!
//! A family is its name, its type and a line of help, then its samples. The help text is also what the operations guide says of
//! it; a test compares the two.

use std::fmt::{self, Display, Write};

use crate::machine::{DURATION_BOUNDS_US, Durations};

/// The format, as HTTP names it.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric, with all values of its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// One line.
    pub(super) help: &'static str,
}

/// How a metric's numbers are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many lie below which bound.
    Histogram,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        })
    }
}

/// The page as far as it is written.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// A family with one number.
    pub(super) fn value(&mut self, family: &Family, value: impl Display) {
        self.head(family);
        self.line(format_args!("{} {value}", family.name));
    }

    /// A family with a number for each value of a label.
    pub(super) fn labelled<L: Display, V: Display>(
        &mut self,
        family: &Family,
        label: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) {
        self.head(family);
        for (of, value) in values {
            self.line(format_args!("{}{{{label}=\"{}\"}} {value}", family.name, escaped(&of.to_string())));
        }
    }

    /// A family whose number is always 1, for what its labels say.
    pub(super) fn facts(&mut self, family: &Family, labels: &[(&str, &str)]) {
        self.head(family);
        let labels: Vec<_> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        self.line(format_args!("{}{{{}}} 1", family.name, labels.join(",")));
    }

    /// A family of durations.
    pub(super) fn durations(&mut self, family: &Family, durations: &Durations) {
        let bounds = DURATION_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        self.histogram(family, bounds.zip(durations.counts), durations.count(), durations.sum_us as f64 / 1e6);
    }

    /// A family of classes, each with its upper bound, seconds; `count` has those above the last one, too.
    pub(super) fn histogram(
        &mut self,
        family: &Family,
        classes: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        self.head(family);
        let mut below = 0;
        for (bound, in_class) in classes {
            below += in_class;
            self.line(format_args!("{}_bucket{{le=\"{bound}\"}} {below}", family.name));
        }
        self.line(format_args!("{}_bucket{{le=\"+Inf\"}} {count}", family.name));
        self.line(format_args!("{}_sum {sum}", family.name));
        self.line(format_args!("{}_count {count}", family.name));
    }

    pub(super) fn text(self) -> String {
        self.0
    }

    fn head(&mut self, family: &Family) {
        self.line(format_args!("# HELP {} {}", family.name, family.help));
        self.line(format_args!("# TYPE {} {}", family.name, family.kind));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(kind: Kind) -> Family {
        Family { name: "a_b", kind, help: "What it is." }
    }

    #[test]
    fn a_page_has_help_type_and_samples_of_each_family() {
        let mut page = Page::default();
        page.value(&family(Kind::Counter), 7);
        page.labelled(&family(Kind::Gauge), "member", [(2, 0.5)]);
        page.facts(&family(Kind::Gauge), &[("name", "a \"b\"\\\n"), ("mode", "nvm")]);
        assert_eq!(
            page.text(),
            "# HELP a_b What it is.\n# TYPE a_b counter\na_b 7\n\
             # HELP a_b What it is.\n# TYPE a_b gauge\na_b{member=\"2\"} 0.5\n\
             # HELP a_b What it is.\n# TYPE a_b gauge\na_b{name=\"a \\\"b\\\"\\\\\\n\",mode=\"nvm\"} 1\n"
        );
    }

    #[test]
    fn the_classes_of_a_histogram_count_all_that_lies_below() {
        let mut page = Page::default();
        page.histogram(&family(Kind::Histogram), [(0.001, 2), (0.5, 3)].into_iter(), 6, 9.25);
        assert_eq!(
            page.text().lines().skip(2).collect::<Vec<_>>(),
            [
                "a_b_bucket{le=\"0.001\"} 2",
                "a_b_bucket{le=\"0.5\"} 5",
                "a_b_bucket{le=\"+Inf\"} 6",
                "a_b_sum 9.25",
                "a_b_count 6"
            ]
        );
    }

    #[test]
    fn durations_are_told_in_seconds() {
        let mut durations = Durations::default();
        durations.record_many(90, 2);
        durations.record(u64::MAX / 2);
        let mut page = Page::default();
        page.durations(&family(Kind::Histogram), &durations);
        let text = page.text();
        for line in ["a_b_bucket{le=\"0.00005\"} 0", "a_b_bucket{le=\"0.0001\"} 2", "a_b_bucket{le=\"3600\"} 2"] {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
        assert!(text.contains("a_b_bucket{le=\"+Inf\"} 3\n"), "{text}");
    }
}
