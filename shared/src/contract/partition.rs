//! Which partition of a generation of views owns a user.

use std::num::NonZeroU16;

use xxhash_rust::xxh3::xxh3_64;

use crate::contract::ids::UserId;

/// The number of partitions of one generation of views.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Partitions(NonZeroU16);

/// One partition, below its generation's [`Partitions`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Partition(pub u16);

impl Partitions {
    /// Past this a process would hold more broker connections than it is worth.
    pub const MAX: u16 = 256;

    pub fn new(count: u16) -> Option<Self> {
        (count <= Self::MAX).then_some(())?;
        NonZeroU16::new(count).map(Self)
    }

    pub fn count(self) -> u16 {
        self.0.get()
    }

    /// The partition that folds what this user reads and writes.
    pub fn of(self, user: UserId) -> Partition {
        let share = xxh3_64(&user.to_key()) % u64::from(self.0.get());
        Partition(u16::try_from(share).expect("a remainder is below its 16-bit divisor"))
    }

    pub fn all(self) -> impl Iterator<Item = Partition> {
        (0..self.count()).map(Partition)
    }
}
