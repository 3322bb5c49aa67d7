//! The log against the stream: every event once, every log stream in version order, one chain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream::Stream};
use bson::{Document, doc};
use futures_util::{StreamExt, TryStreamExt};
use shared::contract::event_stream::{self, ChainHash};
use shared::contract::events::Event;

/// A message of the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    pub sequence: u64,
    /// Of the event, by the header `ce-id`; 0 for a tick, `None` if the relay did not write it.
    pub id: Option<i64>,
    /// The log stream and the version in it, by the body; `None` for a tick.
    pub place: Option<(String, i64)>,
    pub chain: Option<ChainHash>,
}

/// What is wrong between the log and the stream. All empty: nothing.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Audit {
    /// Events of the log.
    pub events: usize,
    /// In the log, not on the stream.
    pub missing: BTreeSet<i64>,
    /// On the stream more than once.
    pub doubled: BTreeSet<i64>,
    /// On the stream, not in the log; 0 stands for what is no event at all.
    pub foreign: BTreeSet<i64>,
    /// Sequences of messages that came before an earlier version of their log stream.
    pub out_of_order: Vec<u64>,
    /// Sequences of messages whose chain does not continue the one before.
    pub broken_chain: Vec<u64>,
}

impl Audit {
    /// Compares the ids of the log with all messages of the stream, in order.
    pub fn of(log: &BTreeSet<i64>, stream: &[Message]) -> Self {
        let mut audit = Self {
            events: log.len(),
            missing: log.clone(),
            ..Self::default()
        };
        let mut seen = BTreeSet::new();
        let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
        let mut chain = ChainHash::START;
        for message in stream {
            let Some(id) = message.id else {
                audit.foreign.insert(0);
                continue;
            };
            chain = chain.then(id);
            if message.chain != Some(chain) {
                audit.broken_chain.push(message.sequence);
                // One break is reported once.
                chain = message.chain.unwrap_or(chain);
            }
            if id == 0 {
                continue;
            }
            if !seen.insert(id) {
                audit.doubled.insert(id);
            }
            if !log.contains(&id) {
                audit.foreign.insert(id);
            }
            audit.missing.remove(&id);
            if let Some((name, version)) = &message.place {
                let last = versions.entry(name).or_default();
                if *version != *last + 1 {
                    audit.out_of_order.push(message.sequence);
                }
                *last = (*version).max(*last);
            }
        }
        audit
    }

    pub fn is_clean(&self) -> bool {
        *self
            == Self {
                events: self.events,
                ..Self::default()
            }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events: missing {}, doubled {}, foreign {}, out of order {}, chain broken {}",
            self.events,
            self.missing.len(),
            self.doubled.len(),
            self.foreign.len(),
            self.out_of_order.len(),
            self.broken_chain.len()
        )
    }
}

/// The ids of all events in the log.
pub async fn read_log(
    events: &mongodb::Collection<Document>,
) -> mongodb::error::Result<BTreeSet<i64>> {
    let found = events
        .find(doc! {})
        .projection(doc! { "_id": 1 })
        .batch_size(10_000)
        .await?;
    let ids =
        found.map(|row| row.map(|row| row.get_i64("_id").expect("an event's id is a number")));
    ids.try_collect().await
}

/// All messages that the stream holds now, in order.
pub async fn read_stream(stream: &Stream) -> Result<Vec<Message>, async_nats::Error> {
    let end = stream.get_info().await?.state.last_sequence;
    let mut messages = Vec::new();
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(10),
            memory_storage: true,
            ..pull::Config::default()
        })
        .await?;
    while messages.len() < usize::try_from(end)? {
        let before = messages.len();
        let mut some = consumer
            .batch()
            .max_messages(2_000)
            .expires(Duration::from_secs(5))
            .messages()
            .await?;
        while let Some(message) = some.next().await {
            let message = read_message(&message?)?;
            if message.sequence <= end {
                messages.push(message);
            }
        }
        // The stream deletes nothing, so that its messages are counted from 1 without gaps.
        if messages.len() == before {
            return Err(format!("{before} of {end} messages could be read").into());
        }
    }
    Ok(messages)
}

fn read_message(message: &jetstream::Message) -> Result<Message, async_nats::Error> {
    let headers = message.headers.as_ref();
    let id = event_stream::event_id_of(headers);
    let place = match id {
        None | Some(0) => None,
        Some(id) => {
            let event = Event::decode(&message.payload)?;
            assert_eq!(
                event.id.get(),
                id,
                "the header names another event than the body"
            );
            Some((event.stream.to_string(), event.version))
        }
    };
    let sequence = message.info()?.stream_sequence;
    Ok(Message {
        sequence,
        id,
        place,
        chain: ChainHash::of(headers),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(ids: &[i64]) -> Vec<Message> {
        let mut chain = ChainHash::START;
        let mut versions = BTreeMap::new();
        let message = |(sequence, &id): (u64, &i64)| {
            chain = chain.then(id);
            // Odd ids are of one log stream, even ones of another.
            let name = if id % 2 == 1 { "odd" } else { "even" };
            let version = versions.entry(name).or_insert(0);
            *version += 1;
            Message {
                sequence,
                id: Some(id),
                place: Some((name.to_owned(), *version)),
                chain: Some(chain),
            }
        };
        (1..).zip(ids).map(message).collect()
    }

    fn log(ids: &[i64]) -> BTreeSet<i64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn a_stream_with_every_event_once_is_clean() {
        let audit = Audit::of(&log(&[1, 2, 3]), &stream(&[2, 1, 3]));
        assert!(audit.is_clean(), "{audit}");
        // A tick is part of the chain and no event.
        let mut with_tick = stream(&[2, 0, 1]);
        with_tick[1].place = None;
        assert!(Audit::of(&log(&[1, 2]), &with_tick).is_clean());
    }

    #[test]
    fn a_lost_a_doubled_and_a_foreign_event_are_found() {
        let lost = Audit::of(&log(&[1, 2, 3]), &stream(&[1, 3]));
        assert_eq!((lost.missing.len(), lost.is_clean()), (1, false));
        let doubled = Audit::of(&log(&[1, 2]), &stream(&[1, 2, 1]));
        assert_eq!((doubled.doubled.len(), doubled.is_clean()), (1, false));
        let foreign = Audit::of(&log(&[1]), &stream(&[1, 2]));
        assert_eq!((foreign.foreign.len(), foreign.is_clean()), (1, false));
        let mut junk = stream(&[1]);
        junk.push(Message {
            sequence: 2,
            id: None,
            place: None,
            chain: None,
        });
        assert!(!Audit::of(&log(&[1]), &junk).is_clean());
    }

    #[test]
    fn versions_in_another_order_and_a_broken_chain_are_found() {
        let mut swapped = stream(&[1, 3]);
        let places: Vec<_> = swapped
            .iter()
            .map(|message| message.place.clone())
            .collect();
        (swapped[0].place, swapped[1].place) = (places[1].clone(), places[0].clone());
        assert_eq!(Audit::of(&log(&[1, 3]), &swapped).out_of_order, [1, 2]);
        let mut broken = stream(&[1, 2, 3]);
        broken.remove(1);
        assert_eq!(Audit::of(&log(&[1, 3]), &broken).broken_chain, [3]);
    }
}
