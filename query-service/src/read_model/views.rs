//! The handle of one generation of views.

use std::collections::{BTreeMap, HashMap};
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

use super::budget::ReadBudget;
use super::cache::{Caches, Look, Mode, Remembered, Slots};
use super::cursor::CursorKey;
use super::error::ViewError;
use super::generation::{Catalog, Generation, View};
use super::hints::Hints;
use super::keys::{Key, binary};
use super::notice::Notice;
use super::sabotage::Sabotage;
use super::walks::Walks;

/// The views that readers are shown at the moment: a rebuild may switch them.
pub type CurrentViews = tokio::sync::watch::Receiver<Views>;

/// The views of one generation. Cloning gives another handle.
///
/// A handle reads from the database alone, unless it was made by [`Views::cached`].
#[derive(Clone)]
pub struct Views {
    pub(super) inner: Arc<Inner>,
    pub(super) mode: Mode,
    budget: Option<ReadBudget>,
    sabotage: Option<Sabotage>,
}

/// Reading is noted once in this time: days matter.
const SEEN_AGAIN: Duration = Duration::from_secs(600);

/// The sequence that each partition has passed, as of a moment ago.
type Passed = tokio::sync::Mutex<Option<(tokio::time::Instant, Arc<HashMap<Partition, u64>>)>>;

pub(super) struct Inner {
    generation: Generation,
    /// Names the database of views in notices.
    id: i64,
    cursors: CursorKey,
    hints: Hints,
    seeks_many_ranges: bool,
    walks: Walks,
    caches: Caches,
    /// Readers noted as seen a little while ago.
    pub(super) seen: moka::sync::Cache<UserId, ()>,
    pub(super) passed: Passed,
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
        let seen = moka::sync::Cache::builder()
            .max_capacity(100_000)
            .time_to_live(SEEN_AGAIN)
            .build();
        let id = Catalog::new(generation.database()).views_id().await?;
        let inner = Inner {
            caches: Caches::new(generation.partitions),
            seeks_many_ranges: seeks_many_ranges(generation.database()).await,
            generation,
            id,
            cursors,
            hints: Hints::default(),
            walks: Walks::default(),
            seen,
            passed: Passed::default(),
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

    pub(super) fn hints(&self) -> &Hints {
        &self.inner.hints
    }

    pub(super) fn walks(&self) -> &Walks {
        &self.inner.walks
    }

    /// Whether the database answers a query for many ranges of keys with a seek for each.
    pub(super) fn seeks_many_ranges(&self) -> bool {
        self.inner.seeks_many_ranges
    }

    pub(super) fn caches(&self) -> &Caches {
        &self.inner.caches
    }

    pub(super) fn look<K, V>(&self, slots: &Slots<K, V>, key: &K) -> Look<V>
    where
        K: Copy + Eq + std::hash::Hash + Send + Sync + 'static,
        V: Remembered,
    {
        self.caches().look(self.mode, slots, key)
    }

    /// Whether the database may be asked: before every query.
    pub(super) fn may_load(&self) -> Result<(), ViewError> {
        match self.mode {
            Mode::Cached | Mode::Direct => self.begin_query(),
            Mode::Memory | Mode::Stale => Err(ViewError::NotRemembered),
        }
    }

    /// Whether less than all is better than nothing.
    pub(super) fn is_stale(&self) -> bool {
        self.mode == Mode::Stale
    }

    pub fn generation(&self) -> &Generation {
        &self.inner.generation
    }

    pub fn partitions(&self) -> Partitions {
        self.inner.generation.partitions
    }

    pub(super) fn client(&self) -> &mongodb::Client {
        self.database().client()
    }

    pub(super) fn database(&self) -> &Database {
        self.inner.generation.database()
    }

    pub(super) fn name(&self, view: View) -> String {
        self.inner.generation.name(view)
    }

    pub(super) fn rows<T: Send + Sync>(&self, view: View) -> Collection<T> {
        self.inner.generation.collection(view)
    }

    pub(super) fn cursors(&self) -> &CursorKey {
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
    pub(super) async fn all<T>(&self, view: View, filter: Document) -> Result<Vec<T>, ViewError>
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
    pub(super) async fn newest<T>(
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
    pub(super) async fn oldest<T>(
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

impl Views {
    /// The same handle for one read within this budget. A handle without one, as the fold and
    /// operator commands have, is not bounded but by what a page examines.
    #[must_use]
    pub fn within(&self, budget: ReadBudget) -> Self {
        Self {
            budget: Some(budget),
            ..self.clone()
        }
    }

    /// The same handle for one more read: within the same limits, with nothing used.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self {
            budget: self.budget.as_ref().map(ReadBudget::afresh),
            ..self.clone()
        }
    }

    /// Before every query: see [`ReadBudget`].
    pub(super) fn begin_query(&self) -> Result<(), ViewError> {
        self.budget.as_ref().map_or(Ok(()), ReadBudget::begin_query)
    }

    /// After every query.
    pub(super) fn has_read(&self, rows: usize) {
        if let Some(budget) = &self.budget {
            budget.has_read(rows);
        }
    }

    /// After every step of a loop: whether the page must end here.
    pub(super) fn is_used_up(&self) -> bool {
        self.budget.as_ref().is_some_and(ReadBudget::is_used_up)
    }

    /// Before something that costs as much as `permits` expensive reads.
    ///
    /// # Errors
    /// `Expensive` if the read has no permits for it: it is to be begun again with them.
    pub(super) fn may_be_expensive(&self, permits: u32) -> Result<(), ViewError> {
        match &self.budget {
            Some(budget) if !budget.may_be_expensive() => Err(ViewError::Expensive { permits }),
            Some(_) | None => Ok(()),
        }
    }
}

impl Views {
    #[must_use]
    pub fn sabotaged(mut self, sabotage: Option<Sabotage>) -> Self {
        self.sabotage = sabotage;
        self
    }

    pub(crate) fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.sabotage == Some(by)
    }

    pub(super) fn crash_sometimes(&self) -> Result<(), ViewError> {
        const ONE_IN: u8 = 8;
        if self.is_sabotaged(Sabotage::Crashes) && rand::random_range(0..ONE_IN) == 0 {
            return Err(ViewError::Refused("sabotage".to_owned()));
        }
        Ok(())
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
    let row = doc! { "_id": "cursor_key", "key": binary(made.to_vec()) };
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

/// Whether the database answers a query for many ranges of keys with a seek for each.
///
/// MongoDB, up to version 8, reads the whole of a clustered collection for `$or`; the embedded
/// engine seeks. Where it is not known, every range is a query of its own.
async fn seeks_many_ranges(database: &Database) -> bool {
    let info = database.run_command(doc! { "buildInfo": 1 }).await;
    info.is_ok_and(|info| info.contains_key("secantusVersion"))
}
