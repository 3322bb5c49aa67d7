//! Follows the messages of all partitions: hands each to the cache of the views that readers are
//! shown, then wakes the live streams that it concerns.

mod backlog;

use std::time::Duration;

use futures_util::StreamExt;
use shared::connections::Nats;
use shared::contract::event_stream::StreamNames;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::live::Live;
use crate::reads::CurrentViews;
use crate::views::invalidation::InvalidationMessage;
use backlog::{Backlog, MOST_BYTES};

/// How soon a subscription that failed is tried again.
const AGAIN: Duration = Duration::from_millis(250);

pub struct Subscriber {
    views: CurrentViews,
    live: Live,
}

impl Subscriber {
    pub fn new(views: CurrentViews, live: Live) -> Self {
        Self { views, live }
    }

    /// Takes messages until `stop`, which comes after that of the streams.
    pub async fn run(self, nats: Nats, names: StreamNames, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let subscribed = nats.client.subscribe(names.notices()).await;
            let mut messages = match subscribed {
                Ok(messages) => Backlog::of(
                    messages.map(|message| message.payload),
                    MOST_BYTES,
                    self.live.tasks(),
                ),
                Err(error) => {
                    warn!(error = %error, "invalidation messages cannot be followed");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    message = messages.next() => match message {
                        Some(body) => {
                            if let Some(message) = InvalidationMessage::decode(&body) {
                                self.take(&message);
                            }
                        }
                        None => break,
                    },
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    fn take(&self, message: &InvalidationMessage) {
        let views = self.views.borrow().clone();
        let generation = views.generation().number;
        let ours = message.v.is_none_or(|views_id| views_id == views.id());
        if ours && message.g == generation {
            // The cache first: who is woken reads it.
            views.take(message);
            self.live.wake(generation, views.partitions(), message);
        }
    }
}
