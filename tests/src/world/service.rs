//! A service of a world: its process, its API, and what it says of itself to operators.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use crate::process::{Process, describe};
use crate::{eventually, http_client};

/// A service's process and where it answers.
#[derive(Clone, Debug)]
pub struct Service {
    pub process: Arc<Process>,
    /// Its API, `http://host:port`.
    pub api: String,
    /// Its operator's port.
    ops: String,
    http: reqwest::Client,
}

/// What `/readyz` answers.
#[derive(Clone, Debug)]
pub struct Readiness {
    pub status: u16,
    pub body: Value,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether its body contains this text anywhere.
    pub fn mentions(&self, text: &str) -> bool {
        self.body.to_string().contains(text)
    }
}

impl Service {
    pub(super) fn new(process: Process, host: &str, port: u16, ops: u16) -> Self {
        Self {
            process: Arc::new(process),
            api: format!("http://{host}:{port}"),
            ops: format!("http://{host}:{ops}"),
            http: http_client(Some(Duration::from_secs(2))),
        }
    }

    /// The number of its operator's port.
    pub fn ops_port(&self) -> u16 {
        let port = self
            .ops
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        port.expect("its address ends with a port")
    }

    /// Starts it, and waits until it says it is ready.
    pub async fn start(&self) {
        self.process.start();
        self.ready().await;
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&self) {
        let what = format!("{} is ready", self.process.name());
        eventually(&what, PATIENCE, async || {
            if let Some(status) = self.process.ended() {
                panic!(
                    "{} ended by itself: {}",
                    self.process.name(),
                    describe(status)
                );
            }
            self.is_ready().await.then_some(())
        })
        .await;
    }

    /// Waits until its API takes connections; it need not be ready.
    pub async fn listens(&self) {
        let what = format!("{} listens", self.process.name());
        let address = self.api.trim_start_matches("http://");
        eventually(&what, PATIENCE, async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// What `/readyz` answers; `None` if nothing does.
    pub async fn readiness(&self) -> Option<Readiness> {
        let answer = self.http.get(format!("{}/readyz", self.ops)).send().await;
        let answer = answer.ok()?;
        Some(Readiness {
            status: answer.status().as_u16(),
            body: answer.json().await.ok()?,
        })
    }

    /// Whether `/readyz` answers 200 now.
    pub async fn is_ready(&self) -> bool {
        let readiness = self.readiness().await;
        readiness.is_some_and(|readiness| readiness.is_ready())
    }

    /// Waits until `/readyz` answers like that.
    pub async fn readiness_becomes(&self, what: &str, like: impl Fn(&Readiness) -> bool) {
        eventually(what, PATIENCE, async || {
            self.readiness().await.filter(|readiness| like(readiness))
        })
        .await;
    }

    /// Where its operator's port is, `host:port`.
    pub fn ops_address(&self) -> &str {
        self.ops.trim_start_matches("http://")
    }

    /// Which keys it signs and verifies with.
    pub async fn keys(&self) -> Value {
        let answer = self.http.get(format!("{}/keys", self.ops)).send().await;
        answer.expect("an answer").json().await.expect("JSON")
    }

    /// All metrics, in the text format of Prometheus.
    pub async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.ops)).send().await;
        let text = answer.expect("an answer").text().await;
        text.expect("metrics are text")
    }

    /// The sum of a metric over its labels; `None` while it is not there.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let answer = self
            .http
            .get(format!("{}/metrics", self.ops))
            .send()
            .await
            .ok()?;
        let text = answer.text().await.ok()?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest
                .strip_prefix(' ')
                .or_else(|| rest.rsplit_once("} ").map(|(_, value)| value));
            value?.trim().parse::<f64>().ok()
        });
        values.reduce(|sum, value| sum + value)
    }

    /// Waits until a metric, summed over its labels, has a value like that.
    pub async fn metric_becomes(&self, what: &str, name: &str, like: impl Fn(f64) -> bool) {
        eventually(what, PATIENCE, async || {
            self.metric(name).await.filter(|value| like(*value))
        })
        .await;
    }
}
