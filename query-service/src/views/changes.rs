//! What one batch of events changes in the views, gathered in memory and written at once.
//!
//! All row changes of a batch and the checkpoint commit in one transaction, guarded by the
//! checkpoint's sequence and the lease's epoch (`docs/decisions/01-transactional-fold.md`): they
//! happen exactly once, whoever crashed or woke up late. Timeline entries are hints and go first,
//! outside of it.
//!
//! Every operation says in one place which rows change and what replicas must forget of them.

use std::collections::BTreeSet;

use bson::{Document, doc};
use shared::contract::events::{Edge, PostCreated, PostRef, ProfileEdited, UserRegistered};
use shared::contract::ids::{EntryId, PostId, UserId};
use shared::contract::partition::Partition;
use shared::contract::time::Timestamp;
use shared::contract::views_schema as schema;

use super::checkpoints::Checkpoint;
use super::documents::{AccountStatus, FanOutRow, PARKED};
use super::entry::TimelineItem;
use super::generation::View;
use super::invalidation::Invalidation;
use super::keys::{Key, signed};
use super::row_changes::RowChanges;

/// What one batch changes. The changes of a row are merged as they come.
#[derive(Debug, Default)]
pub struct Changes {
    pub(super) rows: RowChanges,
    invalidations: BTreeSet<Invalidation>,
}

impl Changes {
    /// How many rows it changes.
    pub fn count(&self) -> usize {
        self.rows.count()
    }
}

/// The event that changed a row last.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Counts the events of the row's own stream in the log.
    pub version: i64,
    /// Its sequence in the stream of all events.
    pub seq: u64,
}

impl Stamp {
    fn on(self, mut fields: Document) -> Document {
        fields.insert(schema::VERSION, self.version);
        fields.insert("s", signed(self.seq));
        fields
    }
}

/// What a user may do to a post.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reaction {
    Like,
    Repost,
}

impl Reaction {
    /// Where its rows are, and which counter of the post it moves.
    fn stored(self) -> (View, &'static str) {
        match self {
            Self::Like => (View::Likes, schema::LIKES_COUNT),
            Self::Repost => (View::Reposts, schema::REPOSTS_COUNT),
        }
    }
}

impl Changes {
    /// What replicas must forget of what they have cached.
    pub fn into_invalidations(self) -> BTreeSet<Invalidation> {
        self.invalidations
    }

    fn invalidates(&mut self, invalidation: Invalidation) {
        self.invalidations.insert(invalidation);
    }
}

/// Users and readers.
impl Changes {
    /// A new user, who is taken to read from here on: time away is counted from here.
    pub fn user_registered(
        &mut self,
        user: UserId,
        partition: Partition,
        at: Timestamp,
        profile: &UserRegistered,
        stamp: Stamp,
    ) {
        let row = doc! {
            // Builds that showed it from here want the field; it has held nothing since.
            "username": &profile.username, "email": "",
            "display_name": &profile.display_name, "bio": &profile.bio,
            "at": bson::DateTime::from_millis(at.millis()),
            "verified": false, "standing": AccountStatus::Active.name(),
            "following": 0_i64, "posts": 0_i64, "outbox": 0_i64,
        };
        self.rows.insert(View::Users, Key::id(user), stamp.on(row));
        self.invalidates(Invalidation::Standing(user));
        let reader = doc! { "p": i32::from(partition.0), "horizon": 0_i64, "seen": at.millis() };
        self.rows.insert(View::Readers, Key::id(user), reader);
        self.invalidates(Invalidation::Timeline(user));
    }

    pub fn profile_edited(&mut self, user: UserId, profile: &ProfileEdited, stamp: Stamp) {
        let fields = doc! { "display_name": &profile.display_name, "bio": &profile.bio };
        self.set_user(user, fields, stamp);
        self.invalidates(Invalidation::User(user));
    }

    pub fn user_verified(&mut self, user: UserId, stamp: Stamp) {
        self.set_user(user, doc! { "verified": true }, stamp);
        self.invalidates(Invalidation::User(user));
    }

    pub fn status_changed(&mut self, user: UserId, standing: AccountStatus, stamp: Stamp) {
        self.set_user(user, doc! { "standing": standing.name() }, stamp);
        self.invalidates(Invalidation::Standing(user));
    }

    /// Fans out to a reader again: everything above the greatest entry id applied will be there,
    /// and everything after the checkpoint's sequence.
    pub fn reader_reactivated(&mut self, reader: UserId, at: &Checkpoint) {
        let fields = doc! { "horizon": at.top, "active_since": signed(at.seq) };
        self.set_reader(reader, fields);
    }

    /// Promises a reader nothing: their timeline is merged.
    pub fn reader_becomes_inactive(&mut self, reader: UserId) {
        self.set_reader(reader, doc! { "horizon": PARKED });
    }

    fn set_user(&mut self, user: UserId, fields: Document, stamp: Stamp) {
        self.rows.set(View::Users, Key::id(user), stamp.on(fields));
    }

    fn set_reader(&mut self, reader: UserId, fields: Document) {
        self.rows.set(View::Readers, Key::id(reader), fields);
        self.invalidates(Invalidation::Timeline(reader));
    }

    fn count_for_user(&mut self, user: UserId, field: &'static str, delta: i64) {
        self.rows.add(View::Users, Key::id(user), field, delta);
        self.invalidates(Invalidation::User(user));
    }
}

/// Edges. `partition` is the follower's.
impl Changes {
    pub fn followed(&mut self, edge: &Edge, partition: Partition, stamp: Stamp) {
        self.edge_changed(edge, partition, stamp, true);
        self.invalidates(Invalidation::Edges(edge.follower));
    }

    pub fn unfollowed(&mut self, edge: &Edge, partition: Partition, stamp: Stamp) {
        self.edge_changed(edge, partition, stamp, false);
        self.invalidates(Invalidation::Unfollowed(edge.follower));
    }

    fn edge_changed(&mut self, edge: &Edge, partition: Partition, stamp: Stamp, on: bool) {
        let Edge { follower, followee } = *edge;
        let row = stamp.on(doc! { "on": on });
        self.insert_or_set(View::Following, Key::pair(follower, followee), row, stamp);
        let by_followee = Key::follower(followee, partition, follower);
        if on {
            self.rows.insert(View::Followers, by_followee, doc! {});
        } else {
            self.rows.delete(View::Followers, by_followee);
        }
        let delta = if on { 1 } else { -1 };
        let counted = Key::user_in(followee, partition);
        self.rows.add(
            View::FollowerCounts,
            counted,
            schema::FOLLOWERS_COUNT,
            delta,
        );
        self.invalidates(Invalidation::User(followee));
        self.count_for_user(follower, schema::FOLLOWING_COUNT, delta);
    }

    /// From this position on, for good: no fan-out of this author's posts in this partition,
    /// readers merge them.
    pub fn became_hot(&mut self, author: UserId, partition: Partition) {
        let counted = Key::user_in(author, partition);
        self.rows
            .set(View::FollowerCounts, counted, doc! { "hot": true });
        self.invalidates(Invalidation::User(author));
        let key = Key::in_partition(partition, author);
        self.rows.set(View::Pulled, key, doc! { "hot": true });
        self.invalidates(Invalidation::Pulled);
    }

    /// An edge whose older entries are still to be inserted.
    pub fn edge_pending(&mut self, edge: &Edge, partition: Partition, seq: u64) {
        let row = doc! { "p": i32::from(partition.0), "s": signed(seq) };
        let key = Key::pair(edge.follower, edge.followee);
        self.rows.insert(View::Pending, key, row);
        self.invalidates(Invalidation::Edges(edge.follower));
    }

    pub fn edge_not_pending(&mut self, follower: UserId, followee: UserId) {
        self.rows
            .delete(View::Pending, Key::pair(follower, followee));
        self.invalidates(Invalidation::Edges(follower));
    }

    /// The first event of a stream makes its row; the others find it.
    fn insert_or_set(&mut self, view: View, key: Key, row: Document, stamp: Stamp) {
        if stamp.version == 1 {
            self.rows.insert(view, key, row);
        } else {
            self.rows.set(view, key, row);
        }
    }
}

/// Posts, reactions, and what authors have posted.
impl Changes {
    /// A post, as its author's partition keeps it.
    pub fn post_created(
        &mut self,
        post: PostId,
        author: UserId,
        at: Timestamp,
        created: &PostCreated,
        stamp: Stamp,
    ) {
        let mut row = stamp.on(doc! {
            "author": author.get(), "content": &created.content,
            "at": bson::DateTime::from_millis(at.millis()),
            "likes": 0_i64, "reposts": 0_i64, "replies": 0_i64, "deleted": false,
        });
        if let Some(PostRef { post, author }) = created.reply_to {
            let parent = doc! { "post": post.get(), "author": author.get() };
            row.insert("reply_to", parent);
        }
        self.rows.insert(View::Posts, Key::id(post), row);
        self.invalidates(Invalidation::Post(post));
        self.count_for_user(author, schema::POSTS_COUNT, 1);
    }

    /// The content is gone; the row stays.
    pub fn post_deleted(&mut self, post: PostId, author: UserId, stamp: Stamp) {
        let tombstone = stamp.on(doc! { "deleted": true, "content": "" });
        self.rows.set(View::Posts, Key::id(post), tombstone);
        self.invalidates(Invalidation::Deleted(post));
        self.author_withdrew(author, post.cast());
        self.count_for_user(author, schema::POSTS_COUNT, -1);
    }

    /// A reply, as the partition of the answered post's author keeps it.
    pub fn reply_added(&mut self, parent: PostId, reply: PostId, seq: u64) {
        let row = doc! { "post": reply.get(), "s": signed(seq) };
        self.rows
            .insert(View::Replies, Key::pair(parent, reply), row);
        self.count_for_post(parent, "replies", 1);
    }

    pub fn reply_removed(&mut self, parent: PostId, reply: PostId) {
        self.rows.delete(View::Replies, Key::pair(parent, reply));
        self.count_for_post(parent, "replies", -1);
    }

    pub fn reacted(&mut self, reaction: Reaction, post: PostId, user: UserId, stamp: Stamp) {
        self.reaction_changed(reaction, post, user, stamp, 1);
    }

    pub fn reaction_withdrawn(
        &mut self,
        reaction: Reaction,
        post: PostId,
        user: UserId,
        stamp: Stamp,
    ) {
        self.reaction_changed(reaction, post, user, stamp, -1);
    }

    fn reaction_changed(
        &mut self,
        reaction: Reaction,
        post: PostId,
        user: UserId,
        stamp: Stamp,
        delta: i64,
    ) {
        let (view, counter) = reaction.stored();
        self.insert_or_set(view, Key::pair(post, user), stamp.on(doc! {}), stamp);
        self.invalidates(Invalidation::Reaction(post, user));
        self.count_for_post(post, counter, delta);
    }

    /// A post or repost among what its author has posted.
    pub fn author_posted(&mut self, item: &TimelineItem, seq: u64) {
        let row = doc! { "post": item.post.get(), "s": signed(seq) };
        self.rows
            .insert(View::AuthorFeed, Key::pair(item.by, item.entry), row);
        self.invalidates(Invalidation::AuthorFeed(item.by));
        self.count_for_user(item.by, "outbox", 1);
    }

    pub fn author_withdrew(&mut self, author: UserId, entry: EntryId) {
        self.rows.delete(View::AuthorFeed, Key::pair(author, entry));
        self.invalidates(Invalidation::Withdrawn(author, entry));
    }

    fn count_for_post(&mut self, post: PostId, field: &'static str, delta: i64) {
        self.rows.add(View::Posts, Key::id(post), field, delta);
        self.invalidates(Invalidation::Post(post));
    }
}

/// Fan-outs that are too large for one batch.
impl Changes {
    /// Until the job is done, readers in the partition merge what the author has posted.
    pub fn fan_out_begun(&mut self, partition: Partition, job: &FanOutRow) {
        let row = doc! {
            "author": job.author.get(), "entry": job.entry.get(), "post": job.post.get(),
            "s": job.s, "next": job.next,
        };
        let key = Key::in_partition(partition, job.entry);
        self.rows.insert(View::FanOuts, key, row);
        let pulled = Key::in_partition(partition, job.author);
        self.rows.add(View::Pulled, pulled, "jobs", 1);
        self.invalidates(Invalidation::Pulled);
    }

    /// The job has served the followers up to this one.
    pub fn fan_out_reached(&mut self, partition: Partition, entry: EntryId, follower: UserId) {
        let key = Key::in_partition(partition, entry);
        self.rows
            .set(View::FanOuts, key, doc! { "next": follower.get() });
    }

    /// The job is done. `still_pulled`: there is another reason to merge what the author has
    /// posted.
    pub fn fan_out_done(
        &mut self,
        partition: Partition,
        entry: EntryId,
        author: UserId,
        still_pulled: bool,
    ) {
        self.rows
            .delete(View::FanOuts, Key::in_partition(partition, entry));
        let pulled = Key::in_partition(partition, author);
        if still_pulled {
            self.rows.add(View::Pulled, pulled, "jobs", -1);
        } else {
            self.rows.delete(View::Pulled, pulled);
        }
        self.invalidates(Invalidation::Pulled);
    }
}

#[cfg(test)]
mod tests;
