//! The jobs that end what counts elsewhere of users who left.

use std::time::Duration;

use async_trait::async_trait;
use shared::contract::events::LogStream;
use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;

use super::error::Result;

/// What counts elsewhere of a user, and ends when they leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relation {
    /// Whom the user follows.
    Followees,
    /// Who follows the user.
    Followers,
    /// What the user reposted.
    Reposts,
    /// What the user answered.
    Replies,
}

impl Relation {
    pub const ALL: [Self; 4] = [
        Self::Followees,
        Self::Followers,
        Self::Reposts,
        Self::Replies,
    ];
}

/// The relations of a user who left, to be removed. Durable: a crash resumes it where it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeactivationCleanup {
    pub user: UserId,
    pub planned_at: Timestamp,
    /// How many times all relations have been looked at.
    pub passes: u32,
    pub relation: Relation,
    /// The last stream of this kind that was looked at.
    pub after: Option<LogStream>,
}

/// One job for each user who leaves.
#[async_trait]
pub trait Cleanups: Send + Sync {
    /// Makes the job, or begins one that is there again.
    async fn plan(&self, user: UserId, now: Timestamp) -> Result<()>;
    /// Takes a job that is due; nobody else gets it for `lease`.
    async fn claim(&self, now: Timestamp, lease: Duration) -> Result<Option<DeactivationCleanup>>;
    /// Keeps how far a job has come, and when to go on, unless it has been planned again.
    async fn save(&self, job: &DeactivationCleanup, due: Timestamp) -> Result<()>;
    /// Removes a job unless it has been planned again since it was claimed.
    async fn remove(&self, job: &DeactivationCleanup) -> Result<()>;
}
