//! Writing the views: entries first, then all rows and the checkpoint in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::{ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::{ClientSession, Collection};
use shared::error_chain::Chain;
use shared::event_stream::ChainHash;
use shared::ids::{EntryId, UserId};
use shared::partition::Partition;
use shared::resilience;
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::changes::Changes;
use super::entry::Entry;
use super::error::ViewError;
use super::generation::View;
use super::keys::{Key, first_id, last_id, signed};
use super::rows::{
    CheckpointRow, EntryRow, FanOutRow, FollowersRow, KeyRow, OutboxRow, PendingRow, PulledRow,
};
use super::sabotage::Sabotage;
use super::views::Views;

/// Entries in one `insert_many`: more is no faster, and holds other writers up.
const ENTRIES_PER_INSERT: usize = 1_000;
/// How long a transaction that meets another's is begun again.
const CONFLICTS: Duration = Duration::from_secs(2);
/// Statements in one `update` command.
pub(super) const UPDATES_PER_COMMAND: usize = 500;

/// How far a partition has folded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    pub seq: u64,
    pub chain: ChainHash,
    pub epoch: i64,
    /// The greatest event id applied.
    pub top: i64,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another holder of the partition's lease has gone on: stop, and look again.
    #[error("the partition was taken over")]
    Fenced,
    /// Nothing was written, or all was: the checkpoint tells.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// All partitions of a process look at all checkpoints: one look is for all of them.
const PASSED_AGAIN: Duration = Duration::from_millis(20);

impl Views {
    /// What each partition has passed; sequences only rise, so that an older look promises less.
    pub async fn passed(&self) -> Result<Arc<HashMap<Partition, u64>>, ViewError> {
        let mut passed = self.inner.passed.lock().await;
        if let Some((at, passed)) = &*passed
            && at.elapsed() < PASSED_AGAIN
        {
            return Ok(passed.clone());
        }
        let now = self.checkpoints().await?.into_iter();
        let now = Arc::new(now.map(|(partition, at)| (partition, at.seq)).collect());
        *passed = Some((Instant::now(), Arc::clone(&now)));
        Ok(now)
    }

    /// Inserts entries; those that are there already stay as they are.
    pub async fn insert_entries(&self, entries: &[Entry]) -> Result<(), ViewError> {
        let timeline = self.rows::<EntryRow>(View::Timeline);
        for chunk in entries.chunks(ENTRIES_PER_INSERT) {
            insert_new(&timeline, chunk.iter().map(EntryRow::from)).await?;
        }
        metrics::counter!("query_service_timeline_entries_total").increment(entries.len() as u64);
        Ok(())
    }

    /// Writes a batch's changes and moves the checkpoint from `from` to `to`, both or neither.
    pub async fn commit(
        &self,
        session: &mut ClientSession,
        partition: Partition,
        changes: &Changes,
        from: &Checkpoint,
        to: &Checkpoint,
    ) -> Result<(), CommitError> {
        let guard =
            doc! { "_id": i32::from(partition.0), "seq": signed(from.seq), "epoch": from.epoch };
        self.crash_sometimes()?;
        self.commit_guarded(session, partition, changes, guard, to)
            .await?;
        if self.is_sabotaged(Sabotage::NoGuard) && from != to {
            let any = doc! { "_id": i32::from(partition.0) };
            self.commit_guarded(session, partition, changes, any, to)
                .await?;
        }
        Ok(self.crash_sometimes()?)
    }

    async fn commit_guarded(
        &self,
        session: &mut ClientSession,
        partition: Partition,
        changes: &Changes,
        guard: Document,
        to: &Checkpoint,
    ) -> Result<(), CommitError> {
        // The count makes every commit a write of the row, also a job's, which moves nothing: so
        // it conflicts with whoever takes the partition over.
        let moved = doc! {
            "$set": { "seq": signed(to.seq), "chain": to.chain.to_hex(), "top": to.top },
            "$inc": { "commits": 1_i64 },
        };
        if changes.is_empty() {
            let checkpoints = self.rows::<Document>(View::Checkpoints);
            let outcome = checkpoints
                .update_one(guard, moved)
                .await
                .map_err(ViewError::from)?;
            return if outcome.matched_count == 1 {
                Ok(())
            } else {
                Err(CommitError::Fenced)
            };
        }
        let mut careful = false;
        let (mut backoff, give_up) = (resilience::interactive(), Instant::now() + CONFLICTS);
        loop {
            session.start_transaction().await.map_err(ViewError::from)?;
            match self
                .write_all(session, changes, &guard, &moved, careful)
                .await
            {
                Ok(()) => {
                    return commit_transaction(session).await.map_err(CommitError::from);
                }
                Err(error) => {
                    // A failed abort leaves a transaction that the server ends by itself.
                    let _ = session.abort_transaction().await;
                    let CommitError::View(ViewError::Database(fault)) = &error else {
                        return Err(error);
                    };
                    if is_duplicate(fault) && !careful {
                        warn!(
                            partition = partition.0,
                            "rows to be inserted are there already: writing over them"
                        );
                        careful = true;
                    } else if !fault.contains_label(TRANSIENT_TRANSACTION_ERROR)
                        || is_network(fault)
                        || Instant::now() > give_up
                    {
                        return Err(error);
                    } else {
                        backoff.wait().await;
                    }
                }
            }
        }
    }

    async fn write_all(
        &self,
        session: &mut ClientSession,
        changes: &Changes,
        guard: &Document,
        moved: &Document,
        careful: bool,
    ) -> Result<(), CommitError> {
        // The guard first: whoever lost the partition learns it before writing anything.
        let checkpoints = self.rows::<Document>(View::Checkpoints);
        let outcome = checkpoints
            .update_one(guard.clone(), moved.clone())
            .session(&mut *session)
            .await
            .map_err(ViewError::from)?;
        if outcome.matched_count != 1 {
            return Err(CommitError::Fenced);
        }
        for (view, keys) in &changes.deletes {
            let ids: Vec<_> = keys.iter().map(Key::bson).collect();
            for chunk in ids.chunks(ENTRIES_PER_INSERT) {
                let filter = doc! { "_id": { "$in": chunk.to_vec() } };
                self.rows::<Document>(*view)
                    .delete_many(filter)
                    .session(&mut *session)
                    .await
                    .map_err(ViewError::from)?;
            }
        }
        for (view, rows) in &changes.inserts {
            if careful {
                for (key, row) in rows {
                    let filter = doc! { "_id": key.bson() };
                    self.rows::<Document>(*view)
                        .replace_one(filter, row)
                        .upsert(true)
                        .session(&mut *session)
                        .await
                        .map_err(ViewError::from)?;
                }
                continue;
            }
            let rows: Vec<_> = rows.values().collect();
            for chunk in rows.chunks(ENTRIES_PER_INSERT) {
                self.rows::<Document>(*view)
                    .insert_many(chunk.iter().copied())
                    .session(&mut *session)
                    .await
                    .map_err(ViewError::from)?;
            }
        }
        for (view, updates) in &changes.updates {
            let statements: Vec<_> = updates
                .iter()
                .filter_map(|(key, update)| update.statement(*view, key))
                .collect();
            for chunk in statements.chunks(UPDATES_PER_COMMAND) {
                let command =
                    doc! { "update": self.name(*view), "updates": chunk.to_vec(), "ordered": true };
                let answer = self
                    .database()
                    .run_command(command)
                    .session(&mut *session)
                    .await
                    .map_err(ViewError::from)?;
                taken(&answer)?;
            }
        }
        Ok(())
    }

    /// A session for the commits of one holding.
    pub async fn session(&self) -> Result<ClientSession, ViewError> {
        Ok(self.client().start_session().await?)
    }

    /// Takes a partition over: from here on only commits of `epoch` fit, by `session`. Returns
    /// where it stands.
    ///
    /// A holder that was killed may have left a transaction open, which would keep its rows for a
    /// minute: its session is ended first.
    pub async fn take_over(
        &self,
        partition: Partition,
        epoch: i64,
        session: &ClientSession,
    ) -> Result<Option<Checkpoint>, ViewError> {
        let checkpoints = self.rows::<CheckpointRow>(View::Checkpoints);
        let first = CheckpointRow {
            p: i32::from(partition.0),
            seq: 0,
            chain: ChainHash::START.to_hex(),
            epoch: 0,
            top: 0,
            session: None,
        };
        match checkpoints.insert_one(first).await {
            Err(error) if !is_duplicate(&error) => return Err(error.into()),
            Ok(_) | Err(_) => (),
        }
        let ours = doc! { "_id": i32::from(partition.0), "epoch": { "$lte": epoch } };
        let before = checkpoints.find_one(ours.clone()).await?;
        if let Some(left) = before.and_then(|row| row.session) {
            let end = doc! { "killSessions": [left] };
            // Without the right to do so its transaction ends by itself, later.
            if let Err(error) = self.database().run_command(end).await {
                warn!(partition = partition.0, error = %Chain(&error), "the session of the holder before is not ended");
            }
        }
        let taken = doc! { "$set": { "epoch": epoch, "session": session.id().clone() } };
        let row = checkpoints
            .find_one_and_update(ours, taken)
            .return_document(mongodb::options::ReturnDocument::After)
            .await?;
        row.map(|row| checkpoint(&row)).transpose()
    }

    /// Where every partition stands, by partition; none where it was never taken.
    pub async fn checkpoints(&self) -> Result<Vec<(Partition, Checkpoint)>, ViewError> {
        let rows: Vec<CheckpointRow> = self.all(View::Checkpoints, doc! {}).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let partition = u16::try_from(row.p).map_err(|_| ViewError::Corrupt("a checkpoint"))?;
            all.push((Partition(partition), checkpoint(&row)?));
        }
        Ok(all)
    }

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
        let range = super::keys::between(&prefix, after, i64::MAX);
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
        let range = super::keys::between(&partition.0.to_be_bytes(), 0, i64::MAX);
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
        let rows = self.rows::<PendingRow>(View::Pending);
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

    /// Which of these users have ever had an outbox row.
    pub async fn with_outbox(&self, users: &[UserId]) -> Result<Vec<UserId>, ViewError> {
        let ids: Vec<i64> = users.iter().map(|user| user.get()).collect();
        let filter = doc! { "_id": { "$in": ids }, "outbox": { "$gt": 0 } };
        let rows: Vec<Document> = self.all(View::Users, filter).await?;
        Ok(rows
            .iter()
            .filter_map(|row| UserId::new(row.get_i64("_id").ok()?))
            .collect())
    }

    /// The newest rows of an author's outbox above `low`, at most `limit`, newest first.
    pub async fn outbox_above(
        &self,
        author: UserId,
        low: i64,
        limit: usize,
    ) -> Result<Vec<(EntryId, OutboxRow)>, ViewError> {
        let range = super::keys::between(&author.to_key(), low, i64::MAX);
        let rows: Vec<OutboxRow> = self.newest(View::Outbox, range, limit).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some((last_id(&row.id)?, row)))
            .collect())
    }

    /// Why an author is pulled in a partition.
    pub async fn pulled_row(
        &self,
        partition: Partition,
        author: UserId,
    ) -> Result<PulledRow, ViewError> {
        let key = Key::in_partition(partition, author).bson();
        Ok(self
            .rows(View::Pulled)
            .find_one(doc! { "_id": key })
            .await?
            .unwrap_or_default())
    }
}

/// Whether a command has written everything it was to write.
pub(super) fn taken(answer: &Document) -> Result<(), ViewError> {
    match answer.get_array("writeErrors") {
        Ok(errors) if !errors.is_empty() => {
            Err(ViewError::Refused(format!("{:?}", errors.first())))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn checkpoint(row: &CheckpointRow) -> Result<Checkpoint, ViewError> {
    let seq = u64::try_from(row.seq).map_err(|_| ViewError::Corrupt("a checkpoint"))?;
    let chain = ChainHash::from_hex(&row.chain).ok_or(ViewError::Corrupt("a checkpoint"))?;
    Ok(Checkpoint {
        seq,
        chain,
        epoch: row.epoch,
        top: row.top,
    })
}

/// Commits; an unknown outcome is asked for again, since the server remembers the answer.
pub(super) async fn commit_transaction(session: &mut ClientSession) -> Result<(), ViewError> {
    const TRIES: usize = 3;
    let mut outcome = session.commit_transaction().await;
    for _ in 1..TRIES {
        match &outcome {
            Err(error) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                outcome = session.commit_transaction().await;
            }
            Ok(()) | Err(_) => break,
        }
    }
    outcome.map_err(ViewError::from)
}

/// Inserts rows without order; a row that is there already is no error.
async fn insert_new<T: serde::Serialize + Send + Sync>(
    collection: &Collection<T>,
    rows: impl Iterator<Item = T>,
) -> Result<(), ViewError> {
    let rows: Vec<T> = rows.collect();
    match collection.insert_many(&rows).ordered(false).await {
        Err(error) if !is_duplicate(&error) => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether an error is nothing but rows that are there already.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
fn is_duplicate(error: &mongodb::error::Error) -> bool {
    const DUPLICATE_KEY: i32 = 11_000;
    match error.kind.as_ref() {
        ErrorKind::InsertMany(faults) => {
            faults.write_concern_error.is_none()
                && faults.write_errors.as_ref().is_some_and(|errors| {
                    !errors.is_empty() && errors.iter().all(|error| error.code == DUPLICATE_KEY)
                })
        }
        _ => shared::lease::is_duplicate_key(error),
    }
}

fn is_network(error: &mongodb::error::Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
    )
}
