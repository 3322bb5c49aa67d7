//! What the fold looks up in the views: followers and their counts, jobs, authors' own lists.

use bson::{Document, doc};
use futures_util::TryStreamExt;
use shared::contract::ids::{EntryId, UserId};
use shared::contract::partition::Partition;

use super::documents::{AuthorFeedRow, FanOutRow, FollowersRow, KeyRow, PendingRow, PulledRow};
use super::error::ViewError;
use super::generation::{Generation, View};
use super::keys::{Key, between, first_id, last_id, signed};

impl Generation {
    /// An author's followers in a partition, from the one after `after`, at most `limit`.
    pub async fn followers_in(
        &self,
        author: UserId,
        partition: Partition,
        after: i64,
        limit: usize,
    ) -> Result<Vec<UserId>, ViewError> {
        let Key::Bytes(prefix) = Key::user_in(author, partition) else {
            unreachable!("user_in makes bytes")
        };
        let range = between(&prefix, after, i64::MAX);
        let rows: Vec<KeyRow> = self.oldest(View::Followers, range, limit).await?;
        Ok(rows.iter().filter_map(|row| last_id(&row.id)).collect())
    }

    /// How many followers authors have in a partition; those of whom nothing is known have none.
    pub async fn follower_counts(
        &self,
        authors: &[UserId],
        partition: Partition,
    ) -> Result<Vec<(UserId, FollowersRow)>, ViewError> {
        #[derive(serde::Deserialize)]
        struct Keyed {
            #[serde(rename = "_id")]
            id: bson::Binary,
            #[serde(flatten)]
            row: FollowersRow,
        }
        let keys: Vec<_> = authors
            .iter()
            .map(|author| Key::user_in(*author, partition).bson())
            .collect();
        let filter = doc! { "_id": { "$in": keys } };
        let rows: Vec<Keyed> = self.all(View::FollowerCounts, filter).await?;
        let counted = rows
            .into_iter()
            .filter_map(|keyed| Some((first_id(&keyed.id)?, keyed.row)));
        Ok(counted.collect())
    }

    /// Unfinished fan-outs of a partition, oldest first.
    pub async fn fan_outs(
        &self,
        partition: Partition,
        limit: usize,
    ) -> Result<Vec<FanOutRow>, ViewError> {
        let range = between(&partition.0.to_be_bytes(), 0, i64::MAX);
        self.oldest(View::FanOuts, range, limit).await
    }

    /// Edges of a partition whose older entries are still to be inserted, by follows after the
    /// sequence `after`, oldest first: follower, followee, and the sequence of the follow.
    pub async fn pending_after(
        &self,
        partition: Partition,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(UserId, UserId, u64)>, ViewError> {
        let filter = doc! { "p": i32::from(partition.0), "s": { "$gt": signed(after) } };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.collection::<PendingRow>(View::Pending);
        let rows = rows.find(filter).sort(doc! { "s": 1 }).limit(limit);
        let rows: Vec<PendingRow> = rows.await?.try_collect().await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                Some((
                    first_id(&row.id)?,
                    last_id(&row.id)?,
                    u64::try_from(row.s).ok()?,
                ))
            })
            .collect())
    }

    /// Which of these users have ever had an author feed row.
    pub async fn with_feed(&self, users: &[UserId]) -> Result<Vec<UserId>, ViewError> {
        let ids: Vec<i64> = users.iter().map(|user| user.get()).collect();
        let filter = doc! { "_id": { "$in": ids }, "outbox": { "$gt": 0 } };
        let rows: Vec<Document> = self.all(View::Users, filter).await?;
        Ok(rows
            .iter()
            .filter_map(|row| UserId::new(row.get_i64("_id").ok()?))
            .collect())
    }

    /// The newest rows of an author's author feed above `low`, at most `limit`, newest first.
    pub async fn feed_above(
        &self,
        author: UserId,
        low: i64,
        limit: usize,
    ) -> Result<Vec<(EntryId, AuthorFeedRow)>, ViewError> {
        let range = between(&author.to_key(), low, i64::MAX);
        let rows: Vec<AuthorFeedRow> = self.newest(View::AuthorFeed, range, limit).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some((last_id(&row.id)?, row)))
            .collect())
    }

    /// How many celebrities a partition has: authors of whom it has so many followers that it pulls
    /// them.
    pub async fn celebrities(&self, partition: Partition) -> Result<u64, ViewError> {
        let mut filter = between(&partition.0.to_be_bytes(), 0, i64::MAX);
        filter.insert("hot", true);
        let rows = self.collection::<PulledRow>(View::Pulled);
        Ok(rows.count_documents(filter).await?)
    }

    /// Why an author is pulled in a partition.
    pub async fn pulled_row(
        &self,
        partition: Partition,
        author: UserId,
    ) -> Result<PulledRow, ViewError> {
        let key = Key::in_partition(partition, author).bson();
        Ok(self
            .collection(View::Pulled)
            .find_one(doc! { "_id": key })
            .await?
            .unwrap_or_default())
    }
}
