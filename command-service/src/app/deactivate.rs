//! Leaving: one event, then a durable job (`cleanup`) that removes the relations of who left, so
//! that nobody else's numbers count them. Likes stay; other posts are hidden by their author's
//! status. The address and the password are forgotten; the name stays reserved.
//!
//! The job is written before the event: a crash between the two leaves a job that finds its
//! user still there and goes away after a while. The relations are looked at twice, the second
//! time when hardly a command can still believe an older status; a command that was slower than
//! that looks after itself, once its event is in the log.

use std::net::IpAddr;

use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::UserId;
use shared::runtime::error_chain::Chain;
use tracing::warn;

use super::error::Refusal;
use super::ports::StoreError;
use super::{Accepted, App, CommandError};
use crate::domain::text::Password;
use crate::domain::user::{self, User};

impl App {
    /// Deactivates the actor's own account; the password is asked for once more.
    pub async fn deactivate(
        &self,
        actor: UserId,
        password: Password,
        address: Option<IpAddr>,
    ) -> Result<Accepted<User>, CommandError> {
        if self.is_deactivated(actor).await? {
            return Err(Refusal::NoActor.into());
        }
        self.confirm(actor, password, address).await?;
        self.leave(actor).await
    }

    /// Deactivates an account, whoever has decided on it.
    pub(super) async fn leave(&self, user: UserId) -> Result<Accepted<User>, CommandError> {
        self.store.cleanups.plan(user, self.clock.now()).await?;
        let accepted = self
            .change_user(user, |user| Ok(user::deactivate(user)))
            .await?;
        if let Err(error) = self.store.accounts.forget(user).await {
            // The cleanup does it, and so does whoever wants the address before.
            warn!(error = %Chain(&error), "the account of who left is not forgotten yet");
        }
        self.cleanups.notify_one();
        Ok(accepted)
    }

    /// Whether somebody has left, as of now: asked when an event of theirs is in the log. A
    /// deactivation that is not seen then comes later, and its cleanup finds the event. So no
    /// relation of who left outlives both, however long a command took and however old the statuses
    /// were that it believed.
    pub(super) async fn is_deactivated(&self, user: UserId) -> Result<bool, StoreError> {
        let last = self.store.streams.last(user, LogStream::User(user)).await?;
        // Nothing comes after a deactivation.
        Ok(last.is_none_or(|event| matches!(event.payload, Payload::UserDeactivated(_))))
    }
}
