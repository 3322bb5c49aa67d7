//! A command service of its own for each test: own database, own port, real MongoDB.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use command_service::keys::Signer;
use command_service::startup::{Application, Core, Role};
use futures_util::TryStreamExt;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use shared::contract::events::Event;
use shared::contract::log::LogDocument;
use shared::runtime::settings::Settings;
use shared::runtime::tasks::Tasks;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const BINARY: &str = env!("CARGO_BIN_EXE_command-service");
pub const PASSWORD: &str = "correct horse";
/// Longer than anything a test waits for; reaching it means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// `MONGODB_URI` with a database of this test's own.
pub fn database_uri() -> String {
    let uri = std::env::var("MONGODB_URI")
        .unwrap_or_else(|_| panic!("MONGODB_URI must be set: run the tests with `make test`"));
    let name = format!("command_{:016x}", rand::random::<u64>());
    let (server, options) = uri.split_once('?').unwrap_or((&uri, ""));
    let authority = server.trim_start_matches("mongodb://");
    let host = authority.split('/').next().unwrap();
    format!("mongodb://{host}/{name}?{options}")
}

pub struct TestApp {
    pub uri: String,
    pub base: String,
    pub ops: String,
    pub http: reqwest::Client,
    pub settings: Settings,
    keys: tempfile::TempDir,
    vars: Vec<(String, String)>,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
}

/// A registered user with a token.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: String,
    pub username: String,
    pub token: String,
    pub refresh: String,
}

pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
        };
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap().to_owned()
    }

    /// Checks that it is a problem with this status and code, in the right envelope.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, &self.body["code"]),
            (status, &json!(code)),
            "{}",
            self.body
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], json!(status));
        assert_eq!(self.body["request_id"], json!(self.header("x-request-id")));
        for field in ["type", "title", "detail"] {
            assert!(self.body[field].is_string(), "{field}: {}", self.body);
        }
    }

    #[track_caller]
    pub fn accepted(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

impl TestApp {
    pub fn spawn() -> Self {
        Self::spawn_with(&[])
    }

    /// With further settings.
    pub fn spawn_with(vars: &[(&str, &str)]) -> Self {
        let uri = database_uri();
        let keys = tempfile::tempdir().unwrap();
        let mut all = vec![
            ("MONGODB_URI".to_owned(), uri.clone()),
            ("COMMAND_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
            ("COMMAND_OPS_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
            ("IP_RATE_PER_SECOND".to_owned(), "0".to_owned()),
            (
                "JWT_PRIVATE_KEY_FILE".to_owned(),
                keys.path().join("jwt.pem").display().to_string(),
            ),
        ];
        for (name, value) in vars {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let uri = all
            .iter()
            .find(|(name, _)| name == "MONGODB_URI")
            .unwrap()
            .1
            .clone();
        let os = |text: &String| OsString::from(text);
        let settings = Settings::from_vars(all.iter().map(|(n, v)| (os(n), os(v)))).unwrap();
        let mut app = Self {
            uri,
            base: String::new(),
            ops: String::new(),
            http: reqwest::Client::new(),
            settings,
            keys,
            vars: all,
            stop: CancellationToken::new(),
            running: None,
        };
        app.start();
        app
    }

    fn start(&mut self) {
        let application = Application::build(self.settings.clone(), Role::Api).unwrap();
        let (api, ops) = application.addresses().unwrap();
        self.base = format!("http://{api}");
        self.ops = format!("http://{ops}");
        self.stop = CancellationToken::new();
        let stop = self.stop.clone();
        self.running = Some(tokio::spawn(async move {
            application.run_until(stop).await.unwrap();
        }));
    }

    /// Ends the service gracefully and starts it again, on the same database.
    pub async fn restart(&mut self) {
        self.halt().await;
        self.start();
        self.wait_until_ready().await;
    }

    pub async fn halt(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// Stops the service and removes its database.
    pub async fn end(mut self) {
        self.halt().await;
        self.database().await.drop().await.unwrap();
    }

    /// The program, with the environment of this service and nothing to read.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// The environment of this service, for another process.
    pub fn vars(&self) -> &[(String, String)] {
        &self.vars
    }

    pub async fn wait_until_ready(&self) {
        eventually("the service is ready", || async {
            let ready = self.http.get(format!("{}/readyz", self.ops)).send().await;
            ready.is_ok_and(|ready| ready.status().is_success())
        })
        .await;
    }

    /// The use cases on the same database, past HTTP.
    pub async fn core(&self) -> Core {
        let signer = Signer::load_or_make(&self.settings.jwt_private_key_file).unwrap();
        let tasks = Tasks::default();
        let core = Core::open(&self.settings, signer, &tasks).await.unwrap();
        core.store.prepare().await.unwrap();
        core
    }

    pub async fn database(&self) -> mongodb::Database {
        let client = mongodb::Client::with_uri_str(&self.uri).await.unwrap();
        client.default_database().unwrap()
    }

    /// The log, in order of ids.
    pub async fn log(&self) -> Vec<Event> {
        self.log_where(doc! {}).await
    }

    pub async fn log_where(&self, filter: Document) -> Vec<Event> {
        let events = self.database().await.collection::<LogDocument>("events");
        let found = events.find(filter).sort(doc! { "_id": 1 }).await.unwrap();
        let found: Vec<LogDocument> = found.try_collect().await.unwrap();
        found
            .iter()
            .map(|event| event.to_event().unwrap())
            .collect()
    }

    pub async fn versions(&self, stream: &str) -> Vec<i64> {
        let events = self.log_where(doc! { "stream": stream }).await;
        events.iter().map(|event| event.version).collect()
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let request = self.request("POST", &format!("/api/v1{path}"));
        self.send(request.json(&body)).await
    }

    /// A command of a user, without a body.
    pub async fn command(&self, who: &Account, method: &str, path: &str) -> Answer {
        let request = self.request(method, &format!("/api/v1{path}"));
        self.send(request.bearer_auth(&who.token)).await
    }

    pub async fn command_with(
        &self,
        who: &Account,
        method: &str,
        path: &str,
        body: Value,
    ) -> Answer {
        let request = self.request(method, &format!("/api/v1{path}"));
        self.send(request.bearer_auth(&who.token).json(&body)).await
    }

    pub async fn register(&self, username: &str) -> Answer {
        let body = json!({
            "username": username,
            "email": format!("{username}@example.org"),
            "password": PASSWORD,
        });
        self.post("/users", body).await
    }

    pub async fn login(&self, username: &str) -> Answer {
        let body = json!({ "username": username, "password": PASSWORD });
        self.post("/auth/login", body).await
    }

    /// Registers somebody and signs them in.
    pub async fn account(&self, username: &str) -> Account {
        self.wait_until_ready().await;
        let registered = self.register(username).await;
        registered.accepted(201);
        let tokens = self.login(username).await;
        tokens.accepted(200);
        Account {
            id: registered.text("user_id"),
            username: username.to_owned(),
            token: tokens.text("access_token"),
            refresh: tokens.text("refresh_token"),
        }
    }

    pub async fn create_post(&self, who: &Account, content: &str) -> String {
        let body = json!({ "content": content });
        let created = self.command_with(who, "POST", "/posts", body).await;
        created.accepted(201);
        created.text("post_id")
    }
}

/// Waits until something holds; fails when it does not in time. This is how tests wait: for something
/// that can be seen, never for time to pass.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
