//! Where spans are sent: a collector that takes OTLP, OpenTelemetry's protocol, over plain HTTP.

use std::fmt;
use std::str::FromStr;

/// Where collectors take spans.
const PATH: &str = "/v1/traces";

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    /// HOST:PORT.
    pub(crate) address: String,
    /// Begins with a slash.
    pub(crate) path: String,
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Collector, String> {
        let wrong =
            || format!("'{text}' is no collector: write http://HOST:PORT, or with a path http://HOST:PORT{PATH}");
        if text.starts_with("https:") {
            return Err(format!(
                "'{text}': spans are sent over plain http only: run a collector on this host, and let it speak TLS"
            ));
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (address, path) = rest.split_once('/').map_or((rest, ""), |(address, path)| (address, path));
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
        if host.is_empty() || !is_port || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let path = if path.is_empty() { PATH.to_owned() } else { format!("/{path}") };
        Ok(Collector { address: address.to_owned(), path })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_with_or_without_a_path_and_anything_else_is_refused_in_one_line() {
        for (text, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("http://collector:80/a/b", "http://collector:80/a/b"),
        ] {
            assert_eq!(text.parse::<Collector>().map(|collector| collector.to_string()), Ok(expected.to_owned()));
        }
        for (text, expected) in [
            ("https://c:4318", "plain http only"),
            ("c:4318", "write http://HOST:PORT"),
            ("http://c", "write http://HOST:PORT"),
            ("http://:1", "write http://HOST:PORT"),
            ("http://c:0", "write http://HOST:PORT"),
            ("http://c:70000", "write http://HOST:PORT"),
            ("http://c:1/a b", "write http://HOST:PORT"),
            ("http://c:1/a\r\nX: y", "write http://HOST:PORT"),
        ] {
            let line = text.parse::<Collector>().expect_err("refused");
            assert!(line.contains(expected), "{text:?}: {line}");
        }
    }
}
