//! A gateway of one test, started as everybody starts it: `python3 scripts/gateway.py`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use system_tests::api::Api;
use system_tests::eventually;
use system_tests::process::{Process, describe};
use system_tests::root;
use system_tests::world::{PATIENCE, World, free_ports, gateway};
use tempfile::TempDir;

pub struct Front {
    pub process: Process,
    /// `http://127.0.0.1:port`, or `https`.
    pub url: String,
    pub port: u16,
    log: PathBuf,
    /// The last field: it is removed after the process was killed.
    _folder: TempDir,
}

impl Front {
    /// In front of both services of a world.
    pub async fn of(world: &World, more: &[&str]) -> Self {
        Self::start(&world.command.api, &world.query.api, more).await
    }

    pub async fn start(commands: &str, queries: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [port] = free_ports();
        let log = folder.path().join("traefik.log");
        let log_text = log.to_str().expect("a path in UTF-8");
        let address = format!("127.0.0.1:{port}");
        let mut arguments = vec![
            "--addr",
            &address,
            "--commands",
            commands,
            "--queries",
            queries,
        ];
        arguments.extend(["--log", log_text]);
        arguments.extend(more);
        let scheme = if more.contains(&"--tls-cert") {
            "https"
        } else {
            "http"
        };
        let front = Self {
            process: gateway(&root(), folder.path(), &arguments),
            url: format!("{scheme}://{address}"),
            port,
            log,
            _folder: folder,
        };
        front.process.start();
        eventually("the gateway serves", PATIENCE, async || {
            if let Some(status) = front.process.ended() {
                panic!("the gateway: {}", describe(status));
            }
            let said = front.process.output();
            said.contains(&format!("the gateway serves {}", front.url))
                .then_some(())
        })
        .await;
        front
    }

    /// The HTTP API through it.
    pub fn api(&self) -> Api {
        Api::new(&self.url, &self.url)
    }

    /// The lines of its access log.
    pub fn accesses(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .filter(|line: &Value| line["RequestMethod"].is_string())
            .collect()
    }

    /// Traefik's own process, which is not the one that was started.
    pub fn traefik(&self) -> u32 {
        let said = self.process.output();
        let (_, rest) = said.split_once("(process ").expect("it says so");
        let (id, _) = rest.split_once(',').expect("it says so");
        id.parse().expect("a process id")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the gateway\n{}", self.process.tail(20));
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(5).collect();
            eprintln!("{}", last.join("\n"));
        }
    }
}

/// An HTTP client with an address of this machine's own, which the gateway sees.
pub fn client_from(address: &str) -> reqwest::Client {
    let address: std::net::IpAddr = address.parse().expect("an address");
    let client = reqwest::Client::builder().no_proxy().local_address(address);
    client
        .timeout(Duration::from_secs(30))
        .build()
        .expect("a client")
}
