//! All caches of this replica, and what the invalidation messages of the fold do to them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::contract::ids::{EntryId, PostId, UserId};
use shared::contract::partition::{Partition, Partitions};
use shared::contract::time::{Clock, SystemClock};

use super::freshness::{Quickest, SILENCE};
use super::newest::{AuthorFeed, Timeline};
use super::slots::{CacheSlots, LONGEST, LoadTicket, Lookup, ReadFrom, Remembered};
use super::values::{Edges, Post, Pulled, Reactions};
use crate::views::documents::UserRow;
use crate::views::entry::TimelineItem;
use crate::views::invalidation::{Fanout, Invalidation, InvalidationMessage};

/// Author feeds that changed, remembered by name.
const MOST_CHANGED: usize = 4_096;

/// All that is remembered. The numbers bound each kind; together they stay below 150 MB.
pub struct Caches {
    partitions: Partitions,
    epoch: AtomicU64,
    heard: Mutex<HashMap<Partition, Heard>>,
    changed: Mutex<Changed>,
    pub posts: CacheSlots<PostId, Post>,
    pub users: CacheSlots<UserId, UserRow>,
    pub follower_counts: CacheSlots<UserId, i64>,
    pub reactions: CacheSlots<(PostId, UserId), Reactions>,
    pub author_feeds: CacheSlots<UserId, AuthorFeed>,
    /// Reposts whose author feed row stands.
    pub standing: CacheSlots<EntryId, ()>,
    pub timelines: CacheSlots<UserId, Timeline>,
    pub edges: CacheSlots<UserId, Edges>,
    pub pulled: CacheSlots<Partition, Pulled>,
    /// A name is its user's for ever, so that this needs no message.
    pub names: moka::sync::Cache<String, UserId>,
}

/// Authors whose author feeds messages named, in their order: the last ones, and how many in all.
#[derive(Default)]
struct Changed {
    count: u64,
    last: VecDeque<UserId>,
}

/// What was known when a load began, for what is made of many author feeds.
pub struct Since {
    epoch: u64,
    changed: u64,
    at: Instant,
}

/// The last message of a partition.
#[derive(Clone, Copy, Debug)]
struct Heard {
    hold: u64,
    n: u64,
    to: u64,
    /// When it came, and how old it was by then.
    at: Instant,
    late: Duration,
    /// The quickest way of this holder's messages, if they say when they are sent.
    quickest: Option<Quickest>,
}

impl Caches {
    pub fn new(partitions: Partitions) -> Self {
        Self {
            partitions,
            epoch: AtomicU64::new(0),
            heard: Mutex::default(),
            changed: Mutex::default(),
            posts: CacheSlots::new("posts", 40_000),
            users: CacheSlots::new("users", 40_000),
            follower_counts: CacheSlots::new("follower_counts", 40_000),
            reactions: CacheSlots::new("reactions", 200_000),
            author_feeds: CacheSlots::new("outboxes", 4_000),
            standing: CacheSlots::new("reposts", 100_000),
            timelines: CacheSlots::new("timelines", 10_000),
            edges: CacheSlots::new("edges", 2_000),
            pulled: CacheSlots::new("pulled", u64::from(Partitions::MAX)),
            names: moka::sync::Cache::new(40_000),
        }
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<Partition, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before a load of many author feeds begins.
    pub fn since_now(&self) -> Since {
        Since {
            epoch: self.epoch.load(Ordering::Acquire),
            changed: self.changed().count,
            at: Instant::now(),
        }
    }

    /// Whether no author feed of those involved can have changed since.
    pub fn unchanged(&self, since: &Since, involved: impl Fn(UserId) -> bool) -> bool {
        let epoch = self.epoch.load(Ordering::Acquire);
        let changed = self.changed();
        let later = usize::try_from(changed.count - since.changed).unwrap_or(usize::MAX);
        let Some(known) = changed.last.len().checked_sub(later) else {
            return false;
        };
        epoch == since.epoch
            && since.at.elapsed() < LONGEST
            && !changed.last.range(known..).any(|author| involved(*author))
    }

    fn has_changed(&self, author: UserId) {
        let mut changed = self.changed();
        changed.count += 1;
        changed.last.push_back(author);
        if changed.last.len() > MOST_CHANGED {
            changed.last.pop_front();
        }
    }

    /// Whether every partition has said something lately, and by its own time, so that nothing is
    /// older than the last messages and they are not old themselves.
    pub fn is_fresh(&self) -> bool {
        let heard = self.heard();
        self.partitions.all().all(|partition| {
            heard
                .get(&partition)
                .is_some_and(|it| it.late + it.at.elapsed() < SILENCE)
        })
    }

    /// Whether a partition's messages have reached a sequence.
    pub fn has_heard(&self, partition: Partition, seq: u64) -> bool {
        self.heard().get(&partition).is_some_and(|it| it.to >= seq)
    }

    /// Drops or extends what a message names; forgets everything if one before it was missed.
    pub fn take(&self, message: &InvalidationMessage) {
        let before = self.heard().get(&Partition(message.p)).copied();
        // Another holder has another clock.
        let same_holder = before.filter(|it| it.hold == message.hold);
        let quickest = same_holder.and_then(|it| it.quickest);
        let (quickest, late) = match message.sent {
            Some(sent) => {
                let now = SystemClock.now().millis();
                let (quickest, late) = Quickest::count(quickest, sent, now);
                (Some(quickest), late)
            }
            None => (None, Duration::ZERO),
        };
        let now = Heard {
            hold: message.hold,
            n: message.n,
            to: message.to,
            at: Instant::now(),
            late,
            quickest,
        };
        let follows = same_holder.is_some_and(|it| it.n + 1 == now.n);
        if message.all || !follows {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        for delivered in &message.delivered {
            self.deliver(delivered);
        }
        // Sorted: see [`Invalidation`].
        for invalidation in &message.invalidations {
            self.take_one(message, invalidation);
        }
        // Last: who sees that this was heard sees what it said.
        self.heard().insert(Partition(message.p), now);
    }

    fn deliver(&self, delivered: &Fanout) {
        let item = TimelineItem {
            entry: delivered.entry,
            post: delivered.post,
            by: delivered.by,
        };
        for reader in &delivered.to {
            self.timelines.append(reader, item);
        }
    }

    fn take_one(&self, message: &InvalidationMessage, invalidation: &Invalidation) {
        match invalidation {
            Invalidation::Post(post) => self.posts.invalidate(post),
            Invalidation::Deleted(post) => self.posts.evict(post),
            Invalidation::User(user) => {
                self.users.invalidate(user);
                self.follower_counts.invalidate(user);
            }
            Invalidation::Standing(user) => self.users.evict(user),
            Invalidation::Reaction(post, user) => self.reactions.invalidate(&(*post, *user)),
            Invalidation::AuthorFeed(author) => {
                self.has_changed(*author);
                self.author_feeds.invalidate(author);
            }
            Invalidation::Withdrawn(author, entry) => {
                self.has_changed(*author);
                self.standing.evict(entry);
                self.author_feeds.evict(author);
            }
            Invalidation::Timeline(reader) => self.timelines.invalidate(reader),
            Invalidation::Edges(reader) => self.edges.invalidate(reader),
            Invalidation::Unfollowed(reader) => self.edges.evict(reader),
            Invalidation::Pulled => self.pulled.invalidate(&Partition(message.p)),
        }
    }

    /// What is remembered of a key, or leave to load it.
    pub fn look<K, V>(&self, from: ReadFrom, slots: &CacheSlots<K, V>, key: &K) -> Lookup<V>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Remembered,
    {
        // Before the slot is looked at: whatever is missed from here on ends this epoch.
        slots.look(self.epoch.load(Ordering::Acquire), from, key)
    }

    /// Leave to load a key again, whatever is remembered of it.
    pub fn load<K, V>(&self, slots: &CacheSlots<K, V>, key: &K) -> LoadTicket<V>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Remembered,
    {
        slots.load(self.epoch.load(Ordering::Acquire), key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::newest::NewestItems;
    use super::*;
    use shared::contract::ids::Id;

    fn message(hold: u64, n: u64, invalidations: &[Invalidation]) -> InvalidationMessage {
        InvalidationMessage {
            hold,
            n,
            to: n,
            invalidations: invalidations.iter().copied().collect(),
            ..InvalidationMessage::default()
        }
    }

    fn caches() -> Caches {
        let caches = Caches::new(Partitions::new(1).unwrap());
        caches.take(&message(7, 0, &[]));
        caches
    }

    fn hit(caches: &Caches, key: UserId) -> Option<i64> {
        match caches.look(ReadFrom::CacheThenDatabase, &caches.follower_counts, &key) {
            Lookup::Hit(value) => Some(*value),
            Lookup::Miss(_) => None,
        }
    }

    fn load(caches: &Caches, key: UserId) -> LoadTicket<i64> {
        caches.load(&caches.follower_counts, &key)
    }

    const KEY: i64 = 5;

    #[test]
    fn what_many_feeds_made_holds_until_one_of_them_changes_or_too_many_do() {
        let (caches, mine, other) = (caches(), Id::new(1).unwrap(), Id::new(2).unwrap());
        let involved = |author| author == mine;
        let mut n = 0;
        let mut touch = |author| {
            n += 1;
            caches.take(&message(7, n, &[Invalidation::AuthorFeed(author)]));
        };
        let since = caches.since_now();
        touch(other);
        assert!(caches.unchanged(&since, involved));
        touch(mine);
        assert!(!caches.unchanged(&since, involved));
        let since = caches.since_now();
        (0..MOST_CHANGED).for_each(|_| touch(other));
        assert!(caches.unchanged(&since, involved));
        touch(other);
        assert!(!caches.unchanged(&since, involved), "who knows which");
        let since = caches.since_now();
        caches.take(&message(8, 0, &[]));
        assert!(!caches.unchanged(&since, involved), "a message was missed");
    }

    #[test]
    fn a_load_that_began_before_a_change_is_not_remembered_after_it() {
        let (caches, key) = (caches(), Id::new(KEY).unwrap());
        let loading = load(&caches, key);
        caches.take(&message(7, 1, &[Invalidation::User(key)]));
        loading.store(Arc::new(1));
        assert_eq!(hit(&caches, key), None);
        load(&caches, key).store(Arc::new(2));
        assert_eq!(hit(&caches, key), Some(2));
        caches.take(&message(
            7,
            2,
            &[Invalidation::User(Id::new(KEY + 1).unwrap())],
        ));
        assert_eq!(hit(&caches, key), Some(2), "others' changes do not matter");
        caches.take(&message(7, 3, &[Invalidation::User(key)]));
        assert_eq!(hit(&caches, key), None);
    }

    #[test]
    fn what_was_taken_back_is_not_kept_for_bad_times() {
        let (caches, reader) = (caches(), Id::new(KEY).unwrap());
        let edges = || caches.look(ReadFrom::StaleCache, &caches.edges, &reader);
        caches
            .load(&caches.edges, &reader)
            .store(Arc::new(Edges::default()));
        caches.take(&message(7, 1, &[Invalidation::Edges(reader)]));
        assert!(matches!(edges(), Lookup::Hit(_)), "one more is no reason");
        caches.take(&message(7, 2, &[Invalidation::Unfollowed(reader)]));
        assert!(matches!(edges(), Lookup::Miss(_)));
    }

    #[test]
    fn whoever_misses_a_notice_forgets_everything_and_keeps_it_for_bad_times() {
        let (caches, key) = (caches(), Id::new(KEY).unwrap());
        for (hold, n, all, known) in [
            (7, 1, false, true),
            (7, 3, false, false),
            (7, 4, true, false),
            (8, 0, false, false),
            (8, 1, false, true),
        ] {
            let loading = load(&caches, key);
            loading.store(Arc::new(1));
            caches.take(&InvalidationMessage {
                all,
                ..message(hold, n, &[])
            });
            assert_eq!(hit(&caches, key).is_some(), known, "{hold} {n}");
            let stale = caches.look(ReadFrom::StaleCache, &caches.follower_counts, &key);
            assert!(matches!(stale, Lookup::Hit(_)));
        }
        // A load across a gap began in an epoch that is over.
        let loading = load(&caches, key);
        caches.take(&message(8, 9, &[]));
        loading.store(Arc::new(1));
        assert_eq!(hit(&caches, key), None);
    }

    #[test]
    fn nothing_is_fresh_until_every_partition_was_heard() {
        let caches = Caches::new(Partitions::new(2).unwrap());
        assert!(!caches.is_fresh());
        caches.take(&message(1, 0, &[]));
        assert!(!caches.is_fresh() && caches.has_heard(Partition(0), 0));
        caches.take(&InvalidationMessage {
            p: 1,
            ..message(1, 4, &[])
        });
        assert!(caches.is_fresh() && caches.has_heard(Partition(1), 4));
        assert!(!caches.has_heard(Partition(1), 5));
    }

    #[test]
    fn a_notice_that_comes_late_makes_nothing_fresh() {
        let caches = Caches::new(Partitions::new(1).unwrap());
        let told = |n, ago: Option<i64>| {
            let sent = ago.map(|ago| SystemClock.now().millis() - ago);
            caches.take(&InvalidationMessage {
                sent,
                ..message(1, n, &[])
            });
            caches.is_fresh()
        };
        assert!(told(0, None), "a build of before");
        // Clocks that differ: theirs is 0.9 s ahead.
        assert!(told(1, Some(-900)) && told(2, Some(-900)));
        // Held up for 3.5 s on the way, and then for 5 s.
        assert!(!told(3, Some(2_600)) && !told(4, Some(4_100)));
        assert!(
            caches.has_heard(Partition(0), 4),
            "it was told all the same"
        );
        assert!(told(5, Some(-900)));
    }

    fn item(entry: i64) -> TimelineItem {
        TimelineItem {
            entry: Id::new(entry).unwrap(),
            post: Id::new(entry).unwrap(),
            by: Id::new(1).unwrap(),
        }
    }

    fn ids(items: &[TimelineItem]) -> Vec<i64> {
        items.iter().map(|item| item.entry.get()).collect()
    }

    #[test]
    fn a_delivered_entry_extends_the_timeline_that_is_remembered() {
        let (caches, reader) = (caches(), Id::new(KEY).unwrap());
        let look = || match caches.look(ReadFrom::CacheThenDatabase, &caches.timelines, &reader) {
            Lookup::Hit(head) => Ok(ids(&head.items)),
            Lookup::Miss(loading) => Err(loading),
        };
        let head = Arc::new(NewestItems::new(vec![item(20)], 10));
        let Err(loading) = look() else { panic!() };
        loading.store(head.clone());
        let delivered = Fanout {
            entry: Id::new(30).unwrap(),
            post: Id::new(30).unwrap(),
            by: Id::new(1).unwrap(),
            seq: 1,
            to: vec![reader],
        };
        let deliver = InvalidationMessage {
            delivered: vec![delivered],
            ..message(7, 1, &[])
        };
        caches.take(&deliver);
        assert_eq!(look().ok(), Some(vec![30, 20]));
        // A load under way may have missed it, and is told.
        let loading = caches.load(&caches.timelines, &reader);
        let next = InvalidationMessage {
            n: 2,
            delivered: vec![Fanout {
                entry: Id::new(40).unwrap(),
                ..deliver.delivered[0].clone()
            }],
            ..deliver.clone()
        };
        caches.take(&next);
        loading.store(Arc::new(NewestItems::new(vec![item(30), item(20)], 10)));
        assert_eq!(look().ok(), Some(vec![40, 30, 20]));
        // Of more than new items it cannot be told.
        let loading = caches.load(&caches.timelines, &reader);
        caches.take(&message(7, 3, &[Invalidation::Timeline(reader)]));
        caches.take(&InvalidationMessage { n: 4, ..deliver });
        loading.store(head);
        assert!(look().is_err());
    }
}
