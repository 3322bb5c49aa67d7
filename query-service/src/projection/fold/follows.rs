//! Edges: owned by the follower's partition.

use bson::doc;
use shared::events::{Edge, Event};

use super::{Batch, Fold, stored};
use crate::views::error::ViewError;
use crate::views::generation::View;
use crate::views::keys::Key;

impl Fold {
    pub(super) async fn followed(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        edge: &Edge,
    ) -> Result<(), ViewError> {
        let Edge { follower, followee } = *edge;
        if !self.is_ours(follower) {
            return Ok(());
        }
        let hot_above = self.hot_above;
        let count = self.count(followee).await?;
        count.n += 1;
        let was_hot = count.hot;
        count.hot |= count.n > hot_above;
        let becomes_hot = count.hot && !was_hot;
        self.edge_changed(batch, seq, event, edge, true);
        let in_partition = Key::in_partition(self.partition, followee);
        let counted = Key::user_in(followee, self.partition);
        if becomes_hot {
            // From this position on, for good: no fan-out here, readers merge the outbox.
            batch
                .changes
                .set(View::FollowerCounts, counted, doc! { "hot": true });
            batch
                .changes
                .set(View::Pulled, in_partition, doc! { "hot": true });
        }
        if !was_hot {
            let pending = doc! { "p": i32::from(self.partition.0), "s": stored(seq) };
            batch
                .changes
                .insert(View::Pending, Key::pair(follower, followee), pending);
            self.pending.insert((follower, followee), seq);
        }
        Ok(())
    }

    pub(super) async fn unfollowed(
        &mut self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        edge: &Edge,
    ) -> Result<(), ViewError> {
        let Edge { follower, followee } = *edge;
        if !self.is_ours(follower) {
            return Ok(());
        }
        self.count(followee).await?.n -= 1;
        self.edge_changed(batch, seq, event, edge, false);
        if self.pending.remove((follower, followee)) {
            batch
                .changes
                .delete(View::Pending, Key::pair(follower, followee));
        }
        Ok(())
    }

    fn edge_changed(&mut self, batch: &mut Batch, seq: u64, event: &Event, edge: &Edge, on: bool) {
        let Edge { follower, followee } = *edge;
        let row = doc! { "on": on, "v": event.version, "s": stored(seq) };
        let key = Key::pair(follower, followee);
        if event.version == 1 {
            batch.changes.insert(View::Following, key, row);
        } else {
            batch.changes.set(View::Following, key, row);
        }
        let by_followee = Key::follower(followee, self.partition, follower);
        if on {
            batch.changes.insert(View::Followers, by_followee, doc! {});
        } else {
            batch.changes.delete(View::Followers, by_followee);
        }
        let delta = if on { 1 } else { -1 };
        batch.changes.add(
            View::FollowerCounts,
            Key::user_in(followee, self.partition),
            "n",
            delta,
        );
        batch
            .changes
            .add(View::Users, Key::id(follower), "following", delta);
        self.edge(batch, follower, followee, on);
    }
}
