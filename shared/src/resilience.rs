//! Named policies: how long to wait, how often, for whom, and when not to ask at all.
//!
//! * [`Backoff`]: waits between tries.
//! * [`Breaker`]: whether a dependency answers at all. A pulse asks it all the time; while it is
//!   silent nobody else does.
//! * [`Gate`]: a breaker, a bounded number of places, and a deadline: what stands between
//!   requests and the database.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::tasks::Tasks;

/// Exponential backoff with full jitter, between two bounds.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    pub const fn between_millis(first: u64, most: u64) -> Self {
        Self {
            first: Duration::from_millis(first),
            most: Duration::from_millis(most),
            attempt: 0,
        }
    }

    /// Something worked: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next wait: half fixed, half random, doubling up to the bound.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self
            .first
            .saturating_mul(1 << self.attempt.min(16))
            .min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

/// Nobody waits, and losing an event is not an option: the relay, the fold.
pub fn background() -> Backoff {
    Backoff::between_millis(20, 1_000)
}

/// A person waits: a few quick tries, then tell them.
pub fn interactive() -> Backoff {
    Backoff::between_millis(10, 100)
}

/// Between two beats of a pulse while the dependency answers.
const PULSE: Duration = Duration::from_millis(200);
/// When nobody had an answer for this long, the pulse included, the circuit opens: whoever waits
/// knows within a second.
const SILENCE: Duration = Duration::from_millis(700);
/// What a beat is given at least, however long ago the last answer was.
const BEAT: Duration = Duration::from_millis(400);
/// Calls in a row that could not reach the dependency: the connections are gone.
const FAILURES: u32 = 5;
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
        let mut asked = tasks.run(async move {
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
        let mut open = self.breaker.open.subscribe();
        tokio::select! {
            biased;
            _ = open.wait_for(|open| *open) => Err(Refused::Away),
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
        let mut open = self.breaker.open.subscribe();
        tokio::select! {
            biased;
            done = work => done.map_err(|panic| {
                tracing::error!(error = %panic, "work for a request panicked");
                Refused::Panicked
            }),
            _ = open.wait_for(|open| *open) => Err(Refused::Late),
            () = tokio::time::sleep(self.bounds.deadline) => Err(Refused::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn waits_grow_up_to_the_bound_and_start_over() {
        let mut backoff = Backoff::between_millis(10, 100);
        let waits: Vec<_> = (0..40).map(|_| backoff.next_delay()).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(100)));
        assert!(waits[0] <= Duration::from_millis(10));
        assert!(waits[39] >= Duration::from_millis(50));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(10));
    }

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
