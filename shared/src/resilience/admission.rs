//! What requests may have under way at a dependency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::circuit_breaker::Breaker;

/// Why a request was not let through, or not waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Not begun: the dependency does not answer.
    #[error("the database does not answer now")]
    Away,
    /// Not begun: too much is under way.
    #[error("too much is under way")]
    Full,
    /// Begun, and still under way: the dependency has gone silent, or it took too long.
    #[error("no answer in time")]
    Late,
    #[error("the work ended in a panic")]
    Panicked,
}

/// A refusal costs as much as an answer from memory, and whoever is refused at once is back at
/// once: refusing would take the time that serving needs. So a refusal takes its time, the more
/// the more there are, and is told within a second all the same, each time the gate is passed.
const TURNED_AWAY: Duration = Duration::from_millis(250);
const LONGEST_TURNED_AWAY: Duration = Duration::from_millis(750);
/// One more [`TURNED_AWAY`] for as many at a time.
const CROWD: usize = 1_000;

/// How much may be under way, and how long anybody waits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At work at once.
    pub places: usize,
    /// For a place. Who finds as many waiting is refused, after a while.
    pub waiting: usize,
    pub patience: Duration,
    /// For the answer, from the place on.
    pub deadline: Duration,
}

/// Bounds what requests have under way at a dependency.
///
/// What is let in is worth doing: it begins soon, or not at all. Without the bound a pool's queue
/// grows until every answer is later than its deadline, and all work is for nothing.
#[derive(Clone, Debug)]
pub struct Gate {
    breaker: Arc<Breaker>,
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    turned_away: Arc<AtomicUsize>,
    bounds: Bounds,
}

/// One more, for as long as it is there.
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

/// One of a gate's places; belongs to the work, not to whoever waits for it.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    pub fn new(breaker: Arc<Breaker>, bounds: Bounds) -> Self {
        Self {
            breaker,
            places: Arc::new(Semaphore::new(bounds.places)),
            waiting: Arc::new(Semaphore::new(bounds.waiting)),
            turned_away: Arc::default(),
            bounds,
        }
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// A place, soon or not at all. Whoever goes away while waiting leaves nothing behind.
    pub async fn enter(&self) -> Result<Place, Refused> {
        self.enter_with(1, self.bounds.patience).await
    }

    /// How long anybody waits for a place.
    pub fn patience(&self) -> Duration {
        self.bounds.patience
    }

    /// So many places together, within `patience`, for work that costs as much as so many others.
    pub async fn enter_with(&self, places: u32, patience: Duration) -> Result<Place, Refused> {
        if self.breaker.is_open() {
            return Err(Refused::Away);
        }
        let most = u32::try_from(self.bounds.places).unwrap_or(u32::MAX);
        let places = places.clamp(1, most);
        if let Ok(permit) = self.places.clone().try_acquire_many_owned(places) {
            return Ok(Place { _permit: permit });
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(self.refuse().await);
        };
        let turn = self.places.clone().acquire_many_owned(places);
        let turn = tokio::time::timeout(patience, turn);
        match self.unless_open(turn).await? {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(Refused::Full),
        }
    }

    /// Refuses, after a while.
    pub async fn refuse(&self) -> Refused {
        match self.unless_open(self.turn_away()).await {
            Ok(()) => Refused::Full,
            Err(away) => away,
        }
    }

    /// Waits, but not for a dependency that has gone silent meanwhile.
    pub async fn unless_open<T>(&self, wait: impl Future<Output = T>) -> Result<T, Refused> {
        tokio::select! {
            biased;
            () = self.breaker.opened() => Err(Refused::Away),
            done = wait => Ok(done),
        }
    }

    async fn turn_away(&self) {
        let _counted = Counted::new(&self.turned_away);
        let crowds = self.turned_away.load(Ordering::Relaxed) / CROWD;
        let pause = TURNED_AWAY.saturating_mul(u32::try_from(1 + crowds).unwrap_or(u32::MAX));
        tokio::time::sleep(pause.min(LONGEST_TURNED_AWAY)).await;
    }

    /// Waits for work that runs in a task of its own: until the deadline, or until the dependency
    /// has gone silent. The work goes on either way.
    pub async fn attend<T>(&self, work: JoinHandle<T>) -> Result<T, Refused> {
        tokio::select! {
            biased;
            done = work => done.map_err(|panic| {
                tracing::error!(error = %panic, "work for a request panicked");
                Refused::Panicked
            }),
            () = self.breaker.opened() => Err(Refused::Late),
            () = tokio::time::sleep(self.bounds.deadline) => Err(Refused::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::circuit_breaker::FAILURES;
    use super::*;

    fn open(breaker: &Breaker) {
        (0..FAILURES).for_each(|_| breaker.failed());
        assert!(breaker.is_open());
    }

    fn gate(places: usize) -> Gate {
        let bounds = Bounds {
            places,
            waiting: 1,
            patience: Duration::from_millis(500),
            deadline: Duration::from_secs(3),
        };
        Gate::new(Arc::new(Breaker::new("test")), bounds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_bounds_what_is_under_way_not_who_waits() {
        let gate = gate(1);
        let (place, done) = (gate.enter().await.unwrap(), CancellationToken::new());
        assert_eq!(gate.enter().await.unwrap_err(), Refused::Full);
        let finish = done.clone();
        let work = tokio::spawn(async move {
            finish.cancelled().await;
            drop(place);
        });
        assert_eq!(gate.attend(work).await, Err(Refused::Late));
        let under_way = gate.enter().await.unwrap_err();
        assert_eq!(under_way, Refused::Full, "it is still under way");
        let (first, second) = tokio::join!(gate.enter(), async {
            tokio::task::yield_now().await;
            let second = gate.enter().await;
            done.cancel();
            second
        });
        assert_eq!(second.unwrap_err(), Refused::Full, "one waits already");
        assert!(first.is_ok(), "whoever waits gets the place that is left");
    }

    /// A negative control: what the pulse is for.
    #[tokio::test(start_paused = true)]
    async fn without_a_pulse_who_waits_for_a_silent_dependency_waits_for_the_deadline() {
        let (gate, began) = (gate(1), tokio::time::Instant::now());
        let work = tokio::spawn(std::future::pending::<()>());
        assert_eq!(gate.attend(work).await, Err(Refused::Late));
        assert_eq!(began.elapsed(), gate.bounds.deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_a_full_queue_is_refused_later_the_more_there_are() {
        let gate = gate(1);
        let _place = gate.enter().await.unwrap();
        let refused = async || {
            let began = tokio::time::Instant::now();
            assert_eq!(gate.enter().await.unwrap_err(), Refused::Full);
            began.elapsed().as_millis()
        };
        let (waited, alone) = tokio::join!(refused(), refused());
        assert_eq!((waited, alone), (500, 250));
        let crowd = futures_util::future::join_all((0..5 * CROWD).map(|_| refused())).await;
        assert_eq!(crowd[0], 500, "the one who waits");
        assert_eq!(crowd[1], 250);
        assert_eq!(crowd[CROWD + 1], 500);
        assert_eq!(*crowd.last().unwrap(), 750);
        let left = gate.turned_away.load(Ordering::Relaxed);
        assert_eq!(left, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_place_is_called_back_when_the_circuit_opens() {
        let gate = gate(1);
        let (_place, began) = (gate.enter().await.unwrap(), tokio::time::Instant::now());
        let (waiting, turned_away, ()) = tokio::join!(gate.enter(), gate.enter(), async {
            tokio::time::sleep(TURNED_AWAY / 2).await;
            open(gate.breaker());
        });
        assert_eq!(waiting.unwrap_err(), Refused::Away);
        assert_eq!(turned_away.unwrap_err(), Refused::Away);
        assert_eq!(began.elapsed(), TURNED_AWAY / 2);
    }

    #[tokio::test]
    async fn an_open_circuit_refuses_at_once_and_calls_back_who_waits() {
        let gate = gate(9);
        let place = gate.enter().await.unwrap();
        let work = tokio::spawn(async move {
            let _place = place;
            std::future::pending::<()>().await;
        });
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.attend(work).await }
        });
        tokio::task::yield_now().await;
        open(gate.breaker());
        assert_eq!(waiting.await.unwrap(), Err(Refused::Late));
        assert_eq!(gate.enter().await.unwrap_err(), Refused::Away);
    }
}
