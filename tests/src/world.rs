//! Engines and services of one test: on free ports, in a folder of their own, removed afterwards.
//!
//! * [`Service`]: one service's process, its readiness and its metrics.
//! * `engines`: the database and the broker, and clients of their contents.
//! * `operator`: what an operator runs: import, tokens, verify.
//! * `others`: more processes of a service.
//! * [`Roles`]: two processes of each role, behind the gateway.
//! * `environment`, `ports`: what all of them are started with.

mod engines;
mod environment;
mod operator;
mod others;
mod ports;
mod roles;
mod service;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::api::Api;
use crate::process::Process;
use crate::proxy::Proxy;

pub(crate) use engines::write_nats_config;
pub(crate) use environment::needed;
pub use environment::{binaries, binary_named};
pub use ports::free_ports;
pub use roles::{Role, Roles, gateway};
pub use service::{Readiness, Service};

/// How long anything may take to come up: a database may replay its journal, two cores are shared,
/// and the transaction of a killed process keeps its rows for a minute.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The network between the services and the engines.
#[derive(Debug)]
pub struct Proxies {
    pub mongodb: Proxy,
    pub nats: Proxy,
}

/// Everything that one test runs.
pub struct World {
    pub mongodb: Arc<Process>,
    pub nats: Arc<Process>,
    pub command: Service,
    pub query: Service,
    mongodb_port: u16,
    nats_port: u16,
    is_mongod: bool,
    environment: Vec<(String, String)>,
    others: Mutex<Vec<Arc<Process>>>,
    mongodb_client: OnceCell<mongodb::Client>,
    proxies: Option<Proxies>,
    /// The last field: it is removed after all processes have been killed.
    folder: TempDir,
}

impl World {
    /// Starts engines and both services, and waits until they are ready. `extra` goes into the
    /// services' environment, with the engines' addresses and the world's folder in place of
    /// `{mongodb}`, `{nats}` and `{folder}`.
    pub async fn start(extra: &[(&str, &str)]) -> Self {
        Self::prepare(extra, free_ports(), None).started().await
    }

    /// Both services as other binaries than those of this build, in `folder`.
    pub async fn start_from(folder: &Path, extra: &[(&str, &str)]) -> Self {
        let world = Self::prepare(extra, free_ports(), None);
        for service in [&world.command, &world.query] {
            service
                .process
                .becomes(&folder.join(service.process.name()));
        }
        world.started().await
    }

    /// A world in which nothing runs yet.
    pub fn idle(extra: &[(&str, &str)]) -> Self {
        Self::prepare(extra, free_ports(), None)
    }

    /// The engines alone, with more in the broker's configuration. The test starts the services.
    pub async fn start_engines(extra: &[(&str, &str)], nats_config: &str) -> Self {
        let world = Self::idle(extra);
        world.configure_nats(nats_config);
        world.start_mongodb().await;
        world.nats.start();
        world
    }

    /// Like [`World::start`], with the engines behind proxies.
    pub async fn start_behind_proxies(extra: &[(&str, &str)]) -> Self {
        let ports: [u16; 6] = free_ports();
        let [mongodb_port, nats_port, ..] = ports;
        let proxies = Proxies {
            mongodb: Proxy::start(mongodb_port).await,
            nats: Proxy::start(nats_port).await,
        };
        // Direct: a client of the replica set would learn the address behind the proxy, and use it.
        let mongodb_uri = format!(
            "mongodb://127.0.0.1:{}/?directConnection=true",
            proxies.mongodb.port()
        );
        let nats_url = format!("nats://127.0.0.1:{}", proxies.nats.port());
        let mut all = vec![
            ("MONGODB_URI", mongodb_uri.as_str()),
            ("NATS_URL", nats_url.as_str()),
        ];
        all.extend(extra);
        Self::prepare(&all, ports, Some(proxies)).started().await
    }

    /// What is between the services and the engines.
    pub fn proxies(&self) -> &Proxies {
        self.proxies.as_ref().expect("this world has proxies")
    }

    async fn started(self) -> Self {
        let world = self;
        world.start_mongodb().await;
        world.start_nats().await;
        // Together: the query service waits for the key set.
        world.command.process.start();
        world.query.process.start();
        world.command.ready().await;
        world.query.ready().await;
        world
    }

    fn prepare(extra: &[(&str, &str)], ports: [u16; 6], proxies: Option<Proxies>) -> Self {
        let folder = tempfile::Builder::new().prefix("microblog-test-").tempdir();
        let folder = folder.expect("a folder for temporary files");
        let is_mongod = needed("MICROBLOG_MONGODB_KIND") == "mongod";
        let replica_set = if is_mongod { "rs0" } else { "secantus" };
        let environment = environment::of_services(extra, ports, replica_set, folder.path());
        let [
            mongodb_port,
            nats_port,
            command,
            command_ops,
            query,
            query_ops,
        ] = ports;
        let service = |name: &str, port, ops| {
            let process = Process::new(name, &binary_named(name), folder.path());
            let process = process.environment(environment.clone());
            Service::new(process, "127.0.0.1", port, ops)
        };
        Self {
            mongodb: Arc::new(engines::mongodb(folder.path(), is_mongod, mongodb_port)),
            nats: Arc::new(engines::nats(folder.path(), nats_port)),
            command: service("command-service", command, command_ops),
            query: service("query-service", query, query_ops),
            mongodb_port,
            nats_port,
            is_mongod,
            environment,
            others: Mutex::default(),
            mongodb_client: OnceCell::new(),
            proxies,
            folder,
        }
    }

    /// The services' `MONGODB_URI`.
    fn mongodb_uri(&self) -> &str {
        let uri = self
            .environment
            .iter()
            .find(|(name, _)| name == "MONGODB_URI");
        let (_, uri) = uri.expect("every world sets it");
        uri
    }

    fn remember(&self, process: Arc<Process>) {
        self.others().push(process);
    }

    fn others(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The HTTP API, commands through the first command-service, queries through the first
    /// query-service.
    pub fn api(&self) -> Api {
        Api::new(&self.command.api, &self.query.api)
    }

    fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = vec![
            self.command.process.clone(),
            self.query.process.clone(),
            self.mongodb.clone(),
            self.nats.clone(),
        ];
        all.extend(self.others().iter().cloned());
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.processes() {
            process.kill();
        }
        if std::thread::panicking() {
            const LINES: usize = 40;
            for process in self.processes() {
                eprintln!(
                    "--- the last of {}\n{}",
                    process.name(),
                    process.tail(LINES)
                );
            }
            if std::env::var_os("MICROBLOG_KEEP").is_some() {
                eprintln!("kept: {}", self.folder.path().display());
                self.folder.disable_cleanup(true);
            }
        } else {
            self.give_streams_away();
        }
    }
}
