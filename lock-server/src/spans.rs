//! Spans for a collector of OpenTelemetry: what a request, a view and a callback connection took, and what was logged meanwhile.
//!
//! Why it harms nothing: spans go into a queue of bounded length that a thread of its own empties; where the collector is slow or gone they are
//! dropped, and that is logged once. What is not sampled costs no more than the question.
//!
//! Environment variables of OpenTelemetry's count: `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`, `OTEL_BSP_*`. Unless a sampler is named
//! all is sampled, since a client without a collector of its own says of each request that it is not.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::Registry;

use crate::collector::Collector;

/// To connect, to write and to read, each.
const COLLECTOR_PATIENCE: Duration = Duration::from_secs(5);
/// Of a collector's answer its first line counts.
const ANSWER_MAX_BYTES: u64 = 64 << 10;
/// What is left at the end is sent within it, or not at all.
const LAST_SPANS_MAX: Duration = Duration::from_secs(2);
const SAMPLER_VARIABLE: &str = "OTEL_TRACES_SAMPLER";

/// What spans are given to.
pub(crate) type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Spans are sent as long as it lives.
#[derive(Debug)]
pub(crate) struct Spans(SdkTracerProvider);

impl Spans {
    /// Spans of this member go to the collector.
    ///
    /// # Errors
    /// One line.
    pub(crate) fn to(collector: &Collector, member: u64, cluster: &str) -> Result<(Spans, SpanLayer), String> {
        let builder = SpanExporter::builder().with_http();
        let builder = builder.with_http_client(Plain::new(collector.clone())).with_endpoint(collector.to_string());
        let exporter = builder.build().map_err(|error| format!("no spans can be sent to {collector}: {error}"))?;
        let whose = [
            KeyValue::new("service.instance.id", member.to_string()),
            KeyValue::new("plumeria.cluster", cluster.to_owned()),
        ];
        let resource = Resource::builder().with_service_name("lock-server").with_attributes(whose).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource);
        let provider = match std::env::var_os(SAMPLER_VARIABLE) {
            Some(_) => provider,
            None => provider.with_sampler(Sampler::AlwaysOn),
        };
        let provider = provider.build();
        let wanted = Targets::new().with_targets([
            ("lock_server", LevelFilter::DEBUG),
            ("rsm", LevelFilter::DEBUG),
            ("tarpc", LevelFilter::INFO),
        ]);
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("lock-server")).with_filter(wanted);
        Ok((Spans(provider), layer.boxed()))
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS_MAX) {
            tracing::debug!(%error, "the last spans may not have been sent");
        }
    }
}

/// A client that speaks as much of HTTP as a collector needs.
#[derive(Debug)]
struct Plain {
    collector: Collector,
    fails: AtomicBool,
}

impl Plain {
    fn new(collector: Collector) -> Plain {
        Plain { collector, fails: AtomicBool::new(false) }
    }

    /// Sends a body; gives the answer's status.
    fn post(&self, request: &Request<Bytes>) -> io::Result<u16> {
        let Collector { address, path } = &self.collector;
        let resolved = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&resolved, COLLECTOR_PATIENCE)?;
        stream.set_write_timeout(Some(COLLECTOR_PATIENCE))?;
        stream.set_read_timeout(Some(COLLECTOR_PATIENCE))?;
        let length = request.body().len();
        let mut bytes =
            format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n")
                .into_bytes();
        for (name, value) in request.headers() {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes.extend(request.body());
        stream.write_all(&bytes)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
        let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).map(String::from_utf8_lossy);
        status.and_then(|status| status.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[async_trait::async_trait]
impl HttpClient for Plain {
    /// Called on the exporter's own thread, which has nothing else to do.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let status = self.post(&request);
        let fails = !status.as_ref().is_ok_and(|status| (200..300).contains(status));
        if fails && !self.fails.swap(fails, Ordering::Relaxed) {
            tracing::warn!(collector = %self.collector, answer = ?status, "spans cannot be sent, and are dropped");
        } else if !fails && self.fails.swap(fails, Ordering::Relaxed) {
            tracing::info!(collector = %self.collector, "spans are sent again");
        }
        Ok(Response::builder().status(status?).body(Bytes::new())?)
    }
}
