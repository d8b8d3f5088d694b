//! Logs on stderr: for people, or one JSON object a line for machines.
//!
//! What belongs to a view, an op or a session has it as a field of the event or of a span around it; in JSON those are keys.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::spans::SpanLayer;

/// tarpc's own spans, one for each call, would cost more than half of the throughput.
const FILTER: &str = "info,tarpc=warn";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl LogFormat {
    /// Logs go to stderr from now on, filtered as RUST_LOG says, and spans to this layer, whose own filter counts for them. To be
    /// called once.
    pub(crate) fn start(self, spans: Option<SpanLayer>) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match self {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        };
        tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).init();
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("'{name}' is no log format: choose text or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}
