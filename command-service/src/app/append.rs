//! The last step of every command: one event, appended once.
//!
//! 1. The id is made above every id the decision has read; if another event has it, one above
//!    that is drawn. What lies a little too far ahead of the clock is waited for; what lies
//!    further ahead is not built upon.
//! 2. The store appends the same document until it knows the outcome.
//! 3. Who was slower than somebody else reloads and decides again, a bounded number of times.

use std::time::{Duration, Instant};

use shared::contract::events::{Event, LogStream, Payload};
use shared::contract::ids::{EventId, TooFarAhead, UserId};
use shared::runtime::trace::{self, Kind};
use tracing::debug;

use super::context::current_trace;
use super::error::Refusal;
use super::ports::{self, AppendOutcome, Key, NewEvent, StoreError};
use super::{App, CommandError};
use crate::domain::edge::Edge;
use crate::metric_rows::{LOG_APPEND_DURATION, LOG_APPENDS};

/// Decisions on one stream before a command gives up. Each loss means that somebody else won,
/// so that this many rivals at once are served.
pub(crate) const TRIES: u32 = 32;
/// Collisions need two processes that draw the same number in the same quarter of a millisecond.
pub(super) const ID_TRIES: u32 = 16;
/// What is built on may be this much too far ahead to be waited for: a person waits.
const WORTH_WAITING: Duration = Duration::from_millis(500);
const LOSER_WAITS: Duration = Duration::from_millis(2);

/// Where an event goes.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A stream named after the event itself.
    NewPost,
    Stream {
        owner: UserId,
        stream: LogStream,
        version: i64,
    },
}

/// An event without an id.
#[derive(Clone, Debug)]
pub struct Draft {
    pub target: Target,
    pub actor: UserId,
    pub payload: Payload,
    /// The greatest event id the decision has read.
    pub read: i64,
    pub key: Option<Key>,
}

/// How a toggle stands after a command.
#[derive(Clone, Copy, Debug)]
pub struct ToggleOutcome {
    pub edge: Edge,
    /// Whether this command did it.
    pub changed: bool,
}

impl App {
    /// The event of a draft, under an id above `refused` as well.
    pub(crate) fn draft_event(&self, draft: &Draft, refused: i64) -> Result<NewEvent, TooFarAhead> {
        let above = draft.read.max(refused);
        let id: EventId = self.ids.next(self.clock.as_ref(), above)?;
        let (owner, stream, version) = match draft.target {
            Target::NewPost => (draft.actor, LogStream::Post(id.cast()), 1),
            Target::Stream {
                owner,
                stream,
                version,
            } => (owner, stream, version),
        };
        let event = Event {
            id,
            stream,
            version,
            actor: draft.actor,
            at: self.clock.now(),
            payload: draft.payload.clone(),
        };
        Ok(NewEvent {
            event,
            owner,
            key: draft.key.clone(),
            trace: current_trace(),
            nonce: rand::random(),
        })
    }

    /// Appends a decided event, under the next id that is free. Nothing is written if what the
    /// decision read is too far ahead of the clock.
    pub(crate) async fn append(&self, draft: &Draft) -> Result<AppendOutcome, CommandError> {
        trace::part(Kind::Internal, "append", self.append_under_free_id(draft)).await
    }

    async fn append_under_free_id(&self, draft: &Draft) -> Result<AppendOutcome, CommandError> {
        let mut refused = 0;
        for _ in 0..ID_TRIES {
            let append = match self.draft_event(draft, refused) {
                Ok(append) => append,
                Err(ahead) if ahead.by <= WORTH_WAITING => {
                    tokio::time::sleep(ahead.by).await;
                    continue;
                }
                Err(ahead) => return Err(ahead.into()),
            };
            let is_appended = |outcome: &_| matches!(outcome, AppendOutcome::Appended(_));
            let outcome = measured(&append.event, self.store.log.append(&append), is_appended);
            let outcome = outcome.await?;
            if !matches!(outcome, AppendOutcome::IdTaken) {
                return Ok(outcome);
            }
            debug!(event.id = %append.event.id, "event id {} was taken", append.event.id);
            refused = append.event.id.get();
        }
        Err(no_free_id().into())
    }

    /// Decides on a toggle, and decides again as long as others are faster.
    pub(crate) async fn toggle(
        &self,
        owner: UserId,
        stream: LogStream,
        actor: UserId,
        read: i64,
        decide: impl Fn(&Edge) -> Result<Option<Payload>, CommandError> + Send,
    ) -> Result<ToggleOutcome, CommandError> {
        for attempt in 0..TRIES {
            backoff_after_conflict(attempt).await;
            let last = self.store.streams.last(owner, stream).await?;
            let edge = last.as_ref().map_or_else(Edge::default, Edge::after);
            let Some(payload) = decide(&edge)? else {
                return Ok(ToggleOutcome {
                    edge,
                    changed: false,
                });
            };
            let draft = Draft {
                target: Target::Stream {
                    owner,
                    stream,
                    version: edge.version + 1,
                },
                actor,
                payload,
                read: edge.last.map_or(read, |(id, _)| read.max(id.get())),
                key: None,
            };
            match self.append(&draft).await? {
                AppendOutcome::Appended(event) => {
                    return Ok(ToggleOutcome {
                        edge: Edge::after(&event),
                        changed: true,
                    });
                }
                AppendOutcome::IdTaken
                | AppendOutcome::VersionTaken
                | AppendOutcome::KeyTaken(_) => {}
            }
        }
        Err(Refusal::Conflict.into())
    }
}

/// Measures what appends an event to the log: how long it took, and whether the event was appended.
pub(super) async fn measured<T>(
    event: &Event,
    append: impl Future<Output = ports::Result<T>>,
    is_appended: impl FnOnce(&T) -> bool,
) -> ports::Result<T> {
    let began = Instant::now();
    let outcome = append.await?;
    let took = began.elapsed().as_secs_f64();
    LOG_APPEND_DURATION.only().record(took);
    if is_appended(&outcome) {
        LOG_APPENDS.of([event.payload.kind()]).increment(1);
    }
    Ok(outcome)
}

/// Lets others through before another try, so that rivals do not keep step.
pub(crate) async fn backoff_after_conflict(attempt: u32) {
    if attempt > 0 {
        let most = LOSER_WAITS * attempt.min(8);
        tokio::time::sleep(most.mul_f64(rand::random())).await;
    }
}

pub(super) fn no_free_id() -> StoreError {
    let collisions = format!("{ID_TRIES} event ids in a row were taken");
    StoreError::Unavailable(collisions.into())
}
