//! The fourth pass: likes and reposts.

use std::collections::HashMap;

use shared::events::{LogStream, Payload};
use shared::ids::UserId;

use super::error::ImportError;
use super::loader::{BATCH, Fate, Loader, Wish, key};
use super::posts;
use super::report::Kind;
use super::source::{Item, Items, Line, ReactionItem};
use crate::app::CommandError;
use crate::app::append::{Draft, Target};
use crate::domain::edge::{self, Edge};
use crate::domain::post::Post;

struct Candidate {
    line: u64,
    user: UserId,
    post: Post,
    repost: bool,
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
    let reactions: Vec<(u64, ReactionItem)> = lines
        .into_iter()
        .filter_map(|line| match line.item {
            Ok(Item::Reaction(reaction)) => Some((line.number, reaction)),
            Ok(Item::User(_) | Item::Follow { .. } | Item::Post(_)) | Err(_) => None,
        })
        .collect();
    let names = reactions.iter().map(|(_, item)| item.username.as_str());
    let users: HashMap<String, UserId> = loader.resolve(names).await?;
    let mut candidates = Vec::with_capacity(reactions.len());
    for (line, item) in reactions {
        let Some(user) = users.get(&item.username).copied() else {
            let why = format!("no user {}", item.username);
            loader.report.refused(line, &why);
            continue;
        };
        let Some(post) = posts::find(loader, &item.post).await? else {
            loader
                .report
                .refused(line, &format!("no post {}", item.post));
            continue;
        };
        let kind = if item.repost { "repost" } else { "like" };
        candidates.push(Candidate {
            line,
            user,
            post,
            repost: item.repost,
            key: key(&[kind, &user.to_string(), &post.id.to_string()]),
        });
    }
    Ok(candidates)
}

async fn skip_done(
    loader: &mut Loader<'_>,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>, ImportError> {
    let keys = candidates
        .iter()
        .map(|candidate| (candidate.user, candidate.key.text.clone()));
    let done = loader.done_before(keys).await?;
    let (done, remaining): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|candidate| done.contains_key(&(candidate.user, candidate.key.text.clone())));
    loader.report.already_there(done.len() as u64);
    Ok(remaining)
}

async fn append(loader: &mut Loader<'_>, candidates: &[Candidate]) -> Result<(), ImportError> {
    let users = candidates
        .iter()
        .flat_map(|candidate| [candidate.user, candidate.post.author]);
    loader.survey(users).await?;
    let mut wishes = Vec::with_capacity(candidates.len());
    let mut wished = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match decide(loader, candidate, &Edge::default()) {
            Ok(Some(payload)) => {
                wishes.push(wish(loader, candidate, payload));
                wished.push(candidate);
            }
            Ok(None) => {}
            Err(refusal) => loader.report.refused(candidate.line, &refusal.to_string()),
        }
    }
    let fates = loader.append_all(&wishes).await?;
    for ((wish, candidate), fate) in wishes.iter().zip(wished).zip(fates) {
        let fate = match fate {
            Fate::NotAppended => settle(loader, wish, candidate).await?,
            Fate::Appended(_) | Fate::AlreadyThere(_) => fate,
        };
        let kind = if candidate.repost {
            Kind::Reposts
        } else {
            Kind::Likes
        };
        loader.tell(kind, fate);
    }
    Ok(())
}

fn decide(
    loader: &Loader<'_>,
    candidate: &Candidate,
    edge: &Edge,
) -> Result<Option<Payload>, CommandError> {
    let actor = loader.known(candidate.user).standing;
    let author = loader.known(candidate.post.author).standing;
    let decide = if candidate.repost {
        edge::repost
    } else {
        edge::like
    };
    Ok(decide(edge, actor, Some((&candidate.post, author)))?)
}

fn wish(loader: &Loader<'_>, candidate: &Candidate, payload: Payload) -> Wish {
    let (user, post) = (candidate.user, candidate.post.id);
    let stream = if candidate.repost {
        LogStream::Repost { user, post }
    } else {
        LogStream::Like { user, post }
    };
    Wish {
        line: candidate.line,
        draft: Draft {
            target: Target::Stream {
                owner: user,
                stream,
                version: 1,
            },
            actor: user,
            payload,
            read: loader.known(user).last.get().max(post.get()),
            key: Some(candidate.key.clone()),
        },
    }
}

async fn settle(
    loader: &mut Loader<'_>,
    wish: &Wish,
    candidate: &Candidate,
) -> Result<Fate, ImportError> {
    let actor = loader.known(candidate.user).standing;
    let author = loader.known(candidate.post.author).standing;
    let react = if candidate.repost {
        edge::repost
    } else {
        edge::like
    };
    let decide = |edge: &Edge| Ok(react(edge, actor, Some((&candidate.post, author)))?);
    match loader.settle_edge(wish, decide).await? {
        Ok(fate) => Ok(fate),
        Err(refusal) => {
            loader.report.refused(wish.line, &refusal.to_string());
            Ok(Fate::NotAppended)
        }
    }
}
