//! Live streams through client libraries from npm and PyPI: `make clients`. It needs the network,
//! so `make test` leaves it out; what is not installed is skipped with a word.

use std::path::{Path, PathBuf};
use std::time::Duration;

use system_tests::api::Session;
use system_tests::process::Process;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually};

use super::post_when_possible;

/// One library, reading a reader's stream.
struct Client {
    name: &'static str,
    process: Process,
}

impl Client {
    /// Lines that begin like that.
    fn count(&self, line: &str) -> usize {
        let output = self.process.output();
        output.lines().filter(|it| it.starts_with(line)).count()
    }

    async fn says(&self, line: &str, times: usize) {
        let what = format!("{} says {line:?} {times} times", self.name);
        eventually(&what, PATIENCE, async || {
            assert_eq!(
                self.count("end"),
                0,
                "{}:\n{}",
                self.name,
                self.process.output()
            );
            (self.count(line) >= times).then_some(())
        })
        .await;
    }
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

/// Installs the libraries, and says how each reader is started.
fn readers(folder: &Path) -> Vec<(&'static str, PathBuf, &'static str)> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    for entry in std::fs::read_dir(sources).expect("the readers").flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("a copy");
    }
    let mut readers = Vec::new();
    let packages = ["eventsource@4.1.1", "@microsoft/fetch-event-source@2.0.1"];
    let npm = [
        "install",
        "--silent",
        "--no-fund",
        "--no-audit",
        "--prefix",
        ".",
    ];
    match found("node") {
        Some(node) if runs("npm", &[&npm[..], &packages].concat(), folder) => {
            readers.push(("eventsource 4.1.1", node.clone(), "eventsource.mjs"));
            readers.push(("fetch-event-source 2.0.1", node, "fetch-event-source.cjs"));
        }
        _ => println!("no node, or nothing from npm: its libraries are skipped"),
    }
    let pip = [
        "-q",
        "--disable-pip-version-check",
        "install",
        "httpx-sse==0.4.3",
        "httpx==0.28.1",
    ];
    if runs("python3", &["-m", "venv", "venv"], folder) && runs("venv/bin/pip", &pip, folder) {
        let python = folder.join("venv/bin/python");
        readers.push(("httpx-sse 0.4.3", python, "httpx_sse_reader.py"));
    } else {
        println!("no python3, or nothing from PyPI: its library is skipped");
    }
    readers
}

fn client(
    (name, program, source): &(&'static str, PathBuf, &'static str),
    folder: &Path,
    reader: &Session,
    count: usize,
) -> Client {
    let url = reader
        .live_request("")
        .build()
        .expect("a request")
        .url()
        .to_string();
    let variables = [
        ("URL", url),
        ("TOKEN", reader.token().to_owned()),
        ("COUNT", count.to_string()),
    ];
    let process = Process::new(&format!("{source}-{count}"), program, folder)
        .arguments([source])
        .environment(variables.map(|(name, value)| (name.to_owned(), value)));
    process.start();
    Client { name, process }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm and PyPI: make clients"]
async fn client_libraries_come_back_from_everything_and_miss_nothing() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().expect("a folder");
    let kinds = readers(folder.path());
    let world = World::start(&[("STREAM_HEARTBEAT_SECS", "1")]).await;
    let reader = world.sessions(&world.api(), "reader", 1).await.remove(0);
    let clients: Vec<Client> = kinds
        .iter()
        .map(|kind| client(kind, folder.path(), &reader, 1))
        .collect();
    for client in &clients {
        client.says("open", 1).await;
    }
    // Opened is not connected, and a library does not say when it is: what is posted before that
    // is not sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    post_when_possible(&reader, "one").await;
    for client in &clients {
        client.says("event one", 1).await;
    }
    come_back_from_a_stop(&world, &reader, &clients).await;
    come_back_from_a_kill(&world, &reader, &clients).await;
    drop(clients);

    if let Some(kind) = kinds.iter().find(|kind| kind.2 == "eventsource.mjs") {
        let other = world.sessions(&world.api(), "other", 1).await.remove(0);
        let many = client(kind, folder.path(), &other, 21);
        go_on_when_one_is_refused(&other, &many).await;
    }
}

/// The service stops; when it starts its database is away for a while.
async fn come_back_from_a_stop(world: &World, reader: &Session, clients: &[Client]) {
    world.query.process.terminate();
    world
        .query
        .process
        .wait(PATIENCE)
        .await
        .expect("it ends in order");
    world.mongodb.kill();
    world.query.process.start();
    for client in clients {
        client.says("open", 2).await;
    }
    world.mongodb.start();
    post_when_possible(reader, "two").await;
    for client in clients {
        client.says("event two", 1).await;
    }
}

/// Killed: no goodbye.
async fn come_back_from_a_kill(world: &World, reader: &Session, clients: &[Client]) {
    world.query.process.kill();
    post_when_possible(reader, "three").await;
    world.query.start().await;
    post_when_possible(reader, "four").await;
    for client in clients {
        for content in ["three", "four"] {
            client.says(&format!("event {content}"), 1).await;
        }
        let (events, errors) = (client.count("event"), client.count("error"));
        println!(
            "{}: {events} events, {errors} errors, {} times open",
            client.name,
            client.count("open")
        );
        assert_eq!(events, 4, "each once:\n{}", client.process.output());
    }
}

/// One stream too many: one is refused for good, and all others go on.
async fn go_on_when_one_is_refused(reader: &Session, many: &Client) {
    eventually("one is refused", PATIENCE, async || {
        (many.count("open") == 20 && many.count("end 429") == 1).then_some(())
    })
    .await;
    // In this time libraries that replace each other would have come back several times.
    tokio::time::sleep(Duration::from_secs(10)).await;
    post_when_possible(reader, "all").await;
    eventually("all others are told", PATIENCE, async || {
        (many.count("event all") == 20).then_some(())
    })
    .await;
    println!(
        "21 of eventsource: 20 open, one refused, {} errors",
        many.count("error")
    );
    assert_eq!((many.count("open"), many.count("error")), (20, 0));
}
