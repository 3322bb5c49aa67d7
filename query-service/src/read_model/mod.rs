//! The only reader and writer of the views.
//!
//! * `rows`, `keys`, `generation`: what is stored, and where.
//! * [`changes`], [`mod@write`]: how the fold writes.
//! * [`timeline`], [`people`], [`posts`]: how readers read.
//! * [`cursor`]: where a page ended.
//!
//! An entry is a hint, rows are the truth: every answer is checked against the edges, posts and
//! users that make it true.

pub mod changes;
pub mod cursor;
pub mod generation;
pub mod keys;
pub mod people;
pub mod posts;
pub mod rows;
pub mod sabotage;
pub mod timeline;
pub mod view;
mod visibility;
pub mod write;

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use serde::de::DeserializeOwned;
use shared::consistency::ConsistencyToken;
use shared::events::LogStream;
use shared::ids::UserId;
use shared::partition::{Partition, Partitions};

use cursor::CursorKey;
use generation::{Catalog, Generation, View};
use keys::Key;

/// Why the views could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("the views' database failed")]
    Database(#[from] mongodb::error::Error),
    #[error("the views hold something that cannot be read: {0}")]
    Corrupt(&'static str),
    #[error("the database refused a write: {0}")]
    Refused(String),
    #[error("the cursor is not one of ours")]
    BadCursor,
    #[error("the write is not visible yet")]
    NotYetVisible,
    #[error(
        "the views are folded in {recorded} partitions, but PARTITIONS is {wanted}: start with PARTITIONS={recorded}, or change it with `query-service rebuild`"
    )]
    OtherPartitions { recorded: u16, wanted: u16 },
}

/// The views that readers are shown at the moment: a rebuild may switch them.
pub type CurrentViews = tokio::sync::watch::Receiver<Views>;

/// The views of one generation. Cloning gives another handle.
#[derive(Clone)]
pub struct Views(Arc<Inner>, Option<sabotage::Sabotage>);

/// Reading is noted once in this time: days matter.
const SEEN_AGAIN: Duration = Duration::from_secs(600);

struct Inner {
    generation: Generation,
    cursors: CursorKey,
    /// How far back a reader's last page reached, in milliseconds.
    windows: moka::sync::Cache<UserId, i64>,
    /// Whether callers were deactivated, a moment ago.
    deactivated: moka::sync::Cache<UserId, bool>,
    /// Readers noted as seen a little while ago.
    seen: moka::sync::Cache<UserId, ()>,
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
        let inner = Inner {
            generation,
            cursors,
            windows,
            deactivated: moka::sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(Duration::from_secs(1))
                .build(),
            seen: moka::sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(SEEN_AGAIN)
                .build(),
        };
        Ok(Self(Arc::new(inner), None))
    }

    pub fn generation(&self) -> &Generation {
        &self.0.generation
    }

    pub fn partitions(&self) -> Partitions {
        self.0.generation.partitions
    }

    fn client(&self) -> &mongodb::Client {
        self.database().client()
    }

    fn database(&self) -> &Database {
        self.0.generation.database()
    }

    fn name(&self, view: View) -> String {
        self.0.generation.name(view)
    }

    fn rows<T: Send + Sync>(&self, view: View) -> Collection<T> {
        self.0.generation.collection(view)
    }

    fn cursors(&self) -> &CursorKey {
        &self.0.cursors
    }

    /// Waits until the views reflect a write, at most a second.
    ///
    /// # Errors
    /// `NotYetVisible` if they do not by then.
    pub async fn wait_for(&self, token: &ConsistencyToken) -> Result<(), ViewError> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let started = std::time::Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            if self.reflects(token).await? {
                return Ok(());
            }
            if started.elapsed() >= PATIENCE {
                return Err(ViewError::NotYetVisible);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    async fn reflects(&self, token: &ConsistencyToken) -> Result<bool, ViewError> {
        let (view, key) = match token.stream {
            LogStream::User(user) => (View::Users, Key::id(user)),
            LogStream::Post(post) => (View::Posts, Key::id(post)),
            LogStream::Follow { follower, followee } => {
                (View::Following, Key::pair(follower, followee))
            }
            LogStream::Like { user, post } => (View::Likes, Key::pair(post, user)),
            LogStream::Repost { user, post } => (View::Reposts, Key::pair(post, user)),
        };
        let filter = doc! { "_id": key.bson(), "v": { "$gte": token.version } };
        let row = self
            .rows::<Document>(view)
            .find_one(filter)
            .projection(doc! { "s": 1 })
            .await?;
        let Some(seq) = row.and_then(|row| row.get_i64("s").ok()) else {
            // Version 0 is what holds before the first event: nothing to wait for.
            return Ok(token.version == 0);
        };
        let of = self.partitions();
        let involved = [of.of(token.actor), of.of(token.owner)];
        let checkpoints = self.checkpoints().await?;
        let passed = |partition: &Partition| {
            checkpoints
                .iter()
                .any(|(at, checkpoint)| at == partition && write::signed(checkpoint.seq) >= seq)
        };
        Ok(involved.iter().all(passed))
    }

    /// All rows that a filter finds.
    async fn all<T>(&self, view: View, filter: Document) -> Result<Vec<T>, ViewError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        Ok(self
            .rows::<T>(view)
            .find(filter)
            .await?
            .try_collect()
            .await?)
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
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.rows::<T>(view);
        let query = rows.find(filter).sort(doc! { "_id": -1 }).limit(limit);
        Ok(query.await?.try_collect().await?)
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
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.rows::<T>(view);
        let query = rows.find(filter).sort(doc! { "_id": 1 }).limit(limit);
        Ok(query.await?.try_collect().await?)
    }

    /// Answers if the database does.
    pub async fn ping(&self) -> Result<(), ViewError> {
        self.database().run_command(doc! { "ping": 1 }).await?;
        Ok(())
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
