//! Why there is no connection.

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect to MongoDB")]
    Mongo(#[source] mongodb::error::Error),
    #[error("connect to NATS")]
    Nats(#[source] async_nats::ConnectError),
}
