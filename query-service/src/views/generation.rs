//! A generation of views: its own collections, its own number of partitions.

use bson::{Document, doc};
use mongodb::options::{ClusteredIndex, IndexOptions, ReturnDocument};
use mongodb::{Collection, Database, IndexModel};
use shared::connections::log_identity::LogId;
use shared::contract::partition::Partitions;
use shared::contract::views_schema::{self as schema, POINTER, SHOWN};

use super::error::ViewError;

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
    AuthorFeed,
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
        Self::AuthorFeed,
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
            Self::FollowerCounts => schema::FOLLOWER_COUNTS,
            Self::Followers => "followers",
            Self::Following => "following",
            Self::Likes => schema::LIKES,
            Self::AuthorFeed => "outbox",
            Self::Pending => "pending",
            Self::Posts => schema::POSTS,
            Self::Pulled => "pulled",
            Self::Readers => "readers",
            Self::Replies => "replies",
            Self::Reposts => schema::REPOSTS,
            Self::Timeline => "timeline",
            Self::Users => schema::USERS,
        }
    }
}

/// Raised by whoever changes what the fold makes of the same messages: what was begun by another
/// revision is not finished by this one.
pub const FOLD_REVISION: i64 = 1;

/// Which program began to fold a generation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Build {
    pub version: String,
    pub fold: i64,
}

impl Build {
    /// The program that runs here.
    pub fn this() -> Self {
        Self {
            version: shared::runtime::settings::VERSION.to_owned(),
            fold: FOLD_REVISION,
        }
    }
}

/// How far a generation has got. Whether readers are shown it is for the pointer to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// A rebuild folds it; readers were never shown it.
    Building,
    /// It was shown, or is about to be.
    Complete,
    /// Made by a build that did not record it.
    Unknown,
}

const BUILDING: &str = "building";
const COMPLETE: &str = "complete";

/// One generation of views.
#[derive(Clone, Debug)]
pub struct Generation {
    db: Database,
    pub number: i64,
    pub partitions: Partitions,
    pub progress: Progress,
    /// `None`: not recorded.
    pub build: Option<Build>,
}

/// The generations there are, and which of them readers are shown.
#[derive(Clone, Debug)]
pub struct Catalog {
    db: Database,
}

impl Catalog {
    pub fn new(db: &Database) -> Self {
        Self { db: db.clone() }
    }

    pub(super) fn rows(&self) -> Collection<Document> {
        self.db.collection(schema::GENERATIONS)
    }

    /// The generation that readers are shown; `None` if there is none yet.
    pub async fn current(&self) -> Result<Option<Generation>, ViewError> {
        match self.pointer().await? {
            Some((current, _)) => self.generation(current).await,
            None => Ok(None),
        }
    }

    /// The generation that readers are shown, made with `partitions` when there is none.
    ///
    /// # Errors
    /// `OtherPartitions` if it has another number of partitions: it cannot be changed in place.
    pub async fn current_with(&self, partitions: Partitions) -> Result<Generation, ViewError> {
        if self.pointer().await?.is_none() {
            // Readers are shown it from its first message on: nobody has to complete it.
            self.record(1, partitions, COMPLETE).await?;
            let first = doc! { "_id": POINTER, SHOWN: 1_i64 };
            insert_if_missing(&self.rows(), first).await?;
        }
        let current = self
            .current()
            .await?
            .ok_or(ViewError::Corrupt("the pointer to the current generation"))?;
        if current.partitions != partitions {
            return Err(ViewError::OtherPartitions {
                recorded: current.partitions.count(),
                wanted: partitions.count(),
            });
        }
        Ok(current)
    }

    /// What names this database of views in messages: made once, kept beside the pointer.
    pub async fn views_id(&self) -> Result<i64, ViewError> {
        let unnamed = doc! { "_id": POINTER, "views": { "$exists": false } };
        let named = doc! { "$set": { "views": rand::random::<i64>() } };
        self.rows().update_one(unnamed, named).await?;
        let pointer = self.rows().find_one(doc! { "_id": POINTER }).await?;
        let id = pointer.and_then(|pointer| pointer.get_i64("views").ok());
        id.ok_or(ViewError::Corrupt("the pointer to the current generation"))
    }

    /// The current generation's number, and the one that was current before it.
    pub async fn pointer(&self) -> Result<Option<(i64, Option<i64>)>, ViewError> {
        let Some(pointer) = self.rows().find_one(doc! { "_id": POINTER }).await? else {
            return Ok(None);
        };
        let current = pointer
            .get_i64(SHOWN)
            .map_err(|_| ViewError::Corrupt("the pointer to the current generation"))?;
        Ok(Some((current, pointer.get_i64("previous").ok())))
    }

    /// Every generation that is folded, oldest first.
    pub async fn all(&self) -> Result<Vec<Generation>, ViewError> {
        use futures_util::TryStreamExt;
        let rows: Vec<Document> = self
            .rows()
            .find(doc! { "partitions": { "$exists": true } })
            .sort(doc! { "_id": 1 })
            .await?
            .try_collect()
            .await?;
        rows.iter().map(|row| self.read(row)).collect()
    }

    /// A new generation beside the others, to be folded from the first message on.
    pub async fn create(&self, partitions: Partitions) -> Result<Generation, ViewError> {
        // A number is never used again: a process that was paused may still fold the one it had.
        let all = self.all().await?;
        let known = all.iter().map(|generation| generation.number).max();
        let pointer = doc! { "_id": POINTER };
        let at_least = doc! { "$max": { "last": known.unwrap_or(0) } };
        self.rows().update_one(pointer.clone(), at_least).await?;
        let counted = self
            .rows()
            .find_one_and_update(pointer, doc! { "$inc": { "last": 1_i64 } })
            .return_document(ReturnDocument::After)
            .await?;
        let number = counted
            .and_then(|pointer| pointer.get_i64("last").ok())
            .ok_or(ViewError::Corrupt("the pointer to the current generation"))?;
        self.record(number, partitions, BUILDING).await?;
        let made = self
            .generation(number)
            .await?
            .ok_or(ViewError::Corrupt("the record of a generation"))?;
        made.prepare().await?;
        Ok(made)
    }

    /// Notes that a generation holds what it should: whoever folds may fold it from now on.
    /// Says whether it is still there.
    pub async fn complete(&self, generation: &Generation) -> Result<bool, ViewError> {
        let row = doc! { "_id": generation.number };
        let change = doc! { "$set": { "state": COMPLETE } };
        Ok(self.rows().update_one(row, change).await?.matched_count == 1)
    }

    /// Whether a generation is still in the catalog.
    pub async fn has(&self, generation: &Generation) -> Result<bool, ViewError> {
        Ok(self.generation(generation.number).await?.is_some())
    }

    /// Deletes the views of a generation that nobody folds any more.
    pub async fn drop_views(&self, generation: &Generation) -> Result<(), ViewError> {
        for view in View::ALL {
            generation.collection::<Document>(view).drop().await?;
        }
        generation.leases().drop().await?;
        Ok(())
    }

    /// Drops collections of generations that are not in the catalog: left by a drop that was
    /// killed, or made again by whoever wrote late. Returns how many.
    pub async fn drop_strays(&self) -> Result<usize, ViewError> {
        let known: Vec<i64> = self.all().await?.iter().map(|it| it.number).collect();
        let mut dropped = 0;
        for name in self.db.list_collection_names().await? {
            let number = name
                .strip_prefix('g')
                .and_then(|rest| rest.split_once('_'))
                .and_then(|(number, _)| number.parse::<i64>().ok());
            if number.is_some_and(|number| !known.contains(&number)) {
                self.db.collection::<Document>(&name).drop().await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// The lease of whoever makes, switches or drops generations: one at a time.
    pub fn operators(&self) -> Collection<Document> {
        self.db.collection("operator_leases")
    }

    async fn generation(&self, number: i64) -> Result<Option<Generation>, ViewError> {
        let row = self.rows().find_one(doc! { "_id": number }).await?;
        row.map(|row| self.read(&row)).transpose()
    }

    fn read(&self, row: &Document) -> Result<Generation, ViewError> {
        let corrupt = ViewError::Corrupt("the record of a generation");
        let count = row
            .get_i32("partitions")
            .ok()
            .and_then(|count| u16::try_from(count).ok());
        let (Ok(number), Some(partitions)) = (row.get_i64("_id"), count.and_then(Partitions::new))
        else {
            return Err(corrupt);
        };
        let progress = match row.get_str("state") {
            Ok(BUILDING) => Progress::Building,
            Ok(COMPLETE) => Progress::Complete,
            Ok(_) | Err(_) => Progress::Unknown,
        };
        let build = match (row.get_str("version"), row.get_i64("fold")) {
            (Ok(version), Ok(fold)) => Some(Build {
                version: version.to_owned(),
                fold,
            }),
            (Ok(_) | Err(_), _) => None,
        };
        Ok(Generation {
            db: self.db.clone(),
            number,
            partitions,
            progress,
            build,
        })
    }

    async fn record(
        &self,
        number: i64,
        partitions: Partitions,
        state: &str,
    ) -> Result<(), ViewError> {
        let Build { version, fold } = Build::this();
        let row = doc! {
            "_id": number, "partitions": i32::from(partitions.count()),
            "state": state, "version": version, "fold": fold,
        };
        insert_if_missing(&self.rows(), row).await
    }
}

impl Generation {
    /// Whether this build may fold it: what is being built is for the build that began it, so
    /// that an older one beside it takes no part.
    pub fn is_for_this_build(&self) -> bool {
        self.progress != Progress::Building || self.build == Some(Build::this())
    }

    /// Whether it was begun, and not finished, by this build.
    pub fn is_unfinished_here(&self) -> bool {
        self.progress == Progress::Building && self.build == Some(Build::this())
    }

    pub fn database(&self) -> &Database {
        &self.db
    }

    /// The same generation over other connections to its database.
    #[must_use]
    pub fn over(self, db: &Database) -> Self {
        Self {
            db: db.clone(),
            ..self
        }
    }

    /// Leases of this generation's partitions.
    pub fn leases(&self) -> Collection<Document> {
        self.db
            .collection(&schema::collection_of(self.number, "leases"))
    }

    fn row(&self) -> (Collection<Document>, Document) {
        (
            self.db.collection(schema::GENERATIONS),
            doc! { "_id": self.number },
        )
    }

    /// The log that these views are folded from; `None` if no stream has named one yet.
    pub async fn log(&self) -> Result<Option<LogId>, ViewError> {
        let (rows, own) = self.row();
        let row = rows.find_one(own).await?;
        let Some(log) = row.as_ref().and_then(|row| row.get_str("log").ok()) else {
            return Ok(None);
        };
        let corrupt = ViewError::Corrupt("the log that a generation is of");
        log.parse().map(Some).map_err(|_| corrupt)
    }

    /// Remembers the log that these views are folded from, for good, and says which it is.
    pub async fn bind_log(&self, log: LogId) -> Result<LogId, ViewError> {
        if let Some(bound) = self.log().await? {
            return Ok(bound);
        }
        let (rows, mut unbound) = self.row();
        unbound.insert("log", doc! { "$exists": false });
        let bind = doc! { "$set": { "log": log.to_string() } };
        rows.update_one(unbound, bind).await?;
        Ok(self.log().await?.unwrap_or(log))
    }

    pub fn name(&self, view: View) -> String {
        schema::collection_of(self.number, view.name())
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
        let by_absence = IndexModel::builder()
            .keys(doc! { "p": 1, "horizon": 1, "seen": 1 })
            .build();
        self.collection::<Document>(View::Readers)
            .create_index(by_absence)
            .await?;
        let by_partition = IndexModel::builder().keys(doc! { "p": 1, "s": 1 }).build();
        self.collection::<Document>(View::Pending)
            .create_index(by_partition)
            .await?;
        Ok(())
    }
}

async fn insert_if_missing(rows: &Collection<Document>, row: Document) -> Result<(), ViewError> {
    match rows.insert_one(row).await {
        Err(error) if !shared::runtime::mongo_errors::is_duplicate(&error) => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}
