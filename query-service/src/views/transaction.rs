//! Entries first, then all rows and the checkpoint in one transaction.

use bson::{Document, doc};
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::{ClientSession, Collection};
use shared::contract::event_stream::ChainHash;
use shared::contract::partition::Partition;
use shared::resilience;
use shared::runtime::error_chain::Chain;
use shared::runtime::mongo_errors::{is_duplicate, is_unavailable};
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::changes::Changes;
use super::checkpoints::Checkpoint;
use super::documents::{CheckpointRow, EntryRow};
use super::entry::Entry;
use super::error::ViewError;
use super::fail_point::FailPoint;
use super::generation::View;
use super::keys::{Key, signed};
use super::row_changes::RowChanges;
use super::writer::ViewWriter;
use crate::metric_rows::TIMELINE_ENTRIES;

/// Entries in one `insert_many`: more is no faster, and holds other writers up.
const ENTRIES_PER_INSERT: usize = 1_000;
/// How long a transaction that meets another's is begun again.
const CONFLICTS: Duration = Duration::from_secs(2);
/// Statements in one `update` command.
pub(super) const UPDATES_PER_COMMAND: usize = 500;

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

impl ViewWriter {
    /// Inserts entries; those that are there already stay as they are.
    pub async fn insert_entries(&self, entries: &[Entry]) -> Result<(), ViewError> {
        let timeline = self.rows::<EntryRow>(View::Timeline);
        for chunk in entries.chunks(ENTRIES_PER_INSERT) {
            insert_new(&timeline, chunk.iter().map(EntryRow::from)).await?;
        }
        TIMELINE_ENTRIES.only().increment(entries.len() as u64);
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
        if self.fails_at(FailPoint::NoGuard) && from != to {
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
        if changes.rows.is_empty() {
            let checkpoints = self.rows::<Document>(View::Checkpoints);
            let outcome = checkpoints.update_one(guard, moved).await;
            return fenced(outcome.map_err(ViewError::from)?.matched_count);
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
                        || is_unavailable(fault)
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
        fenced(outcome.matched_count)?;
        self.delete_rows(session, &changes.rows).await?;
        self.insert_rows(session, &changes.rows, careful).await?;
        self.update_rows(session, &changes.rows).await?;
        Ok(())
    }

    async fn delete_rows(
        &self,
        session: &mut ClientSession,
        rows: &RowChanges,
    ) -> Result<(), ViewError> {
        for (view, keys) in &rows.deletes {
            let ids: Vec<_> = keys.iter().map(Key::bson).collect();
            for chunk in ids.chunks(ENTRIES_PER_INSERT) {
                let filter = doc! { "_id": { "$in": chunk.to_vec() } };
                let rows = self.rows::<Document>(*view);
                rows.delete_many(filter).session(&mut *session).await?;
            }
        }
        Ok(())
    }

    /// `careful`: rows that are there already are written over, one by one.
    async fn insert_rows(
        &self,
        session: &mut ClientSession,
        rows: &RowChanges,
        careful: bool,
    ) -> Result<(), ViewError> {
        for (view, rows) in &rows.inserts {
            let collection = self.rows::<Document>(*view);
            if careful {
                for (key, row) in rows {
                    let replace = collection.replace_one(doc! { "_id": key.bson() }, row);
                    replace.upsert(true).session(&mut *session).await?;
                }
                continue;
            }
            let rows: Vec<_> = rows.values().collect();
            for chunk in rows.chunks(ENTRIES_PER_INSERT) {
                let insert = collection.insert_many(chunk.iter().copied());
                insert.session(&mut *session).await?;
            }
        }
        Ok(())
    }

    async fn update_rows(
        &self,
        session: &mut ClientSession,
        rows: &RowChanges,
    ) -> Result<(), ViewError> {
        for (view, updates) in &rows.updates {
            let statements: Vec<_> = updates
                .iter()
                .filter_map(|(key, update)| update.statement(*view, key))
                .collect();
            for chunk in statements.chunks(UPDATES_PER_COMMAND) {
                let command =
                    doc! { "update": self.name(*view), "updates": chunk.to_vec(), "ordered": true };
                let update = self.database().run_command(command);
                taken(&update.session(&mut *session).await?)?;
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
        row.map(|row| Checkpoint::of(&row)).transpose()
    }
}

/// Whether the guard found the checkpoint as it should be.
fn fenced(matched: u64) -> Result<(), CommitError> {
    if matched == 1 {
        Ok(())
    } else {
        Err(CommitError::Fenced)
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
