//! What a request leaves in the log and in the metrics of commands.

use std::time::Instant;

use serde_json::{Value, json};
use system_tests::eventually;
use system_tests::world::{PATIENCE, Service, World};

use super::clients::{Clients, People};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SECRET: &str = "what nobody may find in a log";

/// In a world that logs JSON. Every line is JSON, and a request's id, trace and actor find its line.
pub async fn every_line_is_json_and_a_request_has_one(
    world: &World,
    clients: &Clients,
    people: &People,
) {
    let before = rejected(&world.command).await;
    let ask = async |id: &str, content: &str| {
        let request = clients.request("command-service", "POST", "/api/v1/posts?secret=query");
        let request = request
            .bearer_auth(&people.ada.token)
            .header("x-request-id", id)
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
            .json(&json!({ "content": content }));
        clients.send(request).await.status
    };
    assert_eq!(ask("line-accepted", SECRET).await, 201);
    assert_eq!(ask("line-rejected", "").await, 400);
    let rejections = rejected(&world.command).await - before;
    assert_eq!(rejections, 1.0, "what is not valid is counted, once");
    for (id, status) in [("line-accepted", 201), ("line-rejected", 400)] {
        let line = line_of(&world.command, id).await;
        let expected = json!({
            "service": "command-service", "target": "access", "level": "INFO", "status": status,
            "http.route": "/api/v1/posts", "http.method": "POST", "actor": people.ada.id,
            "trace.id": TRACE, "request.id": id, "version": env!("CARGO_PKG_VERSION"),
        });
        for (field, value) in expected.as_object().expect("fields") {
            assert_eq!(&line[field], value, "{field} of {line}");
        }
        assert!(
            line["duration_ms"].as_f64().is_some_and(|it| it > 0.0),
            "{line}"
        );
        assert!(
            line["instance"].as_str().is_some_and(|it| it.contains(':')),
            "{line}"
        );
    }
    for service in [&world.command, &world.query] {
        let lines = lines(service);
        assert!(lines.len() > 10);
        let logged = service.process.logged();
        assert!(!logged.contains(SECRET) && !logged.contains("secret=query"));
    }
}

/// After a flood of requests `odd-…` that began at `began`.
pub async fn a_flood_of_strangers_does_not_fill_the_log(
    world: &World,
    flood: usize,
    began: Instant,
) {
    let mut told = 0;
    let mut left_out = 0.0;
    for service in [&world.command, &world.query] {
        let of_flood = |line: &Value| {
            line["request.id"]
                .as_str()
                .is_some_and(|id| id.starts_with("odd-"))
        };
        told += lines(service).into_iter().filter(of_flood).count();
        let metric = service.metric("http_log_lines_left_out_total").await;
        left_out += metric.expect("it begins at 0");
    }
    println!("of {flood} requests of strangers {told} have a line, {left_out} have none");
    // In each service 200 at once, then 20 a second, of three classes of answers.
    let most = 2.0 * 3.0 * (200.0 + 20.0 * began.elapsed().as_secs_f64());
    assert!((told as f64) < most && told + left_out as usize >= flood);
    assert!(told > 100, "{told}");
}

/// All lines of a service's log but the marks of tests.
fn lines(service: &Service) -> Vec<Value> {
    let logged = service.process.logged();
    let ours = logged.lines().filter(|line| !line.starts_with("=== "));
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    ours.map(parse).collect()
}

async fn line_of(service: &Service, id: &str) -> Value {
    eventually(&format!("the line of {id}"), PATIENCE, async || {
        // The last one may be half written.
        let logged = service.process.logged();
        let lines = logged
            .lines()
            .filter_map(|it| serde_json::from_str::<Value>(it).ok());
        lines
            .into_iter()
            .find(|line| line["request.id"] == id && line["target"] == "access")
    })
    .await
}

async fn rejected(command: &Service) -> f64 {
    let series = r#"command_service_commands_total{command="create_post",outcome="rejected"} "#;
    let metrics = command.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(series));
    let value = value.expect("it begins at 0");
    value.parse().expect("a number")
}
