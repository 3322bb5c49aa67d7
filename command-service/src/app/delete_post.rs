//! Deleting one's own post.

use shared::consistency::ConsistencyToken;
use shared::events::LogStream;
use shared::ids::{PostId, UserId};

use super::append::{Appended, Draft, Target, tries, wait_turn};
use super::{Accepted, App, CommandError, FoundPost};
use crate::domain::post;

impl App {
    pub async fn delete_post(
        &self,
        actor: UserId,
        id: PostId,
    ) -> Result<Accepted<()>, CommandError> {
        let author = self.actor(actor).await?;
        author.standing.may_act()?;
        for attempt in 0..tries() {
            wait_turn(attempt).await;
            let found = self.find_post(id).await?.ok_or(CommandError::NoSuchPost)?;
            // Whoever left has taken their posts along: to others they do not exist.
            if !found.author.is_visible() && found.post.author != actor {
                return Err(CommandError::NoSuchPost);
            }
            let decided = post::delete_post(actor, author.standing, &found.post)?;
            let Some(payload) = decided else {
                return Ok(accepted(actor, &found, found.version));
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
                read: found.read.max(author.last.get()),
                key: None,
            };
            if let Appended::Done(_) = self.append(&draft).await? {
                return Ok(accepted(actor, &found, version));
            }
        }
        Err(CommandError::Conflict)
    }
}

fn accepted(actor: UserId, found: &FoundPost, version: i64) -> Accepted<()> {
    Accepted {
        value: (),
        token: ConsistencyToken {
            stream: LogStream::Post(found.post.id),
            version,
            actor,
            owner: found.post.reply_to.map_or(actor, |parent| parent.author),
        },
    }
}
