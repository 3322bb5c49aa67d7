//! A receiver of OTLP over HTTP: takes traces and logs in protobuf, and can be slow or refuse.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::eventually;

/// Who receives nothing for so long waits in vain.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span as it arrived. Ids are in hex, a parent that it has not is empty.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub instance: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    /// Trace and span of each link.
    pub links: Vec<(String, String)>,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    pub began: u64,
    pub ended: u64,
}

/// A log line as it arrived.
#[derive(Clone, Debug)]
pub struct Line {
    pub service: String,
    pub body: String,
    pub severity: String,
    pub trace: String,
    pub span: String,
    pub attributes: BTreeMap<String, String>,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Manner {
    #[default]
    Takes,
    /// It reads, and never answers.
    Hangs,
    /// It answers 503.
    Refuses,
    /// It says that it takes it, and then its answer comes byte by byte for an hour.
    Drips,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    lines: Vec<Line>,
    connections: usize,
    /// Values of `authorization`.
    authorized: Vec<String>,
    manner: Manner,
}

/// The receiver, and what it has received. It can be stopped, and started again at its port.
#[derive(Debug, Default)]
pub struct Receiver {
    received: Arc<Mutex<Received>>,
    port: u16,
    listening: Option<JoinHandle<()>>,
}

impl Receiver {
    /// One that listens at a free port.
    pub async fn start() -> Self {
        let mut receiver = Self::default();
        receiver.listen().await;
        receiver
    }

    /// Its base, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Listens at its port, again or for the first time.
    pub async fn listen(&mut self) {
        let address = ("127.0.0.1", self.port);
        let listener = eventually("its port is free", PATIENCE, async || {
            TcpListener::bind(address).await.ok()
        })
        .await;
        self.port = listener.local_addr().expect("it is bound").port();
        let received = self.received.clone();
        self.listening = Some(tokio::spawn(async move {
            // Aborted with this task, and their connections are cut.
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                all(&received).connections += 1;
                let received = received.clone();
                // Whoever hangs up has no more to say.
                connections.spawn(async move { serve(connection, &received).await.ok() });
            }
        }));
    }

    /// Nobody listens any more, and what is connected is cut.
    pub async fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    pub fn answers(&self, manner: Manner) {
        all(&self.received).manner = manner;
    }

    pub fn connections(&self) -> usize {
        all(&self.received).connections
    }

    pub fn authorized(&self) -> Vec<String> {
        all(&self.received).authorized.clone()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        all(&self.received).lines.clone()
    }

    /// Names of all spans so far.
    pub fn names(&self) -> Vec<String> {
        let received = all(&self.received);
        received
            .spans
            .iter()
            .map(|span| span.name.clone())
            .collect()
    }

    /// All spans of a trace so far.
    pub fn spans(&self, trace: &str) -> Vec<Span> {
        let received = all(&self.received);
        let of_trace = received.spans.iter().filter(|span| span.trace == trace);
        of_trace.cloned().collect()
    }

    /// Waits for a span of a trace.
    pub async fn span(&self, trace: &str, like: impl Fn(&Span) -> bool) -> Span {
        eventually("a span arrives", PATIENCE, async || {
            self.spans(trace).into_iter().find(|span| like(span))
        })
        .await
    }

    /// Waits for a log line.
    pub async fn line(&self, like: impl Fn(&Line) -> bool) -> Line {
        eventually("a line arrives", PATIENCE, async || {
            let received = all(&self.received);
            received.lines.iter().find(|line| like(line)).cloned()
        })
        .await
    }
}

fn all(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

/// Answers one request after another.
async fn serve(connection: TcpStream, received: &Mutex<Received>) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            connection.read_line(&mut line).await?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length");
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await?;
        let manner = all(received).manner;
        let status = match manner {
            Manner::Takes => {
                assert_eq!(headers["content-type"], "application/x-protobuf");
                all(received).take(&path, &body);
                all(received)
                    .authorized
                    .extend(headers.remove("authorization"));
                "200 OK"
            }
            Manner::Hangs => std::future::pending().await,
            Manner::Refuses => "503 Service Unavailable",
            Manner::Drips => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 36000\r\n\r\n";
                connection.write_all(head.as_bytes()).await?;
                loop {
                    connection.write_all(&[0]).await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        connection.write_all(answer.as_bytes()).await?;
    }
}

impl Received {
    fn take(&mut self, path: &str, body: &[u8]) {
        match path {
            "/v1/traces" => {
                let request = ExportTraceServiceRequest::decode(body).expect("spans");
                for of_resource in request.resource_spans {
                    let resource = texts_of(of_resource.resource.as_ref());
                    let spans = of_resource.scope_spans.into_iter();
                    for span in spans.flat_map(|scope| scope.spans) {
                        self.spans.push(Span {
                            service: resource["service.name"].clone(),
                            instance: resource["service.instance.id"].clone(),
                            trace: hex(&span.trace_id),
                            id: hex(&span.span_id),
                            parent: hex(&span.parent_span_id),
                            name: span.name,
                            links: span
                                .links
                                .iter()
                                .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                                .collect(),
                            attributes: texts(&span.attributes),
                            failed: span.status.is_some_and(|status| status.code == 2),
                            began: span.start_time_unix_nano,
                            ended: span.end_time_unix_nano,
                        });
                    }
                }
            }
            "/v1/logs" => {
                let request = ExportLogsServiceRequest::decode(body).expect("log records");
                for of_resource in request.resource_logs {
                    let resource = texts_of(of_resource.resource.as_ref());
                    let lines = of_resource.scope_logs.into_iter();
                    for line in lines.flat_map(|scope| scope.log_records) {
                        self.lines.push(Line {
                            service: resource["service.name"].clone(),
                            body: line.body.as_ref().map(text).unwrap_or_default(),
                            severity: line.severity_text,
                            trace: hex(&line.trace_id),
                            span: hex(&line.span_id),
                            attributes: texts(&line.attributes),
                        });
                    }
                }
            }
            other => panic!("nothing is sent to {other}"),
        }
    }
}

fn texts_of(resource: Option<&Resource>) -> BTreeMap<String, String> {
    texts(&resource.expect("a resource").attributes)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref().map(text).unwrap_or_default();
        (pair.key.clone(), value)
    };
    attributes.iter().map(pair).collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(
            Value::ArrayValue(_)
            | Value::KvlistValue(_)
            | Value::BytesValue(_)
            | Value::StringValueStrindex(_),
        )
        | None => panic!("no attribute of ours is {value:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
