//! The token of an accepted command, with which reads wait for what it changed.

use shared::contract::consistency::ConsistencyToken;
use shared::contract::events::LogStream;
use shared::contract::ids::UserId;
use shared::runtime::error_chain::Chain;
use tracing::warn;

use super::App;
use super::ports::Result as StoreResult;
use crate::domain::user::User;

/// An accepted command's value, and the token with which reads can wait for it.
#[derive(Debug)]
pub struct Accepted<T> {
    pub value: T,
    pub token: ConsistencyToken,
}

/// What an accepted command was about, for its token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) stream: LogStream,
    pub(super) version: i64,
    pub(super) actor: UserId,
    /// As in [`ConsistencyToken`].
    pub(super) owner: UserId,
    /// Whether the command appended the event.
    pub(super) changed: bool,
}

impl App {
    /// The token of an accepted command: it covers all that its actor has had accepted by now.
    ///
    /// A command that changed something is accepted whether that can be read or not: its own
    /// event stands behind all that was accepted before the command began.
    pub(super) async fn token(&self, own: Own) -> StoreResult<ConsistencyToken> {
        let Own {
            stream,
            version,
            actor,
            owner,
            changed,
        } = own;
        let mut latest = match self.store.streams.latest(actor).await {
            Ok(latest) => latest,
            Err(error) if changed => {
                warn!(error = %Chain(&error), "a token names its own command alone");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        // What is known of its own stream is said once.
        let known = latest.iter().position(|other| other.stream == stream);
        let known = known.map(|at| latest.remove(at).version);
        Ok(ConsistencyToken {
            stream,
            version: known.map_or(version, |known| known.max(version)),
            actor,
            owner,
            latest,
        })
    }

    /// The token of a command on a user's own account.
    pub(super) async fn own_token(
        &self,
        user: &User,
        changed: bool,
    ) -> StoreResult<ConsistencyToken> {
        self.token(Own {
            stream: LogStream::User(user.id),
            version: user.version,
            actor: user.id,
            owner: user.id,
            changed,
        })
        .await
    }
}
