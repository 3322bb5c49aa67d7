//! Each event once, in version order, whoever relays; and figures.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_published_once_and_in_version_order() {
    let world = World::new("once").await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(24, 60).await;
    let audit = world.assert_exact().await;
    assert_eq!(audit.events.len(), 24 * 60);
    // The first message is the tick of a scan that found nothing to do.
    assert!(audit.scanned <= 24 * 60);
    let stopping = Instant::now();
    running.stop().await;
    assert!(
        stopping.elapsed() < Duration::from_secs(1),
        "{:?}",
        stopping.elapsed()
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_at_any_moment_loses_and_repeats_nothing() {
    let world = World::new("killed").await;
    world.start_off().await;
    let done = AtomicBool::new(false);
    let writing = async {
        world.write(12, 80).await;
        done.store(true, Ordering::Relaxed);
    };
    let killing = async {
        let mut kills = 0;
        while !done.load(Ordering::Relaxed) {
            let running = Running::start(world.relay(world.settings()).await);
            pause_up_to(60).await;
            running.kill().await;
            kills += 1;
        }
        kills
    };
    let ((), kills) = tokio::join!(writing, killing);
    let running = Running::start(world.relay(world.settings()).await);
    world.assert_exact().await;
    println!("killed {kills} times");
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_publishes_nothing_twice() {
    let world = World::new("ack").await;
    world.start_off().await;
    let lost = Arc::new(AtomicUsize::new(0));
    let count = lost.clone();
    let relay = world
        .relay(world.settings())
        .await
        .failing_at(move |point| {
            let lose = point == FailPoint::BatchStored && rand::random_ratio(1, 3);
            count.fetch_add(usize::from(lose), Ordering::Relaxed);
            lose
        });
    let running = Running::start(relay);
    world.write(8, 60).await;
    world.assert_exact().await;
    println!("lost {} acknowledgements", lost.load(Ordering::Relaxed));
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_active_relays_are_kept_apart_by_the_fence() {
    let world = World::new("two").await;
    world.start_off().await;
    let one = Running::start(world.relay_leased("one", world.settings()).await);
    let other = Running::start(world.relay_leased("other", world.settings()).await);
    world.write(24, 60).await;
    world.assert_exact().await;
    one.stop().await;
    other.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_makes_one_relay_active_and_passes_on() {
    let world = World::new("lease").await;
    let settings = relay::Settings {
        lease: Duration::from_secs(60),
        ..world.settings()
    };
    let one = Running::start(world.relay(settings.clone()).await);
    world.write(1, 2).await;
    world.assert_exact().await;
    // The second waits for as long as the first is there, and a third of the lease at most then.
    let settings = relay::Settings {
        lease: Duration::from_millis(300),
        ..settings
    };
    let two = Running::start(world.relay(settings).await);
    let leases: Collection<Document> = world.database.collection("leases");
    let epoch = async || {
        leases
            .find_one(doc! {})
            .await
            .unwrap()
            .unwrap()
            .get_i64("epoch")
            .unwrap()
    };
    let first = epoch().await;
    world.write(2, 20).await;
    world.assert_exact().await;
    assert_eq!(epoch().await, first);
    one.stop().await;
    world.write(2, 20).await;
    world.assert_exact().await;
    assert_eq!(epoch().await, first + 1);
    two.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_others_are_stepped_over() {
    let world = World::new("foreign").await;
    world.start_off().await;
    let running = Running::start(world.relay(world.settings()).await);
    let done = AtomicBool::new(false);
    let writing = async {
        world.write(12, 80).await;
        done.store(true, Ordering::Relaxed);
    };
    let disturbing = async {
        for n in 0.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            pause_up_to(20).await;
            let mut headers = HeaderMap::new();
            if n % 3 > 0 {
                headers.insert(EVENT_ID, "77");
                headers.insert(CHAIN, "0123456789abcdef0123456789abcdef");
                headers.insert(RESUME_TOKEN, if n % 3 == 1 { "junk" } else { "scan:{}" });
            }
            let subject = format!("{}.foreign", world.names.tick().trim_end_matches(".tick"));
            world.publish_foreign(subject, headers).await;
        }
    };
    tokio::join!(writing, disturbing);
    let audit = world.assert_exact().await;
    running.stop().await;
    // Now the tail is theirs: a start must find its own last message behind it.
    let headers = HeaderMap::from_iter([
        (EVENT_ID.parse().unwrap(), "77".into()),
        (
            CHAIN.parse().unwrap(),
            ChainHash::START.then(77).to_hex().as_str().into(),
        ),
        (RESUME_TOKEN.parse().unwrap(), "{}".into()),
    ]);
    for _ in 0..3 {
        world
            .publish_foreign(world.names.tick(), headers.clone())
            .await;
    }
    let running = Running::start(world.relay(world.settings()).await);
    world.write(4, 20).await;
    let again = world.assert_exact().await;
    assert_eq!(again.scanned, audit.scanned);
    println!("{} messages of others", again.foreign);
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_log_is_ticked_and_resumed_from_its_ticks() {
    let world = World::new("ticks").await;
    world.start_off().await;
    // A tick at every pause the server sees.
    let settings = relay::Settings {
        tick_after: Duration::ZERO,
        max_await: Duration::from_millis(3),
        ..world.settings()
    };
    let (done, noise) = (
        AtomicBool::new(false),
        world.database.collection::<Document>("noise"),
    );
    let writing = async {
        let until = Instant::now() + PATIENCE;
        loop {
            for _ in 0..60 {
                // Other writes in the same oplog move the tokens on.
                noise.insert_one(doc! { "n": 1 }).await.unwrap();
                world.write(3, 4).await;
                pause_up_to(15).await;
            }
            // How many there are depends on how often a relay lived long enough.
            let mut so_far = Audit::default();
            so_far.read(&world.jetstream(), &world.names).await;
            if so_far.ticks > 5 {
                break;
            }
            assert!(Instant::now() < until, "{} ticks", so_far.ticks);
        }
        done.store(true, Ordering::Relaxed);
    };
    let killing = async {
        // On a slow machine a relay needs longer to come as far as its first tick.
        let mut longest = 120;
        while !done.load(Ordering::Relaxed) {
            let running = Running::start(world.relay(settings.clone()).await);
            pause_up_to(longest).await;
            running.kill().await;
            longest += 10;
        }
    };
    tokio::join!(writing, killing);
    let running = Running::start(world.relay(settings.clone()).await);
    let audit = world.assert_exact().await;
    println!(
        "{} ticks, {} of {} messages scanned",
        audit.ticks,
        audit.scanned,
        audit.events.len()
    );
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_no_event_holds_nobody_up() {
    let world = World::new("corrupt").await;
    let running = Running::start(world.relay(world.settings()).await);
    world.write(2, 10).await;
    let raw: Collection<Document> = world.database.collection(shared::contract::log::COLLECTION);
    let known = world.log().find_one(doc! {}).await.unwrap().unwrap();
    let mut newer = bson::serialize_to_document(&known).unwrap();
    newer.insert("_id", known.id.get() + 1);
    newer.insert("type", "user.cloned");
    raw.insert_one(&newer).await.unwrap();
    raw.insert_one(doc! { "_id": known.id.get() + 2, "what": "is this" })
        .await
        .unwrap();
    raw.insert_one(doc! { "_id": "nor this" }).await.unwrap();
    world.write(2, 10).await;
    // By the change stream, and by a scan: both leave them out and go on.
    for rescan in [false, true] {
        let expected = if rescan { 60 } else { 40 };
        world
            .read_until(&mut Audit::default(), async |audit| {
                assert!(audit.faults.is_empty(), "{:?}", audit.faults);
                let read = audit.events.len();
                (read == expected).then_some(()).ok_or(read)
            })
            .await;
        if !rescan {
            let again = relay::Settings {
                rescan: true,
                ..world.settings()
            };
            let other = Running::start(world.relay_leased("other", again).await);
            world.write(2, 10).await;
            other.stop().await;
        }
    }
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_forgets_is_not_used() {
    let world = World::new("forgets").await;
    let forgets = stream::Config {
        max_age: Duration::from_secs(3_600),
        ..event_stream::config(&world.names, 1)
    };
    world.jetstream().create_stream(forgets).await.unwrap();
    let readiness = Readiness::default();
    let nats = connections::nats(&at(&world.nats_url), "relay")
        .await
        .unwrap();
    let leases = world.database.collection("leases");
    let relay = Relay::new(
        &world.database,
        leases,
        nats,
        readiness.clone(),
        world.settings(),
    );
    let running = Running::start(relay);
    world.write(1, 5).await;
    eventually(async || {
        let is_ready = readiness.missing().is_empty();
        (!is_ready).then_some(()).ok_or("the relay is ready")
    })
    .await;
    assert!(
        readiness.missing()[relay::READY].contains("max_age"),
        "{:?}",
        readiness.missing()
    );
    // Once an operator has put it right, it is used.
    world
        .jetstream()
        .update_stream(event_stream::config(&world.names, 1))
        .await
        .unwrap();
    world.assert_exact().await;
    assert!(readiness.missing().is_empty());
    running.stop().await;
    world.end().await;
}

/// Pipelined single publishes, each expecting the sequence predicted when it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn without_observed_sequences_an_event_is_lost() {
    let world = World::new("naive").await;
    let jetstream = world.jetstream();
    event_stream::ensure(&jetstream, &world.names, 1, None)
        .await
        .unwrap();
    world.write(1, 10).await;
    let mut found = world
        .log()
        .find(doc! {})
        .sort(doc! { "_id": 1 })
        .await
        .unwrap();
    let (mut chain, mut expected, mut sent) = (ChainHash::START, 0_u64, Vec::new());
    while let Some(document) = found.next().await {
        let event = document.unwrap().to_event().unwrap();
        if expected == 5 {
            let foreign = jetstream
                .publish(world.names.tick(), "{}".into())
                .await
                .unwrap();
            foreign.await.unwrap();
        }
        chain = chain.then(event.id.get());
        let mut headers = HeaderMap::new();
        headers.insert(EVENT_ID, event.id.to_string());
        headers.insert(CHAIN, chain.to_hex());
        headers.insert("Nats-Expected-Last-Sequence", expected.to_string());
        let subject = world.names.event(&event.payload);
        sent.push(
            jetstream
                .publish_with_headers(subject, headers, event.encode().into())
                .await
                .unwrap(),
        );
        expected += 1;
    }
    let refused = future::join_all(sent.into_iter().map(IntoFuture::into_future)).await;
    let refused = refused.iter().filter(|answer| answer.is_err()).count();
    let mut audit = Audit::default();
    audit.read(&jetstream, &world.names).await;
    audit.compare(&world).await;
    assert_eq!(refused, 1);
    assert!(
        audit
            .faults
            .iter()
            .any(|fault| fault.contains("is not on the stream")),
        "{:?}",
        audit.faults
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_an_idle_log_is_out_in_milliseconds() {
    let world = World::new("latency").await;
    let running = Running::start(
        world
            .relay(relay::Settings::new(world.names.clone(), 1))
            .await,
    );
    world.write(1, 1).await;
    world.assert_exact().await;
    let stream = world
        .jetstream()
        .get_stream(world.names.stream())
        .await
        .unwrap();
    let consumer = stream
        .create_consumer(consumer::pull::Config {
            deliver_policy: consumer::DeliverPolicy::New,
            ack_policy: consumer::AckPolicy::None,
            ..Default::default()
        })
        .await
        .unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let (replica, mut times, mut waits) = (&world.replicas[0], Vec::new(), Vec::new());
    let mut user = None;
    for n in 0..60 {
        let began = Instant::now();
        user = Some(world.append(replica, user, n).await);
        let inserted = Instant::now();
        messages.next().await.unwrap().unwrap();
        times.push(began.elapsed());
        waits.push(inserted.elapsed());
        pause_up_to(10).await;
    }
    times.sort();
    waits.sort();
    println!(
        "insert to stream: p50 {:?}, worst {:?}",
        times[30], times[59]
    );
    println!(
        "of that, after the insert was acknowledged: p50 {:?}",
        waits[30]
    );
    assert!(waits[30] < Duration::from_millis(50));
    running.stop().await;
    world.end().await;
}

/// `cargo test --release --test relay -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, of a machine that does nothing else"]
async fn how_many_events_a_second() {
    const EVENTS: u64 = 50_000;
    let world = World::new("speed").await;
    let replica = &world.replicas[0];
    let fill = async || {
        for _ in 0..EVENTS / 1_000 {
            let documents = (0..1_000).map(|_| {
                let id = replica.ids.next(replica, 0).unwrap();
                let content = "a post of about the usual length, neither short nor long".to_owned();
                let payload = Payload::PostCreated(PostCreated {
                    content,
                    reply_to: None,
                });
                let event = Event {
                    id,
                    stream: LogStream::Post(id.cast()),
                    version: 1,
                    actor: id.cast(),
                    at: id.timestamp(),
                    payload,
                };
                let mut document = LogDocument::new(&event, event.actor, 1).unwrap();
                document.trace = Some(TRACE.to_owned());
                document
            });
            world.log().insert_many(documents).await.unwrap();
        }
    };
    let drained = async |from: u64| {
        let began = Instant::now();
        let running = Running::start(world.relay(world.settings()).await);
        let mut first = None;
        eventually(async || {
            let found = world.jetstream().get_stream(world.names.stream()).await;
            let last = found.map_or(0, |stream| stream.cached_info().state.last_sequence);
            if last > from {
                first.get_or_insert_with(|| began.elapsed());
            }
            (last >= from + EVENTS).then_some(()).ok_or(last)
        })
        .await;
        let took = began.elapsed();
        running.stop().await;
        (first, EVENTS as f64 / took.as_secs_f64())
    };
    fill().await;
    let (first, rate) = drained(0).await;
    println!("scan of {EVENTS}: {rate:.0} events/s, the first after {first:?}");
    let last = world.assert_exact().await.read;
    fill().await;
    let (first, rate) = drained(last).await;
    println!("change stream of {EVENTS}: {rate:.0} events/s, the first after {first:?}");
    world.assert_exact().await;
    world.end().await;
}
