//! Whose turn it is to look at the views.

use std::sync::Arc;
use std::time::Duration;

use shared::contract::ids::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams that look at the views at once. One post may wake all of them, and other reads need
/// connections too.
const LOOKS: usize = 16;
/// Readers remembered: more than there are streams.
const REMEMBERED: u64 = 100_000;
/// Longer than a look that nobody waits for any more goes on.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// One look of each reader at a time, and so many of all. A reader's turn outlives their streams:
/// whoever closes one and opens another waits until what the first began has ended.
#[derive(Clone)]
pub struct Looks {
    places: Arc<Semaphore>,
    turns: moka::sync::Cache<UserId, Arc<Semaphore>>,
}

/// Of all streams of a reader, this one looks next.
pub struct Turn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// Leave to look; belongs to the work, not to whoever waits for it.
pub struct Look {
    _place: OwnedSemaphorePermit,
    _turn: Turn,
}

impl Default for Looks {
    fn default() -> Self {
        let turns = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_idle(FORGOTTEN_AFTER);
        Self {
            places: Arc::new(Semaphore::new(LOOKS)),
            turns: turns.build(),
        }
    }
}

impl Looks {
    /// Waits for the reader's other streams.
    pub async fn turn(&self, reader: UserId) -> Option<Turn> {
        let turns = self.turns.get_with(reader, || Arc::new(Semaphore::new(1)));
        turns.acquire_owned().await.ok().map(Turn)
    }

    /// Waits for one of the places of all readers.
    pub async fn begin(&self, turn: Turn) -> Option<Look> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        Some(Look {
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
    async fn a_reader_looks_once_at_a_time_and_never_keeps_others_from_it() {
        let looks = Looks::default();
        let reader = |number: i64| Id::new(number).unwrap();
        let look = async |number| {
            let turn = looks.turn(reader(number)).await?;
            looks.begin(turn).await
        };
        let mine = look(1).await.unwrap();
        for _ in 0..100 {
            assert!(look(1).now_or_never().is_none(), "the first is under way");
        }
        let others: Vec<Look> = (2..=LOOKS as i64)
            .map(|number| look(number).now_or_never().flatten().unwrap())
            .collect();
        assert!(look(99).now_or_never().is_none(), "all places are taken");
        drop(mine);
        assert!(look(1).now_or_never().flatten().is_some());
        drop(others);
    }
}
