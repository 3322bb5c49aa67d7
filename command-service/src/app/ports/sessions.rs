//! Families of refresh tokens.

use async_trait::async_trait;
use shared::contract::ids::UserId;
use shared::contract::sessions::{PasswordMark, SessionId};
use shared::contract::time::Timestamp;

use super::error::Result;

/// One family of refresh tokens; only the newest is good.
#[derive(Clone, Debug)]
pub struct Session {
    pub family: String,
    pub user: UserId,
    /// SHA-256 of the secret of the newest token.
    pub current: [u8; 32],
    pub expires_at: Timestamp,
    /// Stands for the address from which it was used last.
    pub origin: Option<[u8; 32]>,
    /// When it began, and the mark that the account's password had then. A renewal changes neither.
    pub began: Began,
}

/// What a session began with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Began {
    pub at: Timestamp,
    pub mark: Option<i64>,
}

/// Whose a session is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    pub user: UserId,
    /// The mark that the account's password had when the session began.
    pub mark: Option<i64>,
}

/// A use of a refresh token, which makes the next one.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// SHA-256 of the secret that was used.
    pub used: [u8; 32],
    /// What makes the next secret of the one that was used.
    pub salt: [u8; 32],
    pub at: Timestamp,
    /// The session after it.
    pub next: Session,
}

/// A renewal as it is stored: this one, or an earlier one by the same token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Renewed {
    pub salt: [u8; 32],
    pub at: Timestamp,
    /// SHA-256 of the secret of the newest token.
    pub current: [u8; 32],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rotation {
    /// The token that was used is the newest but one, since this use or an earlier one.
    Renewed(Renewed),
    /// The family is known, and its newest two secrets are others: somebody has an old token.
    Reused,
    Unknown,
}

/// Sessions serve their user alone.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Beyond [`MOST_SESSIONS`](shared::contract::sessions::MOST_SESSIONS) of the user, those that were
    /// used longest ago are closed.
    async fn open(&self, session: &Session) -> Result<()>;
    /// Makes the next token the newest one of the family if the one that was used is.
    async fn renew(&self, renewal: &Renewal) -> Result<Rotation>;
    /// Whether the user has a session that was used last from one of these origins.
    async fn has_from(&self, user: UserId, origins: &[[u8; 32]]) -> Result<bool>;
    async fn owner(&self, family: &str) -> Result<Option<Owner>>;
    async fn close(&self, family: &str) -> Result<()>;
    /// Closes one of a user's sessions, if they have it.
    async fn close_own(&self, user: UserId, session: SessionId) -> Result<()>;
    async fn close_all(&self, user: UserId) -> Result<()>;
    /// Closes those of a user's sessions that went on under the mark `before`, but `kept`.
    async fn close_ended(
        &self,
        user: UserId,
        before: &PasswordMark,
        kept: Option<SessionId>,
    ) -> Result<()>;
}
