//! Why the views could not be read or written.

/// Why the views could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("the views' database failed")]
    Database(#[from] mongodb::error::Error),
    #[error("the views hold something that cannot be read: {0}")]
    Corrupt(&'static str),
    #[error("the database refused a write: {0}")]
    Refused(String),
    #[error(
        "the views are folded in {recorded} partitions, but PARTITIONS is {wanted}: start with PARTITIONS={recorded}, or change it with `query-service rebuild`"
    )]
    OtherPartitions { recorded: u16, wanted: u16 },
}

impl ViewError {
    /// Whether the database could not be reached, rather than said something we do not like.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Database(error) => shared::runtime::mongo_errors::is_unavailable(error),
            Self::Corrupt(_) | Self::Refused(_) | Self::OtherPartitions { .. } => false,
        }
    }
}
