//! The rows of the views, as stored. The fold makes some; readers are shown [`crate::reads::bodies`].

use bson::{Binary, Document};
use serde::{Deserialize, Serialize};
use shared::contract::events::PostRef;
use shared::contract::ids::{EntryId, PostId, UserId};
use shared::contract::partition::Partition;
use shared::contract::time::Timestamp;

use super::entry::{Entry, TimelineItem};
use super::keys::{in_partition, last_id, pair, signed};

/// One item of a reader's timeline: a hint, shown only while the rows that justify it stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryRow {
    /// `reader ‖ entry`
    #[serde(rename = "_id")]
    pub id: Binary,
    pub post: PostId,
    /// The author, or who reposted.
    pub by: UserId,
    /// The stream sequence that made it.
    pub s: i64,
}

/// One post or repost of an author.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthorFeedRow {
    /// `author ‖ entry`
    #[serde(rename = "_id")]
    pub id: Binary,
    pub post: PostId,
    pub s: i64,
}

impl EntryRow {
    pub fn item(&self) -> Option<TimelineItem> {
        Some(TimelineItem {
            entry: last_id(&self.id)?,
            post: self.post,
            by: self.by,
        })
    }
}

impl From<&Entry> for EntryRow {
    fn from(entry: &Entry) -> Self {
        Self {
            id: pair(entry.reader, entry.item.entry),
            post: entry.item.post,
            by: entry.item.by,
            s: signed(entry.seq),
        }
    }
}

impl AuthorFeedRow {
    pub fn item(&self, author: UserId) -> Option<TimelineItem> {
        Some(TimelineItem {
            entry: last_id(&self.id)?,
            post: self.post,
            by: author,
        })
    }
}

/// A following edge; one that ended stays as a row, with its version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EdgeRow {
    /// `follower ‖ followee`
    #[serde(rename = "_id")]
    pub id: Binary,
    pub on: bool,
    pub v: i64,
    pub s: i64,
}

/// A standing edge whose older entries are still to be inserted: readers pull that author.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingRow {
    /// `follower ‖ followee`
    #[serde(rename = "_id")]
    pub id: Binary,
    pub p: i32,
    pub s: i64,
}

/// A row that is nothing but its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRow {
    #[serde(rename = "_id")]
    pub id: Binary,
}

/// How many followers an author has in one partition, and whether they are past fanning out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowersRow {
    pub n: i64,
    pub hot: bool,
}

/// How far a reader's stored entries reach.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReaderRow {
    /// Stored entries are complete above this entry id.
    pub horizon: i64,
    /// Whoever became inactive is fanned out to again after this sequence.
    pub active_since: i64,
}

/// Why an author is pulled in one partition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PulledRow {
    /// Fan-outs under way.
    pub jobs: i64,
    pub hot: bool,
}

/// The horizon of a reader to whom nothing is fanned out: above every entry.
pub const PARKED: i64 = i64::MAX - 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostRow {
    #[serde(rename = "_id")]
    pub id: PostId,
    pub author: UserId,
    pub content: String,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<PostRef>,
    #[serde(default)]
    pub likes: i64,
    #[serde(default)]
    pub reposts: i64,
    #[serde(default)]
    pub replies: i64,
    /// A tombstone: the content is gone, the row stays.
    #[serde(default)]
    pub deleted: bool,
    pub v: i64,
    pub s: i64,
}

/// A like, or a repost (with its entry), by one user of one post; off while `v` is even.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReactionRow {
    /// `post ‖ user`
    #[serde(rename = "_id")]
    pub id: Binary,
    pub v: i64,
    pub s: i64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    Active,
    Suspended,
    Deactivated,
}

impl AccountStatus {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserRow {
    #[serde(rename = "_id")]
    pub id: UserId,
    pub username: String,
    pub display_name: String,
    pub bio: String,
    pub at: Timestamp,
    #[serde(default)]
    pub verified: bool,
    pub standing: AccountStatus,
    #[serde(default)]
    pub following: i64,
    #[serde(default)]
    pub posts: i64,
    /// Author feed rows ever written: 0 means that there is nothing to pull.
    #[serde(default)]
    pub outbox: i64,
    pub v: i64,
    pub s: i64,
}

impl UserRow {
    /// Whether the account is deactivated: then nobody is shown it, or what it wrote.
    pub fn has_left(&self) -> bool {
        self.standing == AccountStatus::Deactivated
    }
}

/// A fan-out too large for one batch: goes on after `next`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanOutRow {
    /// `partition ‖ entry`
    #[serde(rename = "_id")]
    pub id: Binary,
    pub author: UserId,
    pub entry: EntryId,
    pub post: PostId,
    pub s: i64,
    /// The last follower served; 0 before the first.
    pub next: i64,
}

impl FanOutRow {
    /// The fan-out of an item in a partition, before its first follower.
    pub fn new(partition: Partition, item: &TimelineItem, seq: u64) -> Self {
        Self {
            id: in_partition(partition, item.entry),
            author: item.by,
            entry: item.entry,
            post: item.post,
            s: signed(seq),
            next: 0,
        }
    }
}

/// How far a partition has folded, and by whose lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckpointRow {
    #[serde(rename = "_id")]
    pub p: i32,
    pub seq: i64,
    pub chain: String,
    pub epoch: i64,
    /// The greatest event id applied.
    #[serde(default)]
    pub top: i64,
    /// The database session in which the holder commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Document>,
}
