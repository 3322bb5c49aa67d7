//! The thread that sends what waits in a queue.
//!
//! A thread of its own with a blocking client, outside of tokio: it goes on while the runtime is
//! busy, or has ended. Nothing is sent twice: a batch that did not arrive is lost, and counted.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::{DecodeError, Message};
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use tracing::{info, warn};

use super::queue::{Queue, Waits};
use crate::runtime::error_chain::Chain;
use crate::runtime::failing::Failing;
use crate::runtime::metric_rows::OTLP_EXPORTS;
use crate::runtime::settings::Secret;

/// A receiver that takes longer, until the end of its answer, has not taken it.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// An answer is a few bytes.
const MOST_ANSWER: u64 = 64 * 1024;

/// Where it is sent, and with which headers.
pub(super) struct Exporter {
    url: String,
    headers: HeaderMap,
    patience: Duration,
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the receiver cannot be asked")]
    Request(#[source] reqwest::Error),
    #[error("the receiver answers {0}")]
    Status(u16),
    #[error("the receiver's answer does not arrive")]
    Cut(#[source] io::Error),
    #[error("the receiver's answer has more than {MOST_ANSWER} bytes")]
    Long,
    #[error("the receiver's answer is not one of OTLP in protobuf")]
    Foreign(#[source] DecodeError),
    #[error("the receiver rejects all of them")]
    Rejected,
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
            patience: PATIENCE,
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
            let sent = sent.and_then(|answer| rejected(signal, count, answer));
            let outcome = if sent.is_ok() { "ok" } else { "failed" };
            OTLP_EXPORTS.of([signal, outcome]).increment(1);
            match sent {
                Ok(rejected) => {
                    queue.lost(rejected);
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
                    .timeout(self.patience)
                    .connect_timeout(CONNECT)
                    .redirect(Policy::none())
                    .build()?,
            ),
        };
        let asked = client.post(&self.url).headers(self.headers.clone());
        // The client's own bounds the wait for the head, and for each piece of the body anew: a
        // receiver that drips would hold this thread. The request's counts from here to the end.
        let asked = asked.timeout(self.patience);
        let answer = asked.body(body).send()?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(ExportError::Status(answer.status().as_u16()))
        }
    }
}

/// How many of a batch the receiver says it has not taken, though it took the others.
fn rejected(signal: &str, count: usize, answer: Response) -> Result<usize, ExportError> {
    let mut body = Vec::new();
    let read = answer.take(MOST_ANSWER + 1).read_to_end(&mut body);
    let length = read.map_err(ExportError::Cut)?;
    if u64::try_from(length).is_ok_and(|length| length > MOST_ANSWER) {
        return Err(ExportError::Long);
    }
    let told = if signal == "logs" {
        let told = ExportLogsServiceResponse::decode(&body[..]);
        told.map(|told| told.partial_success.map(|it| it.rejected_log_records))
    } else {
        let told = ExportTraceServiceResponse::decode(&body[..]);
        told.map(|told| told.partial_success.map(|it| it.rejected_spans))
    };
    let rejected = told.map_err(ExportError::Foreign)?.unwrap_or_default();
    match usize::try_from(rejected).unwrap_or_default() {
        rejected if rejected < count => Ok(rejected),
        _ => Err(ExportError::Rejected),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread::JoinHandle;
    use std::time::Instant;

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    /// A receiver of one request: its URL, and the thread that ends when it is done with it.
    fn receiver(
        answer: impl FnOnce(TcpStream) + Send + 'static,
    ) -> io::Result<(String, JoinHandle<()>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let url = format!("http://{}/v1/traces", listener.local_addr()?);
        let thread = std::thread::spawn(move || {
            let (connection, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&connection);
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.split_once(':') else {
                    if line.trim().is_empty() {
                        break;
                    }
                    continue;
                };
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().unwrap();
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            answer(connection);
        });
        Ok((url, thread))
    }

    /// What becomes of a batch of ten.
    fn sent(url: &str, patience: Duration) -> Result<usize, ExportError> {
        let mut exporter = Exporter::new(url, &[]);
        exporter.patience = patience;
        let answer = exporter.send(&mut None, vec![0; 10])?;
        rejected("traces", 10, answer)
    }

    fn answered(body: Vec<u8>) -> Result<usize, ExportError> {
        let (url, receiving) = receiver(move |mut connection| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            connection.write_all(head.as_bytes()).unwrap();
            // Whoever has read enough hangs up.
            let _ = connection.write_all(&body);
        })
        .unwrap();
        let outcome = sent(&url, PATIENCE);
        receiving.join().unwrap();
        outcome
    }

    #[test]
    fn an_answer_says_what_has_arrived() {
        let told = |rejected_spans| {
            let partial_success = Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: "why".to_owned(),
            });
            answered(ExportTraceServiceResponse { partial_success }.encode_to_vec())
        };
        assert!(matches!(answered(Vec::new()), Ok(0)));
        assert!(matches!(told(0), Ok(0)));
        assert!(matches!(told(-1), Ok(0)));
        assert!(matches!(told(9), Ok(9)));
        for all in [10, 11, i64::MAX] {
            assert!(matches!(told(all), Err(ExportError::Rejected)), "{all}");
        }
        let page = b"<html>a page of something else</html>".to_vec();
        assert!(matches!(answered(page), Err(ExportError::Foreign(_))));
        let long = vec![0; 70_000];
        assert!(matches!(answered(long), Err(ExportError::Long)));
    }

    #[test]
    fn an_answer_that_drips_holds_nothing_up() {
        let (url, receiving) = receiver(|mut connection| {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n";
            connection.write_all(head.as_bytes()).unwrap();
            // Each byte well within the patience, until whoever reads them has hung up.
            while connection.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .unwrap();
        let began = Instant::now();
        let outcome = sent(&url, Duration::from_millis(500));
        assert!(matches!(outcome, Err(ExportError::Cut(_))), "{outcome:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
        receiving.join().unwrap();
    }
}
