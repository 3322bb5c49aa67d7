//! When readers have read: the one thing that a read leaves behind.

use std::time::Duration;

use bson::{Document, doc};
use moka::sync::Cache;
use shared::ids::UserId;

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
    /// Readers noted a little while ago.
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

    /// Whether the reader was noted a little while ago.
    pub fn is_noted(&self, reader: UserId) -> bool {
        self.noted.contains_key(&reader)
    }

    /// Notes that a reader has read, unless that was noted a little while ago.
    pub async fn note(&self, reader: UserId) -> Result<(), ViewError> {
        if self.is_noted(reader) {
            return Ok(());
        }
        mark_seen(&self.generation, &[(reader, now_id() >> 16)]).await?;
        self.noted.insert(reader, ());
        Ok(())
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
