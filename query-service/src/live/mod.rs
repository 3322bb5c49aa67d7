//! Who is connected to a live stream, and when to wake them.
//!
//! A stream is woken once every partition has applied what concerns it: then all rows that make
//! an entry true are there, and sequences rise from event to event.

mod stream_reads;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::contract::ids::UserId;
use shared::contract::partition::{Partition, Partitions};
use shared::runtime::tasks::Tasks;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::metric_rows::LIVE_STREAMS;
use crate::reads::model::CurrentViews;
use crate::views::invalidation::{Invalidation, InvalidationMessage};
use stream_reads::{StreamRead, StreamReads, Turn};

/// Live streams that one process serves at the most.
const MOST_STREAMS: usize = 10_000;
/// Streams that are accepted beyond these, and wait for a place or for the keys of their token.
pub const MOST_WAITING: usize = 1_000;
/// Of all these, of one reader: a person has a few devices. One more is refused. Taking the place
/// of another would end nothing: client libraries come back by themselves, and take it again.
const MOST_PER_READER: usize = 20;
/// A reader who closes one stream and opens another at once has its place by then.
const HANDOVER: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// The live streams of this process. Cloning gives another handle.
#[derive(Clone)]
pub struct Live {
    state: Arc<Mutex<State>>,
    views: CurrentViews,
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    reads: StreamReads,
    stop: CancellationToken,
    heartbeat: Duration,
    tasks: Tasks,
}

/// Why a stream is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Its reader has as many streams as one reader may have.
    Reader,
    /// Too many wait in this process.
    Process,
}

#[derive(Default)]
struct State {
    /// The generation of views that the rest speaks of.
    generation: i64,
    applied: HashMap<Partition, u64>,
    /// The last message of each partition: who sent it, and its number.
    said: HashMap<Partition, (u64, u64)>,
    streams: HashMap<u64, Listener>,
    /// How many streams each reader has.
    per_reader: HashMap<UserId, usize>,
    next: u64,
}

struct Listener {
    reader: UserId,
    wanted: Wanted,
    wake: Arc<Notify>,
}

/// The sequences that a stream waits for: it is woken when all partitions have applied one.
///
/// The lowest ones are kept exactly. If only the highest were kept, a partition that lags steadily
/// would never reach it, and the stream would hear nothing.
#[derive(Debug, Default)]
struct Wanted(BTreeSet<u64>);

/// More than these are woken for together, with the highest of them.
const MOST_WANTED: usize = 32;

impl Wanted {
    fn add(&mut self, seq: u64) {
        if seq == 0 {
            return;
        }
        self.0.insert(seq);
        if self.0.len() > MOST_WANTED {
            // The last one stays: whoever is woken by it is sent everything before it too.
            let last_but_one = self.0.iter().rev().nth(1).copied();
            last_but_one.map(|seq| self.0.remove(&seq));
        }
    }

    /// Forgets what all partitions have applied. Whether that was anything.
    fn reached(&mut self, applied_by_all: u64) -> bool {
        let later = self.0.split_off(&applied_by_all.saturating_add(1));
        !std::mem::replace(&mut self.0, later).is_empty()
    }
}

/// A reader's live stream, as it is counted; dropping it makes room.
pub struct Subscription {
    live: Live,
    id: u64,
    wake: Arc<Notify>,
    place: Place,
}

enum Place {
    Taken(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
    Awaited(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
}

impl Live {
    pub fn new(views: CurrentViews, stop: CancellationToken) -> Self {
        LIVE_STREAMS.only().set(0.0);
        Self {
            state: Arc::default(),
            views,
            places: Arc::new(Semaphore::new(MOST_STREAMS)),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            reads: StreamReads::default(),
            stop,
            heartbeat: Duration::from_secs(15),
            tasks: Tasks::default(),
        }
    }

    /// The same for streams that are among these tasks.
    #[must_use]
    pub fn with_tasks(mut self, tasks: &Tasks) -> Self {
        self.tasks = tasks.clone();
        self
    }

    /// The tasks that streams and what they read run in.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The same with another time between two comments.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// The longest time in which nothing is sent on a stream.
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other stream of the reader reads the views.
    pub async fn turn(&self, reader: UserId) -> Option<Turn> {
        self.reads.turn(reader).await
    }

    /// A permit to look at the views, in turn; to be dropped before anything is sent.
    pub async fn begin_read(&self, turn: Option<Turn>) -> Option<StreamRead> {
        self.reads.begin(turn?).await
    }

    /// A permit for a stream whose reader is not known yet; `None` if too many wait.
    pub fn wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    /// Counts one more live stream of a reader. It may have to wait for its place.
    pub async fn subscribe(&self, reader: UserId) -> Result<Subscription, Refused> {
        let until = Instant::now() + HANDOVER;
        loop {
            match self.try_subscribe(reader) {
                Err(Refused::Reader) if Instant::now() < until => (),
                outcome => return outcome,
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn try_subscribe(&self, reader: UserId) -> Result<Subscription, Refused> {
        let wake = Arc::new(Notify::new());
        let partitions = self.views.borrow().partitions();
        let mut state = self.state();
        let others = state.per_reader.get(&reader).copied().unwrap_or(0);
        if others >= MOST_PER_READER {
            return Err(Refused::Reader);
        }
        let place = match self.places.clone().try_acquire_owned() {
            Ok(permit) => Place::Taken(permit),
            Err(_) => Place::Awaited(self.wait().ok_or(Refused::Process)?),
        };
        let listener = Listener {
            reader,
            wanted: state.told_before(partitions, reader),
            wake: wake.clone(),
        };
        let id = state.next;
        state.next += 1;
        state.streams.insert(id, listener);
        state.per_reader.insert(reader, others + 1);
        LIVE_STREAMS.only().set(state.streams.len() as f64);
        drop(state);
        Ok(Subscription {
            live: self.clone(),
            id,
            wake,
            place,
        })
    }

    /// Fires when live streams should come to an end.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Wakes the streams that a message of this generation concerns.
    pub fn wake(&self, generation: i64, partitions: Partitions, message: &InvalidationMessage) {
        self.state().take(generation, partitions, message);
    }
}

impl State {
    /// The lowest sequence that all partitions have told of.
    fn applied_by_all(&self, partitions: Partitions) -> u64 {
        let applied = |partition| self.applied.get(&partition).copied().unwrap_or(0);
        partitions.all().map(applied).min().unwrap_or(0)
    }

    /// What a new stream waits for: its partition may have told of something already that others
    /// have not come to.
    fn told_before(&self, partitions: Partitions, reader: UserId) -> Wanted {
        let told = self.applied.get(&partitions.of(reader)).copied();
        let mut wanted = Wanted::default();
        wanted.add(told.unwrap_or(0));
        wanted.reached(self.applied_by_all(partitions));
        wanted
    }

    fn take(&mut self, generation: i64, partitions: Partitions, message: &InvalidationMessage) {
        let switched = self.generation != generation;
        if switched {
            self.generation = generation;
            self.applied.clear();
            self.said.clear();
        }
        let partition = Partition(message.p);
        self.applied.insert(partition, message.to);
        let said = (message.hold, message.n);
        let before = self.said.insert(partition, said);
        // A lost message may have concerned anybody here, and so may those before the first that
        // was heard of this generation.
        let follows = before.is_some_and(|(hold, n)| (hold, n + 1) == said);
        let all = message.all || !follows;
        // Of each reader the first and the last: what is between is sent with the last.
        let mut readers: HashMap<UserId, [u64; 2]> = HashMap::new();
        for delivered in &message.delivered {
            for reader in &delivered.to {
                let [first, last] = readers.entry(*reader).or_insert([delivered.seq; 2]);
                *first = delivered.seq.min(*first);
                *last = delivered.seq.max(*last);
            }
        }
        for invalidation in &message.invalidations {
            // Inactive, or back: there is no entry to name.
            if let Invalidation::Timeline(reader) = invalidation {
                let [_, last] = readers.entry(*reader).or_insert([message.to; 2]);
                *last = message.to.max(*last);
            }
        }
        let pulled = || message.pulled.iter().map(|(_, seq)| *seq);
        let concerning_all = [
            pulled().min().unwrap_or(0),
            pulled().max().unwrap_or(0),
            if all { message.to } else { 0 },
        ];
        let applied_by_all = self.applied_by_all(partitions);
        for listener in self.streams.values_mut() {
            if switched {
                listener.wanted = Wanted::default();
            }
            if partitions.of(listener.reader) == partition {
                let named = readers.get(&listener.reader).copied().unwrap_or_default();
                for seq in concerning_all.into_iter().chain(named) {
                    listener.wanted.add(seq);
                }
            }
            if listener.wanted.reached(applied_by_all) || switched {
                listener.wake.notify_one();
            }
        }
    }
}

impl Subscription {
    /// Waits for one of the places of streams that are served.
    pub async fn placed(&mut self) {
        let awaited = match self.place {
            Place::Awaited(_) => self.live.places.clone().acquire_owned().await.ok(),
            Place::Taken(_) => None,
        };
        if let Some(permit) = awaited {
            self.place = Place::Taken(permit);
        }
    }

    /// Resolves when there may be something new. A wake-up between two calls is not lost.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.live.state();
        if let Some(listener) = state.streams.remove(&self.id) {
            let left = state.per_reader.remove(&listener.reader).unwrap_or(0);
            if left > 1 {
                state.per_reader.insert(listener.reader, left - 1);
            }
        }
        LIVE_STREAMS.only().set(state.streams.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::invalidation::Fanout;
    use futures_util::FutureExt;
    use shared::contract::ids::Id;

    fn message(
        p: Partition,
        n: u64,
        to: u64,
        delivered: Vec<(UserId, u64)>,
    ) -> InvalidationMessage {
        let delivered = delivered.into_iter().map(|(reader, seq)| Fanout {
            entry: Id::new(1).unwrap(),
            post: Id::new(1).unwrap(),
            by: Id::new(2).unwrap(),
            seq,
            to: vec![reader],
        });
        InvalidationMessage {
            g: 1,
            p: p.0,
            n,
            to,
            delivered: delivered.collect(),
            ..InvalidationMessage::default()
        }
    }

    /// A reader with one stream and two partitions, the reader's own first; what a message wakes.
    fn one_stream() -> (
        UserId,
        [Partition; 2],
        impl FnMut(InvalidationMessage) -> bool,
    ) {
        let two = Partitions::new(2).unwrap();
        let reader = Id::new(1).unwrap();
        let own = two.of(reader);
        let wake = Arc::new(Notify::new());
        let mut state = State {
            generation: 1,
            ..State::default()
        };
        let listener = Listener {
            reader,
            wanted: Wanted::default(),
            wake: wake.clone(),
        };
        state.streams.insert(0, listener);
        let woken_by = move |message| {
            state.take(1, two, &message);
            wake.notified().now_or_never().is_some()
        };
        (reader, [own, Partition(1 - own.0)], woken_by)
    }

    #[test]
    fn a_stream_is_woken_once_all_partitions_have_applied_its_entry() {
        let (reader, [own, other], mut woken_by) = one_stream();
        assert!(!woken_by(message(own, 0, 5, vec![(reader, 4)])));
        assert!(!woken_by(message(other, 0, 3, vec![])));
        assert!(woken_by(message(other, 1, 4, vec![])));
        // A gap may have hidden anything.
        assert!(!woken_by(message(own, 7, 8, vec![])));
        assert!(woken_by(message(other, 2, 8, vec![])));
    }

    #[test]
    fn a_stream_is_woken_for_what_its_partition_told_before_it_came() {
        let two = Partitions::new(2).unwrap();
        let reader = Id::new(1).unwrap();
        let own = two.of(reader);
        let other = Partition(1 - own.0);
        let mut state = State {
            generation: 1,
            ..State::default()
        };
        state.take(1, two, &message(own, 0, 9, vec![(reader, 9)]));
        state.take(1, two, &message(other, 0, 5, vec![]));
        let wake = Arc::new(Notify::new());
        let listener = Listener {
            reader,
            wanted: state.told_before(two, reader),
            wake: wake.clone(),
        };
        state.streams.insert(0, listener);
        let woken = || wake.notified().now_or_never().is_some();
        state.take(1, two, &message(other, 1, 8, vec![]));
        assert!(!woken());
        state.take(1, two, &message(other, 2, 9, vec![]));
        assert!(woken());
        assert!(state.told_before(two, reader).0.is_empty(), "all have");
        // Another generation: at once, and when all have come to what its partition tells first.
        let next = |p, to| InvalidationMessage {
            g: 2,
            ..message(p, 7, to, vec![])
        };
        state.take(2, two, &next(own, 12));
        assert!(woken());
        state.take(2, two, &next(other, 11));
        assert!(!woken());
        let told = InvalidationMessage {
            n: 8,
            ..next(other, 12)
        };
        state.take(2, two, &told);
        assert!(woken());
    }

    #[test]
    fn a_stream_whose_timeline_is_back_is_woken_without_an_entry() {
        let (reader, [own, other], mut woken_by) = one_stream();
        assert!(!woken_by(message(own, 0, 1, vec![])));
        assert!(woken_by(message(other, 0, 1, vec![])));
        let back = InvalidationMessage {
            invalidations: [Invalidation::Timeline(reader)].into(),
            ..message(own, 1, 6, vec![])
        };
        assert!(!woken_by(back));
        assert!(!woken_by(message(other, 1, 5, vec![])));
        assert!(woken_by(message(other, 2, 6, vec![])));
    }

    #[test]
    fn a_stream_is_woken_for_each_entry_while_another_partition_lags_steadily() {
        let (reader, [own, other], mut woken_by) = one_stream();
        assert!(!woken_by(message(other, 0, 5, vec![])));
        let mut woken = Vec::new();
        for n in 0..50 {
            // Entry by entry; the other partition is five entries behind all the time.
            let seq = 10 * (n + 1);
            assert!(!woken_by(message(own, n, seq, vec![(reader, seq)])));
            let behind = seq.saturating_sub(45);
            if woken_by(message(other, n + 1, behind.max(5), vec![])) {
                woken.push(behind);
            }
        }
        let expected: Vec<u64> = (1..46).map(|n| 10 * n + 5).collect();
        assert_eq!(woken, expected, "each as soon as all have applied it");
    }

    #[test]
    fn what_a_stream_waits_for_is_bounded_and_its_ends_are_exact() {
        let mut wanted = Wanted::default();
        (1..=1_000).for_each(|seq| wanted.add(seq * 2));
        assert_eq!(wanted.0.len(), MOST_WANTED);
        assert!(!wanted.reached(1));
        assert!(wanted.reached(2) && wanted.reached(5) && !wanted.reached(5));
        assert!(wanted.reached(1_999) && !wanted.reached(1_999));
        assert!(wanted.reached(2_000) && wanted.0.is_empty());
    }
}
