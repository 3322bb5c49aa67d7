//! What requests may have under way at a dependency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::circuit_breaker::Breaker;

/// Why a request was not admitted, or its work not waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// The work was not begun: the dependency does not answer.
    #[error("the database does not answer now")]
    Unavailable,
    /// The work was not begun: too many requests are under way.
    #[error("too much is under way")]
    Overloaded,
    /// The work was begun and is still under way: the dependency stopped answering, or it took
    /// too long.
    #[error("no answer in time")]
    TimedOut,
    #[error("the work ended in a panic")]
    Panicked,
}

/// Rejections are delayed by 250 ms, and by 250 ms more per 1,000 that wait for theirs, at most
/// 750 ms. Immediate ones would be retried immediately, and a rejection costs as much CPU as an
/// answer from memory.
const REJECTION_DELAY: Duration = Duration::from_millis(250);
const LONGEST_REJECTION_DELAY: Duration = Duration::from_millis(750);
const REJECTIONS_PER_DELAY: usize = 1_000;

/// How many requests may be under way and queued, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Permits: requests at work at once.
    pub max_in_flight: usize,
    /// Requests queued for a permit. Beyond these they are rejected after a delay.
    pub max_queued: usize,
    /// How long a request may be queued.
    pub queue_timeout: Duration,
    /// How long a caller waits for the work, once it has its permit.
    pub request_timeout: Duration,
}

/// Limits what requests have under way at a dependency.
///
/// Work is begun soon or not at all. Without the bound the queue of a connection pool grows until
/// every answer comes after its caller has given up, and all work is for nothing.
#[derive(Clone, Debug)]
pub struct AdmissionControl {
    breaker: Arc<Breaker>,
    permits: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Rejections that are being delayed.
    rejecting: Arc<AtomicUsize>,
    limits: Limits,
}

/// Counts one more until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Permission for one request's work. The work holds it, not the caller that waits for the work.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl AdmissionControl {
    pub fn new(breaker: Arc<Breaker>, limits: Limits) -> Self {
        Self {
            breaker,
            permits: Arc::new(Semaphore::new(limits.max_in_flight)),
            queue: Arc::new(Semaphore::new(limits.max_queued)),
            rejecting: Arc::default(),
            limits,
        }
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// A permit, within the queue timeout. A caller that is dropped meanwhile leaves the queue.
    pub async fn acquire(&self) -> Result<Permit, Rejected> {
        self.acquire_many(1, self.limits.queue_timeout).await
    }

    /// How long a request may be queued for a permit.
    pub fn queue_timeout(&self) -> Duration {
        self.limits.queue_timeout
    }

    /// So many permits together, within `timeout`, for work that costs as much as so many others.
    pub async fn acquire_many(&self, permits: u32, timeout: Duration) -> Result<Permit, Rejected> {
        if self.breaker.is_open() {
            return Err(Rejected::Unavailable);
        }
        let most = u32::try_from(self.limits.max_in_flight).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, most);
        if let Ok(permit) = self.permits.clone().try_acquire_many_owned(permits) {
            return Ok(Permit { _permit: permit });
        }
        let Ok(_queued) = self.queue.try_acquire() else {
            return Err(self.reject().await);
        };
        let turn = self.permits.clone().acquire_many_owned(permits);
        let turn = tokio::time::timeout(timeout, turn);
        match self.unless_open(turn).await? {
            Ok(Ok(permit)) => Ok(Permit { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(Rejected::Overloaded),
        }
    }

    /// Rejects, after the delay.
    pub async fn reject(&self) -> Rejected {
        match self.unless_open(self.delay_rejection()).await {
            Ok(()) => Rejected::Overloaded,
            Err(unavailable) => unavailable,
        }
    }

    /// Waits, unless the circuit opens meanwhile.
    pub async fn unless_open<T>(&self, wait: impl Future<Output = T>) -> Result<T, Rejected> {
        tokio::select! {
            biased;
            () = self.breaker.opened() => Err(Rejected::Unavailable),
            done = wait => Ok(done),
        }
    }

    async fn delay_rejection(&self) {
        let _counted = Counted::new(&self.rejecting);
        let delays = 1 + self.rejecting.load(Ordering::Relaxed) / REJECTIONS_PER_DELAY;
        let delay = REJECTION_DELAY.saturating_mul(u32::try_from(delays).unwrap_or(u32::MAX));
        tokio::time::sleep(delay.min(LONGEST_REJECTION_DELAY)).await;
    }

    /// Waits for work that runs in a task of its own, until the request timeout or until the
    /// circuit opens. The work goes on in both cases.
    pub async fn wait_for<T>(&self, work: JoinHandle<T>) -> Result<T, Rejected> {
        tokio::select! {
            biased;
            done = work => done.map_err(|panic| {
                tracing::error!(error = %panic, "work for a request panicked");
                Rejected::Panicked
            }),
            () = self.breaker.opened() => Err(Rejected::TimedOut),
            () = tokio::time::sleep(self.limits.request_timeout) => Err(Rejected::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::circuit_breaker::FAILURES;
    use super::*;

    fn open(breaker: &Breaker) {
        (0..FAILURES).for_each(|_| breaker.record_failure());
        assert!(breaker.is_open());
    }

    fn admission(max_in_flight: usize) -> AdmissionControl {
        let limits = Limits {
            max_in_flight,
            max_queued: 1,
            queue_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(3),
        };
        AdmissionControl::new(Arc::new(Breaker::new("mongodb")), limits)
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_bounded_and_not_who_waits_for_it() {
        let admission = admission(1);
        let (permit, done) = (admission.acquire().await.unwrap(), CancellationToken::new());
        assert_eq!(admission.acquire().await.unwrap_err(), Rejected::Overloaded);
        let finish = done.clone();
        let work = tokio::spawn(async move {
            finish.cancelled().await;
            drop(permit);
        });
        assert_eq!(admission.wait_for(work).await, Err(Rejected::TimedOut));
        let under_way = admission.acquire().await.unwrap_err();
        assert_eq!(under_way, Rejected::Overloaded, "it is still under way");
        let (first, second) = tokio::join!(admission.acquire(), async {
            tokio::task::yield_now().await;
            let second = admission.acquire().await;
            done.cancel();
            second
        });
        assert_eq!(
            second.unwrap_err(),
            Rejected::Overloaded,
            "one is queued already"
        );
        assert!(first.is_ok(), "the one that is queued gets the permit");
    }

    /// A negative control: what the probe is for.
    #[tokio::test(start_paused = true)]
    async fn without_a_probe_a_caller_of_a_stalled_dependency_waits_for_the_timeout() {
        let (admission, began) = (admission(1), tokio::time::Instant::now());
        let work = tokio::spawn(std::future::pending::<()>());
        assert_eq!(admission.wait_for(work).await, Err(Rejected::TimedOut));
        assert_eq!(began.elapsed(), admission.limits.request_timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_rejects_the_later_the_more_there_are() {
        let admission = admission(1);
        let _permit = admission.acquire().await.unwrap();
        let refused = async || {
            let began = tokio::time::Instant::now();
            assert_eq!(admission.acquire().await.unwrap_err(), Rejected::Overloaded);
            began.elapsed().as_millis()
        };
        let (waited, alone) = tokio::join!(refused(), refused());
        assert_eq!((waited, alone), (500, 250));
        let crowd =
            futures_util::future::join_all((0..5 * REJECTIONS_PER_DELAY).map(|_| refused())).await;
        assert_eq!(crowd[0], 500, "the one that is queued");
        assert_eq!(crowd[1], 250);
        assert_eq!(crowd[REJECTIONS_PER_DELAY + 1], 500);
        assert_eq!(*crowd.last().unwrap(), 750);
        let left = admission.rejecting.load(Ordering::Relaxed);
        assert_eq!(left, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_opening_circuit_ends_the_queue() {
        let admission = admission(1);
        let (_permit, began) = (
            admission.acquire().await.unwrap(),
            tokio::time::Instant::now(),
        );
        let (queued, rejected, ()) =
            tokio::join!(admission.acquire(), admission.acquire(), async {
                tokio::time::sleep(REJECTION_DELAY / 2).await;
                open(admission.breaker());
            });
        assert_eq!(queued.unwrap_err(), Rejected::Unavailable);
        assert_eq!(rejected.unwrap_err(), Rejected::Unavailable);
        assert_eq!(began.elapsed(), REJECTION_DELAY / 2);
    }

    #[tokio::test]
    async fn an_open_circuit_rejects_at_once_and_ends_every_wait() {
        let admission = admission(9);
        let permit = admission.acquire().await.unwrap();
        let work = tokio::spawn(async move {
            let _permit = permit;
            std::future::pending::<()>().await;
        });
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.wait_for(work).await }
        });
        tokio::task::yield_now().await;
        open(admission.breaker());
        assert_eq!(waiting.await.unwrap(), Err(Rejected::TimedOut));
        assert_eq!(
            admission.acquire().await.unwrap_err(),
            Rejected::Unavailable
        );
    }
}
