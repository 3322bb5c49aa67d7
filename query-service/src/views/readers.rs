//! Readers: how far their stored entries reach, when they have read, and who is inactive.

use std::collections::HashSet;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use serde::Deserialize;
use shared::contract::ids::UserId;
use shared::contract::partition::Partition;

use super::documents::{KeyRow, PARKED, ReaderRow};
use super::error::ViewError;
use super::generation::{Catalog, Generation, View};
use super::keys::{Key, between, binary, last_id};
use super::last_seen::mark_seen;
use super::transaction::{UPDATES_PER_COMMAND, taken};
use super::writer::ViewWriter;
use crate::metric_rows::TRIMS;

/// Entries looked at when a timeline is trimmed; what is older than they goes with them.
const MOST_STORED: i64 = 10_000;

#[derive(Deserialize)]
struct IdRow {
    #[serde(rename = "_id")]
    id: UserId,
}

#[derive(Deserialize)]
struct SeenRow {
    #[serde(rename = "_id")]
    id: UserId,
    seen: i64,
}

impl Generation {
    /// The horizons of readers; 0 where none is recorded.
    pub async fn horizons(
        &self,
        readers: &[UserId],
    ) -> Result<std::collections::HashMap<UserId, i64>, ViewError> {
        let ids: Vec<i64> = readers.iter().map(|reader| reader.get()).collect();
        let filter = doc! { "_id": { "$in": ids } };
        let rows: Vec<Document> = self.all(View::Readers, filter).await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                Some((
                    UserId::new(row.get_i64("_id").ok()?)?,
                    row.get_i64("horizon").ok()?,
                ))
            })
            .collect())
    }

    /// Some inactive readers of a partition, in no order.
    pub async fn some_inactive(
        &self,
        partition: Partition,
        limit: usize,
    ) -> Result<Vec<UserId>, ViewError> {
        self.some_readers(inactive(partition), limit).await
    }

    pub async fn count_inactive(&self, partition: Partition) -> Result<usize, ViewError> {
        let rows = self.collection::<Document>(View::Readers);
        let count = rows.count_documents(inactive(partition)).await?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Who of these readers is inactive.
    pub async fn inactive_among(&self, readers: &[UserId]) -> Result<Vec<UserId>, ViewError> {
        let ids: Vec<i64> = readers.iter().map(|reader| reader.get()).collect();
        let filter = doc! { "_id": { "$in": ids }, "horizon": PARKED };
        self.some_readers(filter, readers.len()).await
    }

    /// Inactive readers who have read since `since`, in Unix milliseconds.
    pub async fn inactive_and_seen(
        &self,
        partition: Partition,
        since: i64,
        limit: usize,
    ) -> Result<Vec<UserId>, ViewError> {
        let filter =
            doc! { "p": i32::from(partition.0), "seen": { "$gte": since }, "horizon": PARKED };
        self.some_readers(filter, limit).await
    }

    /// Readers who are not inactive and have not read since `since`, in Unix milliseconds.
    pub async fn active_and_unseen(
        &self,
        partition: Partition,
        since: i64,
        limit: usize,
    ) -> Result<Vec<UserId>, ViewError> {
        let filter = doc! { "p": i32::from(partition.0), "horizon": { "$lt": PARKED }, "seen": { "$lt": since } };
        self.some_readers(filter, limit).await
    }

    /// Some readers that a filter finds, in no order: ids alone are read.
    async fn some_readers(&self, filter: Document, limit: usize) -> Result<Vec<UserId>, ViewError> {
        let rows = self.collection::<IdRow>(View::Readers);
        let found = rows
            .find(filter)
            .projection(doc! { "_id": 1 })
            .limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let found = found.await?.map_ok(|row| row.id);
        Ok(found.try_collect().await?)
    }
}

impl ViewWriter {
    /// Promises nothing below `horizon` any more. It only rises.
    pub async fn raise_horizon(&self, reader: UserId, horizon: i64) -> Result<(), ViewError> {
        let change = doc! { "$max": { "horizon": horizon } };
        self.rows::<ReaderRow>(View::Readers)
            .update_one(doc! { "_id": reader.get() }, change)
            .upsert(true)
            .await?;
        Ok(())
    }

    /// Deletes inactive readers' entries up to `top`, the greatest id applied when they became
    /// inactive. They may be back by now; then their horizon is not below it.
    pub async fn delete_entries(&self, readers: &[UserId], top: i64) -> Result<(), ViewError> {
        let deletes = readers.iter().map(|reader| {
            let inactive = between(&reader.to_key(), 0, top.saturating_add(1));
            doc! { "q": inactive, "limit": 0 }
        });
        self.delete_all(deletes.collect()).await
    }

    async fn delete_all(&self, deletes: Vec<Document>) -> Result<(), ViewError> {
        if deletes.is_empty() {
            return Ok(());
        }
        let command = doc! { "delete": self.name(View::Timeline), "deletes": deletes };
        taken(&self.database().run_command(command).await?)
    }

    /// Tells another generation when readers were last seen.
    pub async fn copy_seen_to(&self, other: &Self) -> Result<(), ViewError> {
        let rows = self.rows::<SeenRow>(View::Readers);
        let marked = doc! { "seen": { "$exists": true } };
        let seen = rows.find(marked).projection(doc! { "seen": 1 }).await?;
        let mut chunks = seen
            .map_ok(|row| (row.id, row.seen))
            .try_chunks(UPDATES_PER_COMMAND);
        while let Some(chunk) = chunks.try_next().await.map_err(|fault| fault.1)? {
            mark_seen(other.generation(), &chunk).await?;
        }
        Ok(())
    }

    /// Who of these readers was seen since `since` in another generation; from here on this one
    /// knows it as well.
    pub async fn take_marks_of_others(
        &self,
        readers: &[UserId],
        since: i64,
    ) -> Result<HashSet<UserId>, ViewError> {
        let ids: Vec<i64> = readers.iter().map(|reader| reader.get()).collect();
        let mut marks: Vec<(UserId, i64)> = Vec::new();
        for other in Catalog::new(self.database()).all().await? {
            if other.number == self.generation().number {
                continue;
            }
            let filter = doc! { "_id": { "$in": &ids }, "seen": { "$gte": since } };
            let rows = other.collection::<SeenRow>(View::Readers);
            let rows = rows.find(filter).projection(doc! { "seen": 1 }).await?;
            let rows: Vec<SeenRow> = rows.try_collect().await?;
            marks.extend(rows.iter().map(|row| (row.id, row.seen)));
        }
        mark_seen(self.generation(), &marks).await?;
        Ok(marks.into_iter().map(|(reader, _)| reader).collect())
    }

    /// Trims readers' entries to the newest `keep`, where there are more: all horizons rise
    /// first. Returns how many each has left.
    pub async fn trim(
        &self,
        readers: &[UserId],
        keep: usize,
    ) -> Result<Vec<(UserId, usize)>, ViewError> {
        let (mut left, mut horizons, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        for reader in readers {
            let prefix = reader.to_key();
            let rows = self.rows::<KeyRow>(View::Timeline);
            let rows = rows
                .find(between(&prefix, 0, i64::MAX))
                .sort(doc! { "_id": -1 })
                .projection(doc! { "_id": 1 })
                .limit(MOST_STORED);
            let rows: Vec<KeyRow> = rows.await?.try_collect().await?;
            let first_gone = rows
                .get(keep)
                .and_then(|row| last_id::<shared::contract::ids::EntryKind>(&row.id));
            let Some(first_gone) = first_gone else {
                left.push((*reader, rows.len()));
                continue;
            };
            left.push((*reader, keep));
            horizons.push(doc! {
                "q": { "_id": reader.get() },
                "u": { "$max": { "horizon": first_gone.get() } },
                "upsert": true,
            });
            let gone = doc! { "$gte": binary([prefix, [0; 8]].concat()), "$lte": Key::pair(*reader, first_gone).bson() };
            deletes.push(doc! { "q": { "_id": gone }, "limit": 0 });
        }
        if horizons.is_empty() {
            return Ok(left);
        }
        let trimmed = horizons.len();
        let command = doc! { "update": self.name(View::Readers), "updates": horizons };
        taken(&self.database().run_command(command).await?)?;
        self.delete_all(deletes).await?;
        TRIMS.only().increment(trimmed as u64);
        Ok(left)
    }
}

fn inactive(partition: Partition) -> Document {
    doc! { "p": i32::from(partition.0), "horizon": PARKED }
}
