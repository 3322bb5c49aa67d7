//! Deleting one's own post.

use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::{PostId, UserId};

use super::append::{Draft, TRIES, Target, backoff_after_conflict};
use super::error::Refusal;
use super::load::FoundPost;
use super::ports::AppendOutcome;
use super::token::Own;
use super::{Accepted, App, CommandError};
use crate::domain::post;

impl App {
    pub async fn delete_post(
        &self,
        actor: UserId,
        id: PostId,
    ) -> Result<Accepted<()>, CommandError> {
        let author = self.actor(actor).await?;
        author.status.can_write()?;
        let decide = |found: &FoundPost| {
            // Whoever left has taken their posts along: to others they do not exist.
            if !found.author.is_visible() && found.post.author != actor {
                return Err(Refusal::NoSuchPost.into());
            }
            Ok(post::delete_post(actor, author.status, &found.post)?)
        };
        self.delete(actor, author.last.get(), id, decide).await
    }

    /// Decides on a deletion, and decides again as long as others are faster.
    pub(super) async fn delete(
        &self,
        actor: UserId,
        read: i64,
        id: PostId,
        decide: impl Fn(&FoundPost) -> Result<Option<Payload>, CommandError> + Send,
    ) -> Result<Accepted<()>, CommandError> {
        for attempt in 0..TRIES {
            backoff_after_conflict(attempt).await;
            let found = self.find_post(id).await?.ok_or(Refusal::NoSuchPost)?;
            let Some(payload) = decide(&found)? else {
                return self.deleted(actor, &found, found.version, false).await;
            };
            let version = found.version + 1;
            let draft = Draft {
                target: Target::Stream {
                    owner: found.post.author,
                    stream: LogStream::Post(id),
                    version,
                },
                actor,
                payload,
                read: found.read.max(read),
                key: None,
            };
            match self.append(&draft).await? {
                AppendOutcome::Appended(_) => {
                    return self.deleted(actor, &found, version, true).await;
                }
                AppendOutcome::IdTaken
                | AppendOutcome::VersionTaken
                | AppendOutcome::KeyTaken(_) => {}
            }
        }
        Err(Refusal::Conflict.into())
    }

    async fn deleted(
        &self,
        actor: UserId,
        found: &FoundPost,
        version: i64,
        changed: bool,
    ) -> Result<Accepted<()>, CommandError> {
        let own = Own {
            stream: LogStream::Post(found.post.id),
            version,
            actor,
            owner: found.post.reply_to.map_or(actor, |parent| parent.author),
            changed,
        };
        Ok(Accepted {
            value: (),
            token: self.token(own).await?,
        })
    }
}
