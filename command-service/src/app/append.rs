//! The last step of every command: one event, appended once.
//!
//! 1. The id is made above every id the decision has read; if another event has it, the next is
//!    taken.
//! 2. The store appends the same document until it knows the outcome.
//! 3. Who was slower than somebody else reloads and decides again, a bounded number of times.

use std::time::Duration;

use shared::events::{Event, LogStream, Payload};
use shared::ids::{EventId, UserId};
use tracing::debug;

use super::store::{Append, Key, Outcome, Receipt, StoreError};
use super::{App, CommandError, current_trace};
use crate::domain::edge::Edge;

/// Decisions on one stream before a command gives up. Each loss means that somebody else won,
/// so that this many rivals at once are served.
const TRIES: u32 = 32;
/// Collisions need two processes at the same sequence in the same millisecond.
const ID_TRIES: u32 = 16;
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

/// How an append ended.
#[derive(Debug)]
pub enum Appended {
    Done(Event),
    /// Somebody was faster: reload and decide again.
    Stale,
    KeyTaken(Receipt),
}

/// How a switch stands after a command.
#[derive(Clone, Copy, Debug)]
pub struct Switched {
    pub edge: Edge,
    /// Whether this command did it.
    pub changed: bool,
}

impl App {
    pub(crate) fn draft_event(&self, draft: &Draft) -> Append {
        let id: EventId = self.ids.next(self.clock.as_ref(), draft.read);
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
        Append {
            event,
            owner,
            key: draft.key.clone(),
            trace: current_trace(),
            nonce: rand::random(),
        }
    }

    /// Appends a decided event.
    pub(crate) async fn append(&self, draft: &Draft) -> Result<Appended, StoreError> {
        for _ in 0..ID_TRIES {
            let append = self.draft_event(draft);
            match self.store.append(&append).await? {
                Outcome::Appended => return Ok(Appended::Done(append.event)),
                Outcome::IdTaken => {
                    debug!(event.id = %append.event.id, "event id {} was taken", append.event.id);
                }
                Outcome::VersionTaken => return Ok(Appended::Stale),
                Outcome::KeyTaken(receipt) => return Ok(Appended::KeyTaken(receipt)),
            }
        }
        let collisions = format!("{ID_TRIES} event ids in a row were taken");
        Err(StoreError::Unexpected(collisions.into()))
    }

    /// Decides on a switch, and decides again as long as others are faster.
    pub(crate) async fn switch(
        &self,
        owner: UserId,
        stream: LogStream,
        actor: UserId,
        read: i64,
        decide: impl Fn(&Edge) -> Result<Option<Payload>, CommandError> + Send,
    ) -> Result<Switched, CommandError> {
        for attempt in 0..TRIES {
            wait_turn(attempt).await;
            let last = self.store.last(owner, stream).await?;
            let edge = last.as_ref().map_or_else(Edge::default, Edge::after);
            let Some(payload) = decide(&edge)? else {
                return Ok(Switched {
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
            if let Appended::Done(event) = self.append(&draft).await? {
                return Ok(Switched {
                    edge: Edge::after(&event),
                    changed: true,
                });
            }
        }
        Err(CommandError::Conflict)
    }
}

/// Lets others through before another try, so that rivals do not keep step.
pub(crate) async fn wait_turn(attempt: u32) {
    if attempt > 0 {
        let most = LOSER_WAITS * attempt.min(8);
        tokio::time::sleep(most.mul_f64(rand::random())).await;
    }
}

pub(crate) const fn tries() -> u32 {
    TRIES
}
