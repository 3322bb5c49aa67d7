//! What a partition tells the read replicas after each commit.
//!
//! A notice names what changed, so that caches can drop or extend just that. It may be lost: each
//! carries who sent it and a number, and whoever misses one forgets everything
//! (`cache`). A partition that has nothing to say still says so, at least each second.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::ids::{EntryId, PostId, UserId};

use super::changes::Changes;
use super::entry::Entry;
use super::generation::View;
use super::keys::Key;

/// Names in one notice at the most; past this it says `all`. About 250 KB, a quarter of what a
/// broker takes by default.
const MOST: usize = 10_000;

/// One commit of one partition.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Notice {
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
    /// Counts the notices of a holding from 0: a gap says that one was lost.
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
    pub delivered: Vec<Delivered>,
    /// Pulled authors with something new, and its sequence: every reader of this partition may be
    /// concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulled: Vec<(UserId, u64)>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub touched: BTreeSet<Touched>,
}

/// An entry, and the timelines it was inserted into.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Delivered {
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
pub enum Touched {
    /// A post's counts.
    Post(PostId),
    /// A post that was deleted.
    Deleted(PostId),
    /// A profile, or its counts.
    User(UserId),
    /// A user who was deactivated, suspended, or is back.
    Standing(UserId),
    Reaction(PostId, UserId),
    Outbox(UserId),
    /// An entry that was withdrawn from its outbox.
    Withdrawn(UserId, EntryId),
    /// A reader's stored entries as a whole: parked, or back.
    Timeline(UserId),
    /// Whom a reader follows, and which of those edges are pending.
    Edges(UserId),
    /// Somebody whom a reader follows no more.
    Unfollowed(UserId),
    /// The authors that readers of this partition pull.
    Pulled,
}

impl Touched {
    /// What somebody took back must not be told again, not even in bad times.
    fn takes_back(&self) -> bool {
        match self {
            Self::Deleted(_) | Self::Standing(_) | Self::Unfollowed(_) | Self::Withdrawn(..) => {
                true
            }
            Self::Post(_)
            | Self::User(_)
            | Self::Reaction(..)
            | Self::Outbox(_)
            | Self::Timeline(_)
            | Self::Edges(_)
            | Self::Pulled => false,
        }
    }
}

impl Notice {
    /// What a commit changed. Who sends it fills in the rest.
    pub fn of(changes: &Changes, entries: &[Entry], pulled: &[(UserId, u64)]) -> Self {
        let mut delivered: BTreeMap<EntryId, Delivered> = BTreeMap::new();
        for entry in entries {
            let item = entry.item;
            let same = delivered.entry(item.entry).or_insert_with(|| Delivered {
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
            touched: touched(changes),
            ..Self::default()
        }
    }

    pub fn encode(mut self) -> Vec<u8> {
        let readers: usize = self.delivered.iter().map(|entry| entry.to.len() + 4).sum();
        if readers + self.pulled.len() + self.touched.len() > MOST {
            self.all = true;
            self.delivered.clear();
            self.pulled.clear();
            self.touched.retain(Touched::takes_back);
        }
        serde_json::to_vec(&self).unwrap_or_default()
    }

    pub fn decode(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

fn touched(changes: &Changes) -> BTreeSet<Touched> {
    let mut touched = BTreeSet::new();
    for (view, key, fields) in changes.rows() {
        let first = key.first();
        let says = |field: &str, value: bool| {
            fields.is_some_and(|fields| fields.get_bool(field).is_ok_and(|said| said == value))
        };
        let pair = || first.zip(key.last());
        let it = match view {
            View::Posts if says("deleted", true) => first.map(|post| Touched::Deleted(post.cast())),
            View::Posts => first.map(|post| Touched::Post(post.cast())),
            View::Users if fields.is_some_and(|fields| fields.contains_key("standing")) => {
                first.map(|user| Touched::Standing(user.cast()))
            }
            View::Users | View::FollowerCounts => first.map(|user| Touched::User(user.cast())),
            View::Likes | View::Reposts => {
                pair().map(|(post, user)| Touched::Reaction(post.cast(), user.cast()))
            }
            View::Outbox => {
                let withdrawn = pair().filter(|_| fields.is_none());
                match withdrawn {
                    Some((author, entry)) => Some(Touched::Withdrawn(author.cast(), entry)),
                    None => first.map(|author| Touched::Outbox(author.cast())),
                }
            }
            View::Readers => first.map(|reader| Touched::Timeline(reader.cast())),
            View::Following if says("on", false) => {
                first.map(|reader| Touched::Unfollowed(reader.cast()))
            }
            View::Following | View::Pending => first.map(|reader| Touched::Edges(reader.cast())),
            View::Pulled => Some(Touched::Pulled),
            // Nothing of these is cached.
            View::Checkpoints
            | View::DeadLetters
            | View::FanOuts
            | View::Followers
            | View::Replies
            | View::Timeline => None,
        };
        touched.extend(it);
    }
    touched
}

impl Key {
    fn first(&self) -> Option<EntryId> {
        match self {
            Self::Number(number) => EntryId::new(*number),
            Self::Bytes(bytes) => super::keys::first_of(bytes),
        }
    }

    fn last(&self) -> Option<EntryId> {
        match self {
            Self::Number(number) => EntryId::new(*number),
            Self::Bytes(bytes) => super::keys::last_of(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::entry::TimelineItem;
    use bson::doc;
    use shared::ids::Id;

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
        let few = Notice::of(&Changes::default(), &many[..MOST / 2], &[]).encode();
        let few = Notice::decode(&few).unwrap();
        assert!(!few.all && few.delivered.len() == 1);
        // A build of before does not say when it was sent, and does not mind that others do.
        let old = br#"{"g":1,"p":0,"hold":2,"n":3,"to":4}"#;
        assert_eq!(Notice::decode(old).unwrap().sent, None);
        let body = Notice::of(&Changes::default(), &many, &[]).encode();
        let back = Notice::decode(&body).unwrap();
        assert!(back.all && back.delivered.is_empty() && body.len() < 200);
    }

    #[test]
    fn what_a_commit_changed_is_named_in_the_order_that_caches_need() {
        let (one, two): (UserId, UserId) = (Id::new(1).unwrap(), Id::new(2).unwrap());
        let mut changes = Changes::default();
        changes.delete(View::Pending, Key::pair(one, two));
        changes.set(View::Readers, Key::id(two), doc! { "horizon": 1_i64 });
        changes.delete(View::Outbox, Key::pair(one, two));
        changes.insert(View::Likes, Key::pair(two, one), doc! {});
        changes.set(
            View::Users,
            Key::id(one),
            doc! { "standing": "deactivated" },
        );
        changes.add(View::Users, Key::id(two), "posts", 1);
        changes.set(View::Posts, Key::id(one), doc! { "deleted": true });
        changes.set(View::Following, Key::pair(two, one), doc! { "on": false });
        let named: Vec<Touched> = Notice::of(&changes, &[], &[]).touched.into_iter().collect();
        let expected = [
            Touched::Deleted(one.cast()),
            Touched::User(two),
            Touched::Standing(one),
            Touched::Reaction(two.cast(), one),
            Touched::Withdrawn(one, two.cast()),
            Touched::Timeline(two),
            Touched::Edges(one),
            Touched::Unfollowed(two),
        ];
        assert_eq!(named, expected);
    }
}
