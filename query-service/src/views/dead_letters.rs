//! Messages that could not be understood, as each partition keeps them.
//!
//! A row for each message and partition, `sequence ‖ partition`, written in the transaction that
//! moves the partition's checkpoint past the message. Builds before kept one of partition 0 alone,
//! under the sequence as a number: those are read as that.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use serde::Deserialize;
use shared::contract::partition::Partition;
use shared::contract::time::Timestamp;

use super::changes::Changes;
use super::error::ViewError;
use super::generation::{Generation, View};
use super::keys::{Key, binary, signed};
use super::writer::ViewWriter;

/// Messages told at once; with every partition's row of each, 256 times as many rows are read.
pub const MOST_LISTED: usize = 10_000;
/// Of a reason, which may quote what a message says.
const LONGEST_REASON: usize = 500;
const RANGES_PER_DELETE: usize = 100;

/// A message that one partition or more did not understand.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The message's stream sequence.
    pub seq: u64,
    /// Who did not understand it, in rising order.
    pub partitions: Vec<Partition>,
    pub subject: String,
    pub reason: String,
    pub at: Timestamp,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "_id")]
    id: Bson,
    subject: String,
    reason: String,
    at: Timestamp,
}

impl Row {
    fn place(&self) -> Option<(u64, Partition)> {
        if let Bson::Int64(seq) = self.id {
            return Some((u64::try_from(seq).ok()?, Partition(0)));
        }
        let Bson::Binary(key) = &self.id else {
            return None;
        };
        let (seq, partition) = key.bytes.split_first_chunk::<8>()?;
        let partition = <[u8; 2]>::try_from(partition).ok()?;
        Some((
            u64::from_be_bytes(*seq),
            Partition(u16::from_be_bytes(partition)),
        ))
    }
}

fn key(seq: u64, partition: u16) -> Vec<u8> {
    [&seq.to_be_bytes()[..], &partition.to_be_bytes()[..]].concat()
}

impl DeadLetter {
    /// Its row, among a batch's changes: kept exactly when the checkpoint passes the message.
    pub fn keep(&self, changes: &mut Changes) {
        let printable = |text: &str| -> String {
            let text = text.chars().take(LONGEST_REASON);
            text.map(|it| if it.is_control() { ' ' } else { it })
                .collect()
        };
        for Partition(partition) in &self.partitions {
            let row = doc! {
                "subject": printable(&self.subject), "reason": printable(&self.reason),
                "at": bson::DateTime::from_millis(self.at.millis()),
            };
            let key = Key::Bytes(key(self.seq, *partition));
            changes.rows.insert(View::DeadLetters, key, row);
        }
    }
}

impl Generation {
    /// How many rows of dead letters are kept; of each message one for each partition.
    /// At most [`MOST_LISTED`].
    pub async fn dead_letters_kept(&self) -> Result<u64, ViewError> {
        let rows = self.collection::<Row>(View::DeadLetters);
        Ok(rows
            .count_documents(doc! {})
            .limit(MOST_LISTED as u64)
            .await?)
    }

    /// The messages that could not be understood, oldest first: the first [`MOST_LISTED`] of
    /// them.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, ViewError> {
        let rows = self.collection::<Row>(View::DeadLetters);
        // Keys that are numbers come before those that are bytes, whatever the sequence.
        let mut rows = rows.find(doc! {}).sort(doc! { "_id": 1 }).await?;
        let mut letters: BTreeMap<u64, DeadLetter> = BTreeMap::new();
        while let Some(row) = rows.try_next().await? {
            let (seq, partition) = row
                .place()
                .ok_or(ViewError::Corrupt("the key of a dead letter"))?;
            if letters.len() == MOST_LISTED && !letters.contains_key(&seq) {
                break;
            }
            let letter = letters.entry(seq).or_insert_with(|| DeadLetter {
                seq,
                partitions: Vec::new(),
                subject: row.subject,
                reason: row.reason,
                at: row.at,
            });
            if !letter.partitions.contains(&partition) {
                letter.partitions.push(partition);
            }
        }
        Ok(letters.into_values().collect())
    }
}

impl ViewWriter {
    /// Forgets the dead letters of these messages, of all partitions.
    pub async fn drop_dead_letters(&self, sequences: &[u64]) -> Result<(), ViewError> {
        let rows = self.rows::<Document>(View::DeadLetters);
        for chunk in sequences.chunks(RANGES_PER_DELETE) {
            let before: Vec<i64> = chunk.iter().map(|seq| signed(*seq)).collect();
            rows.delete_many(doc! { "_id": { "$in": before } }).await?;
            for seq in chunk {
                let all =
                    doc! { "$gte": binary(key(*seq, 0)), "$lte": binary(key(*seq, u16::MAX)) };
                rows.delete_many(doc! { "_id": all }).await?;
            }
        }
        Ok(())
    }
}
