//! A world of its own for each test.

use super::*;

/// Longer than any outage a test makes; reaching it means that the relay is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(crate) fn var(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} must be set: run the tests with `make test`"))
}

pub(crate) fn at(nats_url: &str) -> NatsSettings {
    NatsSettings::from_url(nats_url).expect("a URL of NATS")
}

pub(crate) struct World {
    pub(crate) database: mongodb::Database,
    pub(crate) names: StreamNames,
    pub(crate) nats: Nats,
    pub(crate) nats_url: String,
    /// One per simulated command-service; the second one's clock is ahead, the third one's behind.
    pub(crate) replicas: [Replica; 3],
    /// Messages that others put on the stream; whatever else does not fit the chain is a fault.
    pub(crate) foreign: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) ids: IdGenerator,
    pub(crate) skew: AtomicI64,
}

impl Clock for Replica {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().millis() + self.skew.load(Ordering::Relaxed))
    }
}

/// A simulated user: who, and their profile's last event.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) id: EventId,
    pub(crate) last: i64,
    pub(crate) version: i64,
}

impl World {
    pub(crate) async fn new(test: &str) -> Self {
        Self::on(test, &var("NATS_URL")).await
    }

    pub(crate) async fn on(test: &str, nats_url: &str) -> Self {
        if let Ok(filter) = std::env::var("RUST_LOG") {
            shared::runtime::telemetry::init_test_log(&filter);
        }
        let name = format!("r{:06x}_{test}", rand::random::<u32>() & 0xff_ffff);
        let uri = Secret::new(var("MONGODB_URI"));
        let database = connections::mongo(&uri, "relay-test", 32).await.unwrap();
        let replicas = [Replica::default(), Replica::default(), Replica::default()];
        replicas[1].skew.store(400, Ordering::Relaxed);
        replicas[2].skew.store(-400, Ordering::Relaxed);
        Self {
            database: database.client().database(&format!("relay_{name}")),
            names: name.parse().unwrap(),
            nats: connections::nats(&at(nats_url), "relay-test")
                .await
                .unwrap(),
            nats_url: nats_url.to_owned(),
            replicas,
            foreign: AtomicUsize::new(0),
        }
    }

    pub(crate) fn settings(&self) -> relay::Settings {
        relay::Settings {
            lease: Duration::from_millis(600),
            watch: Duration::from_millis(200),
            max_await: Duration::from_millis(50),
            ..relay::Settings::new(self.names.clone(), 1)
        }
    }

    pub(crate) async fn relay(&self, settings: relay::Settings) -> Relay {
        self.relay_leased("leases", settings).await
    }

    /// Relays with leases of their own are both active: only the fence is between them.
    pub(crate) async fn relay_leased(&self, leases: &str, settings: relay::Settings) -> Relay {
        let nats = connections::nats(&at(&self.nats_url), "relay")
            .await
            .unwrap();
        let leases = self.database.collection(leases);
        Relay::new(&self.database, leases, nats, Readiness::default(), settings)
    }

    pub(crate) fn jetstream(&self) -> jetstream::Context {
        self.nats.jetstream()
    }

    pub(crate) async fn publish_foreign(&self, subject: String, headers: HeaderMap) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
        self.publish(subject, headers).await;
    }

    pub(crate) async fn publish(&self, subject: String, headers: HeaderMap) {
        let jetstream = self.jetstream();
        let sent = jetstream.publish_with_headers(subject, headers, "{}".into());
        sent.await.unwrap().await.unwrap();
    }

    pub(crate) fn log(&self) -> Collection<LogDocument> {
        self.database.collection(shared::contract::log::COLLECTION)
    }

    /// Whether the id was free.
    pub(crate) async fn insert(&self, event: &Event) -> bool {
        let mut document = LogDocument::new(event, event.actor, rand::random()).unwrap();
        document.trace = Some(TRACE.to_owned());
        match self.log().insert_one(document).await {
            Err(error) if shared::runtime::mongo_errors::is_duplicate(&error) => false,
            result => result.is_ok(),
        }
    }

    /// `writers` at once append `each` events, now and then resting a moment between taking an id
    /// and inserting: ids are committed out of order, and those of one log stream in order.
    pub(crate) async fn write(&self, writers: usize, each: usize) {
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
    pub(crate) async fn append(&self, replica: &Replica, user: Option<User>, n: usize) -> User {
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

    /// Reads the stream on until `look` finds what it looks for.
    pub(crate) async fn read_until<E: Debug>(
        &self,
        audit: &mut Audit,
        look: impl AsyncFn(&Audit) -> Result<(), E>,
    ) {
        let jetstream = self.jetstream();
        eventually(async || {
            audit.read(&jetstream, &self.names).await;
            look(audit).await
        })
        .await;
    }

    /// Waits until the stream has as many events as the log, then checks all of them.
    pub(crate) async fn settle(&self) -> Audit {
        let mut audit = Audit::default();
        let log = self.log();
        self.read_until(&mut audit, async |audit| {
            let count = log.count_documents(doc! {}).await.unwrap();
            let read = audit.events.len() as u64;
            if read >= count {
                return Ok(());
            }
            let faults = &audit.faults;
            Err(format!(
                "the stream has {read} of {count} events: {faults:?}"
            ))
        })
        .await;
        // Nothing shall come: what is still under way would add to it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        audit.read(&self.jetstream(), &self.names).await;
        audit.compare(self).await;
        audit
    }

    /// As `settle`, and nothing may be wrong.
    pub(crate) async fn assert_exact(&self) -> Audit {
        let audit = self.settle().await;
        assert!(audit.faults.is_empty(), "{:#?}", audit.faults);
        audit
    }

    /// Gets the first scan, of an empty log, out of the way: from here on there are plain tokens.
    pub(crate) async fn start_off(&self) {
        let running = Running::start(self.relay(self.settings()).await);
        self.read_until(&mut Audit::default(), async |audit| {
            let has_ticked = audit.ticks > 0;
            has_ticked
                .then_some(())
                .ok_or("the first scan does not end")
        })
        .await;
        running.stop().await;
    }

    pub(crate) async fn end(self) {
        self.database.drop().await.unwrap();
        // Where it is set, every message is checked when all tests have ended (`scripts/check_streams.py`).
        if std::env::var_os("MICROBLOG_STREAMS").is_none() {
            let _ = self.jetstream().delete_stream(self.names.stream()).await;
        }
    }
}

/// A relay at work in a task.
pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(relay: Relay) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(relay.run(stop.clone()));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// As dead as a task can be: nothing is finished, nothing is told.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Looks until there is what is looked for; fails, with what was there instead, when that is never.
/// This is how tests wait: for something that can be seen, never for time to pass.
pub(crate) async fn eventually<T, E: Debug>(mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < until, "{instead:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a state of readiness says nothing of anything.
pub(crate) fn says_nothing(of: BTreeMap<String, String>) -> Result<(), BTreeMap<String, String>> {
    if of.is_empty() { Ok(()) } else { Err(of) }
}

/// The moment of a fault is left to chance: nothing is waited for.
pub(crate) async fn pause_up_to(millis: u64) {
    tokio::time::sleep(Duration::from_micros(rand::random_range(0..millis * 1_000))).await;
}
