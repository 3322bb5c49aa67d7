//! What timelines are made of. A timeline, and an author's own list, is a list of items; an entry
//! is one item in the timeline of one reader.

use shared::contract::ids::{EntryId, PostId, UserId};

/// A post in a timeline, with what put it there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimelineItem {
    /// The post's own id, or that of the repost.
    pub entry: EntryId,
    pub post: PostId,
    /// The author, or who reposted.
    pub by: UserId,
}

impl TimelineItem {
    pub fn is_repost(&self) -> bool {
        self.entry.get() != self.post.get()
    }
}

/// An entry to be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub reader: UserId,
    pub item: TimelineItem,
    /// The stream sequence that made it.
    pub seq: u64,
}
