//! Appending in bulk, and one by one.

use shared::contract::events::LogStream;
use shared::contract::ids::{EventId, UserId};

use super::error::ImportError;
use super::loader::Loader;
use crate::app::CommandError;
use crate::app::append::{Draft, Target};
use crate::app::error::{Refusal, Unavailable};
use crate::app::ports::{AppendOutcome, NewEvent, PriorRequests, StoreError};
use crate::domain::edge::Edge;

/// An event that a line asks for, decided as if its stream were empty.
pub(super) struct PlannedAppend<C> {
    pub(super) candidate: C,
    pub(super) draft: Draft,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LineOutcome {
    Appended(EventId),
    AlreadyThere(EventId),
    Refused(Refusal),
}

impl Loader<'_> {
    /// Which of these keys an earlier run has used. Who is new has used none.
    pub(super) async fn done_before(
        &mut self,
        keys: impl Iterator<Item = (UserId, String)>,
    ) -> Result<PriorRequests, ImportError> {
        let keys: Vec<(UserId, String)> = keys
            .filter(|(owner, _)| !self.people.is_fresh(*owner))
            .collect();
        let store = self.store();
        self.with_retries(|| store.log.prior_requests(&keys)).await
    }

    /// Appends all of them, in any order: for each, its event if it is in the log now. The others
    /// want a closer look.
    pub(super) async fn append_all<'d>(
        &mut self,
        drafts: impl Iterator<Item = &'d Draft>,
    ) -> Result<Vec<Option<EventId>>, ImportError> {
        // What builds on something too far ahead of the clock is looked at more closely, too.
        let drafted: Vec<Option<NewEvent>> = drafts
            .map(|draft| self.app.draft_event(draft, 0).ok())
            .collect();
        let ids: Vec<Option<EventId>> = drafted
            .iter()
            .map(|append| append.as_ref().map(|append| append.event.id))
            .collect();
        let appends: Vec<NewEvent> = drafted.into_iter().flatten().collect();
        let store = self.store();
        let appended = self.with_retries(|| store.log.append_all(&appends)).await?;
        let mut appended = appended.into_iter();
        let is_there = |id: Option<EventId>| id.filter(|_| appended.next() == Some(true));
        Ok(ids.into_iter().map(is_there).collect())
    }

    /// Appends one event; nothing if somebody else was faster.
    pub(super) async fn append_one(
        &mut self,
        draft: &Draft,
    ) -> Result<Option<LineOutcome>, ImportError> {
        let app = self.app;
        // Tried again after a lost answer, it finds its own key and counts as already there.
        let append = || async {
            match app.append(draft).await {
                Ok(AppendOutcome::Appended(event)) => Ok(Some(LineOutcome::Appended(event.id))),
                Ok(AppendOutcome::KeyTaken(prior_request)) => {
                    Ok(Some(LineOutcome::AlreadyThere(prior_request.event.id)))
                }
                Ok(AppendOutcome::IdTaken | AppendOutcome::VersionTaken) => Ok(None),
                // It gets nearer while an import waits.
                Err(CommandError::Unavailable(Unavailable::Ahead(ahead))) => {
                    Err(StoreError::Unavailable(Box::new(ahead)))
                }
                Err(error) => Err(error.into()),
            }
        };
        self.with_retries(append).await
    }

    /// The event that an earlier run, or an earlier line, appended under the draft's key.
    pub(super) async fn prior_request(
        &mut self,
        draft: &Draft,
    ) -> Result<Option<EventId>, ImportError> {
        let owner = match draft.target {
            Target::NewPost => draft.actor,
            Target::Stream { owner, .. } => owner,
        };
        let Some(key) = &draft.key else {
            return Ok(None);
        };
        let store = self.store();
        let prior_request = self
            .with_retries(|| store.log.prior_request(owner, &key.text))
            .await?;
        Ok(prior_request.map(|prior_request| prior_request.event.id))
    }

    /// How an edge stands now.
    pub(super) async fn edge(
        &mut self,
        owner: UserId,
        stream: LogStream,
    ) -> Result<Edge, ImportError> {
        let store = self.store();
        let last = self
            .with_retries(|| store.streams.last(owner, stream))
            .await?;
        Ok(last.as_ref().map_or_else(Edge::default, Edge::after))
    }
}
