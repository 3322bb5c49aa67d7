//! Reads the stream for one partition, and owns its position.
//!
//! Nothing is acknowledged: the checkpoint in the views says where to go on. Only the next
//! sequence that extends the chain is handed on; whatever was seen before is dropped, and a gap,
//! an error or a lost connection reopens at the position.

use std::pin::Pin;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt;
use shared::connections::Nats;
use shared::connections::log_identity::{LogId, other_log};
use shared::contract::event_stream::{self, ChainHash, LOG, StreamNames};
use shared::contract::events::{DecodeError, Event};
use shared::contract::trace_parent::{TRACEPARENT, TraceParent};
use shared::runtime::tasks::Tasks;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

use super::settings::FoldSettings;
use super::stream_check::{self, StreamCheck};
use super::stream_fault::StreamFault;
use crate::views::generation::Generation;

/// Messages in one batch of the fold.
pub const BATCH: usize = 500;
/// How long a batch waits for more after its first message.
const LINGER: Duration = Duration::from_millis(2);

/// One message of the stream, as far as it is understood.
#[derive(Debug)]
pub struct Message {
    pub seq: u64,
    /// The chain up to and with this message.
    pub chain: ChainHash,
    pub subject: String,
    /// Of its publication, or of what it is about.
    pub trace: Option<TraceParent>,
    pub content: Content,
}

impl Message {
    pub fn event(&self) -> Option<&Event> {
        match &self.content {
            Content::Event(event) => Some(event),
            Content::Tick | Content::Foreign | Content::Unreadable(_) => None,
        }
    }

    /// The event's id; 0 for what is no event.
    pub fn event_id(&self) -> i64 {
        match &self.content {
            Content::Event(event) => event.id.get(),
            Content::Tick | Content::Foreign | Content::Unreadable(_) => 0,
        }
    }
}

#[derive(Debug)]
pub enum Content {
    Event(Box<Event>),
    /// The relay's own, for its position.
    Tick,
    /// Not from the relay: no part of the chain.
    Foreign,
    Unreadable(DecodeError),
}

fn trace_of(headers: Option<&HeaderMap>) -> Option<TraceParent> {
    headers?.get(TRACEPARENT)?.as_str().parse().ok()
}

/// Where a partition reads from.
pub struct StreamReader {
    nats: Nats,
    names: StreamNames,
    replicas: usize,
    views: Generation,
    check: StreamCheck,
    tasks: Tasks,
    last: u64,
    chain: ChainHash,
    /// The log that the stream named when it was opened.
    log: Option<LogId>,
    open: Option<OpenStream>,
}

/// The consumer, and what says that the connection it was opened on has changed: armed before the
/// consumer was made, so that a change is noticed also while nothing is read.
struct OpenStream {
    messages: pull::Stream,
    changed: Pin<Box<OwnedNotified>>,
}

impl StreamReader {
    /// A reader for `views` that goes on after `last`, the end of `chain`.
    pub fn new(
        nats: Nats,
        settings: &FoldSettings,
        views: Generation,
        last: u64,
        chain: ChainHash,
    ) -> Self {
        Self {
            nats,
            names: settings.names.clone(),
            replicas: settings.stream_replicas,
            views,
            check: settings.check.clone(),
            tasks: settings.tasks.clone(),
            last,
            chain,
            log: None,
            open: None,
        }
    }

    /// The next messages, in order: up to [`BATCH`], none if nothing comes until `deadline`.
    ///
    /// An error leaves the reader where it was; the next call opens the stream again.
    pub async fn next_batch(&mut self, deadline: Instant) -> Result<Vec<Message>, StreamFault> {
        let outcome = self.read(deadline).await;
        if outcome.is_err() {
            self.open = None;
        }
        outcome
    }

    async fn read(&mut self, deadline: Instant) -> Result<Vec<Message>, StreamFault> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open().await?,
        };
        let mut batch = Vec::new();
        let mut until = deadline;
        while batch.len() < BATCH {
            let next = tokio::select! {
                biased;
                () = &mut open.changed => return self.keep(batch, StreamFault::Disconnected),
                next = timeout_at(until, open.messages.next()) => next,
            };
            let message = match next {
                Err(_elapsed) => break,
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return self.keep(batch, StreamFault::Broker(error.into())),
                Ok(None) => return self.keep(batch, StreamFault::Disconnected),
            };
            let seq = match message.info() {
                Ok(info) => info.stream_sequence,
                Err(error) => return self.keep(batch, StreamFault::Broker(error)),
            };
            if seq <= self.last {
                continue;
            }
            if seq > self.last + 1 {
                return self.keep(batch, StreamFault::Disconnected);
            }
            match self.understand(seq, &message) {
                Ok(message) => {
                    (self.last, self.chain) = (seq, message.chain);
                    batch.push(message);
                }
                Err(fault) => return self.keep(batch, fault),
            }
            until = deadline.min(Instant::now() + LINGER);
        }
        self.open = Some(open);
        Ok(batch)
    }

    /// What was read before a fault is handed on; the fault comes again if it lasts.
    fn keep(&self, batch: Vec<Message>, fault: StreamFault) -> Result<Vec<Message>, StreamFault> {
        if batch.is_empty() {
            Err(fault)
        } else {
            Ok(batch)
        }
    }

    fn understand(&self, seq: u64, message: &jetstream::Message) -> Result<Message, StreamFault> {
        let headers = message.headers.as_ref();
        let subject = message.subject.to_string();
        let (Some(said), Some(id)) = (ChainHash::of(headers), event_stream::event_id_of(headers))
        else {
            return Ok(Message {
                seq,
                chain: self.chain,
                subject,
                trace: None,
                content: Content::Foreign,
            });
        };
        self.check_log(headers)?;
        let chain = self.chain.then(id);
        if said != chain {
            return Err(StreamFault::Diverged { at: self.last });
        }
        let content = match id {
            0 => Content::Tick,
            _ => Event::decode(&message.payload)
                .map_or_else(Content::Unreadable, |event| Content::Event(Box::new(event))),
        };
        Ok(Message {
            seq,
            chain,
            subject,
            trace: trace_of(headers),
            content,
        })
    }

    /// A message that names its log must name the one that the stream has named. Relays of earlier
    /// versions name none.
    fn check_log(&self, headers: Option<&HeaderMap>) -> Result<(), StreamFault> {
        let named = headers.and_then(|headers| headers.get(LOG));
        match (named.and_then(|log| log.as_str().parse().ok()), self.log) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(StreamFault::Named),
            (Some(named), Some(log)) if named == log => Ok(()),
            (Some(named), Some(log)) => Err(other_log(&self.names, named, log).into()),
        }
    }

    /// Checks that the stream continues what was folded, and reads on from there.
    async fn open(&mut self) -> Result<OpenStream, StreamFault> {
        let mut changed = Box::pin(self.nats.changed().notified_owned());
        changed.as_mut().enable();
        let mut jetstream = self.nats.jetstream();
        jetstream.set_timeout(Duration::from_secs(5));
        // Whoever waits here may be gone before the database has answered: it is asked in tasks.
        let (check, names) = (self.check.clone(), self.names.clone());
        let (views, replicas) = (self.views.clone(), self.replicas);
        let opening = self.tasks.run(async move {
            let (stream, end) = stream_check::open(&jetstream, &names, replicas, &check).await?;
            let log = check.judge(&names, &views, &stream, &end).await?;
            Ok::<_, StreamFault>((stream, end.last, log))
        });
        let (stream, last, log) = opening.await.map_err(|_| StreamFault::Disconnected)??;
        self.log = log;
        if last < self.last {
            return Err(StreamFault::Shorter {
                last,
                checkpoint: self.last,
            });
        }
        self.check_past(&stream).await?;
        if let Some(log) = self.log {
            let (check, names) = (self.check.clone(), self.names.clone());
            let views = self.views.clone();
            let bind = async move { check.bind(&names, &views, log).await };
            let binding = self.tasks.run(bind);
            binding.await.map_err(|_| StreamFault::Disconnected)??;
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: self.last + 1,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(|error| StreamFault::Broker(error.into()))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(Duration::from_secs(20))
            .heartbeat(Duration::from_secs(3))
            .messages()
            .await
            .map_err(|error| StreamFault::Broker(error.into()))?;
        Ok(OpenStream { messages, changed })
    }

    /// The message at the checkpoint, or the nearest of the relay's before it, ends our chain.
    async fn check_past(&self, stream: &stream::Stream) -> Result<(), StreamFault> {
        let mut at = self.last;
        while at > 0 {
            let message = stream
                .get_raw_message(at)
                .await
                .map_err(|error| StreamFault::Broker(error.into()))?;
            if let Some(chain) = ChainHash::of(Some(&message.headers)) {
                return if chain == self.chain {
                    Ok(())
                } else {
                    Err(StreamFault::Diverged { at: self.last })
                };
            }
            at -= 1;
        }
        if self.chain == ChainHash::START {
            Ok(())
        } else {
            Err(StreamFault::Diverged { at: self.last })
        }
    }
}
