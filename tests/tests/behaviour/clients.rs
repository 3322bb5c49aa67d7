//! Live streams through client libraries: `make clients`.

use std::time::Duration;

use system_tests::api::Session;
use system_tests::libraries::{Client, all_read, install};
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm, PyPI and crates.io: make clients"]
async fn client_libraries_come_back_from_everything_and_miss_nothing() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().expect("a folder");
    let libraries = install(folder.path());
    let world = World::start(&[("STREAM_HEARTBEAT_SECS", "1")]).await;
    let reader = world.sessions(&world.api(), "reader", 1).await.remove(0);
    let clients = all_read(&libraries, folder.path(), &reader).await;
    reader.post_when_possible("one").await;
    for client in &clients {
        client.says("event one", 1).await;
    }
    come_back_from_a_stop(&world, &reader, &clients).await;
    come_back_from_a_kill(&world, &reader, &clients).await;
    drop(clients);

    let eventsource = libraries.iter().find(|it| it.name == "eventsource 4.1.1");
    if let Some(library) = eventsource {
        let other = world.sessions(&world.api(), "other", 1).await.remove(0);
        let many = library.reads(folder.path(), &other, 21);
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
    reader.post_when_possible("two").await;
    for client in clients {
        client.says("event two", 1).await;
    }
}

/// Killed: no goodbye.
async fn come_back_from_a_kill(world: &World, reader: &Session, clients: &[Client]) {
    world.query.process.kill();
    reader.post_when_possible("three").await;
    world.query.start().await;
    reader.post_when_possible("four").await;
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
    reader.post_when_possible("all").await;
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
