//! A look at the query service's views: how often a post was liked or reposted, as last
//! projected. Best effort: an answer does not wait for the views.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bson::{Binary, Document, doc, spec::BinarySubtype};
use mongodb::{Collection, Database};
use shared::error_chain::Chain;
use shared::ids::{PostId, UserId};
use shared::tasks::Tasks;
use tracing::debug;

use crate::app::store::{Projected, Reaction};

/// The views and their generations are in the database of this name beside the log's.
pub const SUFFIX: &str = "_views";
const GENERATIONS: &str = "generations";
/// A count is not worth more waiting.
const PATIENCE: Duration = Duration::from_millis(250);
/// The pointer to the generation moves at a rebuild, seldom; both are kept up to date then.
const POINTER_TTL: Duration = Duration::from_secs(2);

pub(super) struct Views {
    reader: Arc<Reader>,
    tasks: Tasks,
}

struct Reader {
    database: Database,
    generation: Mutex<Option<(Instant, i64)>>,
}

impl Views {
    pub(super) fn new(database: Database, tasks: Tasks) -> Self {
        let generation = Mutex::default();
        Self {
            reader: Arc::new(Reader {
                database,
                generation,
            }),
            tasks,
        }
    }

    pub(super) async fn projected(
        &self,
        reaction: Reaction,
        post: PostId,
        user: UserId,
    ) -> Projected {
        let reader = self.reader.clone();
        // In a task of its own: given up on, not dropped.
        let read = self
            .tasks
            .run(async move { reader.read(reaction, post, user).await });
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(Ok(projected))) => projected,
            Ok(Ok(Err(error))) => {
                debug!(error = %Chain(&error), "the views cannot be read");
                Projected::default()
            }
            Ok(Err(_)) | Err(_) => Projected::default(),
        }
    }
}

impl Reader {
    async fn read(
        &self,
        reaction: Reaction,
        post: PostId,
        user: UserId,
    ) -> mongodb::error::Result<Projected> {
        let Some(generation) = self.generation().await? else {
            return Ok(Projected::default());
        };
        let (rows, field) = match reaction {
            Reaction::Like => ("likes", "likes"),
            Reaction::Repost => ("reposts", "reposts"),
        };
        let posts: Collection<Document> = self.collection(generation, "posts");
        let rows: Collection<Document> = self.collection(generation, rows);
        // The row first: if the fold passes between the two, the count is already the newer.
        let row = rows.find_one(doc! { "_id": row_key(post, user) }).await?;
        let post = posts
            .find_one(doc! { "_id": post.get() })
            .projection(doc! { field: 1 })
            .await?;
        let number = |document: &Option<Document>, field: &str| {
            let document = document.as_ref();
            document.and_then(|document| document.get_i64(field).ok())
        };
        Ok(Projected {
            count: number(&post, field).unwrap_or(0),
            version: number(&row, "v").unwrap_or(0),
        })
    }

    fn collection(&self, generation: i64, name: &str) -> Collection<Document> {
        self.database.collection(&format!("g{generation}_{name}"))
    }

    async fn generation(&self) -> mongodb::error::Result<Option<i64>> {
        let known = *self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((read, generation)) = known
            && read.elapsed() < POINTER_TTL
        {
            return Ok(Some(generation));
        }
        let pointers: Collection<Document> = self.database.collection(GENERATIONS);
        let pointer = pointers.find_one(doc! { "_id": "current" }).await?;
        let generation = pointer.and_then(|pointer| pointer.get_i64("generation").ok());
        *self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            generation.map(|generation| (Instant::now(), generation));
        Ok(generation)
    }
}

/// `post ‖ user`, big-endian.
fn row_key(post: PostId, user: UserId) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: [post.to_key(), user.to_key()].concat(),
    }
}
