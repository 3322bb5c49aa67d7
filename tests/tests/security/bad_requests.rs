//! Requests that are wrong in one way each: how every route may answer them.

use std::collections::BTreeSet;

use reqwest::RequestBuilder;
use serde_json::json;
use system_tests::routes;
use system_tests::world::World;

use super::BASE;
use super::clients::{Clients, People};
use super::routes::{Row, all_rows};

/// A request that is not as it should be, and how it may be answered.
struct Bad {
    what: String,
    request: RequestBuilder,
    /// Status and code; no code: any code of that status.
    expected: Vec<(u16, &'static str)>,
}

const HOSTILE_IDS: [&str; 9] = [
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

const INVALID: [(u16, &str); 1] = [(400, "invalid")];
const MALFORMED: [(u16, &str); 1] = [(400, "malformed_body")];

/// The bad requests of one route.
struct BadRequests<'a> {
    clients: &'a Clients,
    token: &'a str,
    row: &'a Row,
    path: String,
    all: Vec<Bad>,
}

fn bad_requests(clients: &Clients, people: &People, row: &Row) -> Vec<Bad> {
    let mut bad = BadRequests {
        clients,
        token: &people.ada.token,
        row,
        path: row.path_for(people),
        all: Vec::new(),
    };
    bad.methods();
    bad.ids();
    bad.headers();
    let is_without = [
        ("DELETE", "/posts/{id}"),
        ("DELETE", "/auth/sessions"),
        ("DELETE", "/auth/sessions/{session_id}"),
    ];
    let reads_body =
        row.service == "command-service" && !is_without.contains(&(row.method, row.path));
    if reads_body {
        bad.bodies();
        bad.content_types();
        bad.fields();
    }
    if row.service == "query-service" {
        bad.pages();
        bad.lists_of_ids();
        bad.stream_positions();
        bad.consistency_tokens();
    }
    bad.idempotency_keys();
    bad.all
}

/// The first characters of a text that may be very long.
fn shortened(text: &str) -> &str {
    &text[..text.len().min(30)]
}

impl BadRequests<'_> {
    /// A request of the owner that would be right by itself.
    fn plain(&self, method: &str, path: &str) -> RequestBuilder {
        let request = self.clients.request(self.row.service, method, path);
        request.bearer_auth(self.token)
    }

    /// The route's own request.
    fn own(&self) -> RequestBuilder {
        self.plain(self.row.method, &self.path)
    }

    /// The route's own request with this body.
    fn with_body(&self, text: String, content_type: Option<&str>) -> RequestBuilder {
        let request = self.own().body(text);
        match content_type {
            Some(kind) => request.header("content-type", kind),
            None => request,
        }
    }

    fn with_json(&self, text: &str) -> RequestBuilder {
        self.with_body(text.to_owned(), Some("application/json"))
    }

    /// The route's path with another query string.
    fn with_query(&self, query: &str) -> RequestBuilder {
        let path = self.path.split('?').next().unwrap_or("");
        self.plain("GET", &format!("{path}?{query}"))
    }

    fn add(
        &mut self,
        what: impl std::fmt::Display,
        request: RequestBuilder,
        expected: &[(u16, &'static str)],
    ) {
        self.all.push(Bad {
            what: format!("{} {}: {what}", self.row.method, self.row.path),
            request,
            expected: expected.to_vec(),
        });
    }

    fn methods(&mut self) {
        const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PURGE"];
        let served: BTreeSet<String> = routes::of(self.row.service)
            .into_iter()
            .filter(|(_, path)| path == self.row.path)
            .map(|(method, _)| method)
            .collect();
        for method in METHODS.iter().filter(|method| !served.contains(**method)) {
            let request = self.plain(method, &self.path);
            let expected = [(405, "method_not_allowed")];
            self.add(format!("by {method}"), request, &expected);
        }
    }

    fn ids(&mut self) {
        if !self.row.path.contains("{id}") {
            return;
        }
        let long = "9".repeat(3_000);
        for id in HOSTILE_IDS.iter().copied().chain([long.as_str()]) {
            let path = format!("{BASE}{}", self.row.path.replace("{id}", id));
            let request = self.plain(self.row.method, &path);
            let expected = [(400, "invalid"), (404, "not_found")];
            self.add(format!("id {}", shortened(id)), request, &expected);
        }
    }

    fn headers(&mut self) {
        let long = self.own().header("x-long", "x".repeat(20_000));
        self.add("a long header", long, &[(431, "headers_too_large")]);
    }

    fn bodies(&mut self) {
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
            self.add(text, self.with_json(text), &MALFORMED);
        }
        let deep = "[".repeat(5_000);
        self.add("depth", self.with_json(&deep), &MALFORMED);
        let broken = self.own().header("content-type", "application/json");
        self.add("not UTF-8", broken.body(vec![0xff, 0xfe]), &MALFORMED);
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(20_000));
        let expected = [(413, "body_too_large")];
        self.add("20 kB", self.with_json(&large), &expected);
    }

    fn content_types(&mut self) {
        for kind in [
            None,
            Some("text/plain"),
            Some("text/json"),
            Some("application/xml"),
            Some("application/merge-patch+json"),
            Some("application/json; charset=iso-8859-1"),
        ] {
            let request = self.with_body("{\"x\":1}".into(), kind);
            let expected = [(415, "unsupported_media_type")];
            self.add(format!("content type {kind:?}"), request, &expected);
        }
    }

    /// Values of a wrong type in every field that the route reads.
    fn fields(&mut self) {
        let fields: &[&str] = match self.row.path {
            "/users" => &["username", "email", "password", "display_name", "bio"],
            "/users/me" if self.row.method == "PATCH" => &["display_name", "bio"],
            "/users/me" => &["password"],
            "/users/me/password" => &["password", "new_password"],
            "/users/me/email" => &["password", "email"],
            "/users/{id}/follow" => &["follower_id", "followee_id"],
            "/auth/login" => &["username", "email", "password"],
            "/auth/refresh" | "/auth/logout" => &["refresh_token"],
            "/posts" => &["content", "reply_to_post_id"],
            _ => &["user_id"],
        };
        for field in fields {
            for value in [json!({ "$gt": "" }), json!(["x"]), json!(true), json!(-1.5)] {
                let text = json!({ *field: value }).to_string();
                self.add(&text, self.with_json(&text), &MALFORMED);
            }
        }
    }

    /// Limits, cursors and users of lists.
    fn pages(&mut self) {
        const LISTS: [&str; 9] = [
            "/timeline",
            "/replies",
            "/posts",
            "/followers",
            "/following",
            "/mutuals",
            "/thread",
            "/likes",
            "/reposts",
        ];
        const LIMITS: [&str; 7] = [
            "0",
            "101",
            "-1",
            "abc",
            "1.5",
            "99999999999999999999",
            "%7B%7D",
        ];
        let is_list = LISTS.iter().any(|list| self.row.path.ends_with(list));
        if is_list && self.row.path != "/posts" {
            for limit in LIMITS {
                let query = format!("limit={limit}");
                self.add(&query, self.with_query(&query), &INVALID);
            }
            for cursor in ["x", "AAAA", "%00", &"A".repeat(3_000), "1|2|3"] {
                let query = format!("cursor={cursor}");
                let expected = [(400, "bad_cursor")];
                self.add(shortened(&query), self.with_query(&query), &expected);
            }
        }
        if self.row.path == "/timeline" {
            for user in ["abc", "0", "%7B%22$gt%22:%22%22%7D"] {
                let query = format!("user_id={user}");
                self.add(&query, self.with_query(&query), &INVALID);
            }
        }
    }

    fn lists_of_ids(&mut self) {
        if !["/users", "/posts", "/relationships"].contains(&self.row.path) {
            return;
        }
        let many: Vec<String> = (1..=101).map(|id| id.to_string()).collect();
        let [many, long] = [many.join(","), "9".repeat(3_000)];
        for ids in HOSTILE_IDS
            .iter()
            .copied()
            .chain(["", ",", "7,", &many, &long])
        {
            let query = format!("ids={ids}");
            self.add(shortened(&query), self.with_query(&query), &INVALID);
        }
    }

    fn stream_positions(&mut self) {
        if self.row.path == "/timeline/stream" {
            let request = self.plain("GET", &self.path).header("last-event-id", "abc");
            self.add("Last-Event-ID", request, &INVALID);
        }
    }

    fn consistency_tokens(&mut self) {
        for token in ["x", "{\"$gt\":\"\"}", "AAAA"] {
            let request = self.plain("GET", &self.path);
            let request = request.header("x-consistency-token", token);
            let expected = [(400, "bad_consistency_token")];
            self.add(format!("consistency token {token}"), request, &expected);
        }
    }

    fn idempotency_keys(&mut self) {
        if (self.row.method, self.row.path) != ("POST", "/posts") {
            return;
        }
        for key in ["", "a b", "\"\"", &"k".repeat(129)] {
            let request = self.own().header("idempotency-key", key);
            let request = request.json(&json!({ "content": "x" }));
            self.add("a bad key", request, &INVALID);
        }
    }
}

pub async fn every_bad_request_is_a_problem_and_none_is_ours(
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
