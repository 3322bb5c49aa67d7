//! Whose turn it is to read the views for live streams.

use std::sync::Arc;
use std::time::Duration;

use shared::contract::ids::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams that read the views at once. One post may wake all of them, and other reads need
/// connections too.
const AT_ONCE: usize = 16;
/// Readers remembered: more than there are streams.
const REMEMBERED: u64 = 100_000;
/// Longer than a read that nobody waits for any more goes on.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// One read for each reader at a time, and so many of all. A reader's turn outlives their streams:
/// whoever closes one and opens another waits until what the first began has ended.
#[derive(Clone)]
pub struct StreamReads {
    places: Arc<Semaphore>,
    turns: moka::sync::Cache<UserId, Arc<Semaphore>>,
}

/// Of all streams of a reader, this one reads next.
pub struct Turn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// Leave to read; belongs to the work, not to whoever waits for it.
pub struct StreamRead {
    _place: OwnedSemaphorePermit,
    _turn: Turn,
}

impl Default for StreamReads {
    fn default() -> Self {
        let turns = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_idle(FORGOTTEN_AFTER);
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            turns: turns.build(),
        }
    }
}

impl StreamReads {
    /// Waits for the reader's other streams.
    pub async fn turn(&self, reader: UserId) -> Option<Turn> {
        let turns = self.turns.get_with(reader, || Arc::new(Semaphore::new(1)));
        turns.acquire_owned().await.ok().map(Turn)
    }

    /// Waits for one of the places of all readers.
    pub async fn begin(&self, turn: Turn) -> Option<StreamRead> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        Some(StreamRead {
            _place: place,
            _turn: turn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use shared::contract::ids::Id;

    #[tokio::test]
    async fn a_reader_reads_once_at_a_time_and_never_keeps_others_from_it() {
        let reads = StreamReads::default();
        let reader = |number: i64| Id::new(number).unwrap();
        let look = async |number| {
            let turn = reads.turn(reader(number)).await?;
            reads.begin(turn).await
        };
        let mine = look(1).await.unwrap();
        for _ in 0..100 {
            assert!(look(1).now_or_never().is_none(), "the first is under way");
        }
        let others: Vec<StreamRead> = (2..=AT_ONCE as i64)
            .map(|number| look(number).now_or_never().flatten().unwrap())
            .collect();
        assert!(look(99).now_or_never().is_none(), "all places are taken");
        drop(mine);
        assert!(look(1).now_or_never().flatten().is_some());
        drop(others);
    }
}
