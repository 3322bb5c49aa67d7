//! Which log it is: an identity made once, kept beside the log, and written on its stream.
//!
//! Two deployments with one `NATS_PREFIX`, or a fresh database beside a broker that still has
//! another log's stream, would mix silently: one would show the other's users. So the stream's
//! metadata and every message name the log they come from; the relay compares before it publishes
//! to a stream, and the projection before it folds one.
//!
//! Streams of earlier versions name no log. They are judged by what they hold: the last event on
//! a log's own stream is in that log, because nothing is published before it is there.

use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{self};
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};

use crate::contract::event_stream::{self, METADATA_LOG, StreamError, StreamNames};
pub use crate::contract::log_id::LogId;
use crate::contract::stream_end::{self, StreamEnd};
use crate::runtime::mongo_errors::is_duplicate;

/// The collection beside the log that holds its identity.
pub const COLLECTION: &str = "log_identity";
/// The one document in it.
const THE_LOG: &str = "log";
/// Another one, as long as a backup is being restored: until then the log is not whole.
const RESTORE: &str = "restore";
/// And one until a relay has compared the log with its stream, after a restore.
const SCAN: &str = "scan";

/// Why a stream is not known to hold the log.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("read the log")]
    Log(#[from] mongodb::error::Error),
}

/// A log, as far as its identity goes.
#[derive(Clone, Debug)]
pub struct OwnLog {
    identity: Collection<Document>,
    events: Collection<Document>,
}

impl OwnLog {
    /// The log in `database`.
    pub fn new(database: &Database) -> Self {
        Self {
            identity: database.collection(COLLECTION),
            events: database.collection(crate::contract::log::COLLECTION),
        }
    }

    /// The identity; `None` if none has been made yet.
    ///
    /// # Errors
    /// `HalfRestored` as long as the log is not whole.
    pub async fn id(&self) -> Result<Option<LogId>, IdentityError> {
        let rows = self.identity.find(doc! {}).await?;
        let rows: Vec<Document> = rows.try_collect().await?;
        let named = |name: &str| {
            rows.iter()
                .find(|row| row.get_str("_id").ok() == Some(name))
        };
        if named(RESTORE).is_some() {
            return Err(StreamError::HalfRestored.into());
        }
        Ok(named(THE_LOG).and_then(id_in))
    }

    /// Whether it still is the log of this identity; no only after a write that a majority has.
    ///
    /// # Errors
    /// As for [`Self::id`].
    pub async fn is_still(&self, known: LogId) -> Result<bool, IdentityError> {
        if self.id().await? == Some(known) {
            return Ok(true);
        }
        self.settle().await?;
        Ok(self.id().await? == Some(known))
    }

    /// Whether a restore has begun and not ended.
    pub async fn is_being_restored(&self) -> mongodb::error::Result<bool> {
        let row = self.identity.find_one(doc! { "_id": RESTORE }).await?;
        Ok(row.is_some())
    }

    /// Says that the log is not whole from here on, by a restore of this name. It has no identity
    /// then.
    pub async fn begin_restore(&self, run: LogId) -> mongodb::error::Result<()> {
        let row = doc! { "run": run.to_string(), "at": bson::DateTime::now() };
        let mark = self.identity.replace_one(doc! { "_id": RESTORE }, row);
        mark.upsert(true).await?;
        self.identity.delete_one(doc! { "_id": THE_LOG }).await?;
        Ok(())
    }

    /// Gives the log the identity it had.
    pub async fn restore_id(&self, id: LogId) -> mongodb::error::Result<()> {
        let row = doc! { "identity": id.to_string(), "at": bson::DateTime::now() };
        let identity = self.identity.replace_one(doc! { "_id": THE_LOG }, row);
        identity.upsert(true).await.map(|_| ())
    }

    /// Says that the log is whole; `false` if another restore has begun since. A relay is to compare
    /// it with its stream first: the database's change stream says of each event that it is new.
    pub async fn end_restore(&self, run: LogId) -> mongodb::error::Result<bool> {
        let row = doc! { "at": bson::DateTime::now() };
        let scan = self.identity.replace_one(doc! { "_id": SCAN }, row);
        scan.upsert(true).await?;
        let mark = doc! { "_id": RESTORE, "run": run.to_string() };
        Ok(self.identity.delete_one(mark).await?.deleted_count == 1)
    }

    /// The identity, which is `proposed` if the log has none yet. Concurrent callers get the same
    /// answer, and a majority of the database's members has it.
    pub async fn id_or(&self, proposed: LogId) -> Result<LogId, IdentityError> {
        loop {
            if let Some(known) = self.id().await? {
                return Ok(known);
            }
            // The second of two inserts is refused, and reads the first one's identity once a
            // majority has it.
            let made = doc! {
                "_id": THE_LOG,
                "identity": proposed.to_string(),
                "at": bson::DateTime::now(),
            };
            match self.identity.insert_one(made).await {
                Err(error) if !is_duplicate(&error) => return Err(error.into()),
                Ok(_) | Err(_) => (),
            }
        }
    }

    /// Whether a relay is to compare the log with its stream before it goes on.
    pub async fn calls_for_scan(&self) -> mongodb::error::Result<bool> {
        let row = self.identity.find_one(doc! { "_id": SCAN }).await?;
        Ok(row.is_some())
    }

    /// Notes that it has done so.
    pub async fn is_scanned(&self) -> mongodb::error::Result<()> {
        self.identity.delete_one(doc! { "_id": SCAN }).await?;
        Ok(())
    }

    /// Whether the log has an event.
    pub async fn has(&self, event: i64) -> mongodb::error::Result<bool> {
        let found = self
            .events
            .find_one(doc! { "_id": event })
            .projection(doc! { "_id": 1 });
        Ok(found.await?.is_some())
    }

    /// As [`Self::has`], but answers no only after a write that a majority has: a new primary may
    /// be behind what the primary before it has shown.
    async fn surely_has(&self, event: i64) -> mongodb::error::Result<bool> {
        if self.has(event).await? {
            return Ok(true);
        }
        self.settle().await?;
        self.has(event).await
    }

    /// Writes: when this returns, what is read has all that a majority had before.
    async fn settle(&self) -> mongodb::error::Result<()> {
        let row = doc! { "_id": THE_LOG };
        let touched = doc! { "$currentDate": { "looked_at": true } };
        self.identity.update_one(row, touched).await.map(|_| ())
    }

    /// Makes sure that a stream holds this log, whose identity is `known` if it has one, and gives
    /// the log one if it has none. Changes nothing on the stream.
    ///
    /// # Errors
    /// `OtherLog`, `LogIsOlder` or `UnknownEvents` if the stream must not be used with this log.
    pub async fn judge(
        &self,
        known: Option<LogId>,
        names: &StreamNames,
        stream: &Stream,
        end: &StreamEnd,
    ) -> Result<LogId, IdentityError> {
        let label = Label::of(stream.cached_info(), end);
        let ours = match known {
            Some(ours) => ours,
            None => {
                // A database that was restored or moved without its identity gets it back.
                let same = match (label.any(), end.event) {
                    (Some(theirs), Some(event)) if self.has(event).await? => Some(theirs),
                    _ => None,
                };
                self.id_or(same.unwrap_or_else(LogId::random)).await?
            }
        };
        if let Some(theirs) = label.other_than(ours) {
            return Err(other_log(names, theirs, ours).into());
        }
        let Some(event) = end.event else {
            return Ok(ours);
        };
        if !self.surely_has(event).await? {
            let stream_name = names.stream();
            let same_log = match label.any() {
                Some(_) => true,
                None => match stream_end::first_event(stream, end.last).await? {
                    Some(first) => self.has(first).await?,
                    None => false,
                },
            };
            return Err(if same_log {
                StreamError::LogIsOlder(stream_name, event).into()
            } else {
                StreamError::UnknownEvents(stream_name, event).into()
            });
        }
        Ok(ours)
    }
}

/// The refusal of a stream that names another log.
pub fn other_log(names: &StreamNames, theirs: LogId, ours: LogId) -> StreamError {
    StreamError::OtherLog {
        stream: names.stream(),
        theirs,
        ours,
    }
}

fn id_in(row: &Document) -> Option<LogId> {
    row.get_str("identity").ok()?.parse().ok()
}

/// The logs that a stream names: in its metadata, and in the relay's last message.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Label {
    pub metadata: Option<LogId>,
    pub last: Option<LogId>,
}

impl Label {
    pub fn of(info: &Info, end: &StreamEnd) -> Self {
        let metadata = info.config.metadata.get(METADATA_LOG);
        Self {
            metadata: metadata.and_then(|text| text.parse().ok()),
            last: end.own.as_ref().and_then(|own| own.log),
        }
    }

    /// The log that it names; both are the same unless the stream was changed by hand.
    pub fn any(self) -> Option<LogId> {
        self.metadata.or(self.last)
    }

    /// A log that it names and that is not `ours`.
    pub fn other_than(self, ours: LogId) -> Option<LogId> {
        [self.metadata, self.last]
            .into_iter()
            .flatten()
            .find(|named| *named != ours)
    }
}

/// Writes the log's identity into the metadata of its stream, if it is not there yet.
pub async fn label(
    jetstream: &jetstream::Context,
    names: &StreamNames,
    info: &Info,
    log: LogId,
) -> Result<(), StreamError> {
    if info.config.metadata.contains_key(METADATA_LOG) {
        return Ok(());
    }
    let mut config = info.config.clone();
    // The broker's own notes are for it to make.
    config
        .metadata
        .retain(|name, _| !name.starts_with("_nats."));
    config.metadata.extend(event_stream::metadata(Some(log)));
    jetstream
        .update_stream(config)
        .await
        .map(|_| ())
        .map_err(|error| StreamError::Label(names.stream(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_out_of_its_document() {
        let log = LogId::random();
        let row = doc! { "_id": THE_LOG, "identity": log.to_string() };
        assert_eq!(id_in(&row), Some(log));
    }

    #[test]
    fn whatever_names_another_log_gives_a_stream_away() {
        let (ours, theirs) = (LogId::random(), LogId::random());
        let label = |metadata, last| Label { metadata, last };
        assert_eq!(label(None, None).other_than(ours), None);
        assert_eq!(label(Some(ours), None).other_than(ours), None);
        assert_eq!(
            label(Some(ours), Some(theirs)).other_than(ours),
            Some(theirs)
        );
        assert_eq!(label(Some(theirs), None).other_than(ours), Some(theirs));
        assert_eq!(label(None, Some(theirs)).any(), Some(theirs));
    }
}
