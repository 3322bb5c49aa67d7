//! Traces and log lines by OTLP, from the processes as the manifests have them: two of each role.
//!
//! The receiver is real HTTP and protobuf; what it does not get has not been sent.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "tracing/cost.rs"]
mod cost;
#[path = "tracing/faults.rs"]
mod faults;
#[path = "tracing/hops.rs"]
mod hops;

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::api::Session;
use system_tests::http_client;
use system_tests::otlp::Receiver;
use system_tests::world::Roles;

/// The span that the client says is its own.
const CLIENT: &str = "00f067aa0ba902b7";

/// A trace that nobody has had before.
fn new_trace() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What a client sends that records a trace, or that does not.
fn traceparent(trace: &str, sampled: bool) -> String {
    format!("00-{trace}-{CLIENT}-{:02x}", u8::from(sampled))
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answered {
    fn request_id(&self) -> String {
        let id = self
            .headers
            .get("x-request-id")
            .expect("every answer has one");
        id.to_str().expect("plain text").to_owned()
    }
}

/// Two processes of each role that send what they see to a receiver. Only traces that a client asks
/// for are recorded.
struct Traced {
    roles: Roles,
    receiver: Receiver,
    /// Follows the other.
    reader: Session,
    author: Session,
}

impl Traced {
    async fn start() -> Self {
        let receiver = Receiver::start().await;
        let url = receiver.url();
        let roles = Roles::start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20secret",
            ),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ])
        .await;
        let mut sessions = roles.world.sessions(&roles.api(), "traced", 2).await;
        let (author, reader) = (sessions.remove(0), sessions.remove(0));
        reader.follow(&author.user_id).await.accepted();
        Self {
            roles,
            receiver,
            reader,
            author,
        }
    }

    /// One request of the author's, with headers.
    async fn ask(
        &self,
        at: &str,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answered {
        let client = http_client(Some(Duration::from_secs(30)));
        let mut request = client
            .request(method, format!("{at}/api/v1{path}"))
            .bearer_auth(self.author.token());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        Answered {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.json().await.unwrap_or_default(),
        }
    }

    /// Posts through the gateway, in a trace.
    async fn post(&self, content: &str, traceparent: &str) -> Answered {
        self.post_at(&self.roles.address, content, traceparent)
            .await
    }

    async fn post_at(&self, at: &str, content: &str, traceparent: &str) -> Answered {
        let headers = [("traceparent", traceparent)];
        let body = json!({ "content": content });
        let answer = self
            .ask(at, (Method::POST, "/posts"), &headers, Some(body))
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer
    }

    /// Posts in a new trace that is recorded, and waits until it has arrived with all its hops.
    async fn follow_one(&self, content: &str) -> String {
        let trace = new_trace();
        self.post(content, &traceparent(&trace, true)).await;
        let last = |span: &system_tests::otlp::Span| span.name == "fold post.created";
        self.receiver.span(&trace, last).await;
        trace
    }

    async fn sum(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for service in self.roles.all() {
            sum += service.metric(metric).await.unwrap_or_default();
        }
        sum
    }

    /// How many processes have logged this, and how often.
    fn logged(&self, text: &str) -> Vec<usize> {
        let all = self.roles.all();
        let counts = all.map(|service| service.process.logged().matches(text).count());
        counts.filter(|count| *count > 0).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hop_is_in_one_trace_and_a_receiver_that_is_away_loses_spans_and_no_requests() {
    let mut traced = Traced::start().await;
    hops::a_post_and_its_projection_are_one_trace(&traced).await;
    hops::a_read_is_a_span_and_health_is_none(&traced).await;
    hops::a_live_stream_s_span_ends_when_it_begins(&traced).await;
    hops::what_is_not_sampled_sends_nothing(&traced).await;
    hops::what_waits_in_the_log_keeps_its_trace(&traced).await;
    hops::problems_and_lines_name_the_trace(&traced).await;
    faults::a_receiver_that_is_away_costs_spans(&mut traced).await;
    faults::a_stop_sends_what_is_left(&traced).await;
    faults::disabled_connects_to_nothing(&traced).await;
    faults::sending_makes_no_lines_to_send(&traced).await;
    faults::whoever_asks_to_be_recorded_is_heard_within_bounds(&traced).await;
    faults::a_receiver_that_hangs_holds_nothing_up(&traced).await;
    faults::an_answer_that_drips_is_a_failure(&traced).await;
    hops::a_rebuild_folds_old_traces_and_adds_nothing_to_them(&traced).await;
}

/// Not with all tests: it takes minutes, and measures what is noisy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: run it by itself, optimised"]
async fn to_see_inside_costs_less_than_a_tenth() {
    cost::run().await;
}
