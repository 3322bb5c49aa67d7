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
//! correct is the fence: a relay that was paused past its lease is refused. Only who is connected
//! to the broker asks for the lease, and who cannot publish for a while gives it up and stands
//! back: see [`lead`](self).
//!
//! The stream must hold this log and no other: [`shared::log_identity`]. What stands in the way of
//! publishing is told by [`health`], how long events wait by [`watch`](self).
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
mod error;
pub mod health;
mod lead;
mod message;
mod scan;
mod stream;
mod watch;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Document, RawDocumentBuf};
use metrics::{counter, gauge};
use mongodb::change_stream::event::ResumeToken;
use mongodb::{Collection, Database};
use shared::engines::Nats;
use shared::error_chain::Chain;
use shared::event_stream::{Names, StreamError};
use shared::ids::SEQUENCE_BITS;
use shared::lease::Lease;
use shared::log_identity::OwnLog;
use shared::ops::Readiness;
use shared::resilience::{self, Backoff};
use shared::time::{Clock, SystemClock, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use changes::Change;
use error::RelayError;
use health::Health;
use lead::Ended;
use message::{Message, Resume};
use stream::Publisher;

/// 1 while this process is the one that publishes.
pub const ACTIVE: &str = "relay_active";
/// Age of the oldest event known that is not on the stream; 0 when there is none. Every relay
/// process tells it, whether it publishes or not.
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
    /// Who could not publish for so long gives the lease up.
    pub give_up: Duration,
    /// How often to look at what waits, and who does not publish at the stream.
    pub watch: Duration,
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
            give_up: Duration::from_secs(5),
            watch: Duration::from_secs(1),
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

/// The log, as the relay reads it.
#[derive(Clone, Debug)]
struct Log {
    database: Database,
    events: Collection<RawDocumentBuf>,
    marks: Collection<Document>,
    own: OwnLog,
    names: Names,
    max_await: Duration,
}

/// Copies one log to one stream.
pub struct Relay {
    log: Log,
    nats: Nats,
    lease: Lease,
    health: Health,
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
    once: stream::Once,
    /// The last sequence seen on the stream.
    stream_end: AtomicU64,
    /// This process holds the lease.
    active: AtomicBool,
    /// It follows the log, and so knows what waits.
    pumping: AtomicBool,
    /// Since when the broker owes an answer, and the attempts that have failed since.
    unanswered_since: Mutex<Option<(Instant, u32)>>,
    lease_gauge: Mutex<()>,
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

    fn unanswered(&self) -> MutexGuard<'_, Option<(Instant, u32)>> {
        let since = self.unanswered_since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker is asked for something.
    fn asks(&self) {
        self.unanswered().get_or_insert_with(|| (Instant::now(), 0));
    }

    /// Remembers that an error calls for a scan.
    fn calls_for_scan(&self, error: &RelayError) {
        // After a log that was older, what was put back into it is no news to the stream, though the
        // change stream would say so.
        let restored = matches!(error, RelayError::Stream(StreamError::LogIsOlder(..)));
        if restored || matches!(error, RelayError::HistoryLost(_) | RelayError::LogReplaced) {
            self.rescan.store(true, Ordering::Relaxed);
        }
    }

    /// It did what it was asked for.
    fn is_answered(&self) {
        *self.unanswered() = None;
    }

    /// Learns how far the stream is when an attempt begins. What was published before may be gone
    /// from it; ids are in commit order but for the clocks' difference.
    fn starts_at(&self, publisher: &Publisher) {
        const CLOCKS: i64 = 10_000 << SEQUENCE_BITS;
        self.stream_end
            .store(publisher.tail.last, Ordering::Relaxed);
        let on_stream = match publisher.tail.event {
            Some(event) => event,
            None if publisher.tail.last == 0 => 0,
            None => return,
        };
        let known = self.last_id.load(Ordering::Relaxed);
        if on_stream < known.saturating_sub(CLOCKS) || on_stream > known {
            self.last_id.store(on_stream, Ordering::Relaxed);
        }
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
                own: OwnLog::new(database),
                names: settings.names.clone(),
                max_await: settings.max_await,
            },
            nats,
            lease: Lease::new(leases, "relay", holder, settings.lease),
            health: Health::new(readiness),
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

    /// One attempt after another until `stop`, or until the broker has let it wait for too long.
    async fn work(&self, stop: &CancellationToken) -> Ended {
        let mut backoff = resilience::background();
        let mut said = String::new();
        self.state.is_answered();
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
                () = grace(stop, LAST_BATCH) => return Ended::Stopped,
            };
            self.state.pumping.store(false, Ordering::Relaxed);
            let Err(error) = result else {
                return Ended::Stopped;
            };
            if self.state.published.load(Ordering::Relaxed) > before {
                backoff.reset();
                said.clear();
            }
            if self.is_given_up(&error) {
                return Ended::Unable;
            }
            self.recover(&error, &mut said, &mut backoff, stop).await;
        }
        Ended::Stopped
    }

    /// Whether it could not publish for so long that others should try.
    fn is_given_up(&self, error: &RelayError) -> bool {
        if !error.is_to_be_left_to_others() {
            self.state.is_answered();
            return false;
        }
        // One failure may be our own: a process that stood still has let the answer wait.
        let mut unanswered = self.state.unanswered();
        unanswered.as_mut().is_some_and(|(since, failures)| {
            *failures += 1;
            *failures > 1 && since.elapsed() >= self.settings.give_up
        })
    }

    /// Tells of an error, once while it is the same, and waits as long as it calls for.
    async fn recover(
        &self,
        error: &RelayError,
        said: &mut String,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) {
        counter!(FAILURES).increment(1);
        if error.is_refusal() {
            counter!(REFUSALS).increment(1);
        }
        // Enabled before anything else is done, so that no change is missed.
        let connection = self.nats.changed();
        let mut changed = pin!(connection.notified());
        changed.as_mut().enable();
        self.state.calls_for_scan(error);
        let end = self.state.stream_end.load(Ordering::Relaxed);
        self.health.failed(error, &self.nats, end);
        let says = Chain(error).to_string();
        if matches!(error, RelayError::ConnectionChanged) {
            info!("relay: the connection to the broker changed; begins anew at the stream's tail");
        } else if *said == says || self.health.kind().is_some() {
            debug!(error = %says, "relay: begins anew at the stream's tail");
        } else {
            warn!(error = %says, "relay: begins anew at the stream's tail");
        }
        *said = says;
        tokio::select! {
            () = changed => (),
            () = backoff.wait() => (),
            () = stop.cancelled() => (),
        }
    }

    /// From the stream's tail onwards, until `stop` or an error.
    async fn attempt(&self, stop: &CancellationToken) -> Result<(), RelayError> {
        self.state.asks();
        if !self.nats.is_connected() {
            return Err(RelayError::NotConnected);
        }
        let (settings, once) = (&self.settings, &self.state.once);
        let attach = Publisher::attach(&self.nats, settings, &self.log.own, &self.tasks, once);
        let mut publisher = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            publisher = attach => publisher?,
        };
        self.health.reached(publisher.tail.last);
        if self.health.kind().is_none() {
            self.state.is_answered();
        }
        self.state.starts_at(&publisher);
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
        self.state.pumping.store(true, Ordering::Relaxed);
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
        self.put(publisher, batch).await
    }

    /// Publishes, and lets it be known that this works.
    async fn put(
        &self,
        publisher: &mut Publisher,
        batch: Vec<(Message, String)>,
    ) -> Result<(), RelayError> {
        let state = &self.state;
        state.asks();
        publisher.publish(batch, &self.fail).await?;
        state.is_answered();
        state
            .stream_end
            .store(publisher.tail.last, Ordering::Relaxed);
        self.health.published();
        Ok(())
    }

    async fn publish(&self, publisher: &mut Publisher, batch: Batch) -> Result<(), RelayError> {
        let oldest = batch.messages.first().map(|(message, _)| message.at);
        let greatest = batch.messages.iter().map(|(message, _)| message.id).max();
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.state.waits(oldest);
        self.put(publisher, batch.messages).await?;
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
