//! Live streams through client libraries and the gateway: `make clients`.

use system_tests::alone;
use system_tests::api::Session;
use system_tests::libraries::{Client, all_read, install};
use system_tests::world::{PATIENCE, Role, Roles, Service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm, PyPI and crates.io: make clients"]
async fn client_libraries_come_back_through_the_gateway_and_miss_nothing() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().expect("a folder");
    let libraries = install(folder.path());
    let roles = Roles::start(&[("STREAM_HEARTBEAT_SECS", "1")]).await;
    let reader = roles
        .world
        .sessions(&roles.api(), "reader", 1)
        .await
        .remove(0);
    let clients = all_read(&libraries, folder.path(), &reader).await;
    let mut told = Told::default();
    told.post(&reader, &clients).await;
    for role in Role::ALL {
        for service in roles.of(role) {
            restart(service, &reader, &mut told).await;
            told.post(&reader, &clients).await;
        }
        for service in roles.of(role) {
            service.process.kill();
            told.post_unheard(&reader).await;
            service.start().await;
            told.post(&reader, &clients).await;
        }
    }
    // Both at once: the gateway waits with what it gets until one is there again.
    for api in roles.of(Role::QueryApi) {
        api.process.kill();
    }
    for api in roles.of(Role::QueryApi) {
        api.start().await;
    }
    told.post(&reader, &clients).await;
    for client in &clients {
        let (events, errors) = (client.count("event"), client.count("error"));
        let opened = client.count("open");
        println!(
            "{}: {events} events of {} posts, {errors} errors, {opened} times open",
            client.name, told.posts
        );
        assert!(opened > 1, "it has come back:\n{}", client.process.output());
    }
}

async fn restart(service: &Service, reader: &Session, told: &mut Told) {
    service.process.terminate();
    told.post_unheard(reader).await;
    service
        .process
        .wait(PATIENCE)
        .await
        .expect("it ends in order");
    service.start().await;
}

/// What was posted, of which every library must hear.
#[derive(Default)]
struct Told {
    posts: usize,
}

impl Told {
    /// Posts as soon as commands are accepted.
    async fn post_unheard(&mut self, reader: &Session) {
        self.posts += 1;
        let content = format!("post {}.", self.posts);
        reader.post_when_possible(&content).await;
    }

    /// Posts, and waits until everybody has heard of all posts until now.
    async fn post(&mut self, reader: &Session, clients: &[Client]) {
        self.post_unheard(reader).await;
        for client in clients {
            for number in 1..=self.posts {
                client.says(&format!("event post {number}."), 1).await;
            }
        }
    }
}
