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
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::contract::time::{Clock, Timestamp};

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

/// How far an id may be ahead of the clock, in milliseconds: what is further ahead sorts above
/// everybody else's for too long, and takes along whatever is built on it.
pub const MAX_LEAD_MS: i64 = 1_000;
/// Ids are drawn from a range of this width, a quarter of a millisecond: of several processes
/// that find the same id taken, hardly two try the same one next.
const SPREAD: i64 = 1 << (SEQUENCE_BITS - 2);

/// What was read has an id too far ahead of the clock to be built upon.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("what this builds on is {} ms too far ahead of the clock", by.as_millis())]
pub struct TooFarAhead {
    /// After this long it is not any more.
    pub by: Duration,
}

/// Makes ids that do not run backwards within this process.
///
/// `max(unix_ms << 16 | sequence, own last + 1, every id the decision read + 1)`: an event sorts
/// after all that its decision has seen, whatever the clocks say. Ids that were read do not move
/// the process's own clock, so that one machine ahead of the others does not drag them along.
///
/// No id is more than [`MAX_LEAD_MS`] ahead of the clock. What is read from further ahead is not
/// built upon, and where the clock itself has been ahead and comes back, so do the ids: their
/// order within a log stream is that of what decisions read, and the log refuses an id twice.
#[derive(Debug, Default)]
pub struct IdGenerator {
    last: AtomicI64,
}

impl IdGenerator {
    /// A new id above `read`, the greatest id the decision has seen (0 if none).
    pub fn next(&self, clock: &dyn Clock, read: i64) -> Result<EventId, TooFarAhead> {
        let now = clock.now().millis() << SEQUENCE_BITS;
        let most = now + (MAX_LEAD_MS << SEQUENCE_BITS);
        let ahead = read + SPREAD - most;
        if ahead > 0 {
            let millis = u64::try_from((ahead >> SEQUENCE_BITS) + 1).unwrap_or(1);
            let by = Duration::from_millis(millis);
            return Err(TooFarAhead { by });
        }
        let drawn = rand::random_range(0..SPREAD);
        let following = |last: i64| {
            if last < most {
                (now + drawn).max(last + 1)
            } else {
                now + drawn
            }
        };
        let own = self
            .last
            .fetch_update(Atomic::Relaxed, Atomic::Relaxed, |last| {
                Some(following(last))
            })
            .map_or_else(|last| last, following);
        let id = if own > read { own } else { read + 1 + drawn };
        Ok(Id(id, PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;
    use crate::contract::time::FixedClock;
    use proptest::prelude::*;

    fn millis(id: i64) -> i64 {
        id >> SEQUENCE_BITS
    }

    #[test]
    fn ids_never_run_backwards_and_sort_after_what_was_read() {
        let (ids, clock) = (IdGenerator::default(), FixedClock::at_millis(10_000));
        let first = ids.next(&clock, 0).unwrap();
        let second = ids.next(&clock, 0).unwrap();
        assert!(second > first);
        let ahead = first.get() + (900 << SEQUENCE_BITS);
        let built = ids.next(&clock, ahead).unwrap().get();
        assert!(built > ahead && built <= ahead + SPREAD);
        // A read id does not move the process's own clock.
        let third = ids.next(&clock, 0).unwrap();
        assert!(third > second && millis(third.get()) == 10_000);
        // Set back by less than ids may lead, it goes on above its own.
        clock.set_millis(9_500);
        assert!(ids.next(&clock, 0).unwrap() > third);
    }

    #[test]
    fn ids_come_back_with_a_clock_that_was_ahead_and_nobody_builds_on_what_it_made() {
        let (ids, clock) = (IdGenerator::default(), FixedClock::at_millis(10_000));
        ids.next(&clock, 0).unwrap();
        clock.set_millis(610_000);
        let glitch = ids.next(&clock, 0).unwrap().get();
        assert_eq!(millis(glitch), 610_000);
        clock.set_millis(10_200);
        assert_eq!(millis(ids.next(&clock, 0).unwrap().get()), 10_200);
        let refused = ids.next(&clock, glitch).unwrap_err();
        let wait = i64::try_from(refused.by.as_millis()).unwrap();
        assert!((598_800..=598_805).contains(&wait), "{refused}");
        clock.set_millis(10_200 + wait);
        assert!(ids.next(&clock, glitch).unwrap().get() > glitch);
    }

    /// Many who act on one object at once, in several processes whose clocks differ by what
    /// readiness allows, against a log that takes an id once: each gets one in a few tries.
    #[test]
    fn after_a_collision_the_next_try_is_above_it_and_not_in_step_with_others() {
        const RIVALS: usize = 400;
        for behind in [10, 60, 300, 900] {
            let log = Mutex::new(HashSet::new());
            let post = IdGenerator::default()
                .next(&FixedClock::at_millis(100_000), 0)
                .unwrap();
            log.lock().unwrap().insert(post.get());
            let processes: Vec<(IdGenerator, FixedClock)> = (0..4)
                .map(|nth| {
                    let clock = FixedClock::at_millis(100_000 - behind + nth);
                    (IdGenerator::default(), clock)
                })
                .collect();
            let tries = AtomicI64::new(0);
            std::thread::scope(|scope| {
                for (ids, clock) in &processes {
                    let (log, tries) = (&log, &tries);
                    scope.spawn(move || {
                        for _ in 0..RIVALS / 4 {
                            let mut read = post.get();
                            let took = (1..).find(|_| {
                                let id = ids.next(clock, read).unwrap().get();
                                assert!(id > read, "above what was read and what was refused");
                                read = id;
                                log.lock().unwrap().insert(id)
                            });
                            tries.fetch_max(took.unwrap(), Atomic::Relaxed);
                        }
                    });
                }
            });
            let log = log.into_inner().unwrap();
            assert_eq!(log.len(), RIVALS + 1);
            assert!(tries.into_inner() <= 8, "{behind} ms behind");
            assert!(
                log.iter().all(|id| millis(*id) <= 100_001),
                "near the clock"
            );
        }
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
