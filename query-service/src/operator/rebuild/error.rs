//! Why a rebuild ended without switching readers.

use shared::connections;

use super::readable_letters::DeadLetterError;
use crate::projection::stream_fault::StreamFault;
use crate::reads::unanswered::Unanswered;
use crate::views::error::ViewError;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error("work on the views")]
    Views(#[from] ViewError),
    #[error("work on the views")]
    Read(#[from] Unanswered),
    #[error("there are no views yet: start a query-service")]
    NoViews,
    #[error("there is no generation to go back to")]
    NothingBefore,
    #[error("somebody else switched or dropped the generation meanwhile")]
    Raced,
    #[error(transparent)]
    Stream(#[from] StreamFault),
    #[error("ask NATS for the stream's end")]
    Nats(#[source] async_nats::Error),
    #[error("interrupted: run it again to go on")]
    Interrupted,
    #[error("another `rebuild` is under way: wait for its end")]
    Busy,
    #[error("this `rebuild` stood still for so long that another may have begun: run it again")]
    TurnLost,
    #[error("the new generation was dropped by somebody else: run it again")]
    Dropped,
    #[error("look for messages that were not understood")]
    Letters(#[from] DeadLetterError),
    #[error(
        "{0} messages that this build understands were not understood by whoever folded the new generation with it; \
         readers stay with the old one. Stop each older query-service, and run it again"
    )]
    FoldedByOthers(usize),
    #[error(
        "{0} users see something else in the new generation; readers stay with the old one, unless you `rebuild --accept`"
    )]
    Differs(usize),
}
