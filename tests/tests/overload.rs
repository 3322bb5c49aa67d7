//! Too many requests, or an engine that is away: refusals come quickly, the rest is served, and
//! memory stays flat.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "overload/flood.rs"]
mod flood;
#[path = "overload/hostile.rs"]
mod hostile;
#[path = "overload/outage.rs"]
mod outage;
#[path = "overload/seed.rs"]
mod seed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use system_tests::world::{PATIENCE, World};
use system_tests::{eventually, http_client, is_long};
use tokio::sync::{Mutex, MutexGuard};

const CLIENTS: usize = 8;

/// One test at a time in the long form: there they measure.
async fn alone() -> Option<MutexGuard<'static, ()>> {
    if is_long() {
        Some(system_tests::alone().await)
    } else {
        None
    }
}

fn http() -> Client {
    http_client(Some(Duration::from_secs(20)))
}

/// One answer.
#[derive(Clone, Copy, Debug)]
struct Seen {
    status: u16,
    took: Duration,
    ended: Instant,
    /// A refusal says when to ask again.
    said_when: bool,
    /// The answer says that it comes from the cache.
    stale: bool,
}

async fn ask(request: RequestBuilder) -> Seen {
    let began = Instant::now();
    let (status, said_when, stale) = match request.send().await {
        Ok(answer) => {
            let said_when = answer.headers().contains_key("retry-after");
            let served = answer.headers().get("x-served");
            let stale = served.is_some_and(|served| served == "stale");
            let status = answer.status().as_u16();
            // To its end, so that the connection can be used again.
            let _ = answer.bytes().await;
            (status, said_when, stale)
        }
        Err(_) => (0, false, false),
    };
    Seen {
        status,
        took: began.elapsed(),
        ended: Instant::now(),
        said_when,
        stale,
    }
}

/// A writer per token, each as fast as it is answered, until it is told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Writers {
    fn start(world: &World, tokens: &[String]) -> Self {
        let (stop, seen) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<Seen>>>::default(),
        );
        let http = http();
        let client = |token: &String| {
            let (stop, seen, http) = (stop.clone(), seen.clone(), http.clone());
            let (url, token) = (format!("{}/api/v1/posts", world.command.api), token.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = http.post(&url).bearer_auth(&token);
                    let answer = ask(request.json(&json!({ "content": "x" }))).await;
                    seen.lock().await.push(answer);
                    if answer.status != 201 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        };
        let clients = tokens.iter().map(client).collect();
        Self {
            stop,
            clients,
            seen,
        }
    }

    /// What was answered since the last look.
    async fn since(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().await)
    }

    /// Waits until one of them gets this status.
    async fn until(&self, status: u16) {
        eventually(
            &format!("somebody is answered {status}"),
            PATIENCE,
            async || {
                let seen = self.since().await;
                seen.iter().any(|seen| seen.status == status).then_some(())
            },
        )
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.clients).await;
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("client_{n}")).collect()
}
