//! Signing in and staying signed in.
//!
//! An access token is good for fifteen minutes. A refresh token is `family.secret`, good once:
//! each use makes the next one. An old one coming back means that somebody copied it, and ends
//! the whole family.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use shared::consistency::ConsistencyToken;
use shared::ids::UserId;
use shared::settings::Secret;
use shared::time::Timestamp;

use super::store::{AccountName, Rotation, Session};
use super::{Accepted, App, CommandError};
use crate::domain::text::Password;
use crate::domain::user::User;

/// How long a session lasts without being used.
const REFRESH_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const FAMILY_BYTES: usize = 16;

/// Somebody claims to be somebody.
#[derive(Clone, Debug)]
pub struct SignIn {
    pub account: AccountName,
    pub password: Password,
    /// Where the claim comes from.
    pub address: Option<IpAddr>,
}

/// What a session is carried on with.
#[derive(Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

/// A refresh token, taken apart.
struct Refresh {
    family: String,
    secret: [u8; 32],
}

impl App {
    /// Unknown account, wrong password, somebody who left: one answer, after the same work.
    pub async fn sign_in(&self, claim: SignIn) -> Result<Accepted<Tokens>, CommandError> {
        let user = self.store.find_account(&claim.account).await?;
        let account = account_label(user, &claim.account);
        self.login_limits.check(&account, claim.address)?;
        // Asked for an unknown account too: its absence must not be told by the time it takes.
        let nobody = UserId::new(1).unwrap_or_else(|| unreachable!("1 is positive"));
        let hash = self.store.password_hash(user.unwrap_or(nobody)).await?;
        let hash = hash.filter(|_| user.is_some());
        let matches = self.passwords.verify(claim.password, hash).await?;
        let user = user
            .filter(|_| matches)
            .ok_or(CommandError::BadCredentials)?;
        let user = self.present(user).await?;
        let user = user.ok_or(CommandError::BadCredentials)?;
        let refresh = Refresh::new_family();
        self.store
            .open_session(&self.session(user.id, &refresh))
            .await?;
        self.tokens(&user, &refresh).await
    }

    pub async fn refresh(&self, token: Secret) -> Result<Accepted<Tokens>, CommandError> {
        let old = Refresh::parse(token.expose()).ok_or(CommandError::BadRefreshToken)?;
        let user = self.store.session_user(&old.family).await?;
        let user = user.ok_or(CommandError::BadRefreshToken)?;
        let Some(user) = self.present(user).await? else {
            self.store.close_session(&old.family).await?;
            return Err(CommandError::BadRefreshToken);
        };
        let next = old.next();
        let session = self.session(user.id, &next);
        match self.store.rotate_session(&old.digest(), &session).await? {
            Rotation::Rotated => self.tokens(&user, &next).await,
            Rotation::Reused => {
                self.store.close_session(&old.family).await?;
                Err(CommandError::BadRefreshToken)
            }
            Rotation::Unknown => Err(CommandError::BadRefreshToken),
        }
    }

    /// Ends the family of a refresh token. Nothing is told about one that is not ours.
    pub async fn sign_out(&self, token: Secret) -> Result<Option<ConsistencyToken>, CommandError> {
        let Some(refresh) = Refresh::parse(token.expose()) else {
            return Ok(None);
        };
        let user = match self.store.session_user(&refresh.family).await? {
            Some(user) => self.load_user(user).await?,
            None => None,
        };
        self.store.close_session(&refresh.family).await?;
        Ok(match &user {
            Some(user) => Some(self.own_token(user, false).await?),
            None => None,
        })
    }

    fn session(&self, user: UserId, refresh: &Refresh) -> Session {
        let lifetime = i64::try_from(REFRESH_LIFETIME.as_millis()).unwrap_or(i64::MAX);
        Session {
            family: refresh.family.clone(),
            user,
            current: refresh.digest(),
            expires_at: Timestamp::from_millis(self.clock.now().millis() + lifetime),
        }
    }

    /// Reads by the consistency token that goes with them know the account as it is now, and all
    /// that was written by it.
    async fn tokens(
        &self,
        user: &User,
        refresh: &Refresh,
    ) -> Result<Accepted<Tokens>, CommandError> {
        let value = Tokens {
            access: self.signer.sign(user.id).map_err(CommandError::Signing)?,
            refresh: refresh.encode(),
        };
        let token = self.own_token(user, false).await?;
        Ok(Accepted { value, token })
    }
}

impl Refresh {
    fn new_family() -> Self {
        Self {
            family: URL_SAFE_NO_PAD.encode(rand::random::<[u8; FAMILY_BYTES]>()),
            secret: rand::random(),
        }
    }

    fn next(&self) -> Self {
        Self {
            family: self.family.clone(),
            secret: rand::random(),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        let (family, secret) = token.split_once('.')?;
        let known = URL_SAFE_NO_PAD.decode(family).ok()?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        (known.len() == FAMILY_BYTES).then(|| Self {
            family: family.to_owned(),
            secret,
        })
    }

    fn encode(&self) -> String {
        format!("{}.{}", self.family, URL_SAFE_NO_PAD.encode(self.secret))
    }

    /// What is stored: whoever reads the database cannot carry a session on.
    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

/// An account is one, by whichever name it is called.
fn account_label(user: Option<UserId>, name: &AccountName) -> String {
    match (user, name) {
        (Some(user), _) => user.to_string(),
        (None, AccountName::Username(name) | AccountName::Email(name)) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refresh_token_reads_back() {
        let refresh = Refresh::new_family();
        let back = Refresh::parse(&refresh.encode()).unwrap();
        assert_eq!((back.family, back.secret), (refresh.family, refresh.secret));
    }

    #[test]
    fn who_signs_in_or_registers_shows_no_secret() {
        let claim = SignIn {
            account: AccountName::Username("ada".into()),
            password: Password::guess("canary"),
            address: None,
        };
        let form = crate::domain::user::RegistrationForm {
            password: Some(Secret::new("canary")),
            ..Default::default()
        };
        assert!(!format!("{claim:?} {form:?}").contains("canary"));
    }

    #[test]
    fn the_next_token_is_of_the_same_family_with_another_secret() {
        let first = Refresh::new_family();
        let next = first.next();
        assert_eq!(first.family, next.family);
        assert_ne!(first.digest(), next.digest());
    }

    proptest! {
        #[test]
        fn any_text_is_a_refresh_token_or_refused(text in "\\PC{0,100}") {
            let _ = Refresh::parse(&text);
        }
    }
}
