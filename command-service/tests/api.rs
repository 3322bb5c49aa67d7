//! The HTTP contract of commands, through the front door, on a real MongoDB.
//!
//! Needs `MONGODB_URI`; each test has a database of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "api/account.rs"]
mod account;
#[path = "api/decisions.rs"]
mod decisions;
#[path = "api/edges.rs"]
mod edges;
#[path = "api/posts.rs"]
mod posts;
#[path = "api/repeats.rs"]
mod repeats;
#[path = "api/requests.rs"]
mod requests;
#[path = "api/sessions.rs"]
mod sessions;
#[path = "api/status.rs"]
mod status;
mod support;
#[path = "api/users.rs"]
mod users;

use std::collections::HashSet;

use bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use command_service::app::ModerationAction;
use command_service::app::ports::NewEvent;
use futures_util::future::join_all;
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};
use shared::auth::keys_in_use::KeysInUse;
use shared::auth::token::{KEY_SET, TokenVerifier};
use shared::contract::consistency::ConsistencyToken;
use shared::contract::events::{Event, LogStream, NoData, Payload};
use shared::contract::ids::{Id, SEQUENCE_BITS};
use shared::contract::time::{Clock, SystemClock};
use shared::web::routes::{self, BASE, Service};
use support::{Account, Answer, PASSWORD, TestApp, eventually};

// --- users ---

/// The stream and version that reads by an answer's token wait for.
fn write_named_by(answer: &Answer) -> (String, i64) {
    let token = ConsistencyToken::decode(answer.header("x-consistency-token")).expect("a token");
    (token.stream.to_string(), token.version)
}

/// Drops an index of the log: what it guards against must show then, or nothing here guards it.
async fn without_index(app: &TestApp, name: &str) {
    let log = app
        .database()
        .await
        .collection::<Document>(shared::contract::log::COLLECTION);
    log.drop_index(name).await.expect("an index of that name");
}
