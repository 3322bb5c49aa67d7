//! Follows the notices of all partitions, and wakes the live streams they concern.
//!
//! A stream is woken once every partition has applied what concerns it: then all rows that make
//! an entry true are there, and sequences rise from event to event.

pub mod notice;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use shared::engines::Nats;
use shared::event_stream::Names;
use shared::ids::UserId;
use shared::partition::{Partition, Partitions};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use notice::Notice;

/// Live streams that one process serves at the most.
const MOST_STREAMS: usize = 10_000;

/// The live streams of this process. Cloning gives another handle.
#[derive(Clone)]
pub struct Live {
    state: Arc<Mutex<State>>,
    partitions: Partitions,
    generation: i64,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    applied: HashMap<Partition, u64>,
    streams: HashMap<u64, Listener>,
    next: u64,
}

struct Listener {
    reader: UserId,
    partition: Partition,
    /// Wake when all partitions have applied this; 0: nothing to wait for.
    wanted: u64,
    wake: Arc<Notify>,
}

/// One live stream's place; given back when dropped.
pub struct Subscription {
    live: Live,
    id: u64,
    wake: Arc<Notify>,
    _place: OwnedSemaphorePermit,
}

impl Live {
    pub fn new(generation: i64, partitions: Partitions, stop: CancellationToken) -> Self {
        Self {
            state: Arc::default(),
            partitions,
            generation,
            places: Arc::new(Semaphore::new(MOST_STREAMS)),
            stop,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a reader's live stream; `None` if all are taken.
    pub fn subscribe(&self, reader: UserId) -> Option<Subscription> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let wake = Arc::new(Notify::new());
        let listener = Listener {
            reader,
            partition: self.partitions.of(reader),
            wanted: 0,
            wake: wake.clone(),
        };
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.streams.insert(id, listener);
        metrics::gauge!("query_service_live_streams").set(state.streams.len() as f64);
        Some(Subscription {
            live: self.clone(),
            id,
            wake,
            _place: place,
        })
    }

    /// Fires when live streams should come to an end.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Takes notices until the process stops.
    pub async fn follow(self, nats: Nats, names: Names) {
        while !self.stop.is_cancelled() {
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
                    () = self.stop.cancelled() => return,
                }
            }
        }
    }

    fn take(&self, notice: &Notice) {
        if notice.g != self.generation {
            return;
        }
        let mut state = self.state();
        let partition = Partition(notice.p);
        let before = state.applied.insert(partition, notice.to);
        // A lost notice may have concerned anybody here.
        let all = notice.all || before.is_some_and(|before| before < notice.from);
        let readers: HashMap<UserId, u64> = notice.readers.iter().copied().collect();
        let pulled = notice.pulled.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
        let all_at = self
            .partitions
            .all()
            .map(|p| state.applied.get(&p).copied().unwrap_or(0))
            .min()
            .unwrap_or(0);
        for listener in state.streams.values_mut() {
            if listener.partition == partition {
                let named = readers.get(&listener.reader).copied().unwrap_or(0);
                let any = if all { notice.to } else { 0 };
                listener.wanted = listener.wanted.max(named).max(pulled).max(any);
            }
            if listener.wanted > 0 && listener.wanted <= all_at {
                listener.wanted = 0;
                listener.wake.notify_one();
            }
        }
    }
}

impl Subscription {
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
    use futures_util::FutureExt;
    use shared::ids::Id;

    fn live() -> Live {
        Live::new(1, Partitions::new(2).unwrap(), CancellationToken::new())
    }

    fn notice(p: u16, from: u64, to: u64, readers: Vec<(UserId, u64)>) -> Notice {
        Notice {
            g: 1,
            p,
            from,
            to,
            readers,
            ..Notice::default()
        }
    }

    #[test]
    fn a_stream_is_woken_once_all_partitions_have_applied_its_entry() {
        let live = live();
        let reader = Id::new(1).unwrap();
        let (own, other) = match live.partitions.of(reader) {
            Partition(0) => (0, 1),
            Partition(_) => (1, 0),
        };
        let stream = live.subscribe(reader).unwrap();
        live.take(&notice(own, 0, 5, vec![(reader, 4)]));
        assert!(stream.woken().now_or_never().is_none());
        live.take(&notice(other, 0, 3, vec![]));
        assert!(stream.woken().now_or_never().is_none());
        live.take(&notice(other, 3, 4, vec![]));
        assert!(stream.woken().now_or_never().is_some());
        // A gap may have hidden anything.
        live.take(&notice(own, 7, 8, vec![]));
        live.take(&notice(other, 4, 8, vec![]));
        assert!(stream.woken().now_or_never().is_some());
    }
}
