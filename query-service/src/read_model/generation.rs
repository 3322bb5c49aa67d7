//! A generation of views: its own collections, its own number of partitions.

use bson::{Document, doc};
use mongodb::options::{ClusteredIndex, IndexOptions};
use mongodb::{Collection, Database, IndexModel};
use shared::partition::Partitions;

use super::ViewError;

/// One collection of a generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum View {
    Checkpoints,
    DeadLetters,
    FanOuts,
    FollowerCounts,
    Followers,
    Following,
    Likes,
    Outbox,
    Pending,
    Posts,
    Pulled,
    Readers,
    Replies,
    Reposts,
    Timeline,
    Users,
}

impl View {
    pub const ALL: [View; 16] = [
        Self::Checkpoints,
        Self::DeadLetters,
        Self::FanOuts,
        Self::FollowerCounts,
        Self::Followers,
        Self::Following,
        Self::Likes,
        Self::Outbox,
        Self::Pending,
        Self::Posts,
        Self::Pulled,
        Self::Readers,
        Self::Replies,
        Self::Reposts,
        Self::Timeline,
        Self::Users,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints",
            Self::DeadLetters => "dead_letters",
            Self::FanOuts => "fan_outs",
            Self::FollowerCounts => "follower_counts",
            Self::Followers => "followers",
            Self::Following => "following",
            Self::Likes => "likes",
            Self::Outbox => "outbox",
            Self::Pending => "pending",
            Self::Posts => "posts",
            Self::Pulled => "pulled",
            Self::Readers => "readers",
            Self::Replies => "replies",
            Self::Reposts => "reposts",
            Self::Timeline => "timeline",
            Self::Users => "users",
        }
    }
}

/// Which generation of views this process works on.
#[derive(Clone, Debug)]
pub struct Generation {
    db: Database,
    pub number: i64,
    pub partitions: Partitions,
}

const POINTERS: &str = "generations";

impl Generation {
    /// The generation that readers are shown; made with `partitions` when there is none.
    pub async fn current(db: &Database, partitions: Partitions) -> Result<Self, ViewError> {
        let pointers = db.collection::<Document>(POINTERS);
        let pointer = pointers.find_one(doc! { "_id": "current" }).await?;
        let Some(pointer) = pointer else {
            Self::record(&pointers, 1, partitions).await?;
            let first = doc! { "_id": "current", "generation": 1_i64 };
            insert_if_missing(&pointers, first).await?;
            return Box::pin(Self::current(db, partitions)).await;
        };
        let number = pointer
            .get_i64("generation")
            .map_err(|_| ViewError::Corrupt("the pointer to the current generation"))?;
        let row = pointers.find_one(doc! { "_id": number }).await?;
        let recorded = row
            .and_then(|row| row.get_i32("partitions").ok())
            .and_then(|count| u16::try_from(count).ok())
            .and_then(Partitions::new)
            .ok_or(ViewError::Corrupt("the record of a generation"))?;
        if recorded != partitions {
            return Err(ViewError::OtherPartitions {
                recorded: recorded.count(),
                wanted: partitions.count(),
            });
        }
        Ok(Self {
            db: db.clone(),
            number,
            partitions,
        })
    }

    async fn record(
        pointers: &Collection<Document>,
        number: i64,
        partitions: Partitions,
    ) -> Result<(), ViewError> {
        let row = doc! { "_id": number, "partitions": i32::from(partitions.count()) };
        insert_if_missing(pointers, row).await
    }

    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Leases of this generation's partitions.
    pub fn leases(&self) -> Collection<Document> {
        self.db.collection(&format!("g{}_leases", self.number))
    }

    pub fn name(&self, view: View) -> String {
        format!("g{}_{}", self.number, view.name())
    }

    pub fn collection<T: Send + Sync>(&self, view: View) -> Collection<T> {
        self.db.collection(&self.name(view))
    }

    /// Makes collections and indexes. Safe to repeat, and by several processes at once.
    pub async fn prepare(&self) -> Result<(), ViewError> {
        const EXISTS: i32 = 48;
        let present = self.db.list_collection_names().await?;
        for view in View::ALL {
            let name = self.name(view);
            if present.contains(&name) {
                continue;
            }
            let created = self
                .db
                .create_collection(&name)
                .clustered_index(ClusteredIndex::default())
                .await;
            match created {
                Err(error) if !matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Command(command) if command.code == EXISTS) =>
                {
                    return Err(error.into());
                }
                Ok(()) | Err(_) => (),
            }
        }
        // A deactivated user's name stays reserved in the log: no two rows share one.
        let unique = IndexOptions::builder().unique(true).build();
        let by_name = IndexModel::builder()
            .keys(doc! { "username": 1 })
            .options(unique)
            .build();
        self.collection::<Document>(View::Users)
            .create_index(by_name)
            .await?;
        let by_partition = IndexModel::builder().keys(doc! { "p": 1 }).build();
        self.collection::<Document>(View::Pending)
            .create_index(by_partition)
            .await?;
        Ok(())
    }
}

async fn insert_if_missing(rows: &Collection<Document>, row: Document) -> Result<(), ViewError> {
    match rows.insert_one(row).await {
        Err(error) if !shared::lease::is_duplicate_key(&error) => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}
