//! What a process may keep in memory for its fold, whatever the site's size.
//!
//! All of it can be looked up again, or is found again by the jobs: a smaller share is slower and
//! never wrong. Shares are of a generation: a process may hold all partitions of it, and folds two
//! or three generations at most, during a rebuild.
//!
//! With a million authors and readers and `PARTITIONS=256`, all held by one process:
//!
//! | what | most | bytes each | together |
//! |---|---|---|---|
//! | counts of followers | 1,000,000 | 25, in a table half to seven eighths full | 50 MB |
//! | followers of authors | 64 MB | 8, and 96 for each author | 64 MB |
//! | who is inactive | 1,000,000 | 17, as above | 36 MB |
//! | sizes of timelines | 1,000,000 | 13, as above | 30 MB |
//! | edges to be filled up | 200,000 | about 120 | 24 MB |
//! | fan-outs under way | 50,000 | about 200 | 10 MB |
//!
//! so some 210 MB a generation, and the same with any other number of partitions. Beside them each
//! partition has up to 1,000 messages in its hands and its reader's (about a kilobyte each) and the
//! entries of one commit (6,000 of 40 bytes): 1.3 MB while it catches up, 330 MB for 256 of them.

use shared::contract::partition::Partitions;

/// What a generation's fold may keep in one process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// Authors whose number of followers is known.
    pub counts: usize,
    /// Bytes of lists of followers.
    pub followers: usize,
    /// Readers of whom it is known whether they are inactive.
    pub inactive: usize,
    /// Readers whose number of stored entries is known.
    pub sizes: usize,
    /// Edges whose older entries are to be inserted.
    pub pending: usize,
    pub fan_outs: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            counts: 1_000_000,
            followers: 64 << 20,
            inactive: 1_000_000,
            sizes: 1_000_000,
            pending: 200_000,
            fan_outs: 50_000,
        }
    }
}

impl Memory {
    /// As little as there can be: everything is looked up.
    pub const NONE: Self = Self {
        counts: 0,
        followers: 0,
        inactive: 0,
        sizes: 0,
        pending: 0,
        fan_outs: 0,
    };

    /// What each partition may keep. Work is never without a place for some of it.
    pub fn share(self, partitions: Partitions) -> Self {
        let among = usize::from(partitions.count());
        Self {
            counts: self.counts / among,
            followers: self.followers / among,
            inactive: self.inactive / among,
            sizes: self.sizes / among,
            pending: (self.pending / among).max(1),
            fan_outs: (self.fan_outs / among).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_partitions_together_keep_no_more_than_one_would() {
        let all = Memory::default();
        for count in [1, 4, 256] {
            let among = Partitions::new(count).unwrap();
            let each = all.share(among);
            let count = usize::from(count);
            assert!(each.counts * count <= all.counts && each.counts > 1_000);
            assert!(each.followers * count <= all.followers);
            assert!(each.inactive * count <= all.inactive);
            assert!(each.sizes * count <= all.sizes);
            assert!(each.pending * count <= all.pending);
            assert!(each.fan_outs * count <= all.fan_outs);
        }
    }
}
