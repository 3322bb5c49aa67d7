#!/usr/bin/env bash
# reqwest-eventsource 0.6.0 (Rust): which answers it takes for the end of it all, what it comes back from, and
# what it says of the last event when there was none.
# Needs cargo and crates.io; a minute or two to build. Exits with 1 if anything is not as it was seen.
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
futures-util = { version = "0.3", default-features = false }
reqwest = { version = "=0.12.24", default-features = false }
reqwest-eventsource = "=0.6.0"
tokio = { version = "1", features = ["io-util", "macros", "net", "rt", "time"] }
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::time::Duration;

use futures_util::StreamExt;
use reqwest_eventsource::{Event, EventSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const EVENT: &str = "event: post\nid: 7\ndata: x\n\n";

/// The head and body of the first answer; a body ends with its last chunk or is broken off.
fn answer(status: &str, body: &str, in_order: bool) -> String {
    let last = if in_order { "0\r\n\r\n" } else { "" };
    let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n{chunk}{last}"
    )
}

async fn run(first: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut held = Vec::new();
        for number in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = String::new();
            while !head.contains("\r\n\r\n") {
                let mut piece = [0; 4096];
                let read = socket.read(&mut piece).await.unwrap_or(0);
                if read == 0 {
                    break;
                }
                head.push_str(&String::from_utf8_lossy(&piece[..read]));
            }
            let id = head.lines().find_map(|line| line.strip_prefix("last-event-id:"));
            if asked.send(id.map_or("none".to_owned(), |id| format!("{:?}", id.trim()))).is_err() {
                return;
            }
            let text = if number == 0 { first.clone() } else { answer("200 OK", ": held\n", false) };
            let _ = socket.write_all(text.as_bytes()).await;
            if number > 0 {
                held.push(socket);
            }
        }
    });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut source = EventSource::new(client.get(url)).unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while let Some(item) = source.next().await {
            match item {
                Ok(Event::Open) => seen.push("open".to_owned()),
                Ok(Event::Message(event)) => seen.push(format!("{} {:?}", event.event, event.data)),
                Err(_) => seen.push("error".to_owned()),
            }
        }
    };
    let state = match tokio::time::timeout(Duration::from_secs(3), reading).await {
        Ok(()) => "over",
        Err(_) => "goes on",
    };
    let mut ids = Vec::new();
    while let Ok(id) = heard.try_recv() {
        ids.push(id);
    }
    format!("{state}, {}; last-event-id of each request: {}", seen.join(", "), ids.join(", "))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let comments = format!("retry: 100\n: a\n{EVENT}: b\n\n");
    let back = r#"goes on, open, post "x", error, open; last-event-id of each request: none, "7""#;
    let over = "over, error; last-event-id of each request: none";
    let cases = [
        ("ends in order", answer("200 OK", &comments, true), back),
        ("is broken off", answer("200 OK", &comments, false), back),
        (
            "is broken off before any event",
            answer("200 OK", "retry: 100\n: a\n", false),
            r#"goes on, open, error, open; last-event-id of each request: none, """#,
        ),
        ("is 401", answer("401 Unauthorized", "", true), over),
        ("is 429", answer("429 Too Many Requests", "", true), over),
        ("is 503", answer("503 Service Unavailable", "", true), over),
    ];
    let mut wrong = 0;
    for (what, first, expected) in cases {
        let seen = run(first).await;
        if seen == expected {
            println!("an answer that {what}: {seen}");
        } else {
            println!("an answer that {what}: {seen}, where this was seen before: {expected}");
            wrong += 1;
        }
    }
    std::process::exit(i32::from(wrong > 0));
}
RUST
cd "$folder"
cargo build --quiet --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^reqwest'
target/debug/finding
