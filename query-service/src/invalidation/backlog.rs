//! What waits between the broker and the caches: bounded by bytes, for a message may be a few bytes
//! or a few hundred thousand.

use std::sync::Arc;

use crate::metric_rows::NOTICES_DROPPED;
use futures_util::{Stream, StreamExt};
use shared::runtime::tasks::Tasks;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// Bytes that wait at a time: seconds' worth of the busiest fold.
pub const MOST_BYTES: usize = 32 * 1024 * 1024;
/// What each costs beside its own bytes.
const OVERHEAD: usize = 256;

/// Messages in the order in which they came. Those that found no room are missing: a message's
/// number tells.
pub struct Backlog<M> {
    messages: UnboundedReceiver<(M, OwnedSemaphorePermit)>,
    _receiving: AbortOnDropHandle<()>,
}

impl<M: AsRef<[u8]> + Send + 'static> Backlog<M> {
    /// Receives in a task of its own, so that whoever is slow to take messages holds nothing up
    /// before this bound. It ends with the source, or when this is dropped.
    pub fn of(source: impl Stream<Item = M> + Send + 'static, most: usize, tasks: &Tasks) -> Self {
        let (sender, messages) = unbounded_channel();
        let receiving = tasks.run(receive(source, sender, Arc::new(Semaphore::new(most))));
        Self {
            messages,
            _receiving: AbortOnDropHandle::new(receiving),
        }
    }

    /// The next message; `None` once the source has ended and all were taken. A call that is
    /// dropped takes nothing.
    pub async fn next(&mut self) -> Option<M> {
        let (message, _room) = self.messages.recv().await?;
        Some(message)
    }
}

async fn receive<M: AsRef<[u8]>>(
    source: impl Stream<Item = M>,
    sender: UnboundedSender<(M, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
) {
    let mut source = std::pin::pin!(source);
    while let Some(message) = source.next().await {
        let size = u32::try_from(message.as_ref().len() + OVERHEAD).unwrap_or(u32::MAX);
        let Ok(permit) = room.clone().try_acquire_many_owned(size) else {
            NOTICES_DROPPED.only().increment(1);
            continue;
        };
        if sender.send((message, permit)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[tokio::test]
    async fn what_waits_is_bounded_by_bytes_and_the_rest_comes_later() {
        let message = |n: u8| vec![n; 744];
        let (source, messages) = tokio::sync::mpsc::channel(10);
        let messages = stream::unfold(messages, |mut messages| async move {
            Some((messages.recv().await?, messages))
        });
        let mut backlog = Backlog::of(messages, 3_000, &Tasks::default());
        for n in 0..6 {
            source.send(message(n)).await.unwrap();
        }
        // Each with its overhead is 1,000: three fit while nobody takes any.
        while source.capacity() < 10 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        for n in 0..3 {
            assert_eq!(backlog.next().await, Some(message(n)));
        }
        source.send(message(6)).await.unwrap();
        drop(source);
        assert_eq!(backlog.next().await, Some(message(6)));
        assert_eq!(backlog.next().await, None);
    }
}
