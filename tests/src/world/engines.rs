//! The database and the broker of a world: how they are started, and clients of their contents.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use bson::{Document, doc};
use mongodb::options::{ClientOptions, ReadConcern};

use super::environment::{needed, streams_are_kept_in};
use super::{PATIENCE, World};
use crate::eventually;
use crate::process::{Process, describe};

impl World {
    /// Writes the broker's configuration, with `more` after what every world has.
    pub fn configure_nats(&self, more: &str) {
        write_nats_config(self.folder.path(), self.nats_port, more);
    }

    pub async fn start_mongodb(&self) {
        self.mongodb.start();
        let address = format!(
            "mongodb://127.0.0.1:{}/?directConnection=true",
            self.mongodb_port
        );
        let client = mongodb::Client::with_uri_str(address)
            .await
            .expect("a client");
        let admin = client.database("admin");
        eventually("MongoDB is primary", PATIENCE, async || {
            if let Some(status) = self.mongodb.ended() {
                panic!("MongoDB ended by itself: {}", describe(status));
            }
            let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
            if self.is_mongod && hello.get_bool("isreplicaset").unwrap_or(false) {
                let host = format!("127.0.0.1:{}", self.mongodb_port);
                let set = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": host }] };
                // Refused if an earlier attempt is under way; `hello` shows when it has succeeded.
                let _ = admin.run_command(doc! { "replSetInitiate": set }).await;
            }
            hello
                .get_bool("isWritablePrimary")
                .unwrap_or(false)
                .then_some(())
        })
        .await;
    }

    /// Where the broker keeps its streams.
    pub fn nats_store(&self) -> PathBuf {
        self.folder.path().join("nats")
    }

    pub async fn start_nats(&self) {
        self.nats.start();
        eventually("NATS answers", PATIENCE, async || {
            if let Some(status) = self.nats.ended() {
                panic!("NATS ended by itself: {}", describe(status));
            }
            async_nats::connect(self.nats_url()).await.ok()
        })
        .await;
    }

    /// The database loses everything: it is killed, and starts with an empty folder.
    pub async fn wipe_mongodb(&self) {
        self.mongodb.kill();
        let data = self.folder.path().join("mongodb");
        std::fs::remove_dir_all(&data).expect("a folder");
        std::fs::create_dir_all(&data).expect("a folder");
        self.start_mongodb().await;
    }

    /// The broker loses everything, and has what `store` has instead.
    pub async fn replace_nats_store(&self, store: Option<&Path>) {
        self.nats.kill();
        self.give_streams_away();
        if let Some(store) = store {
            copy_folder(store, &self.nats_store());
        }
        self.start_nats().await;
    }

    /// The broker has nothing any more. Its streams go to where they are checked, or are removed.
    pub(super) fn give_streams_away(&self) {
        static GIVEN: AtomicUsize = AtomicUsize::new(0);
        let store = self.nats_store();
        let Some(folder) = streams_are_kept_in() else {
            let _ = std::fs::remove_dir_all(store);
            return;
        };
        let (process, nth) = (std::process::id(), GIVEN.fetch_add(1, Ordering::Relaxed));
        // A broker that was never started has none.
        let _ = std::fs::rename(store, folder.join(format!("{process}-{nth}")));
    }

    /// What the broker has, as it is on the disk of one that is stopped.
    pub async fn copy_of_nats_store(&self) -> tempfile::TempDir {
        self.nats.terminate();
        self.nats.wait(PATIENCE).await.expect("NATS stops");
        // Its place in the process table is free: what `kill` does not find it only forgets.
        self.nats.kill();
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(&self.nats_store(), copy.path());
        self.start_nats().await;
        copy
    }

    pub async fn delete_stream(&self) {
        let client = async_nats::connect(self.nats_url()).await.expect("NATS");
        let jetstream = jetstream::new(client);
        let deleted = jetstream.delete_stream(Self::names().stream()).await;
        deleted.expect("the stream is deleted");
    }

    fn nats_url(&self) -> String {
        format!("nats://{}", self.nats_address())
    }

    /// Where the broker listens.
    pub fn nats_address(&self) -> String {
        format!("127.0.0.1:{}", self.nats_port)
    }

    /// The database that holds the log.
    pub async fn log(&self) -> mongodb::Database {
        self.database(shared::connections::DEFAULT_DATABASE).await
    }

    /// The database that holds the views.
    pub async fn views(&self) -> mongodb::Database {
        self.database(&format!("{}_views", shared::connections::DEFAULT_DATABASE))
            .await
    }

    async fn database(&self, name: &str) -> mongodb::Database {
        let client = self.mongodb_client.get_or_init(|| async {
            let uri = self.mongodb_uri();
            let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
            options.read_concern = Some(ReadConcern::majority());
            options.server_selection_timeout = Some(Duration::from_secs(5));
            mongodb::Client::with_options(options).expect("a client")
        });
        client.await.database(name)
    }

    /// The events of the log.
    pub async fn events(&self) -> mongodb::Collection<Document> {
        self.log()
            .await
            .collection(shared::contract::log::COLLECTION)
    }

    /// The stream of this world.
    pub async fn stream(&self) -> jetstream::stream::Stream {
        let client = async_nats::connect(self.nats_url())
            .await
            .expect("the broker answers");
        let stream = jetstream::new(client)
            .get_stream(Self::names().stream())
            .await;
        stream.expect("the stream is there")
    }

    /// Waits until there is one: the relay makes it.
    pub async fn stream_is_made(&self) {
        let client = async_nats::connect(self.nats_url()).await.expect("NATS");
        let jetstream = jetstream::new(client);
        eventually("the relay has made the stream", PATIENCE, async || {
            jetstream.get_stream(Self::names().stream()).await.ok()
        })
        .await;
    }

    fn names() -> shared::contract::event_stream::StreamNames {
        "microblog".parse().expect("a prefix")
    }

    /// Publishes something that is no event, past the relay.
    pub async fn publish_foreign(&self, body: &str) {
        self.publish(Self::names().tick(), body).await;
    }

    /// The same where events of a kind are: none of this build.
    pub async fn publish_unreadable(&self, kind: &str) {
        self.publish(Self::names().kind(kind), "{}").await;
    }

    async fn publish(&self, subject: String, body: &str) {
        let client = async_nats::connect(self.nats_url()).await.expect("NATS");
        // Kept until the answer has come: dropping the client closes the connection.
        let jetstream = jetstream::new(client);
        let published = jetstream
            .publish(subject, body.to_owned().into())
            .await
            .expect("handed over");
        published.await.expect("the stream takes it");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).expect("a copy");
        }
    }
}

pub(super) fn mongodb(folder: &Path, is_mongod: bool, port: u16) -> Process {
    let (data, port) = (folder.join("mongodb"), port.to_string());
    std::fs::create_dir_all(&data).expect("a folder for the database");
    let data = data.to_str().expect("a path in UTF-8").to_owned();
    let process = Process::new(
        "mongodb",
        Path::new(&needed("MICROBLOG_MONGODB_BIN")),
        folder,
    );
    if is_mongod {
        return process.arguments([
            "--replSet",
            "rs0",
            "--bind_ip",
            "127.0.0.1",
            "--port",
            &port,
            "--dbpath",
            &data,
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "0.5",
        ]);
    }
    // An empty file, so that no other configuration is read.
    let config = folder.join("secantus.toml");
    std::fs::write(&config, "").expect("a configuration");
    process.arguments([
        "--config",
        config.to_str().expect("a path in UTF-8"),
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--storage-path",
        &data,
        // Without it an acknowledged write can be lost in a crash.
        "--sync-on-commit",
        "--oplog-max-entries",
        "5000000",
        "--oplog-retention-seconds",
        "86400",
        "--log-level",
        "WARNING",
        "--cache-size",
        "512M",
    ])
}

pub(super) fn nats(folder: &Path, port: u16) -> Process {
    let config = write_nats_config(folder, port, "").into_os_string();
    let program = needed("MICROBLOG_NATS_BIN");
    Process::new("nats", Path::new(&program), folder).arguments(["--config".into(), config])
}

/// Writes the configuration of a broker that syncs what it acknowledges. Returns its path.
pub(crate) fn write_nats_config(folder: &Path, port: u16, more: &str) -> PathBuf {
    let config = folder.join("nats.conf");
    let store = folder.join("nats").display().to_string();
    let text = format!(
        "server_name: microblog\nlisten: \"127.0.0.1:{port}\"\n\
         # What is acknowledged is on the disk.\n\
         jetstream {{ store_dir: {store:?}, sync_interval: always }}\n{more}\n"
    );
    std::fs::write(&config, text).expect("a configuration");
    config
}
