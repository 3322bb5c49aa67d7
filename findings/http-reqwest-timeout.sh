#!/usr/bin/env bash
# reqwest 0.13.5 (Rust): `timeout` bounds a whole request of the async client, until the end of its body. With the
# blocking client it bounds `send` by itself, `text` by itself, and, for who reads the body as `std::io::Read` or with
# `copy_to`, every read by itself: then a body that comes slowly is read to its end, however long that takes.
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
reqwest = { version = "=0.13.5", default-features = false, features = ["blocking"] }
tokio = { version = "1", features = ["rt"] }
[profile.dev]
debug = false
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(1);

/// Answers one request, and waits: before the head, and before each piece of the body.
fn serve(head: Duration, wait: Duration, pieces: Vec<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        thread::sleep(head);
        // The client may have given up.
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n");
        for piece in pieces {
            thread::sleep(wait);
            if socket.write_all(piece).is_err() {
                return;
            }
        }
    });
    url
}

type Outcome = Result<String, Box<dyn Error>>;

fn blocking(url: &str) -> reqwest::Result<reqwest::blocking::Response> {
    reqwest::blocking::Client::builder().no_proxy().timeout(TIMEOUT).build()?.get(url).send()
}

fn blocking_text(url: &str) -> Outcome {
    Ok(blocking(url)?.text()?)
}

fn blocking_read(url: &str) -> Outcome {
    let mut body = String::new();
    blocking(url)?.read_to_string(&mut body)?;
    Ok(body)
}

fn blocking_copy(url: &str) -> Outcome {
    let mut body = Vec::new();
    blocking(url)?.copy_to(&mut body)?;
    Ok(String::from_utf8(body)?)
}

/// Piece by piece, as `Read` does.
fn async_chunks(url: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut response = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?.get(url).send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend(chunk);
        }
        Ok(String::from_utf8(body)?)
    })
}

/// Is it one, or does it stand behind this error?
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return error.is_timeout();
    }
    let io = error.downcast_ref::<std::io::Error>();
    io.and_then(|error| error.get_ref()).is_some_and(|inner| is_timeout(inner))
}

fn main() {
    type Get = fn(&str) -> Outcome;
    let whole: Vec<&[u8]> = vec![b"0123456789"];
    let bytes: Vec<&[u8]> = whole[0].chunks(1).collect();
    let by_byte = ("a byte each 0.3 s", 0, 300, bytes.clone());
    let in_two = ("0.7 s to the head and 0.7 s more to the body", 700, 700, whole);
    let stuck = ("a byte each 5 s", 0, 5000, bytes);
    let (ends, late, goes_on) =
        ("a timeout, before 2 s", "all ten bytes, before 2 s", "all ten bytes, after more than 2 s");
    let cases: [(&str, Get, &(&str, u64, u64, Vec<&'static [u8]>), &str); 11] = [
        ("async, chunk", async_chunks, &by_byte, ends),
        ("blocking, text", blocking_text, &by_byte, ends),
        ("blocking, Read", blocking_read, &by_byte, goes_on),
        ("blocking, copy_to", blocking_copy, &by_byte, goes_on),
        ("async, chunk", async_chunks, &in_two, ends),
        ("blocking, text", blocking_text, &in_two, late),
        ("blocking, Read", blocking_read, &in_two, late),
        ("async, chunk", async_chunks, &stuck, ends),
        ("blocking, text", blocking_text, &stuck, ends),
        ("blocking, Read", blocking_read, &stuck, ends),
        ("blocking, copy_to", blocking_copy, &stuck, ends),
    ];
    let mut wrong = 0;
    for (what, get, (answer, head, wait, pieces), expected) in cases {
        let url = serve(Duration::from_millis(*head), Duration::from_millis(*wait), pieces.clone());
        let began = Instant::now();
        let outcome = match get(&url) {
            Ok(body) if body == "0123456789" => "all ten bytes".to_owned(),
            Ok(body) => format!("{body:?}"),
            Err(error) if is_timeout(&*error) => "a timeout".to_owned(),
            Err(error) => error.to_string(),
        };
        let took = began.elapsed();
        let when = if took < 2 * TIMEOUT { "before 2 s" } else { "after more than 2 s" };
        let seen = format!("{outcome}, {when}");
        if seen == expected {
            println!("timeout 1 s, {answer}, {what}: {seen} ({:.1} s)", took.as_secs_f64());
        } else {
            println!("timeout 1 s, {answer}, {what}: {seen}, where this was seen before: {expected}");
            wrong += 1;
        }
    }
    std::process::exit(i32::from(wrong > 0));
}
RUST
cd "$folder"
cargo build --quiet -j 1 --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^reqwest'
target/debug/finding
