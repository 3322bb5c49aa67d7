//! Follows the notices of all partitions, hands them to the caches of the views, and wakes the live
//! streams they concern.
//!
//! A stream is woken once every partition has applied what concerns it: then all rows that make
//! an entry true are there, and sequences rise from event to event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use shared::engines::Nats;
use shared::event_stream::Names;
use shared::ids::UserId;
use shared::partition::{Partition, Partitions};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::read_model::CurrentViews;
use crate::read_model::notice::Notice;

/// Live streams that one process serves at the most.
const MOST_STREAMS: usize = 10_000;
/// Of these, to one reader: a person has a few devices. One more ends the oldest, which may well
/// be gone: a connection that was left is noticed when it is next written to.
const MOST_PER_READER: usize = 20;
/// Streams that look at the views at once. One post may wake all of them, and other reads need
/// connections too.
const LOOKS: usize = 16;

/// The live streams of this process. Cloning gives another handle.
#[derive(Clone)]
pub struct Live {
    state: Arc<Mutex<State>>,
    views: CurrentViews,
    places: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    /// The generation of views that the rest speaks of.
    generation: i64,
    applied: HashMap<Partition, u64>,
    /// The last notice of each partition: who sent it, and its number.
    said: HashMap<Partition, (u64, u64)>,
    streams: HashMap<u64, Listener>,
    next: u64,
}

struct Listener {
    reader: UserId,
    /// Wake when all partitions have applied this; 0: nothing to wait for.
    wanted: u64,
    wake: Arc<Notify>,
    ended: CancellationToken,
}

/// One live stream's place; given back when dropped.
pub struct Subscription {
    live: Live,
    id: u64,
    wake: Arc<Notify>,
    ended: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Live {
    pub fn new(views: CurrentViews, stop: CancellationToken) -> Self {
        Self {
            state: Arc::default(),
            views,
            places: Arc::new(Semaphore::new(MOST_STREAMS)),
            looks: Arc::new(Semaphore::new(LOOKS)),
            stop,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to look at the views, in turn; to be given back before anything is sent.
    pub async fn look(&self) -> Option<SemaphorePermit<'_>> {
        self.looks.acquire().await.ok()
    }

    /// A place for a reader's live stream; `None` if all are taken.
    pub fn subscribe(&self, reader: UserId) -> Option<Subscription> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (wake, ended) = (Arc::new(Notify::new()), CancellationToken::new());
        let listener = Listener {
            reader,
            wanted: 0,
            wake: wake.clone(),
            ended: ended.clone(),
        };
        let mut state = self.state();
        let others = state.streams.iter().filter(|(_, it)| it.reader == reader);
        let mut others: Vec<u64> = others.map(|(id, _)| *id).collect();
        others.sort_unstable();
        let too_many = (others.len() + 1).saturating_sub(MOST_PER_READER);
        for oldest in &others[..too_many] {
            if let Some(listener) = state.streams.remove(oldest) {
                listener.ended.cancel();
            }
        }
        let id = state.next;
        state.next += 1;
        state.streams.insert(id, listener);
        metrics::gauge!("query_service_live_streams").set(state.streams.len() as f64);
        Some(Subscription {
            live: self.clone(),
            id,
            wake,
            ended,
            _place: place,
        })
    }

    /// Fires when live streams should come to an end.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Takes notices until `stop`, which comes after that of the streams.
    pub async fn follow(self, nats: Nats, names: Names, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let mut notices = match nats.client.subscribe(names.notices()).await {
                Ok(notices) => notices,
                Err(error) => {
                    warn!(error = %error, "notices cannot be followed");
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    message = notices.next() => match message {
                        Some(message) => {
                            if let Some(notice) = Notice::decode(&message.payload) {
                                self.take(&notice);
                            }
                        }
                        None => break,
                    },
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    fn take(&self, notice: &Notice) {
        let views = self.views.borrow().clone();
        let generation = views.generation().number;
        if notice.g == generation {
            // What is remembered first: who is woken reads it.
            views.take(notice);
            self.state().take(generation, views.partitions(), notice);
        }
    }
}

impl State {
    fn take(&mut self, generation: i64, partitions: Partitions, notice: &Notice) {
        let switched = self.generation != generation;
        if switched {
            self.generation = generation;
            self.applied.clear();
            self.said.clear();
        }
        let partition = Partition(notice.p);
        self.applied.insert(partition, notice.to);
        let said = (notice.hold, notice.n);
        let before = self.said.insert(partition, said);
        // A lost notice may have concerned anybody here.
        let follows = before.is_none_or(|(hold, n)| (hold, n + 1) == said);
        let all = notice.all || !follows;
        let mut readers: HashMap<UserId, u64> = HashMap::new();
        for delivered in &notice.delivered {
            for reader in &delivered.to {
                let seq = readers.entry(*reader).or_default();
                *seq = delivered.seq.max(*seq);
            }
        }
        let pulled = notice.pulled.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
        let applied = |partition| self.applied.get(&partition).copied().unwrap_or(0);
        let applied_by_all = partitions.all().map(applied).min().unwrap_or(0);
        for listener in self.streams.values_mut() {
            if partitions.of(listener.reader) == partition {
                let named = readers.get(&listener.reader).copied().unwrap_or(0);
                let any = if all { notice.to } else { 0 };
                listener.wanted = listener.wanted.max(named).max(pulled).max(any);
            }
            let ripe = listener.wanted > 0 && listener.wanted <= applied_by_all;
            if ripe || switched {
                listener.wanted = 0;
                listener.wake.notify_one();
            }
        }
    }
}

impl Subscription {
    /// Resolves when a newer stream of the same reader took this one's place.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Resolves when there may be something new. A wake-up between two calls is not lost.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.live.state();
        state.streams.remove(&self.id);
        metrics::gauge!("query_service_live_streams").set(state.streams.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_model::notice::Delivered;
    use futures_util::FutureExt;
    use shared::ids::Id;

    fn notice(p: Partition, n: u64, to: u64, delivered: Vec<(UserId, u64)>) -> Notice {
        let delivered = delivered.into_iter().map(|(reader, seq)| Delivered {
            entry: Id::new(1).unwrap(),
            post: Id::new(1).unwrap(),
            by: Id::new(2).unwrap(),
            seq,
            to: vec![reader],
        });
        Notice {
            g: 1,
            p: p.0,
            n,
            to,
            delivered: delivered.collect(),
            ..Notice::default()
        }
    }

    #[test]
    fn a_stream_is_woken_once_all_partitions_have_applied_its_entry() {
        let two = Partitions::new(2).unwrap();
        let reader = Id::new(1).unwrap();
        let own = two.of(reader);
        let other = Partition(1 - own.0);
        let wake = Arc::new(Notify::new());
        let mut state = State {
            generation: 1,
            ..State::default()
        };
        state.streams.insert(
            0,
            Listener {
                reader,
                wanted: 0,
                wake: wake.clone(),
                ended: CancellationToken::new(),
            },
        );
        let mut woken_by = |notice| {
            state.take(1, two, &notice);
            wake.notified().now_or_never().is_some()
        };
        assert!(!woken_by(notice(own, 0, 5, vec![(reader, 4)])));
        assert!(!woken_by(notice(other, 0, 3, vec![])));
        assert!(woken_by(notice(other, 1, 4, vec![])));
        // A gap may have hidden anything.
        assert!(!woken_by(notice(own, 7, 8, vec![])));
        assert!(woken_by(notice(other, 2, 8, vec![])));
    }
}
