//! What is seen of a post, hop by hop.

use reqwest::{Method, StatusCode};
use serde_json::json;
use system_tests::otlp::{Receiver, Span};
use system_tests::world::{PATIENCE, Role};
use system_tests::{eventually, http_client};

use super::{CLIENT, Traced, new_trace, traceparent};

const SECRET: &str = "words that stand in no span";

/// The only span of this name in the trace.
fn only(spans: &[Span], name: &str) -> Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name} in {spans:#?}");
    named[0].clone()
}

pub async fn a_post_and_its_projection_are_one_trace(traced: &Traced) {
    let trace = traced.follow_one(SECRET).await;
    // Each process sends its own when it likes.
    let published = "publish microblog.events.post.created";
    for name in ["POST /api/v1/posts", published, "fold batch"] {
        traced.receiver.span(&trace, |span| span.name == name).await;
    }
    let spans = traced.receiver.spans(&trace);
    let served = only(&spans, "POST /api/v1/posts");
    assert_eq!(served.service, "command-service");
    assert_eq!(served.parent, CLIENT, "it goes on from the client's span");
    let says = |name: &str| served.attributes.get(name).map(String::as_str);
    assert_eq!(says("http.request.method"), Some("POST"));
    assert_eq!(says("http.route"), Some("/api/v1/posts"));
    assert_eq!(says("http.response.status_code"), Some("201"));
    // The chain within the process that answered.
    let chain = [
        ("create_post", &served.id),
        ("load actor", &only(&spans, "create_post").id),
        ("reserve quota", &only(&spans, "create_post").id),
        ("append", &only(&spans, "create_post").id),
        ("insert events", &only(&spans, "append").id),
    ];
    for (name, parent) in chain {
        let span = only(&spans, name);
        assert_eq!(&span.parent, parent, "{name}");
        assert_eq!(span.instance, served.instance, "{name}");
        assert!(!span.failed && span.began <= span.ended, "{name}");
    }
    assert_eq!(
        only(&spans, "insert events").attributes["db.system.name"],
        "mongodb"
    );
    // Another process, from what the log says.
    let published = only(&spans, published);
    assert_eq!(published.parent, only(&spans, "append").id);
    assert_eq!(published.service, "command-service");
    assert_ne!(published.instance, served.instance);
    assert_eq!(published.attributes["messaging.system"], "nats");
    // And another, from what the message says: at least the author's own partition.
    let folds: Vec<_> = spans
        .iter()
        .filter(|it| it.name == "fold post.created")
        .collect();
    assert!(!folds.is_empty());
    for fold in folds {
        assert_eq!(fold.parent, published.id);
        assert_eq!(fold.service, "query-service");
        for says in [
            "microblog.partition",
            "microblog.stream.sequence",
            "microblog.entries",
        ] {
            assert!(fold.attributes.contains_key(says), "{says}");
        }
        let batch = spans.iter().find(|span| {
            span.name == "fold batch" && fold.links.contains(&(trace.clone(), span.id.clone()))
        });
        let batch = batch.expect("each names the batch that it was committed with");
        assert!(batch.links.contains(&(trace.clone(), fold.id.clone())));
        assert_eq!(batch.instance, fold.instance);
    }
    let bearer = traced.receiver.authorized();
    assert!(!bearer.is_empty() && bearer.iter().all(|value| value == "Bearer secret"));
    // Nothing of what anybody wrote.
    for span in &spans {
        let texts = span.attributes.values().chain([&span.name]);
        for text in texts {
            let tells = text.contains("words") || text.contains("traced_") || text.contains('@');
            assert!(!tells, "{}: {text}", span.name);
        }
    }
}

pub async fn a_read_is_a_span_and_health_is_none(traced: &Traced) {
    let trace = new_trace();
    let parent = traceparent(&trace, true);
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=1")];
    let address = &traced.roles.address;
    let answer = traced
        .ask(address, (Method::GET, "/timeline"), &headers, None)
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let named = |span: &Span| span.name == "GET /api/v1/timeline";
    let span = traced.receiver.span(&trace, named).await;
    assert_eq!(
        (span.service.as_str(), span.parent.as_str()),
        ("query-service", CLIENT)
    );
    assert_eq!(traced.receiver.spans(&trace).len(), 1);
    // The operator's port is no part of any trace.
    let relay = &traced.roles.of(Role::Relay)[0];
    let trace = new_trace();
    for path in ["readyz", "livez", "metrics"] {
        let url = format!(
            "http://{}:{}/{path}",
            relay_host(&relay.api),
            relay.ops_port()
        );
        let request = http_client(None).get(url);
        let sent = request
            .header("traceparent", traceparent(&trace, true))
            .send();
        sent.await.expect("an answer");
    }
    traced.follow_one("another").await;
    assert!(traced.receiver.spans(&trace).is_empty());
}

pub async fn a_live_stream_s_span_ends_when_it_begins(traced: &Traced) {
    let trace = new_trace();
    let url = format!("{}/api/v1/timeline/stream", traced.roles.address);
    let request = http_client(None)
        .get(url)
        .bearer_auth(traced.reader.token());
    let request = request.header("traceparent", traceparent(&trace, true));
    let stream = request.send().await.expect("a live stream");
    assert_eq!(stream.status(), StatusCode::OK);
    let named = |span: &Span| span.name == "GET /api/v1/timeline/stream";
    let span = traced.receiver.span(&trace, named).await;
    assert!(!span.failed);
    drop(stream);
}

/// Published by a relay that was not there when they were written: many traces in one batch.
pub async fn what_waits_in_the_log_keeps_its_trace(traced: &Traced) {
    const POSTS: usize = 3;
    let relays = traced.roles.of(Role::Relay);
    for relay in relays {
        relay.process.terminate();
        let ended = relay.process.wait(PATIENCE).await.expect("it ends");
        assert!(ended.success(), "{ended}");
        relay.process.kill();
    }
    let traces: Vec<_> = (0..POSTS).map(|_| new_trace()).collect();
    for trace in &traces {
        traced.post("waits", &traceparent(trace, true)).await;
    }
    for relay in relays {
        relay.start().await;
    }
    for trace in &traces {
        let named = async |name: &str| traced.receiver.span(trace, |it| it.name == name).await;
        let fold = named("fold post.created").await;
        named("append").await;
        named("publish microblog.events.post.created").await;
        let spans = traced.receiver.spans(trace);
        let published = only(&spans, "publish microblog.events.post.created");
        assert_eq!(published.parent, only(&spans, "append").id);
        assert_eq!(fold.parent, published.id);
        // Its batch may be seen in the trace of another event.
        let [(batch_trace, batch)] = &fold.links[..] else {
            panic!("one link: {fold:?}");
        };
        assert!(traces.contains(batch_trace), "{batch_trace}");
        let linked = traced
            .receiver
            .span(batch_trace, |span| &span.id == batch)
            .await;
        assert_eq!(linked.name, "fold batch");
        assert!(linked.links.contains(&(trace.clone(), fold.id.clone())));
    }
}

fn relay_host(api: &str) -> &str {
    let host = api.trim_start_matches("http://");
    host.split(':').next().unwrap_or(host)
}

/// Neither where the client says so, nor where it says nothing: here nobody else decides to.
pub async fn what_is_not_sampled_sends_nothing(traced: &Traced) {
    let (unsampled, upper) = (new_trace(), "4BF92F3577B34DA6A3CE929D0E0E4736");
    let told = traced
        .post("unsampled", &traceparent(&unsampled, false))
        .await;
    traced.post("badly told", &traceparent(upper, true)).await;
    let id = told.body["post_id"].as_str().expect("a post").to_owned();
    eventually("it can be read", PATIENCE, async || {
        let page = traced.reader.timeline(20, None, None).await;
        page.posts
            .iter()
            .any(|post| post.post_id == id)
            .then_some(())
    })
    .await;
    // What each process sends, it sends in order: these come after whatever else would have come.
    for number in 0..4 {
        traced.follow_one(&format!("later {number}")).await;
    }
    for trace in [unsampled.as_str(), upper, &upper.to_lowercase()] {
        assert_eq!(traced.receiver.spans(trace).len(), 0, "{trace}");
    }
    // The log knows the trace all the same, and that it is not recorded.
    let events = traced.roles.world.events().await;
    let of_post = mongodb::bson::doc! { "_id": id.parse::<i64>().expect("a number") };
    let event = events
        .find_one(of_post)
        .await
        .expect("the log")
        .expect("the event");
    let kept = event.get_str("trace").expect("a trace");
    assert!(
        kept.starts_with(&format!("00-{unsampled}-")) && kept.ends_with("-00"),
        "{kept}"
    );
}

pub async fn problems_and_lines_name_the_trace(traced: &Traced) {
    let trace = new_trace();
    let parent = traceparent(&trace, true);
    let headers = [("traceparent", parent.as_str())];
    let (address, posts) = (&traced.roles.address, (Method::POST, "/posts"));
    let empty = Some(json!({ "content": "" }));
    let refused = traced
        .ask(address, posts.clone(), &headers, empty.clone())
        .await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.body["trace_id"], trace.as_str());
    // Whoever names no trace, or none that W3C knows, is told of a new one.
    let zeros = "0".repeat(32);
    for bad in [
        None,
        Some(traceparent(&zeros, true)),
        Some("nonsense".to_owned()),
    ] {
        let headers: Vec<_> = bad
            .iter()
            .map(|bad| ("traceparent", bad.as_str()))
            .collect();
        let refused = traced
            .ask(address, posts.clone(), &headers, empty.clone())
            .await;
        let told = refused.body["trace_id"]
            .as_str()
            .expect("a trace")
            .to_owned();
        assert!(told.len() == 32 && told != zeros, "{told}");
        let id = refused.request_id();
        let says = |name: &str, id: &str, line: &system_tests::otlp::Line| {
            line.attributes.get(name).is_some_and(|said| said == id)
        };
        let line = traced
            .receiver
            .line(|line| says("request.id", &id, line))
            .await;
        assert_eq!(line.trace, told, "the request's id finds its trace");
        assert_eq!(line.attributes["trace.id"], told);
    }
    let served = traced
        .receiver
        .span(&trace, |span| span.name.starts_with("POST"))
        .await;
    let line = traced.receiver.line(|line| line.trace == trace).await;
    assert_eq!(
        (line.body.as_str(), line.severity.as_str()),
        ("answered", "INFO")
    );
    assert_eq!(
        (line.span, line.service.as_str()),
        (served.id, "command-service")
    );
    assert_eq!(line.attributes["status"], "400");
    assert_eq!(line.attributes["target"], "access");
}

/// Neither the process that rebuilds nor those that take over from it.
pub async fn a_rebuild_folds_old_traces_and_adds_nothing_to_them(traced: &Traced) {
    let trace = traced.follow_one("older than the rebuild").await;
    // Each partition has sent what it made of it, before what it makes of this.
    traced.follow_one("after it").await;
    let folds = |trace: &str| {
        let spans = traced.receiver.spans(trace);
        spans
            .iter()
            .filter(|it| it.name.starts_with("fold"))
            .count()
    };
    let before = folds(&trace);
    let receiver = Receiver::start().await;
    let url = receiver.url();
    let rebuild = traced.roles.world.operator_with(
        "traced-rebuild",
        "query-service",
        &["rebuild"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_LOGS_EXPORTER", "otlp"),
        ],
    );
    let (status, printed) = traced.roles.world.run_to_end(&rebuild).await;
    assert!(status.success(), "{printed}");
    assert!(
        !receiver.lines().is_empty(),
        "it sends, and folds in silence"
    );
    let names = receiver.names();
    assert!(
        names.iter().all(|name| !name.starts_with("fold")),
        "{names:?}"
    );
    traced.follow_one("after the rebuild").await;
    assert_eq!(folds(&trace), before);
}
