//! The reader of a partition, on a connection that is lost.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use query_service::projection::settings::FoldSettings;
use query_service::projection::stream_check::StreamCheck;
use query_service::projection::stream_reader::{Message, StreamReader};
use shared::contract::event_stream::ChainHash;
use shared::runtime::tasks::Tasks;

use super::common::{World, eventually};

/// Without the wake-up, six seconds pass until heartbeats are missed.
const TOO_LONG: Duration = Duration::from_secs(3);

/// A broker of its own, which a test may kill.
struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Broker {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut broker = Self {
            folder,
            port,
            process: None,
        };
        broker.run();
        broker
    }

    fn run(&mut self) {
        let program = std::env::var("MICROBLOG_NATS_BIN");
        let program = program.expect("MICROBLOG_NATS_BIN: run the tests with `make test`");
        let mut command = Command::new(program);
        command.args(["--jetstream", "--addr", "127.0.0.1", "--port"]);
        command.arg(self.port.to_string());
        command.arg("--store_dir").arg(self.folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("nats-server runs"));
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it has ended");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_notices_a_lost_connection_also_while_it_does_not_read() {
    let mut broker = Broker::start();
    let mut world = World::on(broker.url(), "reader", 1, 100_000, 51).await;
    let first = (0..5).map(|_| world.history.register()).collect();
    world.publish(first).await;
    let check = StreamCheck::of(&world.settings).await.expect("a check");
    let settings = FoldSettings::of(&world.settings, check, &Tasks::default());
    let generation = world.views().await.generation().clone();
    let nats = world.nats.clone();
    let mut reader = StreamReader::new(nats, &settings, generation, 0, ChainHash::START);
    assert_eq!(read(&mut reader, 5).await.len(), 5);

    // As while a batch is committed: nobody reads when the broker goes, and it is back before
    // anybody does. The consumer, which it kept in memory, is gone.
    broker.kill();
    eventually("the connection is lost", async || {
        !world.nats.is_connected()
    })
    .await;
    broker.run();
    eventually("it is made again", async || world.nats.is_connected()).await;
    let next = world.history.register();
    world.publish(vec![next]).await;
    let begun = Instant::now();
    assert_eq!(read(&mut reader, 1).await[0].seq, 6);
    assert!(begun.elapsed() < TOO_LONG, "{:?}", begun.elapsed());
    world.clean_up().await;
}

/// Reads until there are so many messages, as the fold does: a fault is tried again.
async fn read(reader: &mut StreamReader, many: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while messages.len() < many && tokio::time::Instant::now() < deadline {
        if let Ok(batch) = reader.next_batch(deadline).await {
            messages.extend(batch);
        }
    }
    messages
}
