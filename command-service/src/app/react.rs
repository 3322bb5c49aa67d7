//! Liking and reposting, and taking either back: one shape, two streams.

use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::{PostId, UserId};

use super::error::Refusal;
use super::load::FoundPost;
use super::ports::{Projected, Reaction};
use super::token::Own;
use super::{Accepted, App, CommandError};
use crate::domain::edge::{self, CannotReact, Edge};
use crate::domain::post::Post;
use crate::domain::user::AccountStatus;

/// The number of likes or reposts, as last projected and adjusted by this command.
#[derive(Clone, Copy, Debug)]
pub struct Reacted {
    pub count: i64,
}

type Decide = fn(
    &Edge,
    AccountStatus,
    Option<(&Post, AccountStatus)>,
) -> Result<Option<Payload>, CannotReact>;

impl App {
    pub async fn like(
        &self,
        actor: UserId,
        post: PostId,
    ) -> Result<Accepted<Reacted>, CommandError> {
        self.react(actor, post, Reaction::Like, edge::like).await
    }

    pub async fn unlike(
        &self,
        actor: UserId,
        post: PostId,
    ) -> Result<Accepted<Reacted>, CommandError> {
        self.react(actor, post, Reaction::Like, edge::unlike).await
    }

    pub async fn repost(
        &self,
        actor: UserId,
        post: PostId,
    ) -> Result<Accepted<Reacted>, CommandError> {
        self.react(actor, post, Reaction::Repost, edge::repost)
            .await
    }

    pub async fn unrepost(
        &self,
        actor: UserId,
        post: PostId,
    ) -> Result<Accepted<Reacted>, CommandError> {
        self.react(actor, post, Reaction::Repost, edge::unrepost)
            .await
    }

    async fn react(
        &self,
        actor: UserId,
        post: PostId,
        reaction: Reaction,
        decide: Decide,
    ) -> Result<Accepted<Reacted>, CommandError> {
        let (user, found) = tokio::join!(self.actor(actor), self.find_post(post));
        let (user, found) = (user?, found?);
        let seen = found.as_ref().map(FoundPost::seen);
        let read = found.as_ref().map_or(0, |found| found.read);
        let stream = stream_of(reaction, actor, post);
        let toggled = self
            .toggle(actor, stream, actor, read.max(user.last.get()), |edge| {
                Ok(decide(edge, user.status, seen)?)
            })
            .await?;
        let is_repost = reaction == Reaction::Repost && toggled.edge.is_on();
        if toggled.changed && is_repost && self.is_deactivated(actor).await? {
            self.end_repost(actor, post).await?;
            return Err(Refusal::NoActor.into());
        }
        let author = seen.map_or(actor, |(post, _)| post.author);
        let own = Own {
            stream,
            version: toggled.edge.version,
            actor,
            owner: author,
            changed: toggled.changed,
        };
        let (projected, token) = tokio::join!(
            self.store.projections.reaction(reaction, post, actor),
            self.token(own)
        );
        Ok(Accepted {
            value: Reacted {
                count: adjusted(projected, toggled.edge),
            },
            token: token?,
        })
    }
}

fn stream_of(reaction: Reaction, user: UserId, post: PostId) -> LogStream {
    match reaction {
        Reaction::Like => LogStream::Like { user, post },
        Reaction::Repost => LogStream::Repost { user, post },
    }
}

/// The projected count, as it will be once it has caught up with this one edge.
fn adjusted(projected: Projected, edge: Edge) -> i64 {
    let counted = Edge {
        version: projected.version,
        last: None,
    };
    let change = if projected.version >= edge.version {
        0
    } else {
        i64::from(edge.is_on()) - i64::from(counted.is_on())
    };
    (projected.count + change).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: i64, projected: i64, version: i64) -> i64 {
        let edge = Edge {
            version,
            last: None,
        };
        adjusted(
            Projected {
                count,
                version: projected,
            },
            edge,
        )
    }

    #[test]
    fn a_count_is_adjusted_by_what_is_not_projected_yet() {
        assert_eq!(count(5, 0, 1), 6, "a first like");
        assert_eq!(count(5, 1, 2), 4, "taken back");
        assert_eq!(count(5, 1, 3), 5, "taken back and given again");
        assert_eq!(count(5, 2, 3), 6, "given again");
    }

    #[test]
    fn what_is_projected_is_not_counted_twice() {
        assert_eq!(count(6, 1, 1), 6);
        assert_eq!(count(6, 3, 2), 6, "the views are ahead of this answer");
    }

    #[test]
    fn without_views_a_count_is_never_negative() {
        assert_eq!(count(0, 1, 2), 0);
    }
}
