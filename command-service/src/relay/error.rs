//! Why an attempt to relay ends, and whose fault that is.

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use shared::connections::log_identity::IdentityError;
use shared::contract::event_stream::StreamError;
use shared::runtime::mongo_errors::history_is_lost;

use super::fail_point::FailPoint;

/// Why an attempt ended. Whatever it was, the next one begins with the stream's tail.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the broker is not connected")]
    NotConnected,
    #[error("another message came first")]
    Refused(#[source] jetstream::context::PublishError),
    #[error("expected to be stored at sequence {expected}, but was at {sequence}")]
    Elsewhere { expected: u64, sequence: u64 },
    #[error("hand a message to the broker")]
    Send(#[source] async_nats::PublishError),
    #[error("publish to the stream")]
    Publish(#[source] jetstream::context::PublishError),
    #[error("the broker did not take a message in time")]
    Unanswered,
    #[error("the connection to the broker changed")]
    ConnectionChanged,
    #[error("create a consumer")]
    Consumer(#[source] jetstream::stream::ConsumerError),
    #[error("ask for a stretch of the stream")]
    Stretch(#[source] jetstream::consumer::pull::BatchError),
    #[error("read the stream")]
    Delivery(#[source] async_nats::Error),
    #[error("the stream was read to sequence {read} of {until} and no further")]
    Unread { read: u64, until: u64 },
    #[error("the history of the log that the token names is gone")]
    HistoryLost(#[source] mongodb::error::Error),
    #[error("the log's change stream was closed: `events` was dropped or renamed")]
    LogReplaced,
    #[error("read the log's change stream")]
    Changes(#[source] mongodb::error::Error),
    #[error("read the log")]
    Log(#[source] mongodb::error::Error),
    #[error("write a resume token")]
    Token(#[source] serde_json::Error),
    #[error("a reader of the log ended without a word")]
    ReaderGone,
    #[error("told to fail at {0:?}")]
    FailPoint(FailPoint),
}

impl From<FailPoint> for RelayError {
    fn from(reached: FailPoint) -> Self {
        Self::FailPoint(reached)
    }
}

impl From<IdentityError> for RelayError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Stream(error) => Self::Stream(error),
            IdentityError::Log(error) => Self::Log(error),
        }
    }
}

impl RelayError {
    pub(super) fn of_changes(error: mongodb::error::Error) -> Self {
        if history_is_lost(&error) {
            Self::HistoryLost(error)
        } else {
            Self::Changes(error)
        }
    }

    pub(super) fn of_publish(error: jetstream::context::PublishError) -> Self {
        if error.kind() == PublishErrorKind::WrongLastSequence {
            Self::Refused(error)
        } else {
            Self::Publish(error)
        }
    }

    /// Whether it might not be if another process tried: it is the broker's, or the stream is not
    /// for this process, which may be set to another database than the others.
    pub(super) fn is_to_be_left_to_others(&self) -> bool {
        match self {
            Self::Stream(_)
            | Self::NotConnected
            | Self::ConnectionChanged
            | Self::Send(_)
            | Self::Publish(_)
            | Self::Unanswered
            | Self::Consumer(_)
            | Self::Stretch(_)
            | Self::Delivery(_)
            | Self::Unread { .. } => true,
            Self::Refused(_)
            | Self::Elsewhere { .. }
            | Self::HistoryLost(_)
            | Self::LogReplaced
            | Self::Changes(_)
            | Self::Log(_)
            | Self::Token(_)
            | Self::ReaderGone
            | Self::FailPoint(_) => false,
        }
    }

    /// Whether the stream could be read, and would not be written.
    pub(super) fn is_in_publishing(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Publish(_) | Self::Unanswered)
    }

    /// Whether the stream was there and answered that our place is taken.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Elsewhere { .. })
    }
}
