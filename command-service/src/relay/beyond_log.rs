//! What the stream has and its log lacks: what was written after the backup that the log was restored
//! from.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bson::{Document, doc};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::{Collection, Database};
use shared::connections::Nats;
use shared::connections::log_identity::{Label, OwnLog, other_log};
use shared::contract::event_stream::{StreamError, StreamNames};
use shared::contract::events::Event;
use shared::contract::stream_end;

use super::error::RelayError;

/// Messages read at once.
const STRETCH: usize = 1_000;
/// How long the broker may take for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the stream has and the log lacks.
#[derive(Default)]
pub struct BeyondLog {
    /// In the stream's order.
    pub events: Vec<Event>,
    /// Messages that this build cannot read. Whether the log has their events is not known.
    pub unreadable: u64,
}

/// The events of these kinds on the stream that the log in `database` lacks. Changes nothing.
///
/// # Errors
/// The stream is missing, cannot be read, or holds another log; the log is not whole.
pub async fn beyond_log(
    nats: &Nats,
    names: &StreamNames,
    database: &Database,
    kinds: &[&str],
) -> Result<BeyondLog, RelayError> {
    let found = nats.jetstream().get_stream(names.stream()).await;
    let stream = found.map_err(|error| StreamError::Lookup(names.stream(), error))?;
    let end = stream_end::read(&stream, stream.cached_info().state.last_sequence).await?;
    let label = Label::of(stream.cached_info(), &end);
    if let Some(ours) = OwnLog::new(database).id().await?
        && let Some(theirs) = label.other_than(ours)
    {
        return Err(other_log(names, theirs, ours).into());
    }
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            filter_subjects: kinds.iter().map(|kind| names.kind(kind)).collect(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await
        .map_err(RelayError::Consumer)?;
    let log = database.collection(shared::contract::log::COLLECTION);
    let (mut beyond, mut left) = (BeyondLog::default(), consumer.cached_info().num_pending);
    while left > 0 {
        let mut stretch = consumer
            .batch()
            .max_messages(STRETCH)
            .expires(PATIENCE)
            .messages()
            .await
            .map_err(RelayError::Stretch)?;
        let (before, mut events) = (left, Vec::new());
        while let Some(message) = stretch.next().await {
            let message = message.map_err(RelayError::Delivery)?;
            left = message.info().map_err(RelayError::Delivery)?.pending;
            match Event::decode(&message.payload) {
                Ok(event) => events.push(event),
                Err(_) => beyond.unreadable += 1,
            }
            if left == 0 {
                break;
            }
        }
        if left == before {
            let until = end.last;
            return Err(RelayError::Unread { read: 0, until });
        }
        let known = known(&log, &events).await.map_err(RelayError::Log)?;
        events.retain(|event| !known.contains(&event.id.get()));
        beyond.events.append(&mut events);
    }
    Ok(beyond)
}

/// The ids of those events that the log has.
async fn known(
    log: &Collection<Document>,
    events: &[Event],
) -> mongodb::error::Result<BTreeSet<i64>> {
    let ids: Vec<i64> = events.iter().map(|event| event.id.get()).collect();
    let found = log
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "_id": 1 });
    let found: Vec<Document> = found.await?.try_collect().await?;
    Ok(found
        .iter()
        .filter_map(|row| row.get_i64("_id").ok())
        .collect())
}
