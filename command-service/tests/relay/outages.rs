//! Engines that are killed, restored or cut off.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restored_from_an_older_copy_gets_the_same_messages_again() {
    let folder = Folder::new();
    let (store, copy) = (folder.0.join("store"), folder.0.join("copy"));
    let broker = Broker::start(&store, free_port().await).await;
    let world = World::on("restored", &format!("nats://127.0.0.1:{}", broker.port)).await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(12, 50).await;
    let before = world.assert_exact().await;
    let port = broker.kill().await;
    copy_folder(&store, &copy);

    let broker = Broker::start(&store, port).await;
    world.write(12, 50).await;
    let later = world.assert_exact().await;
    let port = broker.kill().await;
    std::fs::remove_dir_all(&store).unwrap();
    copy_folder(&copy, &store);

    // The relay is the same one, and remembers what the broker does not.
    let broker = Broker::start(&store, port).await;
    let restored = Instant::now();
    let again = world.assert_exact().await;
    println!("whole again {:?} after the restore", restored.elapsed());
    assert_eq!(again.events[..before.events.len()], before.events);
    assert_eq!(again.events, later.events);
    assert_eq!(again.chain, later.chain);
    world.write(12, 10).await;
    world.assert_exact().await;
    running.stop().await;
    world.database.drop().await.unwrap();
    broker.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_at_any_moment_loses_and_gets_nothing_twice() {
    let folder = Folder::new();
    let mut broker = Broker::start(&folder.0, free_port().await).await;
    let world = World::on("broker", &format!("nats://127.0.0.1:{}", broker.port)).await;
    let running = Running::start(world.relay(world.settings()).await);
    let done = AtomicBool::new(false);
    let writing = async {
        world.write(12, 120).await;
        done.store(true, Ordering::Relaxed);
    };
    let killing = async {
        while !done.load(Ordering::Relaxed) {
            pause_up_to(300).await;
            let port = broker.kill().await;
            broker = Broker::start(&folder.0, port).await;
        }
        broker
    };
    let ((), broker) = tokio::join!(writing, killing);
    world.assert_exact().await;

    // How long until the first event is out, once the broker is back.
    let port = broker.kill().await;
    // So long it is away: the outage itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.write(1, 1).await;
    let broker = Broker::start(&folder.0, port).await;
    let back = Instant::now();
    world
        .read_until(&mut Audit::default(), async |audit| {
            let read = audit.events.len();
            (read > 12 * 120).then_some(()).ok_or(read)
        })
        .await;
    println!("published {:?} after the broker was back", back.elapsed());
    running.stop().await;
    world.database.drop().await.unwrap();
    broker.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_engine_may_be_cut_off_at_any_moment() {
    let world = World::new("cut").await;
    let mongo = Gate::before(address_in(&var("MONGODB_URI"))).await;
    let nats = Gate::before(address_in(&world.nats_url)).await;
    let uri = Secret::new(format!(
        "mongodb://127.0.0.1:{}/?directConnection=true",
        mongo.port
    ));
    let database = connections::mongo(&uri, "relay", 8).await.unwrap();
    let database = database.client().database(world.database.name());
    let url = at(&format!("nats://127.0.0.1:{}", nats.port));
    let connection = connections::nats(&url, "relay").await.unwrap();
    let leases = database.collection("leases");
    let relay = Relay::new(
        &database,
        leases,
        connection,
        Readiness::default(),
        world.settings(),
    );
    let running = Running::start(relay);
    let done = AtomicBool::new(false);
    let writing = async {
        world.write(8, 120).await;
        done.store(true, Ordering::Relaxed);
    };
    let cutting = async {
        while !done.load(Ordering::Relaxed) {
            for gate in [&mongo, &nats] {
                pause_up_to(150).await;
                gate.open.send_replace(false);
                pause_up_to(100).await;
                gate.open.send_replace(true);
            }
        }
    };
    tokio::join!(writing, cutting);
    let open = Instant::now();
    world.assert_exact().await;
    println!("whole {:?} after the last cut", open.elapsed());
    running.stop().await;
    world.end().await;
}
