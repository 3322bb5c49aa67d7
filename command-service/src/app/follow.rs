//! Following and unfollowing.

use shared::contract::events::{Edge as Ends, LogStream};
use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;
use shared::runtime::error_chain::Chain;
use tracing::warn;

use super::append::ToggleOutcome;
use super::error::{Refusal, may_have_happened};
use super::token::Own;
use super::{Accepted, App, CommandError};
use crate::domain::edge::{self, Edge, FOLLOW_LIMIT, follow_stream};
use crate::domain::user::AccountStatus;

/// A standing follow.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    pub follower: UserId,
    pub followee: UserId,
    pub since: Timestamp,
}

/// What both commands load before they look at the edge.
struct FollowContext {
    actor: AccountStatus,
    followee: Option<AccountStatus>,
    /// The greatest event id that was read.
    read: i64,
}

impl App {
    pub async fn follow(
        &self,
        actor: UserId,
        followee: UserId,
    ) -> Result<Accepted<Followed>, CommandError> {
        let ends = Ends {
            follower: actor,
            followee,
        };
        let context = self.load_context(ends).await?;
        let (owner, stream) = follow_stream(ends);
        let decide = |edge: &Edge, following| {
            let decided = edge::follow(edge, ends, context.actor, context.followee, following);
            decided.map_err(CommandError::from)
        };
        // Most of what can be refused is refused before anything is reserved.
        let last = self.store.streams.last(owner, stream).await?;
        let edge = last.as_ref().map_or_else(Edge::default, Edge::after);
        if decide(&edge, 0)?.is_none() {
            let changed = false;
            return self.followed(ends, ToggleOutcome { edge, changed }).await;
        }
        let following = self.store.follows.reserve(actor, FOLLOW_LIMIT).await?;
        let following = following.unwrap_or(FOLLOW_LIMIT);
        let toggled = self
            .toggle(owner, stream, actor, context.read, |edge| {
                decide(edge, following)
            })
            .await;
        if following < FOLLOW_LIMIT && !may_have_happened(&toggled, |it| it.changed) {
            self.release_follow(actor).await;
        }
        let toggled = toggled?;
        if toggled.changed {
            self.end_if_deactivated(ends).await?;
        }
        self.followed(ends, toggled).await
    }

    async fn followed(
        &self,
        ends: Ends,
        toggled: ToggleOutcome,
    ) -> Result<Accepted<Followed>, CommandError> {
        let last = toggled.edge.last;
        Ok(Accepted {
            value: Followed {
                follower: ends.follower,
                followee: ends.followee,
                since: last.map_or(Timestamp::from_millis(0), |(_, at)| at),
            },
            token: self.token(own(ends, toggled)).await?,
        })
    }

    async fn end_if_deactivated(&self, ends: Ends) -> Result<(), CommandError> {
        let (follower, followee) = tokio::join!(
            self.is_deactivated(ends.follower),
            self.is_deactivated(ends.followee)
        );
        if follower? {
            self.end_edge(ends, ends.follower).await?;
            return Err(Refusal::NoActor.into());
        }
        if followee? {
            self.end_edge(ends, ends.followee).await?;
            return Err(Refusal::NoSuchUser.into());
        }
        Ok(())
    }

    pub async fn unfollow(
        &self,
        actor: UserId,
        followee: UserId,
    ) -> Result<Accepted<()>, CommandError> {
        let ends = Ends {
            follower: actor,
            followee,
        };
        let context = self.load_context(ends).await?;
        let (owner, stream) = follow_stream(ends);
        let toggled = self
            .toggle(owner, stream, actor, context.read, |edge| {
                let exists = context.followee.is_some();
                Ok(edge::unfollow(edge, ends, context.actor, exists)?)
            })
            .await?;
        if toggled.changed {
            self.release_follow(actor).await;
        }
        Ok(Accepted {
            value: (),
            token: self.token(own(ends, toggled)).await?,
        })
    }

    async fn load_context(&self, ends: Ends) -> Result<FollowContext, CommandError> {
        let (actor, followee) =
            tokio::join!(self.actor(ends.follower), self.find_user(ends.followee));
        let (actor, followee) = (actor?, followee?);
        Ok(FollowContext {
            actor: actor.status,
            followee: followee.as_ref().map(|user| user.status),
            read: followee
                .map_or(0, |user| user.last.get())
                .max(actor.last.get()),
        })
    }

    /// A count that stays too high is found and put right when it stands in somebody's way.
    async fn release_follow(&self, follower: UserId) {
        if let Err(error) = self.store.follows.release(follower).await {
            warn!(error = %Chain(&error), "a follow count stays too high for now");
        }
    }
}

fn own(ends: Ends, toggled: ToggleOutcome) -> Own {
    Own {
        stream: LogStream::Follow {
            follower: ends.follower,
            followee: ends.followee,
        },
        version: toggled.edge.version,
        actor: ends.follower,
        owner: ends.followee,
        changed: toggled.changed,
    }
}
