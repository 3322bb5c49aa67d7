//! Which dead letters this build can read.

use async_nats::jetstream;
use shared::connections;
use shared::contract::event_stream;
use shared::contract::events::Event;

use crate::views::error::ViewError;
use crate::views::generation::Generation;

#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error(transparent)]
    Connect(#[from] connections::ConnectError),
    #[error("work on the dead letters")]
    Views(#[from] ViewError),
    #[error("there are no views yet: start a query-service")]
    NoViews,
    #[error("read the stream")]
    Nats(#[source] async_nats::Error),
    #[error("there is no dead letter {0}")]
    Unknown(u64),
}

/// Dead letters that this build understands, and those that it does not.
pub struct Readable {
    pub readable: usize,
    pub others: usize,
}

/// Looks up the messages of all dead letters of these views.
pub async fn count_readable(
    jetstream: &jetstream::Context,
    stream: &str,
    views: &Generation,
) -> Result<Readable, DeadLetterError> {
    let stream = jetstream
        .get_stream(stream)
        .await
        .map_err(|error| DeadLetterError::Nats(error.into()))?;
    let (mut readable, mut others) = (0, 0);
    for letter in views.dead_letters().await? {
        let message = stream
            .get_raw_message(letter.seq)
            .await
            .map_err(|error| DeadLetterError::Nats(error.into()))?;
        let from_relay = event_stream::event_id_of(Some(&message.headers)).is_some();
        match Event::decode(&message.payload) {
            Ok(_) if from_relay => readable += 1,
            Ok(_) | Err(_) => others += 1,
        }
    }
    Ok(Readable { readable, others })
}
