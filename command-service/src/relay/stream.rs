//! The stream as the relay meets it: its tail, the fence at its end, and all ids on it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{
    HeaderValue, NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SEQUENCE,
};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures_util::StreamExt;
use shared::engines::Nats;
use shared::event_stream::{self, ChainHash};
use tokio::time::Instant;
use tracing::info;

use super::message::{Marked, Message, Resume};
use super::{FailPoint, PROGRESS, RelayError, Settings};

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
}

/// One attempt's hold on the stream. It owns its JetStream context, because acknowledgements that
/// were given up keep permits of theirs for half a minute.
pub struct Publisher {
    stream: Stream,
    jetstream: jetstream::Context,
    patience: Duration,
    pub tail: Tail,
}

impl Publisher {
    /// Makes sure of the stream and reads its tail from the leader.
    pub async fn attach(nats: &Nats, settings: &Settings) -> Result<Self, RelayError> {
        let mut jetstream = nats.jetstream();
        jetstream.set_timeout(settings.patience);
        let stream = event_stream::ensure(&jetstream, &settings.names, settings.replicas).await?;
        let tail = read_tail(&stream, stream.cached_info().state.last_sequence).await?;
        Ok(Self {
            stream,
            jetstream,
            patience: settings.patience,
            tail,
        })
    }

    /// Publishes `batch` right behind the tail, whole or not at all, and moves the tail on.
    ///
    /// An error says nothing about whether the stream has it; only a new look at the tail does.
    /// May be dropped at any point, for the same reason.
    pub async fn publish(
        &mut self,
        batch: Vec<(Message, String)>,
        fail: &FailPoint,
    ) -> Result<(), RelayError> {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let (expected, mut chain) = (self.tail.last + count, self.tail.chain);
        let batch_id = (count > 1).then(|| format!("{:016x}", rand::random::<u64>()));
        let mut last = None;
        for (place, (mut message, resume)) in (1_u64..).zip(batch) {
            chain = chain.then(message.id);
            message.seal(&resume, chain);
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
        fail.reached(super::Point::BatchStored)?;
        if stored.duplicate || stored.sequence != expected {
            return Err(RelayError::Elsewhere {
                expected,
                sequence: stored.sequence,
            });
        }
        (self.tail.last, self.tail.chain) = (expected, chain);
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

/// Finds the relay's own last message: the newest that continues the chain of an older one.
///
/// Messages of others are stepped over, also those with headers like ours.
async fn read_tail(stream: &Stream, last: u64) -> Result<Tail, RelayError> {
    // Newest first. Of two real messages the newer is found out first: what it continues is the
    // older one, or lies after it.
    let mut seen: Vec<Marked> = Vec::new();
    let found = |seen: &[Marked], chain| seen.iter().find(|marked| marked.follows(chain)).cloned();
    let mut sequence = last;
    let own = loop {
        if sequence == 0 {
            break found(&seen, ChainHash::START);
        }
        let marked = match stream.get_raw_message(sequence).await {
            Ok(message) => Marked::read(Some(&message.headers)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => None,
            Err(error) => return Err(RelayError::Tail(sequence, error)),
        };
        if let Some(marked) = marked {
            if let Some(own) = found(&seen, marked.chain) {
                break Some(own);
            }
            seen.push(marked);
        }
        sequence -= 1;
    };
    Ok(match own {
        Some(own) => Tail {
            last,
            chain: own.chain,
            resume: Resume::read(&own.resume),
        },
        None => Tail {
            last,
            chain: ChainHash::START,
            resume: Resume::Scan("the stream has no message of the relay's"),
        },
    })
}
