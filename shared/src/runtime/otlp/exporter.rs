//! The thread that sends what waits in a queue.
//!
//! A thread of its own with a blocking client, outside of tokio: it goes on while the runtime is
//! busy, or has ended. Nothing is sent twice: a batch that did not arrive is lost, and counted.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use tracing::{info, warn};

use super::queue::{Queue, Waits};
use crate::runtime::error_chain::Chain;
use crate::runtime::failing::Failing;
use crate::runtime::metric_rows::OTLP_EXPORTS;
use crate::runtime::settings::Secret;

/// A receiver that takes longer has not taken it.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// What is read of an answer, which is a few bytes.
const MOST_ANSWER: u64 = 64 * 1024;

/// Where it is sent, and with which headers.
pub(super) struct Exporter {
    url: String,
    headers: HeaderMap,
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the receiver cannot be asked")]
    Request(#[source] reqwest::Error),
    #[error("the receiver answers {0}")]
    Status(u16),
}

impl From<reqwest::Error> for ExportError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

impl Exporter {
    pub(super) fn new(url: &str, given: &[(String, Secret)]) -> Self {
        let mut headers = HeaderMap::new();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        for (name, value) in given {
            // The settings have checked both.
            let (Ok(name), Ok(mut value)) = (
                name.parse::<HeaderName>(),
                value.expose().parse::<HeaderValue>(),
            ) else {
                continue;
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Self {
            url: url.to_owned(),
            headers,
        }
    }

    /// Sends what comes, until the queue is closed and empty.
    pub(super) fn start<T: Send + 'static>(
        self,
        queue: Arc<Queue<T>>,
        encode: impl Fn(Vec<T>) -> Vec<u8> + Send + 'static,
    ) {
        let name = format!("otlp-{}", queue.signal());
        let thread = std::thread::Builder::new().name(name);
        let sending = queue.clone();
        if let Err(error) = thread.spawn(move || self.run(&sending, encode)) {
            warn!(error = %error, "OTLP: no thread to send from, nothing is sent");
            queue.close();
        }
    }

    fn run<T: Send>(&self, queue: &Queue<T>, encode: impl Fn(Vec<T>) -> Vec<u8>) {
        let signal = queue.signal();
        let mut client = None;
        let failing = Failing::default();
        while let Some(batch) = queue.take() {
            let count = batch.len();
            let sent = self.send(&mut client, encode(batch));
            let outcome = if sent.is_ok() { "ok" } else { "failed" };
            OTLP_EXPORTS.of([signal, outcome]).increment(1);
            match sent {
                Ok(answer) => {
                    queue.lost(rejected(signal, answer));
                    if failing.ends() {
                        info!(signal, "OTLP: {signal} arrive again");
                    }
                }
                Err(error) => {
                    queue.lost(count);
                    if failing.begins(&error) {
                        let error = Chain(&error);
                        warn!(signal, error = %error, "OTLP: {signal} are lost until they arrive again");
                    }
                }
            }
            queue.settle();
        }
    }

    fn send(&self, client: &mut Option<Client>, body: Vec<u8>) -> Result<Response, ExportError> {
        let client = match client {
            Some(client) => client,
            None => client.insert(
                Client::builder()
                    .timeout(PATIENCE)
                    .connect_timeout(CONNECT)
                    .redirect(Policy::none())
                    .build()?,
            ),
        };
        let asked = client.post(&self.url).headers(self.headers.clone());
        let answer = asked.body(body).send()?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(ExportError::Status(answer.status().as_u16()))
        }
    }
}

/// How many of a batch the receiver says it has not taken, though it took the batch.
fn rejected(signal: &str, answer: Response) -> usize {
    let mut body = Vec::new();
    if answer.take(MOST_ANSWER).read_to_end(&mut body).is_err() {
        return 0;
    }
    let rejected = if signal == "logs" {
        let told = ExportLogsServiceResponse::decode(&body[..]).unwrap_or_default();
        told.partial_success.map(|it| it.rejected_log_records)
    } else {
        let told = ExportTraceServiceResponse::decode(&body[..]).unwrap_or_default();
        told.partial_success.map(|it| it.rejected_spans)
    };
    rejected.map_or(0, |count| usize::try_from(count).unwrap_or_default())
}
