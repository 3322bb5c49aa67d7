//! Keys of view rows: ids big-endian, one after the other, so that a prefix is a range.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson};
use shared::contract::ids::Id;
use shared::contract::partition::Partition;
use shared::contract::time::{Clock, SystemClock};

/// The `_id` of a view row.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Key {
    Number(i64),
    Bytes(Vec<u8>),
}

impl Key {
    pub fn id<K>(id: Id<K>) -> Self {
        Self::Number(id.get())
    }

    /// `first ‖ second`, 16 bytes.
    pub fn pair<A, B>(first: Id<A>, second: Id<B>) -> Self {
        Self::Bytes(pair(first, second).bytes)
    }

    /// `user ‖ partition`, 10 bytes.
    pub fn user_in<K>(user: Id<K>, partition: Partition) -> Self {
        Self::Bytes(list_in(user, partition))
    }

    /// `followee ‖ partition ‖ follower`, 18 bytes.
    pub fn follower<A, B>(followee: Id<A>, partition: Partition, follower: Id<B>) -> Self {
        let mut bytes = list_in(followee, partition);
        bytes.extend(follower.to_key());
        Self::Bytes(bytes)
    }

    /// `partition ‖ user`, 10 bytes: all users of a partition in one range.
    pub fn in_partition<K>(partition: Partition, user: Id<K>) -> Self {
        Self::Bytes(in_partition(partition, user).bytes)
    }

    pub fn bson(&self) -> Bson {
        match self {
            Self::Number(number) => Bson::Int64(*number),
            Self::Bytes(bytes) => binary(bytes.clone()),
        }
    }
}

/// The prefix of what one partition keeps in a user's list.
pub fn list_in<K>(user: Id<K>, partition: Partition) -> Vec<u8> {
    [&user.to_key()[..], &partition.0.to_be_bytes()].concat()
}

pub fn binary(bytes: Vec<u8>) -> Bson {
    Bson::Binary(generic(bytes))
}

fn generic(bytes: Vec<u8>) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes,
    }
}

/// The key `first ‖ second` as a row has it.
pub fn pair<A, B>(first: Id<A>, second: Id<B>) -> Binary {
    generic([first.to_key(), second.to_key()].concat())
}

/// The key `partition ‖ id` as a row has it.
pub fn in_partition<K>(partition: Partition, id: Id<K>) -> Binary {
    generic([&partition.0.to_be_bytes()[..], &id.to_key()].concat())
}

/// The keys `prefix ‖ low` to `prefix ‖ high`, as a filter on `_id`: above `low`, below `high`.
pub fn between(prefix: &[u8], low: i64, high: i64) -> bson::Document {
    let bound = |id: i64| binary([prefix, &id.to_be_bytes()].concat());
    bson::doc! { "_id": { "$gt": bound(low), "$lt": bound(high) } }
}

/// The last id of a key.
pub fn last_id<K>(key: &Binary) -> Option<Id<K>> {
    last_of(&key.bytes)
}

/// The last id of a key's bytes.
pub fn last_of<K>(bytes: &[u8]) -> Option<Id<K>> {
    let bytes: [u8; 8] = bytes.last_chunk().copied()?;
    Id::new(i64::from_be_bytes(bytes))
}

/// The first id of a key.
pub fn first_id<K>(key: &Binary) -> Option<Id<K>> {
    first_of(&key.bytes)
}

/// The first id of a key's bytes.
pub fn first_of<K>(bytes: &[u8]) -> Option<Id<K>> {
    let bytes: [u8; 8] = bytes.first_chunk().copied()?;
    Id::new(i64::from_be_bytes(bytes))
}

/// A stream sequence as it is stored.
pub fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// The id that an event made now would have, a little ahead for clocks that differ.
pub fn now_id() -> i64 {
    (SystemClock.now().millis() + 5_000) << 16
}
