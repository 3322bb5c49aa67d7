//! What waits to be sent. Whoever adds to it never waits: what does not fit is lost, and counted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::metric_rows::OTLP_DROPPED;

/// As many go in one request.
const BATCH: usize = 512;
/// The first of a batch waits so long for others.
const LINGER: Duration = Duration::from_secs(1);

/// A queue, whatever waits in it.
pub(super) trait Waits: Send + Sync {
    fn signal(&self) -> &'static str;
    /// Nothing more is taken, and what waits is sent at once.
    fn close(&self);
    /// How many have not been sent by then.
    fn wait_until_empty(&self, until: Instant) -> usize;
}

pub(super) struct Queue<T> {
    signal: &'static str,
    most: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// Taken, and neither sent nor lost yet.
    in_flight: usize,
    closed: bool,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    pub(super) fn new(signal: &'static str, most: usize) -> Self {
        Self {
            signal,
            most,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                in_flight: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds one, unless it is full or closed.
    pub(super) fn push(&self, item: T) {
        let mut state = self.state();
        if state.closed || state.waiting.len() >= self.most {
            drop(state);
            self.lost(1);
            return;
        }
        state.waiting.push_back(item);
        // Whoever sends waits for the first, then for a whole batch or for time to pass.
        if matches!(state.waiting.len(), 1 | BATCH) {
            self.changed.notify_all();
        }
    }

    /// So many will never arrive.
    pub(super) fn lost(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        OTLP_DROPPED.of([self.signal]).increment(count);
    }

    /// The next batch. Waits for it; `None` once all are taken and there will be no more.
    pub(super) fn take(&self) -> Option<Vec<T>> {
        let mut state = self.state();
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            state = self.wait(state);
        }
        let until = Instant::now() + LINGER;
        while state.waiting.len() < BATCH && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = state.waiting.len().min(BATCH);
        state.in_flight = count;
        Some(state.waiting.drain(..count).collect())
    }

    /// The batch that was taken last is sent, or lost.
    pub(super) fn settle(&self) {
        self.state().in_flight = 0;
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Waits for Queue<T> {
    fn signal(&self) -> &'static str {
        self.signal
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn wait_until_empty(&self, until: Instant) -> usize {
        let mut state = self.state();
        loop {
            let left = state.waiting.len() + state.in_flight;
            let time = until.saturating_duration_since(Instant::now());
            if left == 0 || time.is_zero() {
                return left;
            }
            let waited = self.changed.wait_timeout(state, time);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_does_not_fit_is_lost_and_what_fits_comes_out_in_batches() {
        let queue = Queue::new("traces", 1_000);
        for number in 0..1_500 {
            queue.push(number);
        }
        let first = queue.take().unwrap();
        assert_eq!((first.len(), first[0]), (BATCH, 0));
        queue.settle();
        queue.close();
        assert_eq!(queue.take().unwrap().len(), 1_000 - BATCH);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn who_waits_for_the_end_is_told_what_is_left() {
        let queue = Arc::new(Queue::new("traces", 10));
        queue.push(1);
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(queue.wait_until_empty(soon()), 1);
        queue.close();
        let taken = queue.take().unwrap();
        assert_eq!(taken, [1]);
        assert_eq!(queue.wait_until_empty(soon()), 1, "it is under way");
        let sender = queue.clone();
        let sending = std::thread::spawn(move || sender.settle());
        let late = Instant::now() + Duration::from_secs(60);
        assert_eq!(queue.wait_until_empty(late), 0);
        sending.join().unwrap();
        queue.push(2);
        assert_eq!(queue.take(), None, "nothing is taken after the end");
    }
}
