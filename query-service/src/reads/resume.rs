//! Where a live stream goes on behind an entry, in whichever views readers are shown.
//!
//! Sequences are those of the stream that the views were folded from: once it was made anew, the same
//! number is another place. An entry's id stays, and the views know its sequence.

use bson::{Document, doc};
use serde::Deserialize;
use shared::contract::ids::{EntryId, SEQUENCE_BITS, UserId};

use super::model::ReadModel;
use super::unanswered::Unanswered;
use crate::views::generation::View;
use crate::views::keys::Key;

/// What is this much older, in milliseconds, is before an entry on the stream too, whatever clocks said
/// when both were made, and however long either took to be accepted.
const BEFORE_MS: i64 = 10_000;
/// The first look for an older post, in milliseconds; by so much more is looked at each time.
const FIRST_LOOK_MS: i64 = 60_000;
const WIDER: i64 = 16;

#[derive(Deserialize)]
struct Numbered {
    s: i64,
}

impl ReadModel {
    /// The sequence of an entry of a reader's. Where these views do not have it (its post was deleted
    /// or lost, or its author is pulled), one before it: what is sent again does no harm.
    ///
    /// # Errors
    /// The views cannot be read.
    pub async fn sequence_of(&self, reader: UserId, entry: EntryId) -> Result<u64, Unanswered> {
        let own = doc! { "_id": Key::pair(reader, entry).bson() };
        if let Some(seq) = self.newest_of(View::Timeline, own).await? {
            return Ok(seq);
        }
        // Only a post that nothing has happened to has the sequence that made it.
        let post = doc! { "_id": entry.get(), "v": 1_i64 };
        if let Some(seq) = self.newest_of(View::Posts, post).await? {
            return Ok(seq);
        }
        let before = entry.get().saturating_sub(BEFORE_MS << SEQUENCE_BITS);
        // Not every engine goes backwards through an index: not all that is older at once.
        let mut span = FIRST_LOOK_MS << SEQUENCE_BITS;
        loop {
            let from = before.saturating_sub(span).max(0);
            let older = doc! { "_id": { "$gte": from, "$lt": before }, "v": 1_i64 };
            match self.newest_of(View::Posts, older).await? {
                Some(seq) => return Ok(seq),
                None if from == 0 => return Ok(0),
                None => span = span.saturating_mul(WIDER),
            }
        }
    }

    /// The sequence of the row with the greatest key that fits.
    async fn newest_of(&self, view: View, filter: Document) -> Result<Option<u64>, Unanswered> {
        let found: Vec<Numbered> = self.newest(view, filter, 1).await?;
        let seq = found.first().map(|row| u64::try_from(row.s).unwrap_or(0));
        Ok(seq)
    }
}
