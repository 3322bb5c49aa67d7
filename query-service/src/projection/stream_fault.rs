//! Why the stream cannot be read, and what is logged of it.

use shared::connections::log_identity::{IdentityError, LogId};
use shared::contract::event_stream;
use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use tracing::{debug, error, info, warn};

use crate::views::error::ViewError;

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamFault {
    #[error(
        "the stream ends at {last}, before the checkpoint {checkpoint}: waiting for the relay to publish the rest again"
    )]
    Shorter { last: u64, checkpoint: u64 },
    #[error(
        "the stream is not the one that was folded up to {at}: rebuild the views with `query-service rebuild`"
    )]
    Diverged { at: u64 },
    #[error("the broker cannot be read")]
    Broker(#[source] async_nats::Error),
    #[error(transparent)]
    Stream(#[from] event_stream::StreamError),
    #[error("the connection to the broker changed")]
    Disconnected,
    #[error("the stream names its log: the reader opens it again")]
    Named,
    #[error("read the log's identity")]
    Log(#[source] mongodb::error::Error),
    #[error("read which log the views are of")]
    Views(#[source] ViewError),
    #[error(
        "the stream {stream} holds the log {theirs}, and the log in MONGODB_URI has no identity yet: a command-service gives it one when it starts; if one runs, the stream is another deployment's: give this one a NATS_PREFIX of its own"
    )]
    NoIdentity { stream: String, theirs: LogId },
    #[error(
        "the views were folded from another log ({bound}) than the stream {stream} holds ({theirs}): give VIEWS_MONGODB_URI the views of that log, or fold new ones with `query-service rebuild --accept`"
    )]
    OtherViews {
        stream: String,
        theirs: LogId,
        bound: LogId,
    },
}

impl From<IdentityError> for StreamFault {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Stream(error) => Self::Stream(error),
            IdentityError::Log(error) => Self::Log(error),
        }
    }
}

impl StreamFault {
    /// Whether the stream was looked at, and holds another log than it should.
    pub fn is_about_identity(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_about_identity(),
            Self::NoIdentity { .. } | Self::OtherViews { .. } => true,
            Self::Shorter { .. }
            | Self::Diverged { .. }
            | Self::Broker(_)
            | Self::Disconnected
            | Self::Named
            | Self::Log(_)
            | Self::Views(_) => false,
        }
    }
}

/// What was told of a partition's stream, from one holding of the partition to the next.
#[derive(Debug, Default)]
pub struct Told {
    /// It has to be opened again.
    lost: Failing,
    unreadable: Failing,
    diverged: Failing,
}

impl Told {
    /// The stream is read.
    pub fn is_read(&self, partition: u16) {
        let ended = [&self.lost, &self.unreadable, &self.diverged].map(Failing::ends);
        if ended.contains(&true) {
            info!(partition, "partition {partition} reads the stream again");
        }
    }

    /// Whether it could not be read.
    pub fn is_on(&self) -> bool {
        self.unreadable.is_on() || self.diverged.is_on()
    }
}

/// Says what a fault means, once until the stream is read again.
pub fn report(partition: u16, fault: &StreamFault, told: &Told) {
    match fault {
        StreamFault::Disconnected | StreamFault::Named => {
            if told.lost.begins(fault) {
                info!(partition, "partition {partition} opens the stream again");
            }
        }
        StreamFault::Diverged { .. } => {
            if told.diverged.begins(fault) {
                error!(partition, "{fault}");
            }
        }
        // Said once, for all partitions, by who looks for readiness.
        refused if refused.is_about_identity() => debug!(partition, "{refused}"),
        StreamFault::Shorter { .. }
        | StreamFault::Broker(_)
        | StreamFault::Stream(_)
        | StreamFault::Log(_)
        | StreamFault::Views(_)
        | StreamFault::NoIdentity { .. }
        | StreamFault::OtherViews { .. } => {
            if told.unreadable.begins(fault) {
                warn!(partition, error = %Chain(fault), "partition {partition} cannot read the stream");
            }
        }
    }
}
