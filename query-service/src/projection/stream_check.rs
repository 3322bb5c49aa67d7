//! Whether the stream holds the log that the views are of.
//!
//! A generation of views remembers the log it was folded from, from the first time that a stream
//! named one. From then on only a stream of that log is folded into it.
//!
//! New views know no log. Where the log's own database can be read, its identity is what
//! counts, and a stream that has events which the log lacks is refused as the relay refuses it.
//! Where it cannot (with `VIEWS_MONGODB_URI` alone, without the right to read it, or on a server
//! out of reach) new views take the stream's word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream;
use async_nats::jetstream::stream::Stream;
use shared::connections;
use shared::connections::log_identity::{Label, LogId, OwnLog, other_log};
use shared::contract::event_stream::{self, StreamError, StreamNames};
use shared::contract::stream_end::{self, StreamEnd};
use shared::runtime::error_chain::Chain;
use shared::runtime::mongo_errors::is_unauthorized;
use shared::runtime::settings::Settings;
use shared::web::ops::Readiness;
use tracing::{error, info, warn};

use super::stream_fault::StreamFault;
use crate::views::generation::Generation;

/// The condition of readiness.
pub const SAME_LOG: &str = "the stream holds this log";

/// Compares streams with the log of this deployment, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct StreamCheck {
    log: Option<OwnLog>,
    /// The log is on the views' server: where the one can be reached, so can the other.
    beside_views: bool,
    /// That the log cannot be read is told once.
    told: Arc<AtomicBool>,
}

impl StreamCheck {
    /// Compares with the log that `settings` name, if they do. It connects when it first asks.
    pub async fn of(settings: &Settings) -> Result<Self, connections::ConnectError> {
        const CONNECTIONS: u32 = 4;
        let beside_views = settings.views_mongodb_uri.is_none();
        let log = if beside_views || settings.mongodb_uri_is_set {
            let log = connections::open_log(settings, "query-service log", CONNECTIONS);
            Some(OwnLog::new(&log.await?))
        } else {
            None
        };
        Ok(Self {
            log,
            beside_views,
            told: Arc::default(),
        })
    }

    /// The identity of this deployment's log, as far as it is known: for a stream that is made.
    pub async fn own_id(&self) -> Option<LogId> {
        self.log.as_ref()?.id().await.ok().flatten()
    }

    /// Whether a failure to read the log says that this process is not meant to.
    fn is_out_of_reach(&self, error: &mongodb::error::Error) -> bool {
        let out = is_unauthorized(error) || !self.beside_views;
        if out && !self.told.swap(true, Ordering::Relaxed) {
            warn!(
                error = %Chain(error),
                "the log cannot be read here: whether the stream holds it is not compared, only which log the views were folded from"
            );
        }
        out
    }

    /// Makes sure that `stream` may be folded into `views`. Says which log it names, if any.
    pub async fn judge(
        &self,
        names: &StreamNames,
        views: &Generation,
        stream: &Stream,
        end: &StreamEnd,
    ) -> Result<Option<LogId>, StreamFault> {
        let label = Label::of(stream.cached_info(), end);
        if let Some(log) = &self.log {
            match compare(log, names, label, end).await {
                Err(StreamFault::Log(error)) if self.is_out_of_reach(&error) => (),
                compared => compared?,
            }
        }
        let bound = views.log().await.map_err(StreamFault::Views)?;
        if let Some(bound) = bound
            && let Some(theirs) = label.other_than(bound)
        {
            return Err(StreamFault::OtherViews {
                stream: names.stream(),
                theirs,
                bound,
            });
        }
        Ok(label.any())
    }

    /// Has `views` remember the log they are folded from.
    pub async fn bind(
        &self,
        names: &StreamNames,
        views: &Generation,
        log: LogId,
    ) -> Result<(), StreamFault> {
        let bound = views.bind_log(log).await;
        match bound.map_err(StreamFault::Views)? {
            bound if bound == log => Ok(()),
            bound => Err(StreamFault::OtherViews {
                stream: names.stream(),
                theirs: log,
                bound,
            }),
        }
    }
}

/// Refuses a stream of another log, or of a later state of this one.
async fn compare(
    log: &OwnLog,
    names: &StreamNames,
    label: Label,
    end: &StreamEnd,
) -> Result<(), StreamFault> {
    let ours = log.id().await?;
    match ours {
        Some(ours) => {
            if let Some(theirs) = label.other_than(ours) {
                return Err(other_log(names, theirs, ours).into());
            }
        }
        // The relay gives the log its identity before it names it on a stream.
        None => {
            if let Some(theirs) = label.any() {
                return Err(StreamFault::NoIdentity {
                    stream: names.stream(),
                    theirs,
                });
            }
        }
    }
    if let Some(event) = end.event
        && !log.has(event).await.map_err(StreamFault::Log)?
    {
        let stream = names.stream();
        let refusal = match label.any() {
            Some(_) => StreamError::LogIsOlder(stream, event),
            None => StreamError::UnknownEvents(stream, event),
        };
        return Err(refusal.into());
    }
    Ok(())
}

/// Tells readiness of the stream's log, and the operator once when it is refused and once when it
/// no longer is.
#[derive(Default)]
pub struct Teller {
    refused: Option<String>,
}

impl Teller {
    /// Looks at the stream for the views that readers are shown.
    pub async fn look(
        &mut self,
        check: &StreamCheck,
        names: &StreamNames,
        views: &Generation,
        stream: &Stream,
        readiness: &Readiness,
    ) {
        let last = stream.cached_info().state.last_sequence;
        let judged = match stream_end::read(stream, last).await {
            Ok(end) => check.judge(names, views, stream, &end).await,
            Err(error) => Err(error.into()),
        };
        match judged {
            Ok(_) => {
                readiness.set(SAME_LOG, Ok(()));
                if self.refused.take().is_some() {
                    info!("the stream holds this log: it is folded again");
                }
            }
            Err(fault) if fault.is_about_identity() => {
                let says = fault.to_string();
                if self.refused.as_ref() != Some(&says) {
                    if matches!(fault, StreamFault::NoIdentity { .. }) {
                        warn!("{says}");
                    } else {
                        error!("{says}");
                    }
                }
                readiness.set(SAME_LOG, Err(says.clone()));
                self.refused = Some(says);
            }
            // Out of reach: others say so.
            Err(_) => (),
        }
    }
}

/// The stream, made if it is missing, with its end.
pub async fn open(
    jetstream: &jetstream::Context,
    names: &StreamNames,
    replicas: usize,
    check: &StreamCheck,
) -> Result<(Stream, StreamEnd), StreamFault> {
    let own = check.own_id().await;
    let mut stream = event_stream::ensure(jetstream, names, replicas, own).await?;
    let info = stream.info().await;
    let last = info
        .map_err(|error| StreamFault::Broker(error.into()))?
        .state
        .last_sequence;
    let end = stream_end::read(&stream, last).await?;
    Ok((stream, end))
}
