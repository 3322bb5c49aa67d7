//! Log streams, read from their ends: what a decision reads does not grow with what happened.
//!
//! Versions count a stream's events without gaps, so that a few looks at single versions find its
//! end, however long it is. Not every engine goes backwards through an index: sorting by version
//! and taking the last may read them all.
//!
//! Of a user's own stream three things tell what the user is now: the registration, the events
//! from the last edit of the profile on, and whether the user was ever verified. An edit says the
//! whole new profile, and that the user was active: nobody else edits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use moka::sync::Cache;
use mongodb::Collection;
use serde::Deserialize;
use shared::contract::consistency::{MOST_LATEST, Position};
use shared::contract::events::{Event, LogStream, Payload};
use shared::contract::ids::{EventId, SEQUENCE_BITS, UserId};
use shared::contract::log::LogDocument;
use shared::contract::time::{Clock, Timestamp};
use shared::runtime::database_clock::DatabaseClock;

use super::calls::Calls;
use super::errors::{Fault, corrupt};
use crate::app::ports::{self, OVERLAP_MS, Result};
use crate::domain::user::{AccountStatus, User};

type Attempt<T> = std::result::Result<T, Fault>;

/// Streams of so many events are read at once; most are shorter.
const SHORT: i64 = 64;
/// Versions looked at in one question.
const POINTS: i64 = 16;
/// Events read at first behind a user's last edit, and at most at once.
const TAIL: i64 = 16;
const WIDEST_TAIL: i64 = 1_024;
/// Long streams whose ends are remembered, and for how long: only to be quicker.
const ENDS_REMEMBERED: u64 = 100_000;
const END_TTL: Duration = Duration::from_secs(600);
/// Owners whose newest event is remembered, and for how long after it was asked for: only to be
/// quicker.
const NEWEST_REMEMBERED: u64 = 100_000;
const NEWEST_IDLE: Duration = Duration::from_secs(600);

/// By how much more is looked at where nothing was found.
const WIDER: i64 = 16;

/// The type of the event that is looked for whenever it happened.
const VERIFIED: &str = "user.verified";

pub(super) struct Streams {
    events: Collection<LogDocument>,
    /// A version that a long stream has: its end is not before it.
    ends: Cache<LogStream, i64>,
    /// The newest event that was seen of an owner: another replica may have appended a newer one.
    newest: Cache<UserId, EventId>,
    clock: Arc<DatabaseClock>,
    calls: Calls,
}

/// One event of a stream, as far as looking for a place needs it.
#[derive(Clone, Copy, Deserialize)]
struct Mark {
    #[serde(rename = "_id")]
    id: EventId,
    version: i64,
}

/// An event, by when it was written and where.
#[derive(Deserialize)]
struct Written {
    #[serde(rename = "_id")]
    id: EventId,
    stream: LogStream,
    version: i64,
}

/// A stream and whose it is.
#[derive(Clone, Copy)]
struct Place {
    owner: UserId,
    stream: LogStream,
}

impl Place {
    fn of_user(user: UserId) -> Self {
        Self {
            owner: user,
            stream: LogStream::User(user),
        }
    }

    fn with(self, version: Document) -> Document {
        doc! {
            "owner": self.owner.get(),
            "stream": self.stream.to_string(),
            "version": version,
        }
    }
}

#[async_trait]
impl ports::Streams for Streams {
    async fn last(&self, owner: UserId, stream: LogStream) -> Result<Option<Event>> {
        // A user without a last event counts as one who has left.
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_last(owner, stream)).await
    }

    async fn latest(&self, owner: UserId) -> Result<Vec<Position>> {
        let now = self.clock.now();
        self.calls.ask(|| self.try_latest(owner, now)).await
    }

    async fn user(&self, user: UserId) -> Result<Option<User>> {
        // Whose user is not found is told that the token is good for nothing.
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_user(user)).await
    }

    async fn user_before(&self, user: UserId, id: EventId) -> Result<Option<User>> {
        self.calls.ask(|| self.try_user_before(user, id)).await
    }

    async fn statuses(
        &self,
        users: &[UserId],
    ) -> Result<HashMap<UserId, (AccountStatus, EventId)>> {
        self.calls.ask(|| self.try_statuses(users)).await
    }
}

impl Streams {
    pub(super) fn new(
        events: Collection<LogDocument>,
        clock: Arc<DatabaseClock>,
        calls: Calls,
    ) -> Self {
        Self {
            events,
            ends: Cache::builder()
                .max_capacity(ENDS_REMEMBERED)
                .time_to_live(END_TTL)
                .build(),
            newest: Cache::builder()
                .max_capacity(NEWEST_REMEMBERED)
                .time_to_idle(NEWEST_IDLE)
                .build(),
            clock,
            calls,
        }
    }

    /// The last event of a stream.
    async fn try_last(&self, owner: UserId, stream: LogStream) -> Attempt<Option<Event>> {
        let place = Place { owner, stream };
        let mut from = self.ends.get(&stream).unwrap_or(1);
        loop {
            let full = from + SHORT - 1;
            let found = self
                .events
                .find_one(place.with(doc! { "$gte": from, "$lte": full }))
                .sort(doc! { "version": -1 })
                .await?;
            match found {
                // The log is not the one that was remembered.
                None if from > 1 => {
                    self.ends.invalidate(&stream);
                    from = 1;
                }
                None => return Ok(None),
                Some(last) if last.version < full => {
                    if last.version > SHORT {
                        self.ends.insert(stream, last.version);
                    }
                    return event(&last).map(Some);
                }
                Some(_) => from = self.near_the_end(place, full).await?,
            }
        }
    }

    /// A version that is there, with fewer than [`SHORT`] behind it; `low` is there.
    async fn near_the_end(&self, place: Place, mut low: i64) -> Attempt<i64> {
        let ahead: Vec<i64> = (0..32).map(|power| low + (1_i64 << power)).collect();
        let there = self.marks(place, &ahead).await?;
        low = there.iter().map(|mark| mark.version).fold(low, i64::max);
        let mut high = ahead
            .into_iter()
            .find(|version| *version > low)
            .unwrap_or(i64::MAX);
        while high - low > SHORT {
            let points = between(low, high);
            let there = self.marks(place, &points).await?;
            low = there.iter().map(|mark| mark.version).fold(low, i64::max);
            high = points
                .into_iter()
                .find(|version| *version > low)
                .unwrap_or(high);
        }
        Ok(low)
    }

    /// Those of these versions that are there.
    async fn marks(&self, place: Place, versions: &[i64]) -> Attempt<Vec<Mark>> {
        let marks = self.events.clone_with_type::<Mark>();
        let found = marks
            .find(place.with(doc! { "$in": versions }))
            .projection(doc! { "version": 1 })
            .await?;
        Ok(found.try_collect().await?)
    }

    /// The events of these versions, in order.
    async fn between(&self, place: Place, versions: RangeInclusive<i64>) -> Attempt<Vec<Event>> {
        let (low, high) = versions.into_inner();
        let found: Vec<LogDocument> = self
            .events
            .find(place.with(doc! { "$gte": low, "$lte": high }))
            .sort(doc! { "version": 1 })
            .await?
            .try_collect()
            .await?;
        found.iter().map(event).collect()
    }

    /// The latest events of an owner that may stand behind each other on the stream, newest
    /// first: of those that were accepted before `now`, every other stands before one of them.
    ///
    /// An event was accepted at most [`OVERLAP_MS`] after its id's time, so that one whose id is
    /// further below another's is also before it. More than [`MOST_LATEST`] in that time are told
    /// apart by their ids alone.
    ///
    /// The look goes further and further back until it finds something. An engine that reads a
    /// range before it limits may so read a long past; where the newest event is remembered, one
    /// look that begins right before it finds all.
    async fn try_latest(&self, owner: UserId, now: Timestamp) -> Attempt<Vec<Position>> {
        let mut back = 2 * OVERLAP_MS;
        let mut from = first_look(now, self.newest.get(&owner));
        loop {
            let found = self.written_after(owner, from).await?;
            let Some(newest) = found.first() else {
                if from == 0 {
                    return Ok(Vec::new());
                }
                back *= WIDER;
                from = (now.millis() - back).max(0) << SEQUENCE_BITS;
                continue;
            };
            let needed = overlapping(newest.id);
            if from <= needed || found.len() >= MOST_LATEST {
                self.newest.insert(owner, newest.id);
                let mut latest: Vec<Position> = Vec::with_capacity(found.len());
                for written in found.iter().filter(|written| written.id.get() >= needed) {
                    let stream = written.stream;
                    let version = written.version;
                    match latest.iter_mut().find(|other| other.stream == stream) {
                        Some(other) => other.version = other.version.max(version),
                        None => latest.push(Position { stream, version }),
                    }
                }
                return Ok(latest);
            }
            from = needed;
        }
    }

    /// The newest of an owner's events with ids above one, the newest first.
    async fn written_after(&self, owner: UserId, from: i64) -> Attempt<Vec<Written>> {
        let most = i64::try_from(MOST_LATEST).unwrap_or(i64::MAX);
        let found = self
            .events
            .clone_with_type::<Written>()
            .find(doc! { "owner": owner.get(), "_id": { "$gt": from } })
            .sort(doc! { "_id": -1 })
            .limit(most)
            .projection(doc! { "stream": 1, "version": 1 })
            .await?;
        Ok(found.try_collect().await?)
    }

    /// A user as of now; nobody without a registration.
    async fn try_user(&self, user: UserId) -> Attempt<Option<User>> {
        let place = Place::of_user(user);
        let is_long = self.ends.contains_key(&place.stream);
        let begin = self
            .between(place, 1..=if is_long { 1 } else { SHORT })
            .await?;
        if !is_long && begin.len() < to_len(SHORT) {
            return Ok(User::fold(&begin));
        }
        let Some(last) = self.try_last(user, place.stream).await? else {
            return Ok(None);
        };
        self.user_at(place, begin.first(), last.version).await
    }

    /// A user as of all events with ids below `id`.
    async fn try_user_before(&self, user: UserId, id: EventId) -> Attempt<Option<User>> {
        let place = Place::of_user(user);
        let begin = self.between(place, 1..=SHORT).await?;
        let reaches = begin.last().is_none_or(|event| event.id >= id);
        if reaches || begin.len() < to_len(SHORT) {
            return Ok(User::fold(begin.iter().filter(|event| event.id < id)));
        }
        let Some(last) = self.try_last(user, place.stream).await? else {
            return Ok(None);
        };
        // Ids rise with versions: the greatest version below `high` with a lesser id is the one.
        let (mut low, mut high) = (SHORT, last.version + 1);
        while high - low > 1 {
            let points = between(low, high);
            let there = self.marks(place, &points).await?;
            let lesser = there.iter().filter(|mark| mark.id < id);
            low = lesser.map(|mark| mark.version).fold(low, i64::max);
            high = points
                .into_iter()
                .find(|version| *version > low)
                .unwrap_or(high);
        }
        self.user_at(place, begin.first(), low).await
    }

    /// The status of those of these users who exist, and the last event read of each.
    async fn try_statuses(
        &self,
        users: &[UserId],
    ) -> Attempt<HashMap<UserId, (AccountStatus, EventId)>> {
        if users.is_empty() {
            return Ok(HashMap::new());
        }
        let owners: HashSet<i64> = users.iter().map(|user| user.get()).collect();
        let streams: Vec<String> = users
            .iter()
            .map(|user| LogStream::User(*user).to_string())
            .collect();
        let found: Vec<LogDocument> = self
            .events
            .find(doc! {
                "owner": { "$in": owners.into_iter().collect::<Vec<i64>>() },
                "stream": { "$in": streams },
                "version": { "$lte": SHORT },
            })
            .await?
            .try_collect()
            .await?;
        let mut by_user: HashMap<UserId, BTreeMap<i64, Event>> = HashMap::new();
        for document in &found {
            let event = event(document)?;
            let versions = by_user.entry(event.actor).or_default();
            versions.insert(event.version, event);
        }
        let mut statuses = HashMap::with_capacity(by_user.len());
        for (id, events) in by_user {
            let user = if events.len() < to_len(SHORT) {
                User::fold(events.values())
            } else {
                self.try_user(id).await?
            };
            statuses.extend(user.map(|user| (id, (user.status, user.last))));
        }
        Ok(statuses)
    }

    /// The user of a long stream, as of one of its versions.
    async fn user_at(
        &self,
        place: Place,
        registration: Option<&Event>,
        version: i64,
    ) -> Attempt<Option<User>> {
        let verified = doc! {
            "owner": place.owner.get(),
            "type": VERIFIED,
            "version": { "$lte": version },
        };
        let (tail, verified) = tokio::try_join!(self.tail(place, version), async {
            Ok(self.events.find_one(verified).await?)
        })?;
        let user = User::fold(registration.into_iter().chain(&tail));
        Ok(user.map(|mut user| {
            user.verified |= verified.is_some();
            user
        }))
    }

    /// The events up to a version, from the last edit of the profile on, or earlier.
    async fn tail(&self, place: Place, version: i64) -> Attempt<Vec<Event>> {
        let (mut tail, mut high, mut width) = (Vec::new(), version, TAIL);
        while high > 1 {
            let low = (high - width + 1).max(2);
            let mut events = self.between(place, low..=high).await?;
            events.append(&mut tail);
            tail = events;
            let is_edit = |event: &Event| matches!(event.payload, Payload::ProfileEdited(_));
            if tail.iter().any(is_edit) {
                break;
            }
            high = low - 1;
            width = (4 * width).min(WIDEST_TAIL);
        }
        Ok(tail)
    }
}

/// Behind which ids the events stand that may be behind this one on the stream.
fn overlapping(newest: EventId) -> i64 {
    (newest.get() - (OVERLAP_MS << SEQUENCE_BITS)).max(0)
}

/// Behind which id an owner's latest events are looked for at first. The range is open upwards:
/// what is remembered may be old, never wrong.
fn first_look(now: Timestamp, newest: Option<EventId>) -> i64 {
    let recent = (now.millis() - 2 * OVERLAP_MS).max(0) << SEQUENCE_BITS;
    newest.map_or(recent, |newest| recent.min(overlapping(newest)))
}

/// Versions between two, neither of them, in order and evenly apart.
fn between(low: i64, high: i64) -> Vec<i64> {
    let step = ((high - low) / POINTS).max(1);
    let points = (1..=POINTS).map(|nth| low.saturating_add(nth.saturating_mul(step)));
    points.take_while(|version| *version < high).collect()
}

fn to_len(count: i64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn event(document: &LogDocument) -> Attempt<Event> {
    Ok(document.to_event().map_err(corrupt)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::contract::ids::Id;

    fn id_at(millis: i64) -> EventId {
        Id::new(millis << SEQUENCE_BITS).unwrap()
    }

    #[test]
    fn the_first_look_begins_right_before_the_newest_event_that_is_remembered() {
        let now = 1_800_000_000_000;
        let first = |newest: Option<i64>| {
            first_look(Timestamp::from_millis(now), newest.map(id_at)) >> SEQUENCE_BITS
        };
        assert_eq!(first(None), now - 16_000);
        let hour = 3_600_000;
        assert_eq!(
            first(Some(now - hour)),
            now - hour - 8_000,
            "and no further"
        );
        // What is newer is looked for anyway, and what is before it may be named.
        for millis in [now - 8_000, now - 1, now, now + 500] {
            assert_eq!(first(Some(millis)), now - 16_000);
        }
        assert_eq!(first(Some(1)), 0);
    }
}
