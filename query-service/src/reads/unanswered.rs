//! Why a read ended without an answer.

use crate::views::error::ViewError;

#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error(transparent)]
    Failed(#[from] ViewError),
    /// No fault: the read was to be answered from the cache alone.
    #[error("the answer is not in the cache, and the database was not to be asked")]
    CacheMiss,
    #[error("the views' database is away: it was not asked")]
    Away,
    #[error("the cursor is not one of ours")]
    BadCursor,
    #[error("nobody waits for this read any more")]
    Abandoned,
    #[error("too many live streams look through many outboxes: look again")]
    Busy,
    #[error("this read is an expensive one: it needs {permits} permits for it")]
    Expensive { permits: u32 },
    #[error("the read panicked")]
    Panicked,
}

impl From<mongodb::error::Error> for Unanswered {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Unanswered {
    /// Whether the database could not be reached, rather than said something we do not like.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Failed(error) => error.is_away(),
            Self::Away => true,
            Self::CacheMiss
            | Self::BadCursor
            | Self::Abandoned
            | Self::Busy
            | Self::Expensive { .. }
            | Self::Panicked => false,
        }
    }
}
