//! What operators decide on users.

use shared::ids::UserId;
use shared::names;

use super::store::AccountName;
use super::{Accepted, App, CommandError};
use crate::domain::user::{self, User};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Verify,
    Suspend,
    Unsuspend,
}

impl App {
    pub async fn moderate(
        &self,
        username: &str,
        verdict: Verdict,
    ) -> Result<Accepted<User>, CommandError> {
        let subject = self.find_username(username).await?;
        let decide = match verdict {
            Verdict::Verify => user::verify,
            Verdict::Suspend => user::suspend,
            Verdict::Unsuspend => user::unsuspend,
        };
        let decided = self.change_user(subject, |user| Ok(decide(user)?)).await;
        // The subject is no caller: for an operator, who left is not there.
        let gone = |error: &CommandError| matches!(error, CommandError::NoActor);
        decided.map_err(|error| {
            if gone(&error) {
                CommandError::NoSuchUser
            } else {
                error
            }
        })
    }

    /// An access token for the user of this name: for operators and load tests.
    pub async fn token_for(&self, username: &str) -> Result<String, CommandError> {
        let user = self.find_username(username).await?;
        if self.is_gone(user).await? {
            return Err(CommandError::NoSuchUser);
        }
        self.signer.sign(user).map_err(CommandError::Signing)
    }

    async fn find_username(&self, username: &str) -> Result<UserId, CommandError> {
        let name = AccountName::Username(names::fold(username));
        let found = self.store.find_account(&name).await?;
        found.ok_or(CommandError::NoSuchUser)
    }
}
