//! Why a read has no answer.

use shared::resilience::Rejected;
use shared::runtime::error_chain::Chain;
use tracing::{error, warn};

use super::unanswered::Unanswered;
use crate::views::error::ViewError;

#[derive(Debug)]
pub enum ReadError {
    /// It did not begin, or was not waited for.
    Rejected(Rejected),
    Unanswered(Unanswered),
    /// The views do not reflect the write that they should.
    NotYetVisible,
    /// The caller's account is deactivated.
    Deactivated,
}

impl ReadError {
    /// Whether the views cannot be read at the moment: then an older answer is better than none.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Rejected(Rejected::Unavailable | Rejected::TimedOut) => true,
            Self::Rejected(Rejected::Overloaded | Rejected::Panicked) => false,
            Self::NotYetVisible | Self::Deactivated => false,
            Self::Unanswered(why) => match why {
                Unanswered::Away
                | Unanswered::Abandoned
                | Unanswered::CacheMiss
                | Unanswered::Failed(ViewError::Database(_)) => true,
                Unanswered::Failed(
                    ViewError::Corrupt(_)
                    | ViewError::Refused(_)
                    | ViewError::OtherPartitions { .. },
                )
                | Unanswered::BadCursor
                | Unanswered::Busy
                | Unanswered::Expensive { .. }
                | Unanswered::Panicked => false,
            },
        }
    }

    /// Whether the same read may have an answer a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Rejected(Rejected::Overloaded)
            | Self::Unanswered(Unanswered::Busy)
            | Self::NotYetVisible => true,
            Self::Rejected(_) | Self::Unanswered(_) | Self::Deactivated => self.is_unavailable(),
        }
    }

    /// Logs what an operator should know of. Callers are never told internals.
    #[must_use]
    pub(super) fn logged(self) -> Self {
        if let Self::Unanswered(why) = &self {
            match why {
                Unanswered::Failed(ViewError::Database(_)) | Unanswered::CacheMiss => {
                    warn!(error = %Chain(why), "a read failed");
                }
                Unanswered::Failed(_) | Unanswered::Expensive { .. } | Unanswered::Panicked => {
                    error!(error = %Chain(why), "a read failed");
                }
                // Logged once, by the probes, or nothing to log: the caller's own.
                Unanswered::Away
                | Unanswered::Abandoned
                | Unanswered::Busy
                | Unanswered::BadCursor => (),
            }
        }
        self
    }
}
