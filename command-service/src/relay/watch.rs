//! Looks each second at what no attempt tells: how long the log's first unpublished event has
//! waited, and whether this process could reach the stream.
//!
//! Every relay process does, active or not: an alarm must not depend on the one that publishes,
//! which may be the one that cannot. What is on the stream is learned from the stream; where it
//! cannot be reached, from what this process remembers, and from the note that the active relay
//! leaves on its lease each time it renews it; where nobody ever published, all of the log waits.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::Collection;
use shared::contract::ids::SEQUENCE_BITS;
use shared::contract::time::Timestamp;
use shared::runtime::error_chain::Chain;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::error::RelayError;
use super::state::WORTH_COUNTING;
use super::stream;
use super::worker::Relay;

/// How often the events that wait are counted while they are many.
const COUNT: Duration = Duration::from_secs(5);
/// More are not counted: it would cost the database what publishing them needs.
const MOST_COUNTED: u64 = 100_000;

/// The greatest event id that the lease's holder has published, on the lease.
pub const PUBLISHED_NOTE: &str = "published";

impl Relay {
    /// Looks on until `stop`.
    pub(super) async fn watch(&self, stop: &CancellationToken) {
        let mut every = tokio::time::interval(self.settings.watch);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counted: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = every.tick() => (),
                () = stop.cancelled() => return,
            }
            // A relay at work tells since when by itself.
            let is_at_work = self.state.pumping.load(Ordering::Relaxed);
            let looks = !is_at_work || self.health.kind().is_some();
            let is_much = self.state.lag() >= WORTH_COUNTING;
            let counts = is_much && counted.is_none_or(|at| at.elapsed() >= COUNT);
            let look = async {
                let looked = if looks { self.look().await } else { Ok(()) };
                if counts {
                    self.count().await?;
                }
                looked
            };
            tokio::select! {
                looked = look => if let Err(error) = looked {
                    debug!(error = %Chain(&error), "relay: what waits cannot be looked up");
                },
                () = stop.cancelled() => return,
            }
            if counts {
                counted = Some(Instant::now());
            }
        }
    }

    /// Counts the log's events that wait, as far as [`MOST_COUNTED`].
    async fn count(&self) -> Result<(), RelayError> {
        let state = &self.state;
        let published = if state.active.load(Ordering::Relaxed) {
            &state.last_id
        } else {
            &state.seen_published
        };
        let published = published.load(Ordering::Relaxed);
        let events = self.log.events.clone();
        let waiting = self
            .finish(async move {
                let range = doc! { "_id": { "$gt": published } };
                events.count_documents(range).limit(MOST_COUNTED).await
            })
            .await?;
        self.state.counted(waiting);
        Ok(())
    }

    async fn look(&self) -> Result<(), RelayError> {
        let on_stream = self.look_at_stream().await;
        let lease = self.lease.clone();
        let noted = self.finish(async move { lease.note().await }).await?;
        let noted = noted.and_then(|lease| lease.get_i64(PUBLISHED_NOTE).ok());
        let remembered = self.state.last_id.load(Ordering::Relaxed);
        let published = remembered.max(noted.unwrap_or(0)).max(on_stream);
        let events = self.log.events.clone();
        let first = self
            .finish(async move { first_after(&events, published).await })
            .await?;
        if !self.state.pumping.load(Ordering::Relaxed) {
            self.state
                .seen_published
                .store(published, Ordering::Relaxed);
            self.state.waits(first, u64::from(first.is_some()));
        }
        Ok(())
    }

    /// The last event on the stream, 0 if there is none or it cannot be reached.
    async fn look_at_stream(&self) -> i64 {
        let state = &self.state;
        if !self.nats.is_connected() {
            let end = state.stream_end.load(Ordering::Relaxed);
            self.health
                .failed(&RelayError::NotConnected, &self.nats, end);
            return 0;
        }
        // The active relay's attempts look for themselves, and can do more.
        if state.active.load(Ordering::Relaxed) {
            return 0;
        }
        match stream::look(&self.nats, &self.settings, &self.log.own, &self.tasks).await {
            Ok(Some(end)) => {
                self.health.reached(end.last);
                state.stream_end.store(end.last, Ordering::Relaxed);
                end.event.unwrap_or(0)
            }
            Ok(None) => {
                self.health.reached(0);
                0
            }
            Err(error) => {
                state.calls_for_scan(&error);
                let end = state.stream_end.load(Ordering::Relaxed);
                self.health.failed(&error, &self.nats, end);
                0
            }
        }
    }
}

/// When the first event with an id above `published` was made.
///
/// Looks in growing steps: the engine may read a whole range to limit it. Ids are nearly in commit
/// order, and the greatest published is what is known: good enough to tell seconds.
async fn first_after(
    events: &Collection<RawDocumentBuf>,
    published: i64,
) -> mongodb::error::Result<Option<Timestamp>> {
    const FIRST: Duration = Duration::from_secs(1);
    const GROWTH: i64 = 64;
    let mut span = i64::try_from(FIRST.as_millis()).unwrap_or(i64::MAX) << SEQUENCE_BITS;
    let mut from = published;
    loop {
        let to = from.saturating_add(span);
        let found = first_between(events, from, to).await?;
        if found.is_some() || to == i64::MAX {
            return Ok(found);
        }
        (from, span) = (to, span.saturating_mul(GROWTH));
    }
}

async fn first_between(
    events: &Collection<RawDocumentBuf>,
    after: i64,
    to: i64,
) -> mongodb::error::Result<Option<Timestamp>> {
    let range: Document = doc! { "_id": { "$gt": after, "$lte": to } };
    let found = events
        .find_one(range)
        .sort(doc! { "_id": 1 })
        .projection(doc! { "at": 1 });
    let at = found.await?.and_then(|row| row.get_datetime("at").ok());
    Ok(at.map(|at| Timestamp::from_millis(at.timestamp_millis())))
}
