//! Takes a backup.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongodb::change_stream::event::ResumeToken;
use mongodb::{ClientSession, Collection, Database};
use serde::Deserialize;
use shared::connections::log_identity::{LogId, OwnLog};
use shared::contract::log::{self, MARKS};
use shared::runtime::mongo_errors::history_is_lost;
use shared::runtime::settings::VERSION;
use tokio_util::sync::CancellationToken;

use super::arguments::{BackupArguments, is_standard};
use super::ending::{LEFT_OUT, ended, until_stopped};
use super::error::BackupError;
use super::file::{Change, Documents, End, Header, Record};
use super::output::Output;
use super::progress::Progress;

/// Documents in a batch, at most, and their bytes.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 1024 * 1024;
/// How long the server may wait before it says that nothing happened.
const MAX_AWAIT: Duration = Duration::from_millis(500);

/// The command: takes a backup, tells how it went, and what the exit code is.
pub async fn main(
    database: &Database,
    arguments: &BackupArguments,
    stop: &CancellationToken,
) -> ExitCode {
    ended("backup", backup(database, arguments, stop).await, stop)
}

async fn backup(
    database: &Database,
    arguments: &BackupArguments,
    stop: &CancellationToken,
) -> Result<(), BackupError> {
    // Asked before a file is made: a database that is half restored is not worth a copy.
    let own = OwnLog::new(database);
    let log = own.id().await?;
    let output = Output::open(&arguments.file)?;
    let mut backup = Backup {
        database,
        own,
        accepts_empty: arguments.empty,
        stop,
        output,
        progress: Progress::begin(),
        documents: BTreeMap::new(),
        changes: 0,
        last_event: None,
    };
    let copied = until_stopped(stop, backup.copy(log)).await;
    let took = backup.progress.finish();
    let end = match copied {
        Ok(end) => end,
        Err(error) => {
            backup.output.abandon().await;
            return Err(error);
        }
    };
    let bytes = until_stopped(stop, backup.output.finish(end.clone())).await?;
    let events = end.documents.get(log::COLLECTION).copied().unwrap_or(0);
    let all: i64 = end.documents.values().sum();
    let says = format!(
        "backed up {all} documents, {events} of them events, and {} changes; {bytes} bytes in {:.1} s; \
         holds all that was acknowledged before {}, the last event is {}",
        end.changes,
        took.as_secs_f64(),
        end.at.try_to_rfc3339_string().unwrap_or_default(),
        end.last_event
            .map_or_else(|| "none".to_owned(), |id| id.to_string()),
    );
    if is_standard(&arguments.file) {
        eprintln!("{says}");
    } else {
        println!("{says}");
    }
    Ok(())
}

struct Backup<'a> {
    database: &'a Database,
    own: OwnLog,
    accepts_empty: bool,
    stop: &'a CancellationToken,
    output: Output,
    progress: Progress,
    documents: BTreeMap<String, i64>,
    changes: i64,
    last_event: Option<i64>,
}

#[derive(Deserialize)]
struct RawChange {
    #[serde(rename = "operationType")]
    operation: String,
    #[serde(default)]
    ns: Option<Namespace>,
    #[serde(rename = "documentKey", default)]
    key: Option<RawDocumentBuf>,
    #[serde(rename = "fullDocument", default)]
    document: Option<RawDocumentBuf>,
    #[serde(rename = "updateDescription", default)]
    update: Option<UpdateDescription>,
}

#[derive(Default, Deserialize)]
struct Namespace {
    #[serde(default)]
    coll: Option<String>,
}

#[derive(Deserialize)]
struct UpdateDescription {
    #[serde(rename = "updatedFields", default)]
    updated: Document,
    #[serde(rename = "removedFields", default)]
    removed: Vec<String>,
    #[serde(rename = "truncatedArrays", default)]
    truncated: Vec<Document>,
}

impl Backup<'_> {
    async fn copy(&mut self, log: Option<LogId>) -> Result<End, BackupError> {
        let header = Header {
            log: log.map(|log| log.to_string()),
            version: VERSION.to_owned(),
            begun: bson::DateTime::now(),
        };
        let header = Record {
            header: Some(header),
            ..Record::default()
        };
        self.output.write(header).await?;
        let token = now(self.database).await?;
        for collection in self.collections().await? {
            self.collection(&collection).await?;
        }
        let at = self.time().await?;
        let mark = self.mark(&mut self.session().await?).await?;
        self.changes(token, mark).await?;
        // A restore that began just then leaves a part of a log to be copied.
        if self.own.id().await? != log {
            return Err(BackupError::OtherLog);
        }
        if self.last_event.is_none() && !self.accepts_empty {
            return Err(BackupError::EmptyLog);
        }
        Ok(End {
            at,
            mark,
            documents: std::mem::take(&mut self.documents),
            changes: self.changes,
            last_event: self.last_event,
            sha256: String::new(),
        })
    }

    fn check_stop(&self) -> Result<(), BackupError> {
        if self.stop.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
        Ok(())
    }

    /// The events first, which only become more: so the file begins as the last one did.
    async fn collections(&self) -> Result<Vec<String>, BackupError> {
        let mut names = self.database.list_collection_names().await?;
        names.retain(|name| !LEFT_OUT.contains(&name.as_str()) && !name.starts_with("system."));
        names.sort_unstable_by_key(|name| (name != log::COLLECTION, name.clone()));
        Ok(names)
    }

    /// The database's time. What it has acknowledged by now is before any mark that comes.
    async fn time(&self) -> Result<bson::DateTime, BackupError> {
        let hello = self.database.run_command(doc! { "hello": 1 }).await?;
        Ok(hello
            .get_datetime("localTime")
            .copied()
            .unwrap_or_else(|_| bson::DateTime::now()))
    }

    /// What is read in it is read at or after what was written in it before, by whichever member
    /// of the database.
    async fn session(&self) -> Result<ClientSession, BackupError> {
        Ok(self.database.client().start_session().await?)
    }

    /// Writes a mark; when this returns, a majority has it and all before it. It is taken away at
    /// once: the change stream has seen it.
    async fn mark(&self, session: &mut ClientSession) -> Result<ObjectId, BackupError> {
        let (marks, mark) = (self.database.collection::<Document>(MARKS), ObjectId::new());
        marks
            .insert_one(doc! { "_id": mark, "at": bson::DateTime::now() })
            .session(&mut *session)
            .await?;
        marks
            .delete_one(doc! { "_id": mark })
            .session(session)
            .await?;
        Ok(mark)
    }

    /// Reads in the order in which the server has them. No document moves in it: one that is there
    /// all the time is read, and what is inserted or deleted meanwhile is among the changes. What was
    /// committed before the token is there to be read behind a mark: one for each collection, because
    /// a new primary may be behind what the primary before it has shown.
    async fn collection(&mut self, name: &str) -> Result<(), BackupError> {
        let documents: Collection<RawDocumentBuf> = self.database.collection(name);
        let about = documents.estimated_document_count().await?;
        self.progress.part(name, about);
        let mut session = self.session().await?;
        self.mark(&mut session).await?;
        let mut found = documents
            .find(doc! {})
            .batch_size(u32::try_from(BATCH).unwrap_or(u32::MAX))
            .session(&mut session)
            .await?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(document) = found.next(&mut session).await.transpose()? {
            self.sees(name, &document);
            bytes += document.as_bytes().len();
            batch.push(document);
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                self.put(name, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.put(name, batch).await
    }

    async fn put(&mut self, name: &str, batch: Vec<RawDocumentBuf>) -> Result<(), BackupError> {
        self.check_stop()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.progress.advance(batch.len());
        let copied = self.documents.entry(name.to_owned()).or_default();
        *copied += i64::try_from(batch.len()).unwrap_or(i64::MAX);
        let documents = Documents {
            collection: name.to_owned(),
            documents: batch,
        };
        let record = Record {
            documents: Some(documents),
            ..Record::default()
        };
        self.output.write(record).await
    }

    fn sees(&mut self, collection: &str, document: &RawDocumentBuf) {
        if collection == log::COLLECTION {
            self.last_event = self.last_event.max(document.get_i64("_id").ok());
        }
    }

    /// Copies what happened between `token` and `mark`.
    ///
    /// The change stream is never left in the middle of a read, as the driver wants it.
    async fn changes(&mut self, token: ResumeToken, mark: ObjectId) -> Result<(), BackupError> {
        self.progress.part("changes", 0);
        let pipeline = [doc! { "$match": { "ns.coll": { "$ne": "leases" } } }];
        let mut changes = self
            .database
            .watch()
            .pipeline(pipeline)
            .batch_size(u32::try_from(BATCH).unwrap_or(u32::MAX))
            .max_await_time(MAX_AWAIT)
            .resume_after(token)
            .await
            .map_err(lost_or_not)?
            .with_type::<RawChange>();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        loop {
            self.check_stop()?;
            let Some(change) = changes.next_if_any().await.map_err(lost_or_not)? else {
                if changes.is_alive() {
                    continue;
                }
                return Err(BackupError::ChangesEnded);
            };
            let collection = change.ns.as_ref().and_then(|ns| ns.coll.clone());
            if collection.as_deref() == Some(MARKS) {
                let key = change.key.as_ref();
                if key.and_then(|key| key.get_object_id("_id").ok()) == Some(mark) {
                    break;
                }
                continue;
            }
            let change = read(change, collection.unwrap_or_default())?;
            if let Some(document) = &change.document {
                self.sees(&change.collection, document);
            }
            bytes += size(&change);
            batch.push(change);
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                self.put_changes(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.put_changes(batch).await
    }

    async fn put_changes(&mut self, batch: Vec<Change>) -> Result<(), BackupError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.progress.advance(batch.len());
        self.changes += i64::try_from(batch.len()).unwrap_or(i64::MAX);
        let record = Record {
            changes: Some(batch),
            ..Record::default()
        };
        self.output.write(record).await
    }
}

/// A change as it is kept.
fn read(change: RawChange, collection: String) -> Result<Change, BackupError> {
    let RawChange {
        operation,
        key,
        document,
        update,
        ..
    } = change;
    let unknown = |collection: String| BackupError::UnknownChange {
        collection,
        operation: operation.clone(),
    };
    let Some(key) = key else {
        return Err(unknown(collection));
    };
    let (document, update) = match (operation.as_str(), document, update) {
        ("insert" | "replace", Some(document), _) => (Some(document), None),
        ("update", _, Some(update)) if update.truncated.is_empty() => {
            let Some(update) = as_update(&update) else {
                return Err(unknown(collection));
            };
            (None, Some(update))
        }
        ("delete", _, _) => (None, None),
        _ => return Err(unknown(collection)),
    };
    Ok(Change {
        collection,
        key,
        document,
        update,
    })
}

/// How many bytes it has in a record, but for names.
fn size(change: &Change) -> usize {
    let parts = [change.document.as_ref(), change.update.as_ref()];
    let parts = parts.into_iter().flatten().chain([&change.key]);
    parts.map(|part| part.as_bytes().len()).sum()
}

/// The update that makes the same of a document; one that changes nothing sets nothing.
fn as_update(update: &UpdateDescription) -> Option<RawDocumentBuf> {
    let mut operators = Document::new();
    if !update.updated.is_empty() {
        operators.insert("$set", update.updated.clone());
    }
    if !update.removed.is_empty() {
        let removed = update.removed.iter().map(|name| (name.clone(), "".into()));
        operators.insert("$unset", removed.collect::<Document>());
    }
    if operators.is_empty() {
        return Some(rawdoc! {});
    }
    RawDocumentBuf::try_from(&operators).ok()
}

/// A token for *now*: every write that is committed from here on comes after it.
async fn now(database: &Database) -> Result<ResumeToken, BackupError> {
    loop {
        let changes = database
            .watch()
            .pipeline([doc! { "$match": { "ns.coll": MARKS } }])
            .max_await_time(Duration::from_millis(1))
            .await?;
        // The token is that of the first, empty batch. Should that not be empty, ask again.
        if let Some(token) = changes.resume_token() {
            return Ok(token);
        }
    }
}

fn lost_or_not(error: mongodb::error::Error) -> BackupError {
    if history_is_lost(&error) {
        BackupError::HistoryLost(error)
    } else {
        BackupError::Database(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_and_a_key_count_as_a_document_does() {
        let key = || rawdoc! { "_id": "x".repeat(1_000) };
        let change = |document, update| Change {
            collection: "users".to_owned(),
            key: key(),
            document,
            update,
        };
        let large = || rawdoc! { "text": "y".repeat(BATCH_BYTES) };
        let (alone, more) = (key().as_bytes().len(), large().as_bytes().len());
        assert_eq!(size(&change(None, None)), alone, "a deletion");
        assert_eq!(size(&change(Some(large()), None)), alone + more);
        assert_eq!(size(&change(None, Some(large()))), alone + more);
    }
}
