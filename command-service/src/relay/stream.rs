//! The stream as the relay meets it: its tail, the fence at its end, and all ids on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{
    HeaderValue, NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SEQUENCE,
};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, ErrorCode};
use futures_util::StreamExt;
use shared::connections::Nats;
use shared::connections::log_identity::{self, Label, LogId, OwnLog};
use shared::contract::event_stream::{self, ChainHash, StreamError, StreamNames};
use shared::contract::stream_end::{self, Marked, StreamEnd};
use shared::contract::time::{Clock, SystemClock};
use shared::runtime::error_chain::Chain;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::error::RelayError;
use super::fail_point::{FailPoint, FailPoints};
use super::message::{self, Message, Resume};
use super::settings::{PROGRESS, Settings};

/// A stretch of the stream read at once when all of it must be read.
const STRETCH: usize = 5_000;

/// The stream's end, as the leader told it or as an acknowledgement moved it on.
#[derive(Debug)]
pub struct Tail {
    /// The last sequence, whoever wrote it: what the next batch expects.
    pub last: u64,
    /// The chain up to the relay's own last message.
    pub chain: ChainHash,
    pub resume: Resume,
    /// The last event on the stream, if it is known.
    pub event: Option<i64>,
}

impl Tail {
    fn of(end: &StreamEnd) -> Self {
        let (chain, resume) = match &end.own {
            Some(own) => (own.chain, Resume::read(&own.resume)),
            None => {
                let why = "the stream has no message of the relay's";
                (ChainHash::START, Resume::Scan(why))
            }
        };
        Self {
            last: end.last,
            chain,
            resume,
            event: end.event,
        }
    }
}

/// One attempt's hold on the stream. It owns its JetStream context, because acknowledgements that
/// were given up keep permits of theirs for half a minute.
pub struct Publisher {
    stream: Stream,
    jetstream: jetstream::Context,
    patience: Duration,
    /// The log that messages say they come from; `None` where nobody knows for sure.
    log: Option<LogId>,
    pub tail: Tail,
}

/// What a process does to a stream once, not with each attempt.
#[derive(Debug, Default)]
pub struct Once {
    /// It was refused to label the stream.
    unlabelled: AtomicBool,
    /// It has called for a scan, and has not been able to use the stream since.
    scan_called_for: AtomicBool,
}

/// The broker's JetStream, with the patience that is set.
fn jetstream(nats: &Nats, settings: &Settings) -> jetstream::Context {
    let mut jetstream = nats.jetstream();
    jetstream.set_timeout(settings.patience);
    jetstream
}

/// What a relay that does not publish sees of the stream; `None` if there is no stream yet.
/// Changes nothing, and finds what [`Publisher::attach`] would.
pub async fn look(
    nats: &Nats,
    settings: &Settings,
    log: &OwnLog,
    tasks: &TaskTracker,
) -> Result<Option<StreamEnd>, RelayError> {
    let Some(stream) = find(&jetstream(nats, settings), settings).await? else {
        return Ok(None);
    };
    let asked = log.clone();
    let known = tasks.spawn(async move { asked.id().await }).await;
    let known = known.map_err(|_| RelayError::ReaderGone)??;
    event_stream::check(&settings.names, stream.cached_info())?;
    let end = stream_end::read(&stream, stream.cached_info().state.last_sequence).await?;
    judge(settings, log, known, tasks, &stream, &end).await?;
    Ok(Some(end))
}

/// The stream as it is; `None` if there is none.
async fn find(
    jetstream: &jetstream::Context,
    settings: &Settings,
) -> Result<Option<Stream>, StreamError> {
    let name = settings.names.stream();
    match jetstream.get_stream(&name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(said)
                if said.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::InvalidStreamName
            | GetStreamErrorKind::JetStream(_) => Err(StreamError::Lookup(name, error)),
        },
    }
}

/// The log's identity, if it is time to have one: a stream that is made then names its log from
/// the first moment. Where there is a stream already, it is looked at first.
async fn identity(
    jetstream: &jetstream::Context,
    settings: &Settings,
    log: &OwnLog,
    tasks: &TaskTracker,
) -> Result<Option<LogId>, RelayError> {
    let ask = |make: bool| {
        let log = log.clone();
        tasks.spawn(async move {
            if make {
                log.id_or(LogId::random()).await.map(Some)
            } else {
                log.id().await
            }
        })
    };
    let known = ask(false).await.map_err(|_| RelayError::ReaderGone)?;
    if let Some(known) = known? {
        return Ok(Some(known));
    }
    if find(jetstream, settings).await?.is_some() {
        return Ok(None);
    }
    let made = ask(true).await.map_err(|_| RelayError::ReaderGone)?;
    Ok(made?)
}

/// Makes sure that the stream holds the log, in a task of its own: it asks MongoDB.
async fn judge(
    settings: &Settings,
    log: &OwnLog,
    known: Option<LogId>,
    tasks: &TaskTracker,
    stream: &Stream,
    end: &StreamEnd,
) -> Result<LogId, RelayError> {
    let (log, names) = (log.clone(), settings.names.clone());
    let (stream, end) = (stream.clone(), end.clone());
    let judged = tasks.spawn(async move { log.judge(known, &names, &stream, &end).await });
    Ok(judged.await.map_err(|_| RelayError::ReaderGone)??)
}

impl Publisher {
    /// Makes sure of the stream, that it holds this log, and reads its tail from the leader.
    pub async fn attach(
        nats: &Nats,
        settings: &Settings,
        log: &OwnLog,
        tasks: &TaskTracker,
        once: &Once,
    ) -> Result<Self, RelayError> {
        let jetstream = jetstream(nats, settings);
        let names = &settings.names;
        let known = identity(&jetstream, settings, log, tasks).await?;
        let stream = event_stream::ensure(&jetstream, names, settings.replicas, known).await?;
        let end = stream_end::read(&stream, stream.cached_info().state.last_sequence).await?;
        let judged = judge(settings, log, known, tasks, &stream, &end).await;
        let mut publisher = Self {
            log: Label::of(stream.cached_info(), &end).any(),
            stream,
            jetstream,
            patience: settings.patience,
            tail: Tail::of(&end),
        };
        match judged {
            Ok(log) => {
                publisher.log = Some(log);
                once.scan_called_for.store(false, Ordering::Relaxed);
                publisher.label(names, log, once).await;
                Ok(publisher)
            }
            Err(error) => {
                if matches!(error, RelayError::Stream(StreamError::LogIsOlder(..)))
                    && !once.scan_called_for.load(Ordering::Relaxed)
                {
                    match publisher.call_for_scan(names).await {
                        Ok(()) => once.scan_called_for.store(true, Ordering::Relaxed),
                        Err(error) => warn!(
                            error = %Chain(&error),
                            "relay: could not note on the stream that a scan must come next",
                        ),
                    }
                }
                Err(error)
            }
        }
    }

    /// Names the log on the stream. Messages name it anyway, so that a user of the broker who may
    /// not change the stream may publish.
    async fn label(&self, names: &StreamNames, log: LogId, once: &Once) {
        if once.unlabelled.load(Ordering::Relaxed) {
            return;
        }
        let info = self.stream.cached_info();
        if let Err(error) = log_identity::label(&self.jetstream, names, info, log).await {
            once.unlabelled.store(true, Ordering::Relaxed);
            warn!(error = %Chain(&error), "relay: goes on without; each message names the log");
        }
    }

    /// Has the next relay that may use the stream begin with a scan, also after a restart: what is
    /// put back into an older log is no news to the stream, though the change stream says so.
    async fn call_for_scan(&mut self, names: &StreamNames) -> Result<(), RelayError> {
        let Resume::After(token) = &self.tail.resume else {
            return Ok(());
        };
        let token = message::write_token(token).map_err(RelayError::Token)?;
        let tick = Message::tick(names, SystemClock.now());
        let batch = vec![(tick, message::write_scan(&token))];
        self.publish(batch, &FailPoints::default()).await
    }

    /// Publishes `batch` right behind the tail, whole or not at all, and moves the tail on.
    ///
    /// An error says nothing about whether the stream has it; only a new look at the tail does.
    /// May be dropped at any point, for the same reason.
    pub async fn publish(
        &mut self,
        batch: Vec<(Message, String)>,
        fail: &FailPoints,
    ) -> Result<(), RelayError> {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let (expected, mut chain) = (self.tail.last + count, self.tail.chain);
        let mut event = self.tail.event;
        let batch_id = (count > 1).then(|| format!("{:016x}", rand::random::<u64>()));
        let mut last = None;
        for (place, (mut message, resume)) in (1_u64..).zip(batch) {
            chain = chain.then(message.id);
            message.seal(&resume, chain, self.log, event);
            event = Some(message.id).filter(|id| *id != 0).or(event);
            let headers = &mut message.headers;
            if place == 1 {
                headers.insert(
                    NATS_EXPECTED_LAST_SEQUENCE,
                    HeaderValue::from(self.tail.last),
                );
            }
            if let Some(batch_id) = &batch_id {
                headers.insert(NATS_BATCH_ID, batch_id.as_str());
                headers.insert(NATS_BATCH_SEQUENCE, HeaderValue::from(place));
            }
            if place < count {
                self.send(message).await?;
            } else {
                if batch_id.is_some() {
                    headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
                }
                last = Some(message);
            }
        }
        let Some(last) = last else { return Ok(()) };
        // The first await hands it over, the second is the stream's answer.
        let stored = self
            .jetstream
            .publish_with_headers(last.subject, last.headers, last.body)
            .await
            .map_err(RelayError::of_publish)?
            .await
            .map_err(RelayError::of_publish)?;
        fail.reached(FailPoint::BatchStored)?;
        if stored.duplicate || stored.sequence != expected {
            return Err(RelayError::Elsewhere {
                expected,
                sequence: stored.sequence,
            });
        }
        (self.tail.last, self.tail.chain) = (expected, chain);
        self.tail.event = event;
        Ok(())
    }

    /// One message of a batch but the last: the answer to the last stands for all.
    async fn send(&self, message: Message) -> Result<(), RelayError> {
        let client = self.jetstream.client();
        let sent = client.publish_with_headers(message.subject, message.headers, message.body);
        tokio::time::timeout(self.patience, sent)
            .await
            .map_err(|_| RelayError::Unanswered)?
            .map_err(RelayError::Send)
    }

    /// Calls `each` with the id of every event on the stream up to sequence `until`.
    ///
    /// Reads on its own: a pull consumer per stretch that begins after what was read, so that
    /// nothing depends on what a consumer remembers.
    pub async fn read_ids(&self, until: u64, mut each: impl FnMut(i64)) -> Result<(), RelayError> {
        let (mut read, mut chain) = (0, ChainHash::START);
        let (mut told, mut failures) = (Instant::now(), 0);
        while read < until {
            let before = read;
            let result = self
                .read_from(&mut read, until, |headers| {
                    let Some(marked) = Marked::read(headers) else {
                        return;
                    };
                    if marked.follows(chain) {
                        chain = marked.chain;
                        each(marked.id);
                    }
                    if told.elapsed() >= PROGRESS {
                        told = Instant::now();
                        info!("relay scan: reading what the stream has, up to {until}");
                    }
                })
                .await;
            failures = if read > before { 0 } else { failures + 1 };
            if failures >= 3 {
                return result.and(Err(RelayError::Unread { read, until }));
            }
        }
        Ok(())
    }

    async fn read_from(
        &self,
        read: &mut u64,
        until: u64,
        mut each: impl FnMut(Option<&HeaderMap>),
    ) -> Result<(), RelayError> {
        let consumer = self
            .stream
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: *read + 1,
                },
                ack_policy: AckPolicy::None,
                headers_only: true,
                inactive_threshold: Duration::from_secs(10),
                memory_storage: true,
                num_replicas: 1,
                ..pull::Config::default()
            })
            .await
            .map_err(RelayError::Consumer)?;
        // The consumer counts what it sends: one that got lost would look like one the stream
        // lacks, and be published twice.
        let mut received = 0;
        while *read < until {
            let before = *read;
            let mut stretch = consumer
                .batch()
                .max_messages(STRETCH)
                .expires(self.patience)
                .messages()
                .await
                .map_err(RelayError::Stretch)?;
            while *read < until {
                let Some(delivered) = stretch.next().await else {
                    break;
                };
                let delivered = delivered.map_err(RelayError::Delivery)?;
                let info = delivered.info().map_err(RelayError::Delivery)?;
                received += 1;
                if info.consumer_sequence != received || info.stream_sequence <= *read {
                    return Err(RelayError::Unread { read: *read, until });
                }
                *read = info.stream_sequence;
                each(delivered.message.headers.as_ref());
            }
            if *read == before {
                return Err(RelayError::Unread { read: *read, until });
            }
        }
        Ok(())
    }
}
