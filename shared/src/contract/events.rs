//! The event contract: what the log holds and the stream carries.
//!
//! Past tense, versioned, read exhaustively. A reader matches every variant of [`Payload`], so
//! that a new event breaks each match that forgot it. Events of every schema ever sent have a
//! golden file in `shared/golden/` that must stay readable.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::contract::ids::{EntryId, EventId, PostId, UserId};
use crate::contract::time::Timestamp;

/// The schema this build writes. A reader that knows only an earlier one must not read it: it
/// counts what may change the meaning of an event. What every reader of a schema can read
/// although it changed is counted by [`Payload::revision`].
pub const SCHEMA: u16 = 1;

/// The consistency boundary an event belongs to: a few events, decided one after another.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum LogStream {
    User(UserId),
    Post(PostId),
    Follow { follower: UserId, followee: UserId },
    Like { user: UserId, post: PostId },
    Repost { user: UserId, post: PostId },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the name of a log stream")]
pub struct InvalidLogStream;

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Post(post) => write!(f, "post:{post}"),
            Self::Follow { follower, followee } => write!(f, "follow:{follower}:{followee}"),
            Self::Like { user, post } => write!(f, "like:{user}:{post}"),
            Self::Repost { user, post } => write!(f, "repost:{user}:{post}"),
        }
    }
}

impl FromStr for LogStream {
    type Err = InvalidLogStream;

    fn from_str(text: &str) -> Result<Self, InvalidLogStream> {
        fn id<K>(text: &str) -> Result<crate::contract::ids::Id<K>, InvalidLogStream> {
            text.parse().map_err(|_| InvalidLogStream)
        }
        let mut parts = text.split(':');
        let (kind, first, second) = (parts.next(), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(InvalidLogStream);
        }
        match (kind, first, second) {
            (Some("user"), Some(user), None) => Ok(Self::User(id(user)?)),
            (Some("post"), Some(post), None) => Ok(Self::Post(id(post)?)),
            (Some("follow"), Some(follower), Some(followee)) => Ok(Self::Follow {
                follower: id(follower)?,
                followee: id(followee)?,
            }),
            (Some("like"), Some(user), Some(post)) => Ok(Self::Like {
                user: id(user)?,
                post: id(post)?,
            }),
            (Some("repost"), Some(user), Some(post)) => Ok(Self::Repost {
                user: id(user)?,
                post: id(post)?,
            }),
            _ => Err(InvalidLogStream),
        }
    }
}

impl Serialize for LogStream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogStream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One fact, as the stream carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: EventId,
    pub stream: LogStream,
    /// Counts the events of `stream` from 1, without gaps.
    pub version: i64,
    /// Who acted; for operator events the subject.
    pub actor: UserId,
    pub at: Timestamp,
    pub payload: Payload,
}

/// A post and who wrote it: what routes an event to its reader's partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PostRef {
    pub post: PostId,
    pub author: UserId,
}

/// Revision 2. The first one carried the user's e-mail address, which no reader needs and the
/// stream could never forget: it is not even read any more, so that an old event is published
/// without it. The address is with the account ([`crate::contract::accounts`]).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct UserRegistered {
    pub username: String,
    #[serde(default, skip_deserializing)]
    pub email: NoAddress,
    pub display_name: String,
    pub bio: String,
}

/// Written as an empty text, for readers of revision 1, to whom a text that is missing makes an
/// event unreadable.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NoAddress;

impl Serialize for NoAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

/// The whole new profile, so that one event is enough to know it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ProfileEdited {
    pub display_name: String,
    pub bio: String,
}

/// For facts whose stream and actor say it all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct NoData {}

/// The post's id is the event's, its author the actor.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PostCreated {
    pub content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<PostRef>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PostDeleted {
    pub post: PostId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<PostRef>,
}

/// Both ends of an edge. The actor may be the followee: a deactivated user's edges end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    pub follower: UserId,
    pub followee: UserId,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Unreposted {
    pub post: PostId,
    pub author: UserId,
    /// The entry that the withdrawn repost made.
    pub entry: EntryId,
}

macro_rules! payloads {
    ($($kind:literal => $variant:ident($data:ty)),* $(,)?) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Payload { $($variant($data)),* }

        impl Payload {
            /// Every kind of event, as named in the log and on the stream.
            pub const KINDS: &[&str] = &[$($kind),*];

            /// `<aggregate>.<past participle>`.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind),* }
            }

            /// Reads the JSON data of an event of this kind; `None` for an unknown kind.
            pub fn from_json(kind: &str, data: &str) -> Option<serde_json::Result<Self>> {
                match kind {
                    $($kind => Some(serde_json::from_str(data).map(Self::$variant)),)*
                    _ => None,
                }
            }

            /// Reads the BSON data of an event of this kind; `None` for an unknown kind.
            pub fn from_bson(kind: &str, data: &[u8]) -> Option<bson::error::Result<Self>> {
                match kind {
                    $($kind => Some(bson::deserialize_from_slice(data).map(Self::$variant)),)*
                    _ => None,
                }
            }
        }

        /// Writes the data alone; its kind stands beside it.
        impl Serialize for Payload {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$variant(data) => data.serialize(serializer)),* }
            }
        }
    };
}

payloads! {
    "user.registered" => UserRegistered(UserRegistered),
    "user.profile_edited" => ProfileEdited(ProfileEdited),
    "user.deactivated" => UserDeactivated(NoData),
    "user.verified" => UserVerified(NoData),
    "user.suspended" => UserSuspended(NoData),
    "user.unsuspended" => UserUnsuspended(NoData),
    "post.created" => PostCreated(PostCreated),
    "post.deleted" => PostDeleted(PostDeleted),
    "follow.followed" => Followed(Edge),
    "follow.unfollowed" => Unfollowed(Edge),
    "like.liked" => Liked(PostRef),
    "like.unliked" => Unliked(PostRef),
    "repost.reposted" => Reposted(PostRef),
    "repost.unreposted" => Unreposted(Unreposted),
}

/// Of events that have had one form within their schema; it is not written.
const FIRST_REVISION: u16 = 1;

impl Payload {
    /// Counts the forms that events of this kind have had within their schema. Whoever reads one
    /// form reads every other.
    pub fn revision(&self) -> u16 {
        if matches!(self, Self::UserRegistered(_)) {
            2
        } else {
            FIRST_REVISION
        }
    }
}

fn is_first(revision: &u16) -> bool {
    *revision == FIRST_REVISION
}

/// Why a message is not an event this build understands.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the body is not an event")]
    Malformed(#[from] serde_json::Error),
    #[error("schema {0} is newer than this build")]
    Schema(u16),
    #[error("the kind of event is unknown to this build")]
    Kind,
}

#[derive(Serialize)]
struct Encoded<'a> {
    schema: u16,
    #[serde(skip_serializing_if = "is_first")]
    revision: u16,
    id: EventId,
    stream: LogStream,
    version: i64,
    actor: UserId,
    at: Timestamp,
    r#type: &'static str,
    data: &'a Payload,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    schema: u16,
    id: EventId,
    stream: LogStream,
    version: i64,
    actor: UserId,
    at: Timestamp,
    #[serde(borrow)]
    r#type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    data: &'a serde_json::value::RawValue,
}

impl Event {
    /// The JSON body of the message on the stream.
    pub fn encode(&self) -> Vec<u8> {
        let body = Encoded {
            schema: SCHEMA,
            revision: self.payload.revision(),
            id: self.id,
            stream: self.stream,
            version: self.version,
            actor: self.actor,
            at: self.at,
            r#type: self.payload.kind(),
            data: &self.payload,
        };
        serde_json::to_vec(&body).expect("an event has only string keys and finite numbers")
    }

    /// Reads a message's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let envelope: Envelope<'_> = serde_json::from_slice(body)?;
        if envelope.schema > SCHEMA {
            return Err(DecodeError::Schema(envelope.schema));
        }
        let payload = Payload::from_json(&envelope.r#type, envelope.data.get())
            .ok_or(DecodeError::Kind)??;
        Ok(Self {
            id: envelope.id,
            stream: envelope.stream,
            version: envelope.version,
            actor: envelope.actor,
            at: envelope.at,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id<K>(n: i64) -> crate::contract::ids::Id<K> {
        crate::contract::ids::Id::new(n).unwrap()
    }

    fn samples() -> Vec<Payload> {
        let post = PostRef {
            post: id(7),
            author: id(3),
        };
        let edge = Edge {
            follower: id(1),
            followee: id(2),
        };
        vec![
            Payload::UserRegistered(UserRegistered {
                username: "ada".into(),
                email: NoAddress,
                display_name: "Ada".into(),
                bio: String::new(),
            }),
            Payload::ProfileEdited(ProfileEdited {
                display_name: "Ada L.".into(),
                bio: "engines".into(),
            }),
            Payload::UserDeactivated(NoData {}),
            Payload::UserVerified(NoData {}),
            Payload::UserSuspended(NoData {}),
            Payload::UserUnsuspended(NoData {}),
            Payload::PostCreated(PostCreated {
                content: "hello \"world\" \u{1F980}".into(),
                reply_to: Some(post),
            }),
            Payload::PostDeleted(PostDeleted {
                post: id(7),
                reply_to: None,
            }),
            Payload::Followed(edge),
            Payload::Unfollowed(edge),
            Payload::Liked(post),
            Payload::Unliked(post),
            Payload::Reposted(post),
            Payload::Unreposted(Unreposted {
                post: id(7),
                author: id(3),
                entry: id(9),
            }),
        ]
    }

    #[test]
    fn every_kind_of_event_round_trips() {
        let samples = samples();
        assert_eq!(
            samples.iter().map(Payload::kind).collect::<Vec<_>>(),
            Payload::KINDS
        );
        for payload in samples {
            let event = Event {
                id: id(11),
                stream: LogStream::User(id(1)),
                version: 1,
                actor: id(1),
                at: Timestamp::from_millis(1_700_000_000_123),
                payload,
            };
            assert_eq!(Event::decode(&event.encode()).unwrap(), event);
        }
    }

    #[test]
    fn the_golden_events_of_schema_1_still_read() {
        let golden = include_str!("../../golden/events.v1.ndjson");
        let kinds: Vec<_> = golden
            .lines()
            .map(|line| Event::decode(line.as_bytes()).unwrap().payload.kind())
            .collect();
        assert_eq!(kinds, Payload::KINDS);
    }

    const REGISTERED_V1: &str = include_str!("../../golden/events.v1.ndjson");
    const REGISTERED_V2: &str = include_str!("../../golden/events.v2.ndjson");

    #[test]
    fn both_forms_of_a_registration_read_alike_and_neither_is_written_with_an_address() {
        let v1 = REGISTERED_V1.lines().next().unwrap();
        assert!(v1.contains("ada@example.com"), "{v1}");
        let read = Event::decode(v1.as_bytes()).unwrap();
        assert_eq!(Event::decode(REGISTERED_V2.as_bytes()).unwrap(), read);
        let written = String::from_utf8(read.encode()).unwrap();
        assert_eq!(written, REGISTERED_V2.trim_end());
        let stored = bson::serialize_to_document(&read.payload).unwrap();
        assert_eq!(stored.get_str("email").unwrap(), "");
    }

    /// As a build of revision 1 reads it: while a new version is rolled out, its relay and its
    /// fold meet events of this one.
    #[test]
    fn a_reader_of_the_first_form_reads_the_second() {
        #[derive(Deserialize)]
        struct Before {
            username: String,
            email: String,
            display_name: String,
            bio: String,
        }
        let envelope: Envelope<'_> = serde_json::from_str(REGISTERED_V2.trim_end()).unwrap();
        assert!(envelope.schema <= 1);
        let read: Before = serde_json::from_str(envelope.data.get()).unwrap();
        let texts = [&read.username, &read.email, &read.display_name, &read.bio];
        assert_eq!(texts, ["ada", "", "Ada", ""]);
    }

    #[test]
    fn a_newer_schema_or_kind_is_refused_by_name() {
        let line = include_str!("../../golden/events.v1.ndjson")
            .lines()
            .next()
            .unwrap();
        let newer = line.replace("\"schema\":1", "\"schema\":2");
        assert!(matches!(
            Event::decode(newer.as_bytes()),
            Err(DecodeError::Schema(2))
        ));
        let unknown = line.replace("user.registered", "user.cloned");
        assert!(matches!(
            Event::decode(unknown.as_bytes()),
            Err(DecodeError::Kind)
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Event::decode(&bytes);
        }

        #[test]
        fn log_streams_round_trip(a in 1i64.., b in 1i64..) {
            for stream in [
                LogStream::User(id(a)), LogStream::Post(id(a)),
                LogStream::Follow { follower: id(a), followee: id(b) },
                LogStream::Like { user: id(a), post: id(b) },
                LogStream::Repost { user: id(a), post: id(b) },
            ] {
                prop_assert_eq!(stream.to_string().parse::<LogStream>().unwrap(), stream);
            }
        }
    }
}
