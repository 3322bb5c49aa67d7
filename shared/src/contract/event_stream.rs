//! The JetStream stream: its name, its settings, and what every message on it carries.
//!
//! The stream is the relay's own checkpoint and the source every view can be rebuilt from, so it
//! keeps everything: no limits, discard new, no delete, no purge. Both services check this.

use std::collections::HashMap;
use std::str::FromStr;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use xxhash_rust::xxh3::xxh3_128;

use crate::contract::events::Payload;
use crate::contract::log_id::LogId;

/// Names everything one deployment has on a broker; `microblog` unless set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamNames {
    prefix: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("1 to 32 of a-z, 0-9 and _")]
pub struct InvalidPrefix;

impl FromStr for StreamNames {
    type Err = InvalidPrefix;

    fn from_str(prefix: &str) -> Result<Self, InvalidPrefix> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if prefix.is_empty() || prefix.len() > 32 || !prefix.bytes().all(allowed) {
            return Err(InvalidPrefix);
        }
        Ok(Self {
            prefix: prefix.to_owned(),
        })
    }
}

impl StreamNames {
    /// The stream: `MICROBLOG`.
    pub fn stream(&self) -> String {
        self.prefix.to_uppercase()
    }

    /// All subjects of the stream: `microblog.events.>`.
    pub fn all_events(&self) -> String {
        format!("{}.events.>", self.prefix)
    }

    /// `microblog.events.<aggregate>.<type>`.
    pub fn event(&self, payload: &Payload) -> String {
        self.kind(payload.kind())
    }

    /// The same for events of this kind.
    pub fn kind(&self, kind: &str) -> String {
        format!("{}.events.{kind}", self.prefix)
    }

    /// The relay's own message, which carries a fresh resume token while the log is idle.
    pub fn tick(&self) -> String {
        format!("{}.events.relay.tick", self.prefix)
    }

    /// The subject of invalidation messages from the fold to read replicas, on core NATS.
    pub fn notices(&self) -> String {
        format!("{}.notices", self.prefix)
    }
}

/// The message's resume token: where its successor is read from. `scan:` means that a recovery
/// scan was under way: a relay that resumes here must scan again.
pub const RESUME_TOKEN: &str = "Microblog-Resume";
/// [`ChainHash`] up to and with this message, in hex.
pub const CHAIN: &str = "Microblog-Chain";
/// The log that a message comes from: see [`crate::connections::log_identity`].
pub const LOG: &str = "Microblog-Log";
/// On a tick: the id of the last event before it.
pub const LAST_EVENT: &str = "Microblog-Last-Event";
/// The log that a stream holds, in the stream's metadata.
pub const METADATA_LOG: &str = "microblog-log";
/// The id of the event, as `ce-id` of the CloudEvents NATS binding.
pub const EVENT_ID: &str = "ce-id";

/// A hash over the ids of all events up to a message: two readers with the same chain have read
/// the same past. Messages that are no events (ticks) count as id 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ChainHash(u128);

impl ChainHash {
    /// Before the first message.
    pub const START: Self = Self(0);

    #[must_use]
    pub fn then(self, event_id: i64) -> Self {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.0.to_be_bytes());
        bytes[16..].copy_from_slice(&event_id.to_be_bytes());
        Self(xxh3_128(&bytes))
    }

    pub fn to_hex(self) -> String {
        format!("{:032x}", self.0)
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        (text.len() == 32).then_some(())?;
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    /// The chain that a message says it ends; `None` if the relay did not write it.
    pub fn of(headers: Option<&HeaderMap>) -> Option<Self> {
        Self::from_hex(headers?.get(CHAIN)?.as_str())
    }
}

/// The event id a message says it carries: 0 for a tick, `None` if the relay did not write it.
pub fn event_id_of(headers: Option<&HeaderMap>) -> Option<i64> {
    headers?.get(EVENT_ID)?.as_str().parse().ok()
}

/// Why the stream cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("create the stream {0}")]
    Create(String, #[source] jetstream::context::CreateStreamError),
    #[error("look up the stream {0}")]
    Lookup(String, #[source] jetstream::context::GetStreamError),
    #[error("the stream {0} must keep everything, but its setting `{1}` is not as required")]
    Settings(String, &'static str),
    #[error("the stream {0} begins at sequence {1}: messages before it are gone")]
    Truncated(String, u64),
    #[error("read message {0} of the stream")]
    Read(u64, #[source] stream::RawMessageError),
    #[error("write the log's identity into the metadata of the stream {0}")]
    Label(String, #[source] jetstream::context::UpdateStreamError),
    #[error(
        "the stream {stream} holds another log ({theirs}; the log in MONGODB_URI is {ours}): give this deployment a NATS_PREFIX of its own, or in MONGODB_URI the database of that log; delete the stream only if that log is given up"
    )]
    OtherLog {
        stream: String,
        theirs: LogId,
        ours: LogId,
    },
    #[error(
        "the stream {0} is newer than the log in MONGODB_URI, which lacks event {1}: was the database restored from an older copy? Restore one that has the event; or give up what came since: delete the stream, then run `query-service rebuild --accept`"
    )]
    LogIsOlder(String, i64),
    #[error(
        "the stream {0} was written by an earlier version from another log than the one in MONGODB_URI, which lacks event {1}: give this deployment a NATS_PREFIX of its own, or in MONGODB_URI the database of that log; delete the stream only if that log is given up"
    )]
    UnknownEvents(String, i64),
    #[error(
        "the database in MONGODB_URI holds a part of a backup: a restore has not finished; run `command-service restore` again, with all services stopped"
    )]
    HalfRestored,
}

impl StreamError {
    /// Whether the stream was looked at and must not be used, rather than being out of reach:
    /// it takes an operator.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Settings(..)
            | Self::Truncated(..)
            | Self::OtherLog { .. }
            | Self::LogIsOlder(..)
            | Self::UnknownEvents(..)
            | Self::HalfRestored => true,
            Self::Create(..) | Self::Lookup(..) | Self::Read(..) | Self::Label(..) => false,
        }
    }

    /// Whether it is refused because of the log it holds.
    pub fn is_about_identity(&self) -> bool {
        match self {
            Self::OtherLog { .. }
            | Self::LogIsOlder(..)
            | Self::UnknownEvents(..)
            | Self::HalfRestored => true,
            Self::Settings(..)
            | Self::Truncated(..)
            | Self::Create(..)
            | Self::Lookup(..)
            | Self::Read(..)
            | Self::Label(..) => false,
        }
    }
}

/// What the metadata of a stream say of the log it holds.
pub fn metadata(log: Option<LogId>) -> HashMap<String, String> {
    let named = log.map(|log| (METADATA_LOG.to_owned(), log.to_string()));
    named.into_iter().collect()
}

/// The settings the stream is made with, and must have.
pub fn config(names: &StreamNames, replicas: usize) -> stream::Config {
    stream::Config {
        name: names.stream(),
        subjects: vec![names.all_events()],
        retention: stream::RetentionPolicy::Limits,
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        num_replicas: replicas,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..stream::Config::default()
    }
}

/// Makes the stream if it is missing, and checks that it keeps everything. Where `log` is known, a
/// new stream names it; whether an existing one does is for the caller to compare.
pub async fn ensure(
    jetstream: &jetstream::Context,
    names: &StreamNames,
    replicas: usize,
    log: Option<LogId>,
) -> Result<stream::Stream, StreamError> {
    let name = names.stream();
    // An existing stream is taken as it is; `check` says whether it will do.
    let wanted = stream::Config {
        metadata: metadata(log),
        ..config(names, replicas)
    };
    let stream = jetstream
        .get_or_create_stream(wanted)
        .await
        .map_err(|error| StreamError::Create(name, error))?;
    check(names, stream.cached_info())?;
    Ok(stream)
}

/// Checks that the stream keeps everything, from its first message on.
pub fn check(names: &StreamNames, info: &stream::Info) -> Result<(), StreamError> {
    let (name, config) = (names.stream(), &info.config);
    let required = [
        (
            "retention limits",
            config.retention == stream::RetentionPolicy::Limits,
        ),
        ("discard new", config.discard == stream::DiscardPolicy::New),
        ("max_msgs -1", config.max_messages <= 0),
        ("max_bytes -1", config.max_bytes <= 0),
        (
            "max_msgs_per_subject -1",
            config.max_messages_per_subject <= 0,
        ),
        ("max_age 0", config.max_age.is_zero()),
        ("deny_delete", config.deny_delete),
        ("deny_purge", config.deny_purge),
        ("allow_atomic", config.allow_atomic_publish),
        ("subjects", config.subjects.contains(&names.all_events())),
    ];
    if let Some((setting, _)) = required.iter().find(|(_, holds)| !holds) {
        return Err(StreamError::Settings(name, setting));
    }
    let state = &info.state;
    if state.messages > 0 && state.first_sequence != 1 {
        return Err(StreamError::Truncated(name, state.first_sequence));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_tells_two_pasts_apart() {
        let one = ChainHash::START.then(1).then(2);
        assert_eq!(ChainHash::from_hex(&one.to_hex()), Some(one));
        assert_ne!(one, ChainHash::START.then(2).then(1));
        assert_ne!(one, one.then(0));
    }

    #[test]
    fn a_prefix_names_the_stream() {
        assert!("Microblog".parse::<StreamNames>().is_err());
        let names: StreamNames = "microblog".parse().unwrap();
        assert_eq!(names.stream(), "MICROBLOG");
    }
}
