//! What a partition tells the read replicas after each commit.
//!
//! A message names what changed, so that caches can drop or extend just that. It may be lost: each
//! carries who sent it and a number, and whoever misses one forgets everything
//! (`cache`). A partition that has nothing to say still says so, at least each second.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::contract::ids::{EntryId, PostId, UserId};

use super::entry::Entry;

/// Names in one message at the most; past this it says `all`. About 250 KB, a quarter of what a
/// broker takes by default.
const MOST: usize = 10_000;

/// One commit of one partition.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct InvalidationMessage {
    /// Names the views, among those of other deployments on the same broker; earlier versions do
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<i64>,
    /// The generation of views.
    pub g: i64,
    /// The partition.
    pub p: u16,
    /// Names one holding of the partition's lease.
    pub hold: u64,
    /// Counts the messages of a holding from 0: a gap says that one was lost.
    pub n: u64,
    /// The partition has applied everything up to this sequence.
    pub to: u64,
    /// When it was sent, by the sender's clock: milliseconds since 1970. Builds of before do not
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<i64>,
    /// Too much to name, or nobody knows: anything of this partition may have changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delivered: Vec<Fanout>,
    /// Pulled authors with something new, and its sequence: every reader of this partition may be
    /// concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulled: Vec<(UserId, u64)>,
    #[serde(
        rename = "touched",
        default,
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub invalidations: BTreeSet<Invalidation>,
}

/// An entry, and the timelines it was inserted into.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Fanout {
    pub entry: EntryId,
    pub post: PostId,
    pub by: UserId,
    pub seq: u64,
    pub to: Vec<UserId>,
}

/// Something that readers may have cached and that is different now.
///
/// In the order in which caches take them: what entries are made of before what decides which
/// entries are looked for, so that who sees a new edge sees what came with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize, Deserialize)]
pub enum Invalidation {
    /// A post's counts.
    Post(PostId),
    /// A post that was deleted.
    Deleted(PostId),
    /// A profile, or its counts.
    User(UserId),
    /// A user who was deactivated, suspended, or is back.
    Standing(UserId),
    Reaction(PostId, UserId),
    /// Its first name stays in messages.
    #[serde(rename = "Outbox")]
    AuthorFeed(UserId),
    /// An entry that was withdrawn from its author feed.
    Withdrawn(UserId, EntryId),
    /// A reader's stored entries as a whole: inactive, or back.
    Timeline(UserId),
    /// Whom a reader follows, and which of those edges are pending.
    Edges(UserId),
    /// Somebody whom a reader follows no more.
    Unfollowed(UserId),
    /// The authors that readers of this partition pull.
    Pulled,
}

impl Invalidation {
    /// What somebody took back must not be told again, not even in bad times.
    fn takes_back(&self) -> bool {
        match self {
            Self::Deleted(_) | Self::Standing(_) | Self::Unfollowed(_) | Self::Withdrawn(..) => {
                true
            }
            Self::Post(_)
            | Self::User(_)
            | Self::Reaction(..)
            | Self::AuthorFeed(_)
            | Self::Timeline(_)
            | Self::Edges(_)
            | Self::Pulled => false,
        }
    }
}

impl InvalidationMessage {
    /// What a commit changed. Who sends it fills in the rest.
    pub fn of(
        invalidations: BTreeSet<Invalidation>,
        entries: &[Entry],
        pulled: &[(UserId, u64)],
    ) -> Self {
        let mut delivered: BTreeMap<EntryId, Fanout> = BTreeMap::new();
        for entry in entries {
            let item = entry.item;
            let same = delivered.entry(item.entry).or_insert_with(|| Fanout {
                entry: item.entry,
                post: item.post,
                by: item.by,
                seq: entry.seq,
                to: Vec::new(),
            });
            same.to.push(entry.reader);
        }
        Self {
            delivered: delivered.into_values().collect(),
            pulled: pulled.to_vec(),
            invalidations,
            ..Self::default()
        }
    }

    pub fn encode(mut self) -> Vec<u8> {
        let readers: usize = self.delivered.iter().map(|entry| entry.to.len() + 4).sum();
        if readers + self.pulled.len() + self.invalidations.len() > MOST {
            self.all = true;
            self.delivered.clear();
            self.pulled.clear();
            self.invalidations.retain(Invalidation::takes_back);
        }
        serde_json::to_vec(&self).unwrap_or_default()
    }

    pub fn decode(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::entry::TimelineItem;
    use shared::contract::ids::Id;

    #[test]
    fn a_notice_of_too_much_names_nothing_and_stays_small() {
        let entry = |reader| Entry {
            reader,
            item: TimelineItem {
                entry: Id::new(1).unwrap(),
                post: Id::new(1).unwrap(),
                by: Id::new(2).unwrap(),
            },
            seq: 3,
        };
        let many: Vec<Entry> = (1..=MOST as i64)
            .map(|id| entry(Id::new(id).unwrap()))
            .collect();
        let few = InvalidationMessage::of(BTreeSet::new(), &many[..MOST / 2], &[]).encode();
        let few = InvalidationMessage::decode(&few).unwrap();
        assert!(!few.all && few.delivered.len() == 1);
        // A build of before does not say when it was sent, and does not mind that others do.
        let old = br#"{"g":1,"p":0,"hold":2,"n":3,"to":4}"#;
        assert_eq!(InvalidationMessage::decode(old).unwrap().sent, None);
        let said = br#"{"g":1,"p":0,"hold":2,"n":3,"to":4,"touched":[{"Outbox":"5"},"Pulled"]}"#;
        let read = InvalidationMessage::decode(said).unwrap();
        let named = [
            Invalidation::AuthorFeed(Id::new(5).unwrap()),
            Invalidation::Pulled,
        ];
        assert_eq!(read.invalidations, named.into());
        assert_eq!(read.encode(), said, "builds of before read it by this name");
        let body = InvalidationMessage::of(BTreeSet::new(), &many, &[]).encode();
        let back = InvalidationMessage::decode(&body).unwrap();
        assert!(back.all && back.delivered.is_empty() && body.len() < 200);
    }
}
