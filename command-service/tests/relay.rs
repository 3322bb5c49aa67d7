//! The relay against real engines: whatever happens to it, to the broker or between them, the
//! stream holds each event of the log once, each log stream in version order.
//!
//! Most tests hurt it at random moments; what they assert never depends on which.
//! Needs `MONGODB_URI`, `NATS_URL` and, for brokers that are killed, `MICROBLOG_NATS_BIN`.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, stream};
use bson::{Document, doc};
use command_service::relay::{self, FailPoint, Relay};
use futures_util::{StreamExt, future};
use mongodb::Collection;
use shared::engines::{self, Nats};
use shared::event_stream::{self, CHAIN, ChainHash, EVENT_ID, Names, RESUME_TOKEN};
use shared::events::{Event, LogStream, Payload, PostCreated, ProfileEdited};
use shared::ids::{EventId, IdGenerator};
use shared::log::LogDocument;
use shared::ops::Readiness;
use shared::settings::{NatsSettings, Secret};
use shared::time::{Clock, SystemClock, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "relay/identity.rs"]
mod identity;
#[path = "relay/trouble.rs"]
mod trouble;

/// Longer than any outage a test makes; reaching it means that the relay is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

// --- a world of its own for each test ---

fn var(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} must be set: run the tests with `make test`"))
}

fn at(nats_url: &str) -> NatsSettings {
    NatsSettings::from_url(nats_url).expect("a URL of NATS")
}

struct World {
    database: mongodb::Database,
    names: Names,
    nats: Nats,
    nats_url: String,
    /// One per simulated command-service; the second one's clock is ahead, the third one's behind.
    replicas: [Replica; 3],
    /// Messages that others put on the stream; whatever else does not fit the chain is a fault.
    foreign: AtomicUsize,
}

#[derive(Default)]
struct Replica {
    ids: IdGenerator,
    skew: AtomicI64,
}

impl Clock for Replica {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().millis() + self.skew.load(Ordering::Relaxed))
    }
}

/// A simulated user: who, and their profile's last event.
#[derive(Clone, Copy)]
struct User {
    id: EventId,
    last: i64,
    version: i64,
}

impl World {
    async fn new(test: &str) -> Self {
        Self::on(test, &var("NATS_URL")).await
    }

    async fn on(test: &str, nats_url: &str) -> Self {
        if let Ok(filter) = std::env::var("RUST_LOG") {
            shared::telemetry::init_logs(shared::settings::LogFormat::Pretty, &filter);
        }
        let name = format!("r{:06x}_{test}", rand::random::<u32>() & 0xff_ffff);
        let uri = Secret::new(var("MONGODB_URI"));
        let database = engines::mongo(&uri, "relay-test", 32).await.unwrap();
        let replicas = [Replica::default(), Replica::default(), Replica::default()];
        replicas[1].skew.store(400, Ordering::Relaxed);
        replicas[2].skew.store(-400, Ordering::Relaxed);
        Self {
            database: database.client().database(&format!("relay_{name}")),
            names: name.parse().unwrap(),
            nats: engines::nats(&at(nats_url), "relay-test").await.unwrap(),
            nats_url: nats_url.to_owned(),
            replicas,
            foreign: AtomicUsize::new(0),
        }
    }

    fn settings(&self) -> relay::Settings {
        relay::Settings {
            lease: Duration::from_millis(600),
            watch: Duration::from_millis(200),
            max_await: Duration::from_millis(50),
            ..relay::Settings::new(self.names.clone(), 1)
        }
    }

    async fn relay(&self, settings: relay::Settings) -> Relay {
        self.relay_leased("leases", settings).await
    }

    /// Relays with leases of their own are both active: only the fence is between them.
    async fn relay_leased(&self, leases: &str, settings: relay::Settings) -> Relay {
        let nats = engines::nats(&at(&self.nats_url), "relay").await.unwrap();
        let leases = self.database.collection(leases);
        Relay::new(&self.database, leases, nats, Readiness::default(), settings)
    }

    fn jetstream(&self) -> jetstream::Context {
        self.nats.jetstream()
    }

    async fn publish_foreign(&self, subject: String, headers: HeaderMap) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
        self.publish(subject, headers).await;
    }

    async fn publish(&self, subject: String, headers: HeaderMap) {
        let jetstream = self.jetstream();
        let sent = jetstream.publish_with_headers(subject, headers, "{}".into());
        sent.await.unwrap().await.unwrap();
    }

    fn log(&self) -> Collection<LogDocument> {
        self.database.collection(shared::log::COLLECTION)
    }

    /// Whether the id was free.
    async fn insert(&self, event: &Event) -> bool {
        let mut document = LogDocument::new(event, event.actor, rand::random()).unwrap();
        document.trace = Some(TRACE.to_owned());
        match self.log().insert_one(document).await {
            Err(error) if shared::lease::is_duplicate_key(&error) => false,
            result => result.is_ok(),
        }
    }

    /// `writers` at once append `each` events, now and then resting a moment between taking an id
    /// and inserting: ids are committed out of order, and those of one log stream in order.
    async fn write(&self, writers: usize, each: usize) {
        let one = async |writer: usize| {
            let replica = &self.replicas[writer % self.replicas.len()];
            let mut user = None;
            for n in 0..each {
                user = Some(self.append(replica, user, n).await);
            }
        };
        future::join_all((0..writers).map(one)).await;
    }

    /// A post, or the next version of the user's profile; hands the user on.
    async fn append(&self, replica: &Replica, user: Option<User>, n: usize) -> User {
        loop {
            let read = user.map_or(0, |user| user.last);
            let id = replica.ids.next(replica, read).unwrap();
            let mut user = user.unwrap_or(User {
                id,
                last: 0,
                version: 0,
            });
            let (stream, version, payload) = if n.is_multiple_of(2) {
                user = User {
                    last: id.get(),
                    version: user.version + 1,
                    ..user
                };
                let (display_name, bio) = ("Ada".to_owned(), format!("bio {n}"));
                let edited = ProfileEdited { display_name, bio };
                let stream = LogStream::User(user.id.cast());
                (stream, user.version, Payload::ProfileEdited(edited))
            } else {
                let content = format!("post {n} \u{1F980}\r\n");
                let created = PostCreated {
                    content,
                    reply_to: None,
                };
                (LogStream::Post(id.cast()), 1, Payload::PostCreated(created))
            };
            if rand::random_ratio(1, 8) {
                pause_up_to(4).await;
            }
            let (actor, at) = (user.id.cast(), id.timestamp());
            let event = Event {
                id,
                stream,
                version,
                actor,
                at,
                payload,
            };
            if self.insert(&event).await {
                return user;
            }
            // Another replica took the id: the next one.
        }
    }

    /// Waits until the stream has as many events as the log, then checks all of them.
    async fn settle(&self) -> Audit {
        let mut audit = Audit::default();
        let until = Instant::now() + PATIENCE;
        let log = self.log();
        loop {
            audit.read(&self.jetstream(), &self.names).await;
            let count = log.count_documents(doc! {}).await.unwrap();
            if audit.events.len() as u64 >= count {
                break;
            }
            assert!(
                Instant::now() < until,
                "the stream has {} of {count} events: {:?}",
                audit.events.len(),
                audit.faults,
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Whatever is still under way may add to it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        audit.read(&self.jetstream(), &self.names).await;
        audit.compare(self).await;
        audit
    }

    /// As `settle`, and nothing may be wrong.
    async fn assert_exact(&self) -> Audit {
        let audit = self.settle().await;
        assert!(audit.faults.is_empty(), "{:#?}", audit.faults);
        audit
    }

    /// Gets the first scan, of an empty log, out of the way: from here on there are plain tokens.
    async fn start_off(&self) {
        let running = Running::start(self.relay(self.settings()).await);
        let (mut audit, until) = (Audit::default(), Instant::now() + PATIENCE);
        while audit.ticks == 0 {
            assert!(Instant::now() < until, "the first scan does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
            audit.read(&self.jetstream(), &self.names).await;
        }
        running.stop().await;
    }

    async fn end(self) {
        self.database.drop().await.unwrap();
        let _ = self.jetstream().delete_stream(self.names.stream()).await;
    }
}

/// A relay at work in a task.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(relay: Relay) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(relay.run(stop.clone()));
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// As dead as a task can be: nothing is finished, nothing is told.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn pause_up_to(millis: u64) {
    tokio::time::sleep(Duration::from_micros(rand::random_range(0..millis * 1_000))).await;
}

// --- the checker: shares nothing with the relay but the contract ---

#[derive(Default)]
struct Audit {
    read: u64,
    chain: ChainHash,
    /// Event id and sequence, in the order of the stream.
    events: Vec<(i64, u64)>,
    decoded: HashMap<i64, Event>,
    versions: BTreeMap<String, i64>,
    ticks: usize,
    scanned: usize,
    foreign: usize,
    faults: Vec<String>,
}

impl Audit {
    async fn read(&mut self, jetstream: &jetstream::Context, names: &Names) {
        let Ok(stream) = jetstream.get_stream(names.stream()).await else {
            return;
        };
        let last = stream.cached_info().state.last_sequence;
        if self.read >= last {
            return;
        }
        let consumer = stream
            .create_consumer(consumer::pull::Config {
                deliver_policy: consumer::DeliverPolicy::ByStartSequence {
                    start_sequence: self.read + 1,
                },
                ack_policy: consumer::AckPolicy::None,
                ..Default::default()
            })
            .await
            .unwrap();
        while self.read < last {
            let mut messages = consumer
                .fetch()
                .max_messages(2_000)
                .messages()
                .await
                .unwrap();
            while let Some(message) = messages.next().await {
                let message = message.unwrap();
                let sequence = message.info().unwrap().stream_sequence;
                assert_eq!(sequence, self.read + 1, "the checker missed a message");
                self.read = sequence;
                self.take(names, sequence, &message.message);
            }
        }
        jetstream
            .delete_consumer_from_stream(&consumer.cached_info().name, names.stream())
            .await
            .unwrap();
    }

    fn take(&mut self, names: &Names, sequence: u64, message: &async_nats::Message) {
        let headers = message.headers.as_ref();
        let of_relay = event_stream::event_id_of(headers)
            .zip(ChainHash::of(headers))
            .filter(|(id, chain)| self.chain.then(*id) == *chain);
        let Some((id, chain)) = of_relay else {
            self.foreign += 1;
            return;
        };
        self.chain = chain;
        let text = |name: &str| {
            headers
                .unwrap()
                .get(name)
                .map(|value| value.as_str().to_owned())
        };
        let resume = text(RESUME_TOKEN).unwrap_or_default();
        self.scanned += usize::from(resume.starts_with("scan:"));
        if id == 0 {
            self.ticks += 1;
            self.expect(message.subject.as_str() == names.tick(), || {
                "a tick's subject".to_owned()
            });
            return;
        }
        let event = match Event::decode(&message.payload) {
            Ok(event) => event,
            Err(error) => return self.faults.push(format!("{sequence}: {error}")),
        };
        self.expect(event.id.get() == id, || format!("{sequence}: its id"));
        self.expect(
            message.subject.as_str() == names.event(&event.payload),
            || format!("{sequence}: its subject"),
        );
        let expected = [
            ("ce-type", event.payload.kind().to_owned()),
            ("ce-subject", event.stream.to_string()),
            ("ce-time", event.at.to_string()),
            ("ce-specversion", "1.0".to_owned()),
            ("ce-datacontenttype", "application/json".to_owned()),
        ];
        for (name, value) in expected {
            self.expect(text(name).as_ref() == Some(&value), || {
                format!("{sequence}: {name} is not {value}")
            });
        }
        self.expect(text("traceparent").is_some(), || {
            format!("{sequence}: no traceparent")
        });
        let version = self.versions.entry(event.stream.to_string()).or_default();
        *version += 1;
        let in_order = *version == event.version;
        self.expect(in_order, || {
            format!("{sequence}: version {} of {}", event.version, event.stream)
        });
        self.events.push((id, sequence));
        let twice = self.decoded.insert(id, event).is_some();
        self.expect(!twice, || format!("{sequence}: event {id} is there twice"));
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(what());
        }
    }

    async fn compare(&mut self, world: &World) {
        let foreign = world.foreign.load(Ordering::Relaxed);
        self.expect(self.foreign == foreign, || {
            format!("not {foreign} messages of others")
        });
        let mut found = world.log().find(doc! {}).await.unwrap();
        let mut logged = BTreeSet::new();
        while let Some(document) = found.next().await {
            let Ok(event) = document.unwrap().to_event() else {
                continue;
            };
            let id = event.id.get();
            logged.insert(id);
            match self.decoded.get(&id) {
                None => self.faults.push(format!("event {id} is not on the stream")),
                Some(published) if *published != event => {
                    self.faults.push(format!("event {id} was changed"));
                }
                Some(_) => (),
            }
        }
        for id in self.decoded.keys().filter(|id| !logged.contains(id)) {
            self.faults.push(format!("event {id} is not in the log"));
        }
    }
}

// --- what must hold ---

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
async fn a_refused_token_leads_to_a_scan() {
    let world = World::new("token").await;
    let tokens = [
        "no JSON",
        "5",
        "{}",
        r#"{"_data":"junk"}"#,
        r#"{"_data":"820000000000000000000000000000000000000000"}"#,
        r#"{"_data":7}"#,
        "scan:whatever",
    ];
    for token in tokens {
        let running = Running::start(world.relay(world.settings()).await);
        world.write(4, 20).await;
        let audit = world.assert_exact().await;
        running.stop().await;
        // Written while no relay looks, and published only by the scan.
        world.write(4, 20).await;
        let mut headers = HeaderMap::new();
        headers.insert(EVENT_ID, "0");
        headers.insert(CHAIN, audit_tail(&world).await.then(0).to_hex());
        headers.insert(RESUME_TOKEN, token);
        world.publish(world.names.tick(), headers).await;
        let running = Running::start(world.relay(world.settings()).await);
        world.write(4, 20).await;
        let again = world.assert_exact().await;
        let own = usize::from(token.starts_with("scan:"));
        assert!(
            again.scanned >= audit.scanned + own + 80,
            "{token}: {} {}",
            again.scanned,
            audit.scanned
        );
        running.stop().await;
    }
    world.end().await;
}

async fn audit_tail(world: &World) -> ChainHash {
    let mut audit = Audit::default();
    audit.read(&world.jetstream(), &world.names).await;
    audit.chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_crashes_anywhere_is_exact_while_writers_go_on() {
    let world = World::new("scan").await;
    // Small windows and batches, so that every step has many places to die at.
    let settings = relay::Settings {
        rescan: true,
        scan_window: 150,
        batch_events: 40,
        ..world.settings()
    };
    world.write(8, 80).await;
    let done = AtomicBool::new(false);
    let writing = async {
        world.write(8, 150).await;
        done.store(true, Ordering::Relaxed);
    };
    let scanning = async {
        let mut crashes = 0;
        while !done.load(Ordering::Relaxed) {
            let running = Running::start(world.relay(settings.clone()).await);
            pause_up_to(400).await;
            running.kill().await;
            crashes += 1;
        }
        crashes
    };
    let ((), crashes) = tokio::join!(writing, scanning);
    let running = Running::start(world.relay(world.settings()).await);
    let audit = world.assert_exact().await;
    println!(
        "{crashes} crashes, {} of {} events scanned",
        audit.scanned,
        audit.events.len()
    );
    running.stop().await;
    world.end().await;
}

/// A scan's token may be ahead of what a majority has, and what it reads is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_has_a_majority_confirm_a_write_after_its_token_before_it_reads_ids() {
    let world = World::new("mark").await;
    world.write(1, 2).await;
    let marks: Collection<Document> = world.database.collection(relay::MARKS);
    let mut written = marks.watch().await.unwrap();
    // Nothing past the greatest id is reached: no window has set a mark of its own.
    let relay = world.relay(world.settings()).await;
    let running = Running::start(relay.failing_at(|point| point == FailPoint::ScanBegun));
    let first = tokio::time::timeout(PATIENCE, written.next()).await;
    assert!(first.is_ok(), "a mark is written");
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_named_crash_point_of_a_scan_is_survived() {
    let points = [
        FailPoint::ScanBegun,
        FailPoint::ScanWindowRead,
        FailPoint::ScanCompared,
        FailPoint::BatchStored,
        FailPoint::ScanBatch,
        FailPoint::ScanPublished,
    ];
    // Each in a world of its own, all at once.
    future::join_all(points.map(survive_crashes_at)).await;
}

async fn survive_crashes_at(point: FailPoint) {
    let world = World::new("points").await;
    world.write(6, 50).await;
    let settings = relay::Settings {
        scan_window: 120,
        batch_events: 30,
        ..world.settings()
    };
    let (crashes, reached) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, third) = (crashes.clone(), reached.clone());
    let relay = world.relay(settings).await.failing_at(move |reached| {
        let fails = reached == point && count.fetch_add(1, Ordering::Relaxed) < 3;
        if count.load(Ordering::Relaxed) == 3 {
            third.notify_one();
        }
        fails
    });
    let running = Running::start(relay);
    world.write(6, 50).await;
    let patience = tokio::time::timeout(PATIENCE, reached.notified());
    assert!(patience.await.is_ok(), "{point:?} was not reached");
    world.assert_exact().await;
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
    let raw: Collection<Document> = world.database.collection(shared::log::COLLECTION);
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
        let until = Instant::now() + PATIENCE;
        loop {
            let mut audit = Audit::default();
            audit.read(&world.jetstream(), &world.names).await;
            assert!(audit.faults.is_empty(), "{:?}", audit.faults);
            if audit.events.len() == if rescan { 60 } else { 40 } {
                break;
            }
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
    let nats = engines::nats(&at(&world.nats_url), "relay").await.unwrap();
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
    let until = Instant::now() + PATIENCE;
    while readiness.missing().is_empty() {
        assert!(Instant::now() < until, "the relay is ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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

// --- engines that go away ---

/// A broker of the test's own, to be killed.
struct Broker {
    child: tokio::process::Child,
    port: u16,
}

impl Broker {
    async fn start(store: &Path, port: u16) -> Self {
        let (store, on) = (store.to_str().unwrap(), port.to_string());
        Self::start_with(&["-js", "-a", "127.0.0.1", "-p", &on, "-sd", store], port).await
    }

    async fn start_with(arguments: &[&str], port: u16) -> Self {
        let child = tokio::process::Command::new(var("MICROBLOG_NATS_BIN"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < until, "the broker does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { child, port }
    }

    /// `kill -9`.
    async fn kill(mut self) -> u16 {
        self.child.kill().await.unwrap();
        self.port
    }
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("relay-test-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

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
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.write(1, 1).await;
    let broker = Broker::start(&folder.0, port).await;
    let back = Instant::now();
    let mut audit = Audit::default();
    while audit.events.len() < 12 * 120 + 1 {
        audit.read(&world.jetstream(), &world.names).await;
        assert!(back.elapsed() < PATIENCE);
    }
    println!("published {:?} after the broker was back", back.elapsed());
    running.stop().await;
    world.database.drop().await.unwrap();
    broker.kill().await;
}

/// Stands before an engine and cuts it off.
struct Gate {
    port: u16,
    open: tokio::sync::watch::Sender<bool>,
}

impl Gate {
    async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut is_open, target) = (is_open.clone(), target.clone());
                tokio::spawn(async move {
                    if !*is_open.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    tokio::select! {
                        _ = is_open.wait_for(|open| !open) => (),
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => (),
                    }
                });
            }
        });
        Self { port, open }
    }
}

fn address_in(uri: &str) -> String {
    let rest = uri.split_once("://").unwrap().1;
    rest.split(['/', '?']).next().unwrap().to_owned()
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
    let database = engines::mongo(&uri, "relay", 8).await.unwrap();
    let database = database.client().database(world.database.name());
    let url = at(&format!("nats://127.0.0.1:{}", nats.port));
    let connection = engines::nats(&url, "relay").await.unwrap();
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

// --- the checker is checked: a relay without the fence goes wrong ---

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

// --- figures ---

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
#[ignore = "a measurement"]
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
        loop {
            if let Ok(stream) = world.jetstream().get_stream(world.names.stream()).await {
                let last = stream.cached_info().state.last_sequence;
                if last > from {
                    first.get_or_insert_with(|| began.elapsed());
                }
                if last >= from + EVENTS {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
