//! Why a read has no answer.

use shared::error_chain::Chain;
use shared::resilience::Refused;
use tracing::{error, warn};

use crate::read_model::ViewError;

#[derive(Debug)]
pub enum ReadError {
    /// It did not begin, or was not waited for.
    Rejected(Refused),
    Views(ViewError),
    /// The caller's account is deactivated.
    Deactivated,
}

impl ReadError {
    /// Whether the views cannot be read at the moment: then an older answer is better than none.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Rejected(Refused::Away | Refused::Late) => true,
            Self::Rejected(Refused::Full | Refused::Panicked) | Self::Deactivated => false,
            Self::Views(error) => match error {
                ViewError::Away
                | ViewError::Abandoned
                | ViewError::Database(_)
                | ViewError::NotRemembered => true,
                ViewError::BadCursor
                | ViewError::NotYetVisible
                | ViewError::Busy
                | ViewError::Corrupt(_)
                | ViewError::Refused(_)
                | ViewError::Expensive { .. }
                | ViewError::OtherPartitions { .. } => false,
            },
        }
    }

    /// Whether the same read may have an answer a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Rejected(Refused::Full) => true,
            Self::Views(ViewError::NotYetVisible | ViewError::Busy) => true,
            Self::Rejected(_) | Self::Views(_) | Self::Deactivated => self.is_unavailable(),
        }
    }

    /// Logs what an operator should know of. Callers are never told internals.
    #[must_use]
    pub(super) fn logged(self) -> Self {
        if let Self::Views(fault) = &self {
            match fault {
                ViewError::Database(_) | ViewError::NotRemembered => {
                    warn!(error = %Chain(fault), "a read failed");
                }
                ViewError::Corrupt(_)
                | ViewError::Refused(_)
                | ViewError::Expensive { .. }
                | ViewError::OtherPartitions { .. } => {
                    error!(error = %Chain(fault), "a read failed");
                }
                // Logged once, by the probes, or nothing to log: the caller's own.
                ViewError::Away
                | ViewError::Abandoned
                | ViewError::Busy
                | ViewError::BadCursor
                | ViewError::NotYetVisible => (),
            }
        }
        self
    }
}
