//! What the query service's views knew last: best effort, nothing waits for it.

use async_trait::async_trait;
use shared::contract::ids::{PostId, UserId};

/// What a like or repost is counted as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reaction {
    Like,
    Repost,
}

/// What the views knew last of a reaction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Projected {
    pub count: i64,
    /// Of the user's own like or repost stream, as counted.
    pub version: i64,
}

/// What the views knew last of a user's numbers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    pub followers: i64,
    pub following: i64,
    pub posts: i64,
}

/// Counts of the views; zeros when they cannot be read.
#[async_trait]
pub trait Projections: Send + Sync {
    /// The count of a post's reactions as last projected.
    async fn reaction(&self, reaction: Reaction, post: PostId, user: UserId) -> Projected;
    /// A user's numbers as last projected.
    async fn counts(&self, user: UserId) -> Counts;
}
