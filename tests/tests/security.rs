//! Nobody gets in: every route against every kind of token, every kind of bad request, and every
//! bad setting. The tables are generated from what the services serve, so that a new route
//! without a row fails.

mod edge;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use shared::problem::Code;
use shared::settings::VARIABLES;
use shared::token::{AUDIENCE, ISSUER, KeySet};
use system_tests::process::Process;
use system_tests::world::{PATIENCE, World, binary_named};
use system_tests::{eventually, http_client, is_long, routes};

const PASSWORD: &str = "correct horse battery";
const BASE: &str = "/api/v1";
/// What one address may ask in the worlds of these tests: every request here but the floods comes
/// from an address of its own.
const RATE: &str = "50";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in() {
    let keys = tempfile::tempdir().expect("a folder");
    let key = keys.path().join("jwt.pem").display().to_string();
    let world = World::start(&[
        ("JWT_PRIVATE_KEY_FILE", &key),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("IP_RATE_PER_SECOND", RATE),
        ("CORS_ORIGINS", "https://a.example"),
        ("PUBLIC_URL", edge::PUBLIC_URL),
        ("POST_QUOTA", "300"),
    ])
    .await;
    let clients = Clients::of(&world);
    let people = People::of(&world, &clients).await;
    every_route_answers_every_token_as_specified(&clients, &people, Path::new(&key)).await;
    every_bad_request_is_a_problem_and_none_is_ours(&world, &clients, &people).await;
    ten_thousand_paths_are_one_series(&world, &clients).await;
    an_unknown_account_takes_as_long_as_a_wrong_password(&clients).await;
    both_services_limit_addresses_and_know_origins(&clients).await;
    edge::what_others_make_of_requests_is_understood(&world, &clients, &people).await;
    two_replicas_accept_exactly_the_quota(&world, &clients).await;
}

// ---- who asks ---------------------------------------------------------------------------------

struct Clients {
    http: reqwest::Client,
    command: String,
    query: String,
    addresses: AtomicU32,
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap_or_default())
    }

    /// What is wrong with the form of an error; nothing for a success.
    fn fault(&self) -> Option<String> {
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
    fn of(world: &World) -> Self {
        Self {
            http: http_client(Some(Duration::from_secs(20))),
            command: world.command.api.clone(),
            query: world.query.api.clone(),
            addresses: AtomicU32::new(0),
        }
    }

    fn base(&self, service: &str) -> &str {
        if service == "command-service" {
            &self.command
        } else {
            &self.query
        }
    }

    /// A request from an address that nothing came from before.
    fn request(&self, service: &str, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let address = 0x0b00_0000 + self.addresses.fetch_add(1, Ordering::Relaxed);
        self.http
            .request(method, format!("{}{path}", self.base(service)))
            .header("x-forwarded-for", Ipv4Addr::from(address).to_string())
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
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

struct People {
    ada: Person,
    bob: Person,
    /// Suspended.
    carl: Person,
    /// Deactivated.
    dora: Person,
    /// Two posts of ada's; deleting one leaves the other.
    post: String,
    doomed: String,
}

struct Person {
    id: String,
    token: String,
}

impl People {
    async fn of(world: &World, clients: &Clients) -> Self {
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

    fn path(&self, row: &Row) -> String {
        let id = match row.path {
            path if path.starts_with("/users") => &self.ada.id,
            "/posts/{id}" if row.method == "DELETE" => &self.doomed,
            _ => &self.post,
        };
        let path = row.path.replace("{id}", id).replace("{name}", "ada");
        let query = row.query.replace("{ada}", &self.ada.id);
        format!("{BASE}{path}{query}")
    }
}

async fn person(clients: &Clients, name: &str) -> Person {
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

// ---- the authorization matrix -----------------------------------------------------------------

/// Whether a route looks at a token.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Access {
    /// It does not.
    Open,
    /// It does, and wants none; a bad one is refused all the same.
    Optional,
    Required,
}

/// A route, and how it answers whom. `ada` owns the object that the path names.
struct Row {
    service: &'static str,
    method: &'static str,
    path: &'static str,
    query: &'static str,
    body: Option<Value>,
    access: Access,
    suspended: (u16, &'static str),
    other: (u16, &'static str),
    /// Last: it may delete.
    owner: (u16, &'static str),
}

const OK: (u16, &str) = (200, "");
const SUSPENDED: (u16, &str) = (403, "suspended");

fn command(
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    other: (u16, &'static str),
    owner: (u16, &'static str),
) -> Row {
    Row {
        service: "command-service",
        method,
        path,
        query: "",
        body,
        access: Access::Required,
        suspended: SUSPENDED,
        other,
        owner,
    }
}

/// Who sends nothing that could be understood is refused for that, whoever it is.
fn open(path: &'static str) -> Row {
    let malformed = (400, "malformed_body");
    Row {
        access: Access::Open,
        suspended: malformed,
        ..command("POST", path, Some(json!({})), malformed, malformed)
    }
}

fn query(path: &'static str, access: Access) -> Row {
    Row {
        service: "query-service",
        suspended: OK,
        access,
        ..command("GET", path, None, OK, OK)
    }
}

fn rows() -> Vec<Row> {
    const SELF: (u16, &str) = (400, "self_follow");
    const WRONG: (u16, &str) = (401, "bad_credentials");
    let me = json!({ "password": "not the password" });
    let forbidden = (403, "forbidden");
    vec![
        open("/users"),
        open("/auth/login"),
        open("/auth/refresh"),
        open("/auth/logout"),
        command("PATCH", "/users/me", Some(json!({ "bio": "x" })), OK, OK),
        Row {
            // Leaving is open to the suspended, too, if they know the password.
            suspended: WRONG,
            ..command("DELETE", "/users/me", Some(me), WRONG, WRONG)
        },
        command("POST", "/users/{id}/follow", None, OK, SELF),
        command("DELETE", "/users/{id}/follow", None, OK, SELF),
        command(
            "POST",
            "/posts",
            Some(json!({ "content": "x" })),
            (201, ""),
            (201, ""),
        ),
        command("DELETE", "/posts/{id}", None, (403, "not_yours"), (204, "")),
        command("POST", "/posts/{id}/like", None, OK, OK),
        command("DELETE", "/posts/{id}/like", None, OK, OK),
        command("POST", "/posts/{id}/repost", None, OK, OK),
        command("DELETE", "/posts/{id}/repost", None, OK, OK),
        Row {
            query: "?user_id={ada}",
            suspended: forbidden,
            other: forbidden,
            ..query("/timeline", Access::Required)
        },
        query("/timeline/stream", Access::Required),
        query("/posts/{id}", Access::Optional),
        query("/posts/{id}/replies", Access::Optional),
        query("/users/by-username/{name}", Access::Optional),
        query("/users/{id}", Access::Optional),
        query("/users/{id}/posts", Access::Optional),
        query("/users/{id}/followers", Access::Optional),
        query("/users/{id}/following", Access::Optional),
        query("/users/{id}/mutuals", Access::Optional),
        query("/users/{id}/relationship", Access::Required),
    ]
}

/// The rows, which are exactly the routes.
fn all_rows() -> Vec<Row> {
    let rows = rows();
    let listed: BTreeSet<_> = rows
        .iter()
        .map(|row| (row.service, row.method.to_owned(), row.path.to_owned()))
        .collect();
    let mut served = BTreeSet::new();
    for service in ["command-service", "query-service"] {
        let routes = routes::of(service).into_iter();
        served.extend(routes.map(|(method, path)| (service, method, path)));
    }
    assert_eq!(listed, served, "every route has a row, every row a route");
    rows
}

/// `Authorization` headers that open nothing, with a name each.
fn forgeries(user: &str, valid: &str, pem: &[u8], keys: &KeySet) -> Vec<(&'static str, String)> {
    let [key] = &keys.keys[..] else {
        panic!("one key")
    };
    let ours = EncodingKey::from_ed_pem(pem).expect("the service's key");
    let pair = Ed25519KeyPair::generate().expect("a key");
    let theirs = EncodingKey::from_ed_der(pair.to_pkcs8v1().expect("a key").as_ref());
    let now = get_current_timestamp();
    let good = json!({
        "sub": user, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600,
    });
    let named = |kid: Option<&str>, algorithm| {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        header
    };
    let header = named(Some(&key.kid), Algorithm::EdDSA);
    let signed = |claims: &Value| encode(&header, claims, &ours).expect("a token");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signed(&claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        signed(&claims)
    };
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = |alg: &str, signature: &str| {
        let header = json!({ "alg": alg, "typ": "JWT", "kid": key.kid });
        format!("{}.{}.{signature}", part(&header), part(&good))
    };
    let parts: Vec<&str> = valid.split('.').collect();
    let public = URL_SAFE_NO_PAD.decode(&key.x).expect("a key");
    let hmac = |secret: &[u8]| {
        let header = named(Some(&key.kid), Algorithm::HS256);
        encode(&header, &good, &EncodingKey::from_secret(secret)).expect("a token")
    };
    let bearer = [
        ("empty", String::new()),
        ("not a token", "x".into()),
        ("three dots", "...".into()),
        ("three words", "a.b.c".into()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("half a signature", valid[..valid.len() - 20].to_owned()),
        ("two tokens", format!("{valid}{valid}")),
        ("another's claims", {
            let mut claims = good.clone();
            claims["sub"] = json!("1");
            format!("{}.{}.{}", parts[0], part(&claims), parts[2])
        }),
        ("expired", with("exp", json!(now - 61))),
        ("not yet valid", with("nbf", json!(now + 600))),
        ("exp as a text", with("exp", json!((now + 600).to_string()))),
        ("no exp", without("exp")),
        ("no iss", without("iss")),
        ("no aud", without("aud")),
        ("no sub", without("sub")),
        ("wrong iss", with("iss", json!("somebody"))),
        ("wrong aud", with("aud", json!("something"))),
        ("sub that is no id", with("sub", json!("ada"))),
        ("sub that is a query", with("sub", json!({ "$gt": "" }))),
        ("alg none", none("none", "")),
        ("alg None", none("None", "")),
        ("alg none, signed", none("none", parts[2])),
        ("HS256 with the public key", hmac(&public)),
        ("HS256 with the public key's text", hmac(key.x.as_bytes())),
        ("HS256 with nothing", hmac(b"")),
        (
            "another key under our name",
            encode(&header, &good, &theirs).expect("a token"),
        ),
        (
            "a key that nobody has",
            encode(&named(Some("nobody's"), Algorithm::EdDSA), &good, &theirs).expect("a token"),
        ),
        (
            "no key named",
            encode(&named(None, Algorithm::EdDSA), &good, &ours).expect("a token"),
        ),
    ];
    let others = [
        ("another scheme", format!("Basic {valid}")),
        ("no scheme", valid.to_owned()),
    ];
    let bearer = bearer.map(|(name, token)| (name, format!("Bearer {token}")));
    bearer.into_iter().chain(others).collect()
}

async fn every_route_answers_every_token_as_specified(
    clients: &Clients,
    people: &People,
    key: &Path,
) {
    let keys = clients.request("command-service", "GET", "/.well-known/jwks.json");
    let keys = clients.send(keys).await.body;
    let keys: KeySet = serde_json::from_value(keys).expect("a key set");
    let pem = std::fs::read(key).expect("the key");
    let forgeries = forgeries(&people.ada.id, &people.ada.token, &pem, &keys);
    let bearer = |person: &Person| format!("Bearer {}", person.token);
    let (mut asked, mut wrong) = (0, Vec::new());
    for row in all_rows() {
        let unauthorized = (401, "unauthorized");
        let (refused, nobody) = match row.access {
            Access::Open => (row.owner, row.owner),
            Access::Optional => (unauthorized, row.owner),
            Access::Required => (unauthorized, unauthorized),
        };
        let mut cases: Vec<(&str, Option<String>, (u16, &str))> = vec![
            ("nobody", None, nobody),
            ("who left", Some(bearer(&people.dora)), refused),
        ];
        let forged = forgeries.iter();
        cases.extend(forged.map(|(name, header)| (*name, Some(header.clone()), refused)));
        cases.push(("the suspended", Some(bearer(&people.carl)), row.suspended));
        cases.push(("another", Some(bearer(&people.bob)), row.other));
        cases.push(("the owner", Some(bearer(&people.ada)), row.owner));
        for (who, header, (status, code)) in cases {
            let mut request = clients.request(row.service, row.method, &people.path(&row));
            if let Some(body) = &row.body {
                request = request.json(body);
            }
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let answer = clients.send(request).await;
            asked += 1;
            if (answer.status, answer.code()) != (status, code) || answer.fault().is_some() {
                wrong.push(format!(
                    "{} {} for {who}: {status} {code} expected, {} {}",
                    row.method, row.path, answer.status, answer.body
                ));
            }
        }
    }
    let right = asked - wrong.len();
    println!("authorization matrix: {right} of {asked} as specified");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ---- bad requests -----------------------------------------------------------------------------

/// A request that is not as it should be, and how it may be answered.
struct Bad {
    what: String,
    request: RequestBuilder,
    /// Status and code; no code: any code of that status.
    expected: Vec<(u16, &'static str)>,
}

const HOSTILE: [&str; 9] = [
    "abc",
    "-1",
    "0",
    "1.5",
    "99999999999999999999",
    "%7B%22$gt%22:%22%22%7D",
    "%00",
    "%F0%9F%92%A9",
    "..%2f..%2fetc%2fpasswd",
];

fn bad_requests(clients: &Clients, people: &People, row: &Row) -> Vec<Bad> {
    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PURGE"];
    let path = people.path(row);
    let plain = |method: &str, path: &str| {
        let request = clients.request(row.service, method, path);
        request.bearer_auth(&people.ada.token)
    };
    let mut bad = Vec::new();
    let mut add = |what: String, request, expected: &[(u16, &'static str)]| {
        let what = format!("{} {}: {what}", row.method, row.path);
        let expected = expected.to_vec();
        bad.push(Bad {
            what,
            request,
            expected,
        });
    };
    let served: BTreeSet<String> = routes::of(row.service)
        .into_iter()
        .filter(|(_, path)| path == row.path)
        .map(|(method, _)| method)
        .collect();
    // `/users/me` is also what `/users/{id}` matches, where that is served.
    for method in METHODS.iter().filter(|method| !served.contains(**method)) {
        let expected = [(405, "method_not_allowed")];
        add(format!("by {method}"), plain(method, &path), &expected);
    }
    if row.path.contains("{id}") {
        let long = "9".repeat(3_000);
        for id in HOSTILE.iter().copied().chain([long.as_str()]) {
            let path = format!("{BASE}{}", row.path.replace("{id}", id));
            let expected = [(400, "invalid"), (404, "not_found")];
            add(
                format!("id {}", &id[..id.len().min(30)]),
                plain(row.method, &path),
                &expected,
            );
        }
    }
    let long = plain(row.method, &path).header("x-long", "x".repeat(20_000));
    add("a long header".into(), long, &[(431, "headers_too_large")]);
    let reads_body =
        row.service == "command-service" && (row.method, row.path) != ("DELETE", "/posts/{id}");
    if reads_body {
        let send = |text: String, kind: Option<&str>| {
            let request = plain(row.method, &path).body(text);
            match kind {
                Some(kind) => request.header("content-type", kind),
                None => request,
            }
        };
        let json = |text: &str| send(text.to_owned(), Some("application/json"));
        let malformed = [(400, "malformed_body")];
        for text in [
            "{",
            "[]",
            "null",
            "\"x\"",
            "{\"x\":1}",
            "{}{}",
            "{\"a\":",
            "\u{feff}{}",
        ] {
            add(text.into(), json(text), &malformed);
        }
        let deep = "[".repeat(5_000);
        add("depth".into(), json(&deep), &malformed);
        let broken = plain(row.method, &path).header("content-type", "application/json");
        add(
            "not UTF-8".into(),
            broken.body(vec![0xff, 0xfe]),
            &malformed,
        );
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(20_000));
        add("20 kB".into(), json(&large), &[(413, "body_too_large")]);
        let unsupported = [(415, "unsupported_media_type")];
        for kind in [
            None,
            Some("text/plain"),
            Some("text/json"),
            Some("application/xml"),
            Some("application/merge-patch+json"),
            Some("application/json; charset=iso-8859-1"),
        ] {
            let what = format!("content type {kind:?}");
            add(what, send("{\"x\":1}".into(), kind), &unsupported);
        }
        let fields: &[&str] = match row.path {
            "/users" => &["username", "email", "password", "display_name", "bio"],
            "/users/me" if row.method == "PATCH" => &["display_name", "bio"],
            "/users/me" => &["password"],
            "/users/{id}/follow" => &["follower_id", "followee_id"],
            "/auth/login" => &["username", "email", "password"],
            "/auth/refresh" | "/auth/logout" => &["refresh_token"],
            "/posts" => &["content", "reply_to_post_id"],
            _ => &["user_id"],
        };
        for field in fields {
            for value in [json!({ "$gt": "" }), json!(["x"]), json!(true), json!(-1.5)] {
                let text = json!({ *field: value }).to_string();
                add(text.clone(), json(&text), &malformed);
            }
        }
    }
    if row.service == "query-service" {
        let with = |query: &str| {
            plain(
                "GET",
                &format!("{}?{query}", path.split('?').next().unwrap_or("")),
            )
        };
        let pages = [
            "/timeline",
            "/replies",
            "/posts",
            "/followers",
            "/following",
            "/mutuals",
        ];
        let is_page = pages.iter().any(|page| row.path.ends_with(page));
        if is_page && row.path != "/posts" {
            for limit in [
                "0",
                "101",
                "-1",
                "abc",
                "1.5",
                "99999999999999999999",
                "%7B%7D",
            ] {
                let query = format!("limit={limit}");
                add(query.clone(), with(&query), &[(400, "invalid")]);
            }
            for cursor in ["x", "AAAA", "%00", &"A".repeat(3_000), "1|2|3"] {
                let query = format!("cursor={cursor}");
                let what = query[..query.len().min(30)].to_owned();
                add(what, with(&query), &[(400, "bad_cursor")]);
            }
        }
        if row.path == "/timeline" {
            for user in ["abc", "0", "%7B%22$gt%22:%22%22%7D"] {
                let query = format!("user_id={user}");
                add(query.clone(), with(&query), &[(400, "invalid")]);
            }
        }
        if row.path == "/timeline/stream" {
            let request = plain("GET", &path).header("last-event-id", "abc");
            add("Last-Event-ID".into(), request, &[(400, "invalid")]);
        }
        for token in ["x", "{\"$gt\":\"\"}", "AAAA"] {
            let request = plain("GET", &path).header("x-consistency-token", token);
            let expected = [(400, "bad_consistency_token")];
            add(format!("consistency token {token}"), request, &expected);
        }
    }
    if row.path == "/posts" && row.method == "POST" {
        for key in ["", "a b", "\"\"", &"k".repeat(129)] {
            let request = plain("POST", &path).header("idempotency-key", key);
            let request = request.json(&json!({ "content": "x" }));
            add("a bad key".into(), request, &[(400, "invalid")]);
        }
    }
    bad
}

async fn every_bad_request_is_a_problem_and_none_is_ours(
    world: &World,
    clients: &Clients,
    people: &People,
) {
    let (mut asked, mut wrong) = (0, Vec::new());
    for row in all_rows() {
        for bad in bad_requests(clients, people, &row) {
            let answer = clients.send(bad.request).await;
            asked += 1;
            let seen = (answer.status, answer.code());
            if !bad.expected.contains(&seen) || answer.fault().is_some() {
                let (expected, body) = (&bad.expected, &answer.body);
                wrong.push(format!(
                    "{}: {expected:?} expected, {} {body}",
                    bad.what, seen.0
                ));
            }
        }
    }
    let right = asked - wrong.len();
    println!("bad requests: {right} of {asked} refused as documented");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for service in [&world.command, &world.query] {
        assert!(service.process.is_running());
    }
}

async fn ten_thousand_paths_are_one_series(world: &World, clients: &Clients) {
    const PATHS: u32 = 10_000;
    let series = async || {
        let mut all = 0;
        for service in [&world.command, &world.query] {
            let metrics = service.metrics().await;
            all += metrics
                .lines()
                .filter(|line| !line.starts_with('#'))
                .count();
        }
        all
    };
    let ask = |n: u32| {
        let service = ["command-service", "query-service"][n as usize % 2];
        let path = ["/x", "/api/v1/x", "/api/v1/posts/x/y", "/.env"][n as usize / 2 % 4];
        clients.send(clients.request(service, "GET", &format!("{path}{n}")))
    };
    // The first of each kind makes its series.
    join_all((0..8).map(ask)).await;
    let before = series().await;
    let answers = futures_util::stream::iter((8..PATHS).map(ask)).buffer_unordered(32);
    let unexpected = answers.filter(|answer| {
        let other = (answer.status, answer.code()) != (404, "not_found");
        std::future::ready(other)
    });
    assert_eq!(unexpected.count().await, 0);
    let after = series().await;
    println!("{PATHS} unknown paths: {before} series before, {after} after");
    assert_eq!(before, after);
}

async fn both_services_limit_addresses_and_know_origins(clients: &Clients) {
    for service in ["command-service", "query-service"] {
        let from = |address: &'static str| {
            let url = format!("{}/nowhere", clients.base(service));
            let request = clients.http.get(url).header("x-forwarded-for", address);
            clients.send(request)
        };
        let flood = join_all((0..400).map(|_| from("203.0.113.7"))).await;
        let limited: Vec<_> = flood.iter().filter(|answer| answer.status == 429).collect();
        println!(
            "{service}: {} of 400 at once from one address are limited",
            limited.len()
        );
        assert!(limited.len() >= 100, "a bucket holds two seconds' worth");
        let refused = limited[0];
        assert_eq!(refused.fault(), None);
        assert_eq!(refused.code(), "too_many_requests");
        assert_eq!(refused.header("ratelimit-policy"), "\"address\";q=100;w=2");
        assert!(
            refused
                .header("ratelimit")
                .starts_with("\"address\";r=0;t=")
        );
        // What callers write in front of what the proxy wrote is not believed.
        let forged = join_all((0..90).map(|_| from("198.51.100.1, 203.0.113.7"))).await;
        assert!(forged.iter().any(|answer| answer.status == 429));
        let neighbour = from("203.0.113.8").await;
        assert_eq!(neighbour.status, 404);
        assert_eq!(neighbour.header("ratelimit"), "\"address\";r=99;t=1");
        let preflight = |origin| {
            let request = clients.request(service, "OPTIONS", "/api/v1/timeline");
            let request = request.header("origin", origin);
            clients.send(request.header("access-control-request-method", "GET"))
        };
        let known = preflight("https://a.example").await;
        assert_eq!(known.status, 204);
        let allowed = known.header("access-control-allow-origin");
        assert_eq!(allowed, "https://a.example");
        let foreign = preflight("https://b.example").await;
        assert_eq!(foreign.header("access-control-allow-origin"), "");
    }
}

async fn an_unknown_account_takes_as_long_as_a_wrong_password(clients: &Clients) {
    const GUESSES: usize = 9;
    let mut times = [Vec::new(), Vec::new()];
    for guess in 0..GUESSES {
        for (name, times) in ["bob", "nobody"].into_iter().zip(&mut times) {
            let body = json!({ "username": name, "password": format!("guess {guess}") });
            let request = clients.request("command-service", "POST", "/api/v1/auth/login");
            let began = std::time::Instant::now();
            let answer = clients.send(request.json(&body)).await;
            times.push(began.elapsed());
            assert_eq!((answer.status, answer.code()), (401, "bad_credentials"));
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[GUESSES / 2]
    });
    println!("a wrong password takes {known:?}, an unknown account {unknown:?} (medians)");
    // Without the decoy it would be a twentieth.
    assert!(unknown * 2 > known && known * 2 > unknown);
}

// ---- the quota --------------------------------------------------------------------------------

async fn two_replicas_accept_exactly_the_quota(world: &World, clients: &Clients) {
    const CLIENTS: u64 = 40;
    let other = world.another(&world.command);
    other.start().await;
    let mut rounds = vec![("eva", 300)];
    person(clients, "eva").await;
    if is_long() {
        person(clients, "vera").await;
        let verify = ["admin", "verify", "vera"];
        let (ended, _) = world.run("verify-vera", "command-service", &verify).await;
        assert!(ended.success());
        rounds.push(("vera", 900));
    }
    for (name, quota) in rounds {
        let token = &world.tokens(&[name.to_owned()]).await[0];
        // Each sends until it has been refused a few times.
        let client = async |n: u64| {
            let (mut accepted, mut refused) = (0, 0);
            let base = if n.is_multiple_of(2) {
                &clients.command
            } else {
                &other.api
            };
            while refused < 3 {
                let address = format!("192.0.2.{n}");
                let request = clients.http.post(format!("{base}{BASE}/posts"));
                let request = request
                    .bearer_auth(token)
                    .header("x-forwarded-for", address);
                let answer = clients.send(request.json(&json!({ "content": "x" }))).await;
                match answer.status {
                    201 => accepted += 1,
                    429 if answer.header("ratelimit").contains("\"posts\";r=0;") => refused += 1,
                    429 => tokio::time::sleep(Duration::from_millis(20)).await,
                    status => panic!("{status} {}", answer.body),
                }
            }
            (accepted, refused)
        };
        let counts = join_all((0..CLIENTS).map(client)).await;
        let accepted: u64 = counts.iter().map(|count| count.0).sum();
        let refused: u64 = counts.iter().map(|count| count.1).sum();
        println!(
            "quota: {CLIENTS} clients of {name}, two replicas: {accepted} accepted, {refused} refused"
        );
        assert_eq!(accepted, quota);
    }
}

// ---- settings ---------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_setting_stops_the_start_and_is_named_and_never_printed() {
    const USAGE: i32 = 64;
    const CANARY: &str = "canary-5ecret";
    let folder = tempfile::tempdir().expect("a folder");
    let (mut starts, mut wrong) = (0, Vec::new());
    for binary in ["command-service", "query-service"] {
        for name in VARIABLES {
            for value in bad_values(name, CANARY) {
                let label = format!("{binary}-{starts}");
                let process = Process::new(&label, &binary_named(binary), folder.path());
                let process = process.environment(
                    [
                        (name.to_owned(), value.clone()),
                        ("COMMAND_OPS_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
                    ]
                    .into_iter()
                    .rev()
                    .collect::<std::collections::BTreeMap<_, _>>(),
                );
                process.start();
                let ended = process.wait(Duration::from_secs(20)).await;
                let said = process.tail(100);
                starts += 1;
                let right = ended.and_then(|ended| ended.code()) == Some(USAGE)
                    && said.contains(&format!("{name} must be "))
                    && !said.contains(CANARY);
                if !right {
                    wrong.push(format!(
                        "{binary} with a bad {name} ({value:?}): {ended:?}\n{said}"
                    ));
                }
            }
        }
    }
    println!(
        "settings: {} of {starts} bad values stop the start, named, not printed",
        starts - wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Values that a variable does not take; each with the canary where a text can be anything.
fn bad_values(name: &str, canary: &str) -> Vec<String> {
    let texts: Vec<String> = match name {
        // Any text is a path, any word is a filter.
        "JWT_PRIVATE_KEY_FILE" => vec![String::new()],
        "RUST_LOG" => vec![format!("=={canary}==["), format!("é[{canary}")],
        "MONGODB_URI" | "VIEWS_MONGODB_URI" => {
            vec![
                canary.to_owned(),
                format!("postgres://user:{canary}@host"),
                format!("mongodb://user:{canary}?@host"),
                format!("mongodb://host/{canary}.dot"),
                format!("mongodb://host/?{canary}=1"),
                format!("mongodb://host:65536/?appName={canary}"),
                format!("mongodb://host/?compressors=zlib&appName={canary}"),
                format!("mongodb://host/?tls=true&tlsCAFile=/{canary}"),
                // No DNS knows of it (RFC 6761).
                format!("mongodb+srv://user:{canary}@microblog.invalid/"),
            ]
        }
        "NATS_URL" => vec![
            format!("http://{canary}"),
            format!("nats://a,{canary}"),
            format!("nats://u:{canary}@a,nats://u:other@b"),
            format!("nats://u:{canary}%@a"),
            format!("nats://u:{canary}@a:65536"),
        ],
        "JWKS_URL" | "OTEL_EXPORTER_OTLP_ENDPOINT" => {
            vec![format!("ftp://{canary}"), "http://".into()]
        }
        "TRUSTED_PROXIES" => vec![canary.to_owned(), "10.0.0.0/33".into()],
        "CORS_ORIGINS" => vec![canary.to_owned(), format!("https://{canary}/")],
        "STREAM_REPLICAS" => vec![canary.to_owned(), "2".into()],
        "STREAM_HEARTBEAT_SECS" => vec![canary.to_owned(), "0".into(), "3601".into()],
        "PUBLIC_URL" => vec![
            format!("/{canary}"),
            format!("ftp://{canary}"),
            format!("https://user:{canary}@host"),
        ],
        "NATS_JS_DOMAIN" => vec![format!("{canary}.*")],
        "PARTITIONS" => vec![canary.to_owned(), "0".into(), "257".into()],
        "CELEBRITY_THRESHOLD" | "POST_QUOTA" | "POST_QUOTA_WINDOW_SECS" => {
            vec![canary.to_owned(), "0".into(), "-1".into()]
        }
        _ => vec![canary.to_owned()],
    };
    texts
}
