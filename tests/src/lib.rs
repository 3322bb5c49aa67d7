//! The whole system as its users and operators meet it: processes, signals, HTTP.
//!
//! The tests: `behaviour` while nothing fails; `chaos` and `faults` while something does;
//! `roles` behind the gateway, two of each, while any of them is killed or restarted;
//! `overload` with too many requests, or without an engine; `connections` to engines that require
//! credentials; `backup` and restore; `security`; `tracing`, with a receiver of traces; `upgrade` from the version before; `architecture` reads the sources.
//!
//! Modules, in reading order:
//! * [`world`]: engines and services of one test, on free ports, in a folder of its own.
//! * [`proxy`]: the network between services and engines, and its faults.
//! * [`secured`]: engines that require credentials or certificates.
//! * [`process`]: one program that can be killed, paused, stopped, and started again.
//! * [`api`]: the HTTP API's verbs, and what an answer (or none) says about the command.
//! * [`events`]: live streams, read as a client does.
//! * [`history`]: the recorded outcomes, compared with what is stored afterwards.
//! * [`audit`]: the log against the stream: each event once, each log stream in order.
//! * [`graph`]: who follows whom, for imports.
//! * [`libraries`]: live streams read by client libraries.
//! * [`routes`]: what each service serves, for tests that are generated from it.
//! * [`requests`]: how often each kind of request was answered how.
//! * [`otlp`]: a receiver of traces and log lines.
//! * [`load`]: clients that send commands, retry or give up, and record the outcomes.
//!
//! Tests run what `cargo build --bins` built; `make test` and `make chaos` do that first.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

pub mod api;
pub mod audit;
pub mod events;
pub mod graph;
pub mod history;
pub mod libraries;
pub mod load;
pub mod otlp;
pub mod process;
pub mod proxy;
pub mod requests;
pub mod routes;
pub mod secured;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

/// An HTTP client that uses no proxy of the environment. A live stream needs one without a timeout.
pub fn http_client(timeout: Option<Duration>) -> reqwest::Client {
    let mut client = reqwest::Client::builder().no_proxy();
    if let Some(timeout) = timeout {
        client = client.timeout(timeout);
    }
    client.build().expect("a client")
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("this crate is a folder of the workspace")
        .to_owned()
}

/// The folder with the two binaries to compare with, where `MICROBLOG_BEFORE` names one.
pub fn other_binaries() -> Option<PathBuf> {
    let folder = std::env::var_os("MICROBLOG_BEFORE").map(PathBuf::from);
    folder.filter(|folder| !folder.as_os_str().is_empty())
}

/// The same for a test that needs it, and says so where there is none.
pub fn version_before() -> Option<PathBuf> {
    let folder = other_binaries();
    if folder.is_none() {
        println!("skipped: MICROBLOG_BEFORE names no folder with the binaries of a version before");
    }
    folder
}

/// Asks again and again until there is an answer, and gives up with `what` after `patience`.
///
/// This is how tests wait: for something that can be seen, never for time to pass.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    const EVERY: Duration = Duration::from_millis(20);
    let give_up = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < give_up, "{what}: not within {patience:?}");
        tokio::time::sleep(EVERY).await;
    }
}

/// Lets one test of this binary run at a time: for tests that measure, on few processors.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// The long form of the tests, as `make chaos` runs it.
pub fn is_long() -> bool {
    std::env::var("MICROBLOG_CHAOS").is_ok_and(|form| form == "long")
}

/// Prometheus' own checker, where there is one. Elsewhere tests say that they leave it out.
pub fn promtool() -> Option<String> {
    std::env::var("MICROBLOG_PROMTOOL").ok()
}

/// A seed for a test's random choices: `MICROBLOG_SEED`, or a new one. It is printed, so that the
/// choices of a failed run can be repeated; the timing of processes cannot.
pub fn seed(test: &str) -> u64 {
    let seed = std::env::var("MICROBLOG_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("{test}: MICROBLOG_SEED={seed}");
    seed
}

/// The quantile of the measured times: 0.5 for the median.
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1).expect("something was measured");
    sorted[(last as f64 * share).round() as usize]
}
