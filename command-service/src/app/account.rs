//! What an account is signed in with: its password, its e-mail address, its sessions.
//!
//! Nothing of it is an event: nobody else is told. Each is open to the suspended, too, as leaving is.
//!
//! A password is replaced by one write, which also says which sessions go on: that in which it is
//! changed, and those that begin under it. So a sign-in with the old password at the same moment, or a
//! crash before the others are deleted, leaves none that can be carried on
//! (`docs/decisions/21-what-ends-a-session.md`).

use std::net::IpAddr;

use shared::contract::ids::UserId;
use shared::contract::sessions::{PasswordMark, SessionId};
use shared::runtime::error_chain::Chain;
use shared::runtime::settings::Secret;
use tracing::warn;

use super::error::Refusal;
use super::login_limits::Purpose;
use super::ports::{AccountName, Credentials, NewAddress, NewPassword, Replaced};
use super::{Accepted, App, CommandError, Edited};
use crate::domain::text::{Email, Password};
use crate::domain::user::User;

/// A caller wants another password.
#[derive(Clone, Debug)]
pub struct PasswordChange {
    pub password: Password,
    pub new_password: Password,
    /// The caller's own, which goes on; none of a token that was issued for no session.
    pub session: Option<SessionId>,
    pub address: Option<IpAddr>,
}

/// A caller wants another e-mail address.
#[derive(Clone, Debug)]
pub struct AddressChange {
    pub password: Password,
    pub email: Email,
    pub address: Option<IpAddr>,
}

impl App {
    /// Replaces the password, and ends all sessions but the caller's. Sent again, as its answer was
    /// lost, it is answered in the same way: the new password is the account's already.
    pub async fn change_password(
        &self,
        actor: UserId,
        change: PasswordChange,
    ) -> Result<Accepted<User>, CommandError> {
        let user = self.find_active(actor).await?.ok_or(Refusal::NoActor)?;
        match self.replace_password(actor, &change).await {
            // Not the password, or not any more. Counts as a guess of its own: nobody guesses twice at
            // the price of one.
            Err(CommandError::Refused(Refusal::BadCredentials)) => {
                self.confirm(actor, change.new_password, change.address)
                    .await?;
            }
            replaced => {
                let (before, sessions) = (replaced?, &self.store.sessions);
                if let Err(error) = sessions.close_ended(actor, &before, change.session).await {
                    // They have ended all the same: this only tidies up.
                    warn!(error = %Chain(&error), "sessions that ended with a password are not deleted yet");
                }
            }
        }
        Ok(Accepted {
            token: self.own_token(&user, false).await?,
            value: user,
        })
    }

    /// Returns the mark that was replaced.
    async fn replace_password(
        &self,
        actor: UserId,
        change: &PasswordChange,
    ) -> Result<PasswordMark, CommandError> {
        let known = self.confirm(actor, change.password.clone(), change.address);
        let known = known.await?;
        let hash = self.passwords.hash(change.new_password.clone()).await?;
        let new = NewPassword {
            user: actor,
            from: known.password_hash,
            to: Secret::new(hash),
            mark: rand::random(),
            kept: change.session,
        };
        match self.store.accounts.change_password(&new).await? {
            // It goes with the hash, which was still there.
            Replaced::Done => Ok(known.mark),
            Replaced::Taken => Err(Refusal::BadCredentials.into()),
            Replaced::Gone => Err(Refusal::NoActor.into()),
        }
    }

    /// Gives the account another address, and frees the old one at once.
    pub async fn change_address(
        &self,
        actor: UserId,
        change: AddressChange,
    ) -> Result<Accepted<Edited>, CommandError> {
        let user = self.find_active(actor).await?.ok_or(Refusal::NoActor)?;
        self.confirm(actor, change.password, change.address).await?;
        let new = NewAddress {
            user: actor,
            folded: change.email.folded(),
            address: change.email.into_string(),
            nonce: rand::random(),
        };
        // Whoever has left has no address any more, whatever became of the cleanup.
        let owner = AccountName::Email(new.folded.clone());
        let owner = self.store.accounts.find(&owner).await?;
        if let Some(owner) = owner.filter(|owner| *owner != actor)
            && !self.forgets(owner).await?
        {
            return Err(Refusal::EmailTaken.into());
        }
        match self.store.accounts.change_address(&new).await? {
            Replaced::Done => (),
            Replaced::Taken => return Err(Refusal::EmailTaken.into()),
            Replaced::Gone => return Err(Refusal::NoActor.into()),
        }
        // A deactivation that is not seen now comes later, and forgets this address.
        if self.is_deactivated(actor).await? {
            self.store.accounts.forget(actor).await?;
            return Err(Refusal::NoActor.into());
        }
        let (counts, token) = tokio::join!(
            self.store.projections.counts(actor),
            self.own_token(&user, false)
        );
        Ok(Accepted {
            token: token?,
            value: Edited {
                user,
                address: Some(new.address),
                counts,
                allowance: None,
            },
        })
    }

    /// Ends one of the caller's sessions, or all of them. Nothing is told of one that they do not have:
    /// it may have ended before.
    pub async fn end_sessions(
        &self,
        actor: UserId,
        session: Option<SessionId>,
    ) -> Result<Accepted<User>, CommandError> {
        let user = self.find_active(actor).await?.ok_or(Refusal::NoActor)?;
        match session {
            Some(session) => self.store.sessions.close_own(actor, session).await?,
            None => self.store.sessions.close_all(actor).await?,
        }
        Ok(Accepted {
            token: self.own_token(&user, false).await?,
            value: user,
        })
    }

    /// The password, asked for once more of somebody who is signed in.
    ///
    /// Whoever has a stolen token guesses no faster than whoever has none. Counted by itself: whoever
    /// has none keeps nobody from it.
    pub(super) async fn confirm(
        &self,
        actor: UserId,
        password: Password,
        address: Option<IpAddr>,
    ) -> Result<Credentials, CommandError> {
        let account = actor.to_string();
        self.may_try(Purpose::Confirm, Some(actor), &account, address)
            .await?;
        let known = self.store.accounts.credentials(actor).await?;
        let hash = known.as_ref().map(|known| known.password_hash.clone());
        let matches = self.passwords.verify(password, hash).await?;
        let known = known.filter(|_| matches);
        Ok(known.ok_or(Refusal::BadCredentials)?)
    }
}
