//! HTTP clients that send each request from another address, and four users.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use shared::web::problem::Code;
use system_tests::api::PASSWORD;
use system_tests::world::{PATIENCE, World};
use system_tests::{eventually, http_client};

use super::BASE;

pub struct Clients {
    pub http: reqwest::Client,
    pub command: String,
    query: String,
    addresses: AtomicU32,
}

pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap_or_default())
    }

    /// What is wrong with the form of an error; nothing for a success.
    pub fn fault(&self) -> Option<String> {
        if self.status < 400 {
            return None;
        }
        let known = Code::ALL.iter().find(|code| code.name() == self.code());
        let right = known.is_some_and(|code| code.status().as_u16() == self.status)
            && self.header("content-type") == "application/problem+json"
            && self.body["request_id"] == json!(self.header("x-request-id"))
            && (self.status != 401 || !self.header("www-authenticate").is_empty())
            && (self.status != 405 || !self.header("allow").is_empty())
            && (self.status != 429 || !self.header("retry-after").is_empty());
        (!right || self.status >= 500).then(|| format!("{} {}", self.status, self.body))
    }
}

impl Clients {
    pub fn of(world: &World) -> Self {
        Self {
            http: http_client(Some(Duration::from_secs(20))),
            command: world.command.api.clone(),
            query: world.query.api.clone(),
            addresses: AtomicU32::new(0),
        }
    }

    pub fn base(&self, service: &str) -> &str {
        if service == "command-service" {
            &self.command
        } else {
            &self.query
        }
    }

    /// A request from an address that nothing came from before.
    pub fn request(&self, service: &str, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let address = 0x0b00_0000 + self.addresses.fetch_add(1, Ordering::Relaxed);
        self.http
            .request(method, format!("{}{path}", self.base(service)))
            .header("x-forwarded-for", Ipv4Addr::from(address).to_string())
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let kind = headers.get("content-type").map(|kind| kind.as_bytes());
        // A live stream has no end.
        let body = if kind == Some(b"text/event-stream") {
            Value::Null
        } else {
            let bytes = response.bytes().await.expect("a body");
            serde_json::from_slice(&bytes).unwrap_or(Value::Null)
        };
        Answer {
            status,
            headers,
            body,
        }
    }
}

pub struct People {
    pub ada: Person,
    pub bob: Person,
    /// Suspended.
    pub carl: Person,
    /// Deactivated.
    pub dora: Person,
    /// Two posts of ada's; deleting one leaves the other.
    pub post: String,
    pub doomed: String,
}

pub struct Person {
    pub id: String,
    pub token: String,
}

impl People {
    pub async fn of(world: &World, clients: &Clients) -> Self {
        let ada = person(clients, "ada").await;
        let bob = person(clients, "bob").await;
        let carl = person(clients, "carl").await;
        let dora = person(clients, "dora").await;
        let posts = join_all((0..2).map(|_| post(clients, &ada.token))).await;
        let suspend = ["admin", "suspend", "carl"];
        let (ended, _) = world.run("suspend", "command-service", &suspend).await;
        assert!(ended.success());
        let leave = clients.request("command-service", "DELETE", "/api/v1/users/me");
        let leave = leave.bearer_auth(&dora.token);
        let left = clients
            .send(leave.json(&json!({ "password": PASSWORD })))
            .await;
        assert_eq!(left.status, 204, "{}", left.body);
        let people = Self {
            ada,
            bob,
            carl,
            dora,
            post: posts[0].clone(),
            doomed: posts[1].clone(),
        };
        // Until the views know all of it.
        for (path, status) in [
            (format!("/users/{}", people.dora.id), 404),
            (format!("/posts/{}", people.post), 200),
            (format!("/posts/{}", people.doomed), 200),
            (format!("/users/{}", people.carl.id), 200),
        ] {
            eventually(&format!("{path} is {status}"), PATIENCE, async || {
                let request = clients.request("query-service", "GET", &format!("{BASE}{path}"));
                (clients.send(request).await.status == status).then_some(())
            })
            .await;
        }
        people
    }
}

pub async fn person(clients: &Clients, name: &str) -> Person {
    let body =
        json!({ "username": name, "email": format!("{name}@example.org"), "password": PASSWORD });
    let request = clients.request("command-service", "POST", "/api/v1/users");
    let registered = clients.send(request.json(&body)).await;
    assert_eq!(registered.status, 201, "{}", registered.body);
    let body = json!({ "username": name, "password": PASSWORD });
    let request = clients.request("command-service", "POST", "/api/v1/auth/login");
    let tokens = clients.send(request.json(&body)).await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Person {
        id: text(&registered.body["user_id"]),
        token: text(&tokens.body["access_token"]),
    }
}

async fn post(clients: &Clients, token: &str) -> String {
    let request = clients.request("command-service", "POST", "/api/v1/posts");
    let request = request.bearer_auth(token).json(&json!({ "content": "x" }));
    let posted = clients.send(request).await;
    posted.body["post_id"].as_str().expect("an id").to_owned()
}
