//! Messages for one publish, within bounds.

use mongodb::change_stream::event::ResumeToken;

use super::change_stream::Change;
use super::error::RelayError;
use super::message::{self, Message};
use super::settings::Settings;

/// Messages for one publish, within bounds.
pub(super) struct Batch {
    pub(super) messages: Vec<(Message, String)>,
    bytes: usize,
    most_events: usize,
    most_bytes: usize,
}

impl Batch {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            messages: Vec::with_capacity(settings.batch_events.min(64)),
            bytes: 0,
            most_events: settings.batch_events,
            most_bytes: settings.batch_bytes,
        }
    }

    pub(super) fn push(&mut self, message: Message, resume: String) {
        self.bytes += message.size();
        self.messages.push((message, resume));
    }

    /// Takes an event; hands back the token of a pause.
    pub(super) fn take(&mut self, change: Change) -> Result<Option<ResumeToken>, RelayError> {
        match change {
            Change::Idle { token } => Ok(Some(token)),
            Change::Event { message, token } => {
                let resume = message::write_token(&token).map_err(RelayError::Token)?;
                self.push(message, resume);
                Ok(None)
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= self.most_events || self.bytes >= self.most_bytes
    }
}
