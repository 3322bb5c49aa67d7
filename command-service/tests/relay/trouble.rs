//! What keeps a relay from publishing: it leaves the lease to one that can, says what is wrong
//! while the process goes on taking commands, and goes on when it is mended.

use std::fmt::Write as _;

use super::*;

/// A relay through a gate of its own, with what it says of itself.
async fn behind(world: &World, port: u16, settings: relay::Settings) -> (Running, Readiness) {
    let readiness = Readiness::default();
    let url = at(&format!("nats://127.0.0.1:{port}"));
    let nats = connections::nats(&url, "relay").await.unwrap();
    let leases = world.database.collection("leases");
    let relay = Relay::new(&world.database, leases, nats, readiness.clone(), settings);
    (Running::start(relay), readiness)
}

/// Waits until the relay says that it is degraded; the process stays ready.
async fn degraded(readiness: &Readiness, words: &str) -> String {
    eventually(async || {
        assert!(readiness.missing().is_empty(), "{:?}", readiness.missing());
        let degraded = readiness.degraded();
        let says = degraded.get(relay::health::DEGRADED).cloned();
        let says = says.filter(|says| says.contains(words));
        says.ok_or_else(|| format!("{words}: {degraded:?}"))
    })
    .await
}

async fn until_well(readiness: &Readiness) {
    eventually(async || says_nothing(readiness.degraded())).await;
}

impl World {
    async fn lease_epoch(&self) -> i64 {
        let leases: Collection<Document> = self.database.collection("leases");
        let lease = leases.find_one(doc! { "_id": "relay" }).await.unwrap();
        lease.map_or(0, |lease| lease.get_i64("epoch").unwrap())
    }

    /// Whether everything in the log is on the stream within `patience`.
    async fn is_published_within(&self, patience: Duration) -> bool {
        let mut audit = Audit::default();
        let published = self.read_until(&mut audit, async |audit| {
            let count = self.log().count_documents(doc! {}).await.unwrap();
            let read = audit.events.len() as u64;
            (read >= count).then_some(()).ok_or(read)
        });
        tokio::time::timeout(patience, published).await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_never_reached_the_broker_leaves_the_lease_to_one_that_does() {
    let world = World::new("closed").await;
    let (able, _) = watched_on(&world).await;
    world.write(1, 4).await;
    world.assert_exact().await;
    let (unable, readiness) = behind(&world, free_port().await, world.settings()).await;
    degraded(&readiness, "NATS").await;
    // As dead as a process that is paused past its lease.
    able.kill().await;
    world.write(1, 4).await;
    let epoch = world.lease_epoch().await;
    // Nothing shall happen: long enough to take a lease that is free.
    tokio::time::sleep(world.settings().lease * 3).await;
    assert_eq!(
        world.lease_epoch().await,
        epoch,
        "who cannot use it does not take it"
    );
    let (able, _) = watched_on(&world).await;
    assert!(world.is_published_within(Duration::from_secs(5)).await);
    able.stop().await;
    unable.stop().await;
    world.end().await;
}

async fn watched_on(world: &World) -> (Running, Readiness) {
    let address = address_in(&world.nats_url);
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    behind(world, port, world.settings()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_cut_off_gives_the_lease_up() {
    for gives_up in [true, false] {
        let world = World::new("cut_off").await;
        let gate = Gate::before(address_in(&world.nats_url)).await;
        let give_up = Duration::from_secs(if gives_up { 1 } else { 3_600 });
        let settings = relay::Settings {
            give_up,
            ..world.settings()
        };
        let (holder, readiness) = behind(&world, gate.port, settings).await;
        world.write(1, 4).await;
        world.assert_exact().await;
        let (standby, _) = watched_on(&world).await;
        gate.open.send_replace(false);
        world.write(1, 4).await;
        let patience = Duration::from_secs(if gives_up { 10 } else { 3 });
        let published = world.is_published_within(patience).await;
        // Without giving up nothing is published although another could.
        assert_eq!(published, gives_up);
        degraded(&readiness, "NATS").await;
        gate.open.send_replace(true);
        world.write(1, 4).await;
        world.assert_exact().await;
        until_well(&readiness).await;
        holder.stop().await;
        standby.stop().await;
        world.end().await;
    }
}

/// A broker with a configuration of its own.
pub async fn configured(folder: &Path, port: u16, jetstream: &str) -> Broker {
    let mut config = format!("listen: 127.0.0.1:{port}\n");
    writeln!(config, "{jetstream}").unwrap();
    let path = folder.join("nats.conf");
    std::fs::write(&path, config).unwrap();
    Broker::start_with(&["-c", path.to_str().unwrap()], port).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_jetstream_degrades_and_is_used_once_it_has_it() {
    let folder = Folder::new();
    let broker = configured(&folder.0, free_port().await, "").await;
    let world = World::on("no_js", &format!("nats://127.0.0.1:{}", broker.port)).await;
    let (running, readiness) = behind(&world, broker.port, world.settings()).await;
    world.write(1, 4).await;
    let says = degraded(&readiness, "JetStream").await;
    assert!(says.contains("switch it on"), "{says}");
    let port = broker.kill().await;
    let broker = Broker::start(&folder.0.join("store"), port).await;
    world.assert_exact().await;
    until_well(&readiness).await;
    running.stop().await;
    world.database.drop().await.unwrap();
    broker.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_room_degrades_and_is_used_once_it_has_room() {
    let folder = Folder::new();
    let jetstream = |most: &str| {
        let store = folder.0.join("store");
        let store = store.display();
        format!("jetstream {{ store_dir: \"{store}\", max_file_store: {most} }}")
    };
    let broker = configured(&folder.0, free_port().await, &jetstream("40KB")).await;
    let world = World::on("no_room", &format!("nats://127.0.0.1:{}", broker.port)).await;
    let settings = relay::Settings {
        give_up: Duration::from_secs(1),
        ..world.settings()
    };
    let (running, readiness) = behind(&world, broker.port, settings).await;
    world.write(4, 40).await;
    let says = degraded(&readiness, "no room").await;
    assert!(says.contains("max_file_store"), "{says}");
    assert!(!world.is_published_within(Duration::from_secs(1)).await);
    let port = broker.kill().await;
    let broker = configured(&folder.0, port, &jetstream("1GB")).await;
    world.assert_exact().await;
    until_well(&readiness).await;
    running.stop().await;
    world.database.drop().await.unwrap();
    broker.kill().await;
}
