//! Posts, likes and reposts: rows by the post's author's partition, outboxes by the poster's, and
//! entries by every reader's.

use bson::doc;
use shared::events::{Event, PostCreated, PostDeleted, PostRef, Unreposted};
use shared::ids::{EntryId, PostId, UserId};

use super::{Batch, FAN_OUT_BATCH, Fold, REPOSTS, Reaction, stored};
use crate::views::documents::FanOutRow;
use crate::views::entry::{Entry, TimelineItem};
use crate::views::error::ViewError;
use crate::views::generation::View;
use crate::views::keys::Key;

impl Fold {
    pub(super) async fn post_created(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        post: &PostCreated,
    ) -> Result<(), ViewError> {
        let (author, id): (UserId, PostId) = (event.actor, event.id.cast());
        if self.is_ours(author) {
            let mut row = doc! {
                "author": author.get(), "content": &post.content,
                "at": bson::DateTime::from_millis(event.at.millis()),
                "likes": 0_i64, "reposts": 0_i64, "replies": 0_i64, "deleted": false,
                "v": event.version, "s": stored(seq),
            };
            if let Some(parent) = post.reply_to {
                row.insert(
                    "reply_to",
                    doc! { "post": parent.post.get(), "author": parent.author.get() },
                );
            }
            batch.changes.insert(View::Posts, Key::id(id), row);
            batch.changes.add(View::Users, Key::id(author), "posts", 1);
        }
        if let Some(parent) = post.reply_to.filter(|parent| self.is_ours(parent.author)) {
            let row = doc! { "post": id.get(), "s": stored(seq) };
            batch
                .changes
                .insert(View::Replies, Key::pair(parent.post, id), row);
            batch
                .changes
                .add(View::Posts, Key::id(parent.post), "replies", 1);
        }
        self.fan_out(batch, seq, author, id.cast(), id).await
    }

    pub(super) fn post_deleted(
        &self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        deleted: &PostDeleted,
    ) {
        let (author, id) = (event.actor, deleted.post);
        if self.is_ours(author) {
            let tombstone =
                doc! { "deleted": true, "content": "", "v": event.version, "s": stored(seq) };
            batch.changes.set(View::Posts, Key::id(id), tombstone);
            batch.changes.delete(View::Outbox, Key::pair(author, id));
            batch.changes.add(View::Users, Key::id(author), "posts", -1);
        }
        if let Some(parent) = deleted
            .reply_to
            .filter(|parent| self.is_ours(parent.author))
        {
            batch
                .changes
                .delete(View::Replies, Key::pair(parent.post, id));
            batch
                .changes
                .add(View::Posts, Key::id(parent.post), "replies", -1);
        }
    }

    /// A reaction set (`delta` 1) or withdrawn (-1): its row, and the post's counter.
    pub(super) fn reacted(
        &self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        reaction: Reaction,
        post: &PostRef,
        delta: i64,
    ) {
        if !self.is_ours(post.author) {
            return;
        }
        let key = Key::pair(post.post, event.actor);
        let row = doc! { "v": event.version, "s": stored(seq) };
        if event.version == 1 {
            batch.changes.insert(reaction.rows, key, row);
        } else {
            batch.changes.set(reaction.rows, key, row);
        }
        batch
            .changes
            .add(View::Posts, Key::id(post.post), reaction.counter, delta);
    }

    pub(super) async fn reposted(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        post: &PostRef,
    ) -> Result<(), ViewError> {
        self.reacted(batch, seq, event, REPOSTS, post, 1);
        self.fan_out(batch, seq, event.actor, event.id.cast(), post.post)
            .await
    }

    pub(super) fn unreposted(
        &self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        repost: &Unreposted,
    ) {
        let post = PostRef {
            post: repost.post,
            author: repost.author,
        };
        self.reacted(batch, seq, event, REPOSTS, &post, -1);
        if self.is_ours(event.actor) {
            batch
                .changes
                .delete(View::Outbox, Key::pair(event.actor, repost.entry));
        }
    }

    /// Writes the outbox row and own entry of `by`, and an entry for each follower here: now,
    /// by a job when they are many, not at all when the author is hot.
    async fn fan_out(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        by: UserId,
        entry: EntryId,
        post: PostId,
    ) -> Result<(), ViewError> {
        let for_reader = |reader: UserId| Entry {
            reader,
            item: TimelineItem { entry, post, by },
            seq,
        };
        if self.is_ours(by) {
            let row = doc! { "post": post.get(), "s": stored(seq) };
            batch
                .changes
                .insert(View::Outbox, Key::pair(by, entry), row);
            batch.changes.add(View::Users, Key::id(by), "outbox", 1);
            self.idle.learn(&[by]).await?;
            if !self.idle.is_parked(by) {
                batch.entries.push(for_reader(by));
            }
        }
        let count = self.count(by).await?;
        if count.n == 0 && !count.hot {
            return Ok(());
        }
        if count.hot {
            batch.pulled.push((by, seq));
            return Ok(());
        }
        if usize::try_from(count.n).is_ok_and(|n| n <= FAN_OUT_BATCH) {
            self.followers(batch, by).await?;
            let followers = self.followers.get(&by).map_or(&[][..], Vec::as_slice);
            self.idle.learn(followers).await?;
            let read = followers
                .iter()
                .filter(|reader| !self.idle.is_parked(**reader));
            batch.entries.extend(read.map(|reader| for_reader(*reader)));
            return Ok(());
        }
        let key = Key::in_partition(self.partition, entry);
        let Key::Bytes(bytes) = key.clone() else {
            unreachable!("in_partition makes bytes")
        };
        let id = bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes,
        };
        let job = FanOutRow {
            id,
            author: by,
            entry,
            post,
            s: stored(seq),
            next: 0,
        };
        let row = doc! { "author": by.get(), "entry": entry.get(), "post": post.get(), "s": stored(seq), "next": 0_i64 };
        batch.changes.insert(View::FanOuts, key, row);
        // Until the job is done, readers here merge the author's outbox.
        batch.changes.add(
            View::Pulled,
            Key::in_partition(self.partition, by),
            "jobs",
            1,
        );
        batch.pulled.push((by, seq));
        self.keep_fan_out(job);
        Ok(())
    }
}
