#!/usr/bin/env bash
# json-subscriber 0.3.1 (Rust): a field that a span and the event both have, when both are flattened, stands twice in
# one JSON object. Readers that keep the last one see the value of the span, others refuse the line.
# Needs cargo, crates.io and python3; a minute or two to build. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
json-subscriber = { version = "=0.3.1", default-features = false }
serde = { version = "=1.0.229", features = ["derive"] }
serde_json = "=1.0.154"
tracing = { version = "=0.1.44", default-features = false, features = ["std"] }
tracing-subscriber = { version = "=0.3.23", default-features = false, features = ["fmt", "json", "registry"] }
[profile.dev]
debug = false
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The one line that was written.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap().trim().to_owned()
    }
}

#[derive(serde::Deserialize)]
struct Line {
    status: String,
}

fn log(subscriber: impl tracing::Subscriber + Send + Sync) {
    tracing::subscriber::with_default(subscriber, || {
        let _outer = tracing::info_span!("outer", status = "of the outer span").entered();
        let _inner = tracing::info_span!("inner", status = "of the inner span").entered();
        tracing::info!(status = "of the event", "done");
    });
}

fn main() {
    let lines = Lines::default();
    let writer = || {
        let lines = lines.clone();
        move || lines.clone()
    };
    let layer = || {
        json_subscriber::layer()
            .with_writer(writer())
            .without_time()
            .with_target(false)
            .with_current_span(false)
            .with_span_list(false)
            .flatten_event(true)
    };
    log(tracing_subscriber::registry().with(layer().flatten_current_span_on_top_level(true)));
    let current = lines.take();
    log(tracing_subscriber::registry().with(layer().flatten_span_list_on_top_level(true)));
    let list = lines.take();
    // With the span in an object of its own.
    let nested = tracing_subscriber::fmt().json().with_writer(writer()).without_time().with_target(false);
    log(nested.with_span_list(false).flatten_event(true).finish());
    let nested = lines.take();
    let written = [
        ("json-subscriber, current span flattened,", current),
        ("json-subscriber, list of spans flattened,", list),
        ("tracing-subscriber", nested),
    ];
    for (what, line) in written {
        let value = serde_json::from_str::<serde_json::Value>(&line).map(|value| value["status"].to_string());
        let typed = serde_json::from_str::<Line>(&line).map(|line| line.status);
        let told = |outcome: Result<String, serde_json::Error>| match outcome {
            Ok(status) => status.trim_matches('"').to_owned(),
            Err(error) => error.to_string().split(" at ").next().unwrap().to_owned(),
        };
        println!("{what}\t{line}\t{}\t{}", told(value), told(typed));
    }
}
RUST
cd "$folder"
cargo build --quiet -j 1 --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^(json|tracing)-subscriber|^serde_json'
target/debug/finding >seen
python3 - <<'PYTHON'
import json

wrong = 0
def check(what, got, expected):
    global wrong
    wrong += got != expected
    print(f"{what}: {got}" + ("" if got == expected else f", where {expected} was seen before"))

def names(pairs):
    return sorted(name for name, _ in pairs)

SPAN, EVENT = "of the inner span", "of the event"
for line in open("seen"):
    by, text, value, typed = line.rstrip("\n").split("\t")
    print(f"{by} writes {text}")
    flat = by.startswith("json-subscriber")
    last = SPAN if flat else EVENT
    times = names(json.loads(text, object_pairs_hook=lambda pairs: pairs)).count("status")
    check("  times that status stands at the top", times, 2 if flat else 1)
    check("  status, as Python's json reads it", json.loads(text)["status"], last)
    check("  as serde_json reads it into a Value", value, last)
    check("  as serde_json reads it into a struct", typed, "duplicate field `status`" if flat else EVENT)
raise SystemExit(1 if wrong else 0)
PYTHON
