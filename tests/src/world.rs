//! Engines and services of one test: on free ports, in a folder of their own, gone afterwards.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use bson::{Document, doc};
use futures_util::future::join_all;
use mongodb::options::{ClientOptions, ReadConcern};
use rand::RngExt;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::api::{Api, Session};
use crate::audit::{Audit, read_log, read_stream};
use crate::eventually;
use crate::process::{Process, describe};
use crate::proxy::Proxy;

/// How long anything may take to come up: a database may replay its journal, two cores are shared,
/// and the transaction of a killed process keeps its rows for a minute.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A service's process and where it answers.
#[derive(Clone, Debug)]
pub struct Service {
    pub process: Arc<Process>,
    /// Its API, `http://host:port`.
    pub api: String,
    /// Its operator's port.
    ops: String,
    http: reqwest::Client,
}

impl Service {
    /// Starts it, and waits until it says it is ready.
    pub async fn start(&self) {
        self.process.start();
        self.ready().await;
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&self) {
        let what = format!("{} is ready", self.process.name());
        eventually(&what, PATIENCE, async || {
            if let Some(status) = self.process.ended() {
                panic!(
                    "{} ended by itself: {}",
                    self.process.name(),
                    describe(status)
                );
            }
            self.is_ready().await.then_some(())
        })
        .await;
    }

    /// Waits until its API takes connections; it need not be ready.
    pub async fn listens(&self) {
        let what = format!("{} listens", self.process.name());
        let address = self.api.trim_start_matches("http://");
        eventually(&what, PATIENCE, async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// What `/readyz` answers: the status and the body.
    pub async fn readiness(&self) -> Option<(u16, serde_json::Value)> {
        let answer = self.http.get(format!("{}/readyz", self.ops)).send().await;
        let answer = answer.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// Whether `/readyz` answers 200 now.
    pub async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.ops)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Why it is not ready, as `/readyz` says; nothing if it is.
    pub async fn not_ready(&self) -> Option<String> {
        let answer = self.http.get(format!("{}/readyz", self.ops)).send().await;
        let answer = answer.expect("an answer");
        let ready = answer.status().is_success();
        let text = answer.text().await.expect("text");
        (!ready).then_some(text)
    }

    /// What `/readyz` says: whether it is ready, and the body.
    pub async fn says_ready(&self) -> Option<(bool, String)> {
        let answer = self.http.get(format!("{}/readyz", self.ops)).send().await;
        let answer = answer.ok()?;
        let ready = answer.status().is_success();
        Some((ready, answer.text().await.ok()?))
    }

    /// Everything that it measures, as Prometheus reads it.
    pub async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.ops)).send().await;
        let text = answer.expect("an answer").text().await;
        text.expect("metrics are text")
    }

    /// The sum of a metric over its labels; `None` while it is not there.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let answer = self
            .http
            .get(format!("{}/metrics", self.ops))
            .send()
            .await
            .ok()?;
        let text = answer.text().await.ok()?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest
                .strip_prefix(' ')
                .or_else(|| rest.rsplit_once("} ").map(|(_, value)| value));
            value?.trim().parse::<f64>().ok()
        });
        values.reduce(|sum, value| sum + value)
    }
}

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
    /// Removed when everything that writes into it is dead: the last field.
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

    /// The engines alone, with more in the broker's configuration; whoever starts the services
    /// knows when they can be ready.
    pub async fn start_engines(extra: &[(&str, &str)], nats_config: &str) -> Self {
        let world = Self::idle(extra);
        world.configure_nats(nats_config);
        world.start_mongodb().await;
        world.nats.start();
        world
    }

    /// Writes the broker's configuration, with `more` behind what every world has.
    pub fn configure_nats(&self, more: &str) {
        write_nats_config(self.folder.path(), self.nats_port, more);
    }

    /// The same, with the engines behind proxies.
    pub async fn start_behind_proxies(extra: &[(&str, &str)]) -> Self {
        let ports: [u16; 6] = free_ports();
        let [mongodb_port, nats_port, ..] = ports;
        let proxies = Proxies {
            mongodb: Proxy::start(mongodb_port).await,
            nats: Proxy::start(nats_port).await,
        };
        // Directly: a replica set would tell its own address, behind the proxy.
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
        let [
            mongodb_port,
            nats_port,
            command,
            command_ops,
            query,
            query_ops,
        ] = ports;
        let is_mongod = needed("MICROBLOG_MONGODB_KIND") == "mongod";
        let replica_set = if is_mongod { "rs0" } else { "secantus" };
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut environment: Vec<(String, String)> = [
            (
                "MONGODB_URI",
                format!(
                    "mongodb://{}/?replicaSet={replica_set}",
                    address(mongodb_port)
                ),
            ),
            ("NATS_URL", format!("nats://{}", address(nats_port))),
            ("COMMAND_ADDR", address(command)),
            ("COMMAND_OPS_ADDR", address(command_ops)),
            ("QUERY_ADDR", address(query)),
            ("QUERY_OPS_ADDR", address(query_ops)),
            (
                "JWT_PRIVATE_KEY_FILE",
                folder.path().join("jwt.pem").display().to_string(),
            ),
            (
                "JWKS_URL",
                format!("http://{}/.well-known/jwks.json", address(command)),
            ),
            ("PARTITIONS", "4".to_owned()),
            // Clients here are faster than people.
            ("POST_QUOTA", "1000000".to_owned()),
            ("IP_RATE_PER_SECOND", "0".to_owned()),
            ("LOG_FORMAT", "pretty".to_owned()),
            ("NO_COLOR", "1".to_owned()),
            (
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (name, value) in extra {
            let value = value.replace("{mongodb}", &address(mongodb_port));
            let value = value.replace("{nats}", &address(nats_port));
            let value = value.replace("{folder}", &folder.path().display().to_string());
            environment.retain(|(known, _)| known != name);
            environment.push(((*name).to_owned(), value));
        }
        let service = |name, port, ops| service(name, folder.path(), &environment, port, ops);
        Self {
            mongodb: Arc::new(mongodb(folder.path(), is_mongod, mongodb_port)),
            nats: Arc::new(nats(folder.path(), nats_port)),
            command: service("command-service", command, command_ops),
            query: service("query-service", query, query_ops),
            mongodb_port,
            nats_port,
            is_mongod,
            environment: environment.clone(),
            others: Mutex::default(),
            mongodb_client: OnceCell::new(),
            proxies,
            folder,
        }
    }

    async fn start_mongodb(&self) {
        self.mongodb.start();
        let address = format!(
            "mongodb://127.0.0.1:{}/?directConnection=true",
            self.mongodb_port
        );
        let client = mongodb::Client::with_uri_str(address)
            .await
            .expect("a client");
        let admin = client.database("admin");
        eventually("MongoDB is primary", PATIENCE, async || {
            if let Some(status) = self.mongodb.ended() {
                panic!("MongoDB ended by itself: {}", describe(status));
            }
            let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
            if self.is_mongod && hello.get_bool("isreplicaset").unwrap_or(false) {
                let host = format!("127.0.0.1:{}", self.mongodb_port);
                let set = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": host }] };
                // A second try while the first is under way is refused; the next look tells.
                let _ = admin.run_command(doc! { "replSetInitiate": set }).await;
            }
            hello
                .get_bool("isWritablePrimary")
                .unwrap_or(false)
                .then_some(())
        })
        .await;
    }

    /// Where the broker keeps its streams.
    pub fn nats_store(&self) -> PathBuf {
        self.folder.path().join("nats")
    }

    pub async fn start_nats(&self) {
        self.nats.start();
        eventually("NATS answers", PATIENCE, async || {
            if let Some(status) = self.nats.ended() {
                panic!("NATS ended by itself: {}", describe(status));
            }
            async_nats::connect(self.nats_url()).await.ok()
        })
        .await;
    }

    fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats_port)
    }

    /// Another process of a service, with ports of its own; not started yet.
    pub fn another(&self, of: &Service) -> Service {
        self.another_with(of, &[])
    }

    /// Another process of a service, started with arguments.
    pub fn another_with(&self, of: &Service, arguments: &[&str]) -> Service {
        self.another_in(of, arguments, &[])
    }

    /// Another process of a service, with a clock of its own; nothing where no process can be told
    /// another time. The clock is what [`World::set_clock`] says.
    pub fn another_with_clock(&self, of: &Service) -> Option<Service> {
        let environment = self.clock_environment()?;
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.set_clock(0.0);
        Some(self.another_in(of, &[], &environment))
    }

    /// What gives a process such a clock; nothing where no process can be told another time.
    pub fn clock_environment(&self) -> Option<Vec<(String, String)>> {
        let library = std::env::var("MICROBLOG_FAKETIME").ok()?;
        let offset = self.clock_file().display().to_string();
        Some(owned(&[
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &offset),
            ("FAKETIME_NO_CACHE", "1"),
            // A clock that is set does not change how long things take.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]))
    }

    /// Sets those clocks so many seconds off.
    pub fn set_clock(&self, seconds: f64) {
        let next = self.file("clock.next", &format!("{seconds:+.3}"));
        std::fs::rename(next, self.clock_file()).expect("files of one folder");
    }

    fn clock_file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Another process of a service, that reaches the broker at another port.
    pub fn another_to_broker(&self, of: &Service, port: u16) -> Service {
        let url = format!("nats://127.0.0.1:{port}");
        self.another_in(of, &[], &[("NATS_URL", &url)])
    }

    /// A process of another deployment, with a database of its own and the same broker and prefix.
    pub fn of_another_deployment(&self, of: &Service) -> Service {
        let uri = self
            .environment
            .iter()
            .find(|(name, _)| name == "MONGODB_URI");
        let (_, uri) = uri.expect("it was set");
        let (server, options) = uri.split_once("/?").expect("no database is named");
        let uri = format!("{server}/another?{options}");
        self.another_in(of, &[], &[("MONGODB_URI", &uri)])
    }

    fn another_in(&self, of: &Service, arguments: &[&str], extra: &[(&str, &str)]) -> Service {
        let [port, ops] = free_ports();
        let program = if of.process.name().starts_with("command") {
            "COMMAND"
        } else {
            "QUERY"
        };
        let binary = format!("{}-service", program.to_lowercase());
        let mut environment = self.environment.clone();
        for (name, value) in &mut environment {
            if *name == format!("{program}_ADDR") {
                *value = format!("127.0.0.1:{port}");
            } else if *name == format!("{program}_OPS_ADDR") {
                *value = format!("127.0.0.1:{ops}");
            }
        }
        let number = self.others().len();
        let name = format!("{}-other-{number}", of.process.name());
        let process = Process::new(&name, &binary_named(&binary), self.folder.path())
            .arguments(arguments.iter().copied())
            .environment(environment)
            .environment(owned(extra));
        let other = with_addresses(process, port, ops);
        self.remember(other.process.clone());
        other
    }

    /// One of the operator's commands, not started yet.
    pub fn operator(&self, name: &str, binary: &str, arguments: &[&str]) -> Arc<Process> {
        self.operator_with(name, binary, arguments, &[])
    }

    /// One of the operator's commands with `extra` in its environment.
    pub fn operator_with(
        &self,
        name: &str,
        binary: &str,
        arguments: &[&str],
        extra: &[(&str, &str)],
    ) -> Arc<Process> {
        let process = Process::new(name, &binary_named(binary), self.folder.path())
            .arguments(arguments.iter().copied())
            .environment(self.environment.clone())
            .environment(owned(extra));
        let process = Arc::new(process);
        self.remember(process.clone());
        process
    }

    fn remember(&self, process: Arc<Process>) {
        self.others().push(process);
    }

    fn others(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one of the operator's commands to its end: how it ended, what it printed.
    pub async fn run(&self, name: &str, binary: &str, arguments: &[&str]) -> (ExitStatus, String) {
        self.run_to_end(&self.operator(name, binary, arguments))
            .await
    }

    /// Runs a process to its end: how it ended, what it printed.
    pub async fn run_to_end(&self, process: &Process) -> (ExitStatus, String) {
        let name = process.name();
        process.forget_output();
        process.start();
        let patience = PATIENCE * 5;
        let status = process.wait(patience).await;
        let status = status.unwrap_or_else(|| panic!("{name} does not end within {patience:?}"));
        (status, process.output())
    }

    /// Writes a file into the world's folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// The HTTP API, commands through the first command-service, queries through the first
    /// query-service.
    pub fn api(&self) -> Api {
        Api::new(&self.command.api, &self.query.api)
    }

    /// Users without passwords, and a token for each.
    pub async fn users(&self, names: &[String]) -> Vec<String> {
        let lines: Vec<String> = names
            .iter()
            .map(|name| format!(r#"{{"type":"user","username":"{name}"}}"#))
            .collect();
        self.import("users", &lines).await;
        self.tokens(names).await
    }

    /// New users without passwords, and a session for each through `api`.
    pub async fn sessions(&self, api: &Api, prefix: &str, count: usize) -> Vec<Session> {
        let names: Vec<String> = (0..count)
            .map(|number| format!("{prefix}_{number}"))
            .collect();
        let tokens = self.users(&names).await;
        self.known(api, &names, &tokens).await
    }

    /// Sessions of users who are there already.
    pub async fn known(&self, api: &Api, names: &[String], tokens: &[String]) -> Vec<Session> {
        let sessions = names
            .iter()
            .zip(tokens)
            .map(|(name, token)| api.session(name, token));
        join_all(sessions).await
    }

    /// Imports lines of JSON; nothing of it may be refused.
    pub async fn import(&self, name: &str, lines: &[String]) {
        let file = self.file(&format!("{name}.ndjson"), &(lines.join("\n") + "\n"));
        let file = file.to_str().expect("a path in UTF-8");
        let name = format!("import-{name}");
        let (status, printed) = self.run(&name, "command-service", &["import", file]).await;
        assert!(
            status.success(),
            "import ended with {}: {printed}",
            describe(status)
        );
    }

    /// Access tokens, as `command-service token` prints them.
    pub async fn tokens(&self, names: &[String]) -> Vec<String> {
        let mut arguments = vec!["token"];
        arguments.extend(names.iter().map(String::as_str));
        let process = self.operator("token", "command-service", &arguments);
        let (status, printed) = self.run_to_end(&process).await;
        // Tokens are secrets even here: a failing test prints what its processes printed.
        process.forget_output();
        assert!(status.success(), "no tokens: {}", describe(status));
        // A token is the last word of its line, whether the name stands before it or not.
        let tokens: Vec<String> = printed
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .filter(|word| word.split('.').count() == 3)
            .map(str::to_owned)
            .collect();
        assert_eq!(tokens.len(), names.len(), "one token for each name");
        tokens
    }

    /// The database that holds the log.
    pub async fn log(&self) -> mongodb::Database {
        self.database(shared::engines::DEFAULT_DATABASE).await
    }

    /// The database that holds the views.
    pub async fn views(&self) -> mongodb::Database {
        self.database(&format!("{}_views", shared::engines::DEFAULT_DATABASE))
            .await
    }

    async fn database(&self, name: &str) -> mongodb::Database {
        let client = self.mongodb_client.get_or_init(|| async {
            let uri = self
                .environment
                .iter()
                .find(|(name, _)| name == "MONGODB_URI");
            let (_, uri) = uri.expect("it was set above");
            let mut options = ClientOptions::parse(uri).await.expect("a URI made above");
            options.read_concern = Some(ReadConcern::majority());
            options.server_selection_timeout = Some(Duration::from_secs(5));
            mongodb::Client::with_options(options).expect("a client")
        });
        client.await.database(name)
    }

    /// The events of the log.
    pub async fn events(&self) -> mongodb::Collection<Document> {
        self.log().await.collection(shared::log::COLLECTION)
    }

    /// The stream of this world.
    pub async fn stream(&self) -> jetstream::stream::Stream {
        let client = async_nats::connect(self.nats_url())
            .await
            .expect("the broker answers");
        let stream = jetstream::new(client)
            .get_stream(Self::names().stream())
            .await;
        stream.expect("the stream is there")
    }

    fn names() -> shared::event_stream::Names {
        "microblog".parse().expect("a prefix")
    }

    /// Publishes something that is no event, past the relay.
    pub async fn publish_foreign(&self, body: &str) {
        let client = async_nats::connect(self.nats_url()).await.expect("NATS");
        // Kept until there is an answer: with it goes the connection.
        let jetstream = jetstream::new(client);
        let published = jetstream
            .publish(Self::names().tick(), body.to_owned().into())
            .await
            .expect("handed over");
        published.await.expect("the stream takes it");
    }

    /// How many messages were not understood, as an operator is told.
    pub async fn dead_letters(&self) -> usize {
        let (status, printed) = self
            .run("dead-letters", "query-service", &["dead-letters", "list"])
            .await;
        assert!(status.success(), "{printed}");
        printed
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .count()
    }

    /// Waits until the stream has as many events as the log, and compares the two.
    pub async fn audit(&self) -> Audit {
        let (events, stream) = (self.events().await, self.stream().await);
        eventually("the stream has what the log has", PATIENCE, async || {
            let log = read_log(&events).await.ok()?;
            let messages = read_stream(&stream).await.ok()?;
            let audit = Audit::of(&log, &messages);
            // Only what is missing gets better with time.
            audit.missing.is_empty().then_some(audit)
        })
        .await
    }

    /// Runs `query-service verify`, and fails unless it finds 0 differences.
    pub async fn verify(&self) -> String {
        let (status, printed) = self
            .run("verify", "query-service", &["verify", "--patience", "120"])
            .await;
        let line = printed.lines().last().unwrap_or_default().to_owned();
        assert!(
            status.success(),
            "verify ended with {}:\n{printed}",
            describe(status)
        );
        assert!(line.ends_with(": 0 differences"), "verify says: {line}");
        line
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
        }
    }
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

fn service(
    name: &str,
    folder: &Path,
    environment: &[(String, String)],
    port: u16,
    ops: u16,
) -> Service {
    let process = Process::new(name, &binary_named(name), folder);
    with_addresses(process.environment(environment.to_vec()), port, ops)
}

fn with_addresses(process: Process, port: u16, ops: u16) -> Service {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .no_proxy()
        .build();
    Service {
        process: Arc::new(process),
        api: format!("http://127.0.0.1:{port}"),
        ops: format!("http://127.0.0.1:{ops}"),
        http: http.expect("a client"),
    }
}

fn mongodb(folder: &Path, is_mongod: bool, port: u16) -> Process {
    let (data, port) = (folder.join("mongodb"), port.to_string());
    std::fs::create_dir_all(&data).expect("a folder for the database");
    let data = data.to_str().expect("a path in UTF-8").to_owned();
    let process = Process::new(
        "mongodb",
        Path::new(&needed("MICROBLOG_MONGODB_BIN")),
        folder,
    );
    if is_mongod {
        return process.arguments([
            "--replSet",
            "rs0",
            "--bind_ip",
            "127.0.0.1",
            "--port",
            &port,
            "--dbpath",
            &data,
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "0.5",
        ]);
    }
    // Empty, so that no configuration from elsewhere is picked up.
    let config = folder.join("secantus.toml");
    std::fs::write(&config, "").expect("a configuration");
    process.arguments([
        "--config",
        config.to_str().expect("a path in UTF-8"),
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--storage-path",
        &data,
        // Without it an acknowledged write can be lost in a crash.
        "--sync-on-commit",
        "--oplog-max-entries",
        "5000000",
        "--oplog-retention-seconds",
        "86400",
        "--log-level",
        "WARNING",
        "--cache-size",
        "512M",
    ])
}

fn nats(folder: &Path, port: u16) -> Process {
    let config = write_nats_config(folder, port, "").into_os_string();
    let program = needed("MICROBLOG_NATS_BIN");
    Process::new("nats", Path::new(&program), folder).arguments(["--config".into(), config])
}

/// Where the configuration of a broker is: one that keeps what it acknowledges.
pub(crate) fn write_nats_config(folder: &Path, port: u16, more: &str) -> PathBuf {
    let config = folder.join("nats.conf");
    let store = folder.join("nats").display().to_string();
    let text = format!(
        "server_name: microblog\nlisten: \"127.0.0.1:{port}\"\n\
         # What is acknowledged is on the disk.\n\
         jetstream {{ store_dir: {store:?}, sync_interval: always }}\n{more}\n"
    );
    std::fs::write(&config, text).expect("a configuration");
    config
}

/// A variable that `make test` sets.
pub(crate) fn needed(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests with `make test` or `make chaos`, which get the engines")
    })
}

/// A binary of the workspace: in `MICROBLOG_BIN_DIR`, or beside this test.
pub fn binary_named(name: &str) -> PathBuf {
    let folder = std::env::var_os("MICROBLOG_BIN_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            // target/<profile>/deps/<test>
            let test = std::env::current_exe().expect("the path of this test");
            let profile = test.parent().and_then(Path::parent);
            profile
                .expect("tests lie in target/<profile>/deps")
                .to_owned()
        });
    let path = folder.join(name);
    let how = "build it with `cargo build --workspace --bins` (`make test` and `make chaos` do)";
    assert!(path.is_file(), "{} is not there: {how}", path.display());
    path
}

/// Ports that nobody listens on, and that this process has not given out before.
///
/// Below the range from which the kernel takes ports for outgoing connections: a port that is
/// free for a moment, because its process was killed, must not be taken by a client. Least of all
/// by the client that knocks there: a connection from a port to itself succeeds.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: LazyLock<Mutex<BTreeSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = rand::rng();
    std::array::from_fn(|_| {
        loop {
            let port = rng.random_range(20_000..32_000);
            if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                given.insert(port);
                return port;
            }
        }
    })
}
