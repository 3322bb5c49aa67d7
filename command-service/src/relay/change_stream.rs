//! Reads the log's change stream in a task of its own.
//!
//! The driver's change stream must never be dropped or left in the middle of a read, so nothing
//! here is ever cancelled: a reader ends by itself, within one wait of the server, once nobody
//! listens any more. All its errors come through the channel; the listener opens another one.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::change_stream::event::ResumeToken;
use mongodb::{Collection, Database};
use serde::Deserialize;
use shared::contract::event_stream::StreamNames;
use shared::contract::trace_parent::TraceParent;
use shared::runtime::error_chain::Chain;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::error::RelayError;
use super::log::Log;
use super::message::{self, Message, Unpublishable};
use crate::metric_rows::RELAY_CORRUPT;

/// Read ahead of the publisher, at most: two full batches.
const AHEAD: usize = 1_000;

/// What the log says next.
#[derive(Debug)]
pub enum Change {
    Event {
        message: Message,
        token: ResumeToken,
    },
    /// Nothing was committed for a while, and `token` resumes from here.
    Idle { token: ResumeToken },
}

#[derive(Deserialize)]
struct Inserted {
    #[serde(rename = "_id")]
    token: ResumeToken,
    // Read apart from its envelope: a document that is no event must not end the stream.
    #[serde(rename = "fullDocument")]
    document: RawDocumentBuf,
}

#[derive(Deserialize)]
struct InsertedKey {
    #[serde(rename = "documentKey")]
    key: RawDocumentBuf,
}

/// Inserts into the log, and nothing else: the log only grows.
fn inserts() -> [Document; 1] {
    [doc! { "$match": { "operationType": "insert" } }]
}

/// Follows the log from `token` on, in commit order.
pub fn follow(
    log: &Log,
    tasks: &TaskTracker,
    token: ResumeToken,
) -> mpsc::Receiver<Result<Change, RelayError>> {
    let (out, changes) = mpsc::channel(AHEAD);
    let (events, names, max_await) = (log.events.clone(), log.names.clone(), log.max_await);
    tasks.spawn(async move {
        if let Err(error) = forward(&events, &names, max_await, token, &out).await {
            // Nobody listening is as good an end as any.
            let _ = out.send(Err(error)).await;
        }
    });
    changes
}

async fn forward(
    events: &Collection<RawDocumentBuf>,
    names: &StreamNames,
    max_await: Duration,
    token: ResumeToken,
    out: &mpsc::Sender<Result<Change, RelayError>>,
) -> Result<(), RelayError> {
    let mut changes = events
        .watch()
        .pipeline(inserts())
        .batch_size(1_000)
        .max_await_time(max_await)
        .resume_after(token)
        .await
        .map_err(RelayError::of_changes)?
        .with_type::<Inserted>();
    while !out.is_closed() {
        let next = changes.next_if_any().await;
        let change = match next.map_err(RelayError::of_changes)? {
            Some(inserted) => match Message::read(names, &inserted.document) {
                Ok(message) => Change::Event {
                    message,
                    token: inserted.token,
                },
                Err(error) => {
                    tell_corrupt(&inserted.document, &error);
                    continue;
                }
            },
            // Closed by the server for good: asked again, it would say `None` at once, for ever.
            None if !changes.is_alive() => return Err(RelayError::LogReplaced),
            None => match changes.resume_token() {
                Some(token) => Change::Idle { token },
                None => continue,
            },
        };
        if out.send(Ok(change)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Says that an event is left out of the stream. It stays in the log: a build that can read it
/// publishes it with a scan.
pub fn tell_corrupt(document: &RawDocumentBuf, error: &Unpublishable) {
    RELAY_CORRUPT.only().increment(1);
    let id = message::id_of(document).map_or_else(|| "?".to_owned(), |id| id.to_string());
    let trace = message::trace_of(document).map(TraceParent::trace_id);
    error!(event.id = %id, trace.id = trace, error = %Chain(error), "event {id} cannot be published and is left out");
}

/// A token for *now*: every event committed before this call is before it, and none after.
pub async fn now(events: &Collection<RawDocumentBuf>) -> mongodb::error::Result<ResumeToken> {
    loop {
        let changes = events
            .watch()
            .pipeline(inserts())
            .max_await_time(Duration::from_millis(1))
            .await?;
        // The token is that of the first, empty batch. Should that not be empty, ask again.
        if let Some(token) = changes.resume_token() {
            return Ok(token);
        }
    }
}

/// A step of [`follow_late`].
#[derive(Debug)]
pub enum Late {
    Event(i64),
    Mark(bson::oid::ObjectId),
}

/// Follows what is committed after `token` with an id up to `upper`, and the marks that a scan
/// sets, in commit order: what came before a mark was committed before it.
///
/// An empty batch would not do as a mark: the server may answer one while it still works
/// through other collections' writes.
pub fn follow_late(
    log: &Log,
    tasks: &TaskTracker,
    token: ResumeToken,
    upper: i64,
) -> mpsc::Receiver<Result<Late, RelayError>> {
    let (out, late) = mpsc::channel(AHEAD);
    let pipeline = [
        doc! { "$match": { "operationType": "insert", "$or": [
            { "ns.coll": log.events.name(), "documentKey._id": { "$lte": upper } },
            { "ns.coll": log.marks.name() },
        ] } },
        doc! { "$project": { "documentKey": 1 } },
    ];
    let (database, max_await) = (log.database.clone(), log.max_await);
    tasks.spawn(async move {
        if let Err(error) = forward_late(&database, pipeline, max_await, token, &out).await {
            let _ = out.send(Err(error)).await;
        }
    });
    late
}

async fn forward_late(
    database: &Database,
    pipeline: [Document; 2],
    max_await: Duration,
    token: ResumeToken,
    out: &mpsc::Sender<Result<Late, RelayError>>,
) -> Result<(), RelayError> {
    let mut changes = database
        .watch()
        .pipeline(pipeline)
        .max_await_time(max_await)
        .resume_after(token)
        .await
        .map_err(RelayError::of_changes)?
        .with_type::<InsertedKey>();
    while !out.is_closed() {
        let next = changes.next_if_any().await;
        let key = match next.map_err(RelayError::of_changes)? {
            Some(InsertedKey { key }) => key,
            None if !changes.is_alive() => return Err(RelayError::LogReplaced),
            None => continue,
        };
        let late = match (key.get_i64("_id"), key.get_object_id("_id")) {
            (Ok(id), _) => Late::Event(id),
            (_, Ok(mark)) => Late::Mark(mark),
            (Err(_), Err(_)) => continue, // No id of ours: no event either.
        };
        if out.send(Ok(late)).await.is_err() {
            break;
        }
    }
    Ok(())
}
