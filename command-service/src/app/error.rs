//! Why a command was not accepted. What each means over HTTP is its [`Code`]; `http/errors.rs` adds
//! the headers.

use std::time::Duration;

use shared::contract::ids::TooFarAhead;
use shared::resilience::Rejected;
use shared::web::problem::Code;

use super::ports::{Allowance, StoreError};
use crate::domain::Fault;
use crate::domain::edge::{CannotFollow, CannotReact};
use crate::domain::post::{CannotDelete, CannotPost};
use crate::domain::user::NotAllowed;

/// Why a command was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{}", sentences(.0))]
    Invalid(Vec<Fault>),
    #[error(transparent)]
    Refused(Refusal),
    #[error(transparent)]
    LimitReached(#[from] Limit),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Internal(#[from] Internal),
}

macro_rules! refusals {
    ($($refusal:ident $code:ident $sentence:literal;)*) => {
        /// Why the answer is no: the caller's to change, or nobody's.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
        pub enum Refusal { $(#[error($sentence)] $refusal),* }

        impl Refusal {
            pub fn code(self) -> Code { match self { $(Self::$refusal => Code::$code),* } }
        }
    };
}

refusals! {
    NoActor Unauthorized "no user stands behind the access token any more";
    Suspended Suspended "the account is suspended";
    BadCredentials BadCredentials "the credentials do not match";
    BadRefreshToken BadRefreshToken "the refresh token is not valid";
    UsernameTaken UsernameTaken "the username is taken";
    EmailTaken EmailTaken "the e-mail address is taken";
    NoSuchUser NotFound "there is no such user";
    NoSuchPost NotFound "there is no such post";
    NotYours NotYours "the post belongs to somebody else";
    SelfFollow SelfFollow "nobody follows themselves";
    FollowLimit FollowLimit "no more people can be followed";
    Conflict Conflict "others were faster, again and again";
    KeyReused IdempotencyKeyReused "the idempotency key belongs to another request";
}

/// What the caller has done too often.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Limit {
    #[error(
        "at most {} {} in {} seconds",
        .0.quota.posts, .0.of.name(), .0.quota.window.as_secs()
    )]
    Quota(Allowance),
    #[error("too many attempts to sign in")]
    Logins {
        most: u32,
        window: Duration,
        retry_after: Duration,
    },
}

impl Limit {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quota(allowance) => allowance.of.name(),
            Self::Logins { .. } => "logins",
        }
    }
}

/// Why the command may be sent again later.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("too many commands at once")]
    Overloaded,
    #[error("the database does not answer; nothing was done")]
    Away,
    #[error("nothing was done: {0}")]
    Ahead(TooFarAhead),
    #[error("the command took too long; it may still be carried out")]
    Deadline,
    /// What was asked may have happened.
    #[error(transparent)]
    Store(StoreError),
}

/// A fault of ours; callers are told nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum Internal {
    #[error("the command ended in a panic")]
    Panicked,
    #[error("an access token cannot be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
    #[error("a password cannot be hashed")]
    Hashing(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Store(StoreError),
}

impl CommandError {
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::Invalid,
            Self::Refused(refusal) => refusal.code(),
            Self::LimitReached(_) => Code::TooManyRequests,
            Self::Unavailable(Unavailable::Overloaded) => Code::Overloaded,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// Whether it is the caller's to change something, rather than ours.
    pub fn is_rejection(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Refused(_) | Self::LimitReached(_) => true,
            Self::Unavailable(_) | Self::Internal(_) => false,
        }
    }
}

/// Whether an event may be in the log, by an outcome that says so or by one that is not known: what
/// was reserved for it is kept then.
pub(super) fn may_have_happened<T>(
    outcome: &Result<T, CommandError>,
    happened: impl Fn(&T) -> bool,
) -> bool {
    match outcome {
        Ok(value) => happened(value),
        Err(error) => matches!(error, CommandError::Unavailable(Unavailable::Store(_))),
    }
}

fn sentences(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
    faults.join("; ")
}

/// [`Refusal`] itself, and what the domain refuses.
impl<R: Into<Refusal>> From<R> for CommandError {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            Self::Unavailable(Unavailable::Store(error))
        } else {
            Self::Internal(Internal::Store(error))
        }
    }
}

/// For work that asks nobody's permission: nothing but the store can be in its way.
impl From<CommandError> for StoreError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unavailable(Unavailable::Store(error))
            | CommandError::Internal(Internal::Store(error)) => error,
            other @ (CommandError::Invalid(_)
            | CommandError::Refused(_)
            | CommandError::LimitReached(_)
            | CommandError::Unavailable(_)
            | CommandError::Internal(_)) => Self::Unexpected(Box::new(other)),
        }
    }
}

impl From<TooFarAhead> for CommandError {
    fn from(ahead: TooFarAhead) -> Self {
        Self::Unavailable(Unavailable::Ahead(ahead))
    }
}

impl From<Rejected> for CommandError {
    fn from(refused: Rejected) -> Self {
        match refused {
            Rejected::Unavailable => Unavailable::Away.into(),
            Rejected::Overloaded => Unavailable::Overloaded.into(),
            Rejected::TimedOut => Unavailable::Deadline.into(),
            Rejected::Panicked => Internal::Panicked.into(),
        }
    }
}

impl From<NotAllowed> for Refusal {
    fn from(refusal: NotAllowed) -> Self {
        match refusal {
            NotAllowed::Suspended => Self::Suspended,
            // Whoever left has no say: their tokens are worth nothing.
            NotAllowed::Deactivated => Self::NoActor,
        }
    }
}

impl From<CannotPost> for Refusal {
    fn from(refusal: CannotPost) -> Self {
        match refusal {
            CannotPost::Actor(actor) => actor.into(),
            CannotPost::NoParent => Self::NoSuchPost,
        }
    }
}

impl From<CannotDelete> for Refusal {
    fn from(refusal: CannotDelete) -> Self {
        match refusal {
            CannotDelete::Actor(actor) => actor.into(),
            CannotDelete::NotYours => Self::NotYours,
        }
    }
}

impl From<CannotFollow> for Refusal {
    fn from(refusal: CannotFollow) -> Self {
        match refusal {
            CannotFollow::Actor(actor) => actor.into(),
            CannotFollow::Oneself => Self::SelfFollow,
            CannotFollow::NoSuchUser => Self::NoSuchUser,
            CannotFollow::Limit => Self::FollowLimit,
        }
    }
}

impl From<CannotReact> for Refusal {
    fn from(refusal: CannotReact) -> Self {
        match refusal {
            CannotReact::Actor(actor) => actor.into(),
            CannotReact::NoSuchPost => Self::NoSuchPost,
        }
    }
}
