#!/usr/bin/env bash
# opentelemetry and opentelemetry_sdk 0.33.1 (Rust): `TraceId::from_hex`, and so TraceContextPropagator, reads numbers
# rather than so many digits: it takes a traceparent with parts too short or too long, or with a sign, which the
# W3C recommendation's grammar (version 00) has no place for, and sends it on as a well-formed one.
# Needs cargo and crates.io; a minute to build. Exits with 1 if anything is not as it was seen.
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
opentelemetry = { version = "=0.33.1", default-features = false, features = ["trace"] }
opentelemetry_sdk = { version = "=0.33.1", default-features = false, features = ["trace"] }
[profile.dev]
debug = false
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceId;
use opentelemetry::Context;
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const REFUSED: &str = "refused";

/// Has it the digits that the recommendation says, lower-case and so many?
fn well_formed(traceparent: &str) -> bool {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts.into_iter().all(digits)
}

/// What a service that is asked with this header asks the next one with.
fn sent_on(traceparent: &str) -> String {
    let propagator = TraceContextPropagator::new();
    let asked = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let mut asks: HashMap<String, String> = HashMap::new();
    propagator.inject_context(&propagator.extract_with_context(&Context::new(), &asked), &mut asks);
    asks.remove("traceparent").unwrap_or_else(|| REFUSED.to_owned())
}

fn main() {
    let mut wrong = 0;
    let mut say = |what: String, seen: String, expected: &str| {
        if seen == expected {
            println!("{what}: {seen}");
        } else {
            println!("{what}: {seen}, where this was seen before: {expected}");
            wrong += 1;
        }
    };
    let one = "00000000000000000000000000000001";
    for (hex, expected) in [
        (TRACE.to_owned(), TRACE),
        (TRACE.to_uppercase(), TRACE),
        ("1".to_owned(), one),
        ("+1".to_owned(), one),
        (format!("0{one}"), one),
        (format!("1{one}"), REFUSED),
        ("-1".to_owned(), REFUSED),
        (String::new(), REFUSED),
    ] {
        let seen = TraceId::from_hex(&hex).map_or(REFUSED.to_owned(), |id| id.to_string());
        say(format!("TraceId::from_hex({hex:?})"), seen, expected);
    }
    let whole = format!("00-{TRACE}-{SPAN}-01");
    let (trace_upper, span_upper) = (TRACE.to_uppercase(), SPAN.to_uppercase());
    for (traceparent, expected) in [
        (whole.clone(), whole.as_str()),
        (format!("00-{trace_upper}-{SPAN}-01"), REFUSED),
        (format!("00-{TRACE}-{span_upper}-01"), REFUSED),
        (format!("00-{TRACE}-{SPAN}-0B"), REFUSED),
        (format!("00-{TRACE}-{SPAN}-1"), &whole),
        (format!("00-{TRACE}-{SPAN}-001"), &whole),
        (format!("00-{TRACE}-{SPAN}-+1"), &whole),
        (format!("00-{TRACE}-{SPAN}-01-"), &whole),
        (format!("0-{TRACE}-{SPAN}-01"), &whole),
        (format!("00-{}-{SPAN}-01", &TRACE[1..]), &whole),
        (format!("00-+{}-{SPAN}-01", &TRACE[1..]), &whole),
        (format!("00-0{TRACE}-{SPAN}-01"), &whole),
        (format!("00-{TRACE}-1-01"), &format!("00-{TRACE}-0000000000000001-01")),
    ] {
        let form = if well_formed(&traceparent) { "well-formed" } else { "not well-formed" };
        say(format!("traceparent {traceparent} ({form}), sent on"), sent_on(&traceparent), expected);
    }
    std::process::exit(i32::from(wrong > 0));
}
RUST
cd "$folder"
cargo build --quiet -j 1 --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^opentelemetry'
target/debug/finding
