//! Where a server listens: `HOST:PORT` or `unix:PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address that can be dialled or listened on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// `HOST:PORT`; the host is resolved anew at each dial.
    Tcp(String),
    /// `unix:PATH`, a stream socket of this host.
    Unix(PathBuf),
}

/// Why a text is no endpoint; its display is one line that says what to write instead.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not an address: {problem}; write HOST:PORT (127.0.0.1:7101) or unix:PATH")]
pub struct EndpointError {
    text: String,
    problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |problem| EndpointError { text: text.chars().take(300).collect(), problem };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(error("the path is empty")),
                1..=100 => Ok(Endpoint::Unix(PathBuf::from(path))),
                _ => Err(error("the path of a local socket has at most 100 bytes")),
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Err(error("the port is missing")) };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(error("the host is missing"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(error("an IPv6 host stands in brackets"));
        }
        match port.parse::<u16>() {
            Ok(_) if text.len() <= 300 => Ok(Endpoint::Tcp(text.to_owned())),
            Ok(_) => Err(error("it is too long")),
            Err(_) => Err(error("the port is a number from 0 to 65535")),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => f.write_str(address),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_as_it_was_written() {
        for text in ["127.0.0.1:7101", "[::1]:7101", "db-1.example:80", "unix:/run/plumeria.sock"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_wrong_address_is_refused_in_one_line_that_says_what_to_write() {
        for text in ["", "localhost", ":7101", "host:port", "::1:7101", "host:70000", "unix:", "a b:1"] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains("HOST:PORT") && !error.contains('\n'), "{error}");
        }
    }
}
