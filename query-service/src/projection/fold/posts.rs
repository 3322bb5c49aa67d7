//! Posts, likes and reposts: rows by the post's author's partition, author feeds by the poster's, and
//! entries by every reader's.

use shared::contract::events::{Event, PostCreated, PostDeleted, PostRef, Unreposted};
use shared::contract::ids::{PostId, UserId};

use super::{Batch, FAN_OUT_BATCH, Fold};
use crate::views::changes::{Reaction, Stamp};
use crate::views::documents::FanOutRow;
use crate::views::entry::{Entry, TimelineItem};
use crate::views::error::ViewError;

impl Fold {
    pub(super) async fn post_created(
        &mut self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        post: &PostCreated,
    ) -> Result<(), ViewError> {
        let (author, id): (UserId, PostId) = (event.actor, event.id.cast());
        if self.is_ours(author) {
            batch
                .changes
                .post_created(id, author, event.at, post, stamp);
        }
        if let Some(parent) = post.reply_to.filter(|parent| self.is_ours(parent.author)) {
            batch.changes.reply_added(parent.post, id, stamp.seq);
        }
        let item = TimelineItem {
            entry: id.cast(),
            post: id,
            by: author,
        };
        self.fan_out(batch, stamp.seq, item).await
    }

    pub(super) fn post_deleted(
        &self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        deleted: &PostDeleted,
    ) {
        let (author, id) = (event.actor, deleted.post);
        if self.is_ours(author) {
            batch.changes.post_deleted(id, author, stamp);
        }
        if let Some(parent) = deleted
            .reply_to
            .filter(|parent| self.is_ours(parent.author))
        {
            batch.changes.reply_removed(parent.post, id);
        }
    }

    pub(super) fn reacted(
        &self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        reaction: Reaction,
        post: &PostRef,
    ) {
        if self.is_ours(post.author) {
            batch
                .changes
                .reacted(reaction, post.post, event.actor, stamp);
        }
    }

    pub(super) fn withdrawn(
        &self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        reaction: Reaction,
        post: &PostRef,
    ) {
        if self.is_ours(post.author) {
            batch
                .changes
                .reaction_withdrawn(reaction, post.post, event.actor, stamp);
        }
    }

    pub(super) async fn reposted(
        &mut self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        post: &PostRef,
    ) -> Result<(), ViewError> {
        self.reacted(batch, stamp, event, Reaction::Repost, post);
        let item = TimelineItem {
            entry: event.id.cast(),
            post: post.post,
            by: event.actor,
        };
        self.fan_out(batch, stamp.seq, item).await
    }

    pub(super) fn unreposted(
        &self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        repost: &Unreposted,
    ) {
        let post = PostRef {
            post: repost.post,
            author: repost.author,
        };
        self.withdrawn(batch, stamp, event, Reaction::Repost, &post);
        if self.is_ours(event.actor) {
            batch.changes.author_withdrew(event.actor, repost.entry);
        }
    }

    /// Writes the author feed row and own entry of an author, and an entry for each follower here: now,
    /// by a job when they are many, not at all when the author is hot.
    async fn fan_out(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        item: TimelineItem,
    ) -> Result<(), ViewError> {
        let by = item.by;
        let for_reader = |reader: UserId| Entry { reader, item, seq };
        if self.is_ours(by) {
            batch.changes.author_posted(&item, seq);
            self.inactive_readers.learn(&[by]).await?;
            if !self.inactive_readers.is_inactive(by) {
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
            self.inactive_readers.learn(followers).await?;
            let read = followers
                .iter()
                .filter(|reader| !self.inactive_readers.is_inactive(**reader));
            batch.entries.extend(read.map(|reader| for_reader(*reader)));
            return Ok(());
        }
        let job = FanOutRow::new(self.partition, &item, seq);
        batch.changes.fan_out_begun(self.partition, &job);
        batch.pulled.push((by, seq));
        self.keep_fan_out(job);
        Ok(())
    }
}
