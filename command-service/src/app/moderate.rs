//! What operators decide on users.

use shared::contract::ids::UserId;
use shared::contract::names;

use super::error::{Internal, Refusal};
use super::ports::AccountName;
use super::{Accepted, App, CommandError};
use crate::domain::user::{self, User};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ModerationAction {
    Verify,
    Suspend,
    Unsuspend,
    /// As if the user had left.
    Deactivate,
}

impl App {
    pub async fn moderate(
        &self,
        username: &str,
        action: ModerationAction,
    ) -> Result<Accepted<User>, CommandError> {
        let subject = self.find_username(username).await?;
        let decide = match action {
            ModerationAction::Verify => user::verify,
            ModerationAction::Suspend => user::suspend,
            ModerationAction::Unsuspend => user::unsuspend,
            ModerationAction::Deactivate => return self.leave(subject).await,
        };
        let decided = self.change_user(subject, |user| Ok(decide(user)?)).await;
        // The subject is no caller: for an operator, who left is not there.
        if matches!(decided, Err(CommandError::Refused(Refusal::NoActor))) {
            return Err(Refusal::NoSuchUser.into());
        }
        decided
    }

    /// An access token for the user of this name: for operators and load tests.
    pub async fn token_for(&self, username: &str) -> Result<String, CommandError> {
        let user = self.find_username(username).await?;
        if self.is_deactivated(user).await? {
            return Err(Refusal::NoSuchUser.into());
        }
        Ok(self.signer.sign(user).map_err(Internal::Signing)?)
    }

    async fn find_username(&self, username: &str) -> Result<UserId, CommandError> {
        let name = AccountName::Username(names::fold(username));
        let found = self.store.accounts.find(&name).await?;
        Ok(found.ok_or(Refusal::NoSuchUser)?)
    }
}
