//! Edges: owned by the follower's partition.

use shared::contract::events::Edge;

use super::{Batch, Fold};
use crate::views::changes::Stamp;
use crate::views::error::ViewError;

impl Fold {
    pub(super) async fn followed(
        &mut self,
        batch: &mut Batch,
        stamp: Stamp,
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
        batch.changes.followed(edge, self.partition, stamp);
        self.edge(batch, follower, followee, true);
        if becomes_hot {
            batch.changes.became_hot(followee, self.partition);
        }
        if !was_hot {
            batch.changes.edge_pending(edge, self.partition, stamp.seq);
            self.pending.insert((follower, followee), stamp.seq);
        }
        Ok(())
    }

    pub(super) async fn unfollowed(
        &mut self,
        batch: &mut Batch,
        stamp: Stamp,
        edge: &Edge,
    ) -> Result<(), ViewError> {
        let Edge { follower, followee } = *edge;
        if !self.is_ours(follower) {
            return Ok(());
        }
        self.count(followee).await?.n -= 1;
        batch.changes.unfollowed(edge, self.partition, stamp);
        self.edge(batch, follower, followee, false);
        if self.pending.remove((follower, followee)) {
            batch.changes.edge_not_pending(follower, followee);
        }
        Ok(())
    }
}
