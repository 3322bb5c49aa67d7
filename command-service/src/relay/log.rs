//! The log, as the relay reads it.

use std::time::Duration;

use bson::{Document, RawDocumentBuf};
use mongodb::{Collection, Database};
use shared::connections::log_identity::OwnLog;
use shared::contract::event_stream::StreamNames;

/// The log, as the relay reads it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) database: Database,
    pub(super) events: Collection<RawDocumentBuf>,
    pub(super) marks: Collection<Document>,
    pub(super) own: OwnLog,
    pub(super) names: StreamNames,
    pub(super) max_await: Duration,
}
