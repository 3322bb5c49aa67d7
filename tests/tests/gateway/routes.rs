//! Every path of the contract with every method, with the gateway and without it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::auth::token::KEY_SET;
use shared::web::routes::{self, Service};
use system_tests::api::Session;
use system_tests::world::{PATIENCE, World};
use system_tests::{eventually, http_client};

use super::Front;

/// `PURGE` is no method of ours or of HTTP's, and every client may send it.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE",
];
/// What differs between two answers to the same call.
const VARYING: [&str; 4] = ["date", "x-consistency-token", "location", "ratelimit"];
/// Of one connection, not of the answer.
const HOP: [&str; 2] = ["connection", "transfer-encoding"];

/// A call through the gateway: the request's id, and the service that answers it.
pub struct Call {
    id: String,
    service: Service,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

pub async fn every_call_is_answered_as_without_the_gateway(
    world: &World,
    front: &Front,
    ada: &Session,
) -> Vec<Call> {
    let http = http_client(Some(Duration::from_secs(20)));
    let [kept, doomed] = settled_posts(ada).await;
    let paths: Vec<_> = routes::paths()
        .chain(["/api/v1/nowhere", "/nowhere"])
        .collect();
    let (mut calls, mut wrong) = (Vec::new(), Vec::new());
    // Reads come first: what the others change is folded at some moment later.
    for (method, pattern) in METHODS
        .iter()
        .flat_map(|method| paths.iter().map(move |path| (*method, *path)))
    {
        let service = service_of(pattern, method);
        let direct = match service {
            Service::Command => &world.command.api,
            Service::Query => &world.query.api,
        };
        let id = match (method, pattern) {
            ("DELETE", "/api/v1/posts/{id}") => &doomed,
            (_, path) if path.starts_with("/api/v1/posts/") => &kept,
            _ => &ada.user_id,
        };
        let path = pattern.replace("{id}", id).replace("{name}", &ada.username);
        let path = path.replace("{file}", "style.css");
        let id = format!("call-{}", calls.len());
        let ask = async |base: &str| {
            let known = Method::from_bytes(method.as_bytes()).expect("a method");
            let request = http.request(known, format!("{base}{path}"));
            let request = request.bearer_auth(ada.token()).header("x-request-id", &id);
            let request = request.header("origin", "https://a.example");
            answer(match body_of(pattern, method) {
                Some(body) => request.json(&body),
                None => request,
            })
            .await
        };
        let name = format!("{method} {path}");
        let (without, with) = (ask(direct).await, ask(&front.url).await);
        wrong.extend(differences(&name, &without, &with));
        wrong.extend(unlike_the_contract(&name, pattern, method, &with));
        calls.push(Call { id, service });
    }
    println!(
        "{} calls of {} paths: {} differ",
        calls.len(),
        paths.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    calls
}

/// Two posts, once everything that counts them is folded.
async fn settled_posts(ada: &Session) -> [String; 2] {
    // So that a later edit to the same changes nothing, and is answered in the same way again.
    ada.rename("routes").await.accepted();
    let kept = ada.post("kept", "kept").await.accepted();
    let doomed = ada.post("doomed", "doomed").await.accepted();
    let profile = format!("/users/{}", ada.user_id);
    eventually("both posts are counted", PATIENCE, async || {
        let answer = ada.get(&profile, Some(&doomed.consistency)).await.ok()?;
        (answer.body["posts_count"] == 2).then_some(())
    })
    .await;
    [kept.value, doomed.value]
}

/// Where the gateway has to send it.
fn service_of(pattern: &str, method: &str) -> Service {
    if matches!(method, "GET" | "HEAD") && pattern != KEY_SET {
        Service::Query
    } else {
        Service::Command
    }
}

/// What the call may be repeated with, to be answered in the same way again.
fn body_of(pattern: &str, method: &str) -> Option<Value> {
    match (method, pattern) {
        ("POST", "/api/v1/posts") => Some(json!({ "content": "routes" })),
        ("PATCH", "/api/v1/users/me") => Some(json!({ "display_name": "routes" })),
        ("DELETE", "/api/v1/users/me") => Some(json!({ "password": "not the password" })),
        ("POST", path) if !path.contains("{id}") => Some(json!({})),
        ("PUT", "/api/v1/users/me/password") => {
            Some(json!({ "password": "not the password", "new_password": "nor is this" }))
        }
        ("PUT", "/api/v1/users/me/email") => {
            Some(json!({ "password": "not the password", "email": "new@example.org" }))
        }
        ("PUT" | "PATCH" | "PURGE", _) => Some(json!({})),
        _ => None,
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let kind = headers.get("content-type").map(|kind| kind.as_bytes());
    // A live stream has no end.
    let body = if kind == Some(b"text/event-stream") {
        Value::Null
    } else {
        let bytes = response.bytes().await.expect("a body");
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)))
    };
    Answer {
        status,
        headers,
        body,
    }
}

/// What is not the same in both answers, but for what never is.
fn differences(call: &str, without: &Answer, with: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if without.status != with.status {
        found.push(format!(
            "{call}: {} without, {} with: {}",
            without.status, with.status, with.body
        ));
    }
    let (one, other) = (masked(&without.body), masked(&with.body));
    if one != other {
        found.push(format!("{call}: {one} without, {other} with"));
    }
    let (one, other) = (headers(&without.headers), headers(&with.headers));
    for name in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
        let (one, other) = (one.get(name), other.get(name));
        if one != other {
            found.push(format!("{call}: {name}: {one:?} without, {other:?} with"));
        }
    }
    found
}

/// A method that a path has at neither service: 405, and what both have.
fn unlike_the_contract(call: &str, pattern: &str, method: &str, with: &Answer) -> Option<String> {
    let allowed = routes::allow(pattern);
    let has = allowed.split(", ").any(|known| known == method);
    let expected = match (allowed.as_str(), has) {
        ("", _) => StatusCode::NOT_FOUND,
        (_, false) => StatusCode::METHOD_NOT_ALLOWED,
        (_, true) => {
            let refused = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
            return refused
                .contains(&with.status)
                .then(|| format!("{call}: {}", with.status));
        }
    };
    let allow = with
        .headers
        .get("allow")
        .map(|value| value.to_str().unwrap_or_default());
    let right =
        with.status == expected && (expected == StatusCode::NOT_FOUND || allow == Some(&allowed));
    (!right).then(|| {
        format!(
            "{call}: {}, Allow {allow:?}, not {expected} {allowed}",
            with.status
        )
    })
}

fn headers(all: &HeaderMap) -> BTreeMap<String, String> {
    let kept = all.iter().filter(|(name, _)| !HOP.contains(&name.as_str()));
    kept.map(|(name, value)| {
        let value = if VARYING.contains(&name.as_str()) {
            b""
        } else {
            value.as_bytes()
        };
        (
            name.to_string(),
            String::from_utf8_lossy(value).into_owned(),
        )
    })
    .collect()
}

/// The body without what two calls never share: ids of what they made, and times.
fn masked(body: &Value) -> Value {
    const OWN: [&str; 3] = ["post_id", "entry_id", "created_at"];
    match body {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let value = if OWN.contains(&name.as_str()) {
                    json!("...")
                } else {
                    masked(value)
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => body.clone(),
    }
}

/// What operators look for, by the id that the caller has or was told.
pub async fn each_call_is_in_the_access_log_with_its_id(front: &Front, calls: &[Call]) {
    // A line is written when its answer has been sent.
    let by_id = eventually("every call is in the access log", PATIENCE, async || {
        let lines = front.accesses().into_iter();
        let by_id: BTreeMap<_, _> = lines
            .filter_map(|line| Some((line["downstream_X-Request-Id"].as_str()?.to_owned(), line)))
            .collect();
        calls
            .iter()
            .all(|call| by_id.contains_key(&call.id))
            .then_some(by_id)
    })
    .await;
    for Call { id, service } in calls {
        let line = &by_id[id];
        let router = match service {
            Service::Command => "commands@file",
            Service::Query => "queries@file",
        };
        assert_eq!(line["RouterName"], router, "{line}");
        assert_eq!(line["request_X-Request-Id"], **id, "{line}");
    }
}
