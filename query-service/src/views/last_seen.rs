//! When readers have read: the one thing that a read leaves behind.

use std::time::Duration;

use bson::{Document, doc};
use moka::sync::Cache;
use shared::contract::ids::UserId;

use super::error::ViewError;
use super::generation::{Generation, View};
use super::keys::now_id;
use super::transaction::{UPDATES_PER_COMMAND, taken};

/// Reading is noted once in this time: days matter.
const AGAIN: Duration = Duration::from_secs(600);

/// Notes when readers were last seen, so that the fold fans out to them, and again to those who
/// were away for long. Nothing else of the views can be written with it.
pub struct LastSeen {
    generation: Generation,
    /// Readers noted a little while ago, or about to be.
    noted: Cache<UserId, ()>,
}

impl LastSeen {
    pub fn of(generation: &Generation) -> Self {
        let noted = Cache::builder()
            .max_capacity(100_000)
            .time_to_live(AGAIN)
            .build();
        Self {
            generation: generation.clone(),
            noted,
        }
    }

    /// Whether the caller shall note the reader: nobody did a little while ago, or is about to. Who
    /// then cannot says so with [`Self::failed`].
    pub fn begin(&self, reader: UserId) -> bool {
        self.noted.entry(reader).or_insert(()).is_fresh()
    }

    /// A note that was begun failed: the next read of the reader begins another.
    pub fn failed(&self, reader: UserId) {
        self.noted.invalidate(&reader);
    }

    /// Notes that a reader has read.
    pub async fn note(&self, reader: UserId) -> Result<(), ViewError> {
        mark_seen(&self.generation, &[(reader, now_id() >> 16)]).await
    }
}

/// Notes when readers have read; marks only rise.
pub(super) async fn mark_seen(
    generation: &Generation,
    marks: &[(UserId, i64)],
) -> Result<(), ViewError> {
    for chunk in marks.chunks(UPDATES_PER_COMMAND) {
        let updates: Vec<Document> = chunk
            .iter()
            .map(|(id, seen)| {
                doc! { "q": { "_id": id.get() }, "u": { "$max": { "seen": seen } } }
            })
            .collect();
        let command = doc! { "update": generation.name(View::Readers), "updates": updates };
        taken(&generation.database().run_command(command).await?)?;
    }
    Ok(())
}
