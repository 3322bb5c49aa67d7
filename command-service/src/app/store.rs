//! What the use cases need kept: the one door to the database.
//!
//! An append is the only way to change what others see. Everything else here guards it (names,
//! counts, quotas) or serves its author alone (credentials, sessions).

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use shared::consistency::Position;
use shared::events::{Event, LogStream};
use shared::ids::{EventId, PostId, UserId};
use shared::settings::Secret;
use shared::time::Timestamp;

use crate::domain::user::{Standing, User};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away or too slow. A write may have happened: same id, same nonce, it can
    /// be asked again.
    #[error("the database is not available")]
    Unavailable(#[source] Source),
    #[error("the database is not prepared yet")]
    NotPrepared,
    #[error("what is stored cannot be read")]
    Corrupt(#[source] Source),
    #[error("the database refused")]
    Unexpected(#[source] Source),
}

impl StoreError {
    /// The same for another who waited for the same question.
    pub fn again(&self) -> Self {
        let text = shared::error_chain::Chain(self).to_string();
        match self {
            Self::Unavailable(_) => Self::Unavailable(text.into()),
            Self::NotPrepared => Self::NotPrepared,
            Self::Corrupt(_) => Self::Corrupt(text.into()),
            Self::Unexpected(_) => Self::Unexpected(text.into()),
        }
    }

    /// Whether asking again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NotPrepared => true,
            Self::Corrupt(_) | Self::Unexpected(_) => false,
        }
    }
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// A request's idempotency key, and a hash of what it asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    pub text: String,
    pub hash: i64,
}

/// One event to append.
#[derive(Clone, Debug)]
pub struct Append {
    pub event: Event,
    /// Whose stream it is.
    pub owner: UserId,
    pub key: Option<Key>,
    /// The W3C `traceparent` of the command.
    pub trace: Option<String>,
    /// Random: tells this append's own lost answer from another's event.
    pub nonce: i64,
}

/// What an earlier request with the same key did.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub event: Event,
    pub hash: i64,
}

/// By owner and key: the event that has the key, and the hash stored with it.
pub type Receipts = HashMap<(UserId, String), (EventId, i64)>;

#[derive(Debug)]
pub enum Outcome {
    Appended,
    /// Another event has the id: take the next.
    IdTaken,
    /// Somebody was faster: reload and decide again.
    VersionTaken,
    KeyTaken(Receipt),
}

/// A user to register: the event, the names to reserve, the credentials.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub event: Event,
    pub username: String,
    /// Folded: two addresses that differ in case are one.
    pub email: String,
    /// The address as it was written.
    pub address: String,
    /// An imported user may have none.
    pub password_hash: Option<Secret>,
    pub trace: Option<String>,
    /// As in [`Append`].
    pub nonce: i64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Registered {
    Done,
    IdTaken,
    UsernameTaken,
    EmailTaken,
}

/// How somebody names an account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AccountName {
    Username(String),
    /// Folded.
    Email(String),
}

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

/// What counts elsewhere of a user, and ends when they leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tie {
    /// Whom the user follows.
    Followees,
    /// Who follows the user.
    Followers,
    /// What the user reposted.
    Reposts,
    /// What the user answered.
    Replies,
}

impl Tie {
    pub const ALL: [Self; 4] = [
        Self::Followees,
        Self::Followers,
        Self::Reposts,
        Self::Replies,
    ];
}

/// The ties of a user who left, to be ended. Durable: a crash resumes it where it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Farewell {
    pub user: UserId,
    pub planned_at: Timestamp,
    /// How many times all ties have been looked at.
    pub passes: u32,
    pub tie: Tie,
    /// The last stream of this kind that was looked at.
    pub after: Option<LogStream>,
}

/// The log and what guards it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // The log.
    /// Appends one event, or says why not. Asking again with the same event is safe.
    async fn append(&self, append: &Append) -> Result<Outcome>;
    /// Appends many at once, in any order: for each, whether it is in the log now.
    async fn append_all(&self, appends: &[Append]) -> Result<Vec<bool>>;
    /// The last event of a stream.
    async fn last(&self, owner: UserId, stream: LogStream) -> Result<Option<Event>>;
    /// Where the owner's latest events stand, at most [`shared::consistency::MOST_LATEST`]: of
    /// all that were accepted by now, every other is before one of them on the stream.
    async fn latest(&self, owner: UserId) -> Result<Vec<Position>>;
    /// A user as of now; nobody without a registration.
    async fn user(&self, user: UserId) -> Result<Option<User>>;
    /// A user as of all events of theirs with ids below `id`.
    async fn user_before(&self, user: UserId, id: EventId) -> Result<Option<User>>;
    /// The event that made the post.
    async fn post_created(&self, post: PostId) -> Result<Option<Event>>;
    /// What an earlier request with this key did.
    async fn receipt(&self, owner: UserId, key: &str) -> Result<Option<Receipt>>;
    /// Which of these keys are used, and the event of each.
    async fn receipts(&self, keys: &[(UserId, String)]) -> Result<Receipts>;
    /// The standing of those of these users who exist, with the last event that was read.
    async fn standings(&self, users: &[UserId]) -> Result<HashMap<UserId, (Standing, EventId)>>;

    // Accounts.
    /// Reserves the names, keeps the credentials and appends the event, or none of it.
    async fn register(&self, account: &NewAccount) -> Result<Registered>;
    /// Registers all of them or none: `false` if any name or id is taken.
    async fn register_all(&self, accounts: &[NewAccount]) -> Result<bool>;
    async fn find_account(&self, name: &AccountName) -> Result<Option<UserId>>;
    /// Who has these usernames.
    async fn users_named(&self, usernames: &[String]) -> Result<HashMap<String, UserId>>;
    /// Who has these (folded) addresses.
    async fn users_at(&self, emails: &[String]) -> Result<HashMap<String, UserId>>;
    async fn password_hash(&self, user: UserId) -> Result<Option<String>>;
    /// The e-mail address of a user, as they wrote it.
    async fn address(&self, user: UserId) -> Result<Option<String>>;
    /// Forgets the address and the credentials of a user who has left. The address is free again,
    /// the name is not.
    async fn forget_account(&self, user: UserId) -> Result<()>;

    // Sessions.
    async fn open_session(&self, session: &Session) -> Result<()>;
    /// Makes the next token the newest one of the family if the one that was used is.
    async fn renew_session(&self, renewal: &Renewal) -> Result<Rotation>;
    /// Whether the user has a session that was used last from this origin.
    async fn has_session_from(&self, user: UserId, origin: &[u8; 32]) -> Result<bool>;
    async fn session_user(&self, family: &str) -> Result<Option<UserId>>;
    async fn close_session(&self, family: &str) -> Result<()>;
    async fn close_sessions_of(&self, user: UserId) -> Result<()>;

    // How many somebody follows.
    /// Counts one more follow unless that would exceed `limit`; the number before it, or `None`.
    async fn reserve_follow(&self, follower: UserId, limit: u32) -> Result<Option<u32>>;
    async fn release_follow(&self, follower: UserId) -> Result<()>;
    /// The standing edges of a follower, counted in the log.
    async fn count_follows(&self, follower: UserId) -> Result<u32>;
    /// Says that follows are appended past the reservations, so that the next one counts anew.
    async fn recount_follows(&self, followers: &[UserId]) -> Result<()>;

    // How much somebody writes.
    /// Takes one from a user's quota, if one is left.
    async fn reserve(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState>;
    /// How it stands; takes nothing.
    async fn quota(&self, of: Limited, user: UserId, quota: Quota) -> Result<QuotaState>;
    /// Gives one back to the window it was taken from.
    async fn release(&self, of: Limited, user: UserId, window_start: Timestamp) -> Result<()>;

    // Leaving.
    /// Makes the job, or begins one that is there again.
    async fn plan_farewell(&self, user: UserId, now: Timestamp) -> Result<()>;
    /// Takes a job that is due; nobody else gets it for `lease`.
    async fn claim_farewell(&self, now: Timestamp, lease: Duration) -> Result<Option<Farewell>>;
    /// Keeps how far a job has come, and when to go on, unless it has been planned again.
    async fn save_farewell(&self, job: &Farewell, due: Timestamp) -> Result<()>;
    /// Removes a job unless it has been planned again since it was claimed.
    async fn drop_farewell(&self, job: &Farewell) -> Result<()>;
    /// The streams of one kind of tie, standing or not, in an order of the store's, beginning
    /// behind `after`: of at most `limit` events.
    async fn ties(
        &self,
        user: UserId,
        tie: Tie,
        after: Option<LogStream>,
        limit: u32,
    ) -> Result<Vec<LogStream>>;

    // Views.
    /// The count of a post's reactions as last projected; zeros when the views cannot be read.
    async fn projected(&self, reaction: Reaction, post: PostId, user: UserId) -> Projected;
    /// A user's numbers as last projected; zeros when the views cannot be read.
    async fn counts(&self, user: UserId) -> Counts;
}
