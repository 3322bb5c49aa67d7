#!/usr/bin/env bash
# eventsource-client 0.15.0 (Rust): how it asks again while it is refused, and what it comes back from.
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
eventsource-client = { version = "=0.15.0", default-features = false }
futures-util = { version = "0.3", default-features = false }
tokio = { version = "1", features = ["io-util", "macros", "net", "rt", "time"] }
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::time::Duration;

use eventsource_client::{Client, ClientBuilder, SSE};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const EVENT: &str = "event: post\nid: 7\ndata: x\n\n";

fn answer(status: &str, body: &str, in_order: bool) -> String {
    let last = if in_order { "0\r\n\r\n" } else { "" };
    let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n{chunk}{last}"
    )
}

/// Answers the first request, or all of them, like that; further ones are held.
async fn run(first: String, all: bool, length: Duration) -> (Vec<String>, Vec<String>) {
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
            if asked.send(id.map_or("none".to_owned(), |id| id.trim().to_owned())).is_err() {
                return;
            }
            let like_first = all || number == 0;
            let text = if like_first { first.clone() } else { answer("200 OK", ": held\n", false) };
            let _ = socket.write_all(text.as_bytes()).await;
            if !like_first {
                held.push(socket);
            }
        }
    });
    let client = ClientBuilder::for_url(&url).unwrap().build_http();
    let mut stream = client.stream();
    let mut seen = Vec::new();
    let reading = async {
        while let Some(item) = stream.next().await {
            match item {
                Ok(SSE::Connected(_)) => seen.push("connected".to_owned()),
                Ok(SSE::Event(event)) => seen.push(format!("{} {:?}", event.event_type, event.data)),
                Ok(SSE::Comment(comment)) => seen.push(format!("comment {:?}", comment.trim())),
                Err(_) => seen.push("error".to_owned()),
            }
        }
    };
    let _ = tokio::time::timeout(length, reading).await;
    let mut ids = Vec::new();
    while let Ok(id) = heard.try_recv() {
        ids.push(id);
    }
    (seen, ids)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let body = format!("retry: 100\n: a\n{EVENT}: b\n\n");
    let mut wrong = 0;
    let mut say = |what: &str, seen: String, expected: &str| {
        if seen == expected {
            println!("{what}: {seen}");
        } else {
            println!("{what}: {seen}, where this was seen before: {expected}");
            wrong += 1;
        }
    };
    for (what, in_order, expected) in [
        (
            "an answer that ends in order",
            true,
            r#"connected, comment "a", post "x", comment "b", error, connected, comment "held"; last-event-id of each request: none, 7"#,
        ),
        (
            "an answer that is broken off",
            false,
            r#"connected, comment "a", post "x", comment "b", connected, comment "held"; last-event-id of each request: none, 7"#,
        ),
    ] {
        let (seen, ids) = run(answer("200 OK", &body, in_order), false, Duration::from_secs(3)).await;
        let seen = format!("{}; last-event-id of each request: {}", seen.join(", "), ids.join(", "));
        say(what, seen, expected);
    }
    for status in ["401 Unauthorized", "429 Too Many Requests", "503 Service Unavailable"] {
        let (_, ids) = run(answer(status, "", true), true, Duration::from_secs(1)).await;
        let often = if ids.len() > 100 { "more than 100" } else { "few" };
        say(&format!("requests in a second while refused with {status}"), often.to_owned(), "more than 100");
    }
    std::process::exit(i32::from(wrong > 0));
}
RUST
cd "$folder"
cargo build --quiet --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^eventsource'
target/debug/finding
