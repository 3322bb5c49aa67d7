//! Every route of both services, and how it answers whom. A route without a row fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use system_tests::routes;

use super::BASE;
use super::clients::People;

/// Whether a route looks at a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Access {
    /// It does not.
    Open,
    /// It does, and wants none; a bad one is refused all the same.
    Optional,
    Required,
}

/// A route, and how it answers whom. `ada` owns the object that the path names.
pub struct Row {
    pub service: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub query: &'static str,
    pub body: Option<Value>,
    pub access: Access,
    pub suspended: (u16, &'static str),
    pub other: (u16, &'static str),
    /// Last: it may delete.
    pub owner: (u16, &'static str),
}

impl Row {
    /// The row's path with the ids of objects that are ada's.
    pub fn path_for(&self, people: &People) -> String {
        let id = match self.path {
            path if path.starts_with("/users") => &people.ada.id,
            "/posts/{id}" if self.method == "DELETE" => &people.doomed,
            _ => &people.post,
        };
        // A session that nobody has.
        let path = self.path.replace("{session_id}", "AAAAAAAAAAAAAAAAAAAAAA");
        let path = path.replace("{id}", id).replace("{name}", "ada");
        let query = self.query.replace("{ada}", &people.ada.id);
        let query = query.replace("{post}", &people.post);
        format!("{BASE}{path}{query}")
    }
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

/// A route without authorization: a body that cannot be read is refused for every caller.
fn open(path: &'static str) -> Row {
    let malformed = (400, "malformed_body");
    Row {
        access: Access::Open,
        suspended: malformed,
        ..command("POST", path, Some(json!({})), malformed, malformed)
    }
}

const WRONG: (u16, &str) = (401, "bad_credentials");

/// What asks for the password once more; open to the suspended, too.
fn wrong(path: &'static str, body: Value) -> Row {
    Row {
        suspended: WRONG,
        ..command("PUT", path, Some(body), WRONG, WRONG)
    }
}

/// What ends sessions; open to the suspended, too.
fn ended(path: &'static str) -> Row {
    let done = (204, "");
    Row {
        suspended: done,
        ..command("DELETE", path, None, done, done)
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
        wrong(
            "/users/me/password",
            json!({ "password": "not the password", "new_password": "nor is this" }),
        ),
        wrong(
            "/users/me/email",
            json!({ "password": "not the password", "email": "new@example.org" }),
        ),
        ended("/auth/sessions/{session_id}"),
        ended("/auth/sessions"),
        query("/auth/sessions", Access::Required),
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
        Row {
            query: "?ids={post}",
            ..query("/posts", Access::Optional)
        },
        query("/posts/{id}", Access::Optional),
        query("/posts/{id}/replies", Access::Optional),
        query("/posts/{id}/thread", Access::Optional),
        query("/posts/{id}/likes", Access::Optional),
        query("/posts/{id}/reposts", Access::Optional),
        Row {
            query: "?ids={ada}",
            ..query("/relationships", Access::Required)
        },
        Row {
            query: "?ids={ada}",
            ..query("/users", Access::Optional)
        },
        query("/users/me", Access::Required),
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
pub fn all_rows() -> Vec<Row> {
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
