//! Edges whose older entries are still to be inserted.
//!
//! Every one is a row; the oldest are in memory too, by the partition that they wait for, so that
//! one that stands still costs the others nothing. The rest is found by walking the rows in the
//! order of their follows, a page at a time, while there is any.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use shared::contract::ids::UserId;
use shared::contract::partition::Partition;
use tokio::time::Instant;

use crate::views::error::ViewError;
use crate::views::generation::Generation;

/// Follower and followee.
pub type FollowEdge = (UserId, UserId);

/// Rows read at a time.
const PAGE: usize = 1_000;
/// Between two walks, when the last one found more than there is room for.
const PAUSE: Duration = Duration::from_secs(5);

pub struct Pending {
    views: Generation,
    partition: Partition,
    most: usize,
    seqs: HashMap<FollowEdge, u64>,
    /// By the followee's partition, then by the follow's sequence.
    waiting: BTreeMap<Partition, BTreeMap<u64, FollowEdge>>,
    /// There may be rows that are not in memory.
    more: bool,
    /// How far the walk has come.
    walked: u64,
    /// Of this walk, something had no room.
    left_out: bool,
    next_walk: Instant,
}

impl Pending {
    pub fn new(views: Generation, partition: Partition, most: usize) -> Self {
        Self {
            views,
            partition,
            most,
            seqs: HashMap::new(),
            waiting: BTreeMap::new(),
            // Whatever the holder before has left.
            more: true,
            walked: 0,
            left_out: false,
            next_walk: Instant::now(),
        }
    }

    /// Whether there may be any.
    pub fn is_waiting(&self) -> bool {
        self.more || !self.seqs.is_empty()
    }

    /// An edge whose row is being written, or is there.
    pub fn insert(&mut self, edge: FollowEdge, seq: u64) {
        if self.seqs.len() >= self.most {
            (self.more, self.left_out) = (true, true);
            return;
        }
        self.seqs.insert(edge, seq);
        let of = self.views.partitions.of(edge.1);
        self.waiting.entry(of).or_default().insert(seq, edge);
    }

    /// Forgets an edge. Says whether it may have a row.
    pub fn remove(&mut self, edge: FollowEdge) -> bool {
        let Some(seq) = self.seqs.remove(&edge) else {
            return self.more;
        };
        let of = self.views.partitions.of(edge.1);
        if let Some(waiting) = self.waiting.get_mut(&of) {
            waiting.remove(&seq);
            if waiting.is_empty() {
                self.waiting.remove(&of);
            }
        }
        true
    }

    /// Up to `most` edges whose author's partition has passed the follow. They stay until they are
    /// removed.
    pub async fn ripe(
        &mut self,
        passed: &HashMap<Partition, u64>,
        most: usize,
    ) -> Result<Vec<FollowEdge>, ViewError> {
        let mut ripe = self.ripe_in_memory(passed, most);
        if ripe.is_empty() && self.more && Instant::now() >= self.next_walk {
            let homeless = self.walk(passed).await?;
            ripe = self.ripe_in_memory(passed, most);
            ripe.extend(homeless.into_iter().take(most.saturating_sub(ripe.len())));
        }
        Ok(ripe)
    }

    fn ripe_in_memory(&self, passed: &HashMap<Partition, u64>, most: usize) -> Vec<FollowEdge> {
        self.waiting
            .iter()
            .flat_map(|(of, waiting)| {
                let at = passed.get(of).copied().unwrap_or(0);
                waiting.range(..=at).map(|(_, edge)| *edge)
            })
            .take(most)
            .collect()
    }

    /// Takes the next page of rows into memory, as far as there is room. Returns those that are
    /// ripe and had none.
    async fn walk(
        &mut self,
        passed: &HashMap<Partition, u64>,
    ) -> Result<Vec<FollowEdge>, ViewError> {
        let page = self
            .views
            .pending_after(self.partition, self.walked, PAGE)
            .await?;
        let mut homeless = Vec::new();
        for (follower, followee, seq) in &page {
            let edge = (*follower, *followee);
            if self.seqs.contains_key(&edge) {
                continue;
            }
            let of = self.views.partitions.of(*followee);
            if self.seqs.len() >= self.most && passed.get(&of).is_some_and(|at| at >= seq) {
                homeless.push(edge);
            }
            self.insert(edge, *seq);
        }
        match page.last() {
            Some((_, _, seq)) if page.len() == PAGE => self.walked = *seq,
            Some(_) | None => {
                // What had no room, or was not done at once, is found by the next walk.
                self.more = self.left_out;
                (self.left_out, self.walked) = (false, 0);
                self.next_walk = Instant::now() + PAUSE;
            }
        }
        Ok(homeless)
    }
}
