//! Causal 64-bit identifiers.
//!
//! An id is `unix_ms << 16 | sequence`: decimal strings in JSON, `i64` in BSON, eight bytes
//! big-endian in keys, so that keys sort by time. What an id names exists only at compile time.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering as Atomic};

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::time::{Clock, Timestamp};

/// An id that remembers what it names. Invariant: positive.
pub struct Id<K>(i64, PhantomData<fn() -> K>);

pub enum EventKind {}
pub enum EntryKind {}
pub enum PostKind {}
pub enum UserKind {}

/// One fact in the log.
pub type EventId = Id<EventKind>;
/// One line of a timeline: the id of the post, or of the repost event.
pub type EntryId = Id<EntryKind>;
/// A post; equal to the id of the event that created it.
pub type PostId = Id<PostKind>;
/// A user; equal to the id of the event that registered them.
pub type UserId = Id<UserKind>;

/// Bits below the millisecond.
pub const SEQUENCE_BITS: u32 = 16;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an id is a positive decimal number of at most 19 digits")]
pub struct InvalidId;

impl<K> Id<K> {
    /// The id with this number, if it can be one.
    pub fn new(value: i64) -> Option<Self> {
        (value > 0).then_some(Self(value, PhantomData))
    }

    pub fn get(self) -> i64 {
        self.0
    }

    /// Eight bytes that sort as the id does.
    pub fn to_key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The same number, naming something else: a post's id is its event's.
    pub fn cast<L>(self) -> Id<L> {
        Id(self.0, PhantomData)
    }

    /// When the id was made, as the maker's clock said.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> SEQUENCE_BITS)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K> FromStr for Id<K> {
    type Err = InvalidId;

    /// Reads the canonical form only: digits, no sign, no leading zero.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) || text.starts_with('0') {
            return Err(InvalidId);
        }
        text.parse().ok().and_then(Self::new).ok_or(InvalidId)
    }
}

impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor<K>(PhantomData<fn() -> K>);
        impl<K> Visitor<'_> for IdVisitor<K> {
            type Value = Id<K>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id: a positive decimal number in a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id<K>, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Id<K>, E> {
                Id::new(value).ok_or_else(|| E::custom(InvalidId))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(IdVisitor(PhantomData))
        } else {
            deserializer.deserialize_i64(IdVisitor(PhantomData))
        }
    }
}

/// Makes ids that never run backwards within this process.
///
/// `max(unix_ms << 16, own last + 1, every id the decision read + 1)`: an event sorts after all
/// that its decision has seen, whatever the clocks say. Ids that were read do not move the
/// process's own clock, so that one machine ahead of the others does not drag them along.
#[derive(Debug, Default)]
pub struct IdGenerator {
    last: AtomicI64,
}

impl IdGenerator {
    /// A new id above `read`, the greatest id the decision has seen (0 if none).
    pub fn next(&self, clock: &dyn Clock, read: i64) -> EventId {
        let wall = clock.now().millis() << SEQUENCE_BITS;
        let own = self
            .last
            .fetch_update(Atomic::Relaxed, Atomic::Relaxed, |last| {
                Some(wall.max(last + 1))
            })
            .map_or_else(|last| last, |last| wall.max(last + 1));
        Id(own.max(read + 1), PhantomData)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::FixedClock;
    use proptest::prelude::*;

    #[test]
    fn ids_never_run_backwards_and_sort_after_what_was_read() {
        let (ids, clock) = (IdGenerator::default(), FixedClock::at_millis(1_000));
        let first = ids.next(&clock, 0);
        let second = ids.next(&clock, 0);
        assert!(second > first);
        let ahead = first.get() + 1_000_000;
        assert_eq!(ids.next(&clock, ahead).get(), ahead + 1);
        // A read id does not move the process's own clock.
        assert_eq!(ids.next(&clock, 0).get(), second.get() + 2);
        clock.set_millis(10);
        assert!(ids.next(&clock, 0) > second);
    }

    proptest! {
        #[test]
        fn every_text_is_an_id_or_refused_and_round_trips(text in "\\PC{0,24}") {
            if let Ok(id) = text.parse::<PostId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn keys_sort_as_ids_do(a in 1i64.., b in 1i64..) {
            let (a, b) = (PostId::new(a).unwrap(), PostId::new(b).unwrap());
            prop_assert_eq!(a.cmp(&b), a.to_key().cmp(&b.to_key()));
            prop_assert_eq!(serde_json::from_str::<PostId>(&serde_json::to_string(&a).unwrap()).unwrap(), a);
        }
    }
}
