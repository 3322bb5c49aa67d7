//! The fourth pass: likes and reposts.

use std::collections::HashMap;

use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::UserId;

use super::error::ImportError;
use super::keys::key;
use super::loader::{BATCH, Loader};
use super::named_posts::NamedPosts;
use super::pass::{Events, Pass, append, plan, skip_done};
use super::report::Kind;
use super::source::{Item, Line, ReactionItem};
use crate::app::append::{Draft, Target};
use crate::app::error::Refusal;
use crate::app::ports::Key;
use crate::domain::edge::{self, Edge};
use crate::domain::post::Post;

pub(super) struct Reactions<'a> {
    named: &'a NamedPosts,
}

pub(super) struct Candidate {
    line: u64,
    user: UserId,
    post: Post,
    repost: bool,
    key: Key,
}

impl<'a> Reactions<'a> {
    /// To the posts that the input has names for.
    pub(super) fn new(named: &'a NamedPosts) -> Self {
        Self { named }
    }
}

impl Pass for Reactions<'_> {
    type Candidate = Candidate;
    const BATCH: usize = BATCH;

    async fn resolve(
        &mut self,
        loader: &mut Loader<'_>,
        lines: Vec<Line>,
    ) -> Result<Vec<Candidate>, ImportError> {
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
            let Some(post) = self.named.find(loader, &item.post).await? else {
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

    async fn write(
        &mut self,
        loader: &mut Loader<'_>,
        candidates: Vec<Candidate>,
    ) -> Result<(), ImportError> {
        let candidates = skip_done(loader, self, candidates).await?;
        let planned = plan(loader, self, candidates).await?;
        append(loader, self, &planned).await
    }
}

impl Events for Reactions<'_> {
    fn line(candidate: &Candidate) -> u64 {
        candidate.line
    }

    fn kind(candidate: &Candidate) -> Kind {
        if candidate.repost {
            Kind::Reposts
        } else {
            Kind::Likes
        }
    }

    fn keys(candidate: &Candidate) -> Vec<(UserId, String)> {
        vec![(candidate.user, candidate.key.text.clone())]
    }

    fn users(candidate: &Candidate) -> [UserId; 2] {
        [candidate.user, candidate.post.author]
    }

    fn decide(
        &self,
        loader: &Loader<'_>,
        candidate: &Candidate,
        edge: &Edge,
    ) -> Result<Option<Payload>, Refusal> {
        let actor = loader.people.known(candidate.user).status;
        let author = loader.people.known(candidate.post.author).status;
        let react = if candidate.repost {
            edge::repost
        } else {
            edge::like
        };
        Ok(react(edge, actor, Some((&candidate.post, author)))?)
    }

    fn draft(loader: &Loader<'_>, candidate: &Candidate, payload: Payload) -> Draft {
        let (user, post) = (candidate.user, candidate.post.id);
        let stream = if candidate.repost {
            LogStream::Repost { user, post }
        } else {
            LogStream::Like { user, post }
        };
        Draft {
            target: Target::Stream {
                owner: user,
                stream,
                version: 1,
            },
            actor: user,
            payload,
            read: loader.people.known(user).last.get().max(post.get()),
            key: Some(candidate.key.clone()),
        }
    }
}
