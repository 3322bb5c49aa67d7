//! What a failed read means to a caller, as a problem. Internals are logged, never told.

use shared::auth::token::TokenError;
use shared::resilience::Rejected;
use shared::web::problem::{Code, Problem};

use crate::reads::error::ReadError;
use crate::reads::unanswered::Unanswered;

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::Rejected(Rejected::Overloaded) | ReadError::Unanswered(Unanswered::Busy) => {
                Self::new(Code::Overloaded, "too many reads at once")
            }
            // Whoever has gone reads none of this.
            ReadError::Rejected(Rejected::TimedOut)
            | ReadError::Unanswered(Unanswered::Abandoned) => {
                Self::new(Code::Unavailable, "the read took too long")
            }
            ReadError::Unanswered(why @ Unanswered::BadCursor) => {
                Self::new(Code::BadCursor, why.to_string())
            }
            ReadError::NotYetVisible => Self::new(Code::NotYetVisible, "ask again in a second"),
            ReadError::Deactivated => invalid_token(),
            ReadError::Rejected(_) | ReadError::Unanswered(_) if error.is_unavailable() => {
                Self::new(Code::Unavailable, "the views cannot be read now")
            }
            ReadError::Rejected(_) | ReadError::Unanswered(_) => internal(),
        }
    }
}

pub fn internal() -> Problem {
    Problem::new(Code::Internal, "something went wrong here")
}

pub fn not_found() -> Problem {
    Problem::new(Code::NotFound, "there is nothing here")
}

pub fn invalid_token() -> Problem {
    Problem::new(Code::Unauthorized, TokenError::Invalid.to_string())
}
