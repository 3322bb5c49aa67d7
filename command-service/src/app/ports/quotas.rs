//! Guards of limits: how much somebody writes, and how many they follow.

use std::time::Duration;

use async_trait::async_trait;
use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;

use super::error::Result;

/// What there is a quota of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limited {
    Posts,
    /// Of one's own profile.
    Edits,
}

impl Limited {
    /// As callers are told it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Posts => "posts",
            Self::Edits => "edits",
        }
    }
}

/// How many posts, or edits, in which time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    pub posts: u32,
    pub window: Duration,
}

/// How a quota stands after a reservation was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QuotaState {
    pub granted: bool,
    pub remaining: u32,
    /// When the window began; a reservation is given back to its own window.
    pub window_start: Timestamp,
    pub resets_in: Duration,
}

/// How a user's quota stands, and what it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowance {
    pub of: Limited,
    pub quota: Quota,
    pub state: QuotaState,
}

/// How much each user has written, over all replicas.
#[async_trait]
pub trait Quotas: Send + Sync {
    /// Takes one from a user's quota, if one is left.
    async fn reserve(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState>;
    /// How it stands; takes nothing.
    async fn state(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState>;
    /// Gives one back to the window it was taken from.
    async fn release(&self, of: Limited, user: UserId, window_start: Timestamp) -> Result<()>;
}

/// A follow count that has not moved for so long, and stands in somebody's way, is counted anew:
/// longer than a command can take, so that whoever holds a place has appended, or never will.
pub const FOLLOW_COUNT_RESTS: Duration = Duration::from_secs(10);

/// How many each user follows. The log is what counts; this guards the limit.
#[async_trait]
pub trait FollowCounts: Send + Sync {
    /// Counts one more follow unless that would exceed `limit`; the number before it, or `None`.
    async fn reserve(&self, follower: UserId, limit: u32) -> Result<Option<u32>>;
    async fn release(&self, follower: UserId) -> Result<()>;
    /// The standing edges of a follower, counted in the log.
    async fn count(&self, follower: UserId) -> Result<u32>;
    /// Says that follows are appended past the reservations, so that the next one counts anew.
    async fn mark_stale(&self, followers: &[UserId]) -> Result<()>;
}
