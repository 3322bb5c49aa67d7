//! How many people somebody follows: a guard of the limit, beside the log that it guards.
//!
//! A follow takes a place before it is appended and gives it back if it was not. A crash in
//! between leaves the count too high, never too low; it is put right from the log when it stands
//! in somebody's way and nothing has moved for a while.

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use shared::contract::ids::UserId;
use shared::contract::log::LogDocument;

use super::calls::Calls;
use super::errors::{Fault, is_duplicate, translate};
use crate::app::ports::{self, FOLLOW_COUNT_RESTS, Result};

const COLLECTION: &str = "follow_counts";
/// Tries to make or mend the row before its state is told as it is.
const TRIES: u32 = 4;

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct FollowCounts {
    counts: Collection<CountDocument>,
    events: Collection<LogDocument>,
    calls: Calls,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct CountDocument {
    #[serde(rename = "_id")]
    follower: UserId,
    count: i64,
    touched: DateTime,
    /// Follows were appended past this row: count before it is believed.
    #[serde(default)]
    stale: bool,
}

#[derive(Deserialize)]
struct Counted {
    count: i64,
}

#[async_trait]
impl ports::FollowCounts for FollowCounts {
    async fn reserve(&self, follower: UserId, limit: u32) -> Result<Option<u32>> {
        self.calls.require_prepared()?;
        // A lost answer may count one too many, never one too few.
        self.calls.ask(|| self.try_reserve(follower, limit)).await
    }

    async fn release(&self, follower: UserId) -> Result<()> {
        let taken = doc! { "_id": follower.get(), "count": { "$gt": 0_i64 } };
        let give_back = doc! { "$inc": { "count": -1_i64 } };
        // Asked once: twice might give back what was not taken.
        let released = self.counts.update_one(taken, give_back).await;
        released.map(drop).map_err(translate)
    }

    async fn count(&self, follower: UserId) -> Result<u32> {
        self.calls.ask(|| self.try_count(follower)).await
    }

    async fn mark_stale(&self, followers: &[UserId]) -> Result<()> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_mark_stale(followers)).await
    }
}

impl FollowCounts {
    pub(super) fn new(database: &Database, events: Collection<LogDocument>, calls: Calls) -> Self {
        Self {
            counts: database.collection(COLLECTION),
            events,
            calls,
        }
    }

    async fn try_reserve(&self, follower: UserId, limit: u32) -> Attempt<Option<u32>> {
        for _ in 0..TRIES {
            let free = doc! {
                "_id": follower.get(),
                "count": { "$lt": i64::from(limit) },
                "stale": { "$ne": true },
            };
            let take = doc! { "$inc": { "count": 1_i64 }, "$set": { "touched": DateTime::now() } };
            if let Some(before) = self.counts.find_one_and_update(free, take).await? {
                return Ok(Some(narrow(before.count)));
            }
            let row = self.counts.find_one(doc! { "_id": follower.get() }).await?;
            match row {
                None => self.create(follower).await?,
                Some(row) if row.stale => self.mend(row, limit).await?,
                Some(row) if row.count < i64::from(limit) => {} // a place became free
                Some(row) if is_quiet(&row) => self.mend(row, limit).await?,
                Some(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The standing edges: streams whose last version is odd.
    async fn try_count(&self, follower: UserId) -> Attempt<u32> {
        let own = doc! {
            "owner": follower.get(),
            "stream": { "$gte": format!("follow:{follower}:"), "$lt": format!("follow:{follower};") },
        };
        let is_odd = doc! { "$expr": { "$eq": [{ "$mod": ["$last", 2_i64] }, 1_i64] } };
        let pipeline: [Document; 4] = [
            doc! { "$match": own },
            doc! { "$group": { "_id": "$stream", "last": { "$max": "$version" } } },
            doc! { "$match": is_odd },
            // A sum rather than `$count`, whose number may be of either width.
            doc! { "$group": { "_id": null, "count": { "$sum": 1_i64 } } },
        ];
        let counted = self.events.aggregate(pipeline).with_type::<Counted>();
        let counted: Vec<Counted> = counted.await?.try_collect().await?;
        Ok(counted.first().map_or(0, |counted| narrow(counted.count)))
    }

    async fn try_mark_stale(&self, followers: &[UserId]) -> Attempt<()> {
        let ids: Vec<i64> = followers.iter().map(|follower| follower.get()).collect();
        let rows = doc! { "_id": { "$in": ids } };
        let stale = doc! { "$set": { "stale": true } };
        self.counts.update_many(rows, stale).await?;
        Ok(())
    }

    async fn create(&self, follower: UserId) -> Attempt<()> {
        let row = CountDocument {
            follower,
            count: i64::from(self.try_count(follower).await?),
            touched: DateTime::now(),
            stale: false,
        };
        match self.counts.insert_one(row).await {
            Err(error) if !is_duplicate(&error) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Counts in the log, and believes it if the row has not moved meanwhile.
    async fn mend(&self, row: CountDocument, limit: u32) -> Attempt<()> {
        let count = i64::from(self.try_count(row.follower).await?);
        let unmoved = doc! {
            "_id": row.follower.get(),
            "count": row.count,
            "touched": row.touched,
        };
        // Touched now: someone at the limit who asks again and again is not counted each time.
        let mended = doc! { "$set": {
            "count": count.min(i64::from(limit)),
            "touched": DateTime::now(),
            "stale": false,
        } };
        self.counts.update_one(unmoved, mended).await?;
        Ok(())
    }
}

fn is_quiet(row: &CountDocument) -> bool {
    let age = DateTime::now().timestamp_millis() - row.touched.timestamp_millis();
    u128::try_from(age).is_ok_and(|age| age >= FOLLOW_COUNT_RESTS.as_millis())
}

fn narrow(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(if count < 0 { 0 } else { u32::MAX })
}
