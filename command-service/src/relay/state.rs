//! What a relay remembers from one attempt to the next. None of it is needed to be correct.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::contract::event_stream::StreamError;
use shared::contract::ids::SEQUENCE_BITS;
use shared::contract::time::{Clock, SystemClock, Timestamp};
use tokio::time::Instant;

use super::error::RelayError;
use super::stream::{Once, Publisher};
use crate::metric_rows::{RELAY_LAG, RELAY_LAG_EVENTS};

/// A lag after which the log is asked how many events wait.
pub(super) const WORTH_COUNTING: Duration = Duration::from_secs(3);

/// What outlives an attempt. None of it is needed to be correct.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) published: AtomicU64,
    /// The greatest id published, to ask the log what is waiting while the broker is away.
    pub(super) last_id: AtomicI64,
    /// When the oldest event known to wait was made, in milliseconds; 0 if none waits.
    pub(super) waiting_since: AtomicI64,
    /// How many events this process holds that wait.
    pub(super) held: AtomicU64,
    /// The greatest id on the stream, as a look has found it while nothing was published here.
    pub(super) seen_published: AtomicI64,
    /// How many of the log's events waited when they were counted; only while that is of use.
    pub(super) counted: AtomicU64,
    pub(super) rescan: AtomicBool,
    pub(super) once: Once,
    /// The last sequence seen on the stream.
    pub(super) stream_end: AtomicU64,
    /// This process holds the lease.
    pub(super) active: AtomicBool,
    /// It follows the log, and so knows what waits.
    pub(super) pumping: AtomicBool,
    /// Since when the broker owes an answer, and the attempts that have failed since.
    pub(super) unanswered_since: Mutex<Option<(Instant, u32)>>,
    pub(super) lease_gauge: Mutex<()>,
}

impl State {
    /// Since when events wait, and how many of them are at hand.
    pub(super) fn waits(&self, since: Option<Timestamp>, held: u64) {
        let millis = since.map_or(0, Timestamp::millis);
        self.waiting_since.store(millis, Ordering::Relaxed);
        self.held.store(held, Ordering::Relaxed);
        self.tell_lag();
    }

    pub(super) fn tell_lag(&self) {
        let lag = self.lag();
        RELAY_LAG.only().set(lag.as_secs_f64());
        // What is at hand is all that waits, unless it is much.
        if lag < WORTH_COUNTING {
            self.counted.store(0, Ordering::Relaxed);
        }
        let held = self.held.load(Ordering::Relaxed);
        let events = held.max(self.counted.load(Ordering::Relaxed));
        RELAY_LAG_EVENTS.only().set(events as f64);
    }

    /// How long the oldest event that is known to wait has waited.
    pub(super) fn lag(&self) -> Duration {
        let millis = match self.waiting_since.load(Ordering::Relaxed) {
            0 => 0,
            since => (SystemClock.now().millis() - since).max(0),
        };
        Duration::from_millis(millis.unsigned_abs())
    }

    /// The log's events that wait were counted.
    pub(super) fn counted(&self, events: u64) {
        self.counted.store(events, Ordering::Relaxed);
        self.tell_lag();
    }

    pub(super) fn unanswered(&self) -> MutexGuard<'_, Option<(Instant, u32)>> {
        let since = self.unanswered_since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker is asked for something.
    pub(super) fn asks(&self) {
        self.unanswered().get_or_insert_with(|| (Instant::now(), 0));
    }

    /// Remembers that an error calls for a scan.
    pub(super) fn calls_for_scan(&self, error: &RelayError) {
        // After a log that was older, what was put back into it is no news to the stream, though the
        // change stream would say so.
        let restored = matches!(error, RelayError::Stream(StreamError::LogIsOlder(..)));
        if restored || matches!(error, RelayError::HistoryLost(_) | RelayError::LogReplaced) {
            self.rescan.store(true, Ordering::Relaxed);
        }
    }

    /// It did what it was asked for.
    pub(super) fn is_answered(&self) {
        *self.unanswered() = None;
    }

    /// Learns how far the stream is when an attempt begins. What was published before may be gone
    /// from it; ids are in commit order but for the clocks' difference.
    pub(super) fn starts_at(&self, publisher: &Publisher) {
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
