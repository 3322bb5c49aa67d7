//! While a service is away for a moment, the gateway waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;
use system_tests::api::Session;
use system_tests::http_client;
use system_tests::world::{PATIENCE, Service, World};

use super::Front;

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Texts of posts, or nothing for reads.
    succeeded: Vec<String>,
    /// 503 with `Retry-After`: the query service says so while it starts.
    asked_to_come_back: usize,
    failed: Vec<String>,
    slowest: Duration,
}

const CLIENTS: usize = 4;
/// A connection that the service has not accepted when it closes its port is reset, and what was
/// sent on it is not sent again: at most one request of each client, when a service stops, and when
/// the query service has started.
const RESET: usize = 2 * CLIENTS;

pub async fn run() {
    let world = World::start(&[]).await;
    let front = Front::of(&world, &["--rate", "0"]).await;
    let sessions = world.sessions(&front.api(), "writer", 1).await;
    let writer = &sessions[0];

    let read = |_: usize| writer.request("/timeline?limit=5");
    let reads = during(&front, read, async || restart(&world.query, true).await).await;
    reads.told("the query service restarts");
    let asked = during(
        &front,
        |n| post(&front, writer, "asked", n),
        async || restart(&world.command, true).await,
    )
    .await;
    asked.told("the command service restarts");
    let killed = during(
        &front,
        |n| post(&front, writer, "killed", n),
        async || restart(&world.command, false).await,
    )
    .await;
    killed.told("the command service is killed");

    let last = writer.post("the last", "the-last").await.accepted();
    let mut times = BTreeMap::new();
    for shown in writer.scroll(100, Some(&last.consistency)).await {
        *times.entry(shown.content).or_insert(0) += 1;
    }
    for text in asked.succeeded.iter().chain(&killed.succeeded) {
        assert_eq!(times.get(text), Some(&1), "{text} was acknowledged");
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

impl Told {
    fn told(&self, what: &str) {
        let (good, back, bad) = (
            self.succeeded.len(),
            self.asked_to_come_back,
            self.failed.len(),
        );
        println!(
            "{what}: {good} requests succeed, {back} are asked to come back, {bad} fail, \
             the slowest takes {:.2?}",
            self.slowest
        );
        assert!(bad <= RESET, "{:?}", self.failed);
        assert!(
            self.failed
                .iter()
                .all(|why| why.contains("502 Bad Gateway")),
            "{:?}",
            self.failed
        );
    }
}

/// Asks a service to stop, or kills it, and starts it again as soon as it has ended.
async fn restart(service: &Service, in_order: bool) {
    if in_order {
        service.process.terminate();
        let ended = service.process.wait(PATIENCE).await;
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    } else {
        service.process.kill();
    }
    service.start().await;
}

/// A post without an idempotency key: sent twice, it would be there twice.
fn post(front: &Front, writer: &Session, round: &str, number: usize) -> RequestBuilder {
    let request = http_client(None).post(format!("{}/api/v1/posts", front.url));
    let text = format!("{round} {number}");
    request
        .bearer_auth(writer.token())
        .json(&json!({ "content": text }))
}

/// Clients send one request after the other: some before, some while the work is done, some after.
async fn during(
    front: &Front,
    request: impl Fn(usize) -> RequestBuilder,
    work: impl AsyncFnOnce(),
) -> Told {
    const SOME: usize = 10;
    let http = http_client(Some(Duration::from_secs(20)));
    let (told, stop) = (
        tokio::sync::Mutex::new(Told::default()),
        AtomicBool::new(false),
    );
    let client = async |first: usize| {
        let mut number = first;
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let built = request(number).build().expect("a request");
            let answer = http
                .execute(built)
                .await
                .expect("the gateway always answers");
            let (status, come_back) = (
                answer.status(),
                answer.headers().contains_key("retry-after"),
            );
            let body = answer.text().await.expect("a body");
            let mut told = told.lock().await;
            told.slowest = told.slowest.max(asked.elapsed());
            if status.is_success() {
                told.succeeded.push(content_of(&body));
            } else if status == StatusCode::SERVICE_UNAVAILABLE && come_back {
                told.asked_to_come_back += 1;
            } else {
                told.failed.push(format!("{number}: {status}: {body}"));
            }
            drop(told);
            number += CLIENTS;
        }
    };
    let more = async || {
        let wanted = told.lock().await.succeeded.len() + SOME;
        system_tests::eventually("requests pass", PATIENCE, async || {
            (told.lock().await.succeeded.len() >= wanted).then_some(())
        })
        .await;
    };
    let working = async {
        more().await;
        work().await;
        more().await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        working,
        futures_util::future::join_all((0..CLIENTS).map(client))
    );
    assert!(front.process.is_running());
    told.into_inner()
}

fn content_of(body: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    body["content"].as_str().unwrap_or_default().to_owned()
}
