//! Why a command was not accepted. Knows nothing of HTTP; `http/errors.rs` has the table.

use std::time::Duration;

use shared::ids::TooFarAhead;
use shared::resilience::Refused;

use super::store::{Allowance, StoreError};
use crate::domain::Fault;
use crate::domain::edge::{CannotFollow, CannotReact};
use crate::domain::post::{CannotDelete, CannotPost};
use crate::domain::user::NotAllowed;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the request has faults")]
    Invalid(Vec<Fault>),
    #[error("no user stands behind the access token any more")]
    NoActor,
    #[error("the account is suspended")]
    Suspended,
    #[error("the credentials do not match")]
    BadCredentials,
    #[error("the refresh token is not valid")]
    BadRefreshToken,
    #[error("the username is taken")]
    UsernameTaken,
    #[error("the e-mail address is taken")]
    EmailTaken,
    #[error("there is no such user")]
    NoSuchUser,
    #[error("there is no such post")]
    NoSuchPost,
    #[error("the post belongs to somebody else")]
    NotYours,
    #[error("nobody follows themselves")]
    SelfFollow,
    #[error("no more people can be followed")]
    FollowLimit,
    #[error("others were faster, again and again")]
    Conflict,
    #[error("the idempotency key belongs to another request")]
    KeyReused,
    #[error("the quota is used up")]
    Quota(Allowance),
    #[error("too many attempts to sign in")]
    LoginLimit {
        most: u32,
        window: Duration,
        retry_after: Duration,
    },
    #[error("too many commands at once")]
    Overloaded,
    #[error("the database does not answer; nothing was done")]
    Away,
    #[error("nothing was done: {0}")]
    Ahead(#[from] TooFarAhead),
    #[error("the command took too long; it may still be carried out")]
    Deadline,
    #[error("the command ended in a panic")]
    Panicked,
    #[error("an access token cannot be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
    #[error("a password cannot be hashed")]
    Hashing(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CommandError {
    /// Whether it is the caller's to change something, rather than ours.
    pub fn is_rejection(&self) -> bool {
        match self {
            Self::Overloaded
            | Self::Away
            | Self::Ahead(_)
            | Self::Deadline
            | Self::Panicked
            | Self::Signing(_)
            | Self::Hashing(_)
            | Self::Store(_) => false,
            Self::Invalid(_)
            | Self::NoActor
            | Self::Suspended
            | Self::BadCredentials
            | Self::BadRefreshToken
            | Self::UsernameTaken
            | Self::EmailTaken
            | Self::NoSuchUser
            | Self::NoSuchPost
            | Self::NotYours
            | Self::SelfFollow
            | Self::FollowLimit
            | Self::Conflict
            | Self::KeyReused
            | Self::Quota(_)
            | Self::LoginLimit { .. } => true,
        }
    }
}

impl From<Refused> for CommandError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Away => Self::Away,
            Refused::Full => Self::Overloaded,
            Refused::Late => Self::Deadline,
            Refused::Panicked => Self::Panicked,
        }
    }
}

impl From<NotAllowed> for CommandError {
    fn from(refusal: NotAllowed) -> Self {
        match refusal {
            NotAllowed::Suspended => Self::Suspended,
            // Whoever left has no say: their tokens are worth nothing.
            NotAllowed::Deactivated => Self::NoActor,
        }
    }
}

impl From<CannotPost> for CommandError {
    fn from(refusal: CannotPost) -> Self {
        match refusal {
            CannotPost::Actor(actor) => actor.into(),
            CannotPost::NoParent => Self::NoSuchPost,
        }
    }
}

impl From<CannotDelete> for CommandError {
    fn from(refusal: CannotDelete) -> Self {
        match refusal {
            CannotDelete::Actor(actor) => actor.into(),
            CannotDelete::NotYours => Self::NotYours,
        }
    }
}

impl From<CannotFollow> for CommandError {
    fn from(refusal: CannotFollow) -> Self {
        match refusal {
            CannotFollow::Actor(actor) => actor.into(),
            CannotFollow::Oneself => Self::SelfFollow,
            CannotFollow::NoSuchUser => Self::NoSuchUser,
            CannotFollow::Limit => Self::FollowLimit,
        }
    }
}

impl From<CannotReact> for CommandError {
    fn from(refusal: CannotReact) -> Self {
        match refusal {
            CannotReact::Actor(actor) => actor.into(),
            CannotReact::NoSuchPost => Self::NoSuchPost,
        }
    }
}
