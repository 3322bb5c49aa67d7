//! What all passes over the input have in common: batches of lines, and how events are appended for
//! them.

use shared::contract::events::Payload;
use shared::contract::ids::{EventId, UserId};

use super::append::{LineOutcome, PlannedAppend};
use super::error::ImportError;
use super::loader::Loader;
use super::report::Kind;
use super::source::{Items, Line};
use crate::app::append::{Draft, TRIES, Target};
use crate::app::error::Refusal;
use crate::domain::edge::Edge;

/// A kind of line, and what is done for a batch of such.
pub(super) trait Pass {
    /// What a line asks for, once the names in it are known.
    type Candidate;
    /// Lines at once, at most.
    const BATCH: usize;

    /// Looks names up; lines that ask for nothing that can be are refused here.
    async fn resolve(
        &mut self,
        loader: &mut Loader<'_>,
        lines: Vec<Line>,
    ) -> Result<Vec<Self::Candidate>, ImportError>;

    async fn write(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: Vec<Self::Candidate>,
    ) -> Result<(), ImportError>;
}

/// Takes a pass over one source. It may end between two batches.
pub(super) async fn run_pass<P: Pass>(
    loader: &mut Loader<'_>,
    pass: &mut P,
    mut items: Items<'_>,
) -> Result<(), ImportError> {
    loader.begin(&items);
    loop {
        let lines = loader.next_batch(&mut items, P::BATCH)?;
        let Some(position) = lines.last().map(|line| line.position) else {
            return Ok(());
        };
        let candidates = pass.resolve(loader, lines).await?;
        pass.write(loader, candidates).await?;
        loader.report.advance(position);
    }
}

/// A pass whose lines become one event each.
pub(super) trait Events: Pass {
    fn line(candidate: &Self::Candidate) -> u64;
    fn kind(candidate: &Self::Candidate) -> Kind;
    /// The keys under which an earlier run may have appended the event.
    fn keys(candidate: &Self::Candidate) -> Vec<(UserId, String)>;
    /// Whose account's status the decision asks for.
    fn users(candidate: &Self::Candidate) -> [UserId; 2];

    /// What is appended to a stream that stands at `edge`; nothing if that already holds.
    fn decide(
        &self,
        loader: &Loader<'_>,
        candidate: &Self::Candidate,
        edge: &Edge,
    ) -> Result<Option<Payload>, Refusal>;

    /// The first event of the stream.
    fn draft(loader: &Loader<'_>, candidate: &Self::Candidate, payload: Payload) -> Draft;

    /// Looks up what else the decisions on these ask for.
    async fn prepare(
        &mut self,
        _: &mut Loader<'_>,
        _: &[Self::Candidate],
    ) -> Result<(), ImportError> {
        Ok(())
    }

    /// An earlier run has appended the event; `says` is the hash stored with its key. Why the line
    /// is refused all the same, if it is.
    fn was_done(&mut self, _: &Self::Candidate, _: EventId, _says: i64) -> Result<(), String> {
        Ok(())
    }

    /// The event is to be appended: it counts from now on.
    fn reserve(&mut self, _: &Self::Candidate) {}
    /// It was not appended by this run.
    fn release(&mut self, _: &Self::Candidate) {}
    /// It is in the log.
    fn is_there(&mut self, _: &Self::Candidate, _: EventId) {}
}

/// Leaves those that no earlier run has appended.
pub(super) async fn skip_done<P: Events>(
    loader: &mut Loader<'_>,
    pass: &mut P,
    candidates: Vec<P::Candidate>,
) -> Result<Vec<P::Candidate>, ImportError> {
    let done = loader
        .done_before(candidates.iter().flat_map(P::keys))
        .await?;
    let mut remaining = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let mut keys = P::keys(&candidate).into_iter();
        let Some((event, says)) = keys.find_map(|key| done.get(&key)) else {
            remaining.push(candidate);
            continue;
        };
        match pass.was_done(&candidate, *event, *says) {
            Ok(()) => loader.report.already_there(1),
            Err(why) => loader.report.refused(P::line(&candidate), &why),
        }
    }
    Ok(remaining)
}

/// Decides on each as if its stream were empty.
pub(super) async fn plan<P: Events>(
    loader: &mut Loader<'_>,
    pass: &mut P,
    candidates: Vec<P::Candidate>,
) -> Result<Vec<PlannedAppend<P::Candidate>>, ImportError> {
    let users = candidates.iter().flat_map(P::users);
    loader.load_statuses(users).await?;
    pass.prepare(loader, &candidates).await?;
    let mut planned = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match pass.decide(loader, &candidate, &Edge::default()) {
            Ok(Some(payload)) => {
                pass.reserve(&candidate);
                let draft = P::draft(loader, &candidate, payload);
                planned.push(PlannedAppend { candidate, draft });
            }
            Ok(None) => {}
            Err(refusal) => {
                let line = P::line(&candidate);
                loader.report.refused(line, &refusal.to_string());
            }
        }
    }
    Ok(planned)
}

/// Appends all at once, and then, one by one, those of which that did not come true: their stream
/// is not empty, or an earlier run or line was there first.
pub(super) async fn append<P: Events>(
    loader: &mut Loader<'_>,
    pass: &mut P,
    planned: &[PlannedAppend<P::Candidate>],
) -> Result<(), ImportError> {
    let drafts = planned.iter().map(|planned| &planned.draft);
    let appended = loader.append_all(drafts).await?;
    for (planned, appended) in planned.iter().zip(appended) {
        let candidate = &planned.candidate;
        let outcome = match appended {
            Some(event) => LineOutcome::Appended(event),
            None => {
                pass.release(candidate);
                let outcome = retry_one(loader, pass, planned).await?;
                if matches!(outcome, LineOutcome::Appended(_)) {
                    pass.reserve(candidate);
                }
                outcome
            }
        };
        match outcome {
            LineOutcome::Appended(event) => {
                pass.is_there(candidate, event);
                loader.report.appended(P::kind(candidate), 1);
            }
            LineOutcome::AlreadyThere(event) => {
                pass.is_there(candidate, event);
                loader.report.already_there(1);
            }
            LineOutcome::Refused(refusal) => {
                let line = P::line(candidate);
                loader.report.refused(line, &refusal.to_string());
            }
        }
    }
    Ok(())
}

/// Appends one on its stream as it stands now, unless an earlier run or line has done so.
async fn retry_one<P: Events>(
    loader: &mut Loader<'_>,
    pass: &P,
    planned: &PlannedAppend<P::Candidate>,
) -> Result<LineOutcome, ImportError> {
    let mut draft = planned.draft.clone();
    for _ in 0..TRIES {
        if let Some(done) = loader.prior_request(&draft).await? {
            return Ok(LineOutcome::AlreadyThere(done));
        }
        if let Target::Stream { owner, stream, .. } = draft.target {
            let edge = loader.edge(owner, stream).await?;
            let last = edge.last.map(|(id, _)| id);
            let payload = match pass.decide(loader, &planned.candidate, &edge) {
                Err(refusal) => return Ok(LineOutcome::Refused(refusal)),
                Ok(None) => {
                    let last = last.unwrap_or(draft.actor.cast());
                    return Ok(LineOutcome::AlreadyThere(last));
                }
                Ok(Some(payload)) => payload,
            };
            draft = Draft {
                target: Target::Stream {
                    owner,
                    stream,
                    version: edge.version + 1,
                },
                payload,
                read: last.map_or(0, EventId::get).max(planned.draft.read),
                ..draft
            };
        }
        if let Some(outcome) = loader.append_one(&draft).await? {
            return Ok(outcome);
        }
    }
    Err(ImportError::Command(Refusal::Conflict.into()))
}
