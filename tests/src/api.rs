//! The HTTP API's verbs, and what an answer, or none, says about a command.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::contract::consistency;
use shared::runtime::error_chain::Chain;

use crate::events::Events;
use crate::world::Service;
use crate::{eventually, http_client};

/// Clients of one deployment.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    command: String,
    query: String,
}

/// What is known of a command after it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<T> {
    /// Acknowledged: it is in the log.
    Accepted(Accepted<T>),
    /// Answered: it will never happen.
    Refused(String),
    /// No connection could be made: it did not happen, and a retry may help.
    NotSent(String),
    /// It happened, happens later, or never does.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Accepted<T> {
    pub value: T,
    /// For reads that must see it.
    pub consistency: String,
}

impl<T> Outcome<T> {
    /// The acknowledgement; a test that has no faults expects nothing else.
    pub fn accepted(self) -> Accepted<T> {
        match self {
            Self::Accepted(accepted) => accepted,
            Self::Refused(why) | Self::NotSent(why) | Self::Unknown(why) => {
                panic!("not accepted: {why}")
            }
        }
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Accepted(Accepted { value, consistency }) => Outcome::Accepted(Accepted {
                value: change(value),
                consistency,
            }),
            Self::Refused(why) => Outcome::Refused(why),
            Self::NotSent(why) => Outcome::NotSent(why),
            Self::Unknown(why) => Outcome::Unknown(why),
        }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Post {
    pub entry_id: String,
    pub post_id: String,
    pub user_id: String,
    pub content: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    pub posts: Vec<Post>,
    pub next_cursor: Option<String>,
}

/// What a session is carried on with.
#[derive(Clone, Deserialize)]
pub struct Tokens {
    pub access_token: String,
    pub refresh_token: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct User {
    pub user_id: String,
    pub username: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Relationship {
    pub following: bool,
    pub followed_by: bool,
}

/// The password of every user who registers.
pub const PASSWORD: &str = "correct horse battery";
/// How long a read is tried again while the system recovers or a write is not visible yet.
const PATIENCE: Duration = Duration::from_secs(60);

fn base(address: &str) -> String {
    format!("{address}/api/v1")
}

impl Api {
    pub fn new(command: &str, query: &str) -> Self {
        Self {
            // Longer than the service's own deadline (5 s): mostly the service gives up first.
            http: http_client(Some(Duration::from_secs(8))),
            command: base(command),
            query: base(query),
        }
    }

    /// Registers a user and signs in.
    pub async fn register(&self, username: &str) -> Session {
        let user = json!({ "username": username, "email": format!("{username}@example.com"), "password": PASSWORD });
        let request = self
            .http
            .post(format!("{}/users", self.command))
            .json(&user);
        send::<User>(request).await.accepted();
        self.login(username, PASSWORD).await
    }

    /// The status of the answer to a registration with this email address.
    pub async fn register_at(&self, username: &str, email: &str) -> StatusCode {
        let user = json!({ "username": username, "email": email, "password": PASSWORD });
        let request = self.http.post(format!("{}/users", self.command));
        let answer = request.json(&user).send().await;
        answer.expect("an answer").status()
    }

    pub async fn login(&self, username: &str, password: &str) -> Session {
        let request = self.http.post(format!("{}/auth/login", self.command));
        let request = request.json(&json!({ "username": username, "password": password }));
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let tokens: Tokens = answer.json().await.expect("tokens");
        self.session(username, &tokens.access_token).await
    }

    /// Signs in; anything but tokens is an error, as it was told.
    pub async fn sign_in(&self, username: &str) -> Result<Tokens, String> {
        let body = json!({ "username": username, "password": PASSWORD });
        self.tokens("/auth/login", &body).await
    }

    /// Carries a session on; anything but tokens is an error, as it was told.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Tokens, String> {
        let body = json!({ "refresh_token": refresh_token });
        self.tokens("/auth/refresh", &body).await
    }

    async fn tokens(&self, path: &str, body: &Value) -> Result<Tokens, String> {
        let request = self.http.post(format!("{}{path}", self.command));
        let answer = request.json(body).send().await;
        let answer = answer.map_err(|error| Chain(&error).to_string())?;
        let (status, text) = (answer.status(), answer.text().await);
        let text = text.map_err(|error| Chain(&error).to_string())?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// A session with a token that the user has already.
    pub async fn session(&self, username: &str, token: &str) -> Session {
        let user = self.user(username).await;
        Session {
            api: self.clone(),
            username: username.to_owned(),
            user_id: user.user_id,
            token: token.to_owned(),
        }
    }

    /// Waits until the user can be seen.
    pub async fn user(&self, username: &str) -> User {
        let request = || {
            self.http
                .get(format!("{}/users/by-username/{username}", self.query))
        };
        eventually(&format!("{username} is known"), PATIENCE, async || {
            read::<User>(request()).await.ok().flatten()
        })
        .await
    }

    /// A post, `None` if there is none.
    pub async fn post(&self, id: &str) -> Option<Post> {
        let request = || self.http.get(format!("{}/posts/{id}", self.query));
        eventually("posts can be read", PATIENCE, async || {
            read::<Post>(request()).await.ok()
        })
        .await
    }
}

/// What one user can do.
#[derive(Clone, Debug)]
pub struct Session {
    api: Api,
    pub username: String,
    pub user_id: String,
    token: String,
}

/// An answer to a query as it came, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<String>,
    /// `Null` where there was no JSON.
    pub body: Value,
}

impl Session {
    /// For requests that have no verb here.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The same user, with queries through another process.
    #[must_use]
    pub fn through(&self, query: &Service) -> Self {
        let mut session = self.clone();
        session.api.query = base(&query.api);
        session
    }

    /// The same user, with commands and queries through these processes.
    #[must_use]
    pub fn through_both(&self, command: &Service, query: &Service) -> Self {
        let mut session = self.through(query);
        session.api.command = base(&command.api);
        session
    }

    /// Posts under an idempotency key; the value is the post's id.
    pub async fn post(&self, content: &str, key: &str) -> Outcome<String> {
        let request = self
            .command(Method::POST, "/posts")
            .header("idempotency-key", key);
        let request = request.json(&json!({ "content": content }));
        send::<Value>(request).await.map(post_id)
    }

    /// Posts as soon as commands are accepted; the post's id.
    pub async fn post_when_possible(&self, content: &str) -> String {
        let key = content.replace(' ', "-");
        eventually(
            "a command is accepted",
            crate::world::PATIENCE,
            async || match self.post(content, &key).await {
                Outcome::Accepted(accepted) => Some(accepted.value),
                Outcome::Refused(_) | Outcome::NotSent(_) | Outcome::Unknown(_) => None,
            },
        )
        .await
    }

    /// Sends a post, and resets the connection `after` a while without reading the answer.
    pub async fn post_and_reset(&self, content: &str, key: &str, after: Duration) {
        let address = self.api.command.trim_start_matches("http://");
        let host = address
            .split('/')
            .next()
            .expect("an address begins with its host");
        let body = json!({ "content": content }).to_string();
        let request = format!(
            "POST /api/v1/posts HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\n\
             idempotency-key: {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let Ok(mut stream) = tokio::net::TcpStream::connect(host).await else {
            return;
        };
        // With a linger time of zero, closing the socket resets the connection.
        stream.set_zero_linger().expect("an option");
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await;
        tokio::time::sleep(after).await;
    }

    pub async fn follow(&self, followee: &str) -> Outcome<()> {
        let request = self.command(Method::POST, &format!("/users/{followee}/follow"));
        send::<Value>(request).await.map(|_| ())
    }

    pub async fn unfollow(&self, followee: &str) -> Outcome<()> {
        let request = self.command(Method::DELETE, &format!("/users/{followee}/follow"));
        send::<Value>(request).await.map(|_| ())
    }

    /// Replies; the value is the reply's id.
    pub async fn reply(&self, parent: &str, content: &str) -> Outcome<String> {
        let request = self.command(Method::POST, "/posts");
        let reply = json!({ "content": content, "reply_to_post_id": parent });
        send::<Value>(request.json(&reply)).await.map(post_id)
    }

    pub async fn delete(&self, post: &str) -> Outcome<()> {
        self.plain(Method::DELETE, &format!("/posts/{post}")).await
    }

    pub async fn like(&self, post: &str) -> Outcome<()> {
        self.plain(Method::POST, &format!("/posts/{post}/like"))
            .await
    }

    pub async fn unlike(&self, post: &str) -> Outcome<()> {
        self.plain(Method::DELETE, &format!("/posts/{post}/like"))
            .await
    }

    pub async fn repost(&self, post: &str) -> Outcome<()> {
        self.plain(Method::POST, &format!("/posts/{post}/repost"))
            .await
    }

    pub async fn unrepost(&self, post: &str) -> Outcome<()> {
        self.plain(Method::DELETE, &format!("/posts/{post}/repost"))
            .await
    }

    pub async fn rename(&self, display_name: &str) -> Outcome<()> {
        let request = self.command(Method::PATCH, "/users/me");
        let request = request.json(&json!({ "display_name": display_name }));
        send::<Value>(request).await.map(|_| ())
    }

    /// Takes another e-mail address; only for users who registered with a password.
    pub async fn change_email(&self, email: &str) -> Outcome<()> {
        let request = self.command(Method::PUT, "/users/me/email");
        let request = request.json(&json!({ "password": PASSWORD, "email": email }));
        send::<Value>(request).await.map(|_| ())
    }

    /// Deactivates the account; only for users who registered with a password.
    pub async fn leave(&self) -> Outcome<()> {
        let request = self.command(Method::DELETE, "/users/me");
        let request = request.json(&json!({ "password": PASSWORD }));
        send::<Value>(request).await.map(|_| ())
    }

    async fn plain(&self, method: Method, path: &str) -> Outcome<()> {
        send::<Value>(self.command(method, path)).await.map(|_| ())
    }

    /// One query, asked once: its answer as it came.
    pub async fn get(&self, path: &str, after: Option<&str>) -> Result<Answer, String> {
        let mut request = self.query(path);
        if let Some(after) = after {
            request = request.header(consistency::HEADER, after);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| Chain(&error).to_string())?;
        let retry_after = answer.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok());
        Ok(Answer {
            status: answer.status(),
            retry_after: retry_after.map(str::to_owned),
            body: answer.json().await.unwrap_or_default(),
        })
    }

    /// The live stream, resumed after an event where one is named.
    pub async fn live(&self, after: Option<u64>) -> Events {
        Events::open(self.live_request(""), after).await
    }

    /// A request for the live stream, with this query string.
    pub fn live_request(&self, query: &str) -> RequestBuilder {
        // Without the deadline that other requests have.
        http_client(None)
            .get(format!("{}/timeline/stream{query}", self.api.query))
            .bearer_auth(&self.token)
    }

    /// The same user, with queries through a proxy at this address.
    #[must_use]
    pub fn at(&self, address: &str) -> Self {
        let mut session = self.clone();
        session.api.query = base(address);
        session
    }

    /// A query with more headers to come.
    pub fn request(&self, path: &str) -> RequestBuilder {
        self.query(path)
    }

    /// The same user with another access token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    fn command(&self, method: Method, path: &str) -> RequestBuilder {
        self.api
            .http
            .request(method, format!("{}{path}", self.api.command))
            .bearer_auth(&self.token)
    }

    fn query(&self, path: &str) -> RequestBuilder {
        self.api
            .http
            .get(format!("{}{path}", self.api.query))
            .bearer_auth(&self.token)
    }

    /// A page of the home timeline that reflects the write that `after` names.
    pub async fn timeline(&self, limit: usize, cursor: Option<&str>, after: Option<&str>) -> Page {
        let mut path = format!("/timeline?limit={limit}");
        if let Some(cursor) = cursor {
            path.push_str(&format!("&cursor={cursor}"));
        }
        self.patiently(&path, after)
            .await
            .expect("everybody has a timeline")
    }

    /// The whole home timeline, page by page.
    pub async fn scroll(&self, limit: usize, after: Option<&str>) -> Vec<Post> {
        let (mut posts, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.timeline(limit, cursor.as_deref(), after).await;
            posts.extend(page.posts);
            if page.next_cursor.is_none() {
                return posts;
            }
            cursor = page.next_cursor;
        }
    }

    pub async fn relationship(&self, with: &str) -> Relationship {
        let path = format!("/users/{with}/relationship");
        self.patiently(&path, None)
            .await
            .expect("both users are there")
    }

    /// Whether the user likes a post.
    pub async fn likes(&self, post: &str) -> bool {
        let shown: Option<Value> = self.patiently(&format!("/posts/{post}"), None).await;
        shown.expect("the post is there")["liked"] == true
    }

    /// Reads until the service can answer: 503 means "retry later".
    async fn patiently<T: DeserializeOwned>(&self, path: &str, after: Option<&str>) -> Option<T> {
        eventually(&format!("GET {path} is answered"), PATIENCE, async || {
            let mut request = self.query(path);
            if let Some(after) = after {
                request = request.header(consistency::HEADER, after);
            }
            read(request).await.ok()
        })
        .await
    }
}

/// What is there, `None` for 404; an error where asking again may help.
async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<Option<T>, String> {
    let answer = request.send().await.map_err(|error| error.to_string())?;
    match answer.status() {
        StatusCode::OK => answer
            .json()
            .await
            .map(Some)
            .map_err(|error| error.to_string()),
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::SERVICE_UNAVAILABLE => Err("not now".to_owned()),
        status => panic!(
            "a read was answered with {status}: {:?}",
            answer.text().await
        ),
    }
}

async fn send<T: DeserializeOwned>(request: RequestBuilder) -> Outcome<T> {
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Outcome::NotSent(Chain(&error).to_string()),
        Err(error) => return Outcome::Unknown(Chain(&error).to_string()),
    };
    let status = answer.status();
    if status.is_client_error() {
        let problem = answer.text().await.unwrap_or_default();
        return Outcome::Refused(format!("{status}: {problem}"));
    }
    if !status.is_success() {
        // The command may have been carried out, or may be carried out later.
        let problem = answer.text().await.unwrap_or_default();
        return Outcome::Unknown(format!("{status}: {problem}"));
    }
    // The status alone acknowledges the command, but a test must know the post's id.
    let token = answer
        .headers()
        .get(consistency::HEADER)
        .and_then(|value| value.to_str().ok());
    let consistency = token
        .expect("every accepted command has a consistency token")
        .to_owned();
    let body = match answer.bytes().await {
        // What is deleted has no body.
        Ok(body) if body.is_empty() => "null".into(),
        Ok(body) => body,
        Err(error) => return Outcome::Unknown(error.to_string()),
    };
    match serde_json::from_slice(&body) {
        Ok(value) => Outcome::Accepted(Accepted { value, consistency }),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

fn post_id(post: Value) -> String {
    let id = post["post_id"].as_str();
    id.expect("a post has an id").to_owned()
}
