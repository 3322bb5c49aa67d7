//! What an operator does in a world: imports users, makes tokens, verifies the views.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use futures_util::future::join_all;

use super::environment::{binary_named, owned};
use super::{PATIENCE, World};
use crate::api::{Api, Session};
use crate::audit::{Audit, read_log, read_stream};
use crate::eventually;
use crate::process::{Process, describe};

impl World {
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

    /// The path of a file in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the world's folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
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

    /// How many dead letters `query-service dead-letters list` shows.
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
            // Only missing messages can still come; everything else stays as it is.
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
}
