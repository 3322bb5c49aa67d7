//! Restores a backup into an empty database.
//!
//! 1. The backup's beginning is read: what is none changes nothing.
//! 2. The database is empty, or has what a restore left that did not finish.
//! 3. A document says that the database is not whole. Services refuse it from here on. What is there
//!    is taken away.
//! 4. Documents and changes are written; the backup's end says whether it was whole.
//! 5. What is there is counted, indexes are made, and the document is taken away.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use bson::{Document, RawDocumentBuf, doc};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use mongodb::error::{Error, ErrorKind};
use mongodb::{Collection, Database};
use shared::connections::log_identity::{self, LogId, OwnLog};
use shared::contract::log;
use shared::runtime::mongo_errors::DUPLICATE_KEY;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::arguments::{RestoreArguments, is_standard};
use super::ending::{LEFT_OUT, ended, until_stopped};
use super::error::BackupError;
use super::file::{Change, Documents, End, FileError, Header, Reader, Record};
use super::progress::Progress;
use crate::app::ports::StoreError;

/// Records that wait to be written.
const WAITING: usize = 4;
/// Documents that are changed at once, each in the order of its changes.
const AT_ONCE: usize = 16;
const SESSIONS: &str = "sessions";

type Records = mpsc::Receiver<Result<Record, FileError>>;

/// Where a backup is restored to.
pub struct Target<'a, I> {
    pub database: &'a Database,
    /// Makes the indexes.
    pub index: I,
}

/// The command: restores, tells how it went, and what the exit code is.
pub async fn main<I, F>(
    target: Target<'_, I>,
    arguments: &RestoreArguments,
    stop: &CancellationToken,
) -> ExitCode
where
    I: FnOnce() -> F,
    F: Future<Output = Result<(), StoreError>>,
{
    if arguments.check {
        let checked = until_stopped(stop, check(arguments, stop)).await;
        return ended("restore", checked, stop);
    }
    let mut progress = Progress::begin();
    let mut restore = Restore {
        database: target.database,
        arguments,
        stop,
        own: OwnLog::new(target.database),
        run: LogId::random(),
        begun: false,
        expected: BTreeMap::new(),
    };
    let restored = until_stopped(stop, restore.run(target.index, &mut progress)).await;
    let took = progress.finish();
    if restored.is_err() && restore.begun {
        eprintln!(
            "the database holds a part of the backup, and services refuse it: run the restore again"
        );
    }
    let told = restored.map(|(log, end)| {
        let events = restore.expected.get(log::COLLECTION).copied().unwrap_or(0);
        let all: u64 = restore.expected.values().sum();
        println!(
            "restored {all} documents, {events} of them events, in {:.1} s, {:.0} events/s; log {log}, \
             as it was at {}, the last event is {}",
            took.as_secs_f64(),
            events as f64 / took.as_secs_f64().max(0.001),
            end.at.try_to_rfc3339_string().unwrap_or_default(),
            last(&end),
        );
        println!("what to do with the stream and the views: docs/backup.md");
    });
    ended("restore", told, stop)
}

fn last(end: &End) -> String {
    end.last_event
        .map_or_else(|| "none".to_owned(), |id| id.to_string())
}

/// A backup of an empty log was taken when the log was lost, unless somebody knows better.
fn has_events(end: &End, arguments: &RestoreArguments) -> Result<(), BackupError> {
    if end.last_event.is_none() && !arguments.empty {
        return Err(BackupError::EmptyBackup(arguments.file.clone()));
    }
    Ok(())
}

/// Reads a backup to its end.
async fn check(arguments: &RestoreArguments, stop: &CancellationToken) -> Result<(), BackupError> {
    let file = &arguments.file;
    let (header, mut records) = open(file).await?;
    let mut progress = Progress::begin();
    progress.part("records", 0);
    while let Some(record) = records.recv().await {
        let record = record.map_err(|error| BackupError::File(file.to_owned(), error))?;
        if stop.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
        progress.advance(1);
        if let Some(end) = record.end {
            let took = progress.finish();
            has_events(&end, arguments)?;
            let events = end.documents.get(log::COLLECTION).copied().unwrap_or(0);
            println!(
                "the backup is whole: {} documents, {events} of them events, and {} changes, read in {:.1} s; \
                 log {}, as it was at {}, the last event is {}",
                end.documents.values().sum::<i64>(),
                end.changes,
                took.as_secs_f64(),
                header.log.as_deref().unwrap_or("without a name"),
                end.at.try_to_rfc3339_string().unwrap_or_default(),
                last(&end),
            );
            return nothing_behind(file, &mut records).await;
        }
    }
    Err(BackupError::TaskGone)
}

async fn nothing_behind(file: &Path, records: &mut Records) -> Result<(), BackupError> {
    match records.recv().await {
        None => Ok(()),
        Some(Err(error)) => Err(BackupError::File(file.to_owned(), error)),
        Some(Ok(_)) => Err(BackupError::TaskGone),
    }
}

/// The header, and the records behind it as a task reads them.
#[expect(
    clippy::disallowed_methods,
    reason = "a read of a pipe may never end; the process does not wait for it"
)]
async fn open(file: &Path) -> Result<(Header, Records), BackupError> {
    let (out, mut records) = mpsc::channel(WAITING);
    let from: Box<dyn Read + Send> = if is_standard(file) {
        Box::new(std::io::stdin())
    } else {
        let opened = File::open(file);
        Box::new(opened.map_err(|error| BackupError::Open(file.to_owned(), error))?)
    };
    tokio::task::spawn_blocking(move || {
        let mut reader = match Reader::new(from) {
            Ok(reader) => reader,
            Err(error) => return drop(out.blocking_send(Err(error))),
        };
        loop {
            let record = match reader.read() {
                Ok(Some(record)) => Ok(record),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let is_last = record.is_err();
            if out.blocking_send(record).is_err() || is_last {
                return;
            }
        }
    });
    let wrong = |error| BackupError::File(file.to_owned(), error);
    match records.recv().await {
        Some(Ok(Record {
            header: Some(header),
            ..
        })) => Ok((header, records)),
        Some(Ok(_)) => Err(wrong(FileError::Wrong("it does not begin with a header"))),
        Some(Err(error)) => Err(wrong(error)),
        None => Err(BackupError::TaskGone),
    }
}

struct Restore<'a> {
    database: &'a Database,
    arguments: &'a RestoreArguments,
    stop: &'a CancellationToken,
    own: OwnLog,
    /// Names this restore, so that it notices another.
    run: LogId,
    /// The database says that it is not whole.
    begun: bool,
    /// How many documents each collection must have.
    expected: BTreeMap<String, u64>,
}

impl Restore<'_> {
    async fn run<I, F>(
        &mut self,
        index: I,
        progress: &mut Progress,
    ) -> Result<(String, End), BackupError>
    where
        I: FnOnce() -> F,
        F: Future<Output = Result<(), StoreError>>,
    {
        let file = &self.arguments.file;
        let (header, mut records) = open(file).await?;
        self.make_room().await?;
        let end = self.write_all(&mut records, progress).await?;
        nothing_behind(file, &mut records).await?;
        has_events(&end, self.arguments)?;
        self.check_stop()?;
        let log = self.name(&header).await?;
        self.check_unused().await?;
        self.count().await?;
        index().await.map_err(BackupError::Indexes)?;
        if !self.own.end_restore(self.run).await? {
            return Err(BackupError::Overtaken);
        }
        Ok((log, end))
    }

    fn check_stop(&self) -> Result<(), BackupError> {
        if self.stop.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
        Ok(())
    }

    /// Makes sure that nothing is in the way but what an unfinished restore has left, says that the
    /// database is not whole, and only then removes what is there: whoever is killed here leaves an
    /// unfinished restore, and one that runs already does not end well.
    async fn make_room(&mut self) -> Result<(), BackupError> {
        self.check_unused().await?;
        if self.own.is_being_restored().await? {
            self.begin().await?;
            return self.drop_all().await;
        }
        self.check_empty().await?;
        let had = self.own.id().await?;
        self.begin().await?;
        // Services that start from here on do not write. Has one written just before?
        if let Err(error) = self.check_empty().await {
            if let Some(id) = had {
                self.own.restore_id(id).await?;
            }
            self.begun = !self.own.end_restore(self.run).await?;
            return Err(error);
        }
        // What a service has prepared: indexes, of which one deletes sessions that have expired.
        self.drop_all().await
    }

    async fn begin(&mut self) -> Result<(), BackupError> {
        self.own.begin_restore(self.run).await?;
        self.begun = true;
        Ok(())
    }

    async fn check_empty(&self) -> Result<(), BackupError> {
        let mut holds = Vec::new();
        for name in self.collections().await? {
            let documents = self.database.collection::<Document>(&name);
            if documents.find_one(doc! {}).await?.is_some() {
                holds.push(name);
            }
        }
        if holds.is_empty() {
            return Ok(());
        }
        Err(BackupError::NotEmpty {
            database: self.database.name().to_owned(),
            holds: holds.join(", "),
        })
    }

    async fn drop_all(&self) -> Result<(), BackupError> {
        for name in self.collections().await? {
            self.database.collection::<Document>(&name).drop().await?;
        }
        Ok(())
    }

    /// Those that a restore fills. A log without an event may have an identity already.
    async fn collections(&self) -> Result<Vec<String>, BackupError> {
        let mut names = self.database.list_collection_names().await?;
        names.retain(|name| {
            !LEFT_OUT.contains(&name.as_str())
                && !name.starts_with("system.")
                && name != log_identity::COLLECTION
        });
        Ok(names)
    }

    /// A relay that runs holds its lease. Others are noticed by what they write, when it is counted.
    async fn check_unused(&self) -> Result<(), BackupError> {
        let leases = self.database.collection::<Document>("leases");
        let held = doc! { "$expr": { "$gt": ["$expires_at", "$$NOW"] } };
        if leases.find_one(held).await?.is_some() {
            return Err(BackupError::InUse(self.database.name().to_owned()));
        }
        Ok(())
    }

    async fn write_all(
        &mut self,
        records: &mut Records,
        progress: &mut Progress,
    ) -> Result<End, BackupError> {
        while let Some(record) = records.recv().await {
            let file = &self.arguments.file;
            let record = record.map_err(|error| BackupError::File(file.clone(), error))?;
            self.check_stop()?;
            if let Some(documents) = record.documents {
                let Documents {
                    collection,
                    documents,
                } = documents;
                if !progress.is_of(&collection) {
                    progress.part(&collection, 0);
                }
                progress.advance(documents.len());
                self.insert(&collection, documents).await?;
            }
            if let Some(changes) = record.changes {
                if !progress.is_of("changes") {
                    progress.part("changes", 0);
                }
                progress.advance(changes.len());
                self.change(changes).await?;
            }
            if let Some(end) = record.end {
                return Ok(end);
            }
        }
        Err(BackupError::TaskGone)
    }

    /// Whether nothing of a collection is restored.
    fn leaves_out(&self, collection: &str) -> bool {
        // The identity is written by itself, and last.
        collection == log_identity::COLLECTION
            || (self.arguments.sign_out && collection == SESSIONS)
    }

    /// Inserts those that are not there yet. One that is there was deleted and made again while it
    /// was copied, and the changes say how it is.
    async fn insert(
        &mut self,
        name: &str,
        documents: Vec<RawDocumentBuf>,
    ) -> Result<(), BackupError> {
        if documents.is_empty() || self.leaves_out(name) {
            return Ok(());
        }
        let collection: Collection<RawDocumentBuf> = self.database.collection(name);
        let there = match collection.insert_many(&documents).ordered(false).await {
            Ok(_) => 0,
            Err(error) => duplicates(error)?,
        };
        *self.expected.entry(name.to_owned()).or_default() += (documents.len() - there) as u64;
        Ok(())
    }

    /// Makes the changes: those of one document in their order, new events in bulk.
    async fn change(&mut self, changes: Vec<Change>) -> Result<(), BackupError> {
        let mut events = Vec::new();
        let mut by_document: BTreeMap<(String, Vec<u8>), Vec<Change>> = BTreeMap::new();
        for change in changes {
            if self.leaves_out(&change.collection) {
                continue;
            }
            // An event is made once. Whatever else happens to one comes after it, if not in this
            // batch then in a later one.
            if change.collection == log::COLLECTION
                && let Some(document) = change.document
            {
                events.push(document);
                continue;
            }
            let key = (change.collection.clone(), change.key.as_bytes().to_vec());
            by_document.entry(key).or_default().push(change);
        }
        self.insert(log::COLLECTION, events).await?;
        let database = self.database;
        let changed = stream::iter(by_document)
            .map(|((name, _), changes)| async move {
                let collection: Collection<RawDocumentBuf> = database.collection(&name);
                let mut more = 0;
                for change in changes {
                    more += make(&collection, change).await?;
                }
                Ok::<_, BackupError>((name, more))
            })
            .buffer_unordered(AT_ONCE);
        let changed: Vec<(String, i64)> = changed.try_collect().await?;
        for (name, more) in changed {
            let expected = self.expected.entry(name).or_default();
            *expected = expected.saturating_add_signed(more);
        }
        Ok(())
    }

    /// Gives the log the identity it had, or one of its own.
    async fn name(&self, header: &Header) -> Result<String, BackupError> {
        let had = header.log.as_ref().and_then(|log| log.parse().ok());
        let name = had.filter(|_| !self.arguments.as_copy);
        let Some(name) = name.or_else(|| self.arguments.as_copy.then(LogId::random)) else {
            return Ok("without a name yet".to_owned());
        };
        self.own.restore_id(name).await?;
        Ok(name.to_string())
    }

    /// Nobody else has written, and all is there.
    async fn count(&self) -> Result<(), BackupError> {
        let mut names = self.collections().await?;
        names.extend(self.expected.keys().cloned());
        names.sort_unstable();
        names.dedup();
        for collection in names {
            let expected = self.expected.get(&collection).copied().unwrap_or(0);
            let documents = self.database.collection::<Document>(&collection);
            let found = documents.count_documents(doc! {}).await?;
            if found != expected {
                return Err(BackupError::Counted {
                    collection,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// Makes one change; by how many the collection has more documents now.
async fn make(collection: &Collection<RawDocumentBuf>, change: Change) -> Result<i64, BackupError> {
    let key = Document::try_from(&change.key).map_err(Error::custom)?;
    if let Some(document) = change.document {
        let replaced = collection.replace_one(key, document).upsert(true).await?;
        return Ok(i64::from(replaced.upserted_id.is_some()));
    }
    if let Some(update) = change.update {
        let update = Document::try_from(&update).map_err(Error::custom)?;
        // It may be gone already: then it was copied after it was deleted, which comes.
        if !update.is_empty() {
            collection.update_one(key, update).await?;
        }
        return Ok(0);
    }
    let deleted = collection.delete_one(key).await?.deleted_count;
    Ok(-i64::try_from(deleted).unwrap_or(0))
}

/// How many were refused because they are there; any other error is one.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's enum is non-exhaustive"
)]
fn duplicates(error: Error) -> Result<usize, BackupError> {
    match error.kind.as_ref() {
        ErrorKind::InsertMany(all) if all.write_concern_error.is_none() => {
            let errors = all.write_errors.as_deref().unwrap_or_default();
            if errors.iter().all(|error| error.code == DUPLICATE_KEY) {
                return Ok(errors.len());
            }
        }
        _ => (),
    }
    Err(error.into())
}
