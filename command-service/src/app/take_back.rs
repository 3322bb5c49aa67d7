//! After a log was restored from a backup: what users have taken back since is taken back again.

use shared::contract::events::{Event, Payload};

use super::{App, CommandError};

/// The kinds of events that [`App::take_back_again`] repeats: those by which users have something of
/// theirs deleted.
pub const TAKEN_BACK: [&str; 2] = ["user.deactivated", "post.deleted"];

impl App {
    /// Decides anew on what an event that the log lacks has taken back. Says whether anything was left
    /// to be taken back: what came after the backup is not there at all.
    ///
    /// # Errors
    /// The store's.
    pub async fn take_back_again(&self, event: &Event) -> Result<bool, CommandError> {
        if let Payload::UserDeactivated(_) = &event.payload {
            if self.find_active(event.actor).await?.is_none() {
                return Ok(false);
            }
            self.leave(event.actor).await?;
            return Ok(true);
        }
        if let Payload::PostDeleted(deleted) = &event.payload {
            let found = self.find_post(deleted.post).await?;
            if found.is_none_or(|found| found.post.deleted) {
                return Ok(false);
            }
            self.end_reply(event.actor, deleted.post).await?;
            return Ok(true);
        }
        Ok(false)
    }
}
