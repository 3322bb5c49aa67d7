//! A receiver that is away, hangs, or comes back; a process that ends, or is told not to trace.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use system_tests::otlp::{Manner, Receiver};
use system_tests::world::{PATIENCE, Role};
use system_tests::{eventually, http_client};

use super::{Traced, new_trace, traceparent};

/// No request may take so long because nobody receives its spans.
const SOON: Duration = Duration::from_secs(2);
const FAILS: &str = "OTLP: traces are lost until they arrive again";
const WORKS: &str = "OTLP: traces arrive again";

/// Waits until so many more requests to the receiver have failed, while posts go on.
async fn fail_more(traced: &Traced, more: f64) {
    let failed = "otlp_exports_total{signal=\"traces\",outcome=\"failed\"}";
    let before = traced.sum(failed).await;
    let mut number = 0;
    eventually("exports fail", PATIENCE, async || {
        let trace = new_trace();
        let began = Instant::now();
        traced
            .post(&format!("lost {number}"), &traceparent(&trace, true))
            .await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        number += 1;
        (traced.sum(failed).await >= before + more).then_some(())
    })
    .await;
}

pub async fn a_receiver_that_is_away_costs_spans(traced: &mut Traced) {
    assert!(traced.logged(FAILS).is_empty());
    let dropped = "otlp_dropped_total{signal=\"traces\"}";
    assert_eq!(traced.sum(dropped).await, 0.0);
    traced.receiver.stop().await;
    // Of one process at least two in a row: six processes send spans.
    fail_more(traced, 13.0).await;
    assert!(traced.sum(dropped).await > 0.0);
    let said = traced.logged(FAILS);
    assert!(
        !said.is_empty() && said.iter().all(|count| *count == 1),
        "{said:?}"
    );
    traced.receiver.answers(Manner::Refuses);
    traced.receiver.listen().await;
    fail_more(traced, 2.0).await;
    traced.receiver.answers(Manner::Takes);
    // Through each replica of the API, so that all that failed have sent again.
    for number in 0..4 {
        traced.follow_one(&format!("found again {number}")).await;
    }
    let failed = traced.logged(FAILS);
    assert!(failed.iter().all(|count| *count == 1), "{failed:?}");
    let works = traced.logged(WORKS);
    assert!(
        !works.is_empty() && works.iter().all(|count| *count == 1),
        "{works:?}"
    );
}

/// Not only after the queue's second: at once, before the process is gone.
pub async fn a_stop_sends_what_is_left(traced: &Traced) {
    let world = &traced.roles.world;
    // Without the seconds in which it would still take requests, and send by the way.
    let api = world.another_in(
        &world.command,
        &["--role", "api"],
        &[("DRAIN_SECS", "0"), ("OTEL_SERVICE_NAME", "the-last-one")],
    );
    api.start().await;
    let trace = new_trace();
    traced
        .post_at(&api.api, "the last", &traceparent(&trace, true))
        .await;
    api.process.terminate();
    let ended = api.process.wait(PATIENCE).await.expect("it ends");
    assert!(ended.success(), "{ended}");
    let names = |name: &str| {
        let spans = traced.receiver.spans(&trace);
        spans.iter().any(|span| span.name == name)
    };
    assert!(names("POST /api/v1/posts") && names("insert events"));
    let said = traced.receiver.lines().into_iter();
    let said = said.filter(|line| line.service == "the-last-one");
    assert!(
        said.map(|line| line.body)
            .any(|body| body == "shutting down")
    );
}

pub async fn disabled_connects_to_nothing(traced: &Traced) {
    let receiver = Receiver::start().await;
    let world = &traced.roles.world;
    let url = receiver.url();
    let variable = |name: &'static str| (name, "true");
    let off = world.another_in(
        &world.command,
        &["--role", "api"],
        &[
            variable("OTEL_SDK_DISABLED"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ],
    );
    let none = world.another_in(
        &world.command,
        &["--role", "api"],
        &[
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ],
    );
    for service in [&off, &none] {
        service.start().await;
        let trace = new_trace();
        traced
            .post_at(&service.api, "unseen", &traceparent(&trace, true))
            .await;
        service.process.terminate();
        let ended = service.process.wait(PATIENCE).await.expect("it ends");
        assert!(ended.success(), "{ended}");
        // The relay is on, and goes on from the client's span: its event has that one.
        let published = |span: &system_tests::otlp::Span| span.name.starts_with("publish");
        let span = traced.receiver.span(&trace, published).await;
        assert_eq!(span.parent, super::CLIENT);
    }
    assert_eq!(receiver.connections(), 0);
}

/// Neither the flag nor a trace id that the sampler would record brings in more.
pub async fn whoever_asks_to_be_recorded_is_heard_within_bounds(traced: &Traced) {
    const FLOOD: usize = 1_000;
    const AT_ONCE: usize = 200;
    const PER_SECOND: f64 = 50.0;
    let by_flag: (_, fn() -> String) =
        ("parentbased_always_off", || traceparent(&new_trace(), true));
    let by_id: (_, fn() -> String) = ("traceidratio", || {
        let trace = format!("{}{:016x}", &new_trace()[..16], 1);
        traceparent(&trace, false)
    });
    for (sampler, asks) in [by_flag, by_id] {
        let receiver = Receiver::start().await;
        let (world, url) = (&traced.roles.world, receiver.url());
        let api = world.another_in(
            &world.query,
            &["--role", "api"],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
                ("DRAIN_SECS", "0"),
            ],
        );
        api.start().await;
        let said = api.process.logged();
        assert!(
            said.contains("no effect here, see docs/settings.md: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
            "{said}"
        );
        let client = http_client(Some(PATIENCE));
        let began = Instant::now();
        let answers = stream::iter(0..FLOOD).map(async |_| {
            let parent = asks();
            let url = format!("{}/api/v1/timeline", api.api);
            let asked = client.get(url).header("traceparent", &parent).send();
            let body: Value = asked.await.expect("an answer").json().await.expect("JSON");
            let trace = parent[3..35].to_owned();
            assert_eq!(body["trace_id"], trace.as_str(), "it is known all the same");
            trace
        });
        let traces: Vec<_> = answers.buffer_unordered(16).collect().await;
        let most = AT_ONCE as f64 + PER_SECOND * began.elapsed().as_secs_f64() + 1.0;
        api.process.terminate();
        let ended = api.process.wait(PATIENCE).await.expect("it ends");
        assert!(ended.success(), "{ended}");
        let spans = traces.iter().map(|trace| receiver.spans(trace));
        let recorded: Vec<_> = spans.filter(|spans| !spans.is_empty()).collect();
        let count = recorded.len();
        assert!(
            count >= AT_ONCE && count as f64 <= most,
            "{sampler}: {count} of {most}"
        );
        assert_eq!(recorded[0][0].attributes["http.route"], "/api/v1/timeline");
    }
}

/// Or each request to the receiver would make lines for the next one.
pub async fn sending_makes_no_lines_to_send(traced: &Traced) {
    let receiver = Receiver::start().await;
    let (world, url) = (&traced.roles.world, receiver.url());
    let loud = world.another_in(
        &world.command,
        &["--role", "api"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("LOG_FORMAT", "json"),
            ("RUST_LOG", "trace"),
        ],
    );
    loud.start().await;
    let client = |said: &str| said.starts_with("hyper") || said.starts_with("reqwest");
    eventually("the client that sends is heard", PATIENCE, async || {
        let said = loud.process.logged();
        said.contains("\"target\":\"hyper").then_some(())
    })
    .await;
    loud.process.terminate();
    loud.process.wait(PATIENCE).await.expect("it ends");
    let lines = receiver.lines();
    assert!(lines.iter().any(|line| line.body == "shutting down"));
    assert!(!lines.iter().any(|line| client(&line.attributes["target"])));
}

pub async fn a_receiver_that_hangs_holds_nothing_up(traced: &Traced) {
    traced.receiver.answers(Manner::Hangs);
    fail_more(traced, 1.0).await;
    let [api, _] = traced.roles.of(Role::CommandApi);
    let trace = new_trace();
    traced
        .post_at(&api.api, "never told", &traceparent(&trace, true))
        .await;
    let began = Instant::now();
    api.process.terminate();
    let ended = api.process.wait(PATIENCE).await.expect("it ends");
    assert!(ended.success(), "{ended}");
    // DRAIN_SECS of the roles, and two for what is left.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    let said = api.process.logged();
    assert!(
        said.contains("OTLP: the last of the process were not taken"),
        "{said}"
    );
    traced.receiver.answers(Manner::Takes);
}

pub async fn an_answer_that_drips_is_a_failure(traced: &Traced) {
    let receiver = Receiver::start().await;
    receiver.answers(Manner::Drips);
    let (world, url) = (&traced.roles.world, receiver.url());
    let api = world.another_in(
        &world.command,
        &["--role", "api"],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())],
    );
    api.start().await;
    let trace = new_trace();
    traced
        .post_at(&api.api, "dripped", &traceparent(&trace, true))
        .await;
    eventually("it is lost", PATIENCE, async || {
        let said = api.process.logged();
        (said.contains(FAILS) && said.contains("the receiver's answer does not arrive"))
            .then_some(())
    })
    .await;
    let exports = async |outcome: &str| {
        let series = format!("otlp_exports_total{{signal=\"traces\",outcome=\"{outcome}\"}}");
        api.metric(&series).await.unwrap_or_default()
    };
    assert_eq!(exports("ok").await, 0.0);
    assert!(exports("failed").await > 0.0);
    receiver.answers(Manner::Takes);
    let trace = new_trace();
    traced
        .post_at(&api.api, "arrives", &traceparent(&trace, true))
        .await;
    let named = |span: &system_tests::otlp::Span| span.name == "POST /api/v1/posts";
    receiver.span(&trace, named).await;
    eventually("it says so", PATIENCE, async || {
        api.process.logged().contains(WORKS).then_some(())
    })
    .await;
    assert!(exports("ok").await > 0.0);
}
