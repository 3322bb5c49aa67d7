//! One relay at work: from the stream's tail onwards, one attempt after another.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::Document;
use mongodb::{Collection, Database};
use shared::connections::Nats;
use shared::connections::log_identity::OwnLog;
use shared::contract::time::{Clock, SystemClock};
use shared::resilience::lease::Lease;
use shared::resilience::{self, Backoff};
use shared::runtime::error_chain::Chain;
use shared::web::ops::Readiness;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::batch::Batch;
use super::change_stream::{self, Change};
use super::error::RelayError;
use super::fail_point::{FailPoint, FailPoints};
use super::health::Health;
use super::log::Log;
use super::message::{self, Message, Resume};
use super::publish_spans::PublishSpans;
use super::settings::Settings;
use super::state::State;
use super::stream::Publisher;
use crate::metric_rows::{RELAY_FAILURES, RELAY_PUBLISHED, RELAY_REFUSALS};

/// How long a stop waits for the batch in flight.
const LAST_BATCH: Duration = Duration::from_secs(2);

/// Copies one log to one stream.
pub struct Relay {
    pub(super) log: Log,
    pub(super) nats: Nats,
    pub(super) lease: Lease,
    pub(super) health: Health,
    pub(super) settings: Settings,
    pub(super) fail: FailPoints,
    pub(super) state: Arc<State>,
    /// Readers of the log, and whoever else works with MongoDB: never cancelled, waited for.
    pub(super) tasks: TaskTracker,
}

/// Why a relay is no longer active.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// It was told to stop, or has lost the lease.
    Stopped,
    /// It could not publish: another process may be able to.
    Unable,
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
                events: database.collection(shared::contract::log::COLLECTION),
                marks: database.collection(shared::contract::log::MARKS),
                own: OwnLog::new(database),
                names: settings.names.clone(),
                max_await: settings.max_await,
            },
            nats,
            lease: Lease::new(leases, "relay", holder, settings.lease),
            health: Health::new(readiness),
            settings,
            fail: FailPoints::default(),
            state: Arc::new(state),
            tasks: TaskTracker::new(),
        }
    }

    /// Has it fail where `fails` says so.
    #[doc(hidden)]
    #[must_use]
    pub fn failing_at(mut self, fails: impl Fn(FailPoint) -> bool + Send + Sync + 'static) -> Self {
        self.fail = FailPoints::at(fails);
        self
    }

    /// One attempt after another until `stop`, or until the broker has let it wait for too long.
    pub(super) async fn work(&self, stop: &CancellationToken) -> Ended {
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
        let is_change = matches!(error, RelayError::ConnectionChanged);
        if !is_change {
            RELAY_FAILURES.only().increment(1);
        }
        if error.is_refusal() {
            RELAY_REFUSALS.only().increment(1);
        }
        // Enabled before anything else is done, so that no change is missed.
        let connection = self.nats.changed();
        let mut changed = pin!(connection.notified());
        changed.as_mut().enable();
        self.state.calls_for_scan(error);
        let end = self.state.stream_end.load(Ordering::Relaxed);
        self.health.failed(error, &self.nats, end);
        let says = Chain(error).to_string();
        if is_change {
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
        let own = self.log.own.clone();
        let restored = self
            .finish(async move { own.calls_for_scan().await })
            .await?;
        let rescan = restored || self.state.rescan.load(Ordering::Relaxed);
        let resume = match (rescan, &publisher.tail.resume) {
            (true, _) if restored => Resume::Scan("the log was restored from a backup"),
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
                if restored {
                    let own = self.log.own.clone();
                    self.finish(async move { own.is_scanned().await }).await?;
                }
                token
            }
        };
        let changes = change_stream::follow(&self.log, &self.tasks, token);
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
            let mut batch = Batch::new(&self.settings);
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
                self.state.waits(None, 0);
            }
        }
    }

    pub(super) async fn tick(
        &self,
        publisher: &mut Publisher,
        resume: &str,
    ) -> Result<(), RelayError> {
        let tick = Message::tick(&self.settings.names, SystemClock.now());
        let batch = vec![(tick, resume.to_owned())];
        self.put(publisher, batch).await
    }

    /// Publishes, and lets it be known that this works.
    async fn put(
        &self,
        publisher: &mut Publisher,
        mut batch: Vec<(Message, String)>,
    ) -> Result<(), RelayError> {
        let state = &self.state;
        state.asks();
        let spans = PublishSpans::begin(&mut batch);
        let published = publisher.publish(batch, &self.fail).await;
        spans.end(&published);
        published?;
        state.is_answered();
        state
            .stream_end
            .store(publisher.tail.last, Ordering::Relaxed);
        self.health.published();
        Ok(())
    }

    pub(super) async fn publish(
        &self,
        publisher: &mut Publisher,
        batch: Batch,
    ) -> Result<(), RelayError> {
        let oldest = batch.messages.first().map(|(message, _)| message.at);
        let greatest = batch.messages.iter().map(|(message, _)| message.id).max();
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.state.waits(oldest, count);
        self.put(publisher, batch.messages).await?;
        let state = &self.state;
        state.published.fetch_add(count, Ordering::Relaxed);
        state
            .last_id
            .fetch_max(greatest.unwrap_or_default(), Ordering::Relaxed);
        RELAY_PUBLISHED.only().increment(count);
        Ok(())
    }

    /// Runs work with MongoDB to its end even if the caller goes away.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = mongodb::error::Result<T>> + Send + 'static,
    ) -> Result<T, RelayError> {
        let done = self.tasks.spawn(work).await;
        done.map_err(|_| RelayError::ReaderGone)?
            .map_err(RelayError::Log)
    }
}

/// Comes to its end some time after `stop`.
async fn grace(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
}
