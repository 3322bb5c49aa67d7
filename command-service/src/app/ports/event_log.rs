//! The log: appending to it, and what was appended under a key.

use std::collections::HashMap;

use async_trait::async_trait;
use shared::contract::consistency::Position;
use shared::contract::events::{Event, LogStream};
use shared::contract::ids::{EventId, PostId, UserId};

use super::cleanups::Relation;
use super::error::Result;
use crate::domain::user::{AccountStatus, User};

/// A request's idempotency key, and a hash of what it asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    pub text: String,
    pub hash: i64,
}

/// One event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event: Event,
    /// Whose stream it is.
    pub owner: UserId,
    pub key: Option<Key>,
    /// The W3C `traceparent` of the command.
    pub trace: Option<String>,
    /// Random: tells this append's own lost answer from another's event.
    pub nonce: i64,
}

/// What an earlier request with the same key did.
#[derive(Clone, Debug)]
pub struct PriorRequest {
    pub event: Event,
    pub hash: i64,
}

/// By owner and key: the event that has the key, and the hash stored with it.
pub type PriorRequests = HashMap<(UserId, String), (EventId, i64)>;

/// How an append ended.
#[derive(Debug)]
pub enum AppendOutcome {
    Appended(Event),
    /// Another event has the id: take the next.
    IdTaken,
    /// Somebody was faster: reload and decide again.
    VersionTaken,
    KeyTaken(PriorRequest),
}

/// Appending is the only way to change what others see.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends one event, or says why not. Asking again with the same event is safe.
    async fn append(&self, append: &NewEvent) -> Result<AppendOutcome>;
    /// Appends many at once, in any order: for each, whether it is in the log now.
    async fn append_all(&self, appends: &[NewEvent]) -> Result<Vec<bool>>;
    /// The event that made the post.
    async fn post_created(&self, post: PostId) -> Result<Option<Event>>;
    /// What an earlier request with this key did.
    async fn prior_request(&self, owner: UserId, key: &str) -> Result<Option<PriorRequest>>;
    /// Which of these keys are used, and the event of each.
    async fn prior_requests(&self, keys: &[(UserId, String)]) -> Result<PriorRequests>;
    /// The streams of one kind of relation, standing or not, in an order of the store's, beginning
    /// behind `after`: of at most `limit` events.
    async fn relations(
        &self,
        user: UserId,
        relation: Relation,
        after: Option<LogStream>,
        limit: u32,
    ) -> Result<Vec<LogStream>>;
}

/// How long after its id was drawn an event may be accepted, in milliseconds: the time a command
/// may take ([`crate::app::DEADLINE`]), the lead an id may have, and what replicas may differ by.
pub const OVERLAP_MS: i64 = 8_000;

/// The log, stream by stream, read from the ends.
#[async_trait]
pub trait Streams: Send + Sync {
    /// The last event of a stream.
    async fn last(&self, owner: UserId, stream: LogStream) -> Result<Option<Event>>;
    /// Where the owner's latest events stand, at most [`shared::contract::consistency::MOST_LATEST`]: of
    /// all that were accepted by now, every other is before one of them on the stream.
    async fn latest(&self, owner: UserId) -> Result<Vec<Position>>;
    /// A user as of now; nobody without a registration.
    async fn user(&self, user: UserId) -> Result<Option<User>>;
    /// A user as of all events of theirs with ids below `id`.
    async fn user_before(&self, user: UserId, id: EventId) -> Result<Option<User>>;
    /// The status of those of these users who exist, with the last event that was read.
    async fn statuses(&self, users: &[UserId])
    -> Result<HashMap<UserId, (AccountStatus, EventId)>>;
}
