//! The event log.
//!
//! An append is one insert of one document under one id with one nonce, however often it is
//! tried. When a unique index refuses it, the log is asked which: the same id with the same nonce
//! means *it was me, the answer was lost*.

use std::collections::HashMap;

use async_trait::async_trait;
use bson::doc;
use futures_util::TryStreamExt;
use mongodb::Collection;
use serde::Deserialize;
use shared::contract::events::{Event, LogStream, Payload};
use shared::contract::ids::{EventId, PostId, UserId};
use shared::contract::log::{self, LogDocument};

use super::calls::{Call, Calls};
use super::errors::{Fault, corrupt, is_duplicate};
use crate::app::ports::{
    AppendOutcome, EventLog, NewEvent, PriorRequest, PriorRequests, Relation, Result, StoreError,
};

const INSERT: Call = Call {
    span: "insert events",
    operation: "insert",
    collection: log::COLLECTION,
};

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct Log {
    events: Collection<LogDocument>,
    calls: Calls,
}

/// What tells one's own event.
#[derive(Deserialize)]
struct Mark {
    #[serde(rename = "_id")]
    id: EventId,
    nonce: i64,
}

#[derive(Deserialize)]
struct KeyedEvent {
    #[serde(rename = "_id")]
    id: EventId,
    owner: UserId,
    key: String,
    key_hash: Option<i64>,
}

#[derive(Deserialize)]
struct StreamName {
    stream: LogStream,
}

#[async_trait]
impl EventLog for Log {
    async fn append(&self, append: &NewEvent) -> Result<AppendOutcome> {
        self.calls.require_prepared()?;
        let document = document(append)?;
        let attempt = || self.try_append(&append.event, &document);
        self.calls.ask_traced(&INSERT, attempt).await
    }

    async fn append_all(&self, appends: &[NewEvent]) -> Result<Vec<bool>> {
        self.calls.require_prepared()?;
        if appends.is_empty() {
            return Ok(Vec::new());
        }
        let documents: Vec<LogDocument> = appends.iter().map(document).collect::<Result<_>>()?;
        self.calls.ask(|| self.try_append_all(&documents)).await
    }

    async fn post_created(&self, post: PostId) -> Result<Option<Event>> {
        self.calls.ask(|| self.try_post_created(post)).await
    }

    async fn prior_request(&self, owner: UserId, key: &str) -> Result<Option<PriorRequest>> {
        self.calls.ask(|| self.try_prior_request(owner, key)).await
    }

    async fn prior_requests(&self, keys: &[(UserId, String)]) -> Result<PriorRequests> {
        self.calls.ask(|| self.try_prior_requests(keys)).await
    }

    async fn relations(
        &self,
        user: UserId,
        relation: Relation,
        after: Option<LogStream>,
        limit: u32,
    ) -> Result<Vec<LogStream>> {
        let attempt = || self.try_relations(user, relation, after, limit);
        self.calls.ask(attempt).await
    }
}

impl Log {
    pub(super) fn new(events: Collection<LogDocument>, calls: Calls) -> Self {
        Self { events, calls }
    }

    async fn try_append(&self, event: &Event, document: &LogDocument) -> Attempt<AppendOutcome> {
        match self.events.insert_one(document).await {
            Ok(_) => Ok(AppendOutcome::Appended(event.clone())),
            Err(error) if is_duplicate(&error) => self.explain(event, document).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Which unique index refused the document. Reads see what a majority has: when none of the
    /// three is seen, another's write is under way and the question is asked again.
    async fn explain(&self, event: &Event, document: &LogDocument) -> Attempt<AppendOutcome> {
        if let Some(stored) = self.marks(&[document.id]).await?.first() {
            let mine = stored.nonce == document.nonce;
            return Ok(if mine {
                AppendOutcome::Appended(event.clone())
            } else {
                AppendOutcome::IdTaken
            });
        }
        if let Some(key) = &document.key
            && let Some(prior_request) = self.try_prior_request(document.owner, key).await?
        {
            return Ok(AppendOutcome::KeyTaken(prior_request));
        }
        let same = doc! {
            "owner": document.owner.get(),
            "stream": document.stream.to_string(),
            "version": document.version,
        };
        match self.events.find_one(same).await? {
            Some(_) => Ok(AppendOutcome::VersionTaken),
            None => Err(Fault::Unsettled),
        }
    }

    async fn try_append_all(&self, documents: &[LogDocument]) -> Attempt<Vec<bool>> {
        match self.events.insert_many(documents).ordered(false).await {
            Ok(_) => Ok(vec![true; documents.len()]),
            Err(error) if is_duplicate(&error) => {
                let ids: Vec<EventId> = documents.iter().map(|document| document.id).collect();
                let marks = self.marks(&ids).await?;
                let mine: HashMap<EventId, i64> = marks
                    .into_iter()
                    .map(|mark| (mark.id, mark.nonce))
                    .collect();
                let is_mine =
                    |document: &LogDocument| mine.get(&document.id) == Some(&document.nonce);
                Ok(documents.iter().map(is_mine).collect())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn marks(&self, ids: &[EventId]) -> Attempt<Vec<Mark>> {
        let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
        let stored = self
            .events
            .clone_with_type::<Mark>()
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "nonce": 1 })
            .await?;
        Ok(stored.try_collect().await?)
    }

    async fn try_post_created(&self, post: PostId) -> Attempt<Option<Event>> {
        let found = self.events.find_one(doc! { "_id": post.get() }).await?;
        // Any event's id may be asked for; only a post's is a post.
        Ok(event(found)?.filter(|event| match event.payload {
            Payload::PostCreated(_) => true,
            Payload::UserRegistered(_)
            | Payload::ProfileEdited(_)
            | Payload::UserDeactivated(_)
            | Payload::UserVerified(_)
            | Payload::UserSuspended(_)
            | Payload::UserUnsuspended(_)
            | Payload::PostDeleted(_)
            | Payload::Followed(_)
            | Payload::Unfollowed(_)
            | Payload::Liked(_)
            | Payload::Unliked(_)
            | Payload::Reposted(_)
            | Payload::Unreposted(_) => false,
        }))
    }

    async fn try_prior_request(&self, owner: UserId, key: &str) -> Attempt<Option<PriorRequest>> {
        let with_key = doc! { "owner": owner.get(), "key": key };
        let Some(found) = self.events.find_one(with_key).await? else {
            return Ok(None);
        };
        Ok(Some(PriorRequest {
            hash: found.key_hash.unwrap_or_default(),
            event: found.to_event().map_err(corrupt)?,
        }))
    }

    async fn try_prior_requests(&self, keys: &[(UserId, String)]) -> Attempt<PriorRequests> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let owners: Vec<i64> = distinct(keys.iter().map(|(owner, _)| owner.get()));
        let keys: Vec<&str> = keys.iter().map(|(_, key)| key.as_str()).collect();
        let found: Vec<KeyedEvent> = self
            .events
            .clone_with_type::<KeyedEvent>()
            .find(doc! { "owner": { "$in": owners }, "key": { "$in": keys } })
            .projection(doc! { "owner": 1, "key": 1, "key_hash": 1 })
            .await?
            .try_collect()
            .await?;
        Ok(found
            .into_iter()
            .map(|event| {
                let hash = event.key_hash.unwrap_or_default();
                ((event.owner, event.key), (event.id, hash))
            })
            .collect())
    }

    async fn try_relations(
        &self,
        user: UserId,
        relation: Relation,
        after: Option<LogStream>,
        limit: u32,
    ) -> Attempt<Vec<LogStream>> {
        // Stream names sort as text: an order like any other, as long as it is one.
        let own = |prefix: String| {
            let behind = after.map_or_else(|| prefix.clone(), |stream| stream.to_string());
            let end = format!("{};", prefix.trim_end_matches(':'));
            doc! { "owner": user.get(), "stream": { "$gt": behind, "$lt": end } }
        };
        let (filter, sort) = match relation {
            Relation::Followees => (own(format!("follow:{user}:")), "stream"),
            Relation::Reposts => (own(format!("repost:{user}:")), "stream"),
            Relation::Replies => {
                let mut filter = own("post:".to_owned());
                filter.insert("data.reply_to.post", doc! { "$exists": true });
                (filter, "stream")
            }
            Relation::Followers => {
                let behind = match after {
                    Some(LogStream::Follow { follower, .. }) => follower.get(),
                    Some(_) | None => 0,
                };
                let filter = doc! { "data.followee": user.get(), "owner": { "$gt": behind } };
                (filter, "owner")
            }
        };
        let found: Vec<StreamName> = self
            .events
            .clone_with_type::<StreamName>()
            .find(filter)
            .sort(doc! { sort: 1 })
            .limit(i64::from(limit))
            .projection(doc! { "stream": 1 })
            .await?
            .try_collect()
            .await?;
        let mut streams: Vec<LogStream> = found.into_iter().map(|row| row.stream).collect();
        // The events of one stream stand together.
        streams.dedup();
        Ok(streams)
    }
}

fn document(append: &NewEvent) -> Result<LogDocument> {
    let document = LogDocument::new(&append.event, append.owner, append.nonce);
    let mut document = document.map_err(|error| StoreError::Unexpected(Box::new(error)))?;
    document.trace.clone_from(&append.trace);
    if let Some(key) = &append.key {
        document.key = Some(key.text.clone());
        document.key_hash = Some(key.hash);
    }
    Ok(document)
}

fn event(document: Option<LogDocument>) -> Attempt<Option<Event>> {
    let read = document.map(|document| document.to_event()).transpose();
    Ok(read.map_err(corrupt)?)
}

fn distinct(values: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut values: Vec<i64> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}
