//! Whether a dependency answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{info, warn};

use super::backoff::Backoff;
use crate::runtime::metric_rows::{CIRCUIT_OPEN, CIRCUIT_OPENED, NOT_USED};
use crate::runtime::tasks::Tasks;

/// Between two probes while the dependency answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// The circuit opens when no call, probes included, was answered for this long. So callers that
/// wait are told within a second.
const STALL_THRESHOLD: Duration = Duration::from_millis(700);
/// How long a probe is waited for at least, however long ago the last answer was.
const SHORTEST_PROBE: Duration = Duration::from_millis(400);
/// The circuit opens after so many calls in a row that could not reach the dependency.
pub(super) const FAILURES: u32 = 5;
/// Unanswered probes at once, at most: each holds a connection.
const MOST_PROBES: usize = 8;

/// The waits between two probes while the circuit is open. These probes are its half-open state:
/// no caller's request is used to find out whether the dependency is back.
fn half_open_backoff() -> Backoff {
    Backoff::between_millis(50, 1_000)
}

/// Sets the metric that says whether the circuit of a dependency is open.
pub fn report_circuit(dependency: &'static str, open: bool) {
    CIRCUIT_OPEN
        .of([dependency])
        .set(if open { 1.0 } else { 0.0 });
}

/// Why a dependency is not used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotUsed {
    /// It does not answer, or the connection cannot be made.
    Away,
    /// It refuses our credentials.
    SignIn,
    /// It or we refuse: a certificate, a right.
    Refused,
    JetStreamOff,
    NoRoom,
    /// It is there and does not do what it is asked for.
    Failing,
    /// The stream is not this log's, or must not be used.
    WrongStream,
}

impl NotUsed {
    const ALL: [Self; 7] = [
        Self::Away,
        Self::SignIn,
        Self::Refused,
        Self::JetStreamOff,
        Self::NoRoom,
        Self::Failing,
        Self::WrongStream,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::SignIn => "sign_in",
            Self::Refused => "refused",
            Self::JetStreamOff => "jetstream_off",
            Self::NoRoom => "no_room",
            Self::Failing => "failing",
            Self::WrongStream => "wrong_stream",
        }
    }
}

/// Sets the metric that says why a dependency is not used; `None`: it is.
pub fn report_why(dependency: &'static str, why: Option<NotUsed>) {
    for reason in NotUsed::ALL {
        let is_it = why == Some(reason);
        NOT_USED
            .of([dependency, reason.name()])
            .set(if is_it { 1.0 } else { 0.0 });
    }
}

/// A circuit breaker: open while its dependency does not answer.
#[derive(Debug)]
pub struct Breaker {
    dependency: &'static str,
    open: watch::Sender<bool>,
    failures: AtomicU32,
    last_answer: Mutex<Instant>,
}

impl Breaker {
    pub fn new(dependency: &'static str) -> Self {
        report_circuit(dependency, false);
        Self {
            dependency,
            open: watch::Sender::new(false),
            failures: AtomicU32::new(0),
            last_answer: Mutex::new(Instant::now()),
        }
    }

    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits until the circuit is open.
    pub(super) async fn opened(&self) {
        let mut open = self.open.subscribe();
        // The sender is here, so that the wait ends in no other way.
        let _ = open.wait_for(|open| *open).await;
    }

    /// The dependency answered, be it with an error. This does not close the circuit: the call may
    /// have begun before the dependency stalled.
    pub fn record_success(&self) {
        self.failures.store(0, Ordering::Relaxed);
        *self
            .last_answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The dependency could not be reached.
    pub fn record_failure(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
            self.set_open(true);
        }
    }

    fn set_open(&self, open: bool) {
        let changed = self
            .open
            .send_if_modified(|is| std::mem::replace(is, open) != open);
        if !changed {
            return;
        }
        let dependency = self.dependency;
        report_circuit(dependency, open);
        if open {
            CIRCUIT_OPENED.of([dependency]).increment(1);
            warn!(
                dependency,
                "{dependency} does not answer: nobody is sent there"
            );
        } else {
            info!(dependency, "{dependency} answers again");
        }
    }

    /// Probes the dependency until the tasks are stopped. `ping` says whether it was answered, and
    /// is never dropped before it ends. It should have a connection of its own: in a pool that
    /// others use it would measure the queue for a connection.
    pub async fn probe_loop<F>(self: Arc<Self>, ping: impl Fn() -> F, tasks: Tasks)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let (permits, mut backoff) = (Arc::new(Semaphore::new(MOST_PROBES)), half_open_backoff());
        let stop = tasks.stop_signal();
        loop {
            let answered = match permits.clone().try_acquire_owned() {
                Ok(permit) => self.clone().probe(ping(), permit, &tasks).await,
                Err(_) => false,
            };
            let pause = if answered {
                backoff.reset();
                PROBE_INTERVAL
            } else {
                backoff.next_delay()
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Asks once. Whether it was answered in time; the call itself goes on in its own task, because
    /// a dropped driver call costs its connection.
    async fn probe(
        self: Arc<Self>,
        ping: impl Future<Output = bool> + Send + 'static,
        permit: OwnedSemaphorePermit,
        tasks: &Tasks,
    ) -> bool {
        let (breaker, stop) = (self.clone(), tasks.stop_signal());
        let mut asked = tasks.ask(async move {
            let answered = ping.await;
            if answered {
                breaker.record_success();
                breaker.set_open(false);
            } else {
                breaker.record_failure();
            }
            drop(permit);
            answered
        });
        let since = self.since_last_answer();
        let mut patience = STALL_THRESHOLD.saturating_sub(since).max(SHORTEST_PROBE);
        loop {
            tokio::select! {
                answered = &mut asked => return answered.unwrap_or(false),
                () = tokio::time::sleep(patience) => (),
                () = stop.cancelled() => return false,
            }
            let since = self.since_last_answer();
            if since >= STALL_THRESHOLD {
                self.set_open(true);
                return false;
            }
            // Other calls are answered: only this one waits.
            patience = STALL_THRESHOLD.saturating_sub(since);
        }
    }

    fn since_last_answer(&self) -> Duration {
        let last = self
            .last_answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(breaker: &Breaker) {
        (0..FAILURES).for_each(|_| breaker.record_failure());
        assert!(breaker.is_open());
    }

    #[tokio::test]
    async fn failures_in_a_row_open_the_circuit_and_an_answer_between_them_does_not() {
        let breaker = Breaker::new("mongodb");
        for _ in 0..3 {
            (1..FAILURES).for_each(|_| breaker.record_failure());
            breaker.record_success();
        }
        assert!(!breaker.is_open());
        open(&breaker);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_opens_the_circuit_within_a_second_and_an_answer_closes_it() {
        let breaker = Arc::new(Breaker::new("mongodb"));
        let (answers, tasks) = (watch::Sender::new(true), Tasks::default());
        let hear = answers.clone();
        let ping = move || {
            let mut heard = hear.subscribe();
            async move { heard.wait_for(|answers| *answers).await.is_ok() }
        };
        let probing = tokio::spawn(breaker.clone().probe_loop(ping, tasks.clone()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!breaker.is_open());
        answers.send_replace(false);
        // This one goes by the real clock, which the test cannot move on.
        *breaker.last_answer.lock().unwrap() = Instant::now() - STALL_THRESHOLD;
        tokio::time::sleep(PROBE_INTERVAL + STALL_THRESHOLD + Duration::from_millis(1)).await;
        assert!(breaker.is_open());
        answers.send_replace(true);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!breaker.is_open());
        tasks.stop_signal().cancel();
        probing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_probe_opens_nothing_while_others_are_answered() {
        let breaker = Arc::new(Breaker::new("mongodb"));
        let tasks = Tasks::default();
        let probing = tokio::spawn(
            breaker
                .clone()
                .probe_loop(std::future::pending::<bool>, tasks.clone()),
        );
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            breaker.record_success();
        }
        assert!(!breaker.is_open());
        tasks.stop_signal().cancel();
        probing.await.unwrap();
    }
}
