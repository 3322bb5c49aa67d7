//! What a failed read means to a caller, as a problem. Internals are logged, never told.

use shared::problem::{Code, Problem};
use shared::resilience::Refused;
use shared::token::TokenError;

use crate::read_model::ViewError;
use crate::reads::error::ReadError;

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Rejected(why) => rejected(why),
            ReadError::Views(fault) => failed(&fault),
            ReadError::Deactivated => invalid_token(),
        }
    }
}

fn rejected(why: Refused) -> Problem {
    match why {
        Refused::Away => failed(&ViewError::Away),
        Refused::Full => overloaded(),
        Refused::Late => Problem::new(Code::Unavailable, "the read took too long"),
        Refused::Panicked => internal(),
    }
}

fn failed(fault: &ViewError) -> Problem {
    match fault {
        ViewError::BadCursor => Problem::new(Code::BadCursor, fault.to_string()),
        ViewError::NotYetVisible => Problem::new(Code::NotYetVisible, "ask again in a second"),
        ViewError::Away | ViewError::Database(_) | ViewError::NotRemembered => {
            Problem::new(Code::Unavailable, "the views cannot be read now")
        }
        ViewError::Busy => overloaded(),
        // Nobody reads this: the client is gone.
        ViewError::Abandoned => Problem::new(Code::Unavailable, "the read took too long"),
        ViewError::Corrupt(_)
        | ViewError::Refused(_)
        | ViewError::Expensive { .. }
        | ViewError::OtherPartitions { .. } => internal(),
    }
}

fn overloaded() -> Problem {
    Problem::new(Code::Overloaded, "too many reads at once")
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
