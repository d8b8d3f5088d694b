//! Spans at a collector of OpenTelemetry.

mod cluster;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cluster::{Client, Cluster, DEADLINE, run};

/// A collector on loopback: the address, and the bodies that come.
fn collector(status: &'static str) -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let (sender, bodies) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // What is cut short is no export.
            if let Ok(body) = stream.and_then(|stream| take(stream, status))
                && sender.send(body).is_err()
            {
                return;
            }
        }
    });
    (address, bodies)
}

/// Takes one request, which has to be an export of spans, and answers it.
fn take(stream: TcpStream, status: &str) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body)?;
    reader.into_inner().write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    Ok(body)
}

/// A message of protobuf: its fields by number; numbers as they are, the rest as bytes.
#[derive(Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a number to its end");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, Field::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            kind => panic!("a field of kind {kind}"),
        };
        let (field, rest) = bytes.split_at(length);
        found.push((key >> 3, Field::Bytes(field.to_vec())));
        bytes = rest;
    }
    found
}

/// The messages in this field.
fn messages(bytes: &[u8], number: u64) -> Vec<Vec<u8>> {
    let of_number = fields(bytes).into_iter().filter(|(found, _)| *found == number);
    of_number.filter_map(|(_, field)| if let Field::Bytes(bytes) = field { Some(bytes) } else { None }).collect()
}

fn text(bytes: &[u8], number: u64) -> String {
    messages(bytes, number).first().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}

/// Key and value of each attribute in this field, values as text.
fn attributes(bytes: &[u8], number: u64) -> Vec<(String, String)> {
    let value = |attribute: &[u8]| match messages(attribute, 2).first().map(|value| fields(value)).as_deref() {
        Some([(1, Field::Bytes(text)), ..]) => String::from_utf8_lossy(text).into_owned(),
        Some([(_, Field::Number(number)), ..]) => number.to_string(),
        other => format!("{other:?}"),
    };
    messages(bytes, number).iter().map(|attribute| (text(attribute, 1), value(attribute))).collect()
}

/// Name and attributes of a span, and the attributes of the process that it is of.
type Span = (String, Vec<(String, String)>, Vec<(String, String)>);

fn spans(body: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    for resource_spans in messages(body, 1) {
        let resource = messages(&resource_spans, 1).first().map(|resource| attributes(resource, 1)).unwrap_or_default();
        for span in messages(&resource_spans, 2).iter().flat_map(|scope| messages(scope, 2)) {
            found.push((text(&span, 5), attributes(&span, 9), resource.clone()));
        }
    }
    found
}

fn has(attributes: &[(String, String)], key: &str, value: &str) -> bool {
    attributes.iter().any(|(found, is)| found == key && is == value)
}

/// A member that exports, as soon as there is something.
async fn exporting(address: &str) -> Cluster {
    let mut cluster = Cluster::stopped(1);
    cluster.extra[0].extend(["--otlp-endpoint".into(), format!("http://{address}")]);
    cluster.environment.push(("OTEL_BSP_SCHEDULE_DELAY".into(), "50".into()));
    cluster.spawn(1);
    cluster.primary().await;
    cluster
}

#[test]
fn a_request_and_what_it_belongs_to_come_to_the_collector_as_a_span() {
    run(async {
        let (address, bodies) = collector("200 OK");
        let cluster = exporting(&address).await;
        let mut client = Client::open(&cluster, Duration::from_secs(60)).await;
        client.acquire("orders/1").await;
        let session = client.session.to_string();
        let until = Instant::now() + DEADLINE;
        let mut seen: Vec<Span> = Vec::new();
        let is_it = |(name, attributes, resource): &Span| {
            name == "submit"
                && has(attributes, "session", &session)
                && has(attributes, "requests", "1")
                && has(attributes, "view", "1")
                && has(resource, "service.name", "lock-server")
                && has(resource, "service.instance.id", "1")
                && has(resource, "plumeria.cluster", "plumeria")
        };
        while !(seen.iter().any(is_it) && seen.iter().any(|(name, ..)| name == "RPC")) {
            assert!(Instant::now() < until, "{seen:?}");
            if let Ok(body) = bodies.recv_timeout(Duration::from_millis(100)) {
                seen.extend(spans(&body));
            }
        }
    });
}

#[test]
fn a_collector_that_refuses_or_is_gone_costs_spans_and_nothing_else() {
    run(async {
        let (address, bodies) = collector("503 Service Unavailable");
        let cluster = exporting(&address).await;
        let mut client = Client::open(&cluster, Duration::from_secs(60)).await;
        client.acquire("orders/1").await;
        bodies.recv_timeout(DEADLINE).expect("an export is tried");
        drop(bodies);
        for number in 0..20 {
            client.acquire(&format!("orders/gone/{number}")).await;
        }
    });
}
