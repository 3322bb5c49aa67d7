//! How the event log stores an event. The command service appends these documents; the relay
//! and `query-service verify` read them.

use bson::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::contract::events::{Event, LogStream, Payload};
use crate::contract::ids::{EventId, UserId};
use crate::contract::time::Timestamp;

/// The collection that holds the log, in the database the command service owns.
pub const COLLECTION: &str = "events";

/// Beside it, marks of whoever compares the log with its change stream: what came before a mark in
/// the one came before it in the other.
pub const MARKS: &str = "relay_marks";

/// One event as stored. Unique: `_id`, `(owner, stream, version)`, `(owner, key)` where present.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogDocument {
    #[serde(rename = "_id")]
    pub id: EventId,
    /// Whose stream it is, and the shard key one day: the user, the post's author, the follower,
    /// the one who likes or reposts.
    pub owner: UserId,
    pub stream: LogStream,
    pub version: i64,
    pub r#type: String,
    pub actor: UserId,
    pub at: Timestamp,
    pub data: RawDocumentBuf,
    /// Random, by the writer: with it a writer whose answer was lost recognizes its own document.
    pub nonce: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of the request that came with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_hash: Option<i64>,
    /// The W3C `traceparent` of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// A document of the log that is not an event of this build: corruption, or a newer writer.
#[derive(Debug, thiserror::Error)]
pub enum CorruptLog {
    #[error("event {0} has a type unknown to this build")]
    Kind(EventId),
    #[error("event {0} has data that does not fit its type")]
    Data(EventId, #[source] bson::error::Error),
}

impl LogDocument {
    /// The document of an event that is about to be appended.
    pub fn new(event: &Event, owner: UserId, nonce: i64) -> Result<Self, bson::error::Error> {
        Ok(Self {
            id: event.id,
            owner,
            stream: event.stream,
            version: event.version,
            r#type: event.payload.kind().to_owned(),
            actor: event.actor,
            at: event.at,
            data: bson::serialize_to_raw_document_buf(&event.payload)?,
            nonce,
            key: None,
            key_hash: None,
            trace: None,
        })
    }

    pub fn to_event(&self) -> Result<Event, CorruptLog> {
        let payload = Payload::from_bson(&self.r#type, self.data.as_bytes())
            .ok_or(CorruptLog::Kind(self.id))?
            .map_err(|error| CorruptLog::Data(self.id, error))?;
        Ok(Event {
            id: self.id,
            stream: self.stream,
            version: self.version,
            actor: self.actor,
            at: self.at,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_event_reads_back_with_ids_as_numbers() {
        for line in include_str!("../../golden/events.v1.ndjson").lines() {
            let event = Event::decode(line.as_bytes()).unwrap();
            let document = LogDocument::new(&event, event.actor, 7).unwrap();
            let raw = bson::serialize_to_raw_document_buf(&document).unwrap();
            assert_eq!(raw.get_i64("_id").unwrap(), event.id.get());
            assert!(raw.get_datetime("at").is_ok());
            let back: LogDocument = bson::deserialize_from_slice(raw.as_bytes()).unwrap();
            assert_eq!(back.to_event().unwrap(), event);
        }
    }
}
