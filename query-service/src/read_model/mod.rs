//! The only reader and writer of the views.
//!
//! * `rows`, `keys`, `generation`: what is stored, and where.
//! * [`changes`], [`mod@write`], [`readers`], [`dead_letters`]: how the fold writes.
//! * [`timeline`], [`people`], [`posts`]: how readers read; [`newer`]: how live streams do.
//! * `visibility`, [`view`]: what of it is shown, and how it looks.
//! * `windows`: how lists are read, whatever their length; `merge`: many of them as one.
//! * [`budget`]: what one read may cost.
//! * [`cursor`]: where a page ended.
//! * [`notice`], `cache`, `freshness`: what replicas are told of changes, and what they remember
//!   until then.
//! * [`addresses`]: takes out what earlier builds have stored of them.
//! * [`sabotage`]: faults that tests build in.
//!
//! An entry is a hint, rows are the truth: every answer is checked against the edges, posts and
//! users that make it true.

pub mod addresses;
pub mod budget;
mod cache;
pub mod changes;
pub mod cursor;
pub mod dead_letters;
mod freshness;
pub mod generation;
pub mod keys;
mod merge;
pub mod newer;
pub mod notice;
pub mod people;
pub mod posts;
pub mod readers;
pub mod rows;
pub mod sabotage;
mod switch;
pub mod timeline;
pub mod view;
mod visibility;
mod windows;
pub mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use serde::de::DeserializeOwned;
use shared::consistency::ConsistencyToken;
use shared::events::LogStream;
use shared::ids::UserId;
use shared::partition::{Partition, Partitions};

use budget::ReadBudget;
use cache::{Caches, Look, Mode, Slots};
use cursor::CursorKey;
use generation::{Catalog, Generation, View};
use keys::Key;
use merge::Merged;
use newer::Walks;
use notice::Notice;
use windows::Reach;

/// Why the views could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("the views' database failed")]
    Database(#[from] mongodb::error::Error),
    #[error("the views' database is away: it was not asked")]
    Away,
    #[error("the views hold something that cannot be read: {0}")]
    Corrupt(&'static str),
    #[error("the database refused a write: {0}")]
    Refused(String),
    #[error("the cursor is not one of ours")]
    BadCursor,
    #[error("the write is not visible yet")]
    NotYetVisible,
    #[error("the answer is not remembered, and the database not asked")]
    NotRemembered,
    #[error("nobody waits for this read any more")]
    Abandoned,
    #[error("too many live streams look through many outboxes: look again")]
    Busy,
    #[error("this read is an expensive one: it needs {permits} permits for it")]
    Expensive { permits: u32 },
    #[error(
        "the views are folded in {recorded} partitions, but PARTITIONS is {wanted}: start with PARTITIONS={recorded}, or change it with `query-service rebuild`"
    )]
    OtherPartitions { recorded: u16, wanted: u16 },
}

impl ViewError {
    /// Whether the database could not be reached, rather than said something we do not like.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Database(error) => shared::engines::is_away(error),
            Self::Away => true,
            Self::Corrupt(_)
            | Self::Refused(_)
            | Self::BadCursor
            | Self::NotYetVisible
            | Self::NotRemembered
            | Self::Abandoned
            | Self::Busy
            | Self::Expensive { .. }
            | Self::OtherPartitions { .. } => false,
        }
    }
}

/// The views that readers are shown at the moment: a rebuild may switch them.
pub type CurrentViews = tokio::sync::watch::Receiver<Views>;

/// The views of one generation. Cloning gives another handle.
///
/// A handle reads from the database alone, unless it was made by [`Views::cached`].
#[derive(Clone)]
pub struct Views {
    inner: Arc<Inner>,
    mode: Mode,
    budget: Option<ReadBudget>,
    sabotage: Option<sabotage::Sabotage>,
}

/// Reading is noted once in this time: days matter.
const SEEN_AGAIN: Duration = Duration::from_secs(600);

struct Inner {
    generation: Generation,
    /// Names the database of views in notices.
    id: i64,
    cursors: CursorKey,
    /// How far back a reader's last page reached, in milliseconds.
    windows: moka::sync::Cache<UserId, i64>,
    /// How lists are spread over ids: which view, whose list.
    reaches: moka::sync::Cache<(View, i64), Reach>,
    /// The ids that a merge for a reader spans, and what the last one found.
    depths: moka::sync::Cache<UserId, i64>,
    merged: moka::sync::Cache<UserId, Arc<Merged>>,
    seeks_many_ranges: bool,
    walks: Walks,
    caches: Caches,
    /// Readers noted as seen a little while ago.
    seen: moka::sync::Cache<UserId, ()>,
    passed: write::Passed,
}

impl Views {
    /// Opens the current generation, and makes it if there is none.
    pub async fn open(db: &Database, partitions: Partitions) -> Result<Self, ViewError> {
        let generation = Catalog::new(db).current_with(partitions).await?;
        Self::of(generation).await
    }

    /// Opens one generation.
    pub async fn of(generation: Generation) -> Result<Self, ViewError> {
        generation.prepare().await?;
        let cursors = cursor_key(generation.database()).await?;
        let windows = moka::sync::Cache::builder().max_capacity(100_000).build();
        let reaches = moka::sync::Cache::builder().max_capacity(100_000).build();
        let depths = moka::sync::Cache::builder().max_capacity(100_000).build();
        // Up to 50 KB each.
        let merged = moka::sync::Cache::builder()
            .max_capacity(1_000)
            .time_to_live(Duration::from_secs(60))
            .build();
        let seen = moka::sync::Cache::builder()
            .max_capacity(100_000)
            .time_to_live(SEEN_AGAIN)
            .build();
        let id = Catalog::new(generation.database()).views_id().await?;
        let inner = Inner {
            caches: Caches::new(generation.partitions),
            seeks_many_ranges: merge::seeks_many_ranges(generation.database()).await,
            generation,
            id,
            cursors,
            windows,
            walks: Walks::default(),
            reaches,
            depths,
            merged,
            seen,
            passed: write::Passed::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            mode: Mode::Direct,
            budget: None,
            sabotage: None,
        })
    }

    /// A handle that also answers from what is remembered, if nothing of it can be older than the
    /// last notices.
    pub fn cached(&self) -> Self {
        let mode = if self.caches().is_fresh() {
            Mode::Cached
        } else {
            Mode::Direct
        };
        self.in_mode(mode)
    }

    /// The same handle for a later moment: it believes what is remembered only as long as it did,
    /// and the notices go on.
    pub fn still(&self) -> Self {
        match self.mode {
            Mode::Cached => self.cached(),
            Mode::Direct | Mode::Memory | Mode::Stale => self.clone(),
        }
    }

    /// A handle that answers as this one would, but only what needs no look at the database.
    pub fn from_memory(&self) -> Option<Self> {
        (self.mode == Mode::Cached).then(|| self.in_mode(Mode::Memory))
    }

    /// A handle that answers from what is remembered alone, however old.
    pub fn stale(&self) -> Self {
        self.in_mode(Mode::Stale)
    }

    fn in_mode(&self, mode: Mode) -> Self {
        Self {
            mode,
            ..self.clone()
        }
    }

    /// Names these views, whatever their generation: other deployments may use the same broker.
    pub fn id(&self) -> i64 {
        self.inner.id
    }

    /// Takes a notice of these views: what it names is not remembered any more.
    pub fn take(&self, notice: &Notice) {
        self.caches().take(notice);
    }

    fn caches(&self) -> &Caches {
        &self.inner.caches
    }

    fn look<K, V>(&self, slots: &Slots<K, V>, key: &K) -> Look<V>
    where
        K: Copy + Eq + std::hash::Hash + Send + Sync + 'static,
        V: cache::Remembered,
    {
        self.caches().look(self.mode, slots, key)
    }

    /// Whether the database may be asked: before every query.
    fn may_load(&self) -> Result<(), ViewError> {
        match self.mode {
            Mode::Cached | Mode::Direct => self.begin_query(),
            Mode::Memory | Mode::Stale => Err(ViewError::NotRemembered),
        }
    }

    /// Whether less than all is better than nothing.
    fn is_stale(&self) -> bool {
        self.mode == Mode::Stale
    }

    pub fn generation(&self) -> &Generation {
        &self.inner.generation
    }

    pub fn partitions(&self) -> Partitions {
        self.inner.generation.partitions
    }

    fn client(&self) -> &mongodb::Client {
        self.database().client()
    }

    fn database(&self) -> &Database {
        self.inner.generation.database()
    }

    fn name(&self, view: View) -> String {
        self.inner.generation.name(view)
    }

    fn rows<T: Send + Sync>(&self, view: View) -> Collection<T> {
        self.inner.generation.collection(view)
    }

    fn cursors(&self) -> &CursorKey {
        &self.inner.cursors
    }

    /// A handle that reflects all that a token covers; `None` if the views do not yet. It reads
    /// from the database alone if what is remembered may be older than the write.
    pub async fn reflecting(&self, token: &ConsistencyToken) -> Result<Option<Self>, ViewError> {
        let Some(seq) = self.reflects(token).await? else {
            return Ok(None);
        };
        let told = |partition| self.caches().has_heard(partition, seq);
        let current = self.partitions().all().all(told);
        let mode = if current { self.mode } else { Mode::Direct };
        Ok(Some(self.in_mode(mode)))
    }

    /// The sequence from which on the views reflect all that a token covers; `None` if they do
    /// not yet.
    ///
    /// Every event it names has its row, and every partition has passed the last of them: what was
    /// accepted before may concern any of them.
    async fn reflects(&self, token: &ConsistencyToken) -> Result<Option<u64>, ViewError> {
        let mut wanted: BTreeMap<View, Vec<(Key, i64)>> = BTreeMap::new();
        for position in token.positions() {
            // Version 0 is what holds before the first event: nothing to wait for.
            if position.version > 0 {
                let (view, key) = row_of(position.stream);
                wanted
                    .entry(view)
                    .or_default()
                    .push((key, position.version));
            }
        }
        let mut seq = 0;
        for (view, rows) in wanted {
            match self.rows_reach(view, &rows).await? {
                Some(reached) => seq = seq.max(reached),
                None => return Ok(None),
            }
        }
        if seq == 0 {
            return Ok(Some(0));
        }
        let checkpoints = self.checkpoints().await?;
        let passed = |partition: Partition| {
            checkpoints
                .iter()
                .any(|(at, checkpoint)| *at == partition && checkpoint.seq >= seq)
        };
        Ok(self.partitions().all().all(passed).then_some(seq))
    }

    /// The greatest sequence of these rows, if each has its version.
    async fn rows_reach(
        &self,
        view: View,
        wanted: &[(Key, i64)],
    ) -> Result<Option<u64>, ViewError> {
        let keys: Vec<Bson> = wanted.iter().map(|(key, _)| key.bson()).collect();
        let found: Vec<Document> = self
            .rows::<Document>(view)
            .find(doc! { "_id": { "$in": keys } })
            .projection(doc! { "v": 1, "s": 1 })
            .await?
            .try_collect()
            .await?;
        let mut reached = 0;
        for (key, version) in wanted {
            let row = found.iter().find(|row| row.get("_id") == Some(&key.bson()));
            let at = row.and_then(|row| Some((row.get_i64("v").ok()?, row.get_i64("s").ok()?)));
            match at {
                Some((v, s)) if v >= *version => {
                    let seq = u64::try_from(s).map_err(|_| ViewError::Corrupt("a sequence"))?;
                    reached = reached.max(seq);
                }
                Some(_) | None => return Ok(None),
            }
        }
        Ok(Some(reached))
    }

    /// All rows that a filter finds.
    async fn all<T>(&self, view: View, filter: Document) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.may_load()?;
        let rows = self.rows::<T>(view).find(filter).await?;
        let rows: Vec<T> = rows.try_collect().await?;
        self.has_read(rows.len());
        Ok(rows)
    }

    /// The rows with the highest keys, in falling order.
    async fn newest<T>(
        &self,
        view: View,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.may_load()?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.rows::<T>(view);
        let query = rows.find(filter).sort(doc! { "_id": -1 }).limit(limit);
        let rows: Vec<T> = query.await?.try_collect().await?;
        self.has_read(rows.len());
        Ok(rows)
    }

    /// The rows with the lowest keys, in rising order.
    async fn oldest<T>(
        &self,
        view: View,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.may_load()?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.rows::<T>(view);
        let query = rows.find(filter).sort(doc! { "_id": 1 }).limit(limit);
        let rows: Vec<T> = query.await?.try_collect().await?;
        self.has_read(rows.len());
        Ok(rows)
    }
}

/// The row that shows what a log stream has come to.
fn row_of(stream: LogStream) -> (View, Key) {
    match stream {
        LogStream::User(user) => (View::Users, Key::id(user)),
        LogStream::Post(post) => (View::Posts, Key::id(post)),
        LogStream::Follow { follower, followee } => {
            (View::Following, Key::pair(follower, followee))
        }
        LogStream::Like { user, post } => (View::Likes, Key::pair(post, user)),
        LogStream::Repost { user, post } => (View::Reposts, Key::pair(post, user)),
    }
}

/// The key that signs cursors: made once, shared by all replicas through the views' database.
async fn cursor_key(db: &Database) -> Result<CursorKey, ViewError> {
    let secrets = db.collection::<Document>("secrets");
    let made: [u8; 32] = rand::random();
    let row = doc! { "_id": "cursor_key", "key": keys::binary(made.to_vec()) };
    match secrets.insert_one(row).await {
        Err(error) if !shared::lease::is_duplicate_key(&error) => return Err(error.into()),
        Ok(_) | Err(_) => (),
    }
    let row = secrets.find_one(doc! { "_id": "cursor_key" }).await?;
    let key = row.and_then(|row| row.get_binary_generic("key").ok().cloned());
    let key = key
        .and_then(|key| key.try_into().ok())
        .ok_or(ViewError::Corrupt("the cursor key"))?;
    Ok(CursorKey::new(key))
}
