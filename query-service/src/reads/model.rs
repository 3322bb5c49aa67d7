//! The handle that reads the views.

use std::sync::Arc;

use bson::{Document, doc};
use mongodb::{Collection, Database};
use serde::de::DeserializeOwned;
use shared::contract::ids::UserId;
use shared::contract::partition::{Partition, Partitions};

use super::budget::ReadBudget;
use super::cursor::CursorKey;
use super::hints::Hints;
use super::unanswered::Unanswered;
use super::walks::Walks;
use crate::cache::{CacheSlots, Caches, Lookup, ReadFrom, Remembered};
use crate::views::checkpoints::{Checkpoint, lowest};
use crate::views::error::ViewError;
use crate::views::fail_point::FailPoint;
use crate::views::generation::{Catalog, Generation, View};
use crate::views::invalidation::InvalidationMessage;
use crate::views::last_seen::LastSeen;

/// The views that readers are shown at the moment: a rebuild may switch them.
pub type CurrentViews = tokio::sync::watch::Receiver<ReadModel>;

/// Reads one generation of views. Cloning gives another handle.
///
/// A handle reads from the database alone, unless it was made by [`ReadModel::with`].
#[derive(Clone)]
pub struct ReadModel {
    inner: Arc<Inner>,
    from: ReadFrom,
    budget: Option<ReadBudget>,
    fail_point: Option<FailPoint>,
}

struct Inner {
    generation: Generation,
    /// Names the database of views in messages.
    id: i64,
    cursors: CursorKey,
    hints: Hints,
    seeks_many_ranges: bool,
    walks: Walks,
    caches: Caches,
    last_seen: LastSeen,
}

impl ReadModel {
    /// Opens the current generation, and makes it if there is none.
    pub async fn open(db: &Database, partitions: Partitions) -> Result<Self, ViewError> {
        let generation = Catalog::new(db).current_with(partitions).await?;
        Self::of(generation).await
    }

    /// Opens one generation.
    pub async fn of(generation: Generation) -> Result<Self, ViewError> {
        generation.prepare().await?;
        let cursors = CursorKey::of(generation.database()).await?;
        let id = Catalog::new(generation.database()).views_id().await?;
        let inner = Inner {
            caches: Caches::new(generation.partitions),
            seeks_many_ranges: seeks_many_ranges(generation.database()).await,
            last_seen: LastSeen::of(&generation),
            generation,
            id,
            cursors,
            hints: Hints::default(),
            walks: Walks::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            from: ReadFrom::Database,
            budget: None,
            fail_point: None,
        })
    }

    /// A handle that reads from there. Where something of the cache may be older than the last
    /// invalidations, [`ReadFrom::CacheThenDatabase`] becomes [`ReadFrom::Database`].
    #[must_use]
    pub fn with(&self, from: ReadFrom) -> Self {
        let is_doubtful = from == ReadFrom::CacheThenDatabase && !self.caches().is_fresh();
        self.reading(if is_doubtful {
            ReadFrom::Database
        } else {
            from
        })
    }

    pub(super) fn reading(&self, from: ReadFrom) -> Self {
        Self {
            from,
            ..self.clone()
        }
    }

    /// The same handle for a later moment: it believes the cache only as long as it did, and the
    /// invalidations go on.
    #[must_use]
    pub fn refreshed(&self) -> Self {
        self.with(self.from)
    }

    /// A handle that answers as this one would, but only what needs no look at the database.
    pub fn cache_only(&self) -> Option<Self> {
        let believes = self.from == ReadFrom::CacheThenDatabase;
        believes.then(|| self.with(ReadFrom::CacheOnly))
    }

    /// Which readers were noted a little while ago.
    pub(super) fn last_seen(&self) -> &LastSeen {
        &self.inner.last_seen
    }

    /// Notes that a reader reads, unless that was noted a little while ago.
    pub async fn note_seen(&self, reader: UserId) -> Result<(), Unanswered> {
        if !self.last_seen().begin(reader) {
            return Ok(());
        }
        let noted = self.note_begun(reader).await;
        if noted.is_err() {
            self.last_seen().failed(reader);
        }
        noted
    }

    /// Makes the note that [`LastSeen::begin`] asked the caller for.
    pub(super) async fn note_begun(&self, reader: UserId) -> Result<(), Unanswered> {
        self.may_load()?;
        Ok(self.last_seen().note(reader).await?)
    }

    /// Names these views, whatever their generation: other deployments may use the same broker.
    pub fn id(&self) -> i64 {
        self.inner.id
    }

    /// Takes a message of these views: what it names is not remembered any more.
    pub fn take(&self, message: &InvalidationMessage) {
        self.caches().take(message);
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

    pub(super) fn look<K, V>(&self, slots: &CacheSlots<K, V>, key: &K) -> Lookup<V>
    where
        K: Copy + Eq + std::hash::Hash + Send + Sync + 'static,
        V: Remembered,
    {
        self.caches().look(self.from, slots, key)
    }

    /// Whether the database may be asked: before every query.
    ///
    /// # Errors
    /// `CacheMiss` where the read is to be answered from the cache alone, `Abandoned` where nobody
    /// waits for it.
    pub(super) fn may_load(&self) -> Result<(), Unanswered> {
        match self.from {
            ReadFrom::CacheThenDatabase | ReadFrom::Database => self.begin_query(),
            ReadFrom::CacheOnly | ReadFrom::StaleCache => Err(Unanswered::CacheMiss),
        }
    }

    pub(super) fn reads_from(&self) -> ReadFrom {
        self.from
    }

    /// Whether less than all is better than nothing.
    pub(super) fn is_stale(&self) -> bool {
        self.from == ReadFrom::StaleCache
    }

    pub fn generation(&self) -> &Generation {
        &self.inner.generation
    }

    /// Which views these are: the ones that are shown after a rebuild have another number.
    pub fn number(&self) -> i64 {
        self.inner.generation.number
    }

    pub fn partitions(&self) -> Partitions {
        self.inner.generation.partitions
    }

    pub(super) fn rows<T: Send + Sync>(&self, view: View) -> Collection<T> {
        self.inner.generation.collection(view)
    }

    pub(super) fn cursors(&self) -> &CursorKey {
        &self.inner.cursors
    }

    /// Makes a query if one more is allowed, and counts its rows.
    async fn within_budget<T>(
        &self,
        query: impl Future<Output = Result<Vec<T>, ViewError>>,
    ) -> Result<Vec<T>, Unanswered> {
        self.may_load()?;
        let rows = query.await?;
        self.has_read(rows.len());
        Ok(rows)
    }

    /// As [`Generation::all`], within the budget.
    pub(super) async fn all<T>(&self, view: View, filter: Document) -> Result<Vec<T>, Unanswered>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.within_budget(self.generation().all(view, filter))
            .await
    }

    /// As [`Generation::newest`], within the budget.
    pub(super) async fn newest<T>(
        &self,
        view: View,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<T>, Unanswered>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.within_budget(self.generation().newest(view, filter, limit))
            .await
    }

    /// As [`Generation::oldest`], within the budget.
    pub(super) async fn oldest<T>(
        &self,
        view: View,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<T>, Unanswered>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.within_budget(self.generation().oldest(view, filter, limit))
            .await
    }

    /// As [`Generation::checkpoints`], within the budget.
    pub(super) async fn checkpoints(&self) -> Result<Vec<(Partition, Checkpoint)>, Unanswered> {
        self.within_budget(self.generation().checkpoints()).await
    }

    /// The lowest sequence that all partitions have applied.
    pub async fn position_now(&self) -> Result<u64, Unanswered> {
        let checkpoints = self.checkpoints().await?;
        Ok(lowest(&checkpoints, self.partitions()))
    }
}

impl ReadModel {
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
    pub(super) fn begin_query(&self) -> Result<(), Unanswered> {
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
    pub(super) fn may_be_expensive(&self, permits: u32) -> Result<(), Unanswered> {
        match &self.budget {
            Some(budget) if !budget.may_be_expensive() => Err(Unanswered::Expensive { permits }),
            Some(_) | None => Ok(()),
        }
    }
}

impl ReadModel {
    #[must_use]
    pub fn with_fail_point(mut self, fail_point: Option<FailPoint>) -> Self {
        self.fail_point = fail_point;
        self
    }

    pub(super) fn fails_at(&self, by: FailPoint) -> bool {
        self.fail_point == Some(by)
    }
}

/// Whether the database answers a query for many ranges of keys with a seek for each.
///
/// MongoDB, up to version 8, reads the whole of a clustered collection for `$or`; the embedded
/// engine seeks. Where it is not known, every range is a query of its own.
async fn seeks_many_ranges(database: &Database) -> bool {
    let info = database.run_command(doc! { "buildInfo": 1 }).await;
    info.is_ok_and(|info| info.contains_key("secantusVersion"))
}
