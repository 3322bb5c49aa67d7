//! The log, and what is read of it.

use std::collections::HashMap;

use async_trait::async_trait;
use shared::contract::consistency::{MOST_LATEST, Position};
use shared::contract::events::{Event, LogStream, Payload};
use shared::contract::ids::{EventId, PostId, SEQUENCE_BITS, UserId};

use super::super::{
    AppendOutcome, Counts, EventLog, NewEvent, OVERLAP_MS, PriorRequest, PriorRequests, Projected,
    Projections, Reaction, Relation, Result, Streams,
};
use super::data::{Memory, Stored};
use crate::domain::user::{AccountStatus, User};

#[async_trait]
impl EventLog for Memory {
    async fn append(&self, append: &NewEvent) -> Result<AppendOutcome> {
        Ok(self.data().insert(append))
    }

    async fn append_all(&self, appends: &[NewEvent]) -> Result<Vec<bool>> {
        let mut data = self.data();
        let is_there = |append| matches!(data.insert(append), AppendOutcome::Appended(_));
        Ok(appends.iter().map(is_there).collect())
    }

    async fn post_created(&self, post: PostId) -> Result<Option<Event>> {
        let data = self.data();
        let found = data.events.get(&post.cast()).map(|it| it.event.clone());
        Ok(found.filter(|event| matches!(event.payload, Payload::PostCreated(_))))
    }

    async fn prior_request(&self, owner: UserId, key: &str) -> Result<Option<PriorRequest>> {
        Ok(self.data().prior_request(owner, key))
    }

    async fn prior_requests(&self, keys: &[(UserId, String)]) -> Result<PriorRequests> {
        let data = self.data();
        let found = keys.iter().filter_map(|(owner, key)| {
            let prior_request = data.prior_request(*owner, key)?;
            Some((
                (*owner, key.clone()),
                (prior_request.event.id, prior_request.hash),
            ))
        });
        Ok(found.collect())
    }

    async fn relations(
        &self,
        user: UserId,
        relation: Relation,
        after: Option<LogStream>,
        limit: u32,
    ) -> Result<Vec<LogStream>> {
        let is_related = |stored: &&Stored| {
            let own = stored.owner == user;
            match (relation, stored.event.stream, &stored.event.payload) {
                (Relation::Followees, LogStream::Follow { .. }, _)
                | (Relation::Reposts, LogStream::Repost { .. }, _) => own,
                (Relation::Followers, LogStream::Follow { followee, .. }, _) => followee == user,
                (Relation::Replies, _, Payload::PostCreated(post)) => {
                    own && post.reply_to.is_some()
                }
                (Relation::Replies, _, Payload::PostDeleted(post)) => {
                    own && post.reply_to.is_some()
                }
                (
                    Relation::Followees
                    | Relation::Followers
                    | Relation::Reposts
                    | Relation::Replies,
                    _,
                    _,
                ) => false,
            }
        };
        let data = self.data();
        let mut found: Vec<LogStream> = data
            .events
            .values()
            .filter(is_related)
            .map(|stored| stored.event.stream)
            .filter(|stream| after.is_none_or(|after| *stream > after))
            .collect();
        found.sort_unstable();
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        found.dedup();
        Ok(found)
    }
}

#[async_trait]
impl Streams for Memory {
    async fn last(&self, owner: UserId, stream: LogStream) -> Result<Option<Event>> {
        let data = self.data();
        let last = data.stream(owner, stream).max_by_key(|event| event.version);
        Ok(last.cloned())
    }

    async fn latest(&self, owner: UserId) -> Result<Vec<Position>> {
        let data = self.data();
        let own = data.events.values().filter(|stored| stored.owner == owner);
        let newest_first: Vec<&Event> = own.map(|it| &it.event).rev().take(MOST_LATEST).collect();
        let needed = newest_first.first().map_or(0, |newest| newest.id.get())
            - (OVERLAP_MS << SEQUENCE_BITS);
        let mut latest: Vec<Position> = Vec::new();
        for event in newest_first {
            let (stream, version) = (event.stream, event.version);
            if event.id.get() < needed {
                break;
            }
            match latest.iter_mut().find(|other| other.stream == stream) {
                Some(other) => other.version = other.version.max(version),
                None => latest.push(Position { stream, version }),
            }
        }
        Ok(latest)
    }

    async fn user(&self, user: UserId) -> Result<Option<User>> {
        Ok(self.data().user_before(user, None))
    }

    async fn user_before(&self, user: UserId, id: EventId) -> Result<Option<User>> {
        Ok(self.data().user_before(user, Some(id)))
    }

    async fn statuses(
        &self,
        users: &[UserId],
    ) -> Result<HashMap<UserId, (AccountStatus, EventId)>> {
        let data = self.data();
        let found = users.iter().filter_map(|id| {
            let user = data.user_before(*id, None)?;
            Some((*id, (user.status, user.last)))
        });
        Ok(found.collect())
    }
}

/// There are no views: as when they cannot be read.
#[async_trait]
impl Projections for Memory {
    async fn reaction(&self, _: Reaction, _: PostId, _: UserId) -> Projected {
        Projected::default()
    }

    async fn counts(&self, _: UserId) -> Counts {
        Counts::default()
    }
}
