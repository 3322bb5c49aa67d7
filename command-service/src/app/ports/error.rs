//! Why the store did not do what it was asked.

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
        let text = shared::runtime::error_chain::Chain(self).to_string();
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
