//! What this replica remembers of the views, and when it may still say it.
//!
//! * A key has a *slot*, made before its first load begins. A notice that names the key counts the
//!   slot's version up and drops (or extends) the value. A load stores what it found only if the
//!   version is still the one it began with, or if all that came since are new items, which are
//!   added: what was loaded before a change is never remembered after it.
//! * Whoever misses a notice forgets everything: the epoch counts up, values of older epochs are
//!   no hits. So does a partition's new holder, who cannot know what the one before did not tell.
//! * Nothing is a hit while the last notice of any partition was sent [`SILENCE`] ago or longer
//!   (`freshness`), nor after [`LONGEST`].
//! * What is no hit any more is still kept for when the database is away ([`Mode::Stale`]); but
//!   not what somebody took back: a deleted post, an ended edge, a profile that is gone.
//!
//! A slot may be evicted at any time. A load that then stores into it stores into nowhere: the
//! next reader makes a new slot.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::ids::{EntryId, PostId, UserId};
use shared::partition::{Partition, Partitions};
use shared::time::{Clock, SystemClock};

use super::entry::TimelineItem;
use super::freshness::{CLOCKS, Quickest};
use super::notice::{Delivered, Notice, Touched};
use super::rows::{PostRow, UserRow};

/// A partition speaks at least each second.
const SILENCE: Duration = Duration::from_secs(3);
/// Nothing is a hit for longer, whatever was told.
const LONGEST: Duration = Duration::from_secs(60);
/// What nobody has asked for in this time is not kept.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// New items that a slot keeps for loads under way.
const MOST_RECENT: usize = 64;
/// Entries of one cached timeline, of one cached outbox.
pub(super) const MOST_ENTRIES: usize = 200;

/// Outboxes that changed, remembered by name.
const MOST_CHANGED: usize = 4_096;

/// Where a read may get its answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    /// From what is remembered, and else from the database.
    Cached,
    /// From the database alone.
    Direct,
    /// From what is remembered alone, and only where it may be told as if just read.
    Memory,
    /// From what is remembered alone, however old: the database is away.
    Stale,
}

/// All that is remembered. The numbers bound each kind; together they stay below 150 MB.
pub(super) struct Caches {
    partitions: Partitions,
    epoch: AtomicU64,
    heard: Mutex<HashMap<Partition, Heard>>,
    changed: Mutex<Changed>,
    pub posts: Slots<PostId, Post>,
    pub users: Slots<UserId, UserRow>,
    pub follower_counts: Slots<UserId, i64>,
    pub reactions: Slots<(PostId, UserId), Reactions>,
    pub outboxes: Slots<UserId, Outbox>,
    /// Reposts whose outbox row stands.
    pub standing: Slots<EntryId, ()>,
    pub timelines: Slots<UserId, Timeline>,
    pub edges: Slots<UserId, Edges>,
    pub pulled: Slots<Partition, Pulled>,
    /// A name is its user's for ever, so that this needs no notice.
    pub names: moka::sync::Cache<String, UserId>,
}

/// Authors whose outboxes notices named, in their order: the last ones, and how many in all.
#[derive(Default)]
struct Changed {
    count: u64,
    last: VecDeque<UserId>,
}

/// What was known when a load began, for what is made of many outboxes.
pub(super) struct Since {
    epoch: u64,
    changed: u64,
    at: Instant,
}

/// The last notice of a partition.
#[derive(Clone, Copy, Debug)]
struct Heard {
    hold: u64,
    n: u64,
    to: u64,
    /// When it came, and how old it was by then.
    at: Instant,
    late: Duration,
    /// The quickest way of this holder's notices, if they say when they are sent.
    quickest: Option<Quickest>,
}

/// A post, with what all its readers are sent alike.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub row: PostRow,
    /// Serialized once: see [`super::view::PostView`].
    pub rendered: Option<Arc<str>>,
}

/// What one user did to one post.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Reactions {
    pub liked: bool,
    pub reposted: bool,
}

/// Whom a reader follows. Both sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    pub following: Vec<UserId>,
    /// Of those, whose older entries are not inserted yet.
    pub pending: Vec<UserId>,
    pub lately: Lately,
}

/// Authors who were pulled, or not followed, when this was loaded before.
///
/// A load sees the views as they are, which may be ahead of the notices: the entries that made
/// it needless to pull them may be missing in what is remembered of timelines. So they are pulled
/// until the notices must have come, or nothing is fresh.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately(Option<(Instant, Vec<UserId>)>);

impl Lately {
    pub fn new(authors: Vec<UserId>) -> Self {
        Self((!authors.is_empty()).then(|| (Instant::now(), authors)))
    }

    pub fn authors(&self) -> &[UserId] {
        match &self.0 {
            // A notice that is believed may be older by what clocks may differ.
            Some((loaded, authors)) if loaded.elapsed() < SILENCE + CLOCKS => authors,
            Some(_) | None => &[],
        }
    }
}

/// The authors whom all their readers in a partition pull. Sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulled {
    pub authors: Vec<UserId>,
    pub lately: Lately,
}

/// The newest items of something.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Newest first.
    items: Vec<TimelineItem>,
    /// Everything above this id is in `items`.
    pub complete_above: i64,
}

pub(super) type Timeline = Head;
pub(super) type Outbox = Head;

/// What a slot can remember.
pub(super) trait Remembered: Clone + Send + Sync + 'static {
    /// Adds a new item, where there are items.
    fn extend(&mut self, _line: TimelineItem) {}
}

impl Remembered for Head {
    fn extend(&mut self, item: TimelineItem) {
        self.insert(item);
    }
}

impl Remembered for Post {}
impl Remembered for UserRow {}
impl Remembered for i64 {}
impl Remembered for Reactions {}
impl Remembered for () {}
impl Remembered for Edges {}
impl Remembered for Pulled {}

impl Head {
    /// `items` are all there are above `complete_above`, newest first.
    pub fn new(items: Vec<TimelineItem>, complete_above: i64) -> Self {
        let mut head = Self {
            items,
            complete_above,
        };
        head.bound();
        head
    }

    /// At most `most` items below `before`, newest first, and above what they are complete.
    pub fn below(&self, before: i64, most: usize) -> (Vec<TimelineItem>, i64) {
        let begin = self
            .items
            .partition_point(|item| item.entry.get() >= before);
        let items: Vec<TimelineItem> = self.items[begin..].iter().take(most).copied().collect();
        let complete_above = match items.last() {
            Some(last) if items.len() == most => last.entry.get() - 1,
            Some(_) | None => self.complete_above,
        };
        (items, complete_above)
    }

    fn insert(&mut self, item: TimelineItem) {
        if item.entry.get() <= self.complete_above {
            return;
        }
        let at = self.items.partition_point(|other| other.entry > item.entry);
        if self
            .items
            .get(at)
            .is_none_or(|other| other.entry != item.entry)
        {
            self.items.insert(at, item);
            self.bound();
        }
    }

    fn bound(&mut self) {
        if let Some(first_out) = self.items.get(MOST_ENTRIES) {
            self.complete_above = self.complete_above.max(first_out.entry.get());
            self.items.truncate(MOST_ENTRIES);
        }
    }
}

impl Caches {
    pub fn new(partitions: Partitions) -> Self {
        Self {
            partitions,
            epoch: AtomicU64::new(0),
            heard: Mutex::default(),
            changed: Mutex::default(),
            posts: Slots::new("posts", 40_000),
            users: Slots::new("users", 40_000),
            follower_counts: Slots::new("follower_counts", 40_000),
            reactions: Slots::new("reactions", 200_000),
            outboxes: Slots::new("outboxes", 4_000),
            standing: Slots::new("reposts", 100_000),
            timelines: Slots::new("timelines", 10_000),
            edges: Slots::new("edges", 2_000),
            pulled: Slots::new("pulled", u64::from(Partitions::MAX)),
            names: moka::sync::Cache::new(40_000),
        }
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<Partition, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before a load of many outboxes begins.
    pub fn since_now(&self) -> Since {
        Since {
            epoch: self.epoch.load(Ordering::Acquire),
            changed: self.changed().count,
            at: Instant::now(),
        }
    }

    /// Whether no outbox of those involved can have changed since.
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
    /// older than the last notices and they are not old themselves.
    pub fn is_fresh(&self) -> bool {
        let heard = self.heard();
        self.partitions.all().all(|partition| {
            heard
                .get(&partition)
                .is_some_and(|it| it.late + it.at.elapsed() < SILENCE)
        })
    }

    /// Whether a partition's notices have reached a sequence.
    pub fn has_heard(&self, partition: Partition, seq: u64) -> bool {
        self.heard().get(&partition).is_some_and(|it| it.to >= seq)
    }

    /// Drops or extends what a notice names; forgets everything if one before it was missed.
    pub fn take(&self, notice: &Notice) {
        let before = self.heard().get(&Partition(notice.p)).copied();
        // Another holder has another clock.
        let same_holder = before.filter(|it| it.hold == notice.hold);
        let quickest = same_holder.and_then(|it| it.quickest);
        let (quickest, late) = match notice.sent {
            Some(sent) => {
                let now = SystemClock.now().millis();
                let (quickest, late) = Quickest::count(quickest, sent, now);
                (Some(quickest), late)
            }
            None => (None, Duration::ZERO),
        };
        let now = Heard {
            hold: notice.hold,
            n: notice.n,
            to: notice.to,
            at: Instant::now(),
            late,
            quickest,
        };
        let follows = same_holder.is_some_and(|it| it.n + 1 == now.n);
        if notice.all || !follows {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        for delivered in &notice.delivered {
            self.deliver(delivered);
        }
        // Sorted: see [`Touched`].
        for touched in &notice.touched {
            self.touch(notice, touched);
        }
        // Last: who sees that this was heard sees what it said.
        self.heard().insert(Partition(notice.p), now);
    }

    fn deliver(&self, delivered: &Delivered) {
        let item = TimelineItem {
            entry: delivered.entry,
            post: delivered.post,
            by: delivered.by,
        };
        for reader in &delivered.to {
            self.timelines.extend(reader, item);
        }
    }

    fn touch(&self, notice: &Notice, touched: &Touched) {
        match touched {
            Touched::Post(post) => self.posts.touch(post),
            Touched::Deleted(post) => self.posts.forget(post),
            Touched::User(user) => {
                self.users.touch(user);
                self.follower_counts.touch(user);
            }
            Touched::Standing(user) => self.users.forget(user),
            Touched::Reaction(post, user) => self.reactions.touch(&(*post, *user)),
            Touched::Outbox(author) => {
                self.has_changed(*author);
                self.outboxes.touch(author);
            }
            Touched::Withdrawn(author, entry) => {
                self.has_changed(*author);
                self.standing.forget(entry);
                self.outboxes.forget(author);
            }
            Touched::Timeline(reader) => self.timelines.touch(reader),
            Touched::Edges(reader) => self.edges.touch(reader),
            Touched::Unfollowed(reader) => self.edges.forget(reader),
            Touched::Pulled => self.pulled.touch(&Partition(notice.p)),
        }
    }

    /// What is remembered of a key, or leave to load it.
    pub fn look<K, V>(&self, mode: Mode, slots: &Slots<K, V>, key: &K) -> Look<V>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Remembered,
    {
        // Before the slot is looked at: whatever is missed from here on ends this epoch.
        let epoch = self.epoch.load(Ordering::Acquire);
        let slot = match mode {
            Mode::Cached | Mode::Direct => slots.slot(key),
            // Nothing is loaded: what is not there need not be made, and make others leave.
            Mode::Memory | Mode::Stale => slots.slots.get(key).unwrap_or_default(),
        };
        let state = slot.state();
        let hit = state.value.as_ref().filter(|cached| match mode {
            Mode::Cached | Mode::Memory => {
                cached.epoch == Some(epoch) && cached.loaded.elapsed() < LONGEST
            }
            Mode::Direct => false,
            Mode::Stale => true,
        });
        if let Some(cached) = hit {
            slots.hits.increment(1);
            return Look::Hit(cached.value.clone());
        }
        // Whoever finds nothing in memory looks again before it loads.
        if mode != Mode::Memory {
            slots.misses.increment(1);
        }
        let version = state.version;
        drop(state);
        Look::Miss(Loading {
            slot,
            version,
            epoch,
        })
    }

    /// What was remembered last, however old.
    pub fn last<K, V>(&self, slots: &Slots<K, V>, key: &K) -> Option<Arc<V>>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Remembered,
    {
        let slot = slots.slots.get(key)?;
        let state = slot.state();
        state.value.as_ref().map(|cached| cached.value.clone())
    }

    /// Leave to load a key again, whatever is remembered of it.
    pub fn load<K, V>(&self, slots: &Slots<K, V>, key: &K) -> Loading<V>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Remembered,
    {
        let epoch = self.epoch.load(Ordering::Acquire);
        let slot = slots.slot(key);
        let version = slot.state().version;
        Loading {
            slot,
            version,
            epoch,
        }
    }
}

/// Labels: `cache` (a fixed set), `outcome` (hit, miss).
pub(super) const LOOKS: &str = "query_service_cache_looks_total";

/// One kind of value by key.
pub(super) struct Slots<K, V> {
    hits: metrics::Counter,
    misses: metrics::Counter,
    slots: moka::sync::Cache<K, Arc<Slot<V>>>,
}

struct Slot<V>(Mutex<State<V>>);

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            version: 0,
            recent: VecDeque::new(),
            value: None,
        }))
    }
}

struct State<V> {
    /// How often the key was named by a notice.
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

pub(super) enum Look<V> {
    Hit(Arc<V>),
    Miss(Loading<V>),
}

/// Leave to store what a load finds.
pub(super) struct Loading<V> {
    slot: Arc<Slot<V>>,
    version: u64,
    epoch: u64,
}

impl<V: Remembered> Loading<V> {
    /// Remembers the value, unless the key changed since the load began by more than new items.
    pub fn store(self, mut value: Arc<V>) {
        let mut state = self.slot.state();
        let missed = usize::try_from(state.version - self.version).unwrap_or(usize::MAX);
        if let Some(known) = state.recent.len().checked_sub(missed) {
            for item in state.recent.range(known..) {
                Arc::make_mut(&mut value).extend(*item);
            }
            state.value = Some(Cached {
                epoch: Some(self.epoch),
                loaded: Instant::now(),
                value,
            });
        }
    }
}

impl<V> Slot<V> {
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Slots<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Remembered,
{
    fn new(name: &'static str, most: u64) -> Self {
        let outcome = |outcome| metrics::counter!(LOOKS, "cache" => name, "outcome" => outcome);
        Self {
            hits: outcome("hit"),
            misses: outcome("miss"),
            slots: moka::sync::Cache::builder()
                .max_capacity(most)
                .time_to_idle(IDLE)
                .build(),
        }
    }

    fn slot(&self, key: &K) -> Arc<Slot<V>> {
        self.slots.get_with(*key, Arc::default)
    }

    /// The value is another now, or may be.
    pub fn touch(&self, key: &K) {
        self.change(key, |value| {
            if let Some(cached) = value {
                cached.epoch = None;
            }
        });
    }

    /// The value must not be told again, not even in bad times.
    fn forget(&self, key: &K) {
        self.change(key, |value| *value = None);
    }

    /// There is a new item; a load under way may have missed it.
    fn extend(&self, key: &K, item: TimelineItem) {
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
            Arc::make_mut(&mut cached.value).extend(item);
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

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ids::Id;

    fn notice(hold: u64, n: u64, touched: &[Touched]) -> Notice {
        Notice {
            hold,
            n,
            to: n,
            touched: touched.iter().copied().collect(),
            ..Notice::default()
        }
    }

    fn caches() -> Caches {
        let caches = Caches::new(Partitions::new(1).unwrap());
        caches.take(&notice(7, 0, &[]));
        caches
    }

    fn hit(caches: &Caches, key: UserId) -> Option<i64> {
        match caches.look(Mode::Cached, &caches.follower_counts, &key) {
            Look::Hit(value) => Some(*value),
            Look::Miss(_) => None,
        }
    }

    fn load(caches: &Caches, key: UserId) -> Loading<i64> {
        caches.load(&caches.follower_counts, &key)
    }

    const KEY: i64 = 5;

    #[test]
    fn what_many_outboxes_made_holds_until_one_of_them_changes_or_too_many_do() {
        let (caches, mine, other) = (caches(), Id::new(1).unwrap(), Id::new(2).unwrap());
        let involved = |author| author == mine;
        let mut n = 0;
        let mut touch = |author| {
            n += 1;
            caches.take(&notice(7, n, &[Touched::Outbox(author)]));
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
        caches.take(&notice(8, 0, &[]));
        assert!(!caches.unchanged(&since, involved), "a notice was missed");
    }

    #[test]
    fn a_load_that_began_before_a_change_is_not_remembered_after_it() {
        let (caches, key) = (caches(), Id::new(KEY).unwrap());
        let loading = load(&caches, key);
        caches.take(&notice(7, 1, &[Touched::User(key)]));
        loading.store(Arc::new(1));
        assert_eq!(hit(&caches, key), None);
        load(&caches, key).store(Arc::new(2));
        assert_eq!(hit(&caches, key), Some(2));
        caches.take(&notice(7, 2, &[Touched::User(Id::new(KEY + 1).unwrap())]));
        assert_eq!(hit(&caches, key), Some(2), "others' changes do not matter");
        caches.take(&notice(7, 3, &[Touched::User(key)]));
        assert_eq!(hit(&caches, key), None);
    }

    #[test]
    fn what_was_taken_back_is_not_kept_for_bad_times() {
        let (caches, reader) = (caches(), Id::new(KEY).unwrap());
        let edges = || caches.look(Mode::Stale, &caches.edges, &reader);
        caches
            .load(&caches.edges, &reader)
            .store(Arc::new(Edges::default()));
        caches.take(&notice(7, 1, &[Touched::Edges(reader)]));
        assert!(matches!(edges(), Look::Hit(_)), "one more is no reason");
        caches.take(&notice(7, 2, &[Touched::Unfollowed(reader)]));
        assert!(matches!(edges(), Look::Miss(_)));
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
            caches.take(&Notice {
                all,
                ..notice(hold, n, &[])
            });
            assert_eq!(hit(&caches, key).is_some(), known, "{hold} {n}");
            let stale = caches.look(Mode::Stale, &caches.follower_counts, &key);
            assert!(matches!(stale, Look::Hit(_)));
        }
        // A load across a gap began in an epoch that is over.
        let loading = load(&caches, key);
        caches.take(&notice(8, 9, &[]));
        loading.store(Arc::new(1));
        assert_eq!(hit(&caches, key), None);
    }

    #[test]
    fn nothing_is_fresh_until_every_partition_was_heard() {
        let caches = Caches::new(Partitions::new(2).unwrap());
        assert!(!caches.is_fresh());
        caches.take(&notice(1, 0, &[]));
        assert!(!caches.is_fresh() && caches.has_heard(Partition(0), 0));
        caches.take(&Notice {
            p: 1,
            ..notice(1, 4, &[])
        });
        assert!(caches.is_fresh() && caches.has_heard(Partition(1), 4));
        assert!(!caches.has_heard(Partition(1), 5));
    }

    #[test]
    fn a_notice_that_comes_late_makes_nothing_fresh() {
        let caches = Caches::new(Partitions::new(1).unwrap());
        let told = |n, ago: Option<i64>| {
            let sent = ago.map(|ago| SystemClock.now().millis() - ago);
            caches.take(&Notice {
                sent,
                ..notice(1, n, &[])
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
    fn a_head_takes_new_lines_in_order_and_says_how_far_it_reaches() {
        let mut head = Head::new(vec![item(30), item(20)], 10);
        for entry in [25, 40, 25, 10, 5] {
            head.insert(item(entry));
        }
        assert_eq!(ids(&head.items), [40, 30, 25, 20]);
        let (items, complete) = head.below(i64::MAX, 10);
        assert_eq!((ids(&items), complete), (vec![40, 30, 25, 20], 10));
        let (items, complete) = head.below(30, 1);
        assert_eq!((ids(&items), complete), (vec![25], 24));
        for entry in 100..100 + MOST_ENTRIES as i64 {
            head.insert(item(entry));
        }
        assert_eq!((head.items.len(), head.complete_above), (MOST_ENTRIES, 40));
    }

    #[test]
    fn a_delivered_entry_extends_the_timeline_that_is_remembered() {
        let (caches, reader) = (caches(), Id::new(KEY).unwrap());
        let look = || match caches.look(Mode::Cached, &caches.timelines, &reader) {
            Look::Hit(head) => Ok(ids(&head.items)),
            Look::Miss(loading) => Err(loading),
        };
        let head = Arc::new(Head::new(vec![item(20)], 10));
        let Err(loading) = look() else { panic!() };
        loading.store(head.clone());
        let delivered = Delivered {
            entry: Id::new(30).unwrap(),
            post: Id::new(30).unwrap(),
            by: Id::new(1).unwrap(),
            seq: 1,
            to: vec![reader],
        };
        let deliver = Notice {
            delivered: vec![delivered],
            ..notice(7, 1, &[])
        };
        caches.take(&deliver);
        assert_eq!(look().ok(), Some(vec![30, 20]));
        // A load under way may have missed it, and is told.
        let loading = caches.load(&caches.timelines, &reader);
        let next = Notice {
            n: 2,
            delivered: vec![Delivered {
                entry: Id::new(40).unwrap(),
                ..deliver.delivered[0].clone()
            }],
            ..deliver.clone()
        };
        caches.take(&next);
        loading.store(Arc::new(Head::new(vec![item(30), item(20)], 10)));
        assert_eq!(look().ok(), Some(vec![40, 30, 20]));
        // Of more than new items it cannot be told.
        let loading = caches.load(&caches.timelines, &reader);
        caches.take(&notice(7, 3, &[Touched::Timeline(reader)]));
        caches.take(&Notice { n: 4, ..deliver });
        loading.store(head);
        assert!(look().is_err());
    }
}
