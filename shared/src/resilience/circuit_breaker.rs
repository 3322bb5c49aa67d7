//! Whether a dependency answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{info, warn};

use super::backoff::Backoff;
use crate::runtime::tasks::Tasks;

/// Between two beats of a pulse while the dependency answers.
const PULSE: Duration = Duration::from_millis(200);
/// When nobody had an answer for this long, the pulse included, the circuit opens: whoever waits
/// knows within a second.
const SILENCE: Duration = Duration::from_millis(700);
/// What a beat is given at least, however long ago the last answer was.
const BEAT: Duration = Duration::from_millis(400);
/// Calls in a row that could not reach the dependency: the connections are gone.
pub(super) const FAILURES: u32 = 5;
/// Beats that nobody has answered yet, at once: each holds a connection.
const BEATS: usize = 8;

/// Labels: `dependency` (mongodb, nats): 1 while nobody is sent there.
const OPEN: &str = "circuit_open";
/// Labels: `dependency`.
const OPENED: &str = "circuit_opened_total";

/// Half-open is one beat of the pulse under way: an open circuit asks by itself, so that no
/// caller waits to find out.
fn heal() -> Backoff {
    Backoff::between_millis(50, 1_000)
}

/// Says, as a metric, whether callers are sent to a dependency.
pub fn tell_circuit(dependency: &'static str, open: bool) {
    describe_gauge!(OPEN, "1 while nobody is sent to the dependency");
    gauge!(OPEN, "dependency" => dependency).set(if open { 1.0 } else { 0.0 });
}

/// A circuit breaker: open while its dependency does not answer.
#[derive(Debug)]
pub struct Breaker {
    dependency: &'static str,
    open: watch::Sender<bool>,
    failures: AtomicU32,
    answered: Mutex<Instant>,
}

impl Breaker {
    pub fn new(dependency: &'static str) -> Self {
        describe_counter!(OPENED, "How often callers were no longer sent there");
        tell_circuit(dependency, false);
        Self {
            dependency,
            open: watch::Sender::new(false),
            failures: AtomicU32::new(0),
            answered: Mutex::new(Instant::now()),
        }
    }

    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Comes to its end when the circuit is open.
    pub(super) async fn opened(&self) {
        let mut open = self.open.subscribe();
        // The sender is here, so that the wait ends in no other way.
        let _ = open.wait_for(|open| *open).await;
    }

    /// Something came back from the dependency, be it a refusal. Closes nothing: a call may have
    /// begun before the silence.
    pub fn answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The dependency could not be reached.
    pub fn failed(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
            self.turn(true);
        }
    }

    fn turn(&self, open: bool) {
        let changed = self
            .open
            .send_if_modified(|is| std::mem::replace(is, open) != open);
        if !changed {
            return;
        }
        let dependency = self.dependency;
        tell_circuit(dependency, open);
        if open {
            counter!(OPENED, "dependency" => dependency).increment(1);
            warn!(
                dependency,
                "{dependency} does not answer: nobody is sent there"
            );
        } else {
            info!(dependency, "{dependency} answers again");
        }
    }

    /// Keeps asking until it is stopped: `ping` says whether it was answered, and is never
    /// dropped before that. It should have a connection of its own, or it waits in the queue
    /// that it shall judge.
    pub async fn pulse<F>(self: Arc<Self>, ping: impl Fn() -> F, tasks: Tasks)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let (beats, mut backoff) = (Arc::new(Semaphore::new(BEATS)), heal());
        let stop = tasks.stop_signal();
        loop {
            let heard = match beats.clone().try_acquire_owned() {
                Ok(beat) => self.clone().beat(ping(), beat, &tasks).await,
                Err(_) => false,
            };
            let pause = if heard {
                backoff.reset();
                PULSE
            } else {
                backoff.next_delay()
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Asks once, and gives up on the answer, never on the question. Whether there was one.
    async fn beat(
        self: Arc<Self>,
        ping: impl Future<Output = bool> + Send + 'static,
        beat: OwnedSemaphorePermit,
        tasks: &Tasks,
    ) -> bool {
        let (breaker, stop) = (self.clone(), tasks.stop_signal());
        let mut asked = tasks.ask(async move {
            let heard = ping.await;
            if heard {
                breaker.answered();
                breaker.turn(false);
            } else {
                breaker.failed();
            }
            drop(beat);
            heard
        });
        let mut patience = SILENCE.saturating_sub(self.silence()).max(BEAT);
        loop {
            tokio::select! {
                heard = &mut asked => return heard.unwrap_or(false),
                () = tokio::time::sleep(patience) => (),
                () = stop.cancelled() => return false,
            }
            let silence = self.silence();
            if silence >= SILENCE {
                self.turn(true);
                return false;
            }
            // Others are answered: only this one waits.
            patience = SILENCE.saturating_sub(silence);
        }
    }

    fn silence(&self) -> Duration {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(breaker: &Breaker) {
        (0..FAILURES).for_each(|_| breaker.failed());
        assert!(breaker.is_open());
    }

    #[tokio::test]
    async fn failures_in_a_row_open_the_circuit_and_an_answer_between_them_does_not() {
        let breaker = Breaker::new("test");
        for _ in 0..3 {
            (1..FAILURES).for_each(|_| breaker.failed());
            breaker.answered();
        }
        assert!(!breaker.is_open());
        open(&breaker);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_opens_the_circuit_within_a_second_and_an_answer_closes_it() {
        let breaker = Arc::new(Breaker::new("test"));
        let (answers, tasks) = (watch::Sender::new(true), Tasks::default());
        let hear = answers.clone();
        let ping = move || {
            let mut heard = hear.subscribe();
            async move { heard.wait_for(|answers| *answers).await.is_ok() }
        };
        let pulse = tokio::spawn(breaker.clone().pulse(ping, tasks.clone()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!breaker.is_open());
        answers.send_replace(false);
        // The clock of the silence is the real one: it has lasted when a beat gives up.
        *breaker.answered.lock().unwrap() = Instant::now() - SILENCE;
        tokio::time::sleep(PULSE + SILENCE + Duration::from_millis(1)).await;
        assert!(breaker.is_open());
        answers.send_replace(true);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!breaker.is_open());
        tasks.stop_signal().cancel();
        pulse.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_beat_is_no_silence_while_others_are_answered() {
        let breaker = Arc::new(Breaker::new("test"));
        let tasks = Tasks::default();
        let pulse = tokio::spawn(
            breaker
                .clone()
                .pulse(std::future::pending::<bool>, tasks.clone()),
        );
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            breaker.answered();
        }
        assert!(!breaker.is_open());
        tasks.stop_signal().cancel();
        pulse.await.unwrap();
    }
}
