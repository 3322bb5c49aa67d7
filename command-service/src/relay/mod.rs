//! Copies the log to the stream: in commit order, each event once.
//!
//! * [`changes`](self) reads the log's change stream in a task of its own.
//! * A batch is published right behind the stream's tail *as observed*; the stream refuses it if
//!   anything came between (the fence). The next batch waits for its acknowledgement.
//! * **The stream is the checkpoint.** Each message carries the token to resume the change stream
//!   after it. After any error, refusal or doubt the relay forgets what it was about to do, reads
//!   the tail, and goes on from there: there is one way to start and to recover.
//! * Where no token helps, a scan finds out what the stream lacks: see [`scan`](self).
//!
//! A lease makes one relay active, so that two do not waste each other's time. What makes it
//! correct is the fence: a relay that was paused past its lease is refused.
//!
//! There is no `Nats-Msg-Id`. The fence is exact; de-duplication would be a second memory, limited
//! in time, that may disagree with the stream after the broker was restored.
//!
//! An event that this build cannot read is left out, told and counted ([`CORRUPT`]): one must not
//! hold up all. It stays in the log, and a start with [`Settings::rescan`] by a build that can
//! read it publishes it. So new kinds of events are deployed to relays before writers.
//!
//! Nothing here knows what events mean, nor who asks for them over HTTP.

mod changes;
mod message;
mod scan;
mod stream;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use bson::{Document, RawDocumentBuf, doc};
use metrics::{counter, gauge};
use mongodb::change_stream::event::ResumeToken;
use mongodb::{Collection, Database};
use shared::engines::Nats;
use shared::error_chain::Chain;
use shared::event_stream::{Names, StreamError};
use shared::lease::{Held, Lease};
use shared::ops::Readiness;
use shared::resilience::{self, Backoff};
use shared::time::{Clock, SystemClock, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use changes::Change;
use message::{Message, Resume};
use stream::Publisher;

/// 1 while this process is the one that publishes.
pub const ACTIVE: &str = "relay_active";
/// Age of the oldest event known that is not on the stream; 0 when there is none.
pub const LAG: &str = "relay_lag_seconds";
/// Events put on the stream.
pub const PUBLISHED: &str = "relay_published_total";
/// Batches the stream refused because another message came first.
pub const REFUSALS: &str = "relay_refusals_total";
/// Attempts that ended in an error: an engine away, a refusal, a lost token.
pub const FAILURES: &str = "relay_failures_total";
/// Recovery scans begun.
pub const SCANS: &str = "relay_scans_total";
/// Documents of the log that cannot be published and were left out.
pub const CORRUPT: &str = "relay_corrupt_total";

/// The condition of readiness that the relay sets: broken only by a stream that must not be used.
/// A broker that is away breaks nothing: the log takes commands all the same.
pub const READY: &str = "event stream";

/// Where a scan's marks are written, beside the log.
pub const MARKS: &str = "relay_marks";

/// How often long work tells how far it is.
const PROGRESS: Duration = Duration::from_secs(3);
/// How long a stop waits for the batch in flight.
const LAST_BATCH: Duration = Duration::from_secs(2);
/// How long a stop waits for the database then.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// What can be set; the names and replicas by operators, the rest by tests.
#[derive(Clone, Debug)]
pub struct Settings {
    pub names: Names,
    /// Copies of the stream the broker keeps, if the relay creates it.
    pub replicas: usize,
    /// Begin with a scan whatever the tail says, to publish what was once left out.
    pub rescan: bool,
    pub lease: Duration,
    /// How long the log may be idle before a tick is published.
    pub tick_after: Duration,
    /// How long to wait for an answer of the broker.
    pub patience: Duration,
    /// How long the server waits for a change before it answers that there is none. Readers end
    /// within it.
    pub max_await: Duration,
    /// Atomic batches may have a thousand messages.
    pub batch_events: usize,
    pub batch_bytes: usize,
    /// Ids compared with the stream at once in a scan; 9 bytes of memory each.
    pub scan_window: usize,
}

impl Settings {
    pub fn new(names: Names, replicas: usize) -> Self {
        Self {
            names,
            replicas,
            rescan: false,
            lease: Duration::from_secs(3),
            tick_after: Duration::from_secs(3 * 60),
            patience: Duration::from_secs(5),
            max_await: Duration::from_millis(250),
            batch_events: 500,
            batch_bytes: 1 << 20,
            scan_window: 2_000_000,
        }
    }

    fn batch(&self) -> Batch {
        Batch {
            messages: Vec::with_capacity(self.batch_events.min(64)),
            bytes: 0,
            most_events: self.batch_events,
            most_bytes: self.batch_bytes,
        }
    }
}

/// Where a test may have the relay fail.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Point {
    /// The stream has the batch; the relay does not know.
    BatchStored,
    ScanBegun,
    ScanWindowRead,
    ScanCompared,
    ScanBatch,
    ScanPublished,
}

/// Asks whether to fail; never does, outside tests.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct FailPoint(Option<Arc<dyn Fn(Point) -> bool + Send + Sync>>);

impl FailPoint {
    fn reached(&self, point: Point) -> Result<(), RelayError> {
        match &self.0 {
            Some(fails) if fails(point) => Err(RelayError::FailPoint(point)),
            _ => Ok(()),
        }
    }
}

/// Why an attempt ended. Whatever it was, the next one begins with the stream's tail.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("read message {0} of the stream")]
    Tail(u64, #[source] jetstream::stream::RawMessageError),
    #[error("another message came first")]
    Refused(#[source] jetstream::context::PublishError),
    #[error("expected to be stored at sequence {expected}, but was at {sequence}")]
    Elsewhere { expected: u64, sequence: u64 },
    #[error("hand a message to the broker")]
    Send(#[source] async_nats::PublishError),
    #[error("publish to the stream")]
    Publish(#[source] jetstream::context::PublishError),
    #[error("the broker did not take a message in time")]
    Unanswered,
    #[error("the connection to the broker changed")]
    ConnectionChanged,
    #[error("create a consumer")]
    Consumer(#[source] jetstream::stream::ConsumerError),
    #[error("ask for a stretch of the stream")]
    Stretch(#[source] jetstream::consumer::pull::BatchError),
    #[error("read the stream")]
    Delivery(#[source] async_nats::Error),
    #[error("the stream was read to sequence {read} of {until} and no further")]
    Unread { read: u64, until: u64 },
    #[error("the history of the log that the token names is gone")]
    HistoryLost(#[source] mongodb::error::Error),
    #[error("read the log's change stream")]
    Changes(#[source] mongodb::error::Error),
    #[error("read the log")]
    Log(#[source] mongodb::error::Error),
    #[error("write a resume token")]
    Token(#[source] serde_json::Error),
    #[error("a reader of the log ended without a word")]
    ReaderGone,
    #[error("told to fail at {0:?}")]
    FailPoint(Point),
}

impl RelayError {
    fn of_changes(error: mongodb::error::Error) -> Self {
        if changes::history_is_lost(&error) {
            Self::HistoryLost(error)
        } else {
            Self::Changes(error)
        }
    }

    fn of_publish(error: jetstream::context::PublishError) -> Self {
        if error.kind() == PublishErrorKind::WrongLastSequence {
            Self::Refused(error)
        } else {
            Self::Publish(error)
        }
    }

    /// Whether the stream was there and answered that our place is taken.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Elsewhere { .. })
    }
}

/// The log, as the relay reads it.
#[derive(Clone, Debug)]
struct Log {
    database: Database,
    events: Collection<RawDocumentBuf>,
    marks: Collection<Document>,
    names: Names,
    max_await: Duration,
}

/// Copies one log to one stream.
pub struct Relay {
    log: Log,
    nats: Nats,
    lease: Lease,
    readiness: Readiness,
    settings: Settings,
    fail: FailPoint,
    state: Arc<State>,
    /// Readers of the log, and whoever else works with MongoDB: never cancelled, waited for.
    tasks: TaskTracker,
}

/// What outlives an attempt. None of it is needed to be correct.
#[derive(Debug, Default)]
struct State {
    published: AtomicU64,
    /// The greatest id published, to ask the log what is waiting while the broker is away.
    last_id: AtomicI64,
    /// When the oldest event known to wait was made, in milliseconds; 0 if none waits.
    waiting_since: AtomicI64,
    rescan: AtomicBool,
}

impl State {
    fn waits(&self, since: Option<Timestamp>) {
        let millis = since.map_or(0, Timestamp::millis);
        self.waiting_since.store(millis, Ordering::Relaxed);
        self.tell_lag();
    }

    fn tell_lag(&self) {
        let since = self.waiting_since.load(Ordering::Relaxed);
        let millis = match since {
            0 => 0,
            since => (SystemClock.now().millis() - since).max(0),
        };
        gauge!(LAG).set(Duration::from_millis(millis.unsigned_abs()).as_secs_f64());
    }
}

impl Relay {
    /// A relay from the log in `database` to the stream that `settings` name. `leases` may be
    /// shared with others.
    pub fn new(
        database: &Database,
        leases: Collection<Document>,
        nats: Nats,
        readiness: Readiness,
        settings: Settings,
    ) -> Self {
        let holder = format!("{}-{:016x}", std::process::id(), rand::random::<u64>());
        let state = State {
            rescan: AtomicBool::new(settings.rescan),
            ..State::default()
        };
        Self {
            log: Log {
                database: database.clone(),
                events: database.collection(shared::log::COLLECTION),
                marks: database.collection(MARKS),
                names: settings.names.clone(),
                max_await: settings.max_await,
            },
            nats,
            lease: Lease::new(leases, "relay", holder, settings.lease),
            readiness,
            settings,
            fail: FailPoint::default(),
            state: Arc::new(state),
            tasks: TaskTracker::new(),
        }
    }

    /// Has it fail where `fails` says so.
    #[doc(hidden)]
    #[must_use]
    pub fn failing_at(mut self, fails: impl Fn(Point) -> bool + Send + Sync + 'static) -> Self {
        self.fail = FailPoint(Some(Arc::new(fails)));
        self
    }

    /// Relays whenever it holds the lease, until `stop`; then ends with the batch in flight and
    /// gives the lease up.
    pub async fn run(self, stop: CancellationToken) {
        gauge!(ACTIVE).set(0);
        self.readiness.set(READY, Ok(()));
        while let Some(held) = self.wait_for_lease(&stop).await {
            info!(lease.epoch = held.epoch, "relay: active");
            gauge!(ACTIVE).set(1);
            let (active, done) = (stop.child_token(), CancellationToken::new());
            // Should this future be dropped, the lease is not renewed for ever.
            let ends_with_us = done.clone().drop_guard();
            self.tasks
                .spawn(self.keep_lease(held, active.clone(), done));
            self.work(&active).await;
            gauge!(ACTIVE).set(0);
            drop(ends_with_us);
            info!("relay: no longer active");
        }
        // The lease is released and readers end. With the database away they take seconds, and
        // the lease runs out by itself: nothing depends on them.
        self.tasks.close();
        if tokio::time::timeout(LAST_TASKS, self.tasks.wait())
            .await
            .is_err()
        {
            warn!("relay: stopped while the database did not answer");
        }
    }

    async fn wait_for_lease(&self, stop: &CancellationToken) -> Option<Held> {
        while !stop.is_cancelled() {
            let lease = self.lease.clone();
            let acquired = tokio::select! {
                acquired = self.finish(async move { lease.acquire().await }) => acquired,
                () = stop.cancelled() => return None,
            };
            match acquired {
                Ok(Some(held)) => return Some(held),
                Ok(None) => (),
                Err(error) => warn!(error = %Chain(&error), "relay: the lease is out of reach"),
            }
            tokio::select! {
                () = stop.cancelled() => (),
                () = tokio::time::sleep(self.lease.length() / 3) => (),
            }
        }
        None
    }

    /// Renews the lease until `done`, then releases it; ends `active` when it is lost.
    fn keep_lease(
        &self,
        held: Held,
        active: CancellationToken,
        done: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (lease, state) = (self.lease.clone(), self.state.clone());
        async move {
            loop {
                tokio::select! {
                    () = done.cancelled() => break,
                    () = tokio::time::sleep(lease.length() / 3) => (),
                }
                state.tell_lag();
                match lease.renew(held).await {
                    Ok(Some(_)) => (),
                    Ok(None) => {
                        warn!("relay: another has the lease");
                        active.cancel();
                        return;
                    }
                    // Whoever has it meanwhile, the fence keeps us apart.
                    Err(error) => warn!(error = %Chain(&error), "relay: lease not renewed"),
                }
            }
            if let Err(error) = lease.release(held).await {
                warn!(error = %Chain(&error), "relay: lease not released; it runs out by itself");
            }
        }
    }

    /// One attempt after another until `stop`.
    async fn work(&self, stop: &CancellationToken) {
        let mut backoff = resilience::background();
        while !stop.is_cancelled() {
            let before = self.state.published.load(Ordering::Relaxed);
            let connection = self.nats.changed();
            let mut changed = pin!(connection.notified());
            changed.as_mut().enable();
            // All in an attempt may be dropped at any time: it leaves MongoDB to tasks of their
            // own, and what it sent to the broker is found at the tail or refused by the fence.
            let result = tokio::select! {
                biased;
                result = self.attempt(stop) => result,
                () = changed => Err(RelayError::ConnectionChanged),
                () = grace(stop, LAST_BATCH) => return,
            };
            let Err(error) = result else { return };
            if self.state.published.load(Ordering::Relaxed) > before {
                backoff.reset();
            }
            self.recover(&error, &mut backoff, stop).await;
        }
    }

    /// Tells of an error, and waits as long as it calls for.
    async fn recover(&self, error: &RelayError, backoff: &mut Backoff, stop: &CancellationToken) {
        counter!(FAILURES).increment(1);
        if error.is_refusal() {
            counter!(REFUSALS).increment(1);
        }
        // Enabled before anything else is done, so that no change is missed.
        let connection = self.nats.changed();
        let mut changed = pin!(connection.notified());
        changed.as_mut().enable();
        if matches!(error, RelayError::HistoryLost(_)) {
            self.state.rescan.store(true, Ordering::Relaxed);
        }
        if let RelayError::Stream(
            refused @ (StreamError::Settings(..) | StreamError::Truncated(..)),
        ) = error
        {
            error!(error = %Chain(refused), "relay: the stream must not be used");
            self.readiness.set(READY, Err(Chain(refused).to_string()));
        } else if matches!(error, RelayError::ConnectionChanged) {
            info!("relay: the connection to the broker changed; begins anew at the stream's tail");
        } else {
            warn!(error = %Chain(error), "relay: begins anew at the stream's tail");
        }
        self.look_what_waits().await;
        tokio::select! {
            () = changed => (),
            () = backoff.wait() => (),
            () = stop.cancelled() => (),
        }
    }

    /// While the broker is away nobody reads the log: asks it what waits, for the gauge's sake.
    async fn look_what_waits(&self) {
        let last_id = self.state.last_id.load(Ordering::Relaxed);
        if self.nats.is_connected() || last_id == 0 {
            return;
        }
        let events = self.log.events.clone();
        let next = self.finish(async move {
            let next = events.find_one(doc! { "_id": { "$gt": last_id } });
            let next = next.sort(doc! { "_id": 1 }).projection(doc! { "at": 1 });
            next.await
        });
        if let Ok(Some(next)) = next.await
            && let Ok(at) = next.get_datetime("at")
        {
            let at = Timestamp::from_millis(at.timestamp_millis());
            self.state.waits(Some(at));
        }
    }

    /// From the stream's tail onwards, until `stop` or an error.
    async fn attempt(&self, stop: &CancellationToken) -> Result<(), RelayError> {
        let mut publisher = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            publisher = Publisher::attach(&self.nats, &self.settings) => publisher?,
        };
        self.readiness.set(READY, Ok(()));
        let rescan = self.state.rescan.load(Ordering::Relaxed);
        let resume = match (rescan, &publisher.tail.resume) {
            (true, _) => Resume::Scan("it was asked for, or the log's history is gone"),
            (false, resume) => resume.clone(),
        };
        let last = publisher.tail.last;
        let token = match resume {
            Resume::After(token) => {
                info!(
                    stream.sequence = last,
                    "relay: goes on after message {last}"
                );
                *token
            }
            Resume::Scan(reason) => {
                info!(
                    stream.sequence = last,
                    "relay: scans after message {last}: {reason}"
                );
                let Some(token) = self.scan(&mut publisher, stop).await? else {
                    return Ok(());
                };
                self.state.rescan.store(false, Ordering::Relaxed);
                token
            }
        };
        let changes = changes::follow(&self.log, &self.tasks, token);
        self.pump(&mut publisher, changes, stop).await
    }

    /// Publishes what the change stream says, in batches of whatever has queued up.
    async fn pump(
        &self,
        publisher: &mut Publisher,
        mut changes: mpsc::Receiver<Result<Change, RelayError>>,
        stop: &CancellationToken,
    ) -> Result<(), RelayError> {
        let mut quiet_since = Instant::now();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                first = changes.recv() => first.ok_or(RelayError::ReaderGone)??,
            };
            let mut batch = self.settings.batch();
            let mut idle = batch.take(first)?;
            while !batch.is_full() {
                let Ok(next) = changes.try_recv() else { break };
                idle = batch.take(next?)?;
            }
            if !batch.messages.is_empty() {
                self.publish(publisher, batch).await?;
                quiet_since = Instant::now();
            } else if let Some(token) = idle
                && quiet_since.elapsed() >= self.settings.tick_after
            {
                let token = message::write_token(&token).map_err(RelayError::Token)?;
                self.tick(publisher, &token).await?;
                quiet_since = Instant::now();
            }
            if changes.is_empty() {
                self.state.waits(None);
            }
        }
    }

    async fn tick(&self, publisher: &mut Publisher, resume: &str) -> Result<(), RelayError> {
        let tick = Message::tick(&self.settings.names, SystemClock.now());
        let batch = vec![(tick, resume.to_owned())];
        publisher.publish(batch, &self.fail).await
    }

    async fn publish(&self, publisher: &mut Publisher, batch: Batch) -> Result<(), RelayError> {
        let oldest = batch.messages.first().map(|(message, _)| message.at);
        let greatest = batch.messages.iter().map(|(message, _)| message.id).max();
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.state.waits(oldest);
        publisher.publish(batch.messages, &self.fail).await?;
        let state = &self.state;
        state.published.fetch_add(count, Ordering::Relaxed);
        state
            .last_id
            .fetch_max(greatest.unwrap_or_default(), Ordering::Relaxed);
        counter!(PUBLISHED).increment(count);
        Ok(())
    }

    /// Runs work with MongoDB to its end even if the caller goes away.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = mongodb::error::Result<T>> + Send + 'static,
    ) -> Result<T, RelayError> {
        let done = self.tasks.spawn(work).await;
        done.map_err(|_| RelayError::ReaderGone)?
            .map_err(RelayError::Log)
    }
}

/// Messages for one publish, within bounds.
struct Batch {
    messages: Vec<(Message, String)>,
    bytes: usize,
    most_events: usize,
    most_bytes: usize,
}

impl Batch {
    fn push(&mut self, message: Message, resume: String) {
        self.bytes += message.size();
        self.messages.push((message, resume));
    }

    /// Takes an event; hands back the token of a pause.
    fn take(&mut self, change: Change) -> Result<Option<ResumeToken>, RelayError> {
        match change {
            Change::Idle { token } => Ok(Some(token)),
            Change::Event { message, token } => {
                let resume = message::write_token(&token).map_err(RelayError::Token)?;
                self.push(message, resume);
                Ok(None)
            }
        }
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= self.most_events || self.bytes >= self.most_bytes
    }
}

/// Comes to its end some time after `stop`.
async fn grace(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
}
