//! Backup and restore: exactly what the log's database was at one point of its commit order, and
//! nothing that is less.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

#[path = "backup/faults.rs"]
mod faults;
#[path = "backup/load.rs"]
mod load;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use shared::connections::log_identity::OwnLog;
use support::{TestApp, eventually};

/// The program with the environment of `app`, and another database if that is named.
fn command(app: &TestApp, database: Option<&str>, arguments: &[&str]) -> Command {
    let mut command = app.program(arguments);
    if let Some(uri) = database {
        command.env("MONGODB_URI", uri);
    }
    command
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()];
    String::from_utf8(both.concat()).unwrap()
}

/// Runs it to its end beside what the test does.
async fn run(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    run.await.unwrap()
}

async fn backup(app: &TestApp, file: &Path) -> Output {
    let file = file.to_str().unwrap();
    run(command(app, None, &["backup", file])).await
}

async fn restore(app: &TestApp, into: &str, file: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["restore", file.to_str().unwrap()];
    arguments.extend(more);
    run(command(app, Some(into), &arguments)).await
}

async fn database(uri: &str) -> Database {
    let client = mongodb::Client::with_uri_str(uri).await.unwrap();
    client.default_database().unwrap()
}

/// All documents of a collection, by their ids.
async fn all(database: &Database, collection: &str) -> BTreeMap<String, Document> {
    let rows = database.collection::<Document>(collection);
    let found = rows.find(doc! {}).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let by_id = |row: Document| (row.get("_id").unwrap().to_string(), row);
    found.into_iter().map(by_id).collect()
}

/// The names of what lies in a folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A backup of a log with some people in it.
struct Scene {
    app: TestApp,
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let app = TestApp::spawn();
        let (ada, bob) = (app.account("ada").await, app.account("bob").await);
        for n in 0..40 {
            app.create_post(&ada, &format!("post {n}")).await;
        }
        let path = format!("/users/{}/follow", bob.id);
        app.command(&ada, "POST", &path).await.accepted(200);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("whole.backup");
        let output = backup(&app, &file).await;
        assert!(output.status.success(), "{}", said(&output));
        Self { app, folder, file }
    }

    /// The backup with a change made to its bytes.
    fn changed(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = std::fs::read(&self.file).unwrap();
        change(&mut bytes);
        let file = self.folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    }

    async fn events(&self) -> BTreeMap<String, Document> {
        all(&self.app.database().await, "events").await
    }

    async fn end(self, targets: &[String]) {
        for uri in targets {
            database(uri).await.drop().await.unwrap();
        }
        self.app.end().await;
    }
}
