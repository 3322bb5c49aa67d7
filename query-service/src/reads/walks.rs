//! Live streams that read the author feeds of everybody their reader follows take turns.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams whose rest is kept at the same time; others walk again.
const MOST_RESTS: usize = 64;
/// Live streams that walk many author feeds at the same time.
const MOST_WALKS: usize = 2;

/// Leave to walk many author feeds.
pub struct WalkTurn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// What the live streams of these views share.
pub(super) struct Walks {
    turns: Arc<Semaphore>,
    rests: Arc<Semaphore>,
}

impl Default for Walks {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MOST_WALKS)),
            rests: Arc::new(Semaphore::new(MOST_RESTS)),
        }
    }
}

impl Walks {
    /// Waits for a turn; whoever asked first gets it first.
    pub async fn turn(&self) -> Option<WalkTurn> {
        let permit = self.turns.clone().acquire_owned().await;
        permit.ok().map(WalkTurn)
    }

    /// A turn, if one is free at once.
    pub fn try_turn(&self) -> Option<WalkTurn> {
        let permit = self.turns.clone().try_acquire_owned();
        permit.ok().map(WalkTurn)
    }

    /// Room to keep what a walk found and did not send.
    pub fn keep_rest(&self) -> Option<OwnedSemaphorePermit> {
        self.rests.clone().try_acquire_owned().ok()
    }
}
