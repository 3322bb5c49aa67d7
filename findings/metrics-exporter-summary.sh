#!/usr/bin/env bash
# metrics-exporter-prometheus 0.18.3 (Rust): a histogram without buckets is exposed as a summary, whose quantiles are
# not below about a 700th of its largest value: one of 60 s among 10 000 of 1 ms makes the median 85 ms. When nothing
# was recorded for a minute, they are 0, as if all had been fast.
# Needs cargo and crates.io; a minute to build and one to wait. Exits with 1 if anything is not as it was seen.
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
metrics = "=0.24.6"
metrics-exporter-prometheus = { version = "=0.18.3", default-features = false }
[profile.dev]
debug = false
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::thread;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// A histogram of 10 000 values of 0.001 and these.
fn recorded(others: &[f64]) -> PrometheusHandle {
    let recorder = PrometheusBuilder::new().set_quantiles(&[0.5, 0.99]).unwrap().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let histogram = metrics::histogram!("seconds");
        for _ in 0..10_000 {
            histogram.record(0.001);
        }
        for other in others {
            histogram.record(*other);
        }
    });
    recorder.handle()
}

/// What is exposed, without the sum, and with four digits behind the point.
fn exposed(handle: &PrometheusHandle) -> String {
    let text = handle.render();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.contains("_sum"));
    let rounded = lines.map(|line| match line.rsplit_once(' ') {
        Some((name, value)) if value.contains('.') => format!("{name} {:.4}", value.parse::<f64>().unwrap()),
        _ => line.to_owned(),
    });
    rounded.collect::<Vec<_>>().join("; ")
}

fn main() {
    let mut wrong = 0;
    let mut say = |what: &str, seen: String, middle: &str, count: u32| {
        let expected = format!(
            r#"# TYPE seconds summary; seconds{{quantile="0.5"}} {middle}; seconds{{quantile="0.99"}} {middle}; seconds_count {count}"#
        );
        if seen == expected {
            println!("{what}: {seen}");
        } else {
            println!("{what}: {seen}, where this was seen before: {expected}");
            wrong += 1;
        }
    };
    let alone = recorded(&[]);
    say("10 000 of 1 ms", exposed(&alone), "0.0010", 10_000);
    for (other, middle) in [(0.5, "0.0010"), (10.0, "0.0143"), (60.0, "0.0855")] {
        say(&format!("10 000 of 1 ms, and one of {other} s"), exposed(&recorded(&[other])), middle, 10_001);
    }
    thread::sleep(Duration::from_secs(61));
    say("10 000 of 1 ms, and nothing for 61 s", exposed(&alone), "0", 10_000);
    std::process::exit(i32::from(wrong > 0));
}
RUST
cd "$folder"
cargo build --quiet -j 1 --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^metrics'
target/debug/finding
