//! Live streams through client libraries from npm, PyPI and crates.io, as `make clients` runs them.
//! It needs the network, so `make test` leaves it out; what is not installed is skipped with a word.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::Session;
use crate::eventually;
use crate::process::Process;
use crate::world::PATIENCE;

/// A library, and how a program is started that reads with it (`tests/clients/`).
#[derive(Clone, Debug)]
pub struct Library {
    pub name: &'static str,
    program: PathBuf,
    source: Option<&'static str>,
}

/// One library, reading a reader's stream.
pub struct Client {
    pub name: &'static str,
    pub process: Process,
}

impl Library {
    /// As many readers as `count` says, where the library's program can have several.
    pub fn reads(&self, folder: &Path, reader: &Session, count: usize) -> Client {
        let request = reader.live_request("").build().expect("a request");
        let variables = [
            ("URL", request.url().to_string()),
            ("TOKEN", reader.token().to_owned()),
            ("COUNT", count.to_string()),
            ("LIBRARY", self.name.to_owned()),
        ];
        let label = format!("{}-{count}", self.name.replace(' ', "-"));
        let process = Process::new(&label, &self.program, folder)
            .arguments(self.source)
            .environment(variables.map(|(name, value)| (name.to_owned(), value)));
        process.start();
        Client {
            name: self.name,
            process,
        }
    }
}

impl Client {
    /// Lines that begin like that.
    pub fn count(&self, line: &str) -> usize {
        let output = self.process.output();
        output.lines().filter(|it| it.starts_with(line)).count()
    }

    /// Waits until it has said so. It must not give up.
    pub async fn says(&self, line: &str, times: usize) {
        let what = format!("{} says {line:?} {times} times", self.name);
        eventually(&what, PATIENCE, async || {
            let output = self.process.output();
            assert_eq!(self.count("end"), 0, "{}:\n{output}", self.name);
            (self.count(line) >= times).then_some(())
        })
        .await;
    }
}

/// Every library reads the reader's stream, and has been told that it is open.
pub async fn all_read(libraries: &[Library], folder: &Path, reader: &Session) -> Vec<Client> {
    let clients: Vec<Client> = libraries
        .iter()
        .map(|library| library.reads(folder, reader, 1))
        .collect();
    for client in &clients {
        client.says("open", 1).await;
    }
    // Opened is not connected, and a library does not say when it is: what is posted before that
    // is not sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    clients
}

fn runs(program: &str, arguments: &[&str], folder: &Path) -> bool {
    let status = std::process::Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// A program of the path.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found.into_iter().find(|path| path.is_file())
}

/// Installs the libraries in a folder.
pub fn install(folder: &Path) -> Vec<Library> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    for entry in std::fs::read_dir(&sources).expect("the readers").flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("a copy");
        }
    }
    let mut libraries = from_npm(folder);
    libraries.extend(from_pypi(folder));
    libraries.extend(from_crates_io(folder, &sources.join("rust")));
    libraries
}

fn from_npm(folder: &Path) -> Vec<Library> {
    let install = [
        "install",
        "--silent",
        "--no-fund",
        "--no-audit",
        "--prefix",
        ".",
        "eventsource@4.1.1",
        "@microsoft/fetch-event-source@2.0.1",
    ];
    let Some(node) = found("node").filter(|_| runs("npm", &install, folder)) else {
        println!("no node, or nothing from npm: its libraries are skipped");
        return Vec::new();
    };
    let library = |(name, source)| Library {
        name,
        program: node.clone(),
        source: Some(source),
    };
    let sources = [
        ("eventsource 4.1.1", "eventsource.mjs"),
        ("fetch-event-source 2.0.1", "fetch-event-source.cjs"),
    ];
    sources.map(library).to_vec()
}

fn from_pypi(folder: &Path) -> Option<Library> {
    let install = [
        "-q",
        "--disable-pip-version-check",
        "install",
        "httpx-sse==0.4.3",
        "httpx==0.28.1",
    ];
    if runs("python3", &["-m", "venv", "venv"], folder) && runs("venv/bin/pip", &install, folder) {
        return Some(Library {
            name: "httpx-sse 0.4.3",
            program: folder.join("venv/bin/python"),
            source: Some("httpx_sse_reader.py"),
        });
    }
    println!("no python3, or nothing from PyPI: its library is skipped");
    None
}

fn from_crates_io(folder: &Path, sources: &Path) -> Vec<Library> {
    let manifest = sources.join("Cargo.toml").display().to_string();
    let target = folder.join("target").display().to_string();
    let build = [
        "build",
        "--quiet",
        "--manifest-path",
        &manifest,
        "--target-dir",
        &target,
    ];
    if !runs("cargo", &build, folder) {
        println!("no cargo, or nothing from crates.io: its libraries are skipped");
        return Vec::new();
    }
    let names = [
        "reqwest-eventsource 0.6.0",
        "eventsource-client 0.15.0",
        "eventsource-client 0.16.2",
    ];
    let library = |name| Library {
        name,
        program: folder.join("target/debug/readers"),
        source: None,
    };
    names.map(library).to_vec()
}
