//! The ends of the stream: which messages are the relay's, and what the first and the last say.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};

use crate::contract::event_stream::{self, ChainHash, LAST_EVENT, LOG, RESUME_TOKEN, StreamError};
use crate::contract::log_id::LogId;

/// Messages looked at in search of an event: between two there are only ticks, one in minutes.
const MOST_TICKS: u64 = 2_000;

/// What a message's headers say, if they are such as the relay writes. Whether it *did* write
/// them, the chain tells: see [`Marked::follows`].
#[derive(Clone, Debug)]
pub struct Marked {
    /// The event's id; 0 for a tick.
    pub id: i64,
    pub chain: ChainHash,
    pub resume: String,
    /// The log it comes from; relays of earlier versions do not say.
    pub log: Option<LogId>,
    /// On a tick, the last event before it.
    pub last_event: Option<i64>,
}

impl Marked {
    pub fn read(headers: Option<&HeaderMap>) -> Option<Self> {
        let text = |name: &str| Some(headers?.get(name)?.as_str());
        Some(Self {
            id: event_stream::event_id_of(headers)?,
            chain: ChainHash::of(headers)?,
            resume: text(RESUME_TOKEN)?.to_owned(),
            log: text(LOG).and_then(|text| text.parse().ok()),
            last_event: text(LAST_EVENT).and_then(|text| text.parse().ok()),
        })
    }

    /// Whether it is the relay's next message after one that ended in `chain`. Nothing else fits
    /// by chance, so that another's message with headers like ours is still another's.
    pub fn follows(&self, chain: ChainHash) -> bool {
        self.chain == chain.then(self.id)
    }
}

/// The stream's end, as its leader tells it.
#[derive(Clone, Debug)]
pub struct StreamEnd {
    /// The last sequence, whoever wrote it.
    pub last: u64,
    /// The relay's own last message.
    pub own: Option<Marked>,
    /// The last event; `None` if there is none, or only ticks as far as was looked.
    pub event: Option<i64>,
}

/// Finds the relay's own last message: the newest that continues the chain of an older one.
///
/// Messages of others are stepped over, also those with headers like ours.
pub async fn read(stream: &Stream, last: u64) -> Result<StreamEnd, StreamError> {
    // Newest first. Of two real messages the newer is found out first: what it continues is the
    // older one, or lies after it.
    let mut seen: Vec<Marked> = Vec::new();
    let found = |seen: &[Marked], chain| seen.iter().find(|marked| marked.follows(chain)).cloned();
    let mut sequence = last;
    // The own message is known by its predecessor, which is where the search for an event begins.
    let mut before = None;
    let own = loop {
        if sequence == 0 {
            break found(&seen, ChainHash::START);
        }
        if let Some(marked) = message(stream, sequence).await? {
            if let Some(own) = found(&seen, marked.chain) {
                before = Some(marked);
                break Some(own);
            }
            seen.push(marked);
        }
        sequence -= 1;
    };
    let event = match &own {
        None => None,
        Some(own) if own.id != 0 => Some(own.id),
        Some(own) if own.last_event.is_some() => own.last_event,
        Some(_) => event_at_or_before(stream, before, sequence).await?,
    };
    Ok(StreamEnd { last, own, event })
}

/// The newest event at `marked`, which is at `sequence`, or before it.
async fn event_at_or_before(
    stream: &Stream,
    marked: Option<Marked>,
    sequence: u64,
) -> Result<Option<i64>, StreamError> {
    let Some(mut newer) = marked else {
        return Ok(None);
    };
    let until = sequence.saturating_sub(MOST_TICKS);
    let mut sequence = sequence;
    while newer.id == 0 {
        sequence = sequence.saturating_sub(1);
        if sequence <= until {
            return Ok(None);
        }
        if let Some(older) = message(stream, sequence).await?
            && newer.follows(older.chain)
        {
            newer = older;
        }
    }
    Ok(Some(newer.id))
}

/// The first event on the stream, if it is near its beginning.
pub async fn first_event(stream: &Stream, last: u64) -> Result<Option<i64>, StreamError> {
    let mut chain = ChainHash::START;
    for sequence in 1..=last.min(MOST_TICKS) {
        if let Some(marked) = message(stream, sequence).await?
            && marked.follows(chain)
        {
            if marked.id != 0 {
                return Ok(Some(marked.id));
            }
            chain = marked.chain;
        }
    }
    Ok(None)
}

async fn message(stream: &Stream, sequence: u64) -> Result<Option<Marked>, StreamError> {
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Marked::read(Some(&message.headers))),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(StreamError::Read(sequence, error)),
    }
}
