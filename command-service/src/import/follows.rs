//! The second pass: who follows whom.

use std::collections::{HashMap, HashSet};

use shared::contract::events::{Edge as Ends, LogStream, Payload};
use shared::contract::ids::UserId;

use super::append::PlannedAppend;
use super::error::ImportError;
use super::keys::key;
use super::loader::{BATCH, Loader};
use super::pass::{Events, Pass, append, plan, skip_done};
use super::report::Kind;
use super::source::{Item, Line};
use crate::app::append::{Draft, Target};
use crate::app::error::Refusal;
use crate::app::ports::Key;
use crate::domain::edge::{self, Edge};

#[derive(Default)]
pub(super) struct Follows {
    /// How many each follower follows, of those who were asked for before.
    following: HashMap<UserId, u32>,
}

pub(super) struct Candidate {
    line: u64,
    ends: Ends,
    key: Key,
}

impl Pass for Follows {
    type Candidate = Candidate;
    const BATCH: usize = BATCH;

    async fn resolve(
        &mut self,
        loader: &mut Loader<'_>,
        lines: Vec<Line>,
    ) -> Result<Vec<Candidate>, ImportError> {
        let named = |line: &Line| match &line.item {
            Ok(Item::Follow { follower, followee }) => Some((follower.clone(), followee.clone())),
            Ok(Item::User(_) | Item::Post(_) | Item::Reaction(_)) | Err(_) => None,
        };
        let pairs: Vec<(u64, (String, String))> = lines
            .iter()
            .filter_map(|line| Some((line.number, named(line)?)))
            .collect();
        let names = pairs
            .iter()
            .flat_map(|(_, (a, b))| [a.as_str(), b.as_str()]);
        let users = loader.resolve(names).await?;
        let mut candidates = Vec::with_capacity(pairs.len());
        for (line, (follower, followee)) in pairs {
            match (users.get(&follower), users.get(&followee)) {
                (Some(a), Some(b)) => candidates.push(Candidate {
                    line,
                    ends: Ends {
                        follower: *a,
                        followee: *b,
                    },
                    key: key(&["follow", &a.to_string(), &b.to_string()]),
                }),
                (None, _) => loader.report.refused(line, &format!("no user {follower}")),
                (_, None) => loader.report.refused(line, &format!("no user {followee}")),
            }
        }
        Ok(candidates)
    }

    async fn write(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: Vec<Candidate>,
    ) -> Result<(), ImportError> {
        let candidates = skip_done(loader, self, candidates).await?;
        let planned = plan(loader, self, candidates).await?;
        // Before and after: what a replica counts in between is not believed.
        let older = older_followers(loader, &planned);
        mark_counts(loader, &older).await?;
        append(loader, self, &planned).await?;
        mark_counts(loader, &older).await
    }
}

impl Events for Follows {
    fn line(candidate: &Candidate) -> u64 {
        candidate.line
    }

    fn kind(_: &Candidate) -> Kind {
        Kind::Follows
    }

    fn keys(candidate: &Candidate) -> Vec<(UserId, String)> {
        vec![(candidate.ends.follower, candidate.key.text.clone())]
    }

    fn users(candidate: &Candidate) -> [UserId; 2] {
        [candidate.ends.follower, candidate.ends.followee]
    }

    fn decide(
        &self,
        loader: &Loader<'_>,
        candidate: &Candidate,
        edge: &Edge,
    ) -> Result<Option<Payload>, Refusal> {
        let ends = candidate.ends;
        let following = self.following.get(&ends.follower).copied().unwrap_or(0);
        let actor = loader.people.known(ends.follower).status;
        let followee = loader.people.known(ends.followee).status;
        Ok(edge::follow(edge, ends, actor, Some(followee), following)?)
    }

    fn draft(loader: &Loader<'_>, candidate: &Candidate, payload: Payload) -> Draft {
        let Ends { follower, followee } = candidate.ends;
        let (actor, other) = (loader.people.known(follower), loader.people.known(followee));
        Draft {
            target: Target::Stream {
                owner: follower,
                stream: LogStream::Follow { follower, followee },
                version: 1,
            },
            actor: follower,
            payload,
            read: actor.last.max(other.last).get(),
            key: Some(candidate.key.clone()),
        }
    }

    /// How many each follower follows, counted in the log the first time.
    async fn prepare(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: &[Candidate],
    ) -> Result<(), ImportError> {
        for candidate in candidates {
            let follower = candidate.ends.follower;
            if loader.people.is_fresh(follower) || self.following.contains_key(&follower) {
                continue;
            }
            let store = loader.store();
            let following = loader
                .with_retries(|| store.follows.count(follower))
                .await?;
            self.following.insert(follower, following);
        }
        Ok(())
    }

    fn reserve(&mut self, candidate: &Candidate) {
        let following = self.following.entry(candidate.ends.follower).or_default();
        *following += 1;
    }

    fn release(&mut self, candidate: &Candidate) {
        if let Some(following) = self.following.get_mut(&candidate.ends.follower) {
            *following = following.saturating_sub(1);
        }
    }
}

/// Followers who may have a count that this import passes by.
fn older_followers(loader: &Loader<'_>, planned: &[PlannedAppend<Candidate>]) -> Vec<UserId> {
    let followers = planned.iter().map(|it| it.candidate.ends.follower);
    let older: HashSet<UserId> = followers
        .filter(|follower| !loader.people.is_fresh(*follower))
        .collect();
    older.into_iter().collect()
}

async fn mark_counts(loader: &mut Loader<'_>, followers: &[UserId]) -> Result<(), ImportError> {
    if followers.is_empty() {
        return Ok(());
    }
    let store = loader.store();
    loader
        .with_retries(|| store.follows.mark_stale(followers))
        .await
}
