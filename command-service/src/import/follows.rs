//! The second pass: who follows whom.

use std::collections::HashMap;

use shared::events::{Edge as Ends, LogStream};
use shared::ids::UserId;

use super::error::ImportError;
use super::loader::{BATCH, Fate, Loader, Wish, key};
use super::report::Kind;
use super::source::{Item, Items, Line};
use crate::app::CommandError;
use crate::app::append::{Draft, Target};
use crate::domain::edge::{self, Edge};

struct Candidate {
    line: u64,
    ends: Ends,
    key: crate::app::ports::Key,
}

pub(super) async fn load(loader: &mut Loader<'_>, mut items: Items<'_>) -> Result<(), ImportError> {
    loader.begin(&items);
    loop {
        let lines = loader.next_batch(&mut items, BATCH)?;
        let Some(position) = lines.last().map(|line| line.position) else {
            return Ok(());
        };
        let candidates = resolve(loader, lines).await?;
        let candidates = skip_done(loader, candidates).await?;
        append(loader, &candidates).await?;
        loader.report.advance(position);
    }
}

async fn resolve(loader: &mut Loader<'_>, lines: Vec<Line>) -> Result<Vec<Candidate>, ImportError> {
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

async fn skip_done(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>, ImportError> {
    let keys = candidates
        .iter()
        .map(|candidate| (candidate.ends.follower, candidate.key.text.clone()));
    let done = loader.done_before(keys).await?;
    let (done, remaining): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| {
        done.contains_key(&(candidate.ends.follower, candidate.key.text.clone()))
    });
    loader.report.already_there(done.len() as u64);
    Ok(remaining)
}

async fn append(loader: &mut Loader<'_>, candidates: &[Candidate]) -> Result<(), ImportError> {
    let users = candidates
        .iter()
        .flat_map(|candidate| [candidate.ends.follower, candidate.ends.followee]);
    loader.survey(users).await?;
    count(loader, candidates).await?;
    let mut wishes: Vec<(Wish, Ends)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match wish(loader, candidate) {
            Ok(Some(wish)) => {
                *loader.following.entry(candidate.ends.follower).or_default() += 1;
                wishes.push((wish, candidate.ends));
            }
            Ok(None) => {}
            Err(refusal) => loader.report.refused(candidate.line, &refusal.to_string()),
        }
    }
    // Before and after: what a replica counts in between is not believed.
    let older = older_followers(loader, &wishes);
    mark_counts(loader, &older).await?;
    let (wishes, ends): (Vec<Wish>, Vec<Ends>) = wishes.into_iter().unzip();
    let fates = loader.append_all(&wishes).await?;
    for ((wish, ends), fate) in wishes.iter().zip(ends).zip(fates) {
        let fate = match fate {
            Fate::NotAppended => settle(loader, wish, ends).await?,
            Fate::Appended(_) | Fate::AlreadyThere(_) => fate,
        };
        if !matches!(fate, Fate::Appended(_))
            && let Some(following) = loader.following.get_mut(&ends.follower)
        {
            *following = following.saturating_sub(1);
        }
        loader.tell(Kind::Follows, fate);
    }
    mark_counts(loader, &older).await
}

/// How many each follower follows, counted in the log the first time.
async fn count(loader: &mut Loader<'_>, candidates: &[Candidate]) -> Result<(), ImportError> {
    for candidate in candidates {
        let follower = candidate.ends.follower;
        if loader.is_fresh(follower) || loader.following.contains_key(&follower) {
            continue;
        }
        let store = loader.store();
        let following = loader.patiently(|| store.follows.count(follower)).await?;
        loader.following.insert(follower, following);
    }
    Ok(())
}

fn decide(
    loader: &Loader<'_>,
    ends: Ends,
    edge: &Edge,
    following: u32,
) -> Result<Option<shared::events::Payload>, CommandError> {
    let (actor, followee) = (loader.known(ends.follower), loader.known(ends.followee));
    let decided = edge::follow(
        edge,
        ends,
        actor.standing,
        Some(followee.standing),
        following,
    );
    decided.map_err(CommandError::from)
}

fn wish(loader: &Loader<'_>, candidate: &Candidate) -> Result<Option<Wish>, CommandError> {
    let ends = candidate.ends;
    let following = loader.following.get(&ends.follower).copied().unwrap_or(0);
    let Some(payload) = decide(loader, ends, &Edge::default(), following)? else {
        return Ok(None);
    };
    let (actor, followee) = (loader.known(ends.follower), loader.known(ends.followee));
    let draft = Draft {
        target: Target::Stream {
            owner: ends.follower,
            stream: LogStream::Follow {
                follower: ends.follower,
                followee: ends.followee,
            },
            version: 1,
        },
        actor: ends.follower,
        payload,
        read: actor.last.max(followee.last).get(),
        key: Some(candidate.key.clone()),
    };
    Ok(Some(Wish {
        line: candidate.line,
        draft,
    }))
}

async fn settle(loader: &mut Loader<'_>, wish: &Wish, ends: Ends) -> Result<Fate, ImportError> {
    // This edge has a place already, from when it was wished for.
    let following = loader.following.get(&ends.follower).copied().unwrap_or(1) - 1;
    let (actor, followee) = (loader.known(ends.follower), loader.known(ends.followee));
    let decide = |edge: &Edge| {
        let decided = edge::follow(
            edge,
            ends,
            actor.standing,
            Some(followee.standing),
            following,
        );
        decided.map_err(CommandError::from)
    };
    match loader.settle_edge(wish, decide).await? {
        Ok(fate) => Ok(fate),
        Err(refusal) => {
            loader.report.refused(wish.line, &refusal.to_string());
            Ok(Fate::NotAppended)
        }
    }
}

/// Followers who may have a count that this import passes by.
fn older_followers(loader: &Loader<'_>, wishes: &[(Wish, Ends)]) -> Vec<UserId> {
    let followers: HashMap<UserId, ()> = wishes
        .iter()
        .map(|(_, ends)| (ends.follower, ()))
        .filter(|(follower, ())| !loader.is_fresh(*follower))
        .collect();
    followers.into_keys().collect()
}

async fn mark_counts(loader: &mut Loader<'_>, followers: &[UserId]) -> Result<(), ImportError> {
    if followers.is_empty() {
        return Ok(());
    }
    let store = loader.store();
    loader
        .patiently(|| store.follows.mark_stale(followers))
        .await
}
