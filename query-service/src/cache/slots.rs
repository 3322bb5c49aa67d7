//! One cached value a key, and when a load may store what it found.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metric_rows::CACHE_LOOKUPS;
use crate::views::entry::TimelineItem;

/// Nothing is a hit for longer, whatever was told.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// What nobody has asked for in this time is not kept.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// New items that a slot keeps for loads under way.
const MOST_RECENT: usize = 64;

/// Where a read may get its answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadFrom {
    /// From the cache, and else from the database.
    CacheThenDatabase,
    /// From the database alone.
    Database,
    /// From the cache alone, and only what may be answered as if it were just read.
    CacheOnly,
    /// From the cache alone, however old: the database is away.
    StaleCache,
}

/// What a slot can remember.
pub trait Remembered: Clone + Send + Sync + 'static {
    /// Adds a new item, where there are items.
    fn append(&mut self, _item: TimelineItem) {}
}

/// One kind of value by key.
pub struct CacheSlots<K, V> {
    hits: metrics::Counter,
    misses: metrics::Counter,
    slots: moka::sync::Cache<K, Arc<CacheSlot<V>>>,
}

struct CacheSlot<V>(Mutex<State<V>>);

impl<V> Default for CacheSlot<V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            version: 0,
            recent: VecDeque::new(),
            value: None,
        }))
    }
}

struct State<V> {
    /// How often the key was named by a message.
    version: u64,
    /// The last items it was extended by, one a version, up to this one.
    recent: VecDeque<TimelineItem>,
    value: Option<Cached<V>>,
}

struct Cached<V> {
    /// `None`: it is known to have changed.
    epoch: Option<u64>,
    loaded: Instant,
    value: Arc<V>,
}

pub enum Lookup<V> {
    Hit(Arc<V>),
    Miss(LoadTicket<V>),
}

/// Leave to store what a load finds.
pub struct LoadTicket<V> {
    slot: Arc<CacheSlot<V>>,
    version: u64,
    epoch: u64,
}

impl<V: Remembered> LoadTicket<V> {
    /// Remembers the value, unless the key changed since the load began by more than new items.
    pub fn store(self, mut value: Arc<V>) {
        let mut state = self.slot.state();
        let missed = usize::try_from(state.version - self.version).unwrap_or(usize::MAX);
        if let Some(known) = state.recent.len().checked_sub(missed) {
            for item in state.recent.range(known..) {
                Arc::make_mut(&mut value).append(*item);
            }
            state.value = Some(Cached {
                epoch: Some(self.epoch),
                loaded: Instant::now(),
                value,
            });
        }
    }
}

impl<V> CacheSlot<V> {
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> CacheSlots<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Remembered,
{
    pub(super) fn new(name: &'static str, most: u64) -> Self {
        let outcome = |outcome| CACHE_LOOKUPS.of([name, outcome]);
        Self {
            hits: outcome("hit"),
            misses: outcome("miss"),
            slots: moka::sync::Cache::builder()
                .max_capacity(most)
                .time_to_idle(IDLE)
                .build(),
        }
    }

    /// What is remembered of a key, or leave to load it. `epoch` is the one that is not over yet.
    pub(super) fn look(&self, epoch: u64, from: ReadFrom, key: &K) -> Lookup<V> {
        let slot = match from {
            ReadFrom::CacheThenDatabase | ReadFrom::Database => self.slot(key),
            // Nothing is loaded: what is not there need not be made, and make others leave.
            ReadFrom::CacheOnly | ReadFrom::StaleCache => self.slots.get(key).unwrap_or_default(),
        };
        let state = slot.state();
        let hit = state.value.as_ref().filter(|cached| match from {
            ReadFrom::CacheThenDatabase | ReadFrom::CacheOnly => {
                cached.epoch == Some(epoch) && cached.loaded.elapsed() < LONGEST
            }
            ReadFrom::Database => false,
            ReadFrom::StaleCache => true,
        });
        if let Some(cached) = hit {
            self.hits.increment(1);
            return Lookup::Hit(cached.value.clone());
        }
        // A read that finds nothing in the cache looks again before it loads.
        if from != ReadFrom::CacheOnly {
            self.misses.increment(1);
        }
        let version = state.version;
        drop(state);
        Lookup::Miss(LoadTicket {
            slot,
            version,
            epoch,
        })
    }

    /// What was remembered last, however old.
    pub fn last(&self, key: &K) -> Option<Arc<V>> {
        let slot = self.slots.get(key)?;
        let state = slot.state();
        state.value.as_ref().map(|cached| cached.value.clone())
    }

    /// Leave to load a key again, whatever is remembered of it.
    pub(super) fn load(&self, epoch: u64, key: &K) -> LoadTicket<V> {
        let slot = self.slot(key);
        let version = slot.state().version;
        LoadTicket {
            slot,
            version,
            epoch,
        }
    }

    fn slot(&self, key: &K) -> Arc<CacheSlot<V>> {
        self.slots.get_with(*key, Arc::default)
    }

    /// The value is another now, or may be.
    pub fn invalidate(&self, key: &K) {
        self.change(key, |value| {
            if let Some(cached) = value {
                cached.epoch = None;
            }
        });
    }

    /// The value must not be told again, not even in bad times.
    pub(super) fn evict(&self, key: &K) {
        self.change(key, |value| *value = None);
    }

    /// There is a new item; a load under way may have missed it.
    pub(super) fn append(&self, key: &K, item: TimelineItem) {
        let Some(slot) = self.slots.get(key) else {
            return;
        };
        let mut state = slot.state();
        state.version += 1;
        if state.recent.len() == MOST_RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(item);
        if let Some(cached) = &mut state.value {
            Arc::make_mut(&mut cached.value).append(item);
        }
    }

    fn change(&self, key: &K, change: impl FnOnce(&mut Option<Cached<V>>)) {
        // No slot: nobody has loaded it, nor is about to store it.
        if let Some(slot) = self.slots.get(key) {
            let mut state = slot.state();
            state.version += 1;
            // No load that began before this can be told by items alone.
            state.recent.clear();
            change(&mut state.value);
        }
    }
}
