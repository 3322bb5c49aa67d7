//! A look at the query service's views: how often a post was liked or reposted, and a user's
//! numbers, as last projected. Best effort: an answer does not wait for the views.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bson::{Binary, Document, doc, spec::BinarySubtype};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use shared::contract::ids::{PostId, UserId};
use shared::contract::views_schema::{self as schema, FOLLOWING_COUNT, POSTS_COUNT};
use shared::runtime::error_chain::Chain;
use shared::runtime::tasks::Tasks;
use tracing::debug;

use crate::app::ports::{Counts, Projected, Projections, Reaction};

/// A count is not worth more waiting.
const PATIENCE: Duration = Duration::from_millis(250);
/// Looks at a row and its post before they are told as they are: the fold has to pass between
/// the two each time, with one more event of this one user.
const LOOKS: u32 = 4;
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

#[async_trait]
impl Projections for Views {
    async fn reaction(&self, reaction: Reaction, post: PostId, user: UserId) -> Projected {
        let reader = self.reader.clone();
        let read = async move { reader.read(reaction, post, user).await };
        self.look(read).await
    }

    async fn counts(&self, user: UserId) -> Counts {
        let reader = self.reader.clone();
        self.look(async move { reader.counts(user).await }).await
    }
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

    /// What is read, or nothing where that takes too long or the views cannot be read.
    async fn look<T: Default + Send + 'static>(
        &self,
        read: impl Future<Output = mongodb::error::Result<T>> + Send + 'static,
    ) -> T {
        // In a task of its own: given up on, not dropped.
        let read = self.tasks.run(read);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(Ok(found))) => found,
            Ok(Ok(Err(error))) => {
                debug!(error = %Chain(&error), "the views cannot be read");
                T::default()
            }
            Ok(Err(_)) | Err(_) => T::default(),
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
            Reaction::Like => (schema::LIKES, schema::LIKES_COUNT),
            Reaction::Repost => (schema::REPOSTS, schema::REPOSTS_COUNT),
        };
        let posts: Collection<Document> = self.collection(generation, schema::POSTS);
        let rows: Collection<Document> = self.collection(generation, rows);
        let (row, post) = (
            doc! { "_id": row_key(post, user) },
            doc! { "_id": post.get() },
        );
        let version = || async {
            let row = rows.find_one(row.clone()).await?;
            Ok(number(row.as_ref(), schema::VERSION))
        };
        let count = || async {
            let found = posts.find_one(post.clone()).projection(doc! { field: 1 });
            Ok(number(found.await?.as_ref(), field))
        };
        consistent(version, count).await
    }

    async fn counts(&self, user: UserId) -> mongodb::error::Result<Counts> {
        let Some(generation) = self.generation().await? else {
            return Ok(Counts::default());
        };
        let users = self.collection(generation, schema::USERS);
        let user_row = users
            .find_one(doc! { "_id": user.get() })
            .projection(doc! { FOLLOWING_COUNT: 1, POSTS_COUNT: 1 })
            .await?;
        // A row for each partition that a follower is in: `user ‖ partition`.
        let of = |partition: u16| [&user.to_key()[..], &partition.to_be_bytes()].concat();
        let all = doc! { "$gte": binary(of(0)), "$lte": binary(of(u16::MAX)) };
        let rows = self.collection(generation, schema::FOLLOWER_COUNTS);
        let mut rows = rows.find(doc! { "_id": all }).await?;
        let mut followers = 0;
        while let Some(row) = rows.try_next().await? {
            followers += number(Some(&row), schema::FOLLOWERS_COUNT);
        }
        Ok(Counts {
            followers,
            following: number(user_row.as_ref(), FOLLOWING_COUNT),
            posts: number(user_row.as_ref(), POSTS_COUNT),
        })
    }

    fn collection(&self, generation: i64, name: &str) -> Collection<Document> {
        self.database
            .collection(&schema::collection_of(generation, name))
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
        let pointers: Collection<Document> = self.database.collection(schema::GENERATIONS);
        let pointer = pointers.find_one(doc! { "_id": schema::POINTER }).await?;
        let generation = pointer.and_then(|pointer| pointer.get_i64(schema::SHOWN).ok());
        *self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            generation.map(|generation| (Instant::now(), generation));
        Ok(generation)
    }
}

/// A count and the version of the user's own event that it contains. The fold commits both at
/// once, but they are two reads: the count belongs to a version that is the same on both sides.
async fn consistent<E, V, C>(version: impl Fn() -> V, count: impl Fn() -> C) -> Result<Projected, E>
where
    V: Future<Output = Result<i64, E>>,
    C: Future<Output = Result<i64, E>>,
{
    let mut before = version().await?;
    for _ in 1..LOOKS {
        let count = count().await?;
        let after = version().await?;
        if after == before {
            return Ok(Projected {
                count,
                version: after,
            });
        }
        before = after;
    }
    Ok(Projected {
        count: count().await?,
        version: before,
    })
}

fn number(document: Option<&Document>, field: &str) -> i64 {
    let number = document.and_then(|document| document.get_i64(field).ok());
    number.unwrap_or(0)
}

/// `post ‖ user`, big-endian.
fn row_key(post: PostId, user: UserId) -> Binary {
    binary([post.to_key(), user.to_key()].concat())
}

fn binary(bytes: Vec<u8>) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    /// Reads rows that the fold passes, with one more event each time, before every count until
    /// it has passed `passes` times.
    fn read(passes: i64) -> Projected {
        let (version, count) = (Cell::new(0), Cell::new(10));
        let read_version = || async { Ok::<_, Infallible>(version.get()) };
        let read_count = || async {
            if version.get() < passes {
                version.set(version.get() + 1);
                count.set(count.get() + 1);
            }
            Ok(count.get())
        };
        let read = consistent(read_version, read_count);
        futures_util::FutureExt::now_or_never(read)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_count_is_told_with_the_version_that_it_contains() {
        for passes in 0..i64::from(LOOKS) {
            let Projected { count, version } = read(passes);
            assert_eq!((count, version), (10 + passes, passes));
        }
    }

    #[test]
    fn nobody_waits_for_a_row_that_never_rests() {
        assert_eq!(read(i64::MAX).version, i64::from(LOOKS) - 1);
    }
}
