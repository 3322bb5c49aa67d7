//! Importing: in bulk, by the rules, and exactly once however often it is interrupted.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

#[path = "import/commands.rs"]
mod commands;
#[path = "import/graphs.rs"]
mod graphs;
#[path = "import/lines.rs"]
mod lines;
#[path = "import/repeats.rs"]
mod repeats;
mod support;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bson::doc;
use command_service::app::ModerationAction;
use command_service::app::ports::{Key, NewEvent};
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::contract::events::{Event, LogStream, Payload, PostCreated};
use shared::contract::ids::Id;
use shared::contract::time::{Clock, SystemClock};
use support::{BINARY, TestApp, eventually};

fn import(app: &TestApp, arguments: &[&str]) -> Output {
    let mut all = vec!["import"];
    all.extend(arguments);
    app.program(&all).output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    path
}

/// Every stream's versions are 1, 2, 3 and so on, and every event has its own id.
fn check(log: &[Event]) {
    let mut versions: HashMap<String, i64> = HashMap::new();
    for event in log {
        let last = versions.entry(event.stream.to_string()).or_default();
        assert_eq!(event.version, *last + 1, "{}", event.stream);
        *last = event.version;
    }
}

fn kinds(log: &[Event]) -> HashMap<&'static str, usize> {
    let mut kinds = HashMap::new();
    for event in log {
        *kinds.entry(event.payload.kind()).or_default() += 1;
    }
    kinds
}

fn lines(values: &[serde_json::Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn post_line(content: &str) -> serde_json::Value {
    json!({ "type": "post", "username": "ada", "content": content })
}

/// What posts say, in the order of the log.
fn contents(log: &[Event]) -> Vec<&str> {
    let mut contents = Vec::new();
    for event in log {
        if let Payload::PostCreated(post) = &event.payload {
            contents.push(post.content.as_str());
        }
    }
    contents
}
