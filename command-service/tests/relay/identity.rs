//! Whose stream it is: a relay publishes to the stream of its own log and to no other, and what
//! was written before streams named their logs goes on.

use shared::connections::log_identity::{self, LogId, OwnLog};
use shared::contract::event_stream::{LOG, METADATA_LOG};

use super::trouble::configured;
use super::*;

/// A relay whose readiness can be read.
async fn watched(world: &World, settings: relay::Settings) -> (Running, Readiness) {
    let readiness = Readiness::default();
    let nats = connections::nats(&at(&world.nats_url), "relay")
        .await
        .unwrap();
    let leases = world.database.collection("leases");
    let relay = Relay::new(&world.database, leases, nats, readiness.clone(), settings);
    (Running::start(relay), readiness)
}

/// Waits until the relay refuses the stream; what it says.
async fn refusal(readiness: &Readiness) -> String {
    eventually(async || {
        let says = readiness.missing().get(relay::READY).cloned();
        says.ok_or("the stream is used")
    })
    .await
}

async fn until_ready(readiness: &Readiness) {
    eventually(async || says_nothing(readiness.missing())).await;
}

impl World {
    /// A deployment with another database and the same prefix, on the same broker.
    async fn beside(&self) -> Self {
        let mut other = World::on("beside", &self.nats_url).await;
        other.names = self.names.clone();
        other
    }

    async fn identity(&self) -> LogId {
        let id = OwnLog::new(&self.database).id().await.unwrap();
        id.expect("the log has an identity")
    }

    async fn named_by_stream(&self) -> Option<String> {
        let stream = self.jetstream().get_stream(self.names.stream()).await;
        let stream = stream.unwrap();
        let metadata = &stream.cached_info().config.metadata;
        metadata.get(METADATA_LOG).cloned()
    }

    /// The last sequence of the stream.
    async fn stream_end(&self) -> u64 {
        let stream = self.jetstream().get_stream(self.names.stream()).await;
        stream.unwrap().cached_info().state.last_sequence
    }

    /// Publishes the log's events from `audit`'s end on as a version did that knew no identity.
    async fn publish_as_before(&self, audit: &mut Audit) {
        let jetstream = self.jetstream();
        if jetstream.get_stream(self.names.stream()).await.is_err() {
            let config = event_stream::config(&self.names, 1);
            jetstream.create_stream(config).await.unwrap();
        }
        audit.read(&jetstream, &self.names).await;
        let mut chain = audit.chain;
        let log = self.log();
        let mut found = log.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
        while let Some(document) = found.next().await {
            let event = document.unwrap().to_event().unwrap();
            let id = event.id.get();
            if audit.decoded.contains_key(&id) {
                continue;
            }
            chain = chain.then(id);
            let headers = [
                (EVENT_ID, id.to_string()),
                (CHAIN, chain.to_hex()),
                (RESUME_TOKEN, "scan:{}".to_owned()),
                ("traceparent", TRACE.to_owned()),
                ("ce-type", event.payload.kind().to_owned()),
                (
                    "ce-source",
                    format!("/{}/log", self.names.stream().to_lowercase()),
                ),
                ("ce-subject", event.stream.to_string()),
                ("ce-time", event.at.to_string()),
                ("ce-specversion", "1.0".to_owned()),
                ("ce-datacontenttype", "application/json".to_owned()),
            ];
            let headers =
                headers.map(|(name, value)| (name.parse().unwrap(), value.as_str().into()));
            let headers = HeaderMap::from_iter(headers);
            let subject = self.names.event(&event.payload);
            let sent = jetstream.publish_with_headers(subject, headers, event.encode().into());
            sent.await.unwrap().await.unwrap();
        }
        audit.read(&jetstream, &self.names).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_each_of_its_messages_name_the_log() {
    let world = World::new("named").await;
    // Many ask at once; all get the same answer.
    let own = OwnLog::new(&world.database);
    let asked = (0..16).map(|_| own.id_or(LogId::random()));
    let ids = future::join_all(asked).await;
    let one = world.identity().await;
    assert!(ids.into_iter().all(|id| id.unwrap() == one));
    let running = Running::start(world.relay(world.settings()).await);
    world.write(4, 20).await;
    world.assert_exact().await;
    running.stop().await;
    assert_eq!(world.named_by_stream().await, Some(one.to_string()));
    let stream = world.jetstream().get_stream(world.names.stream()).await;
    let stream = stream.unwrap();
    for sequence in 1..=world.stream_end().await {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let named = message.headers.get(LOG).map(ToString::to_string);
        assert_eq!(named, Some(one.to_string()), "message {sequence}");
    }
    // A copy of the database that was made without it gets it back from the stream.
    let identity: Collection<Document> = world.database.collection(log_identity::COLLECTION);
    identity.drop().await.unwrap();
    let running = Running::start(world.relay(world.settings()).await);
    world.write(2, 5).await;
    world.assert_exact().await;
    assert_eq!(world.identity().await, one);
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_log_is_refused_and_nothing_is_published_to_it() {
    let world = World::new("other_log").await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(4, 10).await;
    world.assert_exact().await;
    let beside = world.beside().await;
    beside.write(2, 10).await;
    // Whoever holds its lease says so, and whoever stands by.
    let (refused, readiness) = watched(&beside, beside.settings()).await;
    let (standing_by, also) = watched(&beside, beside.settings()).await;
    for readiness in [&readiness, &also] {
        let says = refusal(readiness).await;
        let theirs = world.identity().await.to_string();
        assert!(says.contains("holds another log"), "{says}");
        assert!(
            says.contains(&theirs) && says.contains("NATS_PREFIX"),
            "{says}"
        );
    }
    world.write(4, 10).await;
    beside.write(2, 10).await;
    let audit = world.assert_exact().await;
    assert_eq!(audit.foreign, 0);
    running.stop().await;
    // The other log is given up.
    let jetstream = world.jetstream();
    jetstream.delete_stream(world.names.stream()).await.unwrap();
    beside.assert_exact().await;
    until_ready(&readiness).await;
    until_ready(&also).await;
    refused.stop().await;
    standing_by.stop().await;
    world.database.drop().await.unwrap();
    beside.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_before_goes_on_with_its_own_log_and_with_no_other() {
    let world = World::new("before").await;
    world.write(4, 10).await;
    let mut audit = Audit::default();
    world.publish_as_before(&mut audit).await;
    let beside = world.beside().await;
    beside.write(1, 10).await;
    let (refused, readiness) = watched(&beside, beside.settings()).await;
    let says = refusal(&readiness).await;
    assert!(
        says.contains("by an earlier version from another log"),
        "{says}"
    );
    refused.stop().await;
    assert_eq!(world.named_by_stream().await, None);

    let running = Running::start(world.relay(world.settings()).await);
    world.write(2, 10).await;
    let audit = &mut world.assert_exact().await;
    let named = world.identity().await.to_string();
    assert_eq!(world.named_by_stream().await, Some(named));
    running.stop().await;
    // While replicas are updated, one of the old version may publish again.
    world.write(2, 10).await;
    world.publish_as_before(audit).await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(2, 10).await;
    world.assert_exact().await;
    running.stop().await;
    let (refused, readiness) = watched(&beside, beside.settings()).await;
    let says = refusal(&readiness).await;
    assert!(says.contains("holds another log"), "{says}");
    refused.stop().await;
    beside.database.drop().await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_restored_to_an_older_state_is_told_apart_from_another_one() {
    for named in [true, false] {
        let world = World::new("older").await;
        world.write(4, 20).await;
        if named {
            // A scan, in the order of ids, and the plain token at its end.
            world.start_off().await;
            world.assert_exact().await;
        } else {
            world.publish_as_before(&mut Audit::default()).await;
        }
        let end = world.stream_end().await;
        let last = doc! { "_id": -1 };
        let mut newest: Vec<LogDocument> = {
            let log = world.log();
            let found = log.find(doc! {}).sort(last).limit(30);
            let found = found.await.unwrap().collect::<Vec<_>>().await;
            found.into_iter().map(Result::unwrap).collect()
        };
        newest.reverse();
        let ids: Vec<i64> = newest.iter().map(|event| event.id.get()).collect();
        let lost = doc! { "_id": { "$in": ids } };
        world.log().delete_many(lost).await.unwrap();
        let (mut running, mut readiness) = watched(&world, world.settings()).await;
        let says = refusal(&readiness).await;
        assert!(says.contains("newer than the log"), "{says}");
        // A tick says that a scan must come next; where the tail says so, nothing is added.
        let end = end + u64::from(named);
        eventually(async || match world.stream_end().await {
            reached if reached >= end => Ok(()),
            _ => Err("no scan is called for"),
        })
        .await;
        world.write(2, 10).await;
        let says = refusal(&readiness).await;
        assert!(says.contains("rebuild --accept"), "{says}");
        assert_eq!(world.stream_end().await, end, "nothing is published");
        if named {
            // The right copy is restored while nobody looks: what was put back is no news.
            running.stop().await;
            world.log().insert_many(newest).await.unwrap();
            (running, readiness) = watched(&world, world.settings()).await;
        } else {
            // What came since is given up.
            let jetstream = world.jetstream();
            jetstream.delete_stream(world.names.stream()).await.unwrap();
        }
        world.assert_exact().await;
        until_ready(&readiness).await;
        running.stop().await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_refuses_its_stream_gives_the_lease_up() {
    let world = World::new("gives_up").await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(1, 4).await;
    world.assert_exact().await;
    running.stop().await;
    // The wrong database, and the others' leases.
    let beside = world.beside().await;
    beside.write(1, 4).await;
    let nats = connections::nats(&at(&world.nats_url), "relay")
        .await
        .unwrap();
    let readiness = Readiness::default();
    let leases = world.database.collection::<Document>("leases");
    let settings = relay::Settings {
        give_up: Duration::from_millis(300),
        ..world.settings()
    };
    let misled = Relay::new(
        &beside.database,
        leases.clone(),
        nats,
        readiness.clone(),
        settings,
    );
    let misled = Running::start(misled);
    refusal(&readiness).await;
    let held = doc! { "_id": "relay", "expires_at": { "$gt": bson::DateTime::now() } };
    eventually(async || {
        let held = leases.find_one(held.clone()).await.unwrap();
        held.ok_or("it never has the lease")
    })
    .await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(1, 4).await;
    let count = 8;
    world
        .read_until(&mut Audit::default(), async |audit| {
            let missing = readiness.missing();
            assert!(missing.contains_key(relay::READY), "{missing:?}");
            let is_all = audit.events.len() >= count;
            is_all.then_some(()).ok_or("the lease is not given up")
        })
        .await;
    world.assert_exact().await;
    running.stop().await;
    misled.stop().await;
    beside.database.drop().await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_label_the_stream_publishes_all_the_same() {
    let folder = Folder::new();
    let config = format!(
        "jetstream {{ store_dir: {:?} }}\n{}",
        folder.0.join("js"),
        r#"authorization { users: [ { user: relay, password: relay,
            permissions: { publish: { deny: ["$JS.API.STREAM.UPDATE.>"] } } } ] }
        no_auth_user: relay"#
    );
    let broker = configured(&folder.0, free_port().await, &config).await;
    let world = World::on("label", &format!("nats://127.0.0.1:{}", broker.port)).await;
    world.write(1, 4).await;
    world.publish_as_before(&mut Audit::default()).await;
    let settings = relay::Settings {
        patience: Duration::from_secs(1),
        ..world.settings()
    };
    let (running, readiness) = watched(&world, settings).await;
    world.write(1, 4).await;
    world.assert_exact().await;
    assert_eq!(world.named_by_stream().await, None, "the broker refuses it");
    until_ready(&readiness).await;
    running.stop().await;
    world.database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_dropped_and_put_back_is_followed_again() {
    let world = World::new("dropped").await;
    world.start_off().await;
    let (running, readiness) = watched(&world, world.settings()).await;
    world.write(2, 10).await;
    world.assert_exact().await;
    let events: Vec<LogDocument> = {
        let log = world.log();
        let found = log.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
        let found = found.collect::<Vec<_>>().await;
        found.into_iter().map(Result::unwrap).collect()
    };
    world.log().drop().await.unwrap();
    world.log().insert_many(events).await.unwrap();
    world.write(1, 1).await;
    let audit = world.assert_exact().await;
    assert_eq!(audit.events.len(), 21);
    until_ready(&readiness).await;
    running.stop().await;
    world.end().await;
}
